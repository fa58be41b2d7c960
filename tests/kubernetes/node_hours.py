"""A product that is priced by the node-hour without code in the application: the gate's open time is the usage."""

from collections import Counter
from decimal import Decimal

from cluster import wait
from scenarios import scenario
from stand import entitlement, name_of, running

# In the middle of an hour, so that its record of before is due, and a start or an end is never at an hour's turn.
BEGIN = "2026-11-24T08:30:00Z"
DAY = 24
KILLED_AT, EVICTED_AT = 5, 12


def open_gate(space, other_than=None):
    """Waits for a pod of which the application runs and the gate is open."""
    def found(pod):
        answer = name_of(pod) != other_than and running(pod, "app") and entitlement(pod)
        return answer and answer["gate"] == "open"

    return space.wait_for_pod("an open gate", found, app="app")


def billed(space):
    """The node-hours of each clock hour, counted from the day's first."""
    hours = Counter()
    for record in space.aws.admin("ledger")["records"]:
        day, hour = int(record["hour"][8:10]), int(record["hour"][11:13])
        hours[24 * (day - 24) + hour - 8] += Decimal(record["quantity"])
    return dict(hours)


@scenario(pods=2)
def a_day_of_node_hours_is_billed_to_the_hour(stand):
    """A DaemonSet with four lines of TOML, for a day: each hour of the node is billed once, with its sidecar killed; an evicted pod's hour is its own."""
    with stand.namespace("node-hours", follow_clock=True) as space:
        space.aws.admin("clock", {"now": BEGIN})
        space.aws.admin("products", {"product_code": "demometered", "dimensions": ["node_hours"]})
        chart = stand.folder / "example"
        space.helm("4.3.1", "install", "app", chart, "--namespace", space.name, "--values", chart / "values-node-hours.yaml",
                   "--set", "tollgate.image.repository=your-node-hours-gate")
        pod = open_gate(space)
        expected = {}
        for hour in range(DAY):
            if hour == KILLED_AT:
                # What a kill can lose is ten seconds, and the hour is rounded up.
                space.kill(pod, "tollgate")
                space.wait_for_restart(pod, "tollgate")
                open_gate(space)
            if hour == EVICTED_AT:
                # It reports its hour before it ends, and the pod in its place has an hour of its own: AWS adds pods up.
                space.evict(name_of(pod))
                pod = open_gate(space, name_of(pod))
                expected[hour] = 1
            space.aws.advance("1h")
            expected[hour] = expected.get(hour, 0) + 1
            wait(f"the bill of hour {hour}", lambda: len(billed(space)) > hour and sum(billed(space).values()) >= sum(expected.values()))
            assert billed(space) == expected, (hour, billed(space), expected)
        # The last half hour is reported by the stop.
        space.kubectl("delete", "daemonset", "app")
        wait("no pod", lambda: not space.pods(app="app"))
        expected[DAY] = 1
        assert billed(space) == expected, (billed(space), expected)
        return f"{sum(expected.values())} node-hours in {len(expected)} hours"
