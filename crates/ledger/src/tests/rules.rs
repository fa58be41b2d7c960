//! Dimensions with rules: random days against a model written from docs/SEMANTICS.md, and what happens to usage that
//! moves between hours of different rules.

use super::*;
use crate::repair::{Repair, Repaired};

/// Later than the oldest event of a day.
const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_507_200 + 4 * 3600);

/// A rule, in the terms of the documents: a whole scale, and the digits to which an hour is rounded up.
#[derive(Debug, Clone, Copy)]
struct Plain {
    is_max: bool,
    scale: i128,
    up: Option<u32>,
}

impl Plain {
    fn text(self) -> String {
        let aggregation = if self.is_max { "max" } else { "sum" };
        match self.up {
            None if !self.is_max && self.scale == 1 => "sum".to_owned(),
            None => format!("{aggregation} {} none", self.scale),
            Some(digits) => format!("{aggregation} {} up:{digits}", self.scale),
        }
    }
}

/// What one hour sends: quantity, its amount in the event's own unit, and what is left.
fn send(rule: Plain, total: i128) -> (i128, i128, i128) {
    if total <= 0 {
        return (0, 0, total);
    }
    match rule.up {
        None => (total / rule.scale, total / rule.scale * rule.scale, total % rule.scale),
        Some(digits) => {
            let step = 10_i128.pow(6 - digits);
            let steps = (total + rule.scale * step - 1) / (rule.scale * step);
            (steps * step, steps * step * rule.scale, 0)
        }
    }
}

/// A ledger of one customer, pod and dimension.
#[derive(Debug)]
struct Books {
    rule: Plain,
    closed: i64,
    open: BTreeMap<i64, i128>,
    bill: BTreeMap<i64, i128>,
    kept: i128,
    totals: Totals,
}

impl Books {
    fn new(rule: Plain) -> Self {
        let closed = Hour::latest_closed(NOW, SETTLE).number();
        let (open, bill, totals) = (BTreeMap::new(), BTreeMap::new(), Totals::default());
        Self { rule, closed, open, bill, kept: 0, totals }
    }

    fn take(&mut self, amount: i128, at: Timestamp, now: Timestamp) {
        let own = Hour::of(at).number();
        let current = Hour::of(now).number().max(self.closed + 1);
        let mut hour = if own <= self.closed { current } else { own };
        while self.bill.contains_key(&hour) {
            hour += 1;
        }
        let held = self.open.entry(hour).or_default();
        let before = *held;
        *held = if self.rule.is_max { before.max(amount) } else { before + amount };
        self.totals.accepted += *held - before;
        self.totals.pending += *held - before;
    }

    fn seal(&mut self, early: bool, now: Timestamp) {
        self.closed = self.closed.max(Hour::latest_closed(now, SETTLE).number());
        let up_to = if early { Hour::of(now).number().max(self.closed) } else { self.closed };
        while let Some(hour) = self.open.keys().next().copied().filter(|hour| *hour <= up_to) {
            let usage = self.open.remove(&hour).unwrap_or_default();
            let total = usage + self.kept;
            let (quantity, raw, left) = send(self.rule, total);
            let rounded = if total > 0 { raw + left - total } else { 0 };
            self.totals.pending += raw - usage;
            self.totals.rounded_up += rounded + self.kept.min(0) - left.min(0);
            self.totals.remainder += left.max(0) - self.kept.max(0);
            self.kept = left.max(0) - if hour > self.closed { rounded } else { 0 };
            if quantity > 0 {
                self.bill.insert(hour, quantity);
            }
        }
    }

    fn billed(&self) -> i128 {
        self.bill.values().sum()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Take {
        amount: i128,
        minutes_ago: i64,
    },
    /// An event from before comes again.
    Repeat {
        index: usize,
    },
    Wait {
        minutes: u32,
    },
    /// The process stops: the open hour is sealed. Another one starts.
    Stop,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..4_000_000_i128, -4..150_i64).prop_map(|(amount, minutes_ago)| Step::Take { amount, minutes_ago }),
        1 => (0..100_usize).prop_map(|index| Step::Repeat { index }),
        4 => (1..80_u32).prop_map(|minutes| Step::Wait { minutes }),
        2 => Just(Step::Stop),
        1 => Just(Step::Kill),
    ]
}

