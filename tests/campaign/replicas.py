"""The campaign of replicas: two or three processes of tollgate-saas on one PostgreSQL, faults of every kind, and the bill must be exact.

Usage: replicas.py EMULATOR PROGRAM FAULTS [SEED] [KIND…]

EMULATOR is `tollgate` with the emulator, PROGRAM a build of `tollgate-saas` with the feature fail-points. FAULTS is the number of faults; each kind
comes before one comes again. KIND restricts them, for example to `kill`.

Under load on all replicas, a replica dies by SIGKILL or at a named step, each in turn (before and after the commit that counts usage, closes an
hour, seals, marks, notes an answer, closes an hour early, takes the lease), stops for longer than the lease, loses its network to the database, or is asked to end;
COMMIT or its answer is lost, and the database cannot be reached after that; the database is killed, restarted, full, read-only,
waits for its standby, or fails over to it. Some replicas reach the database through PgBouncer. The clocks of the first two are nearly ten
minutes apart, each within the five minutes that AWS allows for a signature. Meanwhile the emulator throttles, loses answers, resets connections and leaves records unprocessed, and the hours pass: the
emulator's clock and `tollgate.ledger_now()` are moved together.

The application sends most events under an id, until they are acknowledged, by any replica; some ids at once to two replicas, also with
timestamps in different hours; and some events without an id, once. At the end the bill must be what bill.py says, to the millionth.
Beyond that the campaign asserts:

- No event is accepted while the database is away, read-only or without its standby. A refusal is a 503 with Retry-After.
- Each attempt at a record is marked once, by the holder of the lease, while the lease is valid; and only closed hours are sealed. Triggers in
  the database note this.
- Another replica has the lease at most 15 s after the fault of its holder.
- Each replica takes events again at most 20 s after a fault, and its probes are answered during the fault.

Needs root, nft, libfaketime, PostgreSQL and PgBouncer. Everything runs in a network and a mount namespace of its own.
"""

import contextlib
import datetime
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from decimal import Decimal

if os.environ.get("REPLICAS_INSIDE") != "1":
    os.environ["REPLICAS_INSIDE"] = "1"
    os.execvp("unshare", ["unshare", "--net", "--mount", sys.executable, *sys.argv])

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "witness"))
from bill import TAG, Account, compare  # noqa: E402
from kill import CUSTOMERS as TWO, DIMENSIONS, OWN, SWITCH, Hours  # noqa: E402
from postgres import PASSWORD, ROLE, Bouncer, Servers  # noqa: E402
from processes import Emulator  # noqa: E402
from wire import ANSWER, REQUEST, Wire  # noqa: E402

LEASE_SECONDS, TAKEOVER_MAX, RECOVERY_MAX = 9.0, 15.0, 20.0
# A new hour is waited for as long as kill.py does.
PATIENCE = 120
# How long a named step is waited for: an hour is sent up to ten minutes after its end, and the clock is moved there.
STEP_MAX = 15.0
PRODUCT = "demosaas"
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
# Of the replicas' own clocks, in seconds: AWS refuses the signatures of a clock that is more than five minutes off.
SKEWS = [-298, 298, 0]
WORKERS = 4
# Where a replica dies: any replica that takes usage, or that is asked to flush; the one that leads; the one that will lead.
ANY, ASKED, LEADER, NEXT = "any", "asked", "leader", "next"
STEPS = [
    (f"{name}-{side}-commit", whose)
    for name, whose in (("take", ANY), ("close", LEADER), ("seal", LEADER), ("attempt", LEADER), ("answer", LEADER), ("flush", ASKED), ("lease", NEXT))
    for side in ("before", "after")
]
# With this number of deaths by `kill` a campaign must have met every step.
LONG = 4 * len(STEPS)
# Of so many steps at least one is met.
FEW = 3
CUSTOMERS = TWO | {account: {"account_id": account} for account in ("444455556666", "555566667777", "666677778888")}
# Of AWS, fewer than in kill.py: an hour has more records, and a record in doubt is a call of its own.
FAULTS = [
    {"fault": "throttle", "probability": 0.05},
    {"fault": "reset-after", "probability": 0.05},
    {"fault": "reset-before", "probability": 0.02},
    {"fault": "http", "probability": 0.02},
    {"fault": "unprocessed", "probability": 0.05},
    {"fault": "delay", "delay": "1500ms", "probability": 0.1},
]

