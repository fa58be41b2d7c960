//! What the state folder keeps in mode `contract`: the seats that this pod holds, and when AWS last granted a round.
//!
//! One JSON file ([`crate::state_file`]) with mode 0600, since a consumption token is enough to give its seats back.
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
//! - A client token is in the file before `CheckoutLicense` is called with it, and stays until AWS has answered or
//!   [`CLIENT_TOKEN_LIFE`] is over. After a crash in between the same call is repeated, which takes no second seat.
//! - A consumption token is in the file before its seats open the gate, and is removed only when the seats were given
//!   back or have expired, or AWS does not know the token any more.
//! - The file belongs to the pod that it names. Another pod gets no grace from it and holds none of its seats. Before
//!   the other pod takes seats of its own, it gives those seats back, and repeats a checkout with an unknown answer
//!   to give back what that took. So the replacement of a StatefulSet's pod finds its predecessor's seat free. This
//!   is safe: giving back never makes more seats than were sold, and if the first pod is still alive, its next
//!   renewal fails and it takes a new seat. Taking the seat over would not be safe: pods that share a folder would
//!   share one seat.
//! - A pod without a name cannot be distinguished from the next one, so every file counts as another pod's.
//! - A file that cannot be read gives no grace. Seats that it named stay taken until they expire.

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

/// How long AWS answers a repeated `CheckoutLicense` as it did the first time. AWS documents this time for
/// `CreateToken` only; we assume no more than that.
pub const CLIENT_TOKEN_LIFE: Duration = Duration::from_secs(600);

/// How many checkouts may wait to be given back; with this many, no seat is taken. Usually there is one; restarts
/// between two attempts may add some.
pub const GIVE_BACK_MAX: usize = 4;

/// Twice what tokens and entitlements of [`GIVE_BACK_MAX`] checkouts and of two more need at the largest sizes that
/// `tollgate_marketplace::license` accepts (16 KiB, and 200 names of 255 letters).
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// The schema that is written; no other is read.
const SCHEMA: u32 = 1;

/// The file's content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    schema: u32,
    /// The pod or task that the file belongs to.
    pub pod: String,
    /// The latest granted round, if no round was refused since.
    pub granted: Option<GrantedRound>,
    /// A checkout whose answer is unknown.
    pub intent: Option<Intent>,
    /// The seats that this pod holds.
    pub seat: Option<Seat>,
    /// The seats to give back.
    pub give_back: Vec<Seat>,
}

/// When AWS last granted a round, and what is known of the grace that began then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantedRound {
    #[serde(with = "time")]
    at: Timestamp,
    /// The latest time that this pod has seen.
    #[serde(with = "time")]
    latest: Timestamp,
    /// Grace is over until AWS grants a round again.
    ended: bool,
}

impl GrantedRound {
    /// For the allowance: grace begins with the round.
    #[must_use]
    pub const fn known(self) -> Known {
        Known {
            first_failed_at: Some(self.at),
            grace_ended: self.ended,
            receipt_ended: false,
            latest: Some(self.latest),
        }
    }

    /// Whether it is later than `time`.
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

/// A checkout that was sent, or is about to be.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The client token, by which AWS recognises a repetition.
    pub client_token: String,
    /// What the checkout takes.
    pub taken: Vec<EntitlementData>,
    /// When it was first sent.
    #[serde(with = "time")]
    pub asked_at: Timestamp,
    /// Another pod made the call: if it took seats, they are given back.
    #[serde(default)]
    pub foreign: bool,
}

/// Without the token.
impl std::fmt::Debug for Intent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intent")
            .field("taken", &self.taken)
            .field("asked_at", &self.asked_at)
            .finish_non_exhaustive()
    }
}

/// The seats of one checkout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// The consumption token, which renews and gives back.
    pub token: ConsumptionToken,
    /// What was taken.
    pub taken: Vec<EntitlementData>,
    /// When it expires.
    #[serde(with = "time")]
    pub expires: Timestamp,
    /// When it was taken, or last renewed.
    #[serde(with = "time")]
    pub renewed: Timestamp,
}

impl Seat {
    /// Whether the seats may still be taken. The expiry may be one renewal later than the file says, if the process
    /// died before it could write that renewal.
    #[must_use]
    pub fn may_be_held(&self, now: Timestamp) -> bool {
        now < self.expires.plus(self.expires.since(self.renewed))
    }

    /// Whether this is at least what is wanted.
    #[must_use]
    pub fn covers(&self, wanted: &[EntitlementData]) -> bool {
        wanted.iter().all(|wanted| {
            let same = |held: &&EntitlementData| held.name == wanted.name && held.unit == wanted.unit;
            self.taken.iter().find(same).is_some_and(|held| held.value >= wanted.value)
        })
    }
}

impl Record {
    /// The record that `pod` may use: its own as it is, another pod's only to give seats back.
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
    /// The file in `folder`, which must exist.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self(StateFile::new(folder, FILE_NAME, FILE_BYTES_MAX))
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.0.path()
    }

    /// As [`Store::load`], on a thread that may block.
    pub async fn recall(&self) -> Recalled<Record> {
        let store = self.clone();
        self.0.recall(move || store.load()).await
    }

    /// As [`Store::save`], on a thread that may block.
    pub async fn keep(&self, record: Record) -> io::Result<()> {
        let store = self.clone();
        self.0.off_thread(move || store.save(&record)).await
    }

    /// The file's content; a file that is absent or unreadable is an empty record.
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

    /// What prevents the file from being read or replaced, if anything; for `doctor`.
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

    /// Makes file operations wait until the guard is dropped.
    #[cfg(test)]
    pub(super) async fn hold(&self) -> tokio::sync::OwnedMutexGuard<()> {
        self.0.hold().await
    }
}

/// Timestamps as RFC 3339.
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
