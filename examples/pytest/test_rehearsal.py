"""The three rehearsals, by the fixtures of tollgate_rehearsal.py: `TOLLGATE=target/debug/tollgate pytest examples/pytest`."""

HOURLY = {"product_code": "demohourly"}
METERED = {"mode": "metered", "product_code": "demometered", "dimensions": "requests,gigabytes"}


def test_not_entitled(emulator, sidecar):
    emulator.subscribe(False)
    refused = sidecar("refused", **HOURLY).wait_for("denied")
    assert refused["gate"] == "shut" and refused["reason"]["code"] == "CustomerNotEntitledException"
    emulator.subscribe()
    # The emulator does not change its answer to a pod, so this needs another pod.
    assert sidecar("admitted", **HOURLY).wait_for("entitled")["gate"] == "open"


def test_throttled(emulator, sidecar):
    emulator.fault(fault="throttle", operation="RegisterUsage", count=3)
    sidecar("throttled", **HOURLY).wait_for("entitled")
    (rule,) = emulator.admin("faults")["rules"]
    assert rule["hits"] == 3


def test_a_day_of_hours(emulator, sidecar):
    emulator.admin("clock", {"now": "2026-11-24T00:30:00Z"})
    pod = sidecar("day", **METERED)
    pod.wait_for("entitled")
    for hour in range(24):
        pod.use("requests", hour + 1)
        emulator.advance("1h")
        billed = pod.wait_for_bill(hour + 1)
    hours = [record["hour"] for record in billed]
    assert hours == [f"2026-11-24T{hour:02}:00:00Z" for hour in range(24)]
    assert [record["quantity"] for record in billed] == [str(hour + 1) for hour in range(24)]
