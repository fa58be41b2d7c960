"""Random days for the campaign of meters: a list of steps that a seed determines, whatever the program does.

A step moves the clock to a minute, has events, and may end with an incident. Minutes are counted from the first day's midnight. Hours close
ten minutes after their end, so minute 4 of an hour is a moment when two hours are open.
"""

import dataclasses

from meter import MILLION, Rule

SETTLE_MINUTES = 10
# Moments in an hour; each is far enough from the hour's turn and its close that the seconds which a step takes change nothing.
MOMENTS = (4, 16, 31, 46)
# The moment that every hour has: what was sealed is due by then.
DUE = 31
CUSTOMERS = {"saas": ["111122223333", "222233334444", "333344445555"], "metered": ["111122223333"]}
# Their rounding; both count the same seconds.
HEARTBEATS = {"uptime": [], "node_hours": ['rounding = { mode = "up", digits = 0 }']}
# How long after it was sent an event is still repeated, in events.
REPEATED_LAST = 40


def bytes_of(rng):
    """A file's size, often small and seldom more than a terabyte."""
    return rng.randrange(1, 10 ** rng.randrange(2, 14)) * MILLION


@dataclasses.dataclass(frozen=True)
class Dimension:
    """Its rule, another one to which the seller may change, and how much an event has."""

    rule: Rule
    other: Rule
    amount: object


def plain(maximum):
    return lambda rng: rng.randrange(1, maximum * MILLION)


DIMENSIONS = {
    "requests": Dimension(Rule(), Rule(), plain(5)),
    "traffic": Dimension(Rule("sum", "bytes:GB"), Rule("sum", "bytes:GB"), bytes_of),
    "calls": Dimension(Rule("sum", "1000.5"), Rule("sum", "250"), plain(4000)),
    "thirds": Dimension(Rule("sum", "0.333333"), Rule("sum", "0.333333"), plain(2)),
    "jobs": Dimension(Rule("sum", "1", 0), Rule("sum", "1", 1), plain(3)),
    "cpu_hours": Dimension(Rule("sum", "3600", 2), Rule("sum", "3600", 2), plain(3000)),
    "huge": Dimension(Rule("sum", "bytes:KB"), Rule("sum", "bytes:KB"), plain(9 * 10**12)),
    "seats": Dimension(Rule("max", "1", 0), Rule("max", "1", 0), lambda rng: rng.randrange(1, 80) * MILLION // 4),
    "storage": Dimension(Rule("max", "bytes:GiB"), Rule("max", "bytes:GiB"), bytes_of),
}
# The same days with every dimension summed as before there were rules: what the witness itself is tested by.
WITHOUT_RULES = {
    name: Dimension(Rule(), Rule(), plain(9 * 10**9 if name == "huge" else 5)) for name in DIMENSIONS
}


@dataclasses.dataclass(frozen=True)
class Event:
    id: str
    customer: str
    dimension: str
    amount: int
    tags: frozenset
    # None: without a timestamp; else in minutes.
    timestamp: int | None

    def hour(self, now):
        return (now if self.timestamp is None else self.timestamp) // 60


@dataclasses.dataclass
class Step:
    to: int
    # Requests, each a list of events.
    requests: list
    # Events that were sent before, and the same with another quantity.
    repeats: list
    forgeries: list
    # Events that must be rejected, as they are sent, but for their customers.
    bad: list
    incident: str | None = None
    # Of a flush.
    customer: str | None = None
    # Of a torn shutdown, the seconds between SIGTERM and SIGKILL.
    seconds: float = 0.0
    # Whether the process starts again only at the next step's time.
    late_start: bool = False


BAD = [{"dimension": "no_such", "quantity": 1}, {"dimension": "requests", "quantity": "0.0000001"}, {"dimension": "requests", "quantity": "-1"}]
# A maximum has no parts, and nobody but the program counts heartbeats.
BAD_BY_RULES = [{"dimension": "seats", "quantity": 1, "tags": {"team": "a"}}, {"dimension": "storage", "quantity": 5, "tags": {"team": "b"}}]
BAD_HEARTBEAT = {"dimension": "node_hours", "quantity": 1}

INCIDENTS = {"kill": 6, "cut": 4, "stop": 7, "torn": 4, "change": 3, "back": 4}


class Days:
    def __init__(self, mode, days, rng, dimensions):
        self.mode, self.rng, self.dimensions = mode, rng, dimensions
        self.incidents = {**INCIDENTS, **({"flush": 6} if mode == "saas" else {})}
        self.number, self.recent = 0, []
        by_rules = BAD_BY_RULES + ([BAD_HEARTBEAT] if mode == "metered" else [])
        self.bad = BAD + (by_rules if dimensions is DIMENSIONS else [])
        self.steps = []
        hour = 0
        for _ in range(int(24 * days)):
            for minute in MOMENTS:
                if minute == DUE or rng.random() < 0.6:
                    self.steps.append(self.step(60 * hour + minute))
            ahead = rng.choices([1, -1, rng.randrange(2, 5), rng.randrange(30, 40)], [90, 3, 6, 1])[0]
            if ahead not in (1, 2, 3, 4):
                # A timestamp of before would be in the future now, or too old.
                self.recent = []
                self.leave_nothing_unsent(hour)
            if ahead < 0:
                self.steps[-1].late_start = False
            hour += ahead
        self.end = 60 * hour

    def leave_nothing_unsent(self, hour):
        """A record that is unsent when the clock goes back, or in doubt when its window closes, becomes a dead letter: another campaign's theme."""
        for step in self.steps:
            if step.to // 60 == hour and step.incident == "torn":
                step.incident = "stop"

    def step(self, to):
        rng = self.rng
        repeats = [one for one in self.recent if rng.random() < 0.03]
        forgeries = [dataclasses.replace(one, amount=one.amount + 1) for one in self.recent if rng.random() < 0.01]
        events = [self.event(to) for _ in range(rng.randrange(10))]
        self.recent = (self.recent + events)[-REPEATED_LAST:]
        rng.shuffle(events)
        requests = []
        while events:
            size = rng.randrange(1, 5)
            requests.append(events[:size])
            events = events[size:]
        step = Step(to, requests, repeats, forgeries, [rng.choice(self.bad)] if rng.random() < 0.15 else [])
        if rng.random() < 0.3:
            step.incident = rng.choices(list(self.incidents), list(self.incidents.values()))[0]
            step.customer = rng.choice(CUSTOMERS[self.mode])
            step.seconds = rng.uniform(0.0, 0.05)
            step.late_start = step.incident in ("kill", "stop", "torn") and rng.random() < 0.4
        return step

    def event(self, now):
        rng = self.rng
        self.number += 1
        name = rng.choice(list(self.dimensions))
        dimension = self.dimensions[name]
        tags = frozenset()
        if dimension.rule.aggregation == "sum" and rng.random() < 0.4:
            tags = frozenset({("team", rng.choice("abc"))} | ({("part", "x")} if rng.random() < 0.3 else set()))
        timestamp = rng.choices([None, now - rng.randrange(now % 60 + 1), self.earlier(now)], [6, 2, 2])[0]
        return Event(f"event-{self.number}", rng.choice(CUSTOMERS[self.mode]), name, dimension.amount(rng), tags, timestamp)

    def earlier(self, now):
        """A minute of the hour before, or of one that is closed."""
        hour = max(0, now // 60 - self.rng.choice([1, 1, 1, 2, 3, 5]))
        return min(now, 60 * hour + self.rng.randrange(60))
