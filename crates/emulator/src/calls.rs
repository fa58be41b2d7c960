//! Every request and its answer, the latest in full: for tests that compare them with the calls that an application
//! reports.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use super::bill::request_id;
use tollgate_time::Timestamp;

/// Memory for calls in full; the oldest are dropped. Counts continue.
const BYTES_MAX: usize = 32 << 20;

/// Most bytes of a request's or an answer's text.
const TEXT_BYTES_MAX: usize = 4096;

/// Most bytes of the name that a caller gives itself: Kubernetes' longest, with a part of a UID, has 262.
const POD_BYTES_MAX: usize = 512;

/// The size of a call without its texts.
const CALL_BYTES: usize = 240;

/// Most kinds of outcome that are counted; a script can invent exceptions without limit.
const COUNTS_MAX: usize = 1000;

/// One call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) number: u64,
    pub(super) at: Timestamp,
    /// The operation in the target; empty if it has none.
    pub(super) operation: &'static str,
    pub(super) pod: Box<str>,
    /// The pod's account; empty if no pod is known.
    pub(super) account_id: Box<str>,
    /// The ARN of the role that it assumed.
    pub(super) role: Option<Box<str>>,
    pub(super) region: Box<str>,
    /// `ok`, the exception, or `none` if nothing was decided.
    pub(super) outcome: Box<str>,
    /// The scripted fault that hit.
    pub(super) fault: Option<Box<str>>,
    /// The answer's status; `None` if there was no answer.
    pub(super) status: Option<u16>,
    pub(super) request: Box<str>,
    pub(super) answer: Box<str>,
}

/// Most pods whose latest answer is kept: the first ones.
const PODS_MAX: usize = 10_000;

/// The latest calls, and how many there were of each kind.
#[derive(Debug, Default)]
pub(super) struct Calls {
    total: u64,
    counts: BTreeMap<(&'static str, Box<str>), u64>,
    latest: VecDeque<Call>,
    bytes: usize,
    /// Operation and outcome of each pod's latest call.
    by_pod: BTreeMap<Box<str>, (&'static str, Box<str>)>,
}

/// Which calls are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// At most this many, the latest.
    pub(super) limit: usize,
    /// Only calls with a higher number.
    pub(super) after: u64,
    pub(super) operation: Option<String>,
    pub(super) pod: Option<String>,
    pub(super) outcome: Option<String>,
}

impl Calls {
    pub(super) fn add(&mut self, mut call: Call) {
        call.request = cut(call.request, TEXT_BYTES_MAX);
        call.answer = cut(call.answer, TEXT_BYTES_MAX);
        // Also for a refused call: the latest answer is kept by this name.
        call.pod = cut(call.pod, POD_BYTES_MAX);
        self.total += 1;
        let kind = (call.operation, call.outcome.clone());
        if self.counts.len() < COUNTS_MAX || self.counts.contains_key(&kind) {
            *self.counts.entry(kind).or_default() += 1;
        }
        let known = self.by_pod.contains_key(&call.pod);
        if !call.pod.is_empty() && (known || self.by_pod.len() < PODS_MAX) {
            self.by_pod.insert(call.pod.clone(), (call.operation, call.outcome.clone()));
        }
        self.bytes += call.bytes();
        self.latest.push_back(call);
        while self.bytes > BYTES_MAX
            && let Some(oldest) = self.latest.pop_front()
        {
            self.bytes -= oldest.bytes();
        }
    }

    /// The pods that called.
    pub(super) fn pods(&self) -> impl Iterator<Item = &str> {
        self.by_pod.keys().map(AsRef::as_ref)
    }

    /// The outcome of a pod's latest call.
    pub(super) fn latest_of(&self, pod: &str) -> Option<Value> {
        let (operation, outcome) = self.by_pod.get(pod)?;
        Some(json!({"operation": operation, "outcome": outcome}))
    }

