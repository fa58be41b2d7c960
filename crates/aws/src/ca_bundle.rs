//! The CA certificates of `AWS_CA_BUNDLE`, used instead of the system's.
//!
//! A bundle may have hundreds of certificates. They are read and parsed once, when the first connection needs them or
//! [`CaBundle::check`] is called, so that a sidecar's ports need not wait for it.

use std::fmt;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject as _};
use tollgate_disk::describe;

/// Trusted CA certificates in PEM.
#[derive(Clone)]
pub struct CaBundle {
    path: PathBuf,
    roots: Arc<LazyLock<Roots, Box<dyn FnOnce() -> Roots + Send>>>,
}

type Roots = Result<Arc<RootCertStore>, CaBundleError>;

impl fmt::Debug for CaBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CaBundle").field(&self.path).finish()
    }
}

/// Why a CA bundle cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaBundleError {
    /// It cannot be opened or read.
    #[error("cannot be read: {0}")]
    Unread(String),
    /// It has more bytes than a bundle may have.
    #[error("is larger than the 1 MiB of a bundle")]
    TooLarge,
    /// No certificate in it.
    #[error("holds no PEM block `CERTIFICATE`")]
    Empty,
    /// The certificate with this number (from 1) does not parse.
    #[error("certificate number {0} is not a valid X.509 CA certificate")]
    Certificate(usize),
}

impl From<io::Error> for CaBundleError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::FileTooLarge => Self::TooLarge,
            _ => Self::Unread(describe(&error)),
        }
    }
}

/// Largest bundle: the whole list of public authorities is a quarter of this size.
pub const BYTES_MAX: usize = 1024 * 1024;

/// How each certificate begins (RFC 7468, section 5.1).
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Read at a time until the first certificate begins, which it mostly does at once.
const CHUNK_BYTES: u64 = 8 * 1024;

impl CaBundle {
    /// A PEM file with a certificate in it, read as far as to where the first begins. It has at most [`BYTES_MAX`].
    pub fn new(path: PathBuf, mut file: impl Read + Send + 'static) -> Result<Self, CaBundleError> {
        let mut start = Vec::new();
        loop {
            let searched = start.len().saturating_sub(BEGIN.len());
            let read = file.by_ref().take(CHUNK_BYTES).read_to_end(&mut start)?;
            if start[searched..].windows(BEGIN.len()).any(|text| text == BEGIN) {
                break;
            }
            if read == 0 {
                return Err(CaBundleError::Empty);
            }
        }
        let whole = Cursor::new(start).chain(file);
        Ok(Self { path, roots: Arc::new(LazyLock::new(Box::new(|| parse(whole)))) })
    }

    /// Where it was found.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether each certificate parses.
    pub fn check(&self) -> Result<(), CaBundleError> {
        self.roots().map(drop)
    }

    /// The certificates, parsed.
    pub(crate) fn roots(&self) -> Roots {
        LazyLock::force(&self.roots).clone()
    }
}

fn parse(file: impl Read) -> Roots {
    let mut roots = RootCertStore::empty();
    for der in CertificateDer::pem_reader_iter(file) {
        let invalid = CaBundleError::Certificate(roots.len() + 1);
        let der = match der {
            Ok(der) => der,
            Err(pem::Error::Io(error)) => return Err(error.into()),
            Err(_) => return Err(invalid),
        };
        roots.add(der).map_err(|_| invalid)?;
    }
    if roots.is_empty() { Err(CaBundleError::Empty) } else { Ok(Arc::new(roots)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &[u8] = include_bytes!("../../../tests/fixtures/tls/ca.pem");

    fn bundle(pem: impl Read + Send + 'static) -> Result<CaBundle, CaBundleError> {
        CaBundle::new("/ca.pem".into(), pem)
    }

    #[test]
    fn bundles_are_parsed_before_they_are_trusted() {
        let check = |pem: &[u8]| bundle(Cursor::new(pem.to_vec()))?.check();
        assert_eq!(check(CA), Ok(()));
        assert_eq!(check(&CA.repeat(3)), Ok(()));
        assert_eq!(check(b""), Err(CaBundleError::Empty));
        assert_eq!(check(b"\xff\x00"), Err(CaBundleError::Empty));
        let text = String::from_utf8(CA.to_vec()).unwrap();
        assert_eq!(check(text.replace("CERTIFICATE", "PRIVATE KEY").as_bytes()), Err(CaBundleError::Empty));
    }

    #[test]
    fn the_first_certificate_may_begin_anywhere() {
        let chunk = usize::try_from(CHUNK_BYTES).unwrap();
        for before in [chunk - BEGIN.len(), chunk - 5, chunk, 3 * chunk - 1] {
            let text = [&b"x".repeat(before - 1), &b"\n"[..], CA].concat();
            assert_eq!(bundle(Cursor::new(text)).unwrap().check(), Ok(()), "{before}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_to_its_end_is_not_called_invalid() {
        let folder = || std::fs::File::open("/").unwrap();
        let unread = CaBundleError::Unread("is a folder, not a file".to_owned());
        assert_eq!(bundle(folder()).unwrap_err(), unread);
        let long = CA.repeat(usize::try_from(CHUNK_BYTES).unwrap() / CA.len() + 1);
        assert_eq!(bundle(Cursor::new(long).chain(folder())).unwrap().check(), Err(unread));
    }

    #[test]
    fn the_broken_certificate_is_named() {
        let mut lines: Vec<&str> = std::str::from_utf8(CA).unwrap().lines().collect();
        lines.remove(lines.len() / 2);
        let broken = bundle(Cursor::new([CA, lines.join("\n").as_bytes()].concat())).unwrap();
        assert_eq!(broken.check(), Err(CaBundleError::Certificate(2)));
        assert_eq!(broken.check(), Err(CaBundleError::Certificate(2)), "the second time, too");
    }
}