# What the campaign puts beside the ledger: a clock that it moves, and triggers that note who does what under which lease.
BESIDE = """
CREATE SCHEMA campaign;
GRANT USAGE ON SCHEMA campaign TO PUBLIC;
CREATE TABLE campaign.clock (ahead_ms bigint NOT NULL);
INSERT INTO campaign.clock VALUES (0);
GRANT SELECT ON campaign.clock TO PUBLIC;
CREATE OR REPLACE FUNCTION tollgate.ledger_now() RETURNS bigint LANGUAGE sql VOLATILE
    AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint + ahead_ms FROM campaign.clock $$;

CREATE TABLE campaign.takings (epoch bigint, holder bigint, replica text, at timestamptz);
CREATE FUNCTION campaign.took() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET jit = off AS $$ BEGIN
    INSERT INTO campaign.takings VALUES (NEW.epoch, NEW.holder, current_setting('application_name'), clock_timestamp());
    RETURN NULL;
END $$;
CREATE TRIGGER took AFTER UPDATE ON tollgate.lease FOR EACH ROW
    WHEN (NEW.epoch IS DISTINCT FROM OLD.epoch) EXECUTE FUNCTION campaign.took();
-- Only the first replica runs yet.
INSERT INTO campaign.takings SELECT epoch, holder, 'replica1', clock_timestamp() FROM tollgate.lease WHERE holder IS NOT NULL;

CREATE TABLE campaign.marks (record bigint, attempts bigint, epoch bigint, replica text, lease_epoch bigint, valid boolean, at timestamptz);
CREATE FUNCTION campaign.marked() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET jit = off AS $$ BEGIN
    INSERT INTO campaign.marks
        SELECT NEW.id, NEW.attempts, NEW.epoch, current_setting('application_name'), lease.epoch, lease.expires_at > clock_timestamp(), clock_timestamp()
        FROM tollgate.lease;
    RETURN NULL;
END $$;
CREATE TRIGGER marked AFTER UPDATE ON tollgate.records FOR EACH ROW
    WHEN (NEW.attempts IS DISTINCT FROM OLD.attempts) EXECUTE FUNCTION campaign.marked();

CREATE TABLE campaign.early (record bigint, hour bigint, closed bigint, replica text);
CREATE FUNCTION campaign.sealed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET jit = off AS $$ BEGIN
    INSERT INTO campaign.early SELECT NEW.id, NEW.hour, closed, current_setting('application_name') FROM tollgate.ledger
        WHERE NEW.hour > closed AND NOT EXISTS (
            SELECT 1 FROM tollgate.closed_early AS flushed WHERE flushed.hour = NEW.hour AND flushed.customer = NEW.customer);
    RETURN NULL;
END $$;
CREATE TRIGGER sealed AFTER INSERT ON tollgate.records FOR EACH ROW EXECUTE FUNCTION campaign.sealed();
"""


class Broken(AssertionError):
    """A promise that was not kept."""


def wait(what, condition, seconds=RECOVERY_MAX):
    began = time.monotonic()
    while not (found := condition()):
        if time.monotonic() - began > seconds:
            raise Broken(f"{what} did not happen within {seconds} s")
        time.sleep(0.02)
    return found


def exchange(address, method, path, body=None, timeout=10.0):
    """Status, headers and bytes of one request, or None if no answer came."""
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    try:
        headers = {"host": "localhost"} | ({"content-type": "application/json"} if body else {})
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


class Database:
    """A primary with a synchronous standby, and PgBouncer before the primary. Ports are free: the namespace is our own."""

    def __init__(self, stack):
        self.servers = stack.enter_context(Servers())
        self.port = 5500
        self.primary = self.servers.server(self.next_port())
        self.primary.sql(f"CREATE DATABASE ledger OWNER {ROLE}")
        self.standby = self.primary.standby(self.next_port())
        self.bouncer = Bouncer(self.primary, self.next_port())

    def next_port(self):
        self.port += 1
        return self.port

    def sql(self, statement):
        return self.primary.sql(statement, "ledger")

    def address(self, pooled):
        return "127.0.0.1", (self.bouncer if pooled else self.primary).port

    def failover(self):
        """The standby replaces a primary that was killed, and gets a standby of its own."""
        self.standby.promote()
        self.primary.forget()
        self.primary, old = self.standby, self.bouncer
        self.bouncer = Bouncer(self.primary, self.next_port())
        old.end()

    def add_standby(self):
        self.standby = self.primary.standby(self.next_port())

    def revive(self):
        """Starts what a full disk has ended."""
        for server in (self.primary, self.standby):
            if not server.running():
                server.start()


