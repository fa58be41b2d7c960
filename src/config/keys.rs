//! Loading the product's public keys: a folder of `<version>.pem`, or one PEM file.
//!
//! All keys are read, and all faults reported: otherwise a wrong key would be noticed only when AWS rotates to it.
//! What makes a key acceptable is decided in [`tollgate_receipt`].

use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Disk, describe};
use super::kind::{Parse, VERSION};
use super::parse::Problem;
use super::reader::{Reader, given_path};
use super::setting::Setting;
use tollgate_disk::Links;
use tollgate_marketplace::PublicKeyVersion;
use tollgate_receipt::{KeyRing, PEM_BYTES_MAX, PublicKey};

/// Most names in a folder; a product has only a few keys.
const FOLDER_NAMES_MAX: usize = 256;

/// The remedy for every wrong file: where AWS shows the right one.
const REMEDY: &str =
    "use the product's public key (BEGIN PUBLIC KEY) from the AWS Marketplace Management Portal";

/// Reads the product's keys: at least one if AWS's answer is signed, and the stated version among them.
pub(super) fn key_ring(reader: &mut Reader<'_>, setting: Setting, parse: Parse<PathBuf>) -> Option<KeyRing> {
    let Some(path) = given_path(reader, setting, parse)? else {
        let Some(mode) = reader.mode().filter(|mode| mode.is_signed()) else {
            return Some(KeyRing::default());
        };
        reader.missing(setting, &format!("is required in mode {mode}: the product's public key"));
        return None;
    };
    let stated = reader.peek(Setting::PublicKeyVersion, VERSION.parse);
    let ring = match load(reader.installed.disk, &path, stated) {
        Ok(ring) => ring,
        Err(problems) => {
            for problem in problems {
                reader.fault(setting, problem);
            }
            return None;
        }
    };
    if let Some(version) = stated.filter(|version| ring.get(*version).is_none()) {
        let held: Vec<String> = ring.versions().map(|version| version.to_string()).collect();
        let problem = format!(
            "is not among the keys in public_keys ({}); add {version}.pem or set another version",
            held.join(", ")
        );
        reader.fault(Setting::PublicKeyVersion, problem);
        return None;
    }
    Some(ring)
}

/// Reads the keys at `path`. A single PEM is version 1 unless `stated` says another.
fn load(disk: &dyn Disk, path: &Path, stated: Option<PublicKeyVersion>) -> Result<KeyRing, Vec<Problem>> {
    let names = match disk.list(path, FOLDER_NAMES_MAX) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            let version = stated.unwrap_or(PublicKeyVersion::FIRST);
            let key = read_key(disk, path).map_err(|problem| vec![problem])?;
            let mut ring = KeyRing::default();
            ring.insert(version, key);
            return Ok(ring);
        }
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            return Err(vec![
                "is a folder of more than 256 files; put the keys into a folder of their own".into(),
            ]);
        }
        Err(error) => {
            return Err(vec![format!("cannot be read: {}; {REMEDY}", describe(&error)).into()]);
        }
    };
    load_folder(disk, path, &names)
}

fn load_folder(disk: &dyn Disk, folder: &Path, names: &[String]) -> Result<KeyRing, Vec<Problem>> {
    let mut ring = KeyRing::default();
    let mut problems = Vec::new();
    let mut found = 0_usize;
    // Kubernetes mounts volumes with hidden bookkeeping entries ("..data"); other files may be notes.
    let pems = names.iter().filter(|name| !name.starts_with('.'));
    for (name, stem) in pems.filter_map(|name| Some((name, name.strip_suffix(".pem")?))) {
        found += 1;
        let Ok(version) = stem.parse::<PublicKeyVersion>() else {
            let problem = format!("holds {name:?}; name each key after its version, such as 1.pem");
            problems.push(problem.into());
            continue;
        };
        match read_key(disk, &folder.join(name)) {
            Ok(key) => ring.insert(version, key),
            Err(problem) => problems.push(format!("holds {name:?}, which {problem}").into()),
        }
    }
    if found == 0 {
        problems.push(format!("holds no <version>.pem, such as 1.pem; {REMEDY}").into());
    }
    if problems.is_empty() { Ok(ring) } else { Err(problems) }
}

fn read_key(disk: &dyn Disk, path: &Path) -> Result<PublicKey, Problem> {
    let bytes = disk.read(path, PEM_BYTES_MAX, Links::Follow).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => format!("is larger than the 16 KiB of a key file; {REMEDY}"),
        _ => format!("cannot be read: {}; correct the path or its permissions", describe(&error)),
    })?;
    PublicKey::from_pem(&bytes).map_err(|error| format!("is not usable: {error}").into())
}
