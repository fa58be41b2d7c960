//! Decides what to do with a sealed record, and what an answer means for it. Pure.
//!
//! - A record is sent unchanged until AWS answers definitively, within AWS's window.
//! - Only this pod's records are sent, because AWS distinguishes reports by the pod.
//! - A record that was never attempted, or certainly refused, may be carried to the current hour when its window
//!   closes. A record in doubt may have been billed: it is sent once more, and then becomes a dead letter.
//! - Usage of a customer that AWS calls unsubscribed becomes a dead letter when its window closes. If it were
//!   carried, it would be sent again and again, and billed months later.
//! - Each record has its own back-off. A fault of the caller and a throttle slow the whole sender instead.
//! - AWS's clock decides about windows, not ours: a record with a time in our future is sent.

use std::time::Duration;

use crate::record::{Answered, Record};
pub use tollgate_marketplace::exceptions::NOT_ENTITLED;
use tollgate_marketplace::exceptions::{self, Kind, Verdict};
use tollgate_marketplace::fault::{NOT_SENT, REQUEST_NOT_BUILT};
use tollgate_marketplace::schedule::Draw;
use tollgate_marketplace::{AHEAD_MAX, Fault, FaultClass, Hour, RecordStatus};
use tollgate_time::Timestamp;

/// How records of one kind of call are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// This pod, whose records may be sent; empty in mode `saas`.
    pub pod: String,
    /// How long AWS accepts a record.
    pub window: Window,
    /// Carry expired usage that is certainly not billed, instead of keeping it as a dead letter.
    pub carry_expired: bool,
    /// How long after its end an hour closes.
    pub settle: Duration,
    /// How much later its records are sent, so that the pods of an account do not all report at once.
    pub phase: Duration,
}

/// How long after its time AWS accepts a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// 6 hours (AWS Marketplace API reference, MeterUsage).
    MeterUsage,
    /// 24 hours, and for the last hours of a month until 06:00 UTC on the first of the next (AWS Marketplace API
    /// reference, BatchMeterUsage).
    BatchMeterUsage,
}

const HOUR: Duration = Duration::from_secs(3600);

impl Window {
    /// When the window closes for a record of `timestamp`.
    #[must_use]
    pub fn closes(self, timestamp: Timestamp) -> Timestamp {
        match self {
            Self::MeterUsage => timestamp.plus(6 * HOUR),
            Self::BatchMeterUsage => timestamp.plus(24 * HOUR).min(timestamp.next_month().plus(6 * HOUR)),
        }
    }
}

/// The last part of the window, in which a call might arrive too late.
const MARGIN: Duration = Duration::from_secs(60);

/// How long before that a record is tried once more, whatever pause it or the whole sender has.
const LAST_TRY: Duration = Duration::from_secs(60);

/// The pause of a record that AWS refuses for its content.
const REFUSED_PAUSE: Duration = Duration::from_secs(300);

/// The first pause of a record that got no usable answer; it doubles with each attempt.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(2200);

/// The longest such pause: one record uses a sixtieth of a call a second of the quota, and the last record is sent at
/// most this long after an outage's end.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);

/// The fraction by which a pause may differ from its middle, so that records and pods do not come back together.
const PAUSE_JITTER: f64 = 0.3;

/// The longest phase; at ten calls a second it is enough for six thousand pods.
pub const PHASE_MAX: Duration = Duration::from_secs(600);

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Todo {
    /// Send the record.
    Send,
    /// Not yet.
    WaitUntil(Timestamp),
    /// The window has closed: note this decision.
    Give(Answered),
}

