"""The chart of tollgate-saas, rendered by both Helm engines, validated against Kubernetes' own schemas, and its environment by the program itself.

Usage: saas_chart.py HELM3 PROGRAM [--write-golden] [TEST…]

HELM3 is the real helm 3 binary, Helm 4 its SDK (helm-python-sdk), PROGRAM a build of tollgate-saas with the emulator. Renderings are compared
with the files in tests/packaging/golden/saas, so that a change shows in review.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import helm_python
import kubernetes_validate
import yaml

from chart_case import HELM3, ROOT, environment, parsed, sorted_by_name
from chart_rules import NOT_SAAS
from charts import CUSTOM, VERSIONS, complaints_of_artifact_hub
from pod_rules import quantity

PROGRAM = str(pathlib.Path(sys.argv[2]).resolve())
CHART = ROOT / "helm/tollgate-saas"
GOLDEN = pathlib.Path(__file__).parent / "golden/saas"
WRITE = "--write-golden" in sys.argv

PLAIN = {
    "image": {"registry": "registry.example"},
    "productCode": "demo",
    "settings": {"dimensions": ["requests", "gigabytes"]},
    "appToken": {"existingSecret": "usage-token"},
    "database": {"existingSecret": "usage-database"},
}
# What is FROM tollgate-saas has the seller's file.
SEALED = {name: value for name, value in PLAIN.items() if name not in ("productCode", "settings")}
CASES = {
    "plain": PLAIN,
    "sealed": {**SEALED, "image": {"repository": "registry.example/your-usage", "digest": "sha256:" + "a" * 64}},
    "example": {**PLAIN, "database": {"existingSecret": "usage-database", "example": {"enabled": True}}},
    "all-switches": {
        **PLAIN,
        "replicas": 4,
        "region": "eu-central-1",
        "settings": {"dimensions": "requests", "drain_quiet": "5s", "endpoint_url": "http://tollgate-emulator:8090", "strict_usage": True},
        "database": {"existingSecret": "usage-database", "key": "dsn", "caConfigMap": "database-ca", "port": 6432},
        "serviceAccount": {"name": "usage", "roleArn": "arn:aws:iam::111122223333:role/usage"},
        "listen": "[::]",
        "shutdownGraceSeconds": 60,
        "spread": "DoNotSchedule",
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "usage", "operator": "Exists"}],
        "priorityClassName": "high",
        "podAnnotations": {"linkerd.io/inject": "enabled"},
        "imagePullSecrets": [{"name": "registry"}],
        "extraEnv": [{"name": "AWS_USE_FIPS_ENDPOINT", "value": "true"}],
        "caConfigMap": "corporate-ca",
        "proxy": {"https": "http://proxy:3128", "noProxy": "169.254.170.23"},
        "networkPolicy": {"clients": [{"namespaceSelector": {}}], "monitoring": [], "database": [{"ipBlock": {"cidr": "10.0.0.0/16"}}]},
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True},
    },
}


def of_kind(documents, kind, name="usage"):
    (found,) = [document for document in documents if (document["kind"], document["metadata"]["name"]) == (kind, name)]
    return found


class SaasChart(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.helm4 = helm_python.Chart.load(str(CHART))
        cls.addClassCleanup(cls.helm4.close)

    def helm3(self, values):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(values, file)
            file.flush()
            command = [HELM3, "template", "usage", CHART, "--namespace", "shop", "--kube-version", "1.32", "-f", file.name]
            return subprocess.run(command, capture_output=True, text=True)

    def rendered(self, values):
        done = self.helm3(values)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def container(self, values):
        documents = parsed(self.rendered(values))
        (container,) = of_kind(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
        return container

    def test_every_rendering_is_valid_in_every_version_and_alike_in_both_engines(self):
        for name, values in CASES.items():
            with self.subTest(name):
                documents = parsed(self.rendered(values))
                for document in documents:
                    for version in VERSIONS if document["kind"] not in CUSTOM else []:
                        kubernetes_validate.validate(document, version, strict=True)
                files = self.helm4.render(values, name="usage", namespace="shop")
                theirs = [document for path, text in files.items() if path.endswith(".yaml") for document in parsed(text)]
                self.assertEqual(sorted_by_name(documents), sorted_by_name(theirs), "Helm 3 and Helm 4 differ")

    def test_renderings_are_the_reviewed_ones(self):
        for name, values in CASES.items():
            with self.subTest(name):
                text = self.rendered(values)
                if WRITE:
                    GOLDEN.mkdir(exist_ok=True)
                    (GOLDEN / f"{name}.yaml").write_text(text)
                self.assertEqual((GOLDEN / f"{name}.yaml").read_text(), text, "look, then write it with --write-golden")
        self.assertEqual({path.stem for path in GOLDEN.glob("*.yaml")}, set(CASES), "a golden file of no case")

    def test_the_program_starts_with_what_the_chart_sets(self):
        with tempfile.TemporaryDirectory() as folder:
            files = {"/etc/tollgate/app-token/token": "0123456789abcdef" * 4, "/etc/tollgate/database/url": "postgres://tollgate:secret@db/tollgate"}
            seller = pathlib.Path(folder) / "seller.toml"
            seller.write_text('mode = "saas"\nproduct_code = "demo"\ndimensions = ["requests"]\n')
            for name, values in CASES.items():
                with self.subTest(name):
                    values = {**values, "caConfigMap": ""}
                    given = {name: value for name, value in environment(self.container(values)).items() if value is not None}
                    for number, (path, text) in enumerate(files.items()):
                        (pathlib.Path(folder) / str(number)).write_text(text)
                        (pathlib.Path(folder) / str(number)).chmod(0o600)
                        (variable,) = [variable for variable, value in given.items() if value == path]
                        given[variable] = f"{folder}/{number}"
                    sealed = [] if "productCode" in values else ["--config", seller]
                    told = {**given, "TOLLGATE_POD_UID": "uid", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
                    done = subprocess.run([PROGRAM, "config", "check", *sealed], env=told, capture_output=True, text=True)
                    self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                    # A check that accepts everything would accept this, too.
                    done = subprocess.run([PROGRAM, "config", "check", *sealed], env={**told, "TOLLGATE_APP_TOKEN_FILE": ""}, capture_output=True, text=True)
                    self.assertNotEqual(done.returncode, 0, "usage over the network without a token")

    def test_the_schema_names_each_typo(self):
        typos = [
            ({"replica": 3}, "replica"), ({"replicas": 1}, "replicas"), ({"image": {"repo": "x"}}, "repo"), ({"settings": {"dimension": "x"}}, "dimension"),
            ({"settings": {"app_token_file": "/x"}}, "app_token_file"), ({"settings": {"on_lapse": "keep"}}, "on_lapse"), ({"settings": {"settle": "2 min"}}, "settle"),
            ({"database": {"password": "x"}}, "password"), ({"database": {"existingSecret": "My Secret"}}, "existingSecret"), ({"database": {"example": True}}, "example"),
            ({"appToken": {"value": "x"}}, "value"), ({"spread": "Always"}, "spread"), ({"networkPolicy": {"clients": []}}, "clients"),
            ({"networkPolicy": {"clients": [{"pods": {}}]}}, "pods"), ({"listen": "127.0.0.1"}, "listen"), ({"shutdownGraceSeconds": "25s"}, "shutdownGraceSeconds"),
            ({"resources": {"limits": {"mem": "1Mi"}}}, "mem"), ({"serviceAccount": {"roleArn": "role/app"}}, "roleArn"), ({"appToken": None}, "appToken"),
            ({"extraEnv": [{"name": "X", "value": "x", "valueFrom": {"fieldRef": {}}}]}, "extraEnv"), ({"prometheusRule": {"on": True}}, "on"),
        ]
        for values, name in typos:
            with self.subTest(values):
                done = self.helm3({**PLAIN, **values})
                self.assertNotEqual(done.returncode, 0, "accepted")
                self.assertIn("don't meet the specifications of the schema", done.stderr)
                self.assertIn(name, done.stderr)

    def test_what_cannot_run_is_refused_by_a_sentence(self):
        for values, sentence in [
            ({"appToken": {"existingSecret": ""}}, "set appToken.existingSecret"),
            ({"database": {"existingSecret": ""}}, "set database.existingSecret"),
            ({"settings": {}}, "productCode needs settings.dimensions"),
            ({"serviceAccount": {"create": False, "roleArn": "arn:aws:iam::111122223333:role/app"}}, "serviceAccount.roleArn is an annotation"),
            ({"extraEnv": [{"name": "TOLLGATE_SETTLE", "value": "1m"}]}, "extraEnv has TOLLGATE_SETTLE"),
        ]:
            with self.subTest(values):
                self.assertIn(f"tollgate-saas: {sentence}", self.helm3({**PLAIN, **values}).stderr)

    def test_no_password_passes_through_the_chart(self):
        for name, values in CASES.items():
            text = self.rendered(values)
            self.assertNotIn("kind: Secret", text, name)
            self.assertNotIn("postgres://", text, name)
        self.assertNotRegex((CHART / "values.yaml").read_text(), r"(?m)^ *(password|token|url):")

    def test_a_database_that_is_away_restarts_nothing_and_a_stop_has_its_time(self):
        for name, values in CASES.items():
            with self.subTest(name):
                documents = parsed(self.rendered(values))
                deployment = of_kind(documents, "Deployment")["spec"]
                (container,) = deployment["template"]["spec"]["containers"]
                asked = {probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
                # /readyz is the gate's, which in mode saas does not depend on the database once it was reached.
                self.assertEqual(asked, {"startupProbe": "/livez", "readinessProbe": "/readyz", "livenessProbe": "/livez"})
                stop = int(environment(container)["TOLLGATE_SHUTDOWN_GRACE"].rstrip("s"))
                self.assertGreater(deployment["template"]["spec"]["terminationGracePeriodSeconds"], stop + 5)
                self.assertGreaterEqual(deployment["replicas"], 2)
                self.assertEqual(deployment["strategy"]["rollingUpdate"], {"maxSurge": 1, "maxUnavailable": 0})
                self.assertEqual(of_kind(documents, "PodDisruptionBudget")["spec"]["maxUnavailable"], 1)
                self.assertEqual(len(deployment["template"]["spec"]["topologySpreadConstraints"]), 2)
                self.assertLessEqual(quantity(container["resources"]["limits"]["memory"]), 64 * 2**20)

    def test_every_container_is_hardened_and_every_image_comes_from_values(self):
        documents = parsed(self.rendered(CASES["example"]))
        images = set()
        for name in ("usage", "usage-example-database"):
            pod = of_kind(documents, "Deployment", name)["spec"]["template"]["spec"]
            self.assertFalse(pod["automountServiceAccountToken"])
            (container,) = pod["containers"]
            images.add(container["image"])
            context = container["securityContext"]
            self.assertEqual((context["capabilities"], context["allowPrivilegeEscalation"]), ({"drop": ["ALL"]}, False))
            self.assertTrue(context["readOnlyRootFilesystem"] and context["runAsNonRoot"])
        version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
        self.assertEqual(images, {f"registry.example/tollgate-saas:{version}", "postgres:17-alpine"})

    def test_selectors_choose_the_replicas_and_not_the_example_database(self):
        documents = parsed(self.rendered({**CASES["example"], **{name: CASES["all-switches"][name] for name in ("podMonitor",)}}))
        labels = [of_kind(documents, "Deployment", name)["spec"]["template"]["metadata"]["labels"] for name in ("usage", "usage-example-database")]
        selectors = [
            of_kind(documents, "Service")["spec"]["selector"], of_kind(documents, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
            of_kind(documents, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"], of_kind(documents, "PodMonitor")["spec"]["selector"]["matchLabels"],
        ]
        for selector in selectors:
            self.assertEqual([selector.items() <= of.items() for of in labels], [True, False])
        ports = {port["name"] for port in self.container(PLAIN)["ports"]}
        self.assertLessEqual({endpoint["port"] for endpoint in of_kind(documents, "PodMonitor")["spec"]["podMetricsEndpoints"]}, ports)

    def test_the_network_policy_lets_through_what_is_needed(self):
        def ports(values, direction):
            rules = of_kind(parsed(self.rendered(values)), "NetworkPolicy")["spec"][direction]
            return [port["port"] for rule in rules for port in rule["ports"]]

        self.assertEqual((ports(PLAIN, "ingress"), ports(PLAIN, "egress")), (["usage", "probe"], [53, 53, 443, 5432]))
        everything = CASES["all-switches"]
        self.assertEqual((ports(everything, "ingress"), ports(everything, "egress")), (["usage"], [53, 53, 443, 3128, 8090, 6432]))
        self.assertNotIn("NetworkPolicy", self.rendered({**CASES["example"], "networkPolicy": {"enabled": False}}))

    def test_the_charts_rules_are_the_published_ones_that_can_fire(self):
        published = yaml.safe_load((ROOT / "deploy/observability/rules.yaml").read_text())
        (group,) = published["groups"]
        names = {rule["alert"] for rule in group["rules"]}
        self.assertLessEqual(NOT_SAAS, names, "a rule that is gone")
        group["rules"] = [rule for rule in group["rules"] if rule["alert"] not in NOT_SAAS]
        self.assertGreater(len(group["rules"]), 8)
        rule = of_kind(parsed(self.rendered(CASES["all-switches"])), "PrometheusRule")
        self.assertEqual(rule["spec"], published)

    def test_lint_and_what_artifact_hub_shows(self):
        with tempfile.TemporaryDirectory() as folder:
            # Linting renders with the chart's own values, which name no Secret.
            chart = pathlib.Path(folder) / "tollgate-saas"
            shutil.copytree(CHART, chart)
            (pathlib.Path(folder) / "values.json").write_text(json.dumps(PLAIN))
            done = subprocess.run([HELM3, "lint", "--strict", chart, "-f", f"{folder}/values.json"], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            (chart / "templates/service.yaml").write_text("kind: {{ .Values.absent.kind }}\n")
            done = subprocess.run([HELM3, "lint", "--strict", chart, "-f", f"{folder}/values.json"], capture_output=True, text=True)
            self.assertNotEqual(done.returncode, 0, "a lint that finds nothing")
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        texts = {name.removeprefix("artifacthub.io/"): text for name, text in chart["annotations"].items()}
        self.assertEqual(complaints_of_artifact_hub(chart, texts), [])
        image = yaml.safe_load((CHART / "values.yaml").read_text())["image"]
        (shown,) = yaml.safe_load(texts["images"])
        self.assertEqual(shown["image"], f"{image['repository']}:{image['tag']}")
        self.assertEqual((chart["appVersion"], image["tag"]), (chart["version"], chart["version"]))

    def test_the_table_of_settings_has_those_of_mode_saas_that_the_chart_does_not_set(self):
        named = set(json.loads((CHART / "values.schema.json").read_text())["definitions"]["settings"]["properties"])
        self.assertLess(named, set(json.loads((ROOT / "helm/tollgate/values.schema.json").read_text())["definitions"]["settings"]["properties"]))
        self.assertLessEqual({"dimensions", "settle", "drain_quiet", "endpoint_url", "log_filter"}, named)
        self.assertTrue({"app_token_file", "ledger_url_file", "on_lapse", "entitlements", "mode"}.isdisjoint(named))
        self.assertTrue(re.search(r"settings: \{dimensions|settings: \{ dimensions", (CHART / "README.md").read_text()))


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *(word for word in sys.argv[3:] if word != "--write-golden")], verbosity=2)
