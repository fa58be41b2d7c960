"""Prints the Grafana dashboard: panels as a list of (title, unit, query, kind), so that a change is a line.

Usage: make_dashboard.py > dashboard.json
"""

import json
import re


def rise(counter, window="1h"):
    """The increase of a counter within the window, its first value included.

    `increase` alone ignores the first value of a series. A counter with labels begins with its first count, and a process counts before its
    first scrape: a single bad token would be an increase of 0. A series with samples in the hour before the window is not new.
    """
    rose = f"increase({counter}[{window}])"
    first = f"min_over_time({counter}[{window}]) unless present_over_time({counter}[1h] offset {window})"
    return f"({rose} + ({first}) or {rose})"


def quantile(part, histogram):
    return f"histogram_quantile({part}, sum by (le) {rise(histogram + '_bucket', '5m')})"


def metering(gauge):
    """A gauge in pods that report usage; it is always 0 in other pods."""
    return f"({gauge} and tollgate_ledger_bytes_max > 0)"


PANELS = [
    ("Alerts that fire", "short", 'count by (alertname) (ALERTS{alertname=~"Tollgate.*", alertstate="firing"})', "timeseries"),
    ("Gates open", "short", "sum(tollgate_gate_open)", "stat"),
    ("Pods by state", "short", "sum by (state) (tollgate_entitlement_state)", "timeseries"),
    ("Registration attempts in 5 minutes", "short",
     f"sum by (outcome, code) {rise('tollgate_registration_attempts_total', '5m')}", "timeseries"),
    ("Registration attempts, 95th percentile", "s", quantile("0.95", "tollgate_registration_duration_seconds"), "timeseries"),
    ("Emulated pods", "short", "sum(tollgate_emulated)", "stat"),
    ("Bad tokens in an hour", "short", f"sum by (reason) {rise('tollgate_token_verification_failures_total')}", "timeseries"),
    ("Refused, then entitled, in an hour", "short", f"sum by (namespace, pod) {rise('tollgate_entitled_after_refusal_total')}", "timeseries"),
    ("Pods with a rotated key", "short", "count(tollgate_public_key_rotation_timestamp_seconds > 0) or vector(0)", "stat"),
    ("Failed writes of the registration in an hour", "short",
     f"sum by (namespace, pod) {rise('tollgate_state_write_failures_total')}", "timeseries"),
    ("Clock skew", "s", "tollgate_clock_skew_seconds", "timeseries"),
    ("Builds", "short", "count by (build, version, revision) (tollgate_build_info)", "timeseries"),
    ("License: seats sold and taken", "short", "max by (namespace, job, dimension, kind) (tollgate_license_seats{kind=~\"max|used\"})",
     "timeseries"),
    ("License: seats held by these pods", "short", "sum by (namespace, job, dimension) (tollgate_license_seats{kind=\"held\"})", "timeseries"),
    ("License: days until the contract ends", "d",
     "(min by (namespace, job) (tollgate_license_end_timestamp_seconds > 0) - time()) / 86400", "stat"),
    ("License: calls in an hour", "short", f"sum by (operation, code) {rise('tollgate_license_calls_total')}", "timeseries"),
    ("License: time since the latest grant", "s", "time() - (tollgate_license_granted_timestamp_seconds > 0)", "timeseries"),
    ("Dimensions that AWS does not know", "short", "max by (namespace, job, dimension) (tollgate_usage_dimension_unknown)", "stat"),
    ("Usage events in 5 minutes", "short", f"sum by (dimension, status) {rise('tollgate_usage_events_total', '5m')}", "timeseries"),
    ("Usage events rejected in an hour", "short", f"sum by (reason) {rise('tollgate_usage_events_rejected_total')}", "timeseries"),
    ("Usage requests refused in an hour", "short", f"sum by (reason) {rise('tollgate_usage_requests_refused_total')}", "timeseries"),
    ("Hour records in an hour", "short", f"sum by (dimension, outcome) {rise('tollgate_usage_records_total')}", "timeseries"),
    ("Unsent records", "short", f"sum by (namespace, pod) {metering('tollgate_usage_unsent_records')}", "timeseries"),
    ("Dead letters", "short", f"sum by (namespace, pod) {metering('tollgate_usage_dead_letters')}", "stat"),
    ("Age of the oldest unsent record", "s",
     f"(time() - {metering('tollgate_usage_oldest_unsent_timestamp_seconds')}) * (tollgate_usage_oldest_unsent_timestamp_seconds > bool 0)",
     "timeseries"),
    ("Usage overdue", "s", "tollgate_usage_overdue_seconds", "timeseries"),
    ("Events of AWS Marketplace in an hour", "short", f"sum by (kind, outcome) {rise('tollgate_marketplace_events_total')}", "timeseries"),
    ("Ledger: failed reads and writes in an hour", "short", f"sum by (namespace, pod) {rise('tollgate_ledger_commit_failures_total')}", "timeseries"),
    ("Ledger: size", "bytes", metering("tollgate_ledger_bytes"), "timeseries"),
    ("Ledger: part of its limit", "percentunit", "tollgate_ledger_bytes / (tollgate_ledger_bytes_max > 0)", "timeseries"),
    ("Ledger: commits, 99th percentile", "s", quantile("0.99", "tollgate_ledger_commit_duration_seconds"), "timeseries"),
]


def legend(title, query):
    """The labels that the query keeps; if it keeps all of them, the pod."""
    if query.startswith("histogram_quantile"):
        return title.rsplit(", ", 1)[-1]
    labels = re.match(r"\(?\w+ by \(([^)]*)\)", query)
    if not labels:
        return title if query.startswith(("sum(", "count(")) else "{{namespace}} {{pod}}"
    return " ".join(f"{{{{{label}}}}}" for label in labels[1].split(", "))


def panel(index, title, unit, query, kind):
    return {
        "id": index + 1,
        "title": title,
        "type": kind,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"h": 8, "w": 8, "x": 8 * (index % 3), "y": 8 * (index // 3)},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [{"refId": "A", "expr": query, "legendFormat": legend(title, query)}],
    }


print(json.dumps({
    "uid": "tollgate",
    "title": "tollgate",
    "tags": ["tollgate", "aws-marketplace"],
    "schemaVersion": 39,
    "time": {"from": "now-6h", "to": "now"},
    "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
    "panels": [panel(index, *entry) for index, entry in enumerate(PANELS)],
}, indent=1))