impl Policy {
    /// What to do with a sealed record at `now`. `flush` ignores the phase, for a shutdown; `unsubscribed`: AWS says
    /// that the pod's own customer is not entitled.
    #[must_use]
    pub fn todo(&self, record: &Record, now: Timestamp, flush: bool, unsubscribed: bool) -> Todo {
        if record.pod != self.pod {
            // Sent by this pod, it could be a second report of the same usage.
            return Todo::Give(self.expired(record, false));
        }
        if record.timestamp > now.plus(AHEAD_MAX) && record.attempts == 0 {
            return Todo::Send;
        }
        let deadline = self.deadline(record);
        if now >= deadline {
            // Its last attempt got no answer and was before this deadline. AWS may still tell what happened to it,
            // and our clock may be ahead. It is sent once more: outside AWS's window it is only refused.
            let asked = record.updated_at >= deadline;
            let once_more = record.state.in_doubt() && !asked;
            return if once_more { Todo::Send } else { Todo::Give(self.expired(record, unsubscribed)) };
        }
        // The phase of a record that was sealed early, at a shutdown, begins then.
        let due = record.hour.end().plus(self.settle).min(record.sealed_at).plus(self.phase);
        // No record misses its window because of the phase.
        if !flush && record.attempts == 0 && now < due && due < deadline {
            return Todo::WaitUntil(due);
        }
        Todo::Send
    }

    /// Until when a record may be sent.
    fn deadline(&self, record: &Record) -> Timestamp {
        self.window.closes(record.timestamp).minus(MARGIN)
    }

    /// When a record is tried for the last time.
    fn last_try(&self, record: &Record) -> Timestamp {
        self.deadline(record).minus(LAST_TRY)
    }

    /// Whether it is time for a record's last try.
    #[must_use]
    pub fn is_last_try(&self, record: &Record, now: Timestamp) -> bool {
        (self.last_try(record)..self.deadline(record)).contains(&now)
    }

    /// The latest hour that may have records at or after their last try.
    #[must_use]
    pub fn last_try_up_to(&self, now: Timestamp) -> Hour {
        self.may_have_expired(now.plus(LAST_TRY))
    }

    /// The latest hour that may have expired records.
    #[must_use]
    pub fn may_have_expired(&self, now: Timestamp) -> Hour {
        latest_hour(now, |start| self.window.closes(start).minus(MARGIN) <= now)
    }

    /// The latest hour that may have records with half of their window passed.
    #[must_use]
    pub fn alarm_up_to(&self, now: Timestamp) -> Hour {
        latest_hour(now, |start| self.alarm_at(start) <= now)
    }

    fn expired(&self, record: &Record, unsubscribed: bool) -> Answered {
        if record.state.in_doubt() {
            return Answered::Dead("in_doubt".to_owned());
        }
        match &record.code {
            Some(code) if UNSUBSCRIBED.contains(&code.as_str()) => Answered::Dead(code.clone()),
            _ if unsubscribed => Answered::Dead(NOT_ENTITLED.to_owned()),
            code => {
                let code = code.clone().unwrap_or_else(|| "expired".to_owned());
                if self.carry_expired { Answered::Carry(code) } else { Answered::Dead(code) }
            }
        }
    }

    /// When a record may be sent again, after `now`; `None` leaves its due time as it is.
    #[must_use]
    pub fn again(&self, record: &Record, pause: Pause, now: Timestamp, draw: Draw) -> Option<Timestamp> {
        let middle = match pause {
            Pause::None => return None,
            Pause::Refused => REFUSED_PAUSE,
            Pause::Retry => {
                // The record counts the attempts before this one.
                let doublings = u32::try_from(record.attempts).unwrap_or(u32::MAX).min(10);
                (RETRY_PAUSE_MIN * 2_u32.pow(doublings)).min(RETRY_PAUSE_MAX)
            }
        };
        let jittered = middle.mul_f64(1.0 - PAUSE_JITTER + 2.0 * PAUSE_JITTER * draw.fraction());
        // No pause lets a record miss its last try, or delays what happens at the deadline.
        let (last_try, deadline) = (self.last_try(record), self.deadline(record));
        let end = if now < last_try { last_try } else { deadline };
        (deadline > now).then(|| now.plus(jittered).min(end))
    }

    /// When half of the window of a record of `timestamp` has passed, and an alarm is due.
    #[must_use]
    pub fn alarm_at(&self, timestamp: Timestamp) -> Timestamp {
        timestamp.plus(self.window.closes(timestamp).since(timestamp) / 2)
    }

