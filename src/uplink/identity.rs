//! Who this box is: a key and an id made at its first start, and the certificate it was given.
//!
//! Files of the state directory, each written whole, synced and only then named:
//!
//! | file | content | changes |
//! |---|---|---|
//! | `box-id` | 32 hexadecimal digits | never |
//! | `box.key` | Ed25519 key (PKCS #8, PEM), mode 0600 | never |
//! | `box.pem` | certificate, then its authority's (PEM) | at enrolment |
//! | `epoch` | the boot epoch, decimal | at each start of the process, and past one that a receiver holds |
//! | `heard` | UTC as a receiver last told it, seconds since 1970, decimal | once an hour at most |

use crate::media::BoxId;
use crate::wire::DEVELOPMENT_CA;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ED25519, PublicKeyData};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use x509_parser::prelude::{FromDer, X509Certificate};

const ID: &str = "box-id";
const KEY: &str = "box.key";
const CERTIFICATE: &str = "box.pem";
const EPOCH: &str = "epoch";
const HEARD: &str = "heard";

/// The largest epoch that a receiver's word raises ours past: whatever it says, starts of the process
/// never run out of epochs.
const EPOCHS: u64 = 1 << 62;
/// An epoch is at least so much above the one before, and less than twice as much.
const STEP: u64 = 1 << 32;
/// A time heard is written only when it is this much later than the one before, in seconds.
const HEARD_EVERY: i64 = 3600;
/// When this program was made, where the build says so reproducibly.
const BUILT: Option<&str> = option_env!("SOURCE_DATE_EPOCH");

/// Why the box cannot say who it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written. Recording needs no identity and goes on.
    #[error("{}: {source}; make the state directory writable for the user of hallcast", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else than it should. It is never overwritten.
    #[error("{}: {what}; restore it from a backup, or move the whole directory away and enrol anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// There is no certificate yet: the box records, and sends once it is enrolled.
    #[error("{} does not exist: this box is not enrolled at a receiver yet", .0.display())]
    NotEnrolled(PathBuf),
    /// A receiver holds an epoch that no box can have.
    #[error("the receiver holds epoch {0} for this box, which no box reaches: enrol the box anew")]
    Epoch(u64),
    /// A certificate for another key, or one that cannot be read.
    #[error("this certificate cannot be installed: {0}")]
    Refused(String),
}

/// The box's id and key.
#[derive(Debug)]
pub struct Identity {
    directory: PathBuf,
    box_id: BoxId,
    key: KeyPair,
}

/// What TLS needs to know.
#[derive(Debug)]
pub struct Credentials {
    /// The box's certificate.
    pub certificate: CertificateDer<'static>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// The authority that signed it and that a receiver's certificate must come from.
    pub authority: CertificateDer<'static>,
    /// The authority is the development one, good on loopback only.
    pub development: bool,
    /// The latest time known to have passed, in seconds since 1970: the certificate was made, the
    /// program was built, or a receiver said so. No earlier time is believed.
    pub passed: i64,
}

