//! One small file in the state folder: replaced whole, and never touched on a thread that answers probes.
//!
//! - Replaced by write, fsync, rename, fsync of the folder: a crash leaves the old file or the new one.
//! - Created as new with mode 0600, and read only if it is a regular file: an existing file may be a link, or open to
//!   others.
//! - One access at a time, and none is waited for longer than [`DISK_TIMEOUT`]: a disk that hangs costs one thread.
//!
//! It must not know what the file says.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use tollgate_disk::{Links, describe, read_regular};

/// A disk that takes longer hangs, and must not hold up what was found out.
pub const DISK_TIMEOUT: Duration = Duration::from_secs(5);

/// What came of reading.
#[derive(Debug)]
pub enum Recalled<T> {
    /// What was read; `None` where the reading broke off.
    Read(Option<T>),
    /// The disk is slow: it will be here.
    Late(watch::Receiver<Option<T>>),
}

/// The file.
#[derive(Debug, Clone)]
pub struct StateFile {
    folder: PathBuf,
    name: &'static str,
    bytes_max: usize,
    /// Held while the disk is busy with the file.
    busy: Arc<tokio::sync::Mutex<()>>,
}

impl StateFile {
    /// `name` in `folder`, which exists.
    #[must_use]
    pub fn new(folder: PathBuf, name: &'static str, bytes_max: usize) -> Self {
        Self { folder, name, bytes_max, busy: Arc::default() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join(self.name)
    }

    /// What is written before it takes the name.
    fn temporary(&self) -> PathBuf {
        self.folder.join(format!(".{}.new", self.name))
    }

    /// What it holds, `None` where there is no file, or what keeps it from being read.
    pub fn read(&self) -> Result<Option<Vec<u8>>, String> {
        match read_regular(&self.path(), self.bytes_max, Links::Refuse) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(describe(&error)),
        }
    }

    /// What keeps it from being replaced, if that can be seen.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        let temporary = self.temporary();
        temporary.is_dir().then(|| format!("{} is a folder, not a file", temporary.display()))
    }

    /// Replaces it.
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
            // On a full disk it would take the room of the next one.
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        fs::File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(at(&self.folder))
    }

    /// Reads by `read` on a thread that may block. Where the disk takes longer than [`DISK_TIMEOUT`], the reading goes
    /// on meanwhile.
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
            // A read that panicked sends nothing; the receiver may have gone.
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

    /// Works on the file, on a thread that may block: opening and fsync take as long as the disk does.
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

    /// Has the disk be slow for as long as the guard lives.
    #[cfg(test)]
    pub(crate) async fn hold(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.busy).lock_owned().await
    }
}

/// Created as new, never opened: an existing file may be a link to another file, or be open to others.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
