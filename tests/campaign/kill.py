"""The kill campaign: the real binary is killed again and again under load, and the bill must equal the acknowledged usage.

Usage: kill.py PROGRAM MODE KILLS [SEED]

PROGRAM is a build with the feature fail-points, MODE metered or saas. Half of the deaths are kill -9 at a random
moment, some of them in the middle of a shutdown or after it, or after the two seconds that a kubelet leaves on eviction;
half are at a named step, several times each. Meanwhile the emulator throttles, loses answers, resets connections and
leaves records unprocessed, and its clock goes through the hours; in mode saas it answers the repeat of a record in turns with Success and with
DuplicateRecord. One dimension, in mode saas that of one customer, is a bad neighbour: every call with its usage fails,
by a 500, a time-out, a proxy's page, or a refusal of the whole call. The application repeats each event under its id
until it is acknowledged, as documented. In mode metered some reports go through the AWS door; in mode saas several
customers have usage. At the end the bill of every customer and dimension must equal the acknowledged usage, to the
millionth. The neighbour's usage must be complete, too: none billed, all of it pending or dead.
"""

import datetime
import json
import os
import random
import subprocess
import sys
import time
from decimal import Decimal

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "witness"))
from processes import Emulator  # noqa: E402
from relay import POISON, Relay, of_poison  # noqa: E402

STEPS = [
    "take-before-commit", "take-after-commit", "seal-before-commit", "seal-after-commit", "attempt-before-commit",
    "attempt-after-commit", "answer-before-commit", "answer-after-commit", "claim-before-commit", "claim-after-commit",
    "settle-before-commit", "settle-after-commit", "open-before-commit", "open-after-commit",
]
UNSENT = ("sealed", "in_doubt", "claimed")
# A shutdown waits for two seconds without usage, seals the open hour and sends it. The bad neighbour's usage is never
# sent, so the shutdown ends only when its grace is over. That must be soon, so that some shutdowns end before they are
# killed.
SHUTDOWN_SECONDS = 3.0
GRACES = ["3s", "25s"]
# The time between SIGTERM and SIGKILL when a kubelet evicts a pod.
EVICTION_SECONDS = 2.0
# With this number of kills a campaign must have died at every step.
LONG = 150
DIMENSIONS = ["requests", "gigabytes"]
OPERATION = {"metered": "MeterUsage", "saas": "BatchMeterUsage"}
# The pod's own account, which also has a license, and a customer from before Concurrent Agreements; they are
# never in one batch.
OWN, LEGACY = "111122223333", "222233334444"
# The bad neighbour, of the legacy kind: it is in LEGACY's batches.
NEIGHBOUR = "333344445555"
CUSTOMERS = {
    OWN: {"account_id": OWN, "license_arn": f"arn:aws:license-manager::{OWN}:license:l-demo"},
    LEGACY: {"account_id": LEGACY},
}
# How its calls fail, and how often. A time-out costs the sidecar ten seconds, so it is rare.
POISONS = {"metered": (["500", "page", "hang"], [5, 4, 1]), "saas": (["500", "page", "customer", "hang"], [4, 3, 2, 1])}
SWITCH = "identical_batch_record"
FAULTS = [
    {"fault": "throttle", "probability": 0.15},
    {"fault": "reset-after", "probability": 0.1},
    {"fault": "reset-before", "probability": 0.05},
    {"fault": "http", "probability": 0.05},
]


