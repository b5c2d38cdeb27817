//! Who this box is: a key and an id made at its first start, and the certificate it was given.
//!
//! Files of the state directory, each written whole, synced and only then named:
//!
//! | file | content | changes |
//! |---|---|---|
//! | `box-id` | 32 hexadecimal digits | never |
//! | `box.key` | Ed25519 key (PKCS #8, PEM), mode 0600 | never |
//! | `box.pem` | certificate, then its authority's (PEM) | at enrolment |
//! | `machine` | the serial number of the machine that the key was made on, or that it was enrolled on last | at enrolment |
//! | `epoch` | the boot epoch, decimal | at each start of the process, and past one that a receiver holds |
//! | `epoch.new` | the room that the next epoch takes: a disk that others have filled keeps no box from starting | with `epoch` |
//! | `heard` | UTC as a receiver last told it, seconds since 1970, decimal | once an hour at most |
//!
//! A card that is found in another machine was moved, or copied. A moved one stays the box that it was,
//! with what its spool still holds; of a copied one there are then two boxes with one key. Nothing on the
//! card tells which, so nothing is changed by itself and a person is told ([`Identity::made_on`]), with one
//! exception: an identity that was never enrolled, with nothing recorded under it, is known to nobody. It
//! is made anew, so that forty copies of a card that was started once are forty boxes.

use crate::media::BoxId;
use crate::wire::{DEVELOPMENT_CA, SERIAL_NUMBER};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ED25519, PublicKeyData};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::process::geteuid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Certificate};

const ID: &str = "box-id";
const KEY: &str = "box.key";
const CERTIFICATE: &str = "box.pem";
const MACHINE: &str = "machine";
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
    #[error("{}: cannot be read or written: {source}; {}", path.display(), remedy(source))]
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
    #[error(
        "{} does not exist: this box is not enrolled at a receiver yet: run `hallcast enroll --csr >box.csr` \
         here, `hallcast-receiver sign box.csr >box.pem` at the receiver, and \
         `hallcast enroll --install box.pem` here",
        .0.display()
    )]
    NotEnrolled(PathBuf),
    /// A receiver holds an epoch that no box can have.
    #[error("the receiver holds epoch {0} for this box, which no box reaches: enrol the box anew")]
    Epoch(u64),
    /// A certificate for another key, or one that cannot be read.
    #[error(
        "this certificate cannot be installed: {0}; take what `hallcast-receiver sign` printed for this box"
    )]
    Refused(String),
}

/// The box's id and key. A clone is the same box.
#[derive(Clone, Debug)]
pub struct Identity {
    directory: PathBuf,
    box_id: BoxId,
    key: Arc<KeyPair>,
    machine: Option<String>,
    made_on: Option<String>,
    installed: watch::Sender<()>,
}

