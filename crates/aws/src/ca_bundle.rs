//! The CA certificates of `AWS_CA_BUNDLE`, used instead of the system's.
//!
//! A bundle may have hundreds of certificates. They are parsed once, when the first connection needs them or
//! [`CaBundle::check`] is called, so that a sidecar's ports need not wait for it.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, TrustAnchor};

/// Trusted CA certificates in PEM.
#[derive(Clone)]
pub struct CaBundle(Arc<Contents>);

struct Contents {
    pem: Vec<u8>,
    anchors: OnceLock<Result<Vec<TrustAnchor<'static>>, CaBundleError>>,
}

impl fmt::Debug for CaBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CaBundle").field(&format_args!("{} bytes of PEM", self.0.pem.len())).finish()
    }
}

/// Why a CA bundle cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CaBundleError {
    /// No certificate in it.
    #[error("holds no PEM block `CERTIFICATE`")]
    Empty,
    /// The certificate with this number (from 1) does not parse.
    #[error("certificate number {0} is not a valid X.509 CA certificate")]
    Certificate(usize),
}

/// How each certificate begins (RFC 7468, section 5.1).
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

impl CaBundle {
    /// The content of a PEM file with a certificate in it, which is not parsed yet.
    pub fn new(pem: Vec<u8>) -> Result<Self, CaBundleError> {
        if !pem.windows(BEGIN.len()).any(|text| text == BEGIN) {
            return Err(CaBundleError::Empty);
        }
        Ok(Self(Arc::new(Contents { pem, anchors: OnceLock::new() })))
    }

    /// Whether each certificate parses, and there is one.
    pub fn check(&self) -> Result<(), CaBundleError> {
        self.anchors().map(|_| ())
    }

    /// The certificates, parsed.
    pub(crate) fn anchors(&self) -> Result<&[TrustAnchor<'static>], CaBundleError> {
        let anchors = self.0.anchors.get_or_init(|| parse(&self.0.pem));
        anchors.as_deref().map_err(|error| *error)
    }
}

fn parse(pem: &[u8]) -> Result<Vec<TrustAnchor<'static>>, CaBundleError> {
    let mut anchors = Vec::new();
    for der in CertificateDer::pem_slice_iter(pem) {
        let invalid = CaBundleError::Certificate(anchors.len() + 1);
        let der = der.map_err(|_| invalid)?;
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
        let check = |pem: &[u8]| CaBundle::new(pem.to_vec())?.check();
        assert_eq!(check(CA), Ok(()));
        assert_eq!(check(&CA.repeat(3)), Ok(()));
        assert_eq!(check(b""), Err(CaBundleError::Empty));
        assert_eq!(check(b"\xff\x00"), Err(CaBundleError::Empty));
        let text = String::from_utf8(CA.to_vec()).unwrap();
        assert!(check(text.replace("CERTIFICATE", "PRIVATE KEY").as_bytes()).is_err());
    }

    #[test]
    fn the_broken_certificate_is_named() {
        let mut lines: Vec<&str> = std::str::from_utf8(CA).unwrap().lines().collect();
        lines.remove(lines.len() / 2);
        let broken = CaBundle::new([CA, lines.join("\n").as_bytes()].concat()).unwrap();
        assert_eq!(broken.check(), Err(CaBundleError::Certificate(2)));
        assert_eq!(broken.check(), Err(CaBundleError::Certificate(2)), "the second time, too");
    }
}