impl Identity {
    /// The identity in `directory`, which is made where it is missing.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let at = |path: &Path| file(path.to_owned());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(at(directory))?;
        let (id_path, key_path) = (directory.join(ID), directory.join(KEY));
        if !key_path.exists() && directory.join(CERTIFICATE).exists() {
            return Err(damaged(&key_path, "missing beside its certificate"));
        }
        if !id_path.exists() {
            let mut id = [0; 16];
            random(&mut id).map_err(at(&id_path))?;
            write(&id_path, &format!("{}\n", BoxId(id)), Existing::Keep)?;
        }
        if !key_path.exists() {
            let key = KeyPair::generate_for(&PKCS_ED25519)
                .map_err(|error| at(&key_path)(io::Error::other(error)))?;
            write(&key_path, &key.serialize_pem(), Existing::Keep)?;
        }
        let id = fs::read_to_string(&id_path).map_err(at(&id_path))?;
        let key = fs::read_to_string(&key_path).map_err(at(&key_path))?;
        Ok(Self {
            directory: directory.into(),
            box_id: id
                .trim()
                .parse()
                .map_err(|error| damaged(&id_path, error))?,
            key: KeyPair::from_pem(&key).map_err(|error| damaged(&key_path, error))?,
        })
    }

    /// The box's id.
    pub fn box_id(&self) -> BoxId {
        self.box_id
    }

    /// Raises the boot epoch and returns it once it is on the disk. To be called once by each run
    /// of the process that may connect.
    pub fn raise_epoch(&self) -> Result<u64, Error> {
        self.raise_epoch_past(0)
    }

    /// Raises the boot epoch past our last one and past `held`, which a receiver named when it refused
    /// ours (FENCED: this box's card was restored from an older copy). On the disk when it returns.
    ///
    /// The step is random, so that two machines that begin from copies of one card do not get the same
    /// epoch: by (span, epoch) a receiver tells apart what each of them adds to one recording.
    pub fn raise_epoch_past(&self, held: u64) -> Result<u64, Error> {
        let path = self.directory.join(EPOCH);
        let last: u64 = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|error| damaged(&path, error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(file(path)(error)),
        };
        if held > EPOCHS {
            return Err(Error::Epoch(held));
        }
        let mut chance = [0; 4];
        random(&mut chance).map_err(file(path.clone()))?;
        let step = STEP + u64::from(u32::from_le_bytes(chance));
        let next = last
            .max(held)
            .checked_add(step)
            .ok_or_else(|| damaged(&path, "no epoch follows it"))?;
        write(&path, &format!("{next}\n"), Existing::Replace)?;
        Ok(next)
    }

    /// Notes the UTC that a receiver told on a connection whose certificate ends at `not_after`: a box
    /// that wakes in 1970 believes no earlier time. A time that its own certificate does not cover is
    /// not noted: believed, it would keep that receiver out. Gives what to run where waiting for a disk
    /// holds nobody up.
    pub fn heard(
        &self,
        unix_seconds: i64,
        not_after: i64,
    ) -> impl FnOnce() -> Result<(), Error> + Send + use<> {
        let path = self.directory.join(HEARD);
        move || {
            let later = unix_seconds >= noted(&path).saturating_add(HEARD_EVERY);
            if later && unix_seconds <= not_after {
                write(&path, &format!("{unix_seconds}\n"), Existing::Replace)?;
            }
            Ok(())
        }
    }

    /// A request for a certificate (PKCS #10, PEM), the box's id as its common name.
    pub fn certificate_request(&self) -> Result<String, Error> {
        let refused = |error: rcgen::Error| Error::Refused(error.to_string());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, self.box_id.to_string());
        let request = params.serialize_request(&self.key).map_err(refused)?;
        request.pem().map_err(refused)
    }

    /// Installs the answer to a request: the box's certificate and its authority's, in this order
    /// (PEM). Replaces the one before it.
    pub fn install(&self, chain: &str) -> Result<(), Error> {
        self.read_chain(chain).map_err(Error::Refused)?;
        write(&self.directory.join(CERTIFICATE), chain, Existing::Replace)
    }

    /// What was installed last.
    pub fn credentials(&self) -> Result<Credentials, Error> {
        let path = self.directory.join(CERTIFICATE);
        let chain = match fs::read_to_string(&path) {
            Ok(chain) => chain,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NotEnrolled(path));
            }
            Err(error) => return Err(file(path)(error)),
        };
        self.read_chain(&chain).map_err(|what| damaged(&path, what))
    }

    fn read_chain(&self, chain: &str) -> Result<Credentials, String> {
        let mut certificates = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(chain.as_bytes()) {
            certificates.push(certificate.map_err(|error| error.to_string())?);
        }
        let Ok([certificate, authority]) = <[CertificateDer; 2]>::try_from(certificates) else {
            return Err("expected the box's certificate and its authority's, nothing else".into());
        };
        let own = parse(&certificate)?;
        if own.public_key().raw != self.key.subject_public_key_info() {
            return Err("the certificate belongs to another key".into());
        }
        let built = BUILT.and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
        let passed = own
            .validity()
            .not_before
            .timestamp()
            .max(built)
            .max(noted(&self.directory.join(HEARD)));
        let development = parse(&authority)?
            .subject()
            .iter_organization()
            .any(|name| name.as_str() == Ok(DEVELOPMENT_CA));
        Ok(Credentials {
            certificate,
            key: PrivatePkcs8KeyDer::from(self.key.serialize_der()).into(),
            authority,
            development,
            passed,
        })
    }
}