class Hours:
    """The emulator's clock, which moves no further ahead of the last settling than AWS's window allows.

    A report in doubt must be sent again within six hours of its timestamp, or its result stays unknown. A settling
    leaves only the open hour, which is up to 60 minutes old. Three hours later the next settling adds at most 87
    minutes, so the oldest report is five and a half hours old.
    """

    HOUR_CLOSES = 75
    # An hour is sealed two minutes after its end, and sent up to ten minutes later.
    HOUR_IS_SENT = 12
    UNSETTLED_MAX = 180
    # From here on a whole hour does not fit.
    SETTLE_AFTER = UNSETTLED_MAX - HOUR_CLOSES

    def __init__(self, emulator):
        self.emulator = emulator
        self.settled_at = self.now()

    def now(self):
        """Seconds since the epoch, rounded down."""
        moment = self.emulator.admin("clock")["now"].replace("Z", "+00:00")
        return int(datetime.datetime.fromisoformat(moment).timestamp())

    def advance(self, minutes):
        """Moves the clock; returns False without a move if that is too far."""
        if self.unsettled() + minutes > self.UNSETTLED_MAX:
            return False
        self.emulator.admin("clock", {"advance": f"{minutes}m"})
        return True

    def unsettled(self):
        """Minutes since the last settling."""
        return (self.now() - self.settled_at) / 60

    def close(self):
        """Moves on until the hour is closed and its records may be sent."""
        minute = (self.now() // 60 + self.HOUR_CLOSES) % 60
        patience = max(0, self.HOUR_IS_SENT - minute)
        self.emulator.admin("clock", {"advance": f"{self.HOUR_CLOSES + patience}m"})

    def settled(self):
        """No record of a closed hour is unsent."""
        self.settled_at = self.now()


class Application:
    """Sends events one by one. An event without an answer is sent again under its id, to the next process too."""

    def __init__(self, mode, rng):
        self.rng = rng
        self.customers = [OWN] if mode == "metered" else list(CUSTOMERS)
        self.names_customers = mode == "saas"
        # The acknowledged quantities, by account and dimension.
        self.acknowledged = {(account, dimension): Decimal(0) for account in self.customers for dimension in DIMENSIONS}
        self.neighbour = (NEIGHBOUR if self.names_customers else OWN, POISON)
        self.acknowledged[self.neighbour] = Decimal(0)
        self.sent = 0
        self.account = None
        self.event = None
        self.own_report = None

    def next_event(self):
        if self.event is None:
            self.sent += 1
            quantity = Decimal(self.rng.randint(1, 5_000_000)).scaleb(-6)
            if self.rng.random() < 0.05:
                self.account, dimension = self.neighbour
            else:
                self.account, dimension = self.rng.choice(self.customers), self.rng.choice(DIMENSIONS)
            self.event = {"id": f"event-{self.sent}", "dimension": dimension, "quantity": str(quantity)}
            if self.rng.random() < 0.3:
                self.event["tags"] = {"team": self.rng.choice("ab")}
            if self.names_customers:
                self.event["customer"] = CUSTOMERS.get(self.account, {"account_id": self.account})
        return self.event

    def report_by_sdk(self, app, now):
        """Repeats one report through the AWS door until it is answered; returns False if the process has ended."""
        if self.own_report is None:
            self.sent += 1
            self.own_report = {
                "ProductCode": "demometered",
                "UsageDimension": "gigabytes",
                "Timestamp": now,
                "UsageQuantity": self.rng.randint(1, 9),
                "ClientToken": f"sdk-{self.sent}",
            }
        headers = {"content-type": "application/x-amz-json-1.1", "x-amz-target": "AWSMPMeteringService.MeterUsage"}
        status, answer = post(app, "/", self.own_report, headers)
        if status is None:
            return False
        if status == 200:
            self.acknowledged[OWN, "gigabytes"] += self.own_report["UsageQuantity"]
            self.own_report = None
        elif answer.get("__type", "").endswith("DuplicateRequestException"):
            self.own_report = None
        return True

    def report(self, app):
        """Sends one event; returns False if the process has ended."""
        event = self.next_event()
        status, answer = post(app, "/v1/usage", event)
        if status is None:
            return False
        if status == 202:
            result = answer["results"][0]
            assert result["status"] in ("accepted", "duplicate"), answer
            self.acknowledged[self.account, event["dimension"]] += Decimal(event["quantity"])
            self.event = None
        return True

    def finish(self, app):
        """Repeats unanswered events until all are answered."""
        while self.own_report is not None:
            self.report_by_sdk(app, None)
        while self.event is not None:
            self.report(app)


def post(app, path, document, headers=None):
    """Status and answer, or None and None if the connection breaks."""
    import http.client

    host, port = app.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    try:
        body = json.dumps(document)
        headers = {"content-type": "application/json", **(headers or {}), "host": "localhost"}
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except (OSError, http.client.HTTPException, json.JSONDecodeError):
        return None, None
    finally:
        connection.close()


def get(app, path):
    import urllib.request

    with urllib.request.urlopen(f"http://{app}{path}") as answer:
        return json.load(answer)


class Sidecar:
    def __init__(self, program, mode, emulator, folder, fail_point=None, endpoint=None, **settings):
        environment = {
            "TOLLGATE_MODE": mode,
            "TOLLGATE_PRODUCT_CODE": f"demo{mode}",
            "TOLLGATE_DIMENSIONS": ",".join([*DIMENSIONS, POISON]),
            "TOLLGATE_ENDPOINT_URL": endpoint or emulator.endpoint,
            "TOLLGATE_CLOCK": emulator.facts["clock"],
            "TOLLGATE_PROBE_ADDR": "127.0.0.1:0",
            "TOLLGATE_APP_ADDR": "127.0.0.1:0",
            "TOLLGATE_STATE_DIR": folder,
            "TOLLGATE_POD_UID": "campaign",
            "TOLLGATE_LOG_FORMAT": "json",
            "TOLLGATE_AWS_DOOR": str(mode == "metered").lower(),
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ACCESS_KEY_ID": "campaign",
            "AWS_SECRET_ACCESS_KEY": "any",
            **settings,
        }
        if fail_point:
            environment["FAIL_POINT"] = fail_point
        self.process = subprocess.Popen([program, "run"], env=environment, stderr=subprocess.PIPE, text=True)
        self.app = None
        for line in self.process.stderr:
            parsed = json.loads(line)
            if parsed.get("event") == "started":
                self.app = parsed["app_addr"]
            if parsed.get("event") == "state" and parsed["state"] == "entitled":
                break
        # From here on the log is not read, so it goes to a file, which cannot fill up like a pipe.
        self.drain = subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL)

    def shut_down(self, seconds):
        """Asks the process to end, and waits at most this time."""
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass

    def end(self):
        self.process.kill()
        code = self.process.wait()
        self.process.stderr.close()
        self.drain.wait()
        return code


