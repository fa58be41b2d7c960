"""Prints the Grafana dashboard: panels as a list of (title, unit, query), so that a change is a line.

Usage: make_dashboard.py > dashboard.json
"""

import json

PANELS = [
    ("Gates open", "short", "sum(tollgate_gate_open)", "stat"),
    ("Pods by state", "short", "sum by (state) (tollgate_entitlement_state)", "timeseries"),
    ("Emulated pods", "short", "sum(tollgate_emulated)", "stat"),
    ("Attempts by outcome", "ops", "sum by (outcome, code) (rate(tollgate_registration_attempts_total[5m]))", "timeseries"),
    ("Attempts, 95th percentile", "s",
     "histogram_quantile(0.95, sum by (le) (rate(tollgate_registration_duration_seconds_bucket[5m])))", "timeseries"),
    ("Bad tokens", "short", "sum by (reason) (increase(tollgate_token_verification_failures_total[1h]))", "timeseries"),
    ("Pods with a rotated key", "short", "count(tollgate_public_key_rotation_timestamp_seconds > 0) or vector(0)", "stat"),
    ("Refused, then entitled", "short", "sum by (pod) (increase(tollgate_entitled_after_refusal_total[1h]))", "timeseries"),
    ("License: days until the contract ends", "d",
     "(min by (namespace, job) (tollgate_license_end_timestamp_seconds > 0) - time()) / 86400", "stat"),
    ("License: seats sold and taken", "short", "max by (namespace, job, dimension, kind) (tollgate_license_seats{kind=~\"max|used\"})",
     "timeseries"),
    ("License: seats held by these pods", "short", "sum by (namespace, job, dimension) (tollgate_license_seats{kind=\"held\"})", "timeseries"),
    ("License: time since the latest grant", "s",
     "(time() - tollgate_license_granted_timestamp_seconds) * (tollgate_license_granted_timestamp_seconds > bool 0)", "timeseries"),
    ("License: calls by code", "ops", "sum by (operation, code) (rate(tollgate_license_calls_total[5m]))", "timeseries"),
    ("Usage events", "ops", "sum by (dimension, status) (rate(tollgate_usage_events_total[5m]))", "timeseries"),
    ("Usage requests refused", "short", "sum by (reason) (increase(tollgate_usage_requests_refused_total[1h]))", "timeseries"),
    ("Usage events rejected", "short", "sum by (reason) (increase(tollgate_usage_events_rejected_total[1h]))", "timeseries"),
    ("Hour records", "short", "sum by (dimension, outcome) (increase(tollgate_usage_records_total[1h]))", "timeseries"),
    ("Unsent records", "short", "sum by (pod) (tollgate_usage_unsent_records)", "timeseries"),
    ("Age of the oldest unsent record", "s",
     "(time() - tollgate_usage_oldest_unsent_timestamp_seconds) * (tollgate_usage_oldest_unsent_timestamp_seconds > bool 0)",
     "timeseries"),
    ("Dead letters", "short", "sum by (pod) (tollgate_usage_dead_letters)", "stat"),
    ("Ledger", "bytes", "tollgate_ledger_bytes", "timeseries"),
    ("Ledger, part of its limit", "percentunit", "tollgate_ledger_bytes / (tollgate_ledger_bytes_max > 0)", "timeseries"),
    ("Failed writes", "short", "sum by (pod) (increase(tollgate_ledger_commit_failures_total[1h]))", "timeseries"),
    ("Commit, 99th percentile", "s",
     "histogram_quantile(0.99, sum by (le) (rate(tollgate_ledger_commit_duration_seconds_bucket[5m])))", "timeseries"),
    ("Clock skew", "s", "tollgate_clock_skew_seconds", "timeseries"),
    ("Builds", "short", "count by (version, revision) (tollgate_build_info)", "timeseries"),
]


def panel(index, title, unit, query, kind):
    return {
        "id": index + 1,
        "title": title,
        "type": kind,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"h": 8, "w": 8, "x": 8 * (index % 3), "y": 8 * (index // 3)},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [{"refId": "A", "expr": query}],
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
