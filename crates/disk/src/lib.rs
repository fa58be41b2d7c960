//! Files that others may have put in place: only regular files, read up to a limit, without blocking.
//!
//! A named pipe at the path of a configuration file would block the start silently, a device may be endless, and a link
//! in a folder that others can write to points to a file of their choice.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// What to do with a symbolic link at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Follow it: Kubernetes mounts the files of a Secret or ConfigMap as links.
    Follow,
    /// Fail: there is no reason for a link there, and it may point anywhere.
    Refuse,
}

/// Reads a whole regular file.
///
/// Fails with `NotFound` if nothing is there, with `FileTooLarge` above `bytes_max`, with `IsADirectory` for a folder,
/// and with its own text for a link, a pipe, a socket or a device. Never waits for a writer.
pub fn read_regular(path: &Path, bytes_max: usize, links: Links) -> io::Result<Vec<u8>> {
    let mut opened = open_to_read(path, bytes_max, links)?;
    // One byte more than there is, so that the end is found without growing.
    let expected = opened.file.metadata()?.len().saturating_add(1);
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or_default());
    opened.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a regular file to be read as a stream. Fails as [`read_regular`] does: at once, or when it is read, if more
/// than `bytes_max` come.
pub fn open_to_read(path: &Path, bytes_max: usize, links: Links) -> io::Result<Opened> {
    let file = open_regular(path, links, OpenOptions::new().read(true))?;
    if file.metadata()?.len() > u64::try_from(bytes_max).unwrap_or(u64::MAX) {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(Opened { file, left: bytes_max })
}

/// An open file, of which a limited number of bytes is read: it may grow, and some file systems say no size.
#[derive(Debug)]
pub struct Opened {
    file: File,
    left: usize,
}

impl Read for Opened {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(bytes)?;
        self.left = self.left.checked_sub(read).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(read)
    }
}

/// Replaces the content of an existing regular file; makes none. Does not follow links, and leaves anything else at the
/// path unchanged.
pub fn overwrite_regular(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Truncated only after it is known to be a regular file.
    let mut file = open_regular(path, Links::Refuse, OpenOptions::new().write(true))?;
    file.set_len(0)?;
    file.write_all(bytes)
}

/// Opens a regular file with `options`.
fn open_regular(path: &Path, links: Links, options: &mut OpenOptions) -> io::Result<File> {
    // Without NONBLOCK this would wait for a pipe's writer. It has no effect on a regular file.
    let mut flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    if links == Links::Refuse {
        flags |= OFlags::NOFOLLOW;
    }
    let flags = i32::try_from(flags.bits()).expect("the flags of open(2) are an int");
    let opened = options.custom_flags(flags).open(path);
    let file = opened.map_err(|error| link_fault(path, links).unwrap_or(error))?;
    // Check the opened file: the path may point elsewhere by now.
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !kind.is_file() {
        return Err(io::Error::other("is not a regular file but a pipe, a socket or a device"));
    }
    Ok(file)
}

/// Why a link could not be opened. A dangling link is not "absent": a seller's file that is one still seals.
fn link_fault(path: &Path, links: Links) -> Option<io::Error> {
    if !path.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
        return None;
    }
    let fault = match links {
        Links::Refuse => "is a symbolic link, and links are not followed here",
        Links::Follow if path.try_exists().is_ok_and(|exists| exists) => return None,
        Links::Follow => "is a symbolic link that leads nowhere",
    };
    Some(io::Error::other(fault))
}

/// What to show operators of a failed read or write; it follows the path.
#[must_use]
pub fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "is a folder, not a file".to_owned(),
        io::ErrorKind::NotADirectory => "is not a folder".to_owned(),
        io::ErrorKind::FileTooLarge => "is too large".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only".to_owned(),
        io::ErrorKind::StorageFull => "no space left".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn said(path: &Path, links: Links) -> String {
        read_regular(path, 9, links).unwrap_err().to_string()
    }

    #[test]
    fn only_regular_files_are_read_and_only_up_to_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "content").unwrap();
        for links in [Links::Follow, Links::Refuse] {
            assert_eq!(read_regular(&file, 7, links).unwrap(), b"content");
            let large = read_regular(&file, 6, links).unwrap_err();
            assert_eq!(large.kind(), io::ErrorKind::FileTooLarge);
            let large = open_to_read(&file, 6, links).unwrap_err();
            assert_eq!(large.kind(), io::ErrorKind::FileTooLarge);
            let folder = read_regular(folder.path(), 9, links).unwrap_err();
            assert_eq!(folder.kind(), io::ErrorKind::IsADirectory);
            let absent = read_regular(&file.with_file_name("absent"), 9, links).unwrap_err();
            assert_eq!(absent.kind(), io::ErrorKind::NotFound);
            assert!(said(Path::new("/dev/zero"), links).starts_with("is not a regular file"));
        }
    }

    #[test]
    fn a_file_that_is_larger_than_it_said_is_not_read_as_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "content").unwrap();
        let opened = open_to_read(&file, 9, Links::Follow).unwrap();
        std::fs::write(&file, "longer content").unwrap();
        assert_eq!(io::read_to_string(opened).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        // Its size is told as 0.
        let large = read_regular(Path::new("/proc/self/mounts"), 9, Links::Follow).unwrap_err();
        assert_eq!(large.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn only_a_regular_file_that_exists_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let absent = overwrite_regular(&file, b"new").unwrap_err();
        assert_eq!((absent.kind(), file.exists()), (io::ErrorKind::NotFound, false));
        std::fs::write(&file, "old and longer").unwrap();
        overwrite_regular(&file, b"new").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"new");

        let link = folder.path().join("link");
        symlink(&file, &link).unwrap();
        let pipe = folder.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for path in [&link, &pipe, folder.path(), Path::new("/dev/null")] {
            assert!(overwrite_regular(path, b"lost").is_err(), "{}", path.display());
        }
        assert_eq!(std::fs::read(&file).unwrap(), b"new", "what a link leads to stays as it is");
    }

    /// A plain open would block for ever.
    #[test]
    fn a_pipe_without_a_writer_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(said(&pipe, Links::Follow).starts_with("is not a regular file"));
        let link = folder.path().join("link");
        symlink(&pipe, &link).unwrap();
        assert!(said(&link, Links::Follow).starts_with("is not a regular file"));
    }

    #[test]
    fn links_are_followed_only_where_that_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let link = folder.path().join("link");
        std::fs::write(&file, "content").unwrap();
        symlink(&file, &link).unwrap();
        assert_eq!(read_regular(&link, 9, Links::Follow).unwrap(), b"content");
        assert_eq!(said(&link, Links::Refuse), "is a symbolic link, and links are not followed here");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(said(&link, Links::Follow), "is a symbolic link that leads nowhere");
        assert_eq!(said(&link, Links::Refuse), "is a symbolic link, and links are not followed here");
    }
}
