//! What the state folder remembers of a contract: the seats that this pod holds, and when AWS last granted a round.
//!
//! One JSON file ([`crate::state_file`]), mode 0600: who reads a consumption token can give its seats back.
//!
//! ```json
//! {"schema":1,"pod":"…","granted":{"at":"2026-11-24T08:00:00Z","latest":"2026-11-24T08:00:00Z","ended":false},
//!  "intent":{"client_token":"…","taken":[{"name":"users","unit":"Count","value":1}],
//!            "asked_at":"2026-11-24T08:00:00Z","foreign":false},
//!  "seat":{"token":{"token":"…","region":"us-east-1"},"taken":[…],
//!          "expires":"2026-11-24T09:00:00Z","renewed":"2026-11-24T08:00:00Z"},
//!  "give_back":[…]}
//! ```
//!
//! Invariants:
//! - A client token is here before `CheckoutLicense` is called with it, and stays until AWS has answered or
//!   [`CLIENT_TOKEN_LIFE`] is over: a crash in between is repaired by the same call, which takes no second seat.
//! - A consumption token is here before the gate opens by it, and leaves only when its seats were given back, have
//!   ended by themselves, or AWS does not know it any more.
//! - The file belongs to the pod that it names. Of another pod it grants nothing: no grace, and no seat to hold. That
//!   pod's seats are given back, and its unknown outcome is asked about in order to give it back, before this pod takes
//!   seats of its own. So a replaced pod of a StatefulSet finds the seat free that its predecessor held. This is safe:
//!   giving back never makes more seats than were sold, and were the other pod alive after all, its next renewal
//!   would find the seat gone and take a new one. Taking the seat over would not be safe: pods that share a folder
//!   would share one seat.
//! - A pod without a name cannot be distinguished from the next one: for it, every file is another pod's.
//! - A file that is there and cannot be read grants nothing either. Seats that it named stay taken until they end.

use std::io;
use std::path::PathBuf;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::registration::allowance::Known;
use crate::state_file::{Recalled, StateFile};
use tollgate_marketplace::license::{ConsumptionToken, EntitlementData};
use tollgate_time::Timestamp;

/// The file's name in the state folder.
pub const FILE_NAME: &str = "license.json";

/// So long AWS answers a repeated `CheckoutLicense` as it did before. AWS states it for `CreateToken` only; no more
/// than that is assumed.
pub const CLIENT_TOKEN_LIFE: Duration = Duration::from_secs(600);

/// Seats that wait to be given back: more are not taken while so many could not be. One is the rule; restarts between
/// two attempts may add some.
pub const GIVE_BACK_MAX: usize = 4;

/// The tokens and the entitlements of [`GIVE_BACK_MAX`] checkouts and of two more, each at the limits of the vocabulary
/// (16 KiB, and 200 names of 255 letters), need half of it.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// What is written, and the only one that is read.
const SCHEMA: u32 = 1;

/// The file's content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    schema: u32,
    /// The pod or task whose seats these are.
    pub pod: String,
    /// The latest granted round, if none was refused since.
    pub granted: Option<GrantedRound>,
    /// A checkout whose answer is not known.
    pub intent: Option<Intent>,
    /// What this pod holds.
    pub seat: Option<Seat>,
    /// What is to be given back.
    pub give_back: Vec<Seat>,
}

/// When AWS last granted a round, and what is left of the time that the gate stays open after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantedRound {
    #[serde(with = "time")]
    at: Timestamp,
    /// The latest time known.
    #[serde(with = "time")]
    latest: Timestamp,
    /// Grace is over until AWS grants a round again.
    ended: bool,
}

impl GrantedRound {
    /// As the allowance counts it: grace begins with the round.
    #[must_use]
    pub const fn known(self) -> Known {
        Known {
            first_failed_at: Some(self.at),
            grace_ended: self.ended,
            receipt_ended: false,
            latest: Some(self.latest),
        }
    }

    /// Whether it is of a later time.
    #[must_use]
    pub fn is_after(self, time: Timestamp) -> bool {
        self.at.max(self.latest) > time
    }

    /// The reverse of [`GrantedRound::known`].
    #[must_use]
    pub fn of(known: Known) -> Option<Self> {
        let at = known.first_failed_at?;
        Some(Self { at, latest: known.latest.unwrap_or(at), ended: known.grace_ended })
    }
}

