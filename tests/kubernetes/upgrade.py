"""An upgrade from 0.1.0, with usage in its ledger, and the way back. Both versions are real: 0.1.0's program and charts are built from
its sources (`just first-release`)."""

import contextlib
import json
import pathlib
import re
import shutil
import sqlite3
import tempfile
import textwrap

from cluster import run, wait
from scenarios import scenario
from stand import ended, name_of, running, status
from usage import billed

GUIDE = pathlib.Path(__file__).resolve().parents[2] / "docs/UPGRADE.md"
STATE = {"type": "persistentVolumeClaim", "claimName": "usage"}
# 0.1.0 cannot be rehearsed with a seller's file, so all its settings come from the chart. It takes any dimension.
OLD = {"mode": "metered", "productCode": "demometered", "state": STATE, "shutdownGrace": "5s",
       "image": {"repository": "your-metered-gate", "tag": "0.1.0"}}
NEW = {"mode": "metered", "state": STATE, "shutdownGrace": "5s", "image": {"repository": "your-metered-gate", "tag": "1.0.0"}}
KEPT = {"id": "order-1", "dimension": "requests", "quantity": 3}


def report(space, event):
    """Reports an event from inside the pod's network; returns its result."""
    target = space.process(space.pod(app="app"), "app")
    sent = run(
        "nsenter", "--net", f"--target={target}", "busybox", "wget", "-q", "-O", "-", "--header", "content-type: application/json",
        "--post-data", json.dumps(event), "http://127.0.0.1:19181/v1/usage",
    )
    return json.loads(sent)["results"][0]["status"]


def count(space, quantity):
    assert report(space, {"dimension": "requests", "quantity": quantity}) == "accepted"


def guided(space, move=False):
    """Runs the guide's pod to its end, or with the guide's other line, which moves the ledger away; returns its output."""
    pod, line = (textwrap.dedent(block) for block in re.findall(r"(?ms)^ *```yaml\n(.*?)^ *```", GUIDE.read_text()))
    image = "your-metered-gate:1.0.0"
    if move:
        pod, image = re.sub(r"args: .*", line.strip(), pod), "your-app:1.0.0"
    space.apply(*space.parse(pod.replace("your-gate:2.0.0", image)))
    found = wait("the pod of the guide", lambda: (one := space.pod("ledger")) and ended(one) and one)
    written = space.logs(found, "ledger")
    assert found["status"]["phase"] == "Succeeded", written
    space.kubectl("delete", "pod", "ledger")
    return written


def balance(space):
    """Reads the ledger of a stopped sidecar."""
    written = guided(space)
    # After the warnings of a development build.
    [found] = json.loads(written[re.search(r"(?m)^\[", written).start():])
    assert found["balanced"], found
    return {part: found[part] for part in ("accepted", "billed", "pending", "dead")}


def schema(ledger):
    """The schema of a ledger that no process has open, read from a copy, because SQLite would write the log beside it into the file."""
    with tempfile.TemporaryDirectory() as folder:
        for file in ledger.parent.glob(f"{ledger.name}*"):
            shutil.copy(file, folder)
        with contextlib.closing(sqlite3.connect(f"{folder}/{ledger.name}")) as copy:
            return copy.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()[0]


def stopped(space):
    space.kubectl("scale", "deployment", "app", "--replicas=0")
    wait("no pod", lambda: not space.pods(app="app"))


def ended_with(space, code, text):
    """Waits until the sidecar of a pod has ended with this code; returns its last message."""
    def found():
        for pod in space.pods(app="app"):
            state = status(pod, "tollgate")
            for one in (state["state"], state.get("lastState", {})):
                end = one.get("terminated")
                if end and end["exitCode"] == code and text in end.get("message", ""):
                    return end["message"]

    return wait(f"{space.name}: exit code {code} and {text!r}", found)