/// The UTC heard last; without a legible one none was.
fn noted(path: &Path) -> i64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// When a certificate ends, in seconds since 1970.
pub(super) fn ends(certificate: &CertificateDer<'_>) -> Option<i64> {
    Some(parse(certificate).ok()?.validity().not_after.timestamp())
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    match X509Certificate::from_der(certificate) {
        Ok((_, parsed)) => Ok(parsed),
        Err(error) => Err(error.to_string()),
    }
}

/// Fills `bytes` from the system's random numbers.
pub(super) fn random(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut bytes[filled..], flags)?;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Existing {
    Keep,
    Replace,
}

/// Writes a file that is either there with all of its content or not at all, even after a power
/// cut: content synced, then named, then the directory synced.
fn write(path: &Path, content: &str, existing: Existing) -> Result<(), Error> {
    let steps = || -> io::Result<()> {
        let mut unnamed = path.as_os_str().to_owned();
        unnamed.push(".new");
        let unnamed = PathBuf::from(unnamed);
        let mut new = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unnamed)?;
        new.write_all(content.as_bytes())?;
        new.sync_all()?;
        let flags = match existing {
            Existing::Keep => RenameFlags::NOREPLACE,
            Existing::Replace => RenameFlags::empty(),
        };
        renameat_with(CWD, &unnamed, CWD, path, flags)?;
        match path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    };
    steps().map_err(file(path.to_owned()))
}

fn file(path: PathBuf) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File { path, source }
}