/// A checkout that was asked for, or is about to be.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// What tells it from any other.
    pub client_token: String,
    /// What it takes.
    pub taken: Vec<EntitlementData>,
    /// When it was first asked for.
    #[serde(with = "time")]
    pub asked_at: Timestamp,
    /// Another pod made the call: if it took seats, they are given back.
    #[serde(default)]
    pub foreign: bool,
}

/// The token is not shown.
impl std::fmt::Debug for Intent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intent")
            .field("taken", &self.taken)
            .field("asked_at", &self.asked_at)
            .finish_non_exhaustive()
    }
}

/// What a checkout took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// What holds it.
    pub token: ConsumptionToken,
    /// What it is.
    pub taken: Vec<EntitlementData>,
    /// When it ends by itself.
    #[serde(with = "time")]
    pub expires: Timestamp,
    /// When it was taken, or last renewed.
    #[serde(with = "time")]
    pub renewed: Timestamp,
}

impl Seat {
    /// Whether AWS may still hold it for us. It may have been renewed once more by a process that died before it could
    /// write so.
    #[must_use]
    pub fn may_be_held(&self, now: Timestamp) -> bool {
        now < self.expires.plus(self.expires.since(self.renewed))
    }

    /// Whether it is at least what is wanted.
    #[must_use]
    pub fn covers(&self, wanted: &[EntitlementData]) -> bool {
        wanted.iter().all(|wanted| {
            let same = |held: &&EntitlementData| held.name == wanted.name && held.unit == wanted.unit;
            self.taken.iter().find(same).is_some_and(|held| held.value >= wanted.value)
        })
    }
}

impl Record {
    /// As `pod` may use it.
    #[must_use]
    pub fn adopted_by(mut self, pod: &str) -> Self {
        if self.pod != pod || pod.is_empty() {
            self.granted = None;
            self.give_back.extend(self.seat.take());
            if let Some(intent) = &mut self.intent {
                intent.foreign = true;
            }
        }
        pod.clone_into(&mut self.pod);
        self
    }
}

/// The file in one state folder.
#[derive(Debug, Clone)]
pub struct Store(StateFile);

impl Store {
    /// In `folder`, which exists.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self(StateFile::new(folder, FILE_NAME, FILE_BYTES_MAX))
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.0.path()
    }

    /// What the file holds, on a thread that may block.
    pub async fn recall(&self) -> Recalled<Record> {
        let store = self.clone();
        self.0.recall(move || store.load()).await
    }

    /// As [`Store::save`], on a thread that may block.
    pub async fn keep(&self, record: Record) -> io::Result<()> {
        let store = self.clone();
        self.0.off_thread(move || store.save(&record)).await
    }

    /// What the file holds; an absent file is an empty record, and so is one that cannot be read.
    #[must_use]
    pub fn load(&self) -> Record {
        self.read().unwrap_or_else(|problem| {
            tracing::warn!(
                event = "kept_license_unreadable",
                path = %self.path().display(), error = problem,
                "the kept license cannot be read: seats that it names stay taken until their checkout ends, and \
                 there is no grace period until License Manager grants a round"
            );
            Record::default()
        })
    }

    fn read(&self) -> Result<Record, String> {
        let Some(bytes) = self.0.read()? else { return Ok(Record::default()) };
        match serde_json::from_slice::<Record>(&bytes) {
            Ok(record) if record.schema == SCHEMA => Ok(record),
            Ok(record) => Err(format!("has schema {}, which this version does not read", record.schema)),
            Err(_) => Err("is torn, or was not written by tollgate".to_owned()),
        }
    }

    /// What keeps the file from being read or replaced, if anything; for `doctor`.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        match self.read() {
            Err(problem) => Some(format!("{} {problem}", self.path().display())),
            Ok(_) => self.0.obstacle(),
        }
    }

    /// Replaces the file.
    pub fn save(&self, record: &Record) -> io::Result<()> {
        let record = Record { schema: SCHEMA, ..record.clone() };
        self.0.replace(&serde_json::to_vec(&record)?)
    }

    /// Has the disk be slow for as long as the guard lives.
    #[cfg(test)]
    pub(super) async fn hold(&self) -> tokio::sync::OwnedMutexGuard<()> {
        self.0.hold().await
    }
}

/// RFC 3339.
mod time {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use tollgate_time::Timestamp;