    /// Judges AWS's status of one record of a batch; `was_in_doubt` before the call.
    #[must_use]
    pub fn judge_status(&self, was_in_doubt: bool, status: RecordStatus) -> (Answered, Pause) {
        match status {
            RecordStatus::Success(id) => (Answered::Accepted(id), Pause::None),
            RecordStatus::CustomerNotSubscribed => {
                (Answered::Refused(NOT_SUBSCRIBED.to_owned()), Pause::Refused)
            }
            // AWS documents this for another quantity, and may use it for a repetition too: then the earlier attempt
            // has arrived.
            RecordStatus::DuplicateRecord if was_in_doubt => {
                (Answered::Unconfirmed("DuplicateRecord".to_owned()), Pause::None)
            }
            // Another report exists for the hour. If this usage were carried, it could be billed twice.
            RecordStatus::DuplicateRecord => (Answered::Dead("DuplicateRecord".to_owned()), Pause::None),
            RecordStatus::Unprocessed => (Answered::Refused("Unprocessed".to_owned()), Pause::Retry),
            RecordStatus::Unanswered => (Answered::Unknown(UNANSWERED.to_owned()), Pause::Refused),
        }
    }

    /// Judges a failed call for one of its records; `was_in_doubt` before the call.
    #[must_use]
    pub fn judge(&self, was_in_doubt: bool, fault: &Fault) -> Answered {
        let code = fault.code.as_str().to_owned();
        match exceptions::kind(&code) {
            Some(Kind::Record(Verdict::OutOfWindow)) if was_in_doubt => Answered::Dead("in_doubt".to_owned()),
            Some(Kind::Record(Verdict::OutOfWindow)) if self.carry_expired => Answered::Carry(code),
            Some(Kind::Record(Verdict::OutOfWindow | Verdict::Taken | Verdict::Never)) => {
                Answered::Dead(code)
            }
            _ if processed_unknown(fault) => Answered::Unknown(code),
            _ => Answered::Refused(code),
        }
    }
}

/// Whether a failed call is about its content, so that other records may be accepted: then a batch is halved, and
/// sending continues.
#[must_use]
pub fn concerns_the_record(fault: &Fault) -> bool {
    fault.class == FaultClass::Misconfigured && !concerns_all(fault.code.as_str())
}

/// Whether a code is about product, region, account or the request itself, so that every record would get it.
fn concerns_all(code: &str) -> bool {
    code == REQUEST_NOT_BUILT || exceptions::kind(code).is_some_and(|kind| !kind.concerns_the_record())
}

/// The latest hour whose start satisfies `past`, which must hold for all earlier hours and for all that are a day old.
fn latest_hour(now: Timestamp, past: impl Fn(Timestamp) -> bool) -> Hour {
    let mut hour = Hour::of(now.minus(25 * HOUR));
    while hour < Hour::of(now) && past(hour.next().start()) {
        hour = hour.next();
    }
    hour
}

/// What a record waits for after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// Nothing: the sender's pace decides.
    None,
    /// AWS refused this record for its content: people must act.
    Refused,
    /// No usable answer about this record.
    Retry,
}

/// What a failed call means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// AWS throttles: slow down.
    Throttled,
    /// AWS does not accept the caller or the endpoint: every record would get the same answer.
    Caller,
    /// The fault is about the content of the call: others may be accepted.
    Content,
    /// AWS did not answer.
    Silent,
}

impl Meaning {
    /// The meaning of a fault.
    #[must_use]
    pub fn of(fault: &Fault) -> Self {
        match fault.class {
            FaultClass::Transient if is_throttled(fault) => Self::Throttled,
            FaultClass::Transient => Self::Silent,
            _ if concerns_the_record(fault) => Self::Content,
            _ => Self::Caller,
        }
    }

    /// What the records of a call with `count` records wait for. A batch is split on its next turn, which shows which
    /// record is the cause, so its records have no pause.
    #[must_use]
    pub const fn pause(self, count: usize) -> Pause {
        match self {
            Self::Throttled | Self::Caller => Pause::None,
            Self::Content | Self::Silent if count > 1 => Pause::None,
            Self::Content => Pause::Refused,
            Self::Silent => Pause::Retry,
        }
    }
}

fn is_throttled(fault: &Fault) -> bool {
    exceptions::kind(fault.code.as_str()) == Some(Kind::Throttled)
}

/// AWS's status for a customer of the seller that is not subscribed.
pub const NOT_SUBSCRIBED: &str = "CustomerNotSubscribed";