class MovedHours(Hours):
    """The emulator's clock, and the database's with it."""

    def __init__(self, emulator, database):
        self.database = database
        # From when on the clock's lead was known to all.
        self.known = []
        super().__init__(emulator)
        self.follow()

    def follow(self):
        moment = self.emulator.admin("clock")["now"].replace("Z", "+00:00")
        ahead = datetime.datetime.fromisoformat(moment).timestamp() - time.time()
        self.database.sql(f"UPDATE campaign.clock SET ahead_ms = {round(ahead * 1000)}")
        self.known.append((time.monotonic() + 3.0, ahead))

    def of_replicas(self):
        """Seconds since the epoch, never ahead of a replica's idea of the database's time, which follows with its next group of events."""
        while len(self.known) > 1 and self.known[1][0] < time.monotonic():
            self.known.pop(0)
        return time.time() + self.known[0][1]

    def advance(self, minutes):
        moved = super().advance(minutes)
        self.follow()
        return moved

    def close(self):
        super().close()
        self.follow()

    def creep(self, seconds):
        self.emulator.admin("clock", {"advance": f"{seconds}s"})
        self.follow()


class Replica:
    """A process of tollgate-saas, with an address of its own for the database, so that nft can cut it off."""

    def __init__(self, program, emulator, database, number, folder, stack):
        self.program, self.emulator, self.number, self.folder = program, emulator, number, folder
        self.name, self.pooled = f"replica{number}", False
        self.wire = stack.enter_context(Wire(f"127.0.1.{number}", lambda: database.address(self.pooled), b"FROM tollgate.take"))
        self.app, self.probe = ("127.0.0.1", 18000 + number), ("127.0.0.1", 19000 + number)
        self.dsn = os.path.join(folder, "ledger-url")
        with open(self.dsn, "w") as file:
            host, port = self.wire.address
            file.write(f"postgres://{ROLE}:{PASSWORD}@{host}:{port}/ledger?sslmode=disable&application_name={self.name}")
        self.skew = SKEWS[number - 1]
        self.step = os.path.join(folder, "step")
        self.log = open(os.path.join(folder, "log"), "w+")
        stack.callback(self.log.close)
        stack.callback(self.kill)
        self.process = None

    def start(self):
        environment = {
            "TOLLGATE_MODE": "saas",
            "TOLLGATE_PRODUCT_CODE": PRODUCT,
            "TOLLGATE_DIMENSIONS": ",".join(DIMENSIONS),
            "TOLLGATE_ENDPOINT_URL": self.emulator.endpoint,
            "TOLLGATE_LEDGER_URL_FILE": self.dsn,
            "TOLLGATE_APP_ADDR": f"{self.app[0]}:{self.app[1]}",
            "TOLLGATE_PROBE_ADDR": f"{self.probe[0]}:{self.probe[1]}",
            "TOLLGATE_STATE_DIR": self.folder,
            "TOLLGATE_POD_UID": self.name,
            "TOLLGATE_LOG_FORMAT": "json",
            "TOLLGATE_DRAIN_QUIET": "0s",
            "TOLLGATE_SHUTDOWN_GRACE": "25s",
            "FAIL_POINT": f"@{self.step}",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ACCESS_KEY_ID": self.name,
            "AWS_SECRET_ACCESS_KEY": "any",
        }
        if self.skew:
            environment |= {"LD_PRELOAD": FAKETIME, "FAKETIME": f"{self.skew:+}", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        self.process = subprocess.Popen([self.program, "run"], env=environment, stderr=self.log)
        self.began = time.monotonic()

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def answers(self):
        if not self.alive():
            raise Broken(f"{self.name} has ended with {self.process and self.process.returncode}: {self.last_lines()}")
        return exchange(self.app, "GET", "/v1/reconciliation", timeout=2.0)

    def last_lines(self):
        with open(self.log.name) as log:
            return log.read()[-2000:]

    def kill(self):
        if self.alive():
            self.process.kill()
            self.process.wait()

    def dies_at(self, step):
        """At this step, written as `name:passes`; None disarms it."""
        if step is None:
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.step)
            return
        # A reader sees all of it or nothing.
        with open(self.step + ".new", "w") as file:
            file.write(step)
        os.rename(self.step + ".new", self.step)

    def check_skew(self):
        """The log's times are the process's own clock: without this check a preload that does nothing would not be noticed."""
        with open(self.log.name) as log:
            line = next(line for line in map(json.loads, log) if line.get("event") == "started")
        at = datetime.datetime.fromisoformat(line["timestamp"].replace("Z", "+00:00")).timestamp()
        apart = at - (time.time() - (time.monotonic() - self.began))
        if abs(apart - self.skew) > 60:
            raise Broken(f"{self.name}: its clock is {apart:.0f} s ahead, not {self.skew}")


