//! The files that configuration reads, behind the trait [`Disk`], and what is compiled into this build.
//!
//! - Every read has a limit and is of a regular file: a wrong path may name a device, a pipe or a file of gigabytes.
//! - Tests and fuzzing use [`MemoryDisk`]: arbitrary paths are harmless there.
//!
//! This module must not know what the files mean.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::engine;
pub(super) use tollgate_disk::describe;
use tollgate_disk::{Links, open_to_read, read_regular};
use tollgate_ledger::engine::Engine;

/// The seller's file. The path is compiled in: if it were a setting, an operator could point it elsewhere.
pub const SELLER_FILE: &str = "/usr/share/tollgate/seller.toml";

/// The operator's file when neither `--config` nor `TOLLGATE_CONFIG` names one.
pub const DEFAULT_FILE: &str = "/etc/tollgate/tollgate.toml";

/// What is compiled in; tests build their own.
pub struct Installation<'a> {
    /// Where the seller's file is.
    pub seller_file: PathBuf,
    /// Where the operator's file is unless one is named.
    pub default_file: PathBuf,
    /// This build contains the emulator.
    pub emulator: bool,
    /// The engine for shared ledgers, if this program has one.
    pub engine: Option<&'static dyn Engine>,
    /// Where files are read.
    pub disk: &'a dyn Disk,
}

impl Installation<'static> {
    /// This build, on the real file system.
    #[must_use]
    pub fn compiled_in() -> Self {
        Self {
            seller_file: PathBuf::from(SELLER_FILE),
            default_file: PathBuf::from(DEFAULT_FILE),
            emulator: cfg!(feature = "emulator"),
            engine: engine::installed(),
            disk: &SystemDisk,
        }
    }
}

/// What configuration needs of a file system.
pub trait Disk {
    /// The whole of a regular file. Fails with `FileTooLarge` above `bytes_max` and with `IsADirectory` for a folder.
    fn read(&self, path: &Path, bytes_max: usize, links: Links) -> io::Result<Vec<u8>>;

    /// A regular file to be read as a stream. Fails as `read` does, at once or when it is read.
    fn open(&self, path: &Path, bytes_max: usize, links: Links) -> io::Result<Box<dyn Read + Send>>;

    /// The names in a folder. Fails with `NotADirectory` for a file, with `FileTooLarge` above `names_max` names.
    fn list(&self, folder: &Path, names_max: usize) -> io::Result<Vec<String>>;

    /// Tests that files can be created in `folder`, by creating one and removing it. A missing folder is created, with
    /// the missing folders above it; with `keep` unset they are removed again.
    fn try_write(&self, folder: &Path, keep: bool) -> io::Result<()>;
}

/// The real file system.
#[derive(Debug, Clone, Copy)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn read(&self, path: &Path, bytes_max: usize, links: Links) -> io::Result<Vec<u8>> {
        read_regular(path, bytes_max, links)
    }

    fn open(&self, path: &Path, bytes_max: usize, links: Links) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(open_to_read(path, bytes_max, links)?))
    }

    fn list(&self, folder: &Path, names_max: usize) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            if names.len() == names_max {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn try_write(&self, folder: &Path, keep: bool) -> io::Result<()> {
        let missing = missing_folders(folder)?;
        let made = if missing.is_empty() { Ok(()) } else { make_private_folder(folder) };
        let wrote = made.and_then(|()| make_and_remove(&folder.join(WRITE_TEST_NAME)));
        if !keep {
            // Best effort: a folder that another process uses by now is not empty, and stays.
            missing.into_iter().for_each(|folder| drop(fs::remove_dir(folder)));
        }
        wrote
    }
}

/// The folder and those above it, the deepest first, up to one that exists.
fn missing_folders(folder: &Path) -> io::Result<Vec<&Path>> {
    let mut missing = Vec::new();
    // The last ancestor of a relative path is empty: it is the working folder.
    for folder in folder.ancestors().filter(|folder| !folder.as_os_str().is_empty()) {
        if folder.try_exists()? {
            break;
        }
        missing.push(folder);
    }
    Ok(missing)
}

/// The file that [`Disk::try_write`] makes for a moment.
const WRITE_TEST_NAME: &str = ".tollgate-write-test";

fn make_and_remove(file: &Path) -> io::Result<()> {
    // A file that is left from a process that died here must not be taken for "cannot be written".
    gone(fs::remove_file(file))?;
    match fs::OpenOptions::new().write(true).create_new(true).open(file) {
        Ok(mut made) => {
            let wrote = made.write_all(b"\n");
            gone(fs::remove_file(file))?;
            wrote
        }
        // Another process of this pod is making the same test.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn make_private_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    // The folder will hold a receipt and customers' usage, which other users must not read.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Files in memory; the real file system is not touched.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    files: BTreeMap<PathBuf, Vec<u8>>,
    read_only: BTreeSet<PathBuf>,
    full: BTreeSet<PathBuf>,
}

impl MemoryDisk {
    /// With one more file.
    #[must_use]
    pub fn with(mut self, path: impl Into<PathBuf>, content: impl Into<Vec<u8>>) -> Self {
        self.files.insert(path.into(), content.into());
        self
    }

    /// With one more folder that cannot be written.
    #[must_use]
    pub fn with_read_only(mut self, folder: impl Into<PathBuf>) -> Self {
        self.read_only.insert(folder.into());
        self
    }

    /// With one more folder, on a disk that is full.
    #[must_use]
    pub fn with_full(mut self, folder: impl Into<PathBuf>) -> Self {
        self.full.insert(folder.into());
        self
    }

    fn is_folder(&self, path: &Path) -> bool {
        // As in the real file system, an empty path names nothing, although every path begins with it.
        let named = !path.as_os_str().is_empty();
        named && self.files.keys().any(|file| file != path && file.starts_with(path))
    }
}

impl Disk for MemoryDisk {
    fn read(&self, path: &Path, bytes_max: usize, _links: Links) -> io::Result<Vec<u8>> {
        match self.files.get(path) {
            Some(bytes) if bytes.len() > bytes_max => Err(io::ErrorKind::FileTooLarge.into()),
            Some(bytes) => Ok(bytes.clone()),
            None if self.is_folder(path) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn open(&self, path: &Path, bytes_max: usize, links: Links) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(io::Cursor::new(self.read(path, bytes_max, links)?)))
    }

    fn list(&self, folder: &Path, names_max: usize) -> io::Result<Vec<String>> {
        if self.files.contains_key(folder) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        if !self.is_folder(folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = self.files.keys().filter_map(|file| file.strip_prefix(folder).ok());
        let names: BTreeSet<String> = inside
            .filter_map(|rest| rest.components().next())
            .map(|name| name.as_os_str().to_string_lossy().into_owned())
            .collect();
        if names.len() > names_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(names.into_iter().collect())
    }

    fn try_write(&self, folder: &Path, _keep: bool) -> io::Result<()> {
        if self.full.contains(folder) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let blocked = self.read_only.contains(folder) || self.files.contains_key(folder);
        if blocked { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
    }
}