/// The codes that say that the customer is not subscribed.
const UNSUBSCRIBED: [&str; 2] = [NOT_ENTITLED, NOT_SUBSCRIBED];

/// The code for a record without a status in the answer.
pub const UNANSWERED: &str = "Unanswered";

/// Whether AWS may have processed a failed call.
#[must_use]
pub fn processed_unknown(fault: &Fault) -> bool {
    let known = fault.never_sent
        || NOT_SENT.contains(&fault.code.as_str())
        || exceptions::kind(fault.code.as_str()).is_some_and(|kind| !kind.may_be_processed());
    fault.class == FaultClass::Transient && !known
}

/// A pod's phase: the same on every start without being stored, and spread over pods (FNV-1a).
#[must_use]
pub fn phase_of(pod: &str) -> Duration {
    let hash = pod.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    Duration::from_millis(hash % u64::try_from(PHASE_MAX.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::State;
    use tollgate_marketplace::fault::{Answer, classify};

    const AT: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);
    fn policy() -> Policy {
        Policy {
            pod: "pod".to_owned(),
            window: Window::MeterUsage,
            carry_expired: true,
            settle: Duration::ZERO,
            phase: Duration::from_secs(300),
        }
    }

    fn record() -> Record {
        Record { sealed_at: AT.plus(HOUR), updated_at: AT.plus(HOUR), ..Record::sample(AT) }
    }

    fn fault(class: FaultClass, code: &'static str) -> Fault {
        Fault::local(class, code, "")
    }

    #[test]
    fn a_record_waits_for_its_phase_once_and_not_in_a_flush() {
        let sealed = AT.plus(HOUR);
        let todo = |policy: &Policy, record: &Record, flush| policy.todo(record, sealed, flush, false);
        let waits = Todo::WaitUntil(sealed.plus(Duration::from_secs(300)));
        assert_eq!(todo(&policy(), &record(), false), waits);
        assert_eq!(todo(&policy(), &record(), true), Todo::Send);
        assert_eq!(todo(&policy(), &Record { attempts: 1, ..record() }, false), Todo::Send);
        let slow = Policy { phase: 5 * HOUR, ..policy() };
        assert_eq!(todo(&slow, &record(), false), Todo::Send, "a phase never costs the window");
        let early = Record { sealed_at: AT, ..record() };
        assert_eq!(todo(&policy(), &early, false), Todo::Send, "its phase began when it was sealed");
    }

    #[test]
    fn at_the_end_of_the_window_certainty_decides() {
        let end = AT.plus(6 * HOUR);
        let todo = |policy: Policy, record: &Record| policy.todo(record, end, false, false);
        let refused = Record { attempts: 3, code: Some("ThrottlingException".into()), ..record() };
        let doubtful =
            Record { attempts: 1, state: State::Sealed { in_doubt: true }, updated_at: end, ..record() };
        assert_eq!(todo(policy(), &record()), Todo::Give(Answered::Carry("expired".into())));
        assert_eq!(todo(policy(), &refused), Todo::Give(Answered::Carry("ThrottlingException".into())));
        assert_eq!(todo(policy(), &doubtful), Todo::Give(Answered::Dead("in_doubt".into())), "never carried");
        let earlier = Record { updated_at: AT.plus(HOUR), ..doubtful };
        assert_eq!(todo(policy(), &earlier), Todo::Send, "once more: AWS's clock decides, not ours");
        let keep = Policy { carry_expired: false, ..policy() };
        assert_eq!(todo(keep, &record()), Todo::Give(Answered::Dead("expired".into())));
    }

    #[test]
    fn usage_of_an_unsubscribed_customer_is_carried_to_no_other_month() {
        let end = AT.plus(6 * HOUR);
        for code in UNSUBSCRIBED {
            let refused = Record { attempts: 3, code: Some(code.into()), ..record() };
            let given = policy().todo(&refused, end, false, false);
            assert_eq!(given, Todo::Give(Answered::Dead(code.into())));
        }
        let never_sent = policy().todo(&record(), end, false, true);
        assert_eq!(never_sent, Todo::Give(Answered::Dead(NOT_ENTITLED.into())));
    }

    #[test]
    fn an_earlier_pods_record_is_never_sent_by_another() {
        let foreign = Record { pod: "earlier".into(), ..record() };
        let todo = |record: &Record| policy().todo(record, AT.plus(HOUR), false, false);
        assert_eq!(todo(&foreign), Todo::Give(Answered::Carry("expired".into())));
        let doubtful = Record { state: State::Sealed { in_doubt: true }, attempts: 1, ..foreign };
        assert_eq!(todo(&doubtful), Todo::Give(Answered::Dead("in_doubt".into())));
    }

    #[test]
    fn records_that_may_have_expired_are_found_by_their_hour() {
        let at = |text: &str| Timestamp::parse(text).unwrap();
        let batch = Policy { window: Window::BatchMeterUsage, ..policy() };
        for (policy, now, hour) in [
            (policy(), "2026-11-24T14:30:00Z", "2026-11-24T08:00:00Z"),
            (policy(), "2026-11-24T13:59:00Z", "2026-11-24T08:00:00Z"),
            (policy(), "2026-11-24T13:58:00Z", "2026-11-24T07:00:00Z"),
            (batch.clone(), "2026-11-25T08:30:00Z", "2026-11-24T08:00:00Z"),
            // The month closes: all of its records at once.
            (batch.clone(), "2026-12-01T05:30:00Z", "2026-11-30T05:00:00Z"),
            (batch, "2026-12-01T06:00:00Z", "2026-11-30T23:00:00Z"),
        ] {
            assert_eq!(policy.may_have_expired(at(now)), Hour::of(at(hour)), "{now}");
        }
    }

    #[test]
    fn the_alarm_is_for_records_past_half_of_their_window() {
        let at = |text: &str| Timestamp::parse(text).unwrap();
        assert_eq!(policy().alarm_up_to(at("2026-11-24T11:00:00Z")), Hour::of(AT));
        assert_eq!(policy().alarm_up_to(at("2026-11-24T10:59:59Z")).next(), Hour::of(AT));
    }

    #[test]
    fn windows_close_as_aws_says() {
        let closes = |window: Window, text: &str| window.closes(Timestamp::parse(text).unwrap()).to_string();
        assert_eq!(closes(Window::MeterUsage, "2026-11-24T08:10:00Z"), "2026-11-24T14:10:00Z");
        assert_eq!(closes(Window::BatchMeterUsage, "2026-11-24T08:10:00Z"), "2026-11-25T08:10:00Z");
        assert_eq!(
            closes(Window::BatchMeterUsage, "2026-11-30T20:00:00Z"),
            "2026-12-01T06:00:00Z",
            "the month closes"
        );
        assert_eq!(closes(Window::BatchMeterUsage, "2026-11-30T05:00:00Z"), "2026-12-01T05:00:00Z");
    }

    #[test]
    fn what_each_answer_means() {
        use FaultClass::{Access, Denied, Misconfigured, Transient};
        let judge = |doubt, class, code| policy().judge(doubt, &fault(class, code));
        for (class, code, expected) in [
            (Transient, "ThrottlingException", Answered::Refused("ThrottlingException".into())),
            (Transient, "Dns", Answered::Refused("Dns".into())),
            (Transient, "Timeout", Answered::Unknown("Timeout".into())),
            (Transient, "Connection", Answered::Unknown("Connection".into())),
            (Transient, "ServiceUnavailable", Answered::Unknown("ServiceUnavailable".into())),
            (
                Denied,
                "CustomerNotEntitledException",
                Answered::Refused("CustomerNotEntitledException".into()),
            ),
            (Access, "AccessDeniedException", Answered::Refused("AccessDeniedException".into())),
            (Misconfigured, "DuplicateRequestException", Answered::Dead("DuplicateRequestException".into())),
            (
                Misconfigured,
                "InvalidUsageDimensionException",
                Answered::Dead("InvalidUsageDimensionException".into()),
            ),
            (
                Misconfigured,
                "TimestampOutOfBoundsException",
                Answered::Carry("TimestampOutOfBoundsException".into()),
            ),
        ] {
            assert_eq!(judge(false, class, code), expected, "{code}");
        }
        let out = judge(true, Misconfigured, "TimestampOutOfBoundsException");
        assert_eq!(out, Answered::Dead("in_doubt".into()), "the first call may have been billed");
    }

    /// Every exception of the service model for the two operations, those of every AWS service, and an unknown one: the
    /// consequence for a fresh record and for one in doubt, and whether other records may be accepted.
    #[test]
    fn every_exception_of_aws_has_its_meaning() {
        #[derive(Debug, PartialEq)]
        enum Fate {
            Kept,
            InDoubt,
            Carried,
            Dead,
        }
        use Fate::{Carried, Dead, InDoubt, Kept};
        for (status, code, fresh, doubtful, alone) in [
            // MeterUsage and BatchMeterUsage
            (500, "InternalServiceErrorException", InDoubt, InDoubt, false),
            (400, "InvalidProductCodeException", Kept, Kept, false),
            (400, "InvalidUsageDimensionException", Dead, Dead, true),
            (400, "InvalidTagException", Dead, Dead, true),
            (400, "InvalidUsageAllocationsException", Dead, Dead, true),
            (400, "TimestampOutOfBoundsException", Carried, Dead, true),
            (400, "ThrottlingException", Kept, Kept, false),
            // MeterUsage
            (400, "InvalidEndpointRegionException", Kept, Kept, false),
            (400, "DuplicateRequestException", Dead, Dead, true),
            (400, "IdempotencyConflictException", Dead, Dead, true),
            (400, "CustomerNotEntitledException", Kept, Kept, false),
            // BatchMeterUsage
            (400, "InvalidCustomerIdentifierException", Dead, Dead, true),
            (400, "DisabledApiException", Kept, Kept, false),
            (400, "InvalidLicenseException", Dead, Dead, true),
            // Every service
            (400, "AccessDeniedException", Kept, Kept, false),
            (403, "InvalidSignatureException", Kept, Kept, false),
            (403, "ExpiredTokenException", Kept, Kept, false),
            (400, "ValidationException", Dead, Dead, true),
            (413, "RequestEntityTooLargeException", Dead, Dead, true),
            (400, "SerializationException", Dead, Dead, true),
            (503, "ServiceUnavailable", InDoubt, InDoubt, false),
            (429, "TooManyRequestsException", Kept, Kept, false),
            (400, "TransactionInProgressException", Kept, Kept, false),
            // Not documented
            (400, "SomethingNewException", Kept, Kept, true),
            (500, "SomethingNewException", InDoubt, InDoubt, false),
        ] {
            let (class, _) = classify(Answer { status, code: Some(code) });
            let fault = Fault::local(class, code, "");
            let meaning = |doubt| match policy().judge(doubt, &fault) {
                Answered::Refused(_) => Kept,
                Answered::Unknown(_) => InDoubt,
                Answered::Carry(_) => Carried,
                Answered::Dead(_) => Dead,
                Answered::Accepted(_) | Answered::Unconfirmed(_) => panic!("{code} is a success"),
            };
            assert_eq!((meaning(false), meaning(true)), (fresh, doubtful), "{status} {code}");
            assert_eq!(concerns_the_record(&fault), alone, "{status} {code}");
        }
    }

    #[test]
    fn a_connection_that_never_came_about_leaves_no_doubt() {
        let lost = fault(FaultClass::Transient, "Connection");
        assert_eq!(policy().judge(false, &lost), Answered::Unknown("Connection".into()));
        let refused = Fault { never_sent: true, ..lost };
        assert_eq!(policy().judge(false, &refused), Answered::Refused("Connection".into()));
    }

    #[test]
    fn each_record_has_its_own_pause_and_what_concerns_all_has_none() {
        let now = AT.plus(HOUR);
        let after = |attempts, pause| {
            let again = policy().again(&Record { attempts, ..record() }, pause, now, Draw::MIDDLE);
            again.map(|at| at.since(now))
        };
        assert_eq!(after(0, Pause::None), None);
        assert_eq!(after(7, Pause::Refused), Some(REFUSED_PAUSE));
        assert_eq!(after(0, Pause::Retry), Some(RETRY_PAUSE_MIN));
        assert_eq!(after(1, Pause::Retry), Some(2 * RETRY_PAUSE_MIN));
        for attempts in [5, 70, i64::MAX] {
            assert_eq!(after(attempts, Pause::Retry), Some(RETRY_PAUSE_MAX));
        }
        let late = AT.plus(6 * HOUR).minus(2 * MARGIN);
        let again = policy().again(&record(), Pause::Refused, late, Draw::MIDDLE).unwrap();
        let end = AT.plus(6 * HOUR).minus(MARGIN);
        assert_eq!(again, end, "its window closes first");
        for (before_end, pause, expected) in [
            // Seconds before the deadline, the pause, and seconds before the deadline of the next try.
            (3600, Pause::Refused, 3300),
            (361, Pause::Refused, 61),
            (359, Pause::Refused, 60),
            (90, Pause::Refused, 60),
            (61, Pause::Retry, 60),
            (60, Pause::Retry, 0),
        ] {
            let now = end.minus(Duration::from_secs(before_end));
            let tried =
                policy().again(&Record { attempts: 70, ..record() }, pause, now, Draw::MIDDLE).unwrap();
            assert_eq!(tried, end.minus(Duration::from_secs(expected)), "{before_end} {pause:?}");
            let is_last = policy().is_last_try(&record(), now);
            assert_eq!(is_last, before_end <= 60);
            assert_eq!(policy().last_try_up_to(now) >= record().hour, is_last);
        }
    }

    #[test]
    fn what_a_fault_means_for_the_sender() {
        use FaultClass::{Access, Denied, ExpiredSession, Misconfigured, Transient};
        for (class, code, meaning) in [
            (Transient, "ThrottlingException", Meaning::Throttled),
            (Transient, "TransactionInProgressException", Meaning::Throttled),
            (Transient, "Timeout", Meaning::Silent),
            (Transient, "InvalidAnswer", Meaning::Silent),
            (Transient, "Dns", Meaning::Silent),
            (Transient, "InternalServiceErrorException", Meaning::Silent),
            (Misconfigured, "InvalidLicenseException", Meaning::Content),
            (Misconfigured, "SomethingNewException", Meaning::Content),
            (Misconfigured, "InvalidProductCodeException", Meaning::Caller),
            (Misconfigured, "DisabledApiException", Meaning::Caller),
            (Denied, "CustomerNotEntitledException", Meaning::Caller),
            (Access, "AccessDeniedException", Meaning::Caller),
            (ExpiredSession, "ExpiredTokenException", Meaning::Caller),
        ] {
            assert_eq!(Meaning::of(&fault(class, code)), meaning, "{code}");
        }
        assert_eq!(Meaning::Silent.pause(25), Pause::None, "each of them alone, at once");
        assert_eq!(Meaning::Silent.pause(1), Pause::Retry);
    }

    #[test]
    fn a_duplicate_record_is_billed_where_ours_may_have_been_the_first() {
        let status = |doubt| policy().judge_status(doubt, RecordStatus::DuplicateRecord).0;
        assert_eq!(status(true), Answered::Unconfirmed("DuplicateRecord".into()));
        assert_eq!(status(false), Answered::Dead("DuplicateRecord".into()));
        let (unprocessed, pause) = policy().judge_status(false, RecordStatus::Unprocessed);
        assert_eq!((unprocessed, pause), (Answered::Refused("Unprocessed".into()), Pause::Retry));
    }

    #[test]
    fn a_time_that_our_clock_has_not_reached_is_for_aws_to_judge() {
        let ahead =
            Record { timestamp: AT.plus(9000 * HOUR), hour: Hour::of(AT.plus(9000 * HOUR)), ..record() };
        assert_eq!(policy().todo(&ahead, AT, false, false), Todo::Send);
    }

    #[test]
    fn phases_are_spread_and_repeatable() {
        let phases: Vec<Duration> = (0..200).map(|index| phase_of(&format!("pod-{index}"))).collect();
        assert!(phases.iter().all(|phase| *phase < PHASE_MAX));
        let halves = phases.iter().filter(|phase| **phase < PHASE_MAX / 2).count();
        assert!((60..140).contains(&halves), "{halves}");
        assert_eq!(phase_of("pod-1"), phases[1]);
    }
}
