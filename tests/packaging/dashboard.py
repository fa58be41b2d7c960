"""The dashboard and the alert rules use only metrics that docs/METRICS.md has; the dashboard is what its program prints.

Usage: dashboard.py
"""

import json
import pathlib
import re
import subprocess
import sys
import unittest

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACK = ROOT / "deploy/observability"


class Pack(unittest.TestCase):
    def test_every_metric_is_documented(self):
        documented = set(re.findall(r"^\| `(tollgate_\w+)`", (ROOT / "docs/METRICS.md").read_text(), re.M))
        dashboard = json.loads((PACK / "dashboard.json").read_text())
        rules = yaml.safe_load((PACK / "rules.yaml").read_text())
        queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        queries += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
        used = {re.sub(r"_(bucket|sum|count)$", "", name) for query in queries for name in re.findall(r"tollgate_\w+", query)}
        self.assertEqual(used - documented, set())
        self.assertGreater(len(used), 12)

    def test_every_alert_fires_in_a_test_of_its_own(self):
        rules = yaml.safe_load((PACK / "rules.yaml").read_text())
        tests = yaml.safe_load((PACK / "rules.test.yaml").read_text())["tests"]
        fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
        self.assertEqual(fired, {rule["alert"] for group in rules["groups"] for rule in group["rules"]})

    def test_the_dashboard_is_what_its_program_prints(self):
        printed = subprocess.run([sys.executable, PACK / "make_dashboard.py"], capture_output=True, text=True, check=True)
        self.assertEqual(printed.stdout, (PACK / "dashboard.json").read_text())

    def test_every_query_is_promql(self):
        dashboard = json.loads((PACK / "dashboard.json").read_text())
        rules = {"groups": [{"name": "dashboard", "rules": [
            {"record": f"panel:{panel['id']}", "expr": panel["targets"][0]["expr"]} for panel in dashboard["panels"]
        ]}]}
        done = subprocess.run(
            ["promtool", "check", "rules", "/dev/stdin"], input=yaml.safe_dump(rules), capture_output=True, text=True
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
