"""The kill campaign of mode contract: pods that hold seats are killed again and again, and no seat is ever lost.

Usage: seats.py PROGRAM KILLS [SEED]

PROGRAM is a build with the feature fail-points. As many pods as the contract has seats share one license, each with a
state folder that outlives it; one of them dies at a time: half of the deaths are kill -9 at a random moment, in a
shutdown too, half are at a named step. Meanwhile the emulator's License Manager throttles, resets connections
before and after it has taken a seat, and answers 500. A pod starts again within ten minutes of the emulator's clock, the
time for which a repeated client token is known (`repeated_client_token = same-token`). After each death:

- the pod holds no seat at License Manager that its folder does not record;
- after a complete shutdown it holds none there, or its last line names the seat that could not be given back;
- the pod that starts again gets its seat: there are as many pods as seats, so one lost seat would lock it out.
"""

import datetime
import json
import os
import random
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "witness"))
from processes import Emulator  # noqa: E402

STEPS = ["before-checkout", "after-checkout", "after-keep", "before-check-in"]
PODS = ["pod-a", "pod-b", "pod-c"]
DIMENSION = "users"
# By the emulator's clock. A client token is known for ten minutes, a seat lasts 60, and is renewed every 15.
DEAD_MINUTES_MAX = 8
RENEWAL_MINUTES = 16
LIFE_MINUTES_MAX = 25
RENEWED_MINUTES_MAX = 30
# In real time: how long a pod may need while the service fails at random, and then without faults.
CALM_AFTER, CALM_SECONDS = 5, 60
GRACE_SECONDS = 25
# Calls that take and give back seats fail often. Each failure costs a pause of seconds, so other calls fail less
# often.
FAULTS = [
    {"fault": "reset-after", "probability": 0.2},
    {"fault": "reset-before", "probability": 0.05},
    {"fault": "throttle", "probability": 0.05},
    {"fault": "http", "probability": 0.05},
]
OPERATIONS = ["CheckoutLicense", "ExtendLicenseConsumption", "CheckInLicense"]
RARE_FAULTS = [
    {"fault": fault, "probability": 0.02, "operation": operation}
    for fault in ("reset-after", "throttle") for operation in ("ListReceivedLicenses", "GetLicenseUsage")
]
# With this number of kills a campaign must have died at every step.
LONG = 150


class Pod:
    """A sidecar with a folder that outlives it."""

    def __init__(self, program, emulator, name):
        self.program, self.emulator, self.name = program, emulator, name
        self.folder = os.path.join(emulator.folder.name, name)
        os.mkdir(self.folder)
        self.process, self.lines, self.reader, self.step = None, [], None, None

    def start(self, fail_point=None):
        environment = {
            "TOLLGATE_MODE": "contract",
            "TOLLGATE_PRODUCT_ID": self.emulator.facts["product_id"],
            "TOLLGATE_LICENSE_MODEL": "floating",
            "TOLLGATE_ENTITLEMENTS": DIMENSION,
            "TOLLGATE_SHUTDOWN_GRACE": f"{GRACE_SECONDS}s",
            "TOLLGATE_ENDPOINT_URL": self.emulator.endpoint,
            "TOLLGATE_CLOCK": self.emulator.facts["clock"],
            "TOLLGATE_PROBE_ADDR": "127.0.0.1:0",
            "TOLLGATE_APP_ADDR": "127.0.0.1:0",
            "TOLLGATE_STATE_DIR": self.folder,
            "TOLLGATE_POD_UID": self.name,
            "TOLLGATE_LOG_FORMAT": "json",
            "TOLLGATE_ALLOW_EMULATED": "true",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ACCESS_KEY_ID": self.name,
            "AWS_SECRET_ACCESS_KEY": "any",
        }
        if fail_point:
            environment["FAIL_POINT"] = fail_point
        self.lines = []
        self.process = subprocess.Popen([self.program, "run"], env=environment, stderr=subprocess.PIPE, text=True)
        self.reader = threading.Thread(target=self.read, args=(self.process.stderr,))
        self.reader.start()

    def read(self, pipe):
        """Reads the log on a thread of its own, so that it cannot fill the pipe."""
        for line in pipe:
            self.lines.append(json.loads(line))

    def states(self):
        return [line["state"] for line in list(self.lines) if line.get("event") == "state"]

    def settled(self):
        """Whether every checkout's result is known, so that the clock may move and no seat is forgotten."""
        record = self.record()
        return record is not None and record["intent"] is None and record["seat"] is not None

    def intent_minutes(self, now):
        """How long a checkout's result has been unknown."""
        record = self.record()
        intent = record and record["intent"]
        return int((now - moment(intent["asked_at"])).total_seconds() / 60) + 1 if intent else 0

    def renewed(self, now):
        """Whether it has renewed its seat since the clock moved."""
        record = self.record()
        return (now - moment(record["seat"]["renewed"])).total_seconds() <= 60 * RENEWED_MINUTES_MAX

    def shut_down(self, seconds):
        """Asks it to end; returns whether it has within this time."""
        self.process.terminate()
        try:
            self.process.wait(seconds)
            return True
        except subprocess.TimeoutExpired:
            return False

    def end(self):
        self.process.kill()
        code = self.process.wait()
        self.reader.join()
        self.process.stderr.close()
        return code

    def record(self):
        try:
            with open(os.path.join(self.folder, "license.json")) as file:
                return json.load(file)
        except FileNotFoundError:
            return None

    def known(self):
        """Seats that the folder records: held, to be given back, and requested with an unknown result."""
        record = self.record()
        if record is None:
            return 0
        checkouts = [one for one in (record["intent"], record["seat"], *record["give_back"]) if one]
        return sum(taken["value"] for one in checkouts for taken in one["taken"] if taken["name"] == DIMENSION)

    def held(self):
        """Seats that License Manager counts as this pod's."""
        checkouts = self.emulator.admin("licenses")["checkouts"]
        return sum(int(one["quantity"]) for one in checkouts if one["pod"] == self.name and one["name"] == DIMENSION)


