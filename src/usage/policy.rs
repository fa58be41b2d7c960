//! What to do with a sealed record, and what an answer means for it. Pure.
//!
//! - A record is sent unchanged until AWS answers definitely, inside AWS's window.
//! - A record is this pod's, or it is not sent: AWS tells reports apart by the pod.
//! - What was never attempted, or certainly refused, may be carried to the current hour when the window closes; what
//!   is in doubt may have been billed, is asked about once more, and becomes a dead letter.
//! - AWS's clock decides about windows, not ours: a record of a time that our clock has not reached is sent.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::marketplace::exceptions::{self, Kind, Verdict};
use crate::marketplace::fault::{NOT_SENT, REQUEST_NOT_BUILT};
use crate::marketplace::{Fault, FaultClass};
use crate::usage::ledger::{Answered, Record};

/// How records of one kind of call are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Whose records AWS would take as ours: this pod's (nobody's in mode `saas`).
    pub pod: String,
    /// How long AWS takes a record.
    pub window: Window,
    /// Carry what expired and is certainly not billed, rather than keep it as a dead letter.
    pub carry_expired: bool,
    /// An hour closes so long after its end.
    pub settle: Duration,
    /// And is sent so much later, so that the pods of an account do not all report at once.
    pub phase: Duration,
}

/// How long after its time AWS takes a record.
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
    /// When it closes for a record of `timestamp`.
    #[must_use]
    pub fn closes(self, timestamp: Timestamp) -> Timestamp {
        match self {
            Self::MeterUsage => timestamp.plus(6 * HOUR),
            Self::BatchMeterUsage => timestamp.plus(24 * HOUR).min(timestamp.next_month().plus(6 * HOUR)),
        }
    }
}

/// A call that leaves this late may arrive after the window.
const MARGIN: Duration = Duration::from_secs(60);

/// A record that AWS refuses for itself is asked about again after this time, beside others that are served.
const ASK_AGAIN: Duration = Duration::from_secs(300);

/// Clocks differ by so much; a record's time that is farther ahead was taken from a clock that has gone back since.
const AHEAD_MAX: Duration = Duration::from_secs(300);

/// The longest phase: ten calls a second serve six thousand pods in it.
pub const PHASE_MAX: Duration = Duration::from_secs(600);

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Todo {
    /// Send it.
    Send,
    /// Not yet.
    WaitUntil(Timestamp),
    /// Its window is over: note this.
    Give(Answered),
}

impl Policy {
    /// What to do with a sealed record at `now`; `hurry` leaves out the phase, for a shutdown.
    #[must_use]
    pub fn todo(&self, record: &Record, now: Timestamp, hurry: bool) -> Todo {
        if record.pod != self.pod {
            // From us it would be a second report beside a first that may stand.
            return Todo::Give(self.expired(record));
        }
        if record.timestamp > now.plus(AHEAD_MAX) && record.attempts == 0 {
            return Todo::Send;
        }
        let deadline = self.window.closes(record.timestamp).minus(MARGIN);
        if now >= deadline {
            // Its last answer was none, and is older than this end: AWS may still know what became of it, and our clock
            // may be ahead. Once; a record that is out of AWS's window is refused and nothing more.
            let asked = record.updated_at >= deadline;
            return if record.in_doubt && !asked { Todo::Send } else { Todo::Give(self.expired(record)) };
        }
        let refused = record.attempts > 0 && record.code.as_deref().is_some_and(is_its_own);
        let again = record.updated_at.plus(ASK_AGAIN);
        if !hurry && refused && now >= record.updated_at && now < again && again < deadline {
            return Todo::WaitUntil(again);
        }
        let due = record.hour.end().plus(self.settle + self.phase);
        // A phase never costs the window.
        if !hurry && record.attempts == 0 && now < due && due < deadline {
            return Todo::WaitUntil(due);
        }
        Todo::Send
    }

    fn expired(&self, record: &Record) -> Answered {
        if record.in_doubt {
            return Answered::Dead("in_doubt".to_owned());
        }
        let code = record.code.clone().unwrap_or_else(|| "expired".to_owned());
        if self.carry_expired { Answered::Carry(code) } else { Answered::Dead(code) }
    }

    /// When half of a record's window has passed, which is time for an alarm.
    #[must_use]
    pub fn alarm_at(&self, record: &Record) -> Timestamp {
        record.timestamp.plus(self.window.closes(record.timestamp).since(record.timestamp) / 2)
    }

