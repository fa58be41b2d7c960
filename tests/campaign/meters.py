"""The campaign of meters: random days of a product with rules for its dimensions, judged by a model that knows no program.

Usage: meters.py PROGRAM MODE DAYS [SEED] [plain]

PROGRAM is a build with the emulator, MODE metered or saas. By the emulator's clock the days go by: events in random order, late ones, repeats
and forgeries of known ids, tags, several customers in mode saas, restarts, kills (some in the middle of a request or of a shutdown), flushes,
changes of the rules, jumps of the clock forward and back. A seed determines the days. Where a seal before the hour's close is up to
the program, the model follows what the program's listing of open hours shows; what a sealed hour must bill the model says. At the end the bill of each
customer, dimension and hour must be the model's, and so must be each member of the balance, in the event's own unit. `plain` gives every
dimension the default rule.
"""

import os
import random
import sys
import threading
import time
import urllib.parse
from collections import Counter, defaultdict

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "witness"))
sys.path.insert(0, os.path.dirname(__file__))
import heartbeats  # noqa: E402
import meter_bill  # noqa: E402
from kill import UNSENT, Sidecar, get, post, records  # noqa: E402
from meter import MILLION, Meter  # noqa: E402
from meter_bill import hour_of, micros, minutes_of, moment, place_of, text_of  # noqa: E402
from meter_days import CUSTOMERS, DIMENSIONS, DUE, HEARTBEATS, SETTLE_MINUTES, WITHOUT_RULES, Days, Event  # noqa: E402
from processes import Emulator  # noqa: E402

PATIENCE_SECONDS = 60
# AWS takes usage of the latest six hours.
WINDOW_HOURS = 6
OWN = CUSTOMERS["metered"][0]
LICENSE = f"arn:aws:license-manager::{OWN}:license:l-demo"


def document(event):
    """The event as the application sends it."""
    sent = {"id": event.id, "dimension": event.dimension, "quantity": text_of(event.amount)}
    if event.tags:
        sent["tags"] = dict(event.tags)
    if event.timestamp is not None:
        sent["timestamp"] = moment(event.timestamp)
    return sent


