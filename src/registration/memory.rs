//! What the state folder remembers of registration: the kept receipt, and since when attempts have failed.
//!
//! One JSON file ([`crate::state_file`]) with mode 0600, since the token could be replayed. The receipt is verified
//! again before it is used; without a receipt AWS is called. A file that exists and cannot be read (torn, foreign,
//! too large, not a file) may have said that the grace period is over. It is treated as if it did until AWS answers;
//! otherwise each restart would begin the grace period again.
//!
//! ```json
//! {"schema":2,"pod":"…","first_failed_at":"2026-11-24T08:00:00Z","refused":false,"denied":false,
//!  "grace_ended":false,"receipt_ended":false,"latest":"2026-11-24T08:00:15Z",
//!  "receipt":{"pod":"…","token":"…","nonce":"…","product_code":"…","public_key_version":1,
//!             "stored_at":"2026-11-24T07:00:00Z"}}
//! ```
//!
//! The receipt has a `pod` of its own, which does not change when another pod writes the file. Schema 1 (version
//! 0.1.0) had one `pod` for both. There the receipt counts only if no attempt has failed since, because only a
//! success wrote both.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::registration::allowance::Known;
use crate::state_file::{self, StateFile};
use tollgate_marketplace::{Nonce, ProductCode, PublicKeyVersion};
use tollgate_receipt::Receipt;
use tollgate_time::Timestamp;

/// The file's name in the state folder.
pub const FILE_NAME: &str = "registration.json";

/// How long after AWS issued it a kept receipt opens the gate without a further limit; see also
/// [`OLD_RECEIPT_OPENS_FOR`](super::allowance::OLD_RECEIPT_OPENS_FOR).
pub const KEPT_RECEIPT_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// A token has at most 8 KiB; a file that is much larger was not written by tollgate.
const FILE_BYTES_MAX: usize = 64 * 1024;

/// The schema that is written.
const SCHEMA: u32 = 2;

/// The schemas that are read; a file with another one counts as unreadable.
const SCHEMAS_READ: std::ops::RangeInclusive<u32> = 1..=SCHEMA;

/// The file's content.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Record {
    schema: u32,
    /// The pod or task that wrote the file last.
    pub pod: String,
    /// RFC 3339.
    first_failed_at: Option<String>,
    /// AWS refused this pod or a token failed verification, and no attempt has succeeded since.
    pub refused: bool,
    /// AWS called this pod not entitled, and no attempt has succeeded since.
    #[serde(default)]
    pub denied: bool,
    /// See [`Known::grace_ended`].
    #[serde(default)]
    grace_ended: bool,
    /// See [`Known::receipt_ended`].
    #[serde(default)]
    receipt_ended: bool,
    /// RFC 3339; see [`Known::latest`].
    #[serde(default)]
    latest: Option<String>,
    /// The latest receipt.
    pub receipt: Option<KeptReceipt>,
}

/// A receipt in the file: everything needed to verify it again.
#[derive(Clone, Serialize, Deserialize)]
pub struct KeptReceipt {
    /// The pod or task that AWS issued it to.
    #[serde(default)]
    pod: Option<String>,
    token: String,
    nonce: String,
    product_code: String,
    public_key_version: i64,
    /// RFC 3339; used instead of `iat` if the token has none.
    stored_at: String,
}

/// Without token and nonce.
impl std::fmt::Debug for KeptReceipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptReceipt").field("stored_at", &self.stored_at).finish_non_exhaustive()
    }
}

impl KeptReceipt {
    fn of(pod: &str, receipt: &Receipt, now: Timestamp) -> Self {
        Self {
            pod: Some(pod.to_owned()),
            token: receipt.token().to_owned(),
            nonce: receipt.nonce().as_str().to_owned(),
            product_code: receipt.product_code().as_str().to_owned(),
            public_key_version: receipt.public_key_version().value().into(),
            stored_at: now.to_string(),
        }
    }

    /// The parsed parts; `None` if one of them is not valid.
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
    /// The record for a file that exists and cannot be read, or was not read yet.
    #[must_use]
    pub fn unknown() -> Self {
        Self { grace_ended: true, receipt_ended: true, ..Self::default() }
    }

    /// What is known of grace and of the receipt's age.
    #[must_use]
    pub fn known(&self) -> Known {
        let time = |text: &Option<String>| text.as_deref().and_then(Timestamp::parse);
        Known {
            first_failed_at: time(&self.first_failed_at),
            grace_ended: self.grace_ended,
            receipt_ended: self.receipt_ended,
            latest: time(&self.latest),
        }
    }