def settle(start, hours, application):
    """Closes the hour and runs until no record is unsent; usage that continues meanwhile counts to the next hour."""
    hours.close()
    sidecar = start()
    try:
        application.finish(sidecar.app)
        application.report(sidecar.app)
        wait("the records", lambda: unsent(sidecar), hours)
    finally:
        sidecar.end()
    hours.settled()


def reconcile(start, hours, application):
    """The last hour: returns the figures when no record is left to send, and the dead letters."""
    sidecar = start()
    try:
        application.finish(sidecar.app)
        hours.close()
        wait("an empty open hour", lambda: pending(sidecar), hours)
        letters = [record for record in records(sidecar) if record["state"] == "dead" and record["dimension"] != POISON]
        return figures(sidecar), letters
    finally:
        sidecar.end()


def figures(sidecar):
    return get(sidecar.app, "/v1/reconciliation")["dimensions"]


def records(sidecar):
    """All records; each page names the record at which the next page starts."""
    found, before = [], ""
    while True:
        page = get(sidecar.app, f"/v1/records{before}")
        found += page["records"]
        if not page.get("before"):
            return found
        before = f"?before={page['before']}"


def unsent(sidecar):
    """The records that must be sent. Those of the bad neighbour stay unsent for ever, and must not delay others."""
    return [record for record in records(sidecar) if record["state"] in UNSENT and record["dimension"] != POISON]


def pending(sidecar):
    return [row for row in figures(sidecar) if Decimal(row["pending"]) != 0 and row["dimension"] != POISON]


def wait(what, unfinished, hours):
    """Waits until no record is unfinished.

    Meanwhile the emulator's clock runs 16 times as fast: after several attempts a record pauses for up to 78 seconds, and faults still
    happen, so a few pauses in a row would otherwise look like a hang.
    """
    begun = time.monotonic()
    passed = 0
    while left := unfinished():
        seconds = int(time.monotonic() - begun)
        assert seconds < 120, f"timed out waiting for {what}: {left}"
        if seconds > passed:
            hours.emulator.admin("clock", {"advance": f"{15 * (seconds - passed)}s"})
            passed = seconds
        time.sleep(0.02)


def emulator_knows(emulator, switch):
    return switch in json.dumps(emulator.admin("switches"))


def passes(step):
    """How often a step may be passed before the death there, at most: steps of usage are frequent, those of the opening come once."""
    return 20 if step.startswith("take") else 0 if step.startswith("open") else 1