class Load:
    """Applications, each a thread, that send events to the replicas and note what is answered."""

    def __init__(self, replicas, hours, seed):
        self.replicas, self.hours, self.account = replicas, hours, Account()
        self.lock, self.numbers, self.stopping = threading.Lock(), 0, False
        self.faults, self.refusals, self.ended = [], Counter(), Counter()
        # While a replica cannot know that an event is stored, what it must not do: a value for each such time.
        self.windows = {replica: None for replica in replicas}
        # When each replica accepted an event most recently.
        self.accepted_at = {replica: 0.0 for replica in replicas}
        self.threads = [threading.Thread(target=self.work, args=(random.Random(seed + n),), daemon=True) for n in range(WORKERS)]

    def begin(self):
        for thread in self.threads:
            thread.start()

    def finish(self):
        self.stopping = True
        for thread in self.threads:
            thread.join(PATIENCE)
            if thread.is_alive():
                raise Broken("an event with an id is not acknowledged, although all replicas run")

    def number(self):
        with self.lock:
            self.numbers += 1
            return self.numbers

    def work(self, rng):
        try:
            while not self.stopping:
                kind = rng.choices([self.named, self.twins, self.anonymous], [6, 2, 2])[0]
                kind(rng)
                # A pause, so that the machine has time for the replicas.
                time.sleep(rng.uniform(0, 0.02))
        except Exception as error:
            self.faults.append(f"the application failed: {error!r}")
            raise

    def event(self, rng, name):
        account, dimension = rng.choice(list(CUSTOMERS)), rng.choice(DIMENSIONS)
        quantity = Decimal(rng.randint(1, 5_000_000)).scaleb(-6)
        number = self.number()
        event = {"dimension": dimension, "quantity": str(quantity), "customer": CUSTOMERS[account]}
        if name:
            event["id"] = f"event-{number}"
            if rng.random() < 0.2:
                event["tags"] = {"team": rng.choice("ab")}
        else:
            event["tags"] = {TAG: str(number)}
        return number, (account, dimension), quantity, event

    def post(self, replica, events, timeout):
        """The results of the events, or whether they were refused."""
        window = self.windows[replica]
        answer = exchange(replica.app, "POST", "/v1/usage", json.dumps(events), timeout)
        if answer is None:
            return None, "unanswered"
        status, headers, body = answer
        if status == 202:
            results = json.loads(body)["results"]
            if any(result["status"] == "accepted" for result in results):
                self.accepted_at[replica] = time.monotonic()
                if window is not None and self.windows[replica] is window:
                    self.faults.append(f"{replica.name} accepted an event while {window}")
            return results, "acknowledged"
        problem = json.loads(body)
        self.refusals[problem.get("code")] += 1
        if status != 503 or not headers["retry-after"]:
            self.faults.append(f"{replica.name}: {status} without Retry-After: {problem}")
        return None, "refused"

    def until_answered(self, rng, events, replica=None):
        """Sends events with ids until they are acknowledged, to a given replica first. They are of the form of `event`."""
        bodies = [event for _, _, _, event in events]
        while True:
            results, _ = self.post(replica or rng.choice(self.replicas), bodies, rng.uniform(2.0, 20.0))
            replica = None
            if results:
                for (_, slot, quantity, event), result in zip(events, results, strict=True):
                    self.ended[result["status"]] += 1
                    if result["status"] in ("accepted", "duplicate"):
                        self.account.answered(event["id"], slot, quantity, result["status"])
                    else:
                        self.faults.append(f"{event}: {result}")
                return
            time.sleep(rng.uniform(0.0, 0.2))

    def named(self, rng):
        self.until_answered(rng, [self.event(rng, True) for _ in range(rng.randint(1, 12))])

    def twins(self, rng):
        """The same event at once at two replicas; of some, the second names the hour before."""
        first, second = rng.sample(self.replicas, 2)
        events = [self.event(rng, True) for _ in range(rng.randint(1, 4))]
        if rng.random() < 0.3:
            self.rivals(rng, events[:1], first, second)
            return
        other = threading.Thread(target=self.until_answered, args=(random.Random(rng.random()), events, second))
        other.start()
        self.until_answered(rng, events, first)
        other.join()

    def rivals(self, rng, events, *replicas):
        """One id with two timestamps, at once: one of both counts, and the other is a duplicate or rejected as other content."""
        ((number, slot, quantity, event),) = events
        found = []

        def send(replica, back):
            at = datetime.datetime.fromtimestamp(self.hours.of_replicas() - back, datetime.UTC)
            body = [{**event, "timestamp": at.strftime("%Y-%m-%dT%H:%M:%SZ")}]
            while True:
                results, _ = self.post(replica, body, 10.0)
                if results:
                    found.append(results[0])
                    return
                replica = random.choice(self.replicas)
                time.sleep(0.1)

        other = threading.Thread(target=send, args=(replicas[1], 3600))
        other.start()
        send(replicas[0], 0)
        other.join()
        statuses = [result["status"] for result in found]
        if not {"accepted", "duplicate"} & set(statuses):
            self.faults.append(f"{event}: neither of two timestamps counts: {found}")
        for status in statuses:
            self.ended[f"{status} with another hour"] += 1
            if status in ("accepted", "duplicate"):
                self.account.answered(event["id"], slot, quantity, status)

    def anonymous(self, rng):
        """Events without an id, in one request, once."""
        events = [self.event(rng, False) for _ in range(rng.randint(1, 3))]
        results, fate = self.post(rng.choice(self.replicas), [event for _, _, _, event in events], rng.uniform(2.0, 20.0))
        for at, (number, slot, quantity, event) in enumerate(events):
            if results and results[at]["status"] != "accepted":
                self.faults.append(f"{event}: {results[at]}")
            self.account.sent(number, slot, quantity, fate)

    @contextlib.contextmanager
    def nothing_accepted(self, why, replicas=None):
        replicas = replicas or self.replicas
        self.windows |= {replica: f"{why} ({time.monotonic()})" for replica in replicas}
        try:
            yield
        finally:
            self.windows |= {replica: None for replica in replicas}