    /// The receipt of `pod`, if the file has it. A pod without a name cannot be distinguished from the next one, so
    /// it has none.
    #[must_use]
    pub fn receipt_of(&self, pod: &str) -> Option<&KeptReceipt> {
        let receipt = self.receipt.as_ref()?;
        let owner = match self.schema {
            1 => Some(self.pod.as_str()).filter(|_| self.first_failed_at.is_none()),
            _ => receipt.pod.as_deref(),
        };
        (!pod.is_empty() && owner == Some(pod)).then_some(receipt)
    }

    /// Attempts have failed since the latest success.
    pub fn failing(&mut self, pod: &str, known: Known, refused: bool, denied: bool) {
        // `pod` is overwritten below, so the receipt's owner, which schema 1 did not write separately, is noted first.
        if self.schema == 1 {
            let owner = Some(self.pod.clone()).filter(|_| self.first_failed_at.is_none());
            self.receipt = self.receipt.take().map(|receipt| KeptReceipt { pod: owner, ..receipt });
            self.schema = SCHEMA;
        }
        pod.clone_into(&mut self.pod);
        self.first_failed_at = known.first_failed_at.map(|at| at.to_string());
        self.grace_ended = known.grace_ended;
        self.receipt_ended = known.receipt_ended;
        self.latest = known.latest.map(|at| at.to_string());
        self.refused = refused;
        self.denied = denied;
    }

    /// Notes the latest known time.
    pub fn passed(&mut self, latest: Timestamp) {
        self.latest = Some(latest.to_string());
    }

    /// The latest attempt succeeded; `receipt` is the receipt to keep, if any.
    pub fn succeeded(&mut self, pod: &str, receipt: Option<&Receipt>, now: Timestamp) {
        *self = Self {
            schema: SCHEMA,
            pod: pod.to_owned(),
            latest: Some(now.to_string()),
            receipt: receipt.filter(|_| !pod.is_empty()).map(|receipt| KeptReceipt::of(pod, receipt, now)),
            ..Self::default()
        };
    }
}

/// The outcome of reading the file.
pub type Recalled = state_file::Recalled<Record>;

/// The file in one state folder.
#[derive(Debug, Clone)]
pub struct Store(StateFile);