fn damaged(path: &Path, what: impl ToString) -> Error {
    Error::Damaged {
        path: path.to_owned(),
        what: what.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateSigningRequestParams, IsCa, Issuer};
    use std::os::unix::fs::PermissionsExt;

    fn sign(request: &str, organisation: &str) -> String {
        let authority_key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, organisation);
        let authority = params.self_signed(&authority_key).unwrap();
        let issuer = Issuer::new(params, authority_key);
        let request = CertificateSigningRequestParams::from_pem(request).unwrap();
        format!(
            "{}{}",
            request.signed_by(&issuer).unwrap().pem(),
            authority.pem()
        )
    }

    #[test]
    fn an_identity_is_made_once_and_only_its_owner_reads_it() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("state");
        let first = Identity::open(&directory).unwrap();
        let second = Identity::open(&directory).unwrap();
        assert_eq!(first.box_id(), second.box_id());
        assert_eq!(first.key.serialize_der(), second.key.serialize_der());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory.join(KEY)), 0o600);
        assert_eq!(mode(&directory), 0o700);
        let other = Identity::open(&home.path().join("other")).unwrap();
        assert_ne!(first.box_id(), other.box_id());
    }

    #[test]
    fn a_file_that_exists_is_not_replaced_by_a_new_identity() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(KEY);
        fs::write(&path, "something").unwrap();
        assert!(write(&path, "new", Existing::Keep).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "something");
        assert!(matches!(
            Identity::open(home.path()),
            Err(Error::Damaged { .. })
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "something");
    }

    #[test]
    fn a_start_that_was_cut_short_leaves_no_half_file_in_the_way() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("box.key.new"), "half").unwrap();
        fs::write(home.path().join("epoch.new"), "").unwrap();
        let identity = Identity::open(home.path()).unwrap();
        assert!(identity.raise_epoch().unwrap() >= STEP);
    }

    #[test]
    fn each_start_has_a_larger_epoch_and_no_copy_has_the_same() {
        let (home, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let raise = |home: &Path| Identity::open(home).unwrap().raise_epoch().unwrap();
        let first = raise(home.path());
        fs::copy(home.path().join(EPOCH), copy.path().join(EPOCH)).unwrap();
        let epochs = [first, raise(home.path()), raise(home.path())];
        assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
        assert_ne!(raise(copy.path()), epochs[1]);
        fs::write(home.path().join(EPOCH), "many").unwrap();
        let identity = Identity::open(home.path()).unwrap();
        assert!(matches!(identity.raise_epoch(), Err(Error::Damaged { .. })));
    }

    #[test]
    fn an_epoch_goes_past_the_one_that_a_receiver_holds_and_never_runs_out() {
        let home = tempfile::tempdir().unwrap();
        let identity = Identity::open(home.path()).unwrap();
        let first = identity.raise_epoch().unwrap();
        let held = first + 41 * STEP;
        let past = identity.raise_epoch_past(held).unwrap();
        assert!(past > held);
        let next = identity.raise_epoch_past(7).unwrap();
        assert!(next > past);
        assert!(matches!(
            identity.raise_epoch_past(u64::MAX),
            Err(Error::Epoch(u64::MAX))
        ));
        let restarted = Identity::open(home.path()).unwrap();
        assert!(restarted.raise_epoch().unwrap() > next, "on the disk");
    }

    #[test]
    fn a_time_heard_is_remembered_and_never_keeps_its_receiver_out() {
        let home = tempfile::tempdir().unwrap();
        let identity = Identity::open(home.path()).unwrap();
        let request = identity.certificate_request().unwrap();
        identity.install(&sign(&request, "A university")).unwrap();
        let made = identity.credentials().unwrap().passed;
        let (told, end) = (made + 2_000_000_000, made + 3_000_000_000);
        let heard = |seconds| identity.heard(seconds, end)().unwrap();
        let passed = || identity.credentials().unwrap().passed;
        for (heard_now, believed) in [
            (told, told),
            (told + 60, told), // much the same: not worth a write
            (made, told),
            (end + 1, told), // believed, the certificate would have ended
            (told + HEARD_EVERY, told + HEARD_EVERY),
        ] {
            heard(heard_now);
            assert_eq!(passed(), believed, "{heard_now}");
        }
        // A power cut while it was written, or a hand that edited it: as if nothing was heard.
        fs::write(home.path().join(HEARD), "soon").unwrap();
        assert_eq!(passed(), made);
    }

    #[test]
    fn a_certificate_for_this_key_is_installed_and_no_other() {
        let home = tempfile::tempdir().unwrap();
        let identity = Identity::open(home.path()).unwrap();
        assert!(matches!(identity.credentials(), Err(Error::NotEnrolled(_))));
        let request = identity.certificate_request().unwrap();
        for (organisation, development) in [(DEVELOPMENT_CA, true), ("A university", false)] {
            identity.install(&sign(&request, organisation)).unwrap();
            assert_eq!(identity.credentials().unwrap().development, development);
        }
        let other = Identity::open(&home.path().join("other")).unwrap();
        let foreign = sign(&other.certificate_request().unwrap(), "A university");
        assert!(matches!(identity.install(&foreign), Err(Error::Refused(_))));
        assert!(matches!(
            identity.install("nonsense"),
            Err(Error::Refused(_))
        ));
        assert!(identity.credentials().is_ok());
    }

    #[test]
    fn a_lost_key_is_not_made_anew_beside_its_certificate() {
        let home = tempfile::tempdir().unwrap();
        let identity = Identity::open(home.path()).unwrap();
        let request = identity.certificate_request().unwrap();
        identity.install(&sign(&request, "A university")).unwrap();
        fs::remove_file(home.path().join(KEY)).unwrap();
        assert!(matches!(
            Identity::open(home.path()),
            Err(Error::Damaged { .. })
        ));
    }
}
