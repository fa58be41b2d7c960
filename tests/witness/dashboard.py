"""Prometheus scrapes sidecars with faults, by the scrape configuration and with the alert rules of deploy/observability. Every query of the
Grafana dashboard has to return a value, and a page draws the dashboard from the answers. Grafana itself is not run.

Usage: dashboard.py PROGRAM NODE_MODULES_FOLDER
With PICTURES set it writes the pictures of that page, light and dark, into that folder.
"""

import datetime
import json
import math
import os
import pathlib
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

import yaml

from browser import Browser
from processes import Emulator, Process, Sidecar

FOLDER = sys.argv.pop(2)
PROGRAM = os.path.abspath(sys.argv.pop(1))
HERE = pathlib.Path(__file__).resolve().parent
PACK = HERE.parents[1] / "deploy/observability"
PATIENCE = 30
# The clocks agree here, so this panel shows 0 s.
MAY_BE_ZERO = {"Clock skew"}


def wait(what, condition):
    until = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > until:
            raise AssertionError(f"timed out waiting for {what}")
        time.sleep(0.1)
    return found


def discovered(pod, port, port_name="gate", phase="Running"):
    """The targets that Prometheus discovers in a cluster for a pod with tollgate: one for each port, with these labels."""
    about = {"namespace": "shop", "pod_name": pod, "pod_phase": phase, "pod_label_app": pod.rsplit("-", 1)[0]}
    ports = [("tollgate", port_name, port), ("app", "http", 1)]
    return [
        {"targets": [f"127.0.0.1:{number}"], "labels": {
            f"__meta_kubernetes_{label}": value
            for label, value in {**about, "pod_container_name": container, "pod_container_port_name": name}.items()
        }} for container, name, number in ports
    ]