fn plain() -> impl Strategy<Value = Plain> {
    let scale = prop::sample::select(vec![1, 3, 1000, 3600]);
    (any::<bool>(), scale, prop::option::of(0..=6_u32)).prop_map(|(is_max, scale, up)| Plain {
        is_max,
        scale,
        up,
    })
}

fn at(now: Timestamp, minutes_ago: i64) -> Timestamp {
    Timestamp::from_unix_millis(now.unix_millis() - minutes_ago * 60_000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_day_is_billed_by_its_rule(rule in plain(), steps in prop::collection::vec(step(), 5..60)) {
        let folder = folder();
        let rules = rules(&[("requests", &rule.text())]);
        let settings = LedgerSettings { rules, ..settings("pod-1") };
        let open = || Ledger::open(folder.path(), settings.clone()).unwrap();
        let (mut ledger, mut now) = (open(), NOW);
        let (mut books, mut whole) = (Books::new(rule), Books::new(rule));
        let mut seen: Vec<Event> = Vec::new();
        let seal = |ledger: &mut Ledger, early: bool, now: Timestamp| {
            let seal = if early { Ledger::seal_now } else { Ledger::seal_closed };
            while seal(ledger, now).unwrap().more {}
        };
        for step in steps {
            match step {
                Step::Take { amount, minutes_ago } => {
                    let at = at(now, minutes_ago);
                    let id = seen.len().to_string();
                    let event = event(Some(&id), u64::try_from(amount).unwrap(), at);
                    prop_assert_eq!(ledger.take(std::slice::from_ref(&event), now).unwrap(), [Taken::Accepted]);
                    seen.push(event);
                    books.take(amount, at, now);
                    whole.take(amount, at, now);
                }
                Step::Repeat { index } => {
                    // Its id is remembered for two days.
                    if let Some(event) = seen.get(index).filter(|event| event.at > now.minus(40 * HOUR)) {
                        prop_assert_eq!(ledger.take(std::slice::from_ref(event), now).unwrap(), [Taken::Duplicate]);
                    }
                }
                Step::Wait { minutes } => {
                    now = now.plus(minutes * MINUTE);
                    seal(&mut ledger, false, now);
                    books.seal(false, now);
                    whole.seal(false, now);
                }
                Step::Stop => {
                    seal(&mut ledger, true, now);
                    books.seal(true, now);
                    drop(ledger);
                    ledger = open();
                }
                Step::Kill => {
                    drop(ledger);
                    ledger = open();
                }
            }
            ledger.check_balance().unwrap();
            let totals = ledger.totals().unwrap().get("requests").copied().unwrap_or_default();
            prop_assert_eq!(totals, books.totals);
        }
        now = now.plus(60 * HOUR);
        seal(&mut ledger, false, now);
        books.seal(false, now);
        whole.seal(false, now);
        let records = ledger.unsent(1000).unwrap();
        let bill: BTreeMap<i64, i128> =
            records.iter().map(|record| (record.hour.number(), record.quantity.micros().into())).collect();
        prop_assert_eq!(&bill, &books.bill);
        // What a process that never stops would have billed. Of a maximum, usage after a stop counts to the next hour.
        prop_assert!(rule.is_max || books.billed() <= whole.billed(), "{:?} {:?}", books, whole);
    }

    /// The order of a group's events, and how they are grouped, change nothing.
    #[test]
    fn events_of_an_hour_may_come_in_any_order_and_grouping(
        rule in plain(),
        events in prop::collection::vec((1..4_000_000_u64, 0..20_u32), 1..20),
        split in 0..20_usize,
    ) {
        let rules = rules(&[("requests", &rule.text())]);
        let counted = |events: &[Event], split: usize| {
            let folder = folder();
            let settings = LedgerSettings { rules: rules.clone(), ..settings("pod-1") };
            let mut ledger = Ledger::open(folder.path(), settings).unwrap();
            let now = START.plus(30 * MINUTE);
            let (first, second) = events.split_at(split.min(events.len()));
            ledger.take(first, now).unwrap();
            ledger.take(second, now).unwrap();
            ledger.seal_closed(START.plus(2 * HOUR)).unwrap();
            let records = ledger.unsent(10).unwrap();
            let shown: Vec<_> =
                records.iter().map(|record| (record.hour, record.timestamp, record.quantity, record.raw)).collect();
            (shown, ledger.totals().unwrap())
        };
        let mut events: Vec<Event> =
            events.iter().map(|(micros, minute)| event(None, *micros, START.plus(*minute * MINUTE))).collect();
        let one = counted(&events, events.len());
        events.reverse();
        prop_assert_eq!(counted(&events, split), one);
    }
}

/// Seals everything and returns the quantities of the unsent records, in the order of their hours.
fn sealed(bench: &mut Bench, now: Timestamp) -> Vec<String> {
    while bench.ledger().seal_closed(now).unwrap().more {}
    bench.ledger().unsent(10).unwrap().iter().map(|record| record.quantity.to_string()).collect()
}

#[test]
fn an_open_hour_is_billed_by_the_rule_that_it_began_with() {
    let mut bench = Bench::new();
    bench.restart_with(rules(&[("requests", "sum 1000 up:0")]));
    assert_eq!(bench.take(event(Some("a"), 1_500_000_000, START), START), Taken::Accepted);
    bench.restart_with(rules(&[("requests", "max 1 none")]));
    let began = rule("sum 1000 up:0");
    assert_eq!(bench.take(event(Some("b"), 7_000_000, START), START), Taken::OtherRule(began));
    assert_eq!(bench.take(event(Some("a"), 1_500_000_000, START), START), Taken::Duplicate, "it counted");
    let next = START.plus(HOUR);
    assert_eq!(bench.take(event(Some("b"), 7_000_000, next), next), Taken::Accepted, "its key is free");
    let whole = bench.ledger().take_whole(&[event(None, 1, next), event(None, 1, START)], next).unwrap();
    assert_eq!(whole, [Taken::Accepted, Taken::OtherRule(began)]);
    assert_eq!(sealed(&mut bench, START.plus(3 * HOUR)), ["2", "7"]);
    let later = START.plus(4 * HOUR);
    assert_eq!(bench.take(event(None, 1, later), later), Taken::Accepted);
    assert!(!bench.ledger().rules_differ, "no slot is looked up any more");
    let totals = Totals {
        accepted: 1_507_000_001,
        rounded_up: 500_000_000,
        pending: 2_007_000_001,
        ..Totals::default()
    };
    assert_eq!(bench.total("requests"), totals);
}

/// Between the hour's end and `settle` its own late events would still have counted to it.
#[test]
fn a_stop_before_the_clock_closes_the_hour_gives_a_credit() {
    for (stop, billed) in [(HOUR + SETTLE / 2, ["1", "1"]), (HOUR + SETTLE, ["1", "2"])] {
        let mut bench = Bench::new();
        bench.restart_with(rules(&[("requests", "sum 1 up:0")]));
        let stop = START.plus(stop);
        bench.take(event(None, 500_000, START), START);
        while bench.ledger().seal_now(stop).unwrap().more {}
        bench.restart_with(rules(&[("requests", "sum 1 up:0")]));
        bench.take(event(None, 500_000, START), stop);
        bench.take(event(None, 1_000_000, START.plus(HOUR)), stop);
        assert_eq!(sealed(&mut bench, START.plus(3 * HOUR)), billed, "one process would have billed as much");
    }
}

#[test]
fn a_carried_quantity_stays_the_same_quantity_in_another_scale() {
    let mut bench = Bench::new();
    bench.restart_with(rules(&[("requests", "sum 1000 none")]));
    bench.take(event(None, 2_500_000_000, START), START);
    let now = START.plus(8 * HOUR);
    assert_eq!(sealed(&mut bench, now), ["2.5"]);
    let id = bench.ledger().unsent(1).unwrap()[0].id;
    bench.restart_with(rules(&[("requests", "sum 1 up:0")]));
    bench.ledger().answered(id, &Answered::Carry("expired".into()), now).unwrap();
    let totals = Totals { accepted: 2_500_000, pending: 2_500_000, ..Totals::default() };
    assert_eq!(bench.total("requests"), totals, "two and a half of the new unit");
    assert_eq!(sealed(&mut bench, now.plus(2 * HOUR)), ["3"]);
    let totals = Totals { accepted: 2_500_000, rounded_up: 500_000, pending: 3_000_000, ..Totals::default() };
    assert_eq!(bench.total("requests"), totals);
}

#[test]
fn a_repair_without_a_sidecar_meters_as_the_sidecar_did() {
    let mut bench = Bench::new();
    bench.restart_with(rules(&[("requests", "sum 1000 none"), ("seats", "max 1 up:0")]));
    bench.take(event(None, 2_500_000_000, START), START);
    let now = START.plus(8 * HOUR);
    sealed(&mut bench, now);
    let id = bench.ledger().unsent(1).unwrap()[0].id;
    bench.ledger().answered(id, &Answered::Dead("InvalidUsageDimensionException".into()), now).unwrap();
    bench.ledger = None;
    let mut file = Database::open_existing(bench.folder.path()).unwrap();
    let replay =
        Repair::Replay { accept_double_billing: false, to_dimension: Some("seats".to_owned()), note: None };
    assert_eq!(file.repair(id, &replay, now).unwrap(), Repaired::Done);
    file.check_balance().unwrap();
    drop(file);
    bench.restart_with(rules(&[("requests", "sum 1000 none"), ("seats", "max 1 up:0")]));
    let seats = |micros, at| Event { dimension: "seats".to_owned(), ..event(None, micros, at) };
    assert_eq!(bench.take(seats(4_000_000, now), now), Taken::Accepted, "the hour has the dimension's rule");
    bench.take(seats(3_000_000, now), now);
    assert_eq!(sealed(&mut bench, now.plus(2 * HOUR)), ["7"], "the largest, and what was replayed is added");
    assert_eq!(bench.total("requests"), Totals::default());
}

#[test]
fn a_remainder_waits_for_its_customers_next_hour_and_no_record_is_sent_for_it() {
    let mut bench = Bench::new();
    bench.restart_with(rules(&[("requests", "sum 1000000000 none")]));
    for hour in 0..3_u32 {
        bench.take(event(None, 400, START.plus(hour * HOUR)), START.plus(hour * HOUR));
        assert_eq!(sealed(&mut bench, START.plus(hour * HOUR + HOUR + SETTLE)), [] as [&str; 0]);
        let left = 400 * i128::from(hour + 1);
        let totals = Totals { accepted: left, remainder: left, ..Totals::default() };
        assert_eq!(bench.total("requests"), totals);
        bench.restart("pod-1");
        bench.restart_with(rules(&[("requests", "sum 1000000000 none")]));
    }
    let now = START.plus(6 * HOUR);
    bench.take(event(None, 1_000_000_000 - 1200, now), now);
    assert_eq!(sealed(&mut bench, now.plus(2 * HOUR)), ["0.000001"]);
    let totals = Totals { accepted: 1_000_000_000, pending: 1_000_000_000, ..Totals::default() };
    assert_eq!(bench.total("requests"), totals);
}

#[test]
fn what_stayed_of_another_product_is_never_billed() {
    let mut bench = Bench::new();
    bench.restart_with(rules(&[("requests", "sum 1000 none")]));
    bench.take(event(None, 999, START), START);
    sealed(&mut bench, START.plus(2 * HOUR));
    bench.ledger = None;
    let other = LedgerSettings {
        product: "other".to_owned(),
        rules: rules(&[("requests", "sum 1000 none")]),
        ..settings("pod-1")
    };
    bench.ledger = Some(Ledger::open(bench.folder.path(), other).unwrap());
    let totals = Totals { accepted: 999, discarded: 999, ..Totals::default() };
    assert_eq!(bench.total("requests"), totals);
    let now = START.plus(5 * HOUR);
    bench.take(event(None, 1, now), now);
    assert_eq!(sealed(&mut bench, now.plus(2 * HOUR)), [] as [&str; 0]);
}

#[test]
fn a_report_through_the_door_counts_in_both_units() {
    let folder = folder();
    let settings = LedgerSettings {
        aws_door: true,
        rules: rules(&[("requests", "sum 1000 none")]),
        ..settings("pod-1")
    };
    let mut ledger = Ledger::open(folder.path(), settings).unwrap();
    let claim = Claim {
        dimension: "requests".to_owned(),
        usage: HourUsage { quantity: Quantity::from_micros(2_000_000).unwrap(), ..HourUsage::zero(START) },
        client_token: "token".to_owned(),
    };
    let Claimed::Granted(id) = ledger.claim(&claim, None, START).unwrap() else { panic!("it is free") };
    ledger.take(&[event(None, 5_000_000, START)], START).unwrap();
    ledger.settle_claim(id, Settled::Accepted, Some("id"), None, START).unwrap();
    ledger.check_balance().unwrap();
    let totals = ledger.totals().unwrap()["requests"];
    let (billed, open) = (2_000_000_000, 5_000_000);
    assert_eq!(totals, Totals { accepted: billed + open, billed, pending: open, ..Totals::default() });
    let open = ledger.all_open().unwrap();
    assert_eq!(open[0].hour, Hour::of(START).next(), "it made way for the application's report");
}