KINDS = {}


def kind(function):
    KINDS[function.__name__.replace("_", "-")] = function
    return function


class Campaign:
    def __init__(self, stack, emulator_program, program, rng, seed):
        self.rng, self.stack = rng, stack
        self.emulator = stack.enter_context(Emulator(emulator_program))
        for account in CUSTOMERS.keys() - {OWN}:
            self.emulator.admin("customers", {"account_id": account, "subscribed": True})
        self.emulator.admin("products", {"product_code": PRODUCT, "dimensions": DIMENSIONS})
        self.emulator.admin("faults", {"seed": seed})
        self.emulator.admin("faults", [{**fault, "operation": "BatchMeterUsage"} for fault in FAULTS])
        self.database = Database(stack)
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        self.replicas = []
        for number in range(1, rng.choice([2, 3, 3]) + 1):
            os.mkdir(own := os.path.join(folder, str(number)))
            self.replicas.append(Replica(program, self.emulator, self.database, number, own, stack))
        self.takeovers, self.recoveries, self.deaths = [], [], 0
        self.died_at, self.steps, self.steps_tried = Counter(), [], 0
        self.start(self.replicas[0])
        self.database.sql(BESIDE)
        self.hours = MovedHours(self.emulator, self.database)
        for replica in self.replicas[1:]:
            self.start(replica)
        for replica in self.replicas:
            replica.check_skew()
        self.load = Load(self.replicas, self.hours, seed)

    def start(self, replica):
        """Starts a replica, and waits until it answers."""
        replica.pooled = self.rng.random() < 0.4
        self.emulator.admin("switches", {SWITCH: self.rng.choice(["success", "duplicate-record"])})
        replica.start()
        wait(f"an answer of {replica.name}", replica.answers)

    def holder(self):
        """The replica that has the lease; every other can take it."""

        def find():
            rows = self.database.sql(
                "SELECT t.replica FROM campaign.takings t JOIN tollgate.lease l ON l.epoch = t.epoch AND l.holder = t.holder"
                " WHERE l.expires_at > clock_timestamp()"
            )
            return next((replica for replica in self.replicas if [replica.name] in rows), None)

        return wait("a holder of the lease", find)

    def victim(self):
        """More often than not the replica that sends."""
        return self.holder() if self.rng.random() < 0.7 else self.rng.choice(self.replicas)

    def taken_over(self, replica, held, since):
        """If this replica had the lease: waits until another has it, and notes the time that this took."""
        if not held:
            return

        def taken():
            return self.database.sql(
                f"SELECT extract(epoch FROM at) FROM campaign.takings WHERE replica <> '{replica.name}' AND holder IS NOT NULL"
                f" AND at > to_timestamp({since}) ORDER BY at LIMIT 1"
            )

        took = float(wait(f"a takeover from {replica.name}", taken)[0][0]) - since
        self.takeovers.append(took)
        if took > TAKEOVER_MAX:
            raise Broken(f"the takeover from {replica.name} took {took:.1f} s")

    def recovered(self):
        """Waits until every replica accepts events again."""
        began = time.monotonic()
        for replica in self.replicas:
            wait(f"acceptance by {replica.name}", lambda: self.load.accepted_at[replica] > began)
        self.recoveries.append(time.monotonic() - began)

    def probes_answer(self, replicas=None):
        for replica in replicas or self.replicas:
            for path in ("/livez", "/readyz"):
                answer = exchange(replica.probe, "GET", path, timeout=5.0)
                if not answer or answer[0] != 200:
                    raise Broken(f"{replica.name} answers {path} with {answer}")

    def away(self, why, seconds):
        """The database is away for all replicas."""
        with self.load.nothing_accepted(why):
            time.sleep(seconds)
            self.probes_answer()

    # === faults of a replica ===

    @kind
    def kill(self):
        if self.rng.random() < 0.6:
            self.kill_at_a_step()
            return
        replica = self.victim()
        held, since = self.holder() is replica, time.time()
        replica.kill()
        self.deaths += 1
        if self.rng.random() < 0.5:
            self.taken_over(replica, held, since)
        self.start(replica)

    def kill_at_a_step(self):
        """A replica dies at the next of the named steps; where none reaches it in time, the replica that leads is killed."""
        if not self.steps:
            self.steps = self.rng.sample(STEPS, len(STEPS))
        step, whose = self.steps.pop()
        self.steps_tried += 1
        if whose == LEADER and self.hours.unsettled() > self.hours.SETTLE_AFTER:
            self.settle()
        holder, since = self.holder(), time.time()
        asked = self.rng.choice(self.replicas)
        doomed = {ANY: [asked], ASKED: [asked], LEADER: [holder], NEXT: [one for one in self.replicas if one is not holder]}[whose]
        passes = self.rng.randint(0, 20) if whose == ANY else 0
        for replica in doomed:
            replica.dies_at(f"{step}:{passes}")
        if whose == LEADER:
            # Usage of the hour is sealed, marked and answered.
            self.hours.close()
        elif whose == ASKED:
            account = self.rng.choice(list(CUSTOMERS))
            exchange(asked.app, "POST", f"/v1/customers/{account}/flush", timeout=12.0)
        elif whose == NEXT:
            holder.kill()
        until = time.monotonic() + STEP_MAX
        while all(replica.alive() for replica in doomed) and time.monotonic() < until:
            time.sleep(0.02)
        for replica in doomed:
            replica.dies_at(None)
        died = [replica for replica in doomed if not replica.alive()]
        for replica in died:
            if replica.process.returncode != -signal.SIGABRT:
                raise Broken(f"{replica.name} ended with {replica.process.returncode} at {step}: {replica.last_lines()}")
            self.died_at[step] += 1
        if not died:
            holder.kill()
        dead = [replica for replica in self.replicas if not replica.alive()]
        self.deaths += len(dead)
        if whose != NEXT and len(self.replicas) > len(dead) and self.rng.random() < 0.5:
            self.taken_over(holder, holder in dead, since)
        for replica in dead:
            self.start(replica)

    @kind
    def stop(self):
        """It stops for longer than the lease, and goes on believing that it is the sender."""
        replica = self.victim()
        held, since = self.holder() is replica, time.time()
        replica.process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(self.rng.uniform(LEASE_SECONDS + 1, LEASE_SECONDS + 4))
            self.taken_over(replica, held, since)
        finally:
            replica.process.send_signal(signal.SIGCONT)

    @kind
    def cut(self):
        """Packets between a replica and the database are dropped, for less or more than the lease."""
        replica = self.victim()
        held, since = self.holder() is replica, time.time()
        long = self.rng.random() < 0.7
        nft(f"ip saddr {replica.wire.address[0]} drop", f"ip daddr {replica.wire.address[0]} drop")
        # What had arrived is answered.
        time.sleep(0.2)
        with self.load.nothing_accepted("it is cut off from the database", [replica]):
            time.sleep(LEASE_SECONDS + self.rng.uniform(1, 4) if long else self.rng.uniform(0.5, 4.0))
            self.probes_answer()
            if long:
                self.taken_over(replica, held, since)
        nft()

    @kind
    def end(self):
        """It is asked to end, as at a rollout: it seals nothing early, and gives up the lease."""
        replica = self.victim()
        held, since = self.holder() is replica, time.time()
        replica.process.terminate()
        try:
            code = replica.process.wait(30)
        except subprocess.TimeoutExpired:
            raise Broken(f"{replica.name} does not end") from None
        if code:
            raise Broken(f"{replica.name} ended with {code}: {replica.last_lines()}")
        self.taken_over(replica, held, since)
        self.start(replica)

    # === faults of a commit ===

    def lose(self, what):
        replica = self.rng.choice(self.replicas)
        seconds = self.rng.choice([0.0, 0.0, 1.0, 4.0])
        replica.wire.lose(what, 2 if seconds else self.rng.randint(4, 12), seconds)
        wait("the loss of a commit", lambda: not replica.wire.pending())

    @kind
    def answer_lost(self):
        self.lose(ANSWER)

    @kind
    def request_lost(self):
        self.lose(REQUEST)

    # === faults of the database ===

    @kind
    def database_killed(self):
        self.database.primary.crash()
        self.away("the database is dead", self.rng.uniform(0.5, 4.0))
        self.database.primary.start()

    @kind
    def database_restarted(self):
        self.database.primary.stop(self.rng.choice(["fast", "immediate"]))
        self.database.primary.start()

    @kind
    def database_full(self):
        """How much still fits is the server's to say, so acceptance is not ruled out; what is accepted must count all the same."""
        self.database.servers.fill()
        time.sleep(self.rng.uniform(2.0, 5.0))
        self.probes_answer()
        self.database.servers.free()
        self.database.revive()

    @kind
    def database_read_only(self):
        self.database.primary.set("default_transaction_read_only", "on")
        # Transactions that had begun may end.
        time.sleep(1.0)
        self.away("the database is read-only", self.rng.uniform(0.5, 4.0))
        self.database.primary.set("default_transaction_read_only", "off")

    @kind
    def standby_stopped(self):
        """Commits wait for the standby."""
        self.database.standby.pause()
        time.sleep(0.5)
        self.away("the standby has stopped", self.rng.uniform(0.5, 6.0))
        self.database.standby.resume()

    @kind
    def failover(self):
        self.database.primary.crash()
        self.away("the database fails over", self.rng.uniform(0.0, 2.0))
        self.database.failover()
        self.recovered()
        self.database.add_standby()

    # === the course ===

    def unsent(self):
        rows = []
        for state in ("sealed", "in_doubt"):
            answer = exchange(self.replicas[0].app, "GET", f"/v1/records?state={state}")
            if not answer or answer[0] != 200:
                return [answer]
            rows += json.loads(answer[2])["records"]
        return rows

    def pending(self):
        answer = exchange(self.replicas[0].app, "GET", "/v1/reconciliation")
        if not answer or answer[0] != 200:
            return [answer]
        return [row for row in json.loads(answer[2])["dimensions"] if Decimal(row["pending"]) != 0]

    def passes(self, what, unfinished):
        """Waits as kill.py does: meanwhile the clock runs faster, because pauses after several attempts are long."""
        began, passed = time.monotonic(), 0
        while left := unfinished():
            seconds = int(time.monotonic() - began)
            if seconds > PATIENCE:
                raise Broken(f"timed out waiting for {what}: {left[:5]}")
            if seconds > passed:
                self.hours.creep(15 * (seconds - passed))
                passed = seconds
            time.sleep(0.05)

    def settle(self):
        began, closed = time.monotonic(), self.closed()
        self.hours.close()
        self.passes("the end of an hour", lambda: [closed] if self.closed() == closed else [])
        ended = time.monotonic()
        self.passes("the sealing", lambda: self.database.sql("SELECT hour FROM tollgate.sums, tollgate.ledger WHERE hour <= closed LIMIT 5"))
        sealed = time.monotonic()
        self.passes("the records", self.unsent)
        self.hours.settled()
        print(f"settled: the hour ends after {ended - began:.1f} s, is sealed after {sealed - ended:.1f} s and billed after "
              f"{time.monotonic() - sealed:.1f} s", flush=True)

    def closed(self):
        """The latest hour that the sender has closed."""
        return int(self.database.sql("SELECT closed FROM tollgate.ledger")[0][0])

    def run(self, count, kinds):
        self.load.begin()
        bag = []
        self.recovered()
        for _ in range(count):
            if not bag:
                bag = self.rng.sample(kinds, len(kinds))
            name = bag.pop()
            if self.hours.unsettled() > self.hours.SETTLE_AFTER:
                self.settle()
            # An hour closes, so that the fault meets sealing and sending.
            if self.rng.random() < 0.6:
                self.hours.close()
                time.sleep(self.rng.uniform(0.0, 2.0))
            began = time.monotonic()
            KINDS[name](self)
            recovering = time.monotonic()
            self.recovered()
            print(f"{name}: {recovering - began:.1f} s, all replicas accept {time.monotonic() - recovering:.1f} s later", flush=True)
            if self.load.faults:
                raise Broken(f"{name}: {self.load.faults[:5]}")
            if self.rng.random() < 0.4:
                self.hours.advance(self.rng.randint(1, 60))
        self.emulator.admin("faults", method="DELETE")
        self.load.finish()
        self.settle()
        self.hours.close()
        self.passes("an empty open hour", self.pending)

    def verdict(self):
        faults = list(self.load.faults)
        records = self.emulator.admin("ledger")["records"]
        slots = [(account, dimension) for account in CUSTOMERS for dimension in DIMENSIONS]
        lines, found = compare(self.load.account, records, slots)
        faults += found
        for replica in self.replicas:
            for row in json.loads(exchange(replica.app, "GET", "/v1/reconciliation")[2])["dimensions"]:
                if not row["balanced"] or Decimal(row["dead"]) or Decimal(row["pending"]):
                    faults.append(f"{replica.name}: {row}")
        faults += [f"marked twice: {row}" for row in self.database.sql(
            "SELECT record, attempts, array_agg(replica) FROM campaign.marks GROUP BY record, attempts HAVING count(*) > 1")]
        faults += [f"marked without the lease: {row}" for row in self.database.sql(
            "SELECT m.* FROM campaign.marks m LEFT JOIN campaign.takings t ON t.epoch = m.epoch AND t.replica = m.replica"
            " WHERE NOT valid OR m.epoch IS DISTINCT FROM lease_epoch OR t.epoch IS NULL")]
        faults += [f"an epoch has two holders: {row}" for row in self.database.sql(
            "SELECT epoch, array_agg(replica) FROM campaign.takings WHERE holder IS NOT NULL GROUP BY epoch HAVING count(*) > 1")]
        faults += [f"sealed before its end: {row}" for row in self.database.sql("TABLE campaign.early")]
        ((marks, senders),) = self.database.sql("SELECT count(*), count(DISTINCT replica) FROM campaign.marks")
        if marks == "0":
            faults.append("no attempt was marked: the triggers saw nothing")
        for line in lines:
            print(line)
        if self.steps_tried >= FEW and not self.died_at:
            faults.append(f"no replica died at any of {self.steps_tried} steps: is the program built with fail-points?")
        missed = [step for step, _ in STEPS if not self.died_at[step]]
        if missed and sum(self.died_at.values()) >= LONG:
            faults.append(f"no replica died at {missed}")
        print(f"deaths at named steps: {dict(self.died_at)}")
        lost = {what: sum(replica.wire.lost[what] for replica in self.replicas) for what in (ANSWER, REQUEST)}
        print(f"{self.load.numbers} events {dict(self.load.ended)}, without ids {dict(self.load.account.fates())}, 503 by code {dict(self.load.refusals)}; "
              f"{self.load.account.accepted_again()} ids were accepted by two answers")
        print(f"{len(self.replicas)} replicas, {self.deaths} kills, commits lost {lost}; {len(records)} records, {marks} marks by {senders} replicas; "
              f"{len(self.takeovers)} takeovers, the longest {max(self.takeovers, default=0):.1f} s; "
              f"all replicas accepted at most {max(self.recoveries):.1f} s after a fault")
        return faults