    pub(super) fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(at)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        Timestamp::parse(&text).ok_or_else(|| D::Error::custom("no time of RFC 3339"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);

    fn users(value: u64) -> Vec<EntitlementData> {
        vec![EntitlementData { name: "users".into(), unit: "Count".into(), value: Some(value) }]
    }

    fn seat(token: &str) -> Seat {
        let token = ConsumptionToken::new(token.to_owned()).unwrap();
        Seat { token, taken: users(2), expires: AT.plus(Duration::from_secs(3600)), renewed: AT }
    }

    fn full(pod: &str) -> Record {
        let intent = Intent { client_token: "client".into(), taken: users(2), asked_at: AT, foreign: false };
        Record {
            pod: pod.to_owned(),
            granted: GrantedRound::of(Known { first_failed_at: Some(AT), ..Known::default() }),
            intent: Some(intent),
            seat: Some(seat("held")),
            give_back: vec![seat("old")],
            ..Record::default()
        }
    }

    #[test]
    fn what_is_saved_is_loaded_with_mode_0600_and_shows_no_token() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned());
        assert_eq!((store.load(), store.obstacle()), (Record::default(), None));
        store.save(&full("a")).unwrap();
        assert_eq!(store.load(), Record { schema: SCHEMA, ..full("a") });
        let mode = std::fs::metadata(store.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let shown = format!("{:?}", store.load());
        for secret in ["client", "held", "old"] {
            assert!(!shown.contains(&format!("\"{secret}\"")), "{shown}");
        }
    }

    #[test]
    fn its_own_pod_goes_on_with_what_it_held() {
        assert_eq!(full("a").adopted_by("a"), full("a"));
    }

    #[test]
    fn another_pods_seats_are_given_back_and_grant_nothing() {
        for (was, is) in [("a", "b"), ("", ""), ("a", ""), ("", "b")] {
            let adopted = full(was).adopted_by(is);
            assert_eq!((adopted.pod.as_str(), adopted.granted, &adopted.seat), (is, None, &None));
            assert_eq!(adopted.give_back, [seat("old"), seat("held")]);
            assert!(adopted.intent.as_ref().is_some_and(|intent| intent.foreign));
            let again: Record = serde_json::from_str(&serde_json::to_string(&adopted).unwrap()).unwrap();
            assert!(
                again.adopted_by(is).intent.is_some_and(|intent| intent.foreign),
                "a crash changes nothing"
            );
        }
    }

    #[test]
    fn a_torn_foreign_or_huge_file_grants_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned());
        let huge = vec![b' '; FILE_BYTES_MAX + 1];
        for bytes in [&b""[..], b"{\"schema\":1,\"pod\":", b"[]", b"{\"schema\":9,\"pod\":\"x\"}", &huge] {
            std::fs::write(store.path(), bytes).unwrap();
            assert_eq!(store.load(), Record::default());
            assert!(store.obstacle().is_some());
        }
        std::fs::remove_file(store.path()).unwrap();
        std::os::unix::fs::symlink("/nowhere", store.path()).unwrap();
        assert!(store.obstacle().is_some());
    }

    #[test]
    fn the_largest_record_fits_the_file() {
        let name = "n".repeat(tollgate_marketplace::license::TEXT_CHARS_MAX);
        let taken: Vec<_> = (0..tollgate_marketplace::license::ENTITLEMENTS_MAX)
            .map(|_| EntitlementData {
                name: name.clone(),
                unit: "Kilobytes/Second".into(),
                value: Some(u64::MAX),
            })
            .collect();
        let token = "t".repeat(tollgate_marketplace::license::CONSUMPTION_TOKEN_BYTES_MAX);
        let seat = Seat { taken: taken.clone(), ..seat(&token) };
        let mut record = full("pod");
        record.give_back = vec![seat.clone(); GIVE_BACK_MAX + 1];
        record.intent = record.intent.map(|intent| Intent { taken, ..intent });
        record.seat = Some(seat);
        let bytes = serde_json::to_vec(&record).unwrap().len();
        assert!(bytes < FILE_BYTES_MAX, "{bytes}");
    }

    #[test]
    fn a_seat_is_held_for_one_renewal_longer_than_the_file_knows() {
        let life = Duration::from_secs(3600);
        assert!(seat("t").may_be_held(AT.plus(2 * life - Duration::from_secs(1))));
        assert!(!seat("t").may_be_held(AT.plus(2 * life)));
    }

    #[test]
    fn a_seat_covers_what_is_no_more_than_it() {
        assert!(seat("t").covers(&users(1)) && seat("t").covers(&users(2)) && seat("t").covers(&[]));
        assert!(!seat("t").covers(&users(3)));
        let nodes = EntitlementData { name: "nodes".into(), ..users(1).remove(0) };
        assert!(!seat("t").covers(&[nodes]));
    }
}
