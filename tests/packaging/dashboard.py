"""The dashboard and the alert rules use the metrics that docs/METRICS.md has, all of them; the dashboard is what its program prints.

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
    def test_every_metric_is_documented_and_used(self):
        documented = set(re.findall(r"^\| `(tollgate_\w+)`", (ROOT / "docs/METRICS.md").read_text(), re.M))
        dashboard = json.loads((PACK / "dashboard.json").read_text())
        rules = yaml.safe_load((PACK / "rules.yaml").read_text())
        queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        queries += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
        used = {re.sub(r"_(bucket|sum|count)$", "", name) for query in queries for name in re.findall(r"tollgate_\w+", query)}
        self.assertEqual(used, documented)
        self.assertGreater(len(used), 12)

    def test_every_alert_fires_in_a_test_of_its_own(self):
        rules = yaml.safe_load((PACK / "rules.yaml").read_text())
        tests = yaml.safe_load((PACK / "rules.test.yaml").read_text())["tests"]
        fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
        self.assertEqual(fired, {rule["alert"] for group in rules["groups"] for rule in group["rules"]})

    def test_the_scrape_configuration_finds_the_pods_of_the_manifests_and_of_the_chart(self):
        def scraped(part):
            """How many ports of a manifest are kept."""
            if not isinstance(part, (dict, list)):
                return 0
            own = isinstance(part, dict) and "containerPort" in part and re.fullmatch(kept, part.get("name", ""))
            return bool(own) + sum(scraped(one) for one in (part.values() if isinstance(part, dict) else part))

        job = yaml.safe_load((PACK / "scrape.yaml").read_text())["scrape_configs"][0]
        kept = next(rule["regex"] for rule in job["relabel_configs"] if rule.get("action") == "keep")
        manifests = [*(ROOT / "deploy/kubernetes").glob("*.yaml"), ROOT / "tests/packaging/golden/all-switches.yaml"]
        found = {path.name: sum(scraped(document) for document in yaml.safe_load_all(path.read_text())) for path in manifests}
        # In mode hourly the command takes tollgate's place: nothing answers any more.
        self.assertEqual(found.pop("exec.yaml"), 0)
        self.assertEqual(set(found.values()), {1}, found)

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
