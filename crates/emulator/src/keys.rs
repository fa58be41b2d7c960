//! The signing keys of the emulated products: made once, kept in the key folder, with the public keys laid out as a
//! seller would have them (`public_keys/<product>/<version>.pem`).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SecureRandom as _;
use ring::signature::RsaKeyPair;
use rsa::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
use rsa::pss;
use rsa::sha2::Sha256;
use rsa::signature::{RandomizedSigner as _, SignatureEncoding as _};
use rsa::traits::PublicKeyParts as _;
use serde_json::{Value, json};

/// As large as the keys that AWS uses for real products.
const KEY_BITS: usize = 3072;

/// One version of a product's key.
pub(super) struct SigningKey {
    pub(super) pair: RsaKeyPair,
    pub(super) public_pem: String,
    /// For operations that ring does not offer.
    private: rsa::PrivateKey,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

impl SigningKey {
    /// The public half as a JSON Web Key (RFC 7517).
    pub(super) fn jwk(&self) -> Value {
        let (modulus, exponent) = (self.private.n_bytes(), self.private.e_bytes());
        let (modulus, exponent) = (URL_SAFE_NO_PAD.encode(modulus), URL_SAFE_NO_PAD.encode(exponent));
        json!({"kty": "RSA", "alg": "PS256", "use": "sig", "n": modulus, "e": exponent})
    }

    /// The public key, for tests that verify what ring would reject.
    #[cfg(test)]
    pub(super) fn public(&self) -> rsa::PublicKey {
        self.private.to_public_key()
    }

    /// PS256 with a salt of this many bytes, at most 350; RFC 7518 requires 32.
    pub(super) fn sign_with_salt(&self, message: &[u8], salt_bytes: usize) -> Vec<u8> {
        let key = pss::SigningKey::<Sha256>::new_with_salt_len(self.private.clone(), salt_bytes);
        let signature = key.try_sign_with_rng(&mut SystemRng, message);
        signature.expect("a 3072-bit modulus holds digest and salt, and the system has random bytes").to_vec()
    }
}

/// The folder of the keys: `keys/<product>/<version>.pem` (private) and `public_keys/<product>/<version>.pem`.
#[derive(Debug)]
pub(super) struct KeyFolder {
    root: PathBuf,
    loaded: Mutex<HashMap<(String, i32), Arc<SigningKey>>>,
}

/// The name for the key that no product has; a product code cannot contain a blank.
const STRANGER: &str = ". stranger";

impl KeyFolder {
    pub(super) fn new(root: PathBuf) -> Self {
        // Its paths are given to processes with another working directory.
        let root = std::path::absolute(&root).unwrap_or(root);
        Self { root, loaded: Mutex::default() }
    }

    /// The folder for the setting `public_keys`.
    pub(super) fn public_keys(&self, product_code: &str) -> PathBuf {
        self.root.join("public_keys").join(file_name(product_code))
    }

    /// Whether the key of a version is in memory.
    pub(super) fn has(&self, product_code: &str, version: i32) -> bool {
        self.loaded().contains_key(&(product_code.to_owned(), version))
    }

    /// The public key of a version, if it is in memory.
    pub(super) fn public_pem(&self, product_code: &str, version: i32) -> Option<String> {
        let key = self.loaded().get(&(product_code.to_owned(), version)).map(Arc::clone)?;
        Some(key.public_pem.clone())
    }

    /// The key of a version: from memory, from its file, or newly made, which takes seconds.
    pub(super) fn key(&self, product_code: &str, version: i32) -> io::Result<Arc<SigningKey>> {
        let name = (product_code.to_owned(), version);
        if let Some(key) = self.loaded().get(&name) {
            return Ok(Arc::clone(key));
        }
        let key = Arc::new(self.load_or_make(product_code, version)?);
        // If two callers load it at once, the first one's key stays: the file has one key.
        Ok(Arc::clone(self.loaded().entry(name).or_insert(key)))
    }

    /// The key that no product has, for tokens that no client should trust.
    pub(super) fn stranger(&self) -> io::Result<Arc<SigningKey>> {
        self.key(STRANGER, 1)
    }