def upgrade(stand, name, helm):
    with stand.namespace(name, follow_clock=True) as space:
        stand.volume(space, "usage")
        space.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "usage"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}})
        folder = stand.folder / "volumes" / f"{name}-usage"
        ledger = folder / "usage.sqlite"

        def upgraded(**settings):
            space.install(helm=helm, order="upgrade", tollgate={**NEW, "settings": settings})

        def refused(sentence, *flags):
            done = space.helm(helm, "upgrade", "app", stand.folder / "example", "--namespace", name, *flags, check=False)
            assert done.returncode != 0 and f"tollgate: {sentence}" in done.stderr, done.stderr

        space.install(helm=helm, chart="example-0.1.0", tollgate=OLD)
        old = name_of(space.started(app="app"))
        # An hour that is billed, one whose answer is lost, one that AWS throttles, and one that is open.
        count(space, 7)
        space.aws.advance("75m")
        wait("the first hour's bill", lambda: billed(space) == 7)
        count(space, 6)
        space.aws.admin("faults", [{"fault": "reset-after", "operation": "MeterUsage", "count": 1}, {"fault": "throttle", "operation": "MeterUsage"}])
        space.aws.advance("75m")
        wait("the lost answer", lambda: billed(space) == 13)
        count(space, 5)
        space.aws.advance("75m")
        assert report(space, KEPT) == "accepted"
        # A refusal of the new chart changes nothing: first for 0.1.0's defaults, then for the user's
        # own values.
        refused("remove tollgate.probes.startupFailureThreshold: the native form has no startup probe", "--reuse-values")
        refused("mode metered needs the usage dimensions of the product: set tollgate.settings.dimensions", "--reset-then-reuse-values")
        startup = ("--reset-then-reuse-values", "--set", "tollgate.probes.startupPeriodSeconds=1")
        refused("remove tollgate.probes.startupPeriodSeconds: the native form has no startup probe", *startup)
        assert name_of(space.pod(app="app")) == old and running(space.pod(app="app"), "app")
        if helm.startswith("4"):
            # Server-side apply keeps the fields that the API server added to 0.1.0's rolling update, and the new chart
            # has no rolling update.
            done = space.install(helm=helm, order="upgrade", tollgate=NEW, check=False)
            assert done.returncode != 0 and "spec.strategy.rollingUpdate: Forbidden" in done.stderr, done.stderr
            assert name_of(space.pod(app="app")) == old and running(space.pod(app="app"), "app")
            space.kubectl("patch", "deployment", "app", "--patch", '{"spec":{"strategy":{"type":"Recreate","rollingUpdate":null}}}')
        # A value that only the new image can refuse ends its start, and leaves the ledger
        # unchanged.
        upgraded(settle="3m")
        ended_with(space, 78, "may be set by the seller's file only, which this image has; remove it here")
        assert schema(ledger) == "1"
        stopped(space)
        assert schema(ledger) == "1"
        upgraded()
        wait("the copy of the old ledger", (folder / "usage.sqlite.schema-1").exists)
        assert schema(folder / "usage.sqlite.schema-1") == "1"
        space.aws.no_fault()
        space.started(app="app")
        assert report(space, KEPT) == "duplicate"
        count(space, 2)
        # 0.1.0 closed its last hour for all usage when it stopped, so later usage counts to the next hour.
        space.aws.advance("135m")
        # AWS has the record whose answer was lost: it is a dead letter, and the other usage is
        # carried or counted.
        wait("the bill", lambda: billed(space) == 23)
        stopped(space)
        assert billed(space) == 23 and schema(ledger) == "4", space.aws.admin("ledger")
        assert balance(space) == {"accepted": "23", "billed": "17", "pending": "0", "dead": "6"}

        # The way back: 0.1.0 does not touch the new ledger, and starts one of its own after that is
        # moved away.
        before = ledger.read_bytes()
        space.helm(helm, "rollback", "app", "1", "--namespace", name)
        ended_with(space, 74, "needs tollgate with ledger schema 2 or newer, this one has 1; use the newer version")
        stopped(space)
        assert ledger.read_bytes() == before
        guided(space, move=True)
        space.kubectl("scale", "deployment", "app", "--replicas=1")
        space.started(app="app")
        count(space, 1)
        # The cost: the ids of events are forgotten.
        assert report(space, KEPT) == "accepted"
        stopped(space)
        assert billed(space) == 27, space.aws.admin("ledger")
        assert schema(ledger) == "1"
        [dead] = json.loads(run(stand.program, "ledger", "dead-letters", "--state-dir", folder / "ledger-0.2.0", "--json"))
        assert (dead["quantity"], dead["code"]) == ("6", "in_doubt"), dead
        return "23 of 23 billed once, and 4 of 4 after the way back"


@scenario(pods=2)
def an_upgrade_from_0_1_0_bills_once_by_helm_3(stand):
    """From 0.1.0 by Helm 3, with usage billed, in doubt, throttled and open: all is billed once, refused values touch nothing; the way back."""
    return upgrade(stand, "upgrade-3", "3.22.0")


@scenario(pods=2)
def an_upgrade_from_0_1_0_bills_once_by_helm_4(stand):
    """The same by Helm 4."""
    return upgrade(stand, "upgrade-4", "4.3.1")
