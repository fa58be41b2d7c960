//! The signing keys of the emulated products: made once, kept in the state folder, public halves laid out as a seller
//! would hold them (`<product>/<version>.pem`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ring::signature::RsaKeyPair;
use rsa::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding};

/// As large as the keys that AWS uses for real products.
const KEY_BITS: usize = 3072;

/// One version of a product's key.
#[derive(Debug)]
pub(super) struct SigningKey {
    pub(super) pair: RsaKeyPair,
}

/// Where keys live: `keys/<product>/<version>.pem` (private) and `public_keys/<product>/<version>.pem`.
#[derive(Debug)]
pub(super) struct KeyFolder {
    root: PathBuf,
}

impl KeyFolder {
    pub(super) const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder to hand to `public_keys`.
    pub(super) fn public_keys(&self, product_code: &str) -> PathBuf {
        self.root.join("public_keys").join(file_name(product_code))
    }

    /// Reads a version's key, or makes it.
    pub(super) fn load_or_make(&self, product_code: &str, version: i32) -> io::Result<SigningKey> {
        let private = self.root.join("keys").join(file_name(product_code)).join(format!("{version}.pem"));
        let key = match fs::read_to_string(&private) {
            Ok(pem) => rsa::PrivateKey::from_pkcs8_pem(&pem).map_err(invalid(&private))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(&private)?,
            Err(error) => return Err(error),
        };
        let public = self.public_keys(product_code).join(format!("{version}.pem"));
        let pem = key.to_public_key().to_public_key_pem(LineEnding::LF).map_err(invalid(&public))?;
        if fs::read_to_string(&public).ok().as_deref() != Some(pem.as_str()) {
            write_atomically(&public, pem.as_bytes())?;
        }
        let der = key.to_pkcs8_der().map_err(invalid(&private))?;
        let pair = RsaKeyPair::from_pkcs8(der.as_bytes()).map_err(invalid(&private))?;
        Ok(SigningKey { pair })
    }
}

fn make(path: &Path) -> io::Result<rsa::PrivateKey> {
    let key = rsa::PrivateKey::new(&mut SystemRng, KEY_BITS).map_err(invalid(path))?;
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(invalid(path))?;
    write_atomically(path, pem.as_bytes())?;
    Ok(key)
}

fn invalid<E: std::fmt::Debug>(path: &Path) -> impl Fn(E) -> io::Error {
    move |error| {
        let text = format!("{}: {error:?}; remove the file and a new key is made", path.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    }
}

fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    // Two emulators may share a state folder: each writes a file of its own, the last rename wins.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    io::Write::write_all(&mut file, bytes)?;
    // Private keys are for this user only; public ones are to be mounted and read by anybody.
    use std::os::unix::fs::PermissionsExt as _;
    let private = path.components().any(|part| part.as_os_str() == "keys");
    file.as_file().set_permissions(fs::Permissions::from_mode(if private { 0o600 } else { 0o644 }))?;
    file.persist(path)?;
    Ok(())
}

/// A product code as a file name: it may hold slashes.
fn file_name(product_code: &str) -> String {
    product_code.replace(['/', '\\'], "_")
}

/// ring's generator for the `rsa` crate, so that there is one source of randomness.
struct SystemRng;

/// The system has no random bytes to give.
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
        use ring::rand::SecureRandom as _;
        ring::rand::SystemRandom::new().fill(bytes).map_err(|_| NoEntropy)
    }
}

impl rsa::rand_core::TryCryptoRng for SystemRng {}
