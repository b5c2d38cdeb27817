//! The receiver's own certificate authority: who is a box of ours, and who is this receiver.
//!
//! Takes the state directory; gives the authority's key and certificate, the server's, and
//! certificates for boxes. Keys are Ed25519 (RFC 8410). Dates guard nothing here, because a box may
//! believe that it is 1970: certificates are valid for all time and the roster, asked on every
//! connection, decides.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::time_provider::TimeProvider;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;

use crate::clock::NotBefore;
use crate::media::BoxId;
use crate::wire::{DEVELOPMENT_CA as DEVELOPMENT, SERIAL_NUMBER};

/// Subject organisation of an authority for more than one machine.
const PRODUCTION: &str = "Hallcast receiver CA";

/// What went wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{path}: {source}; {advice}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
        /// What to do next.
        advice: &'static str,
    },
    /// A file holds something else than it should.
    #[error("{path}: {what}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// An authority exists already; its key is never overwritten.
    #[error("{} holds an authority already: every box signed by it would be locked out; move it away by hand if that is meant", .0.display())]
    Exists(PathBuf),
    /// A certificate cannot be made.
    #[error("cannot make the certificate: {0}")]
    Make(#[from] rcgen::Error),
}

impl Error {
    /// Whether there is no authority: only a person makes one.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == ErrorKind::NotFound)
    }
}

/// The files of an authority, read.
pub struct Authority {
    ca_pem: String,
    ca_key: KeyPair,
    made: i64,
    development: bool,
    server_chain: Vec<CertificateDer<'static>>,
    server_key: PrivateKeyDer<'static>,
}

/// A certificate made for a box.
pub struct Signed {
    /// The box's id, as its request names it.
    pub box_id: BoxId,
    /// The room that the request names.
    pub room: Option<String>,
    /// The machine's serial number, as the request names it.
    pub serial: Option<String>,
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// The certificate and the authority's, as the box wants them (PEM, leaf first).
    pub chain_pem: String,
}

fn file<'a>(
    path: &'a Path,
    advice: &'static str,
) -> impl FnOnce(std::io::Error) -> Error + use<'a> {
    let path = path.to_path_buf();
    move |source: std::io::Error| {
        let advice = match source.kind() {
            ErrorKind::NotADirectory => {
                "a file is where the state directory should be: move it away, or name another directory with --state-dir"
            }
            ErrorKind::PermissionDenied => "run this as the user that owns the state directory",
            _ => advice,
        };
        Error::File {
            path,
            source,
            advice,
        }
    }
}