    fn loaded(&self) -> std::sync::MutexGuard<'_, HashMap<(String, i32), Arc<SigningKey>>> {
        self.loaded.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn load_or_make(&self, product_code: &str, version: i32) -> io::Result<SigningKey> {
        let private = self.root.join("keys").join(file_name(product_code)).join(format!("{version}.pem"));
        let key = match fs::read_to_string(&private) {
            Ok(pem) => rsa::PrivateKey::from_pkcs8_pem(&pem).map_err(invalid(&private))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(&private)?,
            Err(error) => return Err(error),
        };
        let public = self.public_keys(product_code).join(format!("{version}.pem"));
        let public_pem = key.to_public_key().to_public_key_pem(LineEnding::LF).map_err(invalid(&public))?;
        if product_code != STRANGER && fs::read_to_string(&public).ok().as_deref() != Some(&public_pem) {
            write_atomically(&public, public_pem.as_bytes(), PUBLIC_MODE, true)?;
        }
        let der = key.to_pkcs8_der().map_err(invalid(&private))?;
        let pair = RsaKeyPair::from_pkcs8(der.as_bytes()).map_err(invalid(&private))?;
        Ok(SigningKey { pair, public_pem, private: key })
    }
}

fn make(path: &Path) -> io::Result<rsa::PrivateKey> {
    let key = rsa::PrivateKey::new(&mut SystemRng, KEY_BITS).map_err(invalid(path))?;
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(invalid(path))?;
    match write_atomically(path, pem.as_bytes(), PRIVATE_MODE, false) {
        // Another emulator with the same key folder was faster; its key is used.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            rsa::PrivateKey::from_pkcs8_pem(&fs::read_to_string(path)?).map_err(invalid(path))
        }
        other => other.map(|()| key),
    }
}

fn invalid<E: std::fmt::Debug>(path: &Path) -> impl Fn(E) -> io::Error {
    move |error| {
        let text = format!("{}: {error:?}; remove the file and a new key is made", path.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    }
}

/// Private keys are only for this user; public ones are mounted and read by others.
const PRIVATE_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;

fn write_atomically(path: &Path, bytes: &[u8], mode: u32, replace: bool) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    io::Write::write_all(&mut file, bytes)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    if replace { file.persist(path) } else { file.persist_noclobber(path) }?;
    Ok(())
}

/// A product code as a file name: it may contain slashes or look like a path, but contains no percent signs.
fn file_name(product_code: &str) -> String {
    if product_code.bytes().all(|b| b == b'.') {
        return product_code.replace('.', "%2E");
    }
    product_code.replace('/', "%2F")
}

/// ring's generator for the `rsa` crate, so that there is one source of randomness.
struct SystemRng;

/// The system has no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("no random bytes")]
struct NoEntropy;

impl rsa::rand_core::TryRng for SystemRng {
    type Error = NoEntropy;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        ring::rand::SystemRandom::new().fill(bytes).map_err(|_| NoEntropy)
    }
}

impl rsa::rand_core::TryCryptoRng for SystemRng {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_code_names_one_folder_below_the_root() {
        for (code, name) in [("demo", "demo"), ("a/../b", "a%2F..%2Fb"), ("..", "%2E%2E"), (".", "%2E")] {
            assert_eq!(file_name(code), name);
        }
    }

    #[test]
    fn the_folder_that_is_handed_out_is_found_from_everywhere() {
        assert!(KeyFolder::new("state".into()).public_keys("demohourly").is_absolute());
    }

    #[test]
    fn keys_are_read_back_and_unreadable_ones_named() {
        let folder = tempfile::tempdir().unwrap();
        let private = folder.path().join("keys/demohourly");
        fs::create_dir_all(&private).unwrap();
        fs::write(private.join("1.pem"), crate::token::tests::KEY).unwrap();
        let keys = KeyFolder::new(folder.path().to_owned());
        let key = keys.key("demohourly", 1).unwrap();
        let written = fs::read_to_string(keys.public_keys("demohourly").join("1.pem")).unwrap();
        assert_eq!(written, key.public_pem);
        assert!(written.starts_with("-----BEGIN PUBLIC KEY-----"));

        fs::write(private.join("2.pem"), "nonsense").unwrap();
        let error = keys.key("demohourly", 2).unwrap_err().to_string();
        assert!(error.contains("demohourly/2.pem") && error.contains("remove the file"), "{error}");
    }
}
