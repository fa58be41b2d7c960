//! The termination message of the container: the kubelet reads it from a file, and `kubectl describe` shows it.

use std::path::Path;

use tollgate_disk as disk;

/// Where the kubelet mounts a file for it; outside Kubernetes the file does not exist.
const PATH: &str = "/dev/termination-log";

/// The kubelet reads no more than this.
const BYTES_MAX: usize = 4096;

/// Writes `sentence` into the kubelet's file, if it exists. Best effort: standard error has the sentence too.
pub fn leave(sentence: &str) {
    leave_at(Path::new(PATH), sentence);
}

fn leave_at(path: &Path, sentence: &str) {
    let end = sentence.floor_char_boundary(BYTES_MAX);
    if let Err(error) = disk::overwrite_regular(path, &sentence.as_bytes()[..end]) {
        tracing::debug!(%error, "the termination message could not be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_cut_between_letters_where_the_kubelet_would_cut_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("termination-log");
        leave_at(&path, "nobody listens");
        assert!(!path.exists(), "no file is made where the kubelet has mounted none");
        std::fs::write(&path, "").unwrap();
        for (sentence, bytes) in [("denied: why".to_owned(), 11), ("a".to_owned() + &"ü".repeat(3000), 4095)]
        {
            leave_at(&path, &sentence);
            let left = std::fs::read_to_string(&path).unwrap();
            assert!(left.len() == bytes && sentence.starts_with(&left), "{}", left.len());
        }
    }
}
