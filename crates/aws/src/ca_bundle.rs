//! The CA certificates of `AWS_CA_BUNDLE`, used instead of the system's.
//!
//! A bundle may have hundreds of certificates. They are read and parsed once, when the first connection needs them or
//! [`CaBundle::check`] is called, so that a sidecar's ports need not wait for it.

use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, LazyLock};

use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, TrustAnchor};

/// Trusted CA certificates in PEM.
#[derive(Clone)]
pub struct CaBundle(Arc<LazyLock<Anchors, Box<dyn FnOnce() -> Anchors + Send>>>);

type Anchors = Result<Vec<TrustAnchor<'static>>, CaBundleError>;

impl fmt::Debug for CaBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CaBundle")
    }
}

/// Why a CA bundle cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CaBundleError {
    /// The file was opened, and could not be read.
    #[error("cannot be read: {0}")]
    Unread(io::ErrorKind),
    /// No certificate in it.
    #[error("holds no PEM block `CERTIFICATE`")]
    Empty,
    /// The certificate with this number (from 1) does not parse.
    #[error("certificate number {0} is not a valid X.509 CA certificate")]
    Certificate(usize),
}

impl CaBundle {
    /// A PEM file, which is not read yet.
    #[must_use]
    pub fn new(file: impl Read + Send + 'static) -> Self {
        Self(Arc::new(LazyLock::new(Box::new(|| parse(file)))))
    }

    /// Whether each certificate parses, and there is one.
    pub fn check(&self) -> Result<(), CaBundleError> {
        self.anchors().map(|_| ())
    }

    /// The certificates, parsed.
    pub(crate) fn anchors(&self) -> Result<&[TrustAnchor<'static>], CaBundleError> {
        LazyLock::force(&self.0).as_deref().map_err(|error| *error)
    }
}

fn parse(file: impl Read) -> Anchors {
    let mut anchors = Vec::new();
    for der in CertificateDer::pem_reader_iter(file) {
        let invalid = CaBundleError::Certificate(anchors.len() + 1);
        let der = der.map_err(|error| match error {
            pem::Error::Io(error) => CaBundleError::Unread(error.kind()),
            _ => invalid,
        })?;
        anchors.push(webpki::anchor_from_trusted_cert(&der).map_err(|_| invalid)?.to_owned());
    }
    if anchors.is_empty() { Err(CaBundleError::Empty) } else { Ok(anchors) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &[u8] = include_bytes!("../../../tests/fixtures/tls/ca.pem");

    #[test]
    fn bundles_are_parsed_before_they_are_trusted() {
        let check = |pem: &[u8]| CaBundle::new(io::Cursor::new(pem.to_vec())).check();
        assert_eq!(check(CA), Ok(()));
        assert_eq!(check(&CA.repeat(3)), Ok(()));
        assert_eq!(check(b""), Err(CaBundleError::Empty));
        assert_eq!(check(b"\xff\x00"), Err(CaBundleError::Empty));
        let text = String::from_utf8(CA.to_vec()).unwrap();
        assert!(check(text.replace("CERTIFICATE", "PRIVATE KEY").as_bytes()).is_err());
    }

    #[test]
    fn a_file_that_cannot_be_read_to_its_end_is_not_called_invalid() {
        let folder = std::fs::File::open("/").unwrap();
        let bundle = CaBundle::new(CA.chain(folder));
        assert_eq!(bundle.check(), Err(CaBundleError::Unread(io::ErrorKind::IsADirectory)));
    }

    #[test]
    fn the_broken_certificate_is_named() {
        let mut lines: Vec<&str> = std::str::from_utf8(CA).unwrap().lines().collect();
        lines.remove(lines.len() / 2);
        let broken = CaBundle::new(io::Cursor::new([CA, lines.join("\n").as_bytes()].concat()));
        assert_eq!(broken.check(), Err(CaBundleError::Certificate(2)));
        assert_eq!(broken.check(), Err(CaBundleError::Certificate(2)), "the second time, too");
    }
}