class Prometheus(Process):
    """Prometheus with the shipped rules and scrape configuration. Debian's build has no discovery of pods in a cluster, so the targets are
    static here."""

    def __init__(self, pods):
        self.folder = tempfile.TemporaryDirectory()
        configuration = yaml.safe_load((PACK / "scrape.yaml").read_text())
        for job in configuration["scrape_configs"]:
            assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
            job["static_configs"] = pods
        configuration["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        configuration["rule_files"] = [str(PACK / "rules.yaml")]
        path = os.path.join(self.folder.name, "prometheus.yml")
        with open(path, "w") as file:
            yaml.safe_dump(configuration, file)
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.endpoint = f"http://{address}"
        self.process = subprocess.Popen([
            "prometheus", f"--config.file={path}", f"--storage.tsdb.path={self.folder.name}/data", f"--web.listen-address={address}",
            "--log.level=error",
        ])
        try:
            wait("Prometheus", self.ready)
        except BaseException:
            # The caller does not have it yet, and cannot end it.
            self.__exit__()
            raise

    def ready(self):
        if self.process.poll() is not None:
            raise AssertionError(f"Prometheus ended with {self.process.returncode}")
        try:
            with urllib.request.urlopen(f"{self.endpoint}/-/ready"):
                return True
        except OSError:
            return False

    def ask(self, path, **parameters):
        """The data that its HTTP API returns; a refused query raises an error with Prometheus' reason."""
        try:
            with urllib.request.urlopen(f"{self.endpoint}/api/v1/{path}?{urllib.parse.urlencode(parameters)}") as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from None

    def series(self, query, start, end):
        """The times of a range, and each series of a query: its labels and a value for each time, None where there is none."""
        found = []
        times = list(range(start, end + 1))
        for one in self.ask("query_range", query=query, start=start, end=end, step=1)["result"]:
            values = {int(at): float(value) for at, value in one["values"]}
            numbers = [values.get(at) for at in times]
            found.append({"labels": one["metric"], "values": [None if n is None or not math.isfinite(n) else n for n in numbers]})
        return times, found


class Dashboard(Browser):
    """Six sidecars, each with a fault of its own."""

    @classmethod
    def setUpClass(cls):
        cls.panels = json.loads((PACK / "dashboard.json").read_text())["panels"]
        cls.variables = {"datasource": "prometheus"}
        cls.sidecars = {}
        # The clock of the second emulator is moved, that of the first is not.
        cls.emulator, cls.hours = (cls.enterClassContext(Emulator(PROGRAM)) for _ in range(2))
        cls.begin()
        cls.prometheus = cls.enterClassContext(Prometheus(cls.pods))
        wait("scrapes", lambda: all(target["health"] == "up" for target in cls.targets()) and cls.targets())
        cls.start = int(time.time()) - 1
        cls.live()
        cls.last = int(time.time())

    @classmethod
    def run_pod(cls, emulator, pod, mode, program=PROGRAM, folder=None, **settings):
        folder = folder or cls.enterClassContext(tempfile.TemporaryDirectory())
        settings = {"TOLLGATE_STATE_DIR": folder, "TOLLGATE_POD_UID": pod, "AWS_ACCESS_KEY_ID": pod, **settings}
        sidecar = cls.sidecars[pod] = Sidecar(program, emulator, mode, **settings)
        cls.addClassCleanup(sidecar.__exit__)
        address = sidecar.probe.removeprefix("http://")
        return folder, address

    @classmethod
    def begin(cls):
        """Starts the pods before Prometheus, so that their first counts come before the first scrape."""
        emulator, hours = cls.emulator, cls.hours
        # A key that was rotated after the image was built.
        emulator.admin("products", {"product_code": "demohourly", "rotate": True})
        cls.run_pod(emulator, "hourly-0", "hourly", TOLLGATE_PUBLIC_KEY_VERSION="1")
        # A buyer who has not subscribed.
        emulator.admin("switches", {"refused_pod": "accepted"})
        emulator.admin("pods", {"access_key": "refused-0", "account_id": "444455556666"})
        cls.refused = cls.run_pod(emulator, "refused-0", "hourly", state="denied")
        # A token with another nonce, and a state folder that cannot be written.
        emulator.admin("faults", {"fault": "token", "token": "wrong-nonce", "pod": "forged-0"})
        folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        os.mkdir(os.path.join(folder, "registration.json"))
        cls.run_pod(emulator, "forged-0", "hourly", state="unverified", folder=folder)
        # A contract that ends.
        end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=30)
        emulator.admin("licenses", {"product_id": emulator.facts["product_id"], "end": end.strftime("%Y-%m-%dT%H:%M:%SZ")})
        cls.run_pod(emulator, "contract-0", "contract")
        # A seller's own, to which somebody delivers what is no event of AWS Marketplace.
        folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        with open(token := os.path.join(folder, "token"), "w") as file:
            file.write("t" * 32)
        cls.run_pod(emulator, "saas-0", "saas", folder=folder, TOLLGATE_APP_TOKEN_FILE=token)
        # Usage, with a dimension that AWS does not know. The clock starts in the past, because Prometheus compares times with the system's.
        start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=4)
        hours.admin("clock", {"now": start.strftime("%Y-%m-%dT%H:30:00Z")})
        hours.admin("switches", {"dry_run_checks": "everything"})
        # Without the signal for files that grow beyond a limit, writes fail as on a full disk and the process goes on.
        limited = os.path.join(cls.enterClassContext(tempfile.TemporaryDirectory()), "tollgate")
        with open(limited, "w") as file:
            file.write(f'#!/bin/bash\ntrap "" XFSZ\nexec {PROGRAM} "$@"\n')
        os.chmod(limited, 0o755)
        cls.run_pod(hours, "metered-0", "metered", program=limited, TOLLGATE_DIMENSIONS="requests,gigabytes,reqests")
        # Not to be scraped: a pod that has ended, and a pod without tollgate.
        cls.pods = discovered("ended-0", 2, phase="Succeeded") + discovered("other-0", 2, port_name="metrics")
        for pod, sidecar in cls.sidecars.items():
            cls.pods += discovered(pod, sidecar.probe.rsplit(":", 1)[1])

    @classmethod
    def live(cls):
        """Makes each fault and waits until a panel shows it."""
        hours, metered = cls.hours, cls.sidecars["metered-0"]
        for dimension, status in (("requests", "accepted"), ("gigabytes", "accepted"), ("request", "rejected")):
            assert cls.report(dimension)["results"][0]["status"] == status, dimension
        code, _ = metered.ask("/v1/usage", "no event")
        assert code == 400, code
        code, _ = cls.sidecars["saas-0"].ask("/v1/events/marketplace", {"source": "my.program"}, token="t" * 32)
        assert code == 400, code
        cls.shown("Events of AWS Marketplace in an hour", "Usage events in 5 minutes", "Usage events rejected in an hour", "Usage requests refused in an hour")

        hours.admin("clock", {"advance": "45m"})
        cls.shown("Hour records in an hour")
        hours.admin("faults", {"fault": "exception", "exception": "InvalidUsageDimensionException", "operation": "MeterUsage", "count": 1})
        cls.report("requests")
        hours.admin("clock", {"advance": "1h"})
        cls.shown("Dead letters")
        hours.admin("faults", {"fault": "throttle", "operation": "MeterUsage"})
        cls.report("gigabytes")
        hours.admin("clock", {"advance": "1h"})
        cls.shown("Unsent records", "Age of the oldest unsent record", "Usage overdue")

        # The buyer subscribes, and the container restarts.
        cls.emulator.admin("customers", {"account_id": "444455556666", "subscribed": True})
        folder, address = cls.refused
        cls.sidecars["refused-0"].__exit__()
        cls.run_pod(cls.emulator, "refused-0", "hourly", folder=folder, TOLLGATE_PROBE_ADDR=address)
        cls.shown("Refused, then entitled, in an hour")

        # The disk is full until the limit is lifted.
        pid, (_, most) = metered.process.pid, resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, most))
        cls.report("requests", expected=503)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
        cls.shown("Ledger: failed reads and writes in an hour", "Alerts that fire")

    @classmethod
    def report(cls, dimension, expected=202):
        code, answer = cls.sidecars["metered-0"].ask("/v1/usage", {"dimension": dimension, "quantity": 3})
        assert code == expected, (code, answer)
        return answer

    @classmethod
    def query(cls, text):
        """A query with the values of the dashboard's variables."""
        return re.sub(r"\$\{?(\w+)\}?", lambda found: cls.variables[found[1]], text)

    @classmethod
    def seen(cls, panel, end=None):
        """The times since the first scrape, and a panel's series."""
        times, found = [], []
        for target in panel["targets"]:
            times, series = cls.prometheus.series(cls.query(target["expr"]), cls.start, end or int(time.time()))
            for one in series:
                name = re.sub(r"{{(\w+)}}", lambda label: one["labels"].get(label[1], ""), target["legendFormat"]).strip()
                found.append({"name": name, **one})
        return times, sorted(found, key=lambda one: one["name"])

    @classmethod
    def shown(cls, *titles):
        for title in titles:
            panel = next(panel for panel in cls.panels if panel["title"] == title)
            wait(f"the panel {title!r}", lambda: any(any(one["values"]) for one in cls.seen(panel)[1]))

    @classmethod
    def targets(cls):
        return cls.prometheus.ask("targets", state="active")["activeTargets"]

    def test_prometheus_finds_the_pods_and_names_them_as_alerts_and_panels_expect(self):
        found = {target["labels"]["pod"]: target["labels"] for target in self.targets()}
        self.assertEqual(set(found), set(self.sidecars))
        labels = found["contract-0"]
        self.assertEqual((labels["namespace"], labels["job"], labels["container"]), ("shop", "contract", "tollgate"))

    def test_every_panel_has_shown_something(self):
        self.assertGreater(len(self.panels), 20)
        for panel in self.panels:
            with self.subTest(panel["title"]):
                series = self.seen(panel)[1]
                self.assertTrue(series, "no series")
                for one in series:
                    self.assertNotEqual(one["name"], "", one["labels"])
                values = [value for one in series for value in one["values"] if value is not None]
                self.assertTrue(values, "no value")
                if panel["title"] not in MAY_BE_ZERO:
                    self.assertTrue(any(values), "never anything but 0")

    def test_what_was_counted_before_the_first_scrape_is_shown(self):
        panels = {panel["title"]: panel for panel in self.panels}
        attempts = {one["name"]: max(value or 0 for value in one["values"]) for one in self.seen(panels["Registration attempts in 5 minutes"])[1]}
        self.assertGreaterEqual(attempts["registered"], 1)
        self.assertGreaterEqual(attempts["refused CustomerNotEntitledException"], 1)
        for one in self.seen(panels["Bad tokens in an hour"])[1]:
            self.assertGreaterEqual(max(value or 0 for value in one["values"]), 1)

    def test_every_variable_is_a_data_source_that_panels_use(self):
        dashboard = json.loads((PACK / "dashboard.json").read_text())
        declared = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
        # A variable of another type needs a value here.
        self.assertEqual({name: variable["query"] for name, variable in declared.items()}, self.variables)
        self.assertEqual({variable["type"] for variable in declared.values()}, {"datasource"})
        used = set(re.findall(r"\$\{?(\w+)\}?", json.dumps(dashboard["panels"])))
        self.assertEqual(used, set(declared))

    def test_every_alert_rule_is_evaluated_and_names_its_pod(self):
        def rules():
            found = [rule for group in self.prometheus.ask("rules", type="alert")["groups"] for rule in group["rules"]]
            return found if all(rule["health"] != "unknown" for rule in found) else None

        found = {rule["name"]: rule for rule in wait("all rules", rules)}
        shipped = yaml.safe_load((PACK / "rules.yaml").read_text())["groups"]
        self.assertEqual(set(found), {rule["alert"] for group in shipped for rule in group["rules"]})
        for name, rule in found.items():
            self.assertEqual((rule["health"], rule.get("lastError", "")), ("ok", ""), name)
        active = {name: rule["alerts"] for name, rule in found.items() if rule["alerts"]}
        firing = {name for name, alerts in active.items() if any(alert["state"] == "firing" for alert in alerts)}
        for name in ("BadToken", "StateUnwritable", "UsageRejected", "DimensionUnknown", "DeadLetters"):
            self.assertIn(f"Tollgate{name}", firing)
        # These wait for minutes before they fire.
        for name in ("GateShut", "KeyRotated", "Emulated"):
            self.assertIn(f"Tollgate{name}", active)
        for name, alerts in active.items():
            for alert in alerts:
                text = " ".join(alert["annotations"].values())
                self.assertNotIn("<no value>", text, name)
                self.assertIn(alert["labels"]["pod"], text, name)

    def test_the_dashboard_is_drawn(self):
        panels = []
        for panel in self.panels:
            times, series = self.seen(panel, self.last)
            unit = panel["fieldConfig"]["defaults"]["unit"]
            drawn = [{"name": one["name"], "values": one["values"]} for one in series]
            panels.append({"title": panel["title"], "type": panel["type"], "unit": unit, "grid": panel["gridPos"], "times": times, "series": drawn})
        folder = self.enterContext(tempfile.TemporaryDirectory())
        modules = os.path.join(os.path.abspath(FOLDER), "node_modules/uplot/dist")
        page = (HERE / "dashboard.html").read_text().replace("UPLOT", f"file://{modules}").replace("PANELS", json.dumps(panels).replace("<", "\\u003c"))
        path = os.path.join(folder, "dashboard.html")
        with open(path, "w") as file:
            file.write(page)
        self.open(f"file://{path}")
        for scheme in ("light", "dark"):
            self.screen(1240, 1000, scheme)
            self.browser.refresh()
            drawn = self.wait.until(lambda b: b.execute_script("return window.drawn"))
            self.assertEqual(set(drawn), {panel["title"] for panel in panels})
            self.assertEqual([title for title, pixels in drawn.items() if not pixels], [], scheme)
            self.screen(1240, self.browser.execute_script("return document.documentElement.scrollHeight"), scheme)
            self.picture(f"dashboard-{scheme}")
        self.assertEqual(self.browser.get_log("browser"), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
