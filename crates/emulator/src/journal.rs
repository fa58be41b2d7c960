//! The journal in the state folder: every change as a line of JSON, written before its call is answered.
//!
//! - A line is written with one system call: a killed emulator loses nothing that it answered; only a machine that
//!   loses power may lose something.
//! - A torn last line, which a kill during a write leaves, is cut off. Anything else that cannot be read is an error
//!   with its line number, and the file is not changed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead as _, BufReader, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use super::change::Change;

/// The file below the state folder.
const FILE: &str = "journal.jsonl";

/// Largest journal: some four million changes, and small enough for a laptop's disk.
const BYTES_MAX: u64 = 1 << 30;

/// The journal's file.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    /// The length of its complete lines.
    bytes: u64,
    /// Half a line may follow: writing it failed, and so did cutting it off.
    torn: bool,
}

impl Journal {
    /// Opens the journal of a folder, and passes every change in it to `apply`, oldest first. `None` if another
    /// emulator uses it.
    pub(super) fn open(folder: &Path, mut apply: impl FnMut(&Change)) -> io::Result<Option<Self>> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(FILE);
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
        // Two writers would bill the same hour twice.
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut reader = BufReader::new(&file);
        let (mut line, mut number, mut bytes) = (String::new(), 0_u64, 0_u64);
        loop {
            line.clear();
            let read = reader.read_line(&mut line)?;
            if read == 0 {
                break;
            }
            number += 1;
            if !line.ends_with('\n') {
                tracing::warn!(path = %path.display(), number, "the journal's torn last line is cut off");
                file.set_len(bytes)?;
                break;
            }
            let change = serde_json::from_str(&line).map_err(|error| {
                let text = format!("{}:{number}: {error}; remove the file to start anew", path.display());
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?;
            apply(&change);
            bytes += read as u64;
        }
        Ok(Some(Self { file, path, bytes, torn: false }))
    }

    /// Writes changes. After an error none of them counts.
    pub(super) fn append(&mut self, changes: &[Change]) -> io::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::with_capacity(256 * changes.len());
        for change in changes {
            serde_json::to_writer(&mut lines, change)?;
            lines.push(b'\n');
        }
        let bytes = self.bytes + lines.len() as u64;
        if bytes > BYTES_MAX {
            let text = format!("{} has reached 1 GiB; POST /_emulator/reset empties it", self.path.display());
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        if self.torn {
            self.cut()?;
        }
        if let Err(error) = self.file.write_all(&lines) {
            // Half a line would make the next one unreadable.
            self.torn = self.cut().is_err();
            let text = format!("{}: {error}", self.path.display());
            return Err(io::Error::new(error.kind(), text));
        }
        self.bytes = bytes;
        Ok(())
    }

    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.bytes)?;
        self.torn = false;
        Ok(())
    }

    /// Deletes all changes.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        (self.bytes, self.torn) = (0, false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(pod: &str) -> Change {
        Change::Seen { pod: pod.to_owned(), at: 1 }
    }

    fn read(folder: &Path) -> io::Result<Vec<Change>> {
        let mut changes = Vec::new();
        Journal::open(folder, |change| changes.push(change.clone())).map(|_| changes)
    }

    #[test]
    fn changes_come_back_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), |_| {}).unwrap().unwrap();
        journal.append(&[seen("a"), seen("b")]).unwrap();
        journal.append(&[seen("c")]).unwrap();
        drop(journal);
        assert_eq!(read(folder.path()).unwrap(), [seen("a"), seen("b"), seen("c")]);
    }

    #[test]
    fn a_torn_last_line_is_cut_off_and_a_broken_one_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), |_| {}).unwrap().unwrap();
        journal.append(&[seen("a"), seen("b")]).unwrap();
        drop(journal);
        let path = folder.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 4]).unwrap();
        assert_eq!(read(folder.path()).unwrap(), [seen("a")]);
        let mut journal = Journal::open(folder.path(), |_| {}).unwrap().unwrap();
        journal.append(&[seen("c")]).unwrap();
        drop(journal);
        assert_eq!(read(folder.path()).unwrap(), [seen("a"), seen("c")]);

        std::fs::write(&path, b"{\"seen\":{\"pod\":\"a\",\"at\":1}}\nnonsense\n").unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("journal.jsonl:2: "), "{error}");
    }

    #[test]
    fn one_writer_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = Journal::open(folder.path(), |_| {}).unwrap();
        assert!(first.is_some());
        assert!(Journal::open(folder.path(), |_| {}).unwrap().is_none());
        drop(first);
        assert!(Journal::open(folder.path(), |_| {}).unwrap().is_some());
    }

    #[test]
    fn cleared_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), |_| {}).unwrap().unwrap();
        journal.append(&[seen("a")]).unwrap();
        journal.clear().unwrap();
        journal.append(&[seen("b")]).unwrap();
        drop(journal);
        assert_eq!(read(folder.path()).unwrap(), [seen("b")]);
    }

    #[test]
    fn half_a_line_that_could_not_be_cut_off_is_cut_off_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), |_| {}).unwrap().unwrap();
        journal.append(&[seen("a")]).unwrap();
        journal.file.write_all(b"{\"seen\":").unwrap();
        journal.torn = true;
        journal.append(&[seen("b")]).unwrap();
        drop(journal);
        assert_eq!(read(folder.path()).unwrap(), [seen("a"), seen("b")]);
    }
}