class Campaign:
    def __init__(self, program, mode, emulator, dimensions, hearts):
        self.program, self.mode, self.emulator, self.dimensions = program, mode, emulator, dimensions
        self.meter, self.hearts, self.lives = Meter(), hearts, heartbeats.Lives()
        self.rules = {name: one.rule for name, one in dimensions.items()}
        self.folder = os.path.join(emulator.folder.name, "sidecar")
        os.mkdir(self.folder)
        self.sidecar, self.now = None, 0
        # The latest hour that has closed; ids that count, with what they were sent with; hours that were sealed without a record.
        self.closed, self.counted, self.empty = -(10**9), {}, set()
        self.faults, self.seen, self.disturbed = [], Counter(), set()

    # === the process and its clock ===

    def start(self):
        path = os.path.join(self.folder, "..", "tollgate.toml")
        with open(path, "w") as file:
            for name, lines in self.tables():
                file.write("\n".join([f"[dimension.{name}]", *lines, ""]))
        self.lives.spawned()
        self.sidecar = Sidecar(
            self.program, self.mode, self.emulator, self.folder, TOLLGATE_CONFIG=path, TOLLGATE_DIMENSIONS=",".join([*self.dimensions, *self.hearts]),
            TOLLGATE_SETTLE=f"{SETTLE_MINUTES}m", TOLLGATE_DRAIN_QUIET="0s", TOLLGATE_AWS_DOOR="false",
        )
        assert self.sidecar.app, "the sidecar has ended at its start"
        self.lives.entitled()
        self.check_heartbeats()

    def check_heartbeats(self):
        """Each process must have counted its time, whatever it was rounded to."""
        for name in list(self.hearts)[:1]:
            row = next((one for one in self.get("/v1/reconciliation")["dimensions"] if one["dimension"] == name), {})
            for fault in self.lives.check(micros(row.get("accepted", 0))):
                self.fault(fault)

    def tables(self):
        """The tables `[dimension.NAME]` of the configuration."""
        for name, rule in self.rules.items():
            per_pod = ["per_pod = true"] if rule.aggregation == "max" and self.mode == "metered" else []
            if lines := rule.toml() + per_pod:
                yield name, lines
        for name, lines in self.hearts.items():
            yield name, ["heartbeat = 1", *lines]

    def end(self, told=None):
        """Kills the process, unless it has ended since it was told to."""
        killed = self.sidecar.process.poll() is None
        told = told or time.monotonic()
        self.sidecar.end()
        self.lives.ended(told, killed)
        self.sidecar = None

    def get(self, path):
        return get(self.sidecar.app, path)

    def wait(self, what, unfinished):
        until = time.monotonic() + PATIENCE_SECONDS
        while left := unfinished():
            assert time.monotonic() < until, f"waited for {what}: {left}"
            time.sleep(0.01)

    def go(self, minutes):
        """Sets the clock, starts the process if there is none, and waits until it has the time and has sealed what is closed."""
        if minutes < self.now:
            self.wait("records", lambda: self.unsent(0))
        if self.sidecar and self.hearts and minutes - self.now > 60 * WINDOW_HOURS:
            # A process that counts time is led through each hour that is skipped, and at which of them it sends what its window closes
            # for is up to chance. In mode saas it jumps.
            self.end()
        ahead = minutes * 60 - minutes_of(self.emulator.admin("clock")["now"]) * 60
        self.emulator.admin("clock", {"now": moment(minutes)})
        if self.sidecar and ahead > 0:
            self.lives.skipped(ahead)
        # Heartbeats of these hours are no round figures.
        if self.sidecar is None or ahead < 0:
            self.disturb(self.now, minutes)
        self.now = minutes
        if self.sidecar is None:
            self.start()
        self.wait("the clock", lambda: abs(minutes_of(self.get("/v1/reconciliation")["at"]) - minutes) > 1)
        self.closed = max(self.closed, (minutes - SETTLE_MINUTES) // 60 - 1)
        self.wait("closed hours", lambda: [place for place in self.open() if place[2] <= self.closed])
        self.seal([place for place in self.meter.slots if place[2] <= self.closed], False)
        # A record of before the window of AWS is carried at once; all others have been sent by the time at which they are due.
        self.wait("records", lambda: self.unsent(1 if minutes % 60 >= DUE else WINDOW_HOURS))
        self.carried()

    def disturb(self, *moments):
        """Something other than the time happened: the hours of these moments, and those to which their usage and credit may count."""
        first, last = min(moments) // 60, max(moments) // 60
        self.disturbed |= set(range(first, last + 3))

    def unsent(self, age):
        """Records whose hour is at least so many hours before this one. (What a torn shutdown has sealed is sent after its hour.)"""
        oldest = self.now // 60 - age
        return [record for record in records(self.sidecar) if record["state"] in UNSENT and place_of(record, OWN)[2] <= oldest]

    def open(self):
        """The open usage by customer, dimension and hour, as the program shows it."""
        shown, after = defaultdict(int), ""
        while True:
            page = self.get(f"/v1/usage/open{after}")
            for row in page["usage"]:
                if row["dimension"] not in self.hearts:
                    shown[place_of(row, OWN)] += micros(row["quantity"])
            if not page["after"]:
                return shown
            after = f"?after={page['after']}"

    # === what the model is told ===

    def seal(self, places, early):
        for place in sorted(places, key=lambda place: place[2]):
            seal = self.meter.seal(place, early and place[2] > self.closed)
            if not seal.quantity:
                self.empty.add(place)
            if seal.excess:
                self.seen["more than AWS takes"] += 1
                self.meter.join(self.place(*place[:2], self.now // 60), self.rules[place[1]], seal.excess)

    def sealed_early(self, who=None):
        """The model follows what a stop or a flush has sealed: what is not open any more."""
        shown = self.open()
        # What is more than AWS takes counts to a later hour, and may be sealed with that one.
        while gone := [place for place in self.meter.slots if place not in shown]:
            wrong = [place for place in gone if place[2] > self.now // 60 or (who and place[0] != who)]
            if wrong:
                self.fault(f"sealed before their time: {wrong}")
            self.seal(gone, True)
            self.seen["sealed early"] += len(gone)

    def carried(self):
        """Records that AWS's window has closed for count to the current hour."""
        for record in records(self.sidecar):
            place = place_of(record, OWN)
            if record["state"] == "carried" and place in self.meter.seals and place[2] <= self.now // 60 - WINDOW_HOURS:
                self.meter.carry(place, self.place(place[0], place[1], self.now // 60), self.rules[place[1]])
                self.seen["carried"] += 1
            elif record["state"] == "dead":
                self.fault(f"a dead letter: {record}")

    def place(self, customer, dimension, hour):
        """The hour that usage counts to: a closed one's counts to the current hour, that of a reported one to the next."""
        if hour <= self.closed:
            hour = max(self.now // 60, self.closed + 1)
        shown = None
        while True:
            place = (customer, dimension, hour)
            if place in self.empty and place not in self.meter.slots:
                # It was sealed without a record, so nothing tells whether AWS could still take one. The program's choice is as good.
                shown = shown or self.open()
                if place in shown:
                    return place
            elif place not in self.meter.seals:
                return place
            hour += 1

    def send(self, events):
        return self.post([(document(event), event.customer) for event in events])

    def post(self, events):
        """One request, of events as they are sent and their customers."""
        if self.mode == "saas":
            events = [({**sent, "customer": {"account_id": who, **({"license_arn": LICENSE} if who == OWN else {})}}, who) for sent, who in events]
        return post(self.sidecar.app, "/v1/usage", [sent for sent, _ in events])

    def report(self, events, again=False):
        """Sends events and tells the model; `again`: a process that was killed may have taken them already."""
        status, answer = self.send(events)
        assert status == 202, (status, answer)
        for event, result in zip(events, answer["results"]):
            rule = self.rules[event.dimension]
            if event.id in self.counted:
                expected = "duplicate" if self.counted[event.id] == event else "rejected"
            else:
                place = self.place(event.customer, event.dimension, event.hour(self.now))
                expected = "accepted" if self.meter.takes(place, rule) else "rejected"
                if expected == "accepted":
                    self.meter.add(place, rule, event.amount, event.tags)
                    self.counted[event.id] = event
                    if again and result["status"] == "duplicate":
                        expected = "duplicate"
            self.seen[result["status"]] += 1
            if result["status"] != expected or (expected == "rejected" and not result.get("error")):
                self.fault(f"{event}: {expected} expected, {result}")

    def reject(self, bad):
        """Sends an event that must be rejected, with a sentence."""
        status, answer = self.post([(bad, OWN)])
        self.seen["bad"] += 1
        if status != 202 or answer["results"][0]["status"] != "rejected" or not answer["results"][0].get("error"):
            self.fault(f"{bad}: {status} {answer}")

    def fault(self, text):
        print(f"FAULT at {moment(self.now)}: {text}", flush=True)
        self.faults.append(text)

    # === a step ===

    def step(self, step):
        self.go(step.to)
        known = [event for event in step.repeats + step.forgeries if event.id in self.counted]
        for request in [*step.requests, *([known] if known else [])]:
            self.report(request)
        for bad in step.bad:
            self.reject(bad)
        self.compare_open()
        if step.incident:
            self.seen[step.incident] += 1
            if step.incident != "flush":
                self.disturb(self.now)
            getattr(self, step.incident)(step)
            if self.sidecar:
                self.compare_open()

    def compare_open(self):
        shown, expected = self.open(), {place: slot.amount() for place, slot in self.meter.slots.items()}
        for place in sorted(shown.keys() | expected.keys()):
            if shown.get(place) != expected.get(place):
                self.fault(f"open hour {place}: {expected.get(place)} expected, shown {shown.get(place)}")

    # === incidents ===

    def kill(self, step):
        self.end()
        if not step.late_start:
            self.start()

    def cut(self, step):
        """A kill with a request on its way, which the application repeats."""
        number = self.seen["cut"]
        events = [Event(f"cut-{number}-{name}", OWN, name, 3 * MILLION // 2, frozenset(), None) for name in self.dimensions]
        sender = threading.Thread(target=self.send, args=(events,))
        sender.start()
        time.sleep(step.seconds / 5)
        self.end()
        sender.join()
        self.start()
        self.report(events, again=True)

    def stop(self, step):
        """A shutdown seals every hour that has begun, unless nothing is to be reported of it."""
        told = time.monotonic()
        self.sidecar.process.terminate()
        code = self.sidecar.process.wait(PATIENCE_SECONDS)
        if code != 0:
            self.fault(f"exit code {code} after SIGTERM")
        self.after_shutdown(step, told)
        if left := [place for place in self.meter.slots if place[2] <= self.now // 60 and self.meter.sends(place)]:
            self.fault(f"a shutdown left {left} open")

    def torn(self, step):
        """A shutdown that is killed may have sealed all, some or none."""
        told = time.monotonic()
        self.sidecar.shut_down(step.seconds)
        self.seen["torn shutdowns that were whole"] += self.sidecar.process.poll() is not None
        self.after_shutdown(step, told)

    def after_shutdown(self, step, told):
        self.end(told)
        # Also where the next process is to start later: only a process shows what is open.
        self.start()
        self.sealed_early()
        if step.late_start:
            self.end()

    def flush(self, step):
        before = {place: self.meter.sends(place) for place in self.meter.slots if place[0] == step.customer and place[2] <= self.now // 60}
        status, answer = post(self.sidecar.app, f"/v1/customers/{self.key(step.customer)}/flush", {})
        self.sealed_early(step.customer)
        sealed = {place_of(row, OWN) for row in answer.get("sealed", [])}
        if status != 200 or sealed != {place for place, sends in before.items() if sends}:
            self.fault(f"a flush answered {status} {answer}, expected {before}")

    def key(self, customer):
        return urllib.parse.quote(LICENSE, safe="") if customer == OWN else customer

    def change(self, _):
        """The seller changes rules while hours are open. The kill seals nothing."""
        self.end()
        for name, one in self.dimensions.items():
            self.rules[name] = one.other if self.rules[name] == one.rule else one.rule
        self.start()

    def back(self, _):
        """The clock is set back within its hour."""
        self.go(self.now - min(self.now % 60, 12))

    # === the verdict ===

    def finish(self, end):
        """Lets every hour close and waits until all is sent."""
        if self.sidecar is None:
            self.start()
        last = max([hour for _, _, hour in self.meter.slots] + [end // 60])
        # An hour may pass on what is more than AWS takes.
        while last == end // 60 or self.open():
            self.go(60 * last + DUE)
            last += 1

    def judge(self):
        records = [one for one in self.emulator.admin("ledger")["records"] if one["dimension"] not in self.hearts]
        rows = {row["dimension"]: row for row in self.get("/v1/reconciliation")["dimensions"]}
        for lines, faults in (
            meter_bill.of_bill(self.meter, records, self.dimensions), meter_bill.of_balance(self.meter, rows, self.dimensions)
        ):
            print("\n".join(lines))
            for fault in faults:
                self.fault(fault)
        if self.hearts:
            self.judge_heartbeats(rows)

    def judge_heartbeats(self, rows):
        beaten = {name: meter_bill.figures(rows[name]) for name in self.hearts}
        billed = defaultdict(int)
        for one in self.emulator.admin("ledger")["records"]:
            if one["dimension"] in self.hearts:
                billed[one["dimension"], hour_of(one["hour"])] += micros(one["quantity"])
        whole = sorted(set(range(self.first, self.closed + 1)) - self.disturbed)
        for fault in heartbeats.judge(beaten) + heartbeats.of_hours(billed, whole, self.hearts):
            self.fault(fault)
        print(f"heartbeats: {beaten}, of which {len(whole)} hours without an incident")


def main():
    program, mode, days = sys.argv[1], sys.argv[2], float(sys.argv[3])
    plain = "plain" in sys.argv[4:]
    seeds = [int(text) for text in sys.argv[4:] if text.isdigit()]
    seed = seeds[0] if seeds else random.SystemRandom().randrange(1 << 32)
    print(f"campaign of meters, mode {mode}: {days:g} days, seed {seed}", flush=True)
    began = time.monotonic()
    dimensions = WITHOUT_RULES if plain else DIMENSIONS
    hearts = HEARTBEATS if mode == "metered" and not plain else {}
    script = Days(mode, days, random.Random(seed), dimensions)
    with Emulator(program) as emulator:
        for account in CUSTOMERS["saas"]:
            emulator.admin("customers", {"account_id": account, "subscribed": True})
        emulator.admin("products", {"product_code": f"demo{mode}", "dimensions": [*dimensions, *hearts]})
        campaign = Campaign(program, mode, emulator, dimensions, hearts)
        try:
            campaign.disturb(script.steps[0].to)
            campaign.first = script.steps[0].to // 60
            for step in script.steps:
                campaign.step(step)
            campaign.finish(script.end)
            campaign.judge()
        finally:
            if campaign.sidecar:
                campaign.end()
    print(f"{len(script.steps)} steps, {dict(campaign.seen)}, {time.monotonic() - began:.0f} s")
    print(f"{len(campaign.faults)} faults")
    sys.exit(1 if campaign.faults else 0)


if __name__ == "__main__":
    main()