def nft(*rules):
    """Replaces the rules for incoming packets."""
    subprocess.run(["nft", "delete", "table", "inet", "campaign"], capture_output=True)
    text = "table inet campaign {\nchain in {\ntype filter hook input priority 0;\n" + "\n".join(rules) + "\n}\n}\n"
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def main():
    emulator, program, count = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2]), int(sys.argv[3])
    seed = int(sys.argv[4]) if len(sys.argv) > 4 and sys.argv[4] else random.SystemRandom().randrange(1 << 32)
    kinds = sys.argv[5:] or list(KINDS)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for needed in (FAKETIME, emulator, program):
        if not os.path.exists(needed):
            sys.exit(f"{needed} is missing")
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        campaign = Campaign(stack, emulator, program, random.Random(seed), seed)
        print(f"campaign of {len(campaign.replicas)} replicas: {count} faults of {len(kinds)} kinds, seed {seed}", flush=True)
        try:
            campaign.run(count, kinds)
            faults = campaign.verdict()
        except Broken as error:
            faults = [str(error), *campaign.load.faults]
        if faults:
            for replica in campaign.replicas:
                print(f"--- the log of {replica.name} ends:\n{replica.last_lines()}")
            print(f"--- the log of the database ends:\n{campaign.database.primary.log()}")
        for fault in faults[:30]:
            print(f"NOT KEPT: {fault}")
        print(f"{time.monotonic() - began:.0f} s")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