    /// What a failed call says about a record whose doubt before the call was `was_in_doubt`.
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

/// Whether a failed call is about what is in it, so that others would fare better: a batch is halved, and the sending
/// goes on.
#[must_use]
pub fn concerns_the_record(fault: &Fault) -> bool {
    fault.class == FaultClass::Misconfigured && !concerns_all(fault.code.as_str())
}

/// Whether a code is about product, region, account or the request itself: the next record would meet the same one.
fn concerns_all(code: &str) -> bool {
    code == REQUEST_NOT_BUILT || exceptions::kind(code).is_some_and(|kind| !kind.concerns_the_record())
}

/// Whether the code that a record was refused with is about the record alone.
fn is_its_own(code: &str) -> bool {
    if ["CustomerNotSubscribed", UNANSWERED].contains(&code) {
        return true;
    }
    exceptions::kind(code).map_or(code.ends_with("Exception"), Kind::concerns_the_record)
}

/// The code of a record of which an answer did not speak.
pub const UNANSWERED: &str = "Unanswered";

/// Whether the call may have been processed although no answer says so.
#[must_use]
pub fn processed_unknown(fault: &Fault) -> bool {
    let known = fault.never_sent
        || NOT_SENT.contains(&fault.code.as_str())
        || exceptions::kind(fault.code.as_str()).is_some_and(|kind| !kind.may_be_processed());
    fault.class == FaultClass::Transient && !known
}

/// A pod's own phase: the same on every start, spread over pods (FNV-1a, so that it needs no state).
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
    use crate::marketplace::Hour;
    use crate::marketplace::fault::{Answer, classify};

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
    fn a_record_waits_for_its_phase_once_and_not_in_a_hurry() {
        let sealed = AT.plus(HOUR);
        assert_eq!(
            policy().todo(&record(), sealed, false),
            Todo::WaitUntil(sealed.plus(Duration::from_secs(300)))
        );
        assert_eq!(policy().todo(&record(), sealed, true), Todo::Send);
        assert_eq!(policy().todo(&Record { attempts: 1, ..record() }, sealed, false), Todo::Send);
        let slow = Policy { phase: 5 * HOUR, ..policy() };
        assert_eq!(slow.todo(&record(), sealed, false), Todo::Send, "a phase never costs the window");
    }

    #[test]
    fn at_the_end_of_the_window_certainty_decides() {
        let end = AT.plus(6 * HOUR);
        let todo = |policy: Policy, record: &Record| policy.todo(record, end, false);
        let refused = Record { attempts: 3, code: Some("CustomerNotEntitledException".into()), ..record() };
        let doubtful = Record { attempts: 1, in_doubt: true, updated_at: end, ..record() };
        assert_eq!(todo(policy(), &record()), Todo::Give(Answered::Carry("expired".into())));
        assert_eq!(
            todo(policy(), &refused),
            Todo::Give(Answered::Carry("CustomerNotEntitledException".into()))
        );
        assert_eq!(todo(policy(), &doubtful), Todo::Give(Answered::Dead("in_doubt".into())), "never carried");
        let earlier = Record { updated_at: AT.plus(HOUR), ..doubtful };
        assert_eq!(todo(policy(), &earlier), Todo::Send, "once more: AWS's clock decides, not ours");
        let keep = Policy { carry_expired: false, ..policy() };
        assert_eq!(todo(keep, &record()), Todo::Give(Answered::Dead("expired".into())));
    }

    #[test]
    fn an_earlier_pods_record_is_never_sent_by_another() {
        let foreign = Record { pod: "earlier".into(), ..record() };
        let now = AT.plus(HOUR);
        assert_eq!(policy().todo(&foreign, now, false), Todo::Give(Answered::Carry("expired".into())));
        let doubtful = Record { in_doubt: true, attempts: 1, ..foreign };
        assert_eq!(policy().todo(&doubtful, now, false), Todo::Give(Answered::Dead("in_doubt".into())));
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

    /// Every exception of the service model for the two operations, those of every AWS service, and one to come: what it
    /// means for a record, for one in doubt, and whether the others would fare better.
    #[test]
    fn every_exception_of_aws_has_its_meaning() {
        #[derive(Debug, PartialEq)]
        enum Meaning {
            Kept,
            InDoubt,
            Carried,
            Dead,
        }
        use Meaning::{Carried, Dead, InDoubt, Kept};
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
            // One that no document names yet
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
                Answered::Accepted(_) => panic!("{code} is a success"),
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
    fn a_record_that_is_refused_for_itself_waits_beside_others() {
        let now = AT.plus(HOUR);
        for code in ["CustomerNotSubscribed", "SomethingNewException", UNANSWERED] {
            let refused = Record { attempts: 1, code: Some(code.into()), ..record() };
            assert_eq!(policy().todo(&refused, now, false), Todo::WaitUntil(now.plus(ASK_AGAIN)), "{code}");
            assert_eq!(policy().todo(&refused, now, true), Todo::Send, "{code} in a hurry");
        }
        for code in ["ThrottlingException", "Unprocessed", "InvalidProductCodeException", "Connection"] {
            let refused = Record { attempts: 1, code: Some(code.into()), ..record() };
            assert_eq!(policy().todo(&refused, now, false), Todo::Send, "{code}: the pause is for all");
        }
    }

    #[test]
    fn a_time_that_our_clock_has_not_reached_is_for_aws_to_judge() {
        let ahead =
            Record { timestamp: AT.plus(9000 * HOUR), hour: Hour::of(AT.plus(9000 * HOUR)), ..record() };
        assert_eq!(policy().todo(&ahead, AT, false), Todo::Send);
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