class Campaign:
    def __init__(self, program, emulator, seed):
        self.emulator, self.rng = emulator, random.Random(seed)
        self.failures, self.deaths = 0, 0
        self.died_at = {step: 0 for step in STEPS}
        self.ends = {"kill -9": 0, "whole shutdown": 0, "killed in a shutdown": 0}
        self.told = 0
        emulator.admin("clock", {"now": "2026-11-24T08:00:00Z"})
        emulator.admin("faults", {"seed": seed})
        emulator.admin("switches", {"repeated_client_token": "same-token", "client_token_life": "10m"})
        emulator.admin("licenses", {
            "product_id": emulator.facts["product_id"],
            "entitlements": [{"name": DIMENSION, "unit": "Count", "max_count": len(PODS), "allow_check_in": True}],
        })
        self.pods = [Pod(program, emulator, name) for name in PODS]

    def trouble(self):
        often = [{**fault, "operation": name} for fault in FAULTS for name in OPERATIONS]
        self.emulator.admin("faults", often + RARE_FAULTS)

    def calm(self):
        self.emulator.admin("faults", method="DELETE")

    def fail(self, pod, what):
        self.failures += 1
        print(f"FAILED at {self.now()}: {pod.name}: {what}; held {pod.held()}, known {pod.known()}", flush=True)
        for line in pod.lines[-6:]:
            print("  ", {key: line[key] for key in ("timestamp", "event", "state", "code", "message") if key in line})
        for line in self.emulator.admin("licenses?last=12")["log"]:
            print("  ", line)

    def until(self, pod, done):
        """Waits for a condition of a pod; returns False if it does not come true, or the pod ends."""
        for seconds in (CALM_AFTER, CALM_SECONDS):
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if done():
                    return True
                if pod.process.poll() is not None:
                    return False
                time.sleep(0.02)
            # The retries of a service that fails at random may take minutes.
            self.calm()
        return False

    def start(self, pod):
        """Starts a dead pod until its gate is open; it may die at a step meanwhile."""
        while True:
            # A pod that has recorded a seat checks none out.
            steps, chance = (STEPS[3:], 0.25) if pod.known() else (STEPS[:3], 0.75)
            pod.step = self.rng.choice(steps) if self.rng.random() < chance else None
            pod.start(pod.step)
            if self.until(pod, lambda: pod.settled() and "entitled" in pod.states()):
                self.trouble()
                return
            self.trouble()
            if pod.process.poll() is None:
                self.fail(pod, f"it is locked out: {pod.states()}")
                return
            self.buried(pod)

    def buried(self, pod):
        """Checks a pod that has just died."""
        code = pod.end()
        self.deaths += 1
        if pod.step and code == -6:
            self.died_at[pod.step] += 1
        held, known = pod.held(), pod.known()
        if held > known:
            self.fail(pod, f"{held} seats are held, and its folder knows of {known}")
        if "exhausted" in pod.states():
            self.fail(pod, "all seats were taken, and there are as many as pods: one is lost")
        if self.held_max() > len(PODS):
            self.fail(pod, "more seats were held than there are")
        # Before a client token is forgotten, this pod's or that of a pod with a call in flight.
        most = DEAD_MINUTES_MAX - pod.intent_minutes(self.now())
        if most > 0 and self.all_settled(pod):
            self.emulator.admin("clock", {"advance": f"{self.rng.randint(0, most)}m"})
        return code

    def all_settled(self, but=None):
        return all(pod.settled() for pod in self.pods if pod is not but and pod.process)

    def kill(self, pod):
        """One death."""
        chance = self.rng.random()
        if pod.step is None and chance < 0.5:
            self.ends["kill -9"] += 1
            if chance < 0.25 and self.all_settled():
                # During a renewal.
                self.emulator.admin("clock", {"advance": f"{RENEWAL_MINUTES}m"})
                time.sleep(self.rng.uniform(0, 0.15))
            self.buried(pod)
            return
        # Without faults every seat must be given back.
        quiet = self.rng.random() < 0.5
        if quiet:
            self.calm()
        whole = pod.shut_down(GRACE_SECONDS + 10 if pod.step or chance < 0.75 else self.rng.uniform(0, 0.2))
        self.trouble()
        code = self.buried(pod)
        if code == -6:
            return
        self.ends["whole shutdown" if whole else "killed in a shutdown"] += 1
        if whole and pod.held():
            told = code != 0 and pod.lines[-1].get("event") == "exit"
            self.told += told
            if quiet or not told:
                self.fail(pod, f"it holds a seat after a whole shutdown, exit {code}")

    def let_time_pass(self):
        """Waits until every pod has renewed its seat, or need not."""
        self.emulator.admin("clock", {"advance": f"{self.rng.randint(0, LIFE_MINUTES_MAX)}m"})
        for pod in self.pods:
            if not self.until(pod, lambda pod=pod: pod.settled() and pod.renewed(self.now())):
                self.fail(pod, "it has not renewed its seat")
        self.trouble()

    def held_max(self):
        licenses = self.emulator.admin("licenses")["licenses"]
        return max(one["held_max"] for license in licenses for one in license["entitlements"] if one["name"] == DIMENSION)

    def now(self):
        return moment(self.emulator.admin("clock")["now"])

    def run(self, kills):
        self.trouble()
        for pod in self.pods:
            self.start(pod)
        while self.deaths < kills:
            pod = self.rng.choice(self.pods)
            self.kill(pod)
            self.start(pod)
            if self.rng.random() < 0.3:
                self.let_time_pass()
        self.calm()
        for pod in self.pods:
            while not pod.shut_down(GRACE_SECONDS + 10) or pod.end() == -6:
                # It dies at its step, or never.
                if pod.process.poll() is None:
                    self.fail(pod, "it does not end")
                self.start(pod)
                self.calm()
            if pod.held() or pod.known():
                self.fail(pod, "it has ended, and not given back its seat")


def moment(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def main():
    program, kills = sys.argv[1], int(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.SystemRandom().randrange(1 << 32)
    print(f"kill campaign, mode contract: {kills} kills, seed {seed}", flush=True)
    with Emulator(program) as emulator:
        campaign = Campaign(program, emulator, seed)
        try:
            campaign.run(kills)
            most = campaign.held_max()
        finally:
            for pod in campaign.pods:
                if pod.process and pod.process.returncode is None:
                    pod.end()
    print(f"deaths {campaign.deaths}, at named steps {campaign.died_at}, other ends {campaign.ends}, most seats held {most} of {len(PODS)}; "
          f"whole shutdowns that say which seat was not given back {campaign.told}")
    # A campaign that is long enough must have died at every step.
    missed = [end for counts in (campaign.died_at, campaign.ends) for end, count in counts.items() if count == 0]
    if missed and kills >= LONG:
        print(f"never happened: {missed}")
        campaign.failures += 1
    sys.exit(1 if campaign.failures else 0)


if __name__ == "__main__":
    main()