    /// The counts, and the latest of the wanted calls, newest last.
    pub(super) fn json(&self, wanted: &Wanted) -> Value {
        let counts: Vec<Value> = self
            .counts
            .iter()
            .map(|((operation, outcome), count)| json!({"operation": operation, "outcome": outcome, "count": count}))
            .collect();
        let fits = |call: &&Call| {
            let is =
                |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
            call.number > wanted.after
                && is(&wanted.operation, call.operation)
                && is(&wanted.pod, &call.pod)
                && is(&wanted.outcome, &call.outcome)
        };
        let mut calls: Vec<Value> =
            self.latest.iter().rev().filter(fits).take(wanted.limit).map(Call::json).collect();
        calls.reverse();
        json!({"total": self.total, "kept": self.latest.len(), "counts": counts, "calls": calls})
    }
}

impl Call {
    /// A new call; its time is set when it is noted.
    pub(super) fn new(number: u64) -> Self {
        Self {
            number,
            at: Timestamp::from_unix_seconds(0),
            operation: "",
            pod: Box::default(),
            account_id: Box::default(),
            role: None,
            region: Box::default(),
            outcome: Box::default(),
            fault: None,
            status: None,
            request: Box::default(),
            answer: Box::default(),
        }
    }

    fn bytes(&self) -> usize {
        CALL_BYTES
            + self.pod.len()
            + self.account_id.len()
            + self.role.as_ref().map_or(0, |role| role.len())
            + self.region.len()
            + self.outcome.len()
            + self.request.len()
            + self.answer.len()
    }

    fn json(&self) -> Value {
        json!({
            "number": self.number,
            "request_id": request_id(self.number),
            "at": self.at.to_string(),
            "operation": self.operation,
            "pod": self.pod,
            "account_id": self.account_id,
            "role": self.role,
            "region": self.region,
            "outcome": self.outcome,
            "fault": self.fault,
            "status": self.status,
            "request": text(&self.request),
            "answer": text(&self.answer),
        })
    }
}

fn cut(text: Box<str>, bytes_max: usize) -> Box<str> {
    if text.len() <= bytes_max {
        return text;
    }
    let mut end = bytes_max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", text.get(..end).unwrap_or_default()).into()
}

/// JSON as JSON, anything else as text.
fn text(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: u64, request: &str) -> Call {
        Call {
            number,
            at: Timestamp::from_unix_seconds(0),
            operation: "MeterUsage",
            pod: format!("pod-{}", number % 2).into(),
            account_id: "111122223333".into(),
            role: None,
            region: "us-east-1".into(),
            outcome: "ok".into(),
            fault: None,
            status: Some(200),
            request: request.into(),
            answer: "{}".into(),
        }
    }

    const ALL: Wanted = Wanted { limit: usize::MAX, after: 0, operation: None, pod: None, outcome: None };

    #[test]
    fn memory_is_bounded_and_counting_goes_on() {
        let mut calls = Calls::default();
        let long = "ü".repeat(TEXT_BYTES_MAX);
        for number in 1..=20_000 {
            calls.add(call(number, &long));
        }
        assert!(calls.bytes <= BYTES_MAX);
        assert!(calls.latest.len() > 5_000);
        assert_eq!(calls.pods().collect::<Vec<_>>(), ["pod-0", "pod-1"]);
        assert_eq!(calls.latest_of("pod-1"), Some(json!({"operation": "MeterUsage", "outcome": "ok"})));
        assert_eq!(calls.latest_of("pod-2"), None);
        let json = calls.json(&Wanted { limit: 3, ..ALL });
        assert_eq!(json["total"], 20_000);
        assert_eq!(json["counts"][0]["count"], 20_000);
        assert_eq!(json["calls"].as_array().unwrap().len(), 3);
        assert_eq!(json["calls"][2]["number"], 20_000);
        assert!(json["calls"][2]["request"].as_str().unwrap().ends_with("ü…"));
    }

    /// A session's name comes unsigned, in a form of up to 2 MiB.
    #[test]
    fn a_name_without_end_is_not_kept_whole() {
        let mut calls = Calls::default();
        calls.add(Call { pod: "ü".repeat(1 << 20).into(), ..call(1, "{}") });
        let kept = calls.by_pod.keys().map(|pod| pod.len()).sum::<usize>();
        assert!(kept <= POD_BYTES_MAX + "…".len(), "{kept} bytes");
    }

    #[test]
    fn calls_are_found_by_what_they_are() {
        let mut calls = Calls::default();
        for number in 1..=10 {
            calls.add(call(number, "{\"a\": 1}"));
        }
        let json = calls.json(&Wanted { after: 6, pod: Some("pod-0".to_owned()), ..ALL });
        let numbers: Vec<u64> =
            json["calls"].as_array().unwrap().iter().filter_map(|call| call["number"].as_u64()).collect();
        assert_eq!(numbers, [8, 10]);
        assert_eq!(json["calls"][0]["request"]["a"], 1);
    }
}
