"""Usage: a stop sends it in the time that Kubernetes allows, and a volume keeps it for the next pod."""

import contextlib
import time
from decimal import Decimal

from cluster import wait
from scenarios import scenario
from stand import entitlement, name_of, running

METERED = {"mode": "metered", "image": {"repository": "your-metered-gate"}, "state": {"type": "emptyDir"}}
# The delay of an answer of AWS from another continent.
LATENCY = "300ms"


def billed(space):
    return sum((Decimal(quantity) for quantity in space.aws.billed().values()), Decimal(0))


def reported(space, quantity, **labels):
    """Waits until the application's usage is acknowledged; returns the pod."""
    pod = space.started(**labels)
    wait("an acknowledgement", lambda: f"reported {quantity}" in space.logs(pod))
    return pod


@contextlib.contextmanager
def stopping(stand, name, behaviour):
    """A pod that has reported 10 units and will be stopped, with 300 ms to AWS; at the end it is gone and the units are billed."""
    with stand.namespace(name) as space:
        space.install(command=["/your-app", behaviour, "10"], tollgate=METERED)
        pod = reported(space, 10)
        space.aws.fault(fault="delay", delay=LATENCY)
        # Orphans the pod, because a new pod in its place would report usage, too.
        space.kubectl("delete", "deployment", "app", "--cascade=orphan")
        space.kubectl("delete", "replicasets", "--all", "--cascade=orphan")
        yield space, name_of(pod)
        wait(f"{name_of(pod)} to be gone", lambda: space.pod(name_of(pod)) is None)
        assert billed(space) == 10, space.aws.admin("ledger")


@scenario()
def an_application_that_ignores_sigterm_is_billed(stand):
    """An application that ignores SIGTERM until it is killed leaves the sidecar 2 s: its usage is billed, with 300 ms to AWS."""
    with stopping(stand, "stubborn", "stubborn") as (space, pod):
        space.kubectl("delete", "pod", pod, "--grace-period=5", "--wait=false")


@scenario()
def an_eviction_with_two_seconds_is_billed(stand):
    """An eviction that leaves the pod 2 s: usage is billed, with 300 ms to AWS."""
    with stopping(stand, "evicted", "report") as (space, pod):
        space.evict(pod, gracePeriodSeconds=2)


@scenario()
def an_application_reports_by_the_socket(stand):
    """With appSocket an application of another user reports by a Unix socket that it cannot replace, also after the sidecar was killed."""
    with stand.namespace("socket") as space:
        space.install(command=["/your-app", "report", "10"], tollgate={**METERED, "appSocket": True})
        pod = reported(space, 10)
        inside = ["exec", name_of(pod), "--container", "app", "--"]
        shown = space.kubectl(*inside, "stat", "-c", "%F %a %u", "/run/tollgate/app.sock").stdout.strip()
        assert shown == "socket 666 65532", shown
        users = space.kubectl(*inside, "id", "-u").stdout.strip()
        assert users == "10001", users
        said = space.kubectl(*inside, "sh", "-c", "rm -f /run/tollgate/app.sock 2>&1; wget -q -O - http://127.0.0.1:19181/livez 2>&1; true").stdout
        assert "Read-only file system" in said and "refused" in said, said
        # A killed process leaves its socket; the next one replaces it.
        space.kill(pod, "tollgate")
        space.wait_for_restart(pod, "tollgate")
        wait("a report to the new sidecar", lambda: "reported 5" in space.kubectl(*inside, "/your-app", "use", "5", check=False).stdout)
        space.kubectl("delete", "deployment", "app")
        wait("no pod", lambda: not space.pods(app="app"))
        assert billed(space) == 15, space.aws.admin("ledger")
        return "15 of 15 billed"


@scenario(pods=2)
def a_volume_for_each_replica_bills_once(stand):
    """A StatefulSet with a volume for each replica: killed, then rescheduled with unsent usage, each replica's usage is billed once."""
    with stand.namespace("volumes", follow_clock=True) as space:
        for number in range(2):
            stand.volume(space, f"tollgate-state-app-{number}")
        space.install(kind="StatefulSet", replicas=2, command=["/your-app", "report", "7"], tollgate={
            **METERED, "state": {"type": "volumeClaimTemplate"}, "shutdownGrace": "5s"})

        def acknowledged():
            pods = [pod for pod in space.pods(app="app") if running(pod, "app") and "reported 7" in space.logs(pod)]
            return len(pods) == 2 and pods

        pods = wait("two acknowledgements", acknowledged)
        for pod in pods:
            space.kill(pod, "tollgate")
        for pod in pods:
            space.wait_for_restart(pod, "tollgate")
        # A stop cannot send it either. No record is in doubt; no other pod could bill such a
        # record.
        space.aws.fault(fault="throttle", operation="MeterUsage")
        space.kubectl("delete", "pods", "--all")
        # The first replica starts again and waits for AWS; the second waits for the first.
        wait("a new sidecar", lambda: (pod := space.pod("app-0")) and running(pod, "tollgate") and entitlement(pod))
        assert billed(space) == 0, space.aws.admin("ledger")
        space.aws.no_fault()
        wait("two new acknowledgements", acknowledged)
        space.aws.advance("75m")
        wait("the bill", lambda: billed(space) >= 28)
        space.kubectl("delete", "statefulset", "app")
        wait("no pod", lambda: not space.pods(app="app"))
        assert billed(space) == 28, space.aws.admin("ledger")
        return "4 times 7 billed once each"


@scenario(pods=10)
def a_rolling_update_under_quotas_bills_all(stand):
    """A rolling update of 8 replicas under AWS's quotas: every replica's usage is billed once, and none waits for long."""
    with stand.namespace("rolling", "--quotas") as space:
        replicas = 8
        space.install(replicas=replicas, command=["/your-app", "last", "3"], tollgate=METERED)

        def all_reported():
            pods = [pod for pod in space.pods(app="app") if "deletionTimestamp" not in pod["metadata"]]
            return len(pods) == replicas and all(running(pod, "app") and "reported 3" in space.logs(pod) for pod in pods)

        wait("eight replicas", all_reported)
        began = time.monotonic()
        space.kubectl("rollout", "restart", "deployment/app")
        space.kubectl("rollout", "status", "deployment/app", "--timeout=120s")
        wait("eight new replicas", all_reported)
        took = time.monotonic() - began
        space.kubectl("scale", "deployment", "app", "--replicas=0")
        wait("no pod", lambda: not space.pods(app="app"))
        # Each of 16 pods reported 3 when it started and 4 when it was told to stop.
        expected = 2 * replicas * 7
        assert billed(space) == expected, (expected, space.aws.admin("ledger")["totals"])
        return f"{expected} of {expected} billed, rolled in {took:.0f} s"
