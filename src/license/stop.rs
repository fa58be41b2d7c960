//! Gives seats back when the process is asked to end, and reports those that could not be given back.

use std::time::Duration;

use tokio::sync::watch;

use super::machine::Machine;
use super::memory::Seat;
use crate::entitlement::Reason;
use tollgate_clock as clock;
use tollgate_marketplace::Fault;

/// The part of the grace that is left for the last log line.
const LAST_MOMENT: Duration = Duration::from_millis(100);

/// What the loop is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    /// No call was made yet.
    #[default]
    NotBegun,
    Running,
    /// All seats that could be given back are.
    Stopped,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    phase: Phase,
    /// The seats that are not given back.
    seats: Vec<Seat>,
    /// Why the latest try to give seats back failed.
    fault: Option<Fault>,
    /// A checkout's answer is unknown.
    in_doubt: bool,
}

/// The loop's side: receives the order to stop, and reports the seats that are not given back.
#[derive(Debug)]
pub struct Stop {
    order: watch::Receiver<bool>,
    state: watch::Sender<State>,
}

/// The other side: orders the stop, waits, and describes what remains.
#[derive(Debug, Clone)]
pub struct Drain {
    order: watch::Sender<bool>,
    state: watch::Receiver<State>,
    grace: Duration,
}

impl Stop {
    /// Both sides; giving back must be done within `grace`.
    #[must_use]
    pub fn within(grace: Duration) -> (Self, Drain) {
        let (order, ordered) = watch::channel(false);
        let (told, state) = watch::channel(State::default());
        (Self { order: ordered, state: told }, Drain { order, state, grace })
    }

    pub(super) fn is_ordered(&self) -> bool {
        *self.order.borrow()
    }

    /// Waits for the order.
    pub(super) fn ordered(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut order = self.order.clone();
        async move {
            // The sender was dropped: no order can come.
            if order.wait_for(|ordered| *ordered).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Reports what would remain taken if the process ended now.
    pub(super) fn leaves(&self, machine: &Machine) {
        let seats: Vec<Seat> = machine.left().cloned().collect();
        let (fault, in_doubt) = (machine.not_given_back().cloned(), machine.in_doubt());
        self.state.send_if_modified(|state| {
            let phase = state.phase.max_running();
            let now = State { phase, seats, fault, in_doubt };
            let new = *state != now;
            *state = now;
            new
        });
    }

    pub(super) fn done(&self) {
        self.state.send_modify(|state| state.phase = Phase::Stopped);
    }
}

impl Phase {
    /// `Running` instead of `NotBegun`.
    const fn max_running(self) -> Self {
        match self {
            Self::NotBegun | Self::Running => Self::Running,
            Self::Stopped => Self::Stopped,
        }
    }
}

impl Drain {
    /// Orders the loop to give all seats back, and waits until it has or the grace is over.
    pub async fn run(&self) {
        let until = clock::monotonic() + self.grace.saturating_sub(LAST_MOMENT);
        self.order.send_replace(true);
        let mut state = self.state.clone();
        let stopped = state.wait_for(|state| state.phase != Phase::Running);
        // What is not done by then is reported as remaining. If the loop has ended, waiting is of no use either.
        let _ = tokio::time::timeout_at(until, stopped).await;
    }

    /// A sentence about the seats that were not given back, and until when they stay taken; `None` if all were.
    #[must_use]
    pub fn what_remains(&self) -> Option<String> {
        let state = self.state.borrow();
        let seats = state.seats.iter().map(|seat| {
            let quantity = |value: Option<u64>| value.map_or_else(String::new, |value| format!("={value}"));
            let names: Vec<_> =
                seat.taken.iter().map(|taken| format!("{}{}", taken.name, quantity(taken.value))).collect();
            format!("{} until {}", names.join(" "), seat.expires)
        });
        let doubt = state.in_doubt.then(|| "a checkout whose answer was lost".to_owned());
        let all: Vec<String> = seats.chain(doubt).collect();
        // The reason of an IAM refusal names the action.
        let why = state.fault.as_ref().map(Reason::of_fault);
        let why = why.map_or_else(String::new, |why| {
            format!("; the last try: {}: {}", why.code, why.message.trim_end_matches('.'))
        });
        (!all.is_empty()).then(|| {
            format!(
                "seats of the license were not given back ({}): they stay taken until their checkout ends, or until this pod \
                 starts again on this volume{why}; allow license-manager:CheckInLicense, if it is missing, and give this \
                 process {:?} before it is killed",
                all.join("; "),
                self.grace
            )
        })
    }
}
