//! What the state folder remembers of registration: the kept receipt, and since when attempts have failed.
//!
//! One JSON file, replaced whole (write, fsync, rename, fsync of the folder), mode 0600 since the token can be replayed
//! to whoever trusts it. A file that is torn, too large or from another pod is worth a log line and nothing more: the
//! receipt is verified again before it counts, and without it AWS is simply asked.
//!
//! ```json
//! {"schema":1,"pod":"…","first_failed_at":"2026-11-24T08:00:00Z","refused":false,
//!  "receipt":{"token":"…","nonce":"…","product_code":"…","public_key_version":1,"stored_at":"2026-11-24T08:00:00Z"}}
//! ```

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::disk::{Links, read_regular};
use crate::marketplace::{Nonce, ProductCode, PublicKeyVersion};
use crate::receipt::Receipt;

/// The file's name in the state folder.
pub const FILE_NAME: &str = "registration.json";

/// A kept receipt opens the gate for at most so long after AWS issued it.
pub const KEPT_RECEIPT_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// A token has at most 8 KiB; anything far above is not our file.
const FILE_BYTES_MAX: usize = 64 * 1024;

/// Only this schema is written and read; another one is left alone and counts as absent.
const SCHEMA: u32 = 1;

/// The file's content.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Record {
    schema: u32,
    /// The pod or task that wrote it.
    pub pod: String,
    /// RFC 3339.
    first_failed_at: Option<String>,
    /// AWS refused this pod or a token was bad, and no attempt has succeeded since.
    pub refused: bool,
    /// AWS called this pod not entitled, and no attempt has succeeded since.
    #[serde(default)]
    pub denied: bool,
    /// The latest receipt.
    pub receipt: Option<KeptReceipt>,
}

/// A receipt in the file: everything needed to verify it again.
#[derive(Clone, Serialize, Deserialize)]
pub struct KeptReceipt {
    token: String,
    nonce: String,
    product_code: String,
    public_key_version: i64,
    /// RFC 3339; stands in for `iat` where the token has none.
    stored_at: String,
}

/// Neither token nor nonce is shown.
impl std::fmt::Debug for KeptReceipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptReceipt").field("stored_at", &self.stored_at).finish_non_exhaustive()
    }
}

impl KeptReceipt {
    fn of(receipt: &Receipt, now: Timestamp) -> Self {
        Self {
            token: receipt.token().to_owned(),
            nonce: receipt.nonce().as_str().to_owned(),
            product_code: receipt.product_code().as_str().to_owned(),
            public_key_version: receipt.public_key_version().value().into(),
            stored_at: now.to_string(),
        }
    }

    /// The parts, parsed; `None` when the file was written by something else.
    #[must_use]
    pub fn parts(&self) -> Option<(&str, Nonce, ProductCode, PublicKeyVersion, Timestamp)> {
        Some((
            &self.token,
            self.nonce.parse().ok()?,
            self.product_code.parse().ok()?,
            PublicKeyVersion::try_new(self.public_key_version).ok()?,
            Timestamp::parse(&self.stored_at)?,
        ))
    }
}

impl Record {
    /// When the first attempt failed.
    #[must_use]
    pub fn first_failed_at(&self) -> Option<Timestamp> {
        self.first_failed_at.as_deref().and_then(Timestamp::parse)
    }

    /// Attempts have failed since.
    pub fn failing(&mut self, pod: &str, first_failed_at: Timestamp, refused: bool) {
        pod.clone_into(&mut self.pod);
        self.first_failed_at = Some(first_failed_at.to_string());
        self.refused = refused;
    }

    /// The latest attempt succeeded; `receipt` is kept if the seller wants so.
    pub fn succeeded(&mut self, pod: &str, receipt: Option<&Receipt>, now: Timestamp) {
        *self = Self {
            schema: SCHEMA,
            pod: pod.to_owned(),
            first_failed_at: None,
            refused: false,
            denied: false,
            receipt: receipt.map(|receipt| KeptReceipt::of(receipt, now)),
        };
    }
}

/// The file in one state folder.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// In `folder`, which exists.
    #[must_use]
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// What the file holds; an absent file is an empty record.
    #[must_use]
    pub fn load(&self) -> Record {
        let path = self.folder.join(FILE_NAME);
        match read_regular(&path, FILE_BYTES_MAX, Links::Refuse) {
            Ok(bytes) => match serde_json::from_slice::<Record>(&bytes) {
                Ok(record) if record.schema == SCHEMA => record,
                _ => {
                    tracing::warn!(path = %path.display(), "the kept registration is not readable and is ignored");
                    Record::default()
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Record::default(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the kept registration cannot be read and is ignored");
                Record::default()
            }
        }
    }

    /// Replaces the file.
    pub fn save(&self, record: &Record) -> io::Result<()> {
        let record = Record { schema: SCHEMA, ..record.clone() };
        let bytes = serde_json::to_vec(&record)?;
        let temporary = self.folder.join(".registration.json.new");
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Made anew, never opened: what stands there may be a link to another file, or be open to others.
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, self.folder.join(FILE_NAME))?;
        fs::File::open(&self.folder)?.sync_all()
    }
}

/// Until when a receipt issued (or else stored) at `issued_at` opens the gate; `None` when it no longer does or comes
/// from the future.
#[must_use]
pub fn opens_until(issued_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let until = issued_at.plus(KEPT_RECEIPT_AGE_MAX);
    (issued_at <= now && now <= until).then_some(until)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_with_mode_0600() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned());
        let mut record = store.load();
        let at = Timestamp::from_unix_seconds(1_795_507_200);
        record.failing("pod-1", at, true);
        store.save(&record).unwrap();
        let loaded = store.load();
        assert_eq!(
            (loaded.first_failed_at(), loaded.refused, loaded.pod.as_str()),
            (Some(at), true, "pod-1")
        );
        let mode = fs::metadata(folder.path().join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_link_in_the_temporary_files_place_is_not_followed() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, folder.path().join(".registration.json.new")).unwrap();
        Store::new(folder.path().to_owned()).save(&Record::default()).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        let mode = fs::symlink_metadata(folder.path().join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_torn_foreign_or_huge_file_counts_as_absent() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned());
        let huge = vec![b' '; FILE_BYTES_MAX + 1];
        for bytes in [
            &b""[..],
            b"{\"schema\":1,\"pod\":",
            b"[]",
            b"{\"schema\":9,\"pod\":\"x\",\"refused\":true}",
            &huge,
        ] {
            fs::write(folder.path().join(FILE_NAME), bytes).unwrap();
            let record = store.load();
            assert!(record.pod.is_empty() && record.receipt.is_none() && !record.refused);
        }
    }

    #[test]
    fn a_receipt_opens_for_a_day_and_never_from_the_future() {
        let issued = Timestamp::from_unix_seconds(1_000_000);
        let day = KEPT_RECEIPT_AGE_MAX;
        assert_eq!(opens_until(issued, issued), Some(issued.plus(day)));
        assert_eq!(opens_until(issued, issued.plus(day)), Some(issued.plus(day)));
        assert_eq!(opens_until(issued, issued.plus(day + Duration::from_millis(1))), None);
        assert_eq!(opens_until(issued, issued.minus(Duration::from_millis(1))), None);
    }
}