/// The machine that an identity is opened on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine<'a> {
    /// Its serial number, where it tells one.
    pub serial: Option<&'a str>,
    /// Nothing was recorded under the identity that its card holds.
    pub is_unused: bool,
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
    /// The identity in `directory`, which is made where it is missing, on whatever machine.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        Self::open_on(directory, Machine::default())
    }

    /// The identity in `directory`, which is made where it is missing, on this machine.
    pub fn open_on(directory: &Path, machine: Machine<'_>) -> Result<Self, Error> {
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
        let made_on = settle_machine(directory, machine)?;
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
            key: Arc::new(KeyPair::from_pem(&key).map_err(|error| damaged(&key_path, error))?),
            machine: machine.serial.map(str::to_owned),
            made_on,
            installed: watch::Sender::default(),
        })
    }

    /// The serial number of the machine that this identity was made or last enrolled on, when that is not
    /// the one it was opened on.
    pub fn made_on(&self) -> Option<&str> {
        self.made_on.as_deref()
    }

    /// Sees a change when a certificate was installed.
    pub fn installed(&self) -> watch::Receiver<()> {
        self.installed.subscribe()
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
        write(&path, &format!("{next}\n"), Existing::Exchange)?;
        Ok(next)
    }

    /// An epoch past our last one that the next run of the box still goes past. For a visit while no box
    /// runs; nothing is written.
    pub fn passing_epoch(&self) -> u64 {
        let last = fs::read_to_string(self.directory.join(EPOCH)).unwrap_or_default();
        let last: u64 = last.trim().parse().unwrap_or(0);
        // The clock goes on from one visit to the next, and is less than a step until 2106.
        let seconds = crate::clock::wall().unix_nanos / 1_000_000_000;
        last.saturating_add(u64::try_from(seconds).unwrap_or(0).min(STEP - 1))
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

    /// A request for a certificate (PKCS #10, PEM): the box's id as its common name, the machine's serial
    /// number, and the room as its organisational unit.
    pub fn certificate_request(&self, room: Option<&str>) -> Result<String, Error> {
        let refused = |error: rcgen::Error| Error::Refused(error.to_string());
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, self.box_id.to_string());
        if let Some(serial) = &self.machine {
            name.push(DnType::CustomDnType(SERIAL_NUMBER.into()), serial.as_str());
        }
        if let Some(room) = room {
            name.push(DnType::OrganizationalUnitName, room);
        }
        params.distinguished_name = name;
        let request = params.serialize_request(self.key.as_ref());
        request.and_then(|request| request.pem()).map_err(refused)
    }

    /// Installs the answer to a request: the box's certificate and its authority's, in this order
    /// (PEM). Replaces the one before it; this machine is the box's from now on.
    pub fn install(&self, chain: &str) -> Result<(), Error> {
        self.read_chain(chain).map_err(Error::Refused)?;
        let mut written = Ok(());
        // One at a time.
        self.installed.send_if_modified(|()| {
            written = write(&self.directory.join(CERTIFICATE), chain, Existing::Replace);
            written.is_ok()
        });
        written?;
        match &self.machine {
            Some(serial) => note_machine(&self.directory, serial),
            None => Ok(()),
        }
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

impl Credentials {
    /// From when to when the box's certificate holds, in seconds since 1970, and the name of its
    /// authority.
    pub fn validity(&self) -> Option<(i64, i64, String)> {
        let own = parse(&self.certificate).ok()?;
        let validity = own.validity();
        Some((
            validity.not_before.timestamp(),
            validity.not_after.timestamp(),
            own.issuer().to_string(),
        ))
    }
}

/// Notes on which machine an identity is, or which other one it comes from; see the module's page.
fn settle_machine(directory: &Path, machine: Machine<'_>) -> Result<Option<String>, Error> {
    let Some(serial) = machine.serial else {
        return Ok(None);
    };
    let path = directory.join(MACHINE);
    let noted = match fs::read_to_string(&path) {
        Ok(text) => text.trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            note_machine(directory, serial)?;
            return Ok(None);
        }
        Err(error) => return Err(file(path)(error)),
    };
    if noted == serial {
        return Ok(None);
    }
    if !machine.is_unused || directory.join(CERTIFICATE).exists() {
        return Ok(Some(noted));
    }
    log::info!(
        "{}: this identity was made on the machine {noted}, never enrolled and not recorded with; this is {serial}: \
         the box makes itself a new one",
        directory.display()
    );
    for name in [KEY, ID] {
        let path = directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(file(path)(error));
            }
            _ => {}
        }
    }
    note_machine(directory, serial)?;
    Ok(None)
}

fn note_machine(directory: &Path, serial: &str) -> Result<(), Error> {
    write(
        &directory.join(MACHINE),
        &format!("{serial}\n"),
        Existing::Replace,
    )
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
    /// It changes names with the new one and is written over by the next: after the first time this
    /// takes no room, neither bytes nor a name.
    Exchange,
}

/// Writes a file that is either there with all of its content or not at all, even after a power
/// cut: content synced, then named, then the directory synced.
fn write(path: &Path, content: &str, existing: Existing) -> Result<(), Error> {
    let steps = || -> io::Result<()> {
        let mut unnamed = path.as_os_str().to_owned();
        unnamed.push(".new");
        let unnamed = PathBuf::from(unnamed);
        fill(&unnamed, content)?;
        let name = |flags| renameat_with(CWD, &unnamed, CWD, path, flags);
        match existing {
            Existing::Keep => name(RenameFlags::NOREPLACE)?,
            Existing::Replace => name(RenameFlags::empty())?,
            // The first has none to change names with, and some file systems cannot.
            Existing::Exchange if name(RenameFlags::EXCHANGE).is_err() => {
                name(RenameFlags::empty())?;
                if let Err(error) = fill(&unnamed, content) {
                    log::warn!("{}: no room for the next: {error}", unnamed.display());
                }
            }
            Existing::Exchange => {}
        }
        match path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    };
    steps().map_err(file(path.to_owned()))
}

/// Writes a file that may be there, in the room that it has, and syncs it. What root writes belongs to
/// the directory's owner, as whom the service reads it.
fn fill(path: &Path, content: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        // A link that the owner laid there would have root give away some other file.
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    if let (true, Some(directory)) = (geteuid().is_root(), path.parent()) {
        let owner = fs::metadata(directory)?;
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    file.write_all(content.as_bytes())?;
    file.set_len(content.len() as u64)?;
    file.sync_all()
}

/// What to do where a file cannot be read or written.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free space on the disk of the state directory, in bytes (df) and in files (df -i)"
        }
        _ => "make the state directory writable for the user of hallcast",
    }
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
#[path = "identity_tests.rs"]
mod tests;