impl Store {
    /// The file in `folder`, which must exist.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self(StateFile::new(folder, FILE_NAME, FILE_BYTES_MAX))
    }

    /// As [`Store::load`], on a thread that may block. If the disk takes longer, reading continues in the background.
    pub async fn recall(&self) -> Recalled {
        let store = self.clone();
        let recalled = self.0.recall(move || store.load()).await;
        match &recalled {
            Recalled::Read(Some(_)) => {}
            Recalled::Read(None) => return Recalled::Read(Some(self.unreadable("the read was aborted"))),
            Recalled::Late(_) => {
                tracing::warn!(
                    event = "kept_registration_late",
                    path = %self.0.path().display(),
                    "the kept registration was not read within 5 s: reading continues, and until it is done neither \
                     the grace period nor a kept receipt opens the gate"
                );
            }
        }
        recalled
    }

    fn unreadable(&self, problem: &str) -> Record {
        tracing::warn!(
            event = "kept_registration_unreadable",
            path = %self.0.path().display(), error = problem,
            "the kept registration cannot be read: until AWS answers, neither the grace period nor a kept receipt \
             opens the gate, and whether AWS refused this pod before is unknown"
        );
        Record::unknown()
    }

    /// Makes file operations wait until the guard is dropped.
    #[cfg(test)]
    pub(super) async fn hold(&self) -> tokio::sync::OwnedMutexGuard<()> {
        self.0.hold().await
    }

    /// As [`Store::save`], on a thread that may block.
    pub async fn keep(&self, record: Record) -> io::Result<()> {
        let store = self.clone();
        self.0.off_thread(move || store.save(&record)).await
    }

    /// The file's content; an absent file is an empty record, an unreadable one [`Record::unknown`].
    #[must_use]
    pub fn load(&self) -> Record {
        self.read().unwrap_or_else(|problem| self.unreadable(&problem))
    }

    fn read(&self) -> Result<Record, String> {
        let Some(bytes) = self.0.read()? else { return Ok(Record::default()) };
        match serde_json::from_slice::<Record>(&bytes) {
            Ok(record) if SCHEMAS_READ.contains(&record.schema) => Ok(record),
            Ok(record) => Err(format!("has schema {}, which this version does not read", record.schema)),
            Err(_) => Err("is torn, or was not written by tollgate".to_owned()),
        }
    }

    /// What prevents the file from being read or replaced, if anything; for `doctor`.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        match self.read() {
            Err(problem) => Some(format!("{} {problem}", self.0.path().display())),
            Ok(_) => self.0.obstacle(),
        }
    }

    /// Replaces the file.
    pub fn save(&self, record: &Record) -> io::Result<()> {
        let record = Record { schema: SCHEMA, ..record.clone() };
        self.0.replace(&serde_json::to_vec(&record)?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TEMPORARY_NAME: &str = ".registration.json.new";

    #[test]
    fn what_is_saved_is_loaded_with_mode_0600() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned());
        let mut record = store.load();
        let at = Timestamp::from_unix_seconds(1_795_507_200);
        let known =
            Known { first_failed_at: Some(at), grace_ended: true, latest: Some(at), ..Known::default() };
        record.failing("pod-1", known, true, false);
        store.save(&record).unwrap();
        let loaded = store.load();
        assert_eq!((loaded.known(), loaded.refused, loaded.pod.as_str()), (known, true, "pod-1"));
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
    fn a_torn_foreign_or_huge_file_says_nothing_and_ends_grace() {
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
            assert!(record.known().grace_ended && record.known().receipt_ended);
            assert!(store.obstacle().is_some());
        }
        fs::remove_file(folder.path().join(FILE_NAME)).unwrap();
        assert_eq!((store.load().known(), store.obstacle()), (Known::default(), None));
    }

    /// Otherwise each start would begin the grace period again, and no log line would name the file.
    #[test]
    fn a_folder_or_a_link_in_the_files_place_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned());
        for name in [FILE_NAME, TEMPORARY_NAME] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.join("full")).unwrap();
            let error = store.save(&Record::default()).unwrap_err().to_string();
            assert_eq!(error, format!("{}: is a folder, not a file", path.display()));
            assert_eq!(store.load().known().grace_ended, name == FILE_NAME);
            assert!(
                store
                    .obstacle()
                    .is_some_and(|said| said.contains(name) && said.ends_with("is a folder, not a file"))
            );
            fs::remove_dir_all(path).unwrap();
        }
        std::os::unix::fs::symlink("/nowhere", folder.path().join(FILE_NAME)).unwrap();
        assert!(store.load().known().grace_ended);
        store.save(&Record::default()).unwrap();
        assert_eq!((store.load().known(), store.obstacle()), (Known::default(), None));
    }

    const AT: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);

    fn kept(file: &str) -> Record {
        serde_json::from_str(file).unwrap()
    }

    const RECEIPT: &str = r#""token":"t","nonce":"n","product_code":"p","public_key_version":1,"stored_at":"2026-11-24T08:00:00Z""#;

    /// A pod that starts twice on another pod's volume must not get that pod's receipt.
    #[test]
    fn another_pod_that_writes_the_file_leaves_the_receipt_to_its_owner() {
        let first =
            kept(&format!(r#"{{"schema":2,"pod":"a","refused":false,"receipt":{{"pod":"a",{RECEIPT}}}}}"#));
        let mut record = first.clone();
        for _ in 0..3 {
            let known = Known { first_failed_at: Some(AT), ..record.known() };
            record.failing("b", known, false, false);
            record = kept(&serde_json::to_string(&record).unwrap());
            assert!(record.receipt_of("b").is_none() && record.receipt_of("").is_none());
            assert!(record.receipt_of("a").is_some());
        }
    }

    #[test]
    fn a_file_of_0_1_0_is_believed_only_as_far_as_one_pod_wrote_it() {
        let file = |failed: &str| {
            kept(&format!(
                r#"{{"schema":1,"pod":"a","first_failed_at":{failed},"refused":false,"receipt":{{{RECEIPT}}}}}"#
            ))
        };
        let mut succeeded = file("null");
        assert!(succeeded.receipt_of("a").is_some() && succeeded.receipt_of("b").is_none());
        succeeded.failing("b", Known::default(), false, false);
        assert!(succeeded.receipt_of("a").is_some() && succeeded.receipt_of("b").is_none());
        let mut rewritten = file(r#""2026-11-24T09:00:00Z""#);
        assert!(rewritten.receipt_of("a").is_none(), "it may be an earlier pod's");
        rewritten.failing("a", Known::default(), false, false);
        assert!(rewritten.receipt_of("a").is_none());
    }
}