def main():
    program, mode, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else random.SystemRandom().randrange(1 << 32)
    print(f"kill campaign, mode {mode}: {kills} kills, seed {seed}", flush=True)
    rng = random.Random(seed)
    application = Application(mode, rng)
    # Only the AWS door claims hours.
    steps = [step for step in STEPS if mode == "metered" or not step.startswith(("claim", "settle"))]
    died_at = {step: 0 for step in steps}
    shutdowns = {"whole": 0, "killed": 0}
    evictions = {"whole": 0, "killed": 0}
    failures = 0
    # A random generator of its own, because calls come from several connections in no fixed order.
    moods = random.Random(seed)

    def spoil(call):
        return moods.choices(*POISONS[mode])[0] if of_poison(call) else None

    with Emulator(program) as emulator, Relay(emulator.endpoint, spoil) as relay:
        emulator.admin("clock", {"now": "2026-11-24T08:00:00Z"})
        for account in (LEGACY, NEIGHBOUR):
            emulator.admin("customers", {"account_id": account, "subscribed": True})
        emulator.admin("products", {"product_code": f"demo{mode}", "dimensions": [*DIMENSIONS, POISON]})
        repeats = ["success", "duplicate-record"] if mode == "saas" else []
        if repeats and not emulator_knows(emulator, SWITCH):
            # It counts as a failure, because without these answers the campaign proves less.
            print(f"ERROR: the emulator has no switch {SWITCH}; no repeat is answered with DuplicateRecord")
            failures, repeats = failures + 1, []
        emulator.admin("faults", {"seed": seed})
        faults = FAULTS + ([{"fault": "unprocessed", "probability": 0.1}] if mode == "saas" else [])
        emulator.admin("faults", [{**fault, "operation": OPERATION[mode]} for fault in faults])
        folder = os.path.join(emulator.folder.name, "sidecar")
        os.mkdir(folder)
        hours = Hours(emulator)

        def start(fail_point=None):
            if repeats:
                emulator.admin("switches", {SWITCH: rng.choice(repeats)})
            # Without a wait as in the native and the ECS forms, where the application has ended by then; or the
            # default.
            settings = {"TOLLGATE_DRAIN_QUIET": rng.choice(["0s", "2s"]), "TOLLGATE_SHUTDOWN_GRACE": rng.choice(GRACES)}
            return Sidecar(program, mode, emulator, folder, fail_point, relay.endpoint, **settings)

        for kill in range(1, kills + 1):
            step = rng.choice(steps) if rng.random() < 0.6 else None
            sidecar = start(f"{step}:{rng.randint(0, passes(step))}" if step else None)
            alive = sidecar.app is not None
            if step and step.startswith(("seal", "attempt", "answer")):
                # These are reached when an hour closes.
                alive = alive and application.report(sidecar.app)
                hours.advance(hours.HOUR_CLOSES)
                until = time.monotonic() + 1.5
            else:
                until = time.monotonic() + rng.uniform(0.0, 0.25)
            if step and step.startswith(("claim", "settle")) or application.own_report:
                while alive and (step or application.own_report) and time.monotonic() < until + 0.5:
                    alive = application.report_by_sdk(sidecar.app, hours.now())
                    if application.own_report is None and not hours.advance(60):
                        break
            while alive and time.monotonic() < until:
                alive = application.report(sidecar.app)
            if alive and not step and rng.random() < 0.4:
                evicted = rng.random() < 0.5
                sidecar.shut_down(EVICTION_SECONDS if evicted else rng.uniform(0.0, 1.3 * SHUTDOWN_SECONDS))
                (evictions if evicted else shutdowns)["killed" if sidecar.process.poll() is None else "whole"] += 1
            code = sidecar.end()
            if step and code == -6:
                died_at[step] += 1
            if kill % 4 == 0:
                hours.advance(rng.randint(1, 40))
            if hours.unsettled() > hours.SETTLE_AFTER:
                settle(start, hours, application)
        emulator.admin("faults", method="DELETE")
        settle(start, hours, application)
        rows, letters = reconcile(start, hours, application)
        bill = emulator.billed()
    neighbour = application.acknowledged.pop(application.neighbour)
    row = next((row for row in rows if row["dimension"] == POISON), {"balanced": neighbour == 0})
    left, billed = [sum(Decimal(row.get(name, 0)) for name in names) for names in (("pending", "dead"), ("billed",))]
    taken = Decimal(bill.get((f"demo{mode}", *application.neighbour), 0))
    good = row["balanced"] and taken == billed == 0 and left == neighbour
    failures += not good
    print(f"bad neighbour: acknowledged {neighbour}, pending or dead {left}, billed {taken}, {len(relay.spoilt)} calls: "
          f"{'accounted for' if good else f'NOT ACCOUNTED FOR: {row}'}")
    rows = [row for row in rows if row["dimension"] != POISON]
    for (account, dimension), acknowledged in application.acknowledged.items():
        billed = Decimal(bill.get((f"demo{mode}", account, dimension), 0))
        failures += billed != acknowledged
        verdict = "equal" if billed == acknowledged else "NOT EQUAL"
        print(f"{account} {dimension}: acknowledged {acknowledged}, billed {billed}: {verdict}")
    for row in rows:
        good = row["balanced"] and Decimal(row["dead"]) == 0
        failures += not good
        print(f"{row['dimension']}: dead {row['dead']}, {'balanced' if good else f'NOT BALANCED: {row}'}")
    for letter in letters:
        print(f"dead letter: {letter}")
    print(f"events {application.sent}, deaths at named steps {died_at}, shutdowns {shutdowns}, evictions {evictions}")
    # A campaign that is long enough must have died at every step but those of the opening: opening writes only after a death during a
    # call, which chance may leave out.
    missed = [step for step, deaths in died_at.items() if deaths == 0 and not step.startswith("open")]
    missed += [f"{end} shutdowns" for end, count in shutdowns.items() if count == 0]
    if missed and kills >= LONG:
        print(f"never happened: {missed}")
        failures += 1
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