impl Authority {
    /// Makes a new authority and this receiver's certificate for `names` (DNS names or addresses).
    pub fn create(state_dir: &Path, names: &[String], development: bool) -> Result<(), Error> {
        fs::create_dir_all(state_dir).map_err(|error| {
            let error = match error.kind() {
                ErrorKind::AlreadyExists => ErrorKind::NotADirectory.into(),
                _ => error,
            };
            file(
                state_dir,
                "make room, or name another directory with --state-dir",
            )(error)
        })?;
        let ca_path = state_dir.join("ca.pem");
        if ca_path.exists() {
            return Err(Error::Exists(ca_path));
        }
        let organisation = if development { DEVELOPMENT } else { PRODUCTION };
        let ca_key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(organisation, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca = params.self_signed(&ca_key)?;
        let issuer = Issuer::new(params, &ca_key);

        let server_key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = name(organisation, "receiver");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let server = params.signed_by(&server_key, &issuer)?;

        // The certificate that marks the authority as present is written last.
        write(&state_dir.join("ca.key"), &ca_key.serialize_pem(), 0o600)?;
        write(
            &state_dir.join("server.key"),
            &server_key.serialize_pem(),
            0o600,
        )?;
        write(&state_dir.join("server.pem"), &server.pem(), 0o644)?;
        write(&ca_path, &ca.pem(), 0o644)
    }

    /// Reads what [`Authority::create`] wrote.
    pub fn load(state_dir: &Path) -> Result<Self, Error> {
        let read = |name: &str| {
            let path = state_dir.join(name);
            fs::read_to_string(&path)
                .map(|text| (path.clone(), text))
                .map_err(file(&path, "make it with `hallcast-receiver ca init`"))
        };
        let content = |path: &Path, what: &dyn std::fmt::Display| Error::Content {
            path: path.into(),
            what: what.to_string(),
        };
        let (ca_path, ca_pem) = read("ca.pem")?;
        let ca_der =
            CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|e| content(&ca_path, &e))?;
        let (_, parsed) = X509Certificate::from_der(&ca_der).map_err(|e| content(&ca_path, &e))?;
        let made = parsed.validity().not_before.timestamp();
        let development = parsed
            .subject()
            .iter_organization()
            .any(|value| value.as_str() == Ok(DEVELOPMENT));
        let (key_path, key_pem) = read("ca.key")?;
        let ca_key = KeyPair::from_pem(&key_pem).map_err(|e| content(&key_path, &e))?;
        let (path, pem) = read("server.pem")?;
        let leaf =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| content(&path, &e))?;
        let (path, pem) = read("server.key")?;
        let server_key =
            PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| content(&path, &e))?;
        Ok(Self {
            ca_pem,
            ca_key,
            made,
            development,
            server_chain: vec![leaf, ca_der],
            server_key,
        })
    }

    /// True for an authority made with `--development`: such a receiver stays on loopback.
    pub fn is_development(&self) -> bool {
        self.development
    }

    /// The authority's certificate: whom the receiver trusts to be a box.
    pub fn root(&self) -> CertificateDer<'static> {
        self.server_chain[1].clone()
    }

    /// The time by which certificates are judged: this machine's, but never before the authority's own
    /// certificate. A receiver that wakes in 1970 shuts no box out for it.
    pub fn clock(&self) -> Arc<dyn TimeProvider> {
        Arc::new(NotBefore(self.made))
    }

    /// This receiver's certificate, leaf first, and its key.
    pub fn server(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.server_chain.clone(), self.server_key.clone_key())
    }

    /// Signs a box's request (PKCS #10, PEM). Only its key and the box id in its common name are
    /// taken over; whatever else it asks for is not.
    pub fn sign(&self, request: &Path) -> Result<Signed, Error> {
        let content = |what: String| Error::Content {
            path: request.into(),
            what,
        };
        let text = fs::read_to_string(request).map_err(file(
            request,
            "give what `hallcast enroll --csr` printed on the box",
        ))?;
        let asked = CertificateSigningRequestParams::from_pem(&text).map_err(|e| {
            content(format!(
                "is no certificate request: {e}; give what `hallcast enroll --csr` printed"
            ))
        })?;
        let named = |what: &DnType| match asked.params.distinguished_name.get(what)? {
            rcgen::DnValue::Utf8String(text) => Some(text.as_str()),
            rcgen::DnValue::PrintableString(text) => Some(text.as_str()),
            _ => None,
        };
        let box_id = named(&DnType::CommonName).and_then(|text| text.parse().ok());
        let box_id: BoxId = box_id.ok_or_else(|| {
            content("its common name is not a box id (32 lower-case hexadecimal digits)".into())
        })?;
        // For people who read it on a terminal.
        let text = |what: &DnType| {
            let text = named(what)?.trim();
            (!text.is_empty() && !text.contains(char::is_control)).then(|| text.to_owned())
        };
        let room = text(&DnType::OrganizationalUnitName);
        let serial = text(&DnType::CustomDnType(SERIAL_NUMBER.into()));
        let issuer = Issuer::from_ca_cert_pem(&self.ca_pem, &self.ca_key)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name("Hallcast box", &box_id.to_string());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let granted = CertificateSigningRequestParams {
            params,
            public_key: asked.public_key,
        };
        let certificate = granted.signed_by(&issuer)?;
        Ok(Signed {
            box_id,
            room,
            serial,
            chain_pem: format!("{}{}", certificate.pem(), self.ca_pem),
            certificate: certificate.der().clone(),
        })
    }
}

fn name(organisation: &str, common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, organisation);
    name.push(DnType::CommonName, common);
    name
}

/// Writes a new file and makes it durable; an old one is never overwritten.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(file(
            path,
            "make the directory writable, or move away what an interrupted `ca init` left",
        ))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A request as a box makes it.
    pub fn request(common_name: &str) -> String {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.serialize_request(&key).unwrap().pem().unwrap()
    }

    #[test]
    fn a_box_is_signed_with_its_id_and_nothing_else_it_asks_for() {
        let dir = tempfile::tempdir().unwrap();
        Authority::create(dir.path(), &["localhost".into()], true).unwrap();
        let authority = Authority::load(dir.path()).unwrap();
        assert!(authority.is_development());
        let csr = dir.path().join("box.csr");
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::new(["receiver.example.org".to_owned()]).unwrap();
        params.distinguished_name = name("x", &"ab".repeat(16));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        fs::write(&csr, pem).unwrap();
        let signed = authority.sign(&csr).unwrap();
        assert_eq!(signed.box_id, BoxId([0xab; 16]));
        let (_, parsed) = X509Certificate::from_der(&signed.certificate).unwrap();
        assert!(!parsed.is_ca());
        assert!(parsed.subject_alternative_name().unwrap().is_none());
        let usage = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth);
        assert_eq!(signed.chain_pem.matches("BEGIN CERTIFICATE").count(), 2);
    }

    #[test]
    fn an_authority_is_never_overwritten_and_its_keys_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        Authority::create(dir.path(), &["localhost".into()], false).unwrap();
        let before = fs::read(dir.path().join("ca.key")).unwrap();
        let again = Authority::create(dir.path(), &["localhost".into()], false);
        assert!(matches!(again, Err(Error::Exists(_))));
        assert_eq!(fs::read(dir.path().join("ca.key")).unwrap(), before);
        assert!(!Authority::load(dir.path()).unwrap().is_development());
        for key in ["ca.key", "server.key"] {
            let mode = fs::metadata(dir.path().join(key))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
    }

    #[test]
    fn a_request_without_a_box_id_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Authority::create(dir.path(), &["localhost".into()], true).unwrap();
        let authority = Authority::load(dir.path()).unwrap();
        let csr = dir.path().join("box.csr");
        for text in [request("room 5"), "garbage".to_owned()] {
            fs::write(&csr, text).unwrap();
            assert!(matches!(authority.sign(&csr), Err(Error::Content { .. })));
        }
    }
}
