"""Your application reports usage, an hour passes, and what AWS would bill is compared. In the place of `usage`: your application."""

import pytest
import usage


@pytest.fixture
def pod(emulator, sidecar, monkeypatch):
    emulator.admin("clock", {"now": "2026-11-24T08:30:00Z"})
    pod = sidecar("pod-1", mode="metered", product_code="demometered", dimensions="requests,gigabytes")
    pod.wait_for("entitled")
    monkeypatch.setattr(usage, "ADDRESS", pod.app.removeprefix("http://"))
    return pod


def test_each_job_is_billed_once(emulator, pod):
    usage.report("requests", 12.5, "job-17")
    usage.report("requests", 12.5, "job-17")  # again, as after a crash
    usage.report("requests", 2, "job-18")
    emulator.advance("1h")
    (billed,) = pod.wait_for_bill(1)
    assert (billed["dimension"], billed["hour"], billed["quantity"]) == ("requests", "2026-11-24T08:00:00Z", "14.5")


def test_a_misspelt_dimension_is_told(emulator, pod):
    with pytest.raises(ValueError, match="reqests"):
        usage.report("reqests", 1, "job-19")
    usage.report("requests", 1, "job-19")
    emulator.advance("1h")
    assert [(billed["dimension"], billed["quantity"]) for billed in pod.wait_for_bill(1)] == [("requests", "1")]
