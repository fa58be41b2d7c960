//! One small file in the state folder: always replaced as a whole, and never accessed on a thread that answers probes.
//!
//! - Replaced by write, fsync, rename, fsync of the folder: a crash leaves the old file or the new one.
//! - Created as a new file with mode 0600, and read only if it is a regular file: an existing file may be a link, or
//!   readable by others.
//! - One access at a time, and nothing waits for one longer than [`DISK_TIMEOUT`]: a disk that hangs blocks one thread.
//!
//! It does not know the file's content.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use tollgate_disk::{Links, describe, read_regular};

/// A disk that takes longer counts as hanging; the process continues without it.
pub const DISK_TIMEOUT: Duration = Duration::from_secs(5);

/// The outcome of reading.
#[derive(Debug)]
pub enum Recalled<T> {
    /// The content; `None` if reading panicked.
    Read(Option<T>),
    /// The disk is slow: the content will arrive here.
    Late(watch::Receiver<Option<T>>),
}

/// The file.
#[derive(Debug, Clone)]
pub struct StateFile {
    folder: PathBuf,
    name: &'static str,
    bytes_max: usize,
    /// Locked while the file is being accessed.
    busy: Arc<tokio::sync::Mutex<()>>,
}

impl StateFile {
    /// The file `name` in `folder`, which must exist.
    #[must_use]
    pub fn new(folder: PathBuf, name: &'static str, bytes_max: usize) -> Self {
        Self { folder, name, bytes_max, busy: Arc::default() }
    }

    /// The file's path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join(self.name)
    }

    /// The new content's path until it is renamed.
    fn temporary(&self) -> PathBuf {
        self.folder.join(format!(".{}.new", self.name))
    }

    /// The file's content; `None` if there is no file; or why it cannot be read.
    pub fn read(&self) -> Result<Option<Vec<u8>>, String> {
        match read_regular(&self.path(), self.bytes_max, Links::Refuse) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(describe(&error)),
        }
    }

    /// What prevents the file from being replaced, if that is visible beforehand.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        let temporary = self.temporary();
        temporary.is_dir().then(|| format!("{} is a folder, not a file", temporary.display()))
    }

    /// Replaces the file.
    pub fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let (path, temporary) = (self.path(), self.temporary());
        let at = |path: &Path| {
            let path = path.display().to_string();
            move |error: io::Error| io::Error::new(error.kind(), format!("{path}: {}", describe(&error)))
        };
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&temporary)(error)),
            _ => {}
        }
        let written = write_new(&temporary, bytes).map_err(at(&temporary));
        if let Err(error) = written.and_then(|()| fs::rename(&temporary, &path).map_err(at(&path))) {
            // Left behind, it would take space on a full disk.
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        fs::File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(at(&self.folder))
    }

    /// Calls `read` on a thread that may block. If that takes longer than [`DISK_TIMEOUT`], it continues in the
    /// background.
    pub async fn recall<T: Clone + Send + Sync + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Recalled<T> {
        let busy = Arc::clone(&self.busy);
        let (done, mut seen) = watch::channel(None);
        tokio::spawn(async move {
            let turn = busy.lock_owned().await;
            let loaded = tokio::task::spawn_blocking(move || {
                let loaded = read();
                drop(turn);
                loaded
            });
            // A read that panicked sends nothing; the receiver may have been dropped.
            if let Ok(loaded) = loaded.await {
                done.send_replace(Some(loaded));
            }
        });
        let in_time = tokio::time::timeout(DISK_TIMEOUT, seen.wait_for(Option::is_some)).await;
        match in_time.map(|seen| seen.ok().and_then(|loaded| loaded.clone())) {
            Ok(loaded) => Recalled::Read(loaded),
            Err(_) => Recalled::Late(seen),
        }
    }

    /// Accesses the file on a thread that may block: opening and fsync take as long as the disk does.
    pub async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let worked = async {
            let turn = Arc::clone(&self.busy).lock_owned().await;
            let work = tokio::task::spawn_blocking(move || {
                let done = work();
                drop(turn);
                done
            });
            work.await.map_err(io::Error::other)?
        };
        let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer within 5 s"));
        tokio::time::timeout(DISK_TIMEOUT, worked).await.unwrap_or_else(late)
    }

    /// Makes accesses wait until the guard is dropped.
    #[cfg(test)]
    pub(crate) async fn hold(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.busy).lock_owned().await
    }
}

/// Creates the file and never opens an existing one, which may be a link, or readable by others.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
