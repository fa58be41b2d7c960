//! The CA certificates of `AWS_CA_BUNDLE`, used instead of the system's.
//!
//! They are parsed here, before any call: the SDK's TLS library panics on a certificate that it cannot read.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// Trusted CA certificates in PEM, each of which parses.
#[derive(Debug, Clone)]
pub struct CaBundle(Vec<u8>);

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

impl CaBundle {
    /// Parses PEM and checks each certificate.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CaBundleError> {
        let mut count = 0;
        for der in CertificateDer::pem_slice_iter(pem) {
            count += 1;
            let der = der.map_err(|_| CaBundleError::Certificate(count))?;
            webpki::anchor_from_trusted_cert(&der).map_err(|_| CaBundleError::Certificate(count))?;
        }
        if count == 0 { Err(CaBundleError::Empty) } else { Ok(Self(pem.to_vec())) }
    }

    /// The file's content.
    #[must_use]
    pub fn pem(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &[u8] = include_bytes!("../../../tests/fixtures/tls/ca.pem");

    #[test]
    fn bundles_are_parsed_before_they_are_trusted() {
        assert!(CaBundle::from_pem(CA).is_ok());
        assert!(CaBundle::from_pem(&CA.repeat(3)).is_ok());
        assert_eq!(CaBundle::from_pem(b"").unwrap_err(), CaBundleError::Empty);
        assert_eq!(CaBundle::from_pem(b"\xff\x00").unwrap_err(), CaBundleError::Empty);
        let text = String::from_utf8(CA.to_vec()).unwrap();
        assert!(CaBundle::from_pem(text.replace("CERTIFICATE", "PRIVATE KEY").as_bytes()).is_err());
    }

    #[test]
    fn the_broken_certificate_is_named() {
        let mut lines: Vec<&str> = std::str::from_utf8(CA).unwrap().lines().collect();
        lines.remove(lines.len() / 2);
        let broken = [CA, lines.join("\n").as_bytes()].concat();
        assert_eq!(CaBundle::from_pem(&broken).unwrap_err(), CaBundleError::Certificate(2));
    }
}
