"""The charts, rendered by both Helm engines over a matrix of values, validated against Kubernetes' own schemas.

Usage: charts.py HELM3 [--write-golden]

HELM3 is the real helm 3 binary; Helm 4 is its SDK (helm-python-sdk). Renderings are compared with the files in
tests/packaging/golden, so that a change shows in review.
"""

import copy
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

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = pathlib.Path(__file__).parent / "golden"
WRITE = "--write-golden" in sys.argv
HELM3 = sys.argv[1]
VERSIONS = ["1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37"]
KINDS = ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"]
# Kinds that no schema of Kubernetes itself has.
CUSTOM = {"PodMonitor", "PrometheusRule"}

METERED = {"mode": "metered", "productCode": "demo", "state": {"type": "emptyDir"}}
CASES = {
    "plain": {},
    "code": {"productCode": "demo-1/x", "region": "eu-central-1"},
    "metered": METERED,
    "claim": {**METERED, "state": {"type": "persistentVolumeClaim", "claimName": "usage"}},
    "account": {
        "serviceAccount": {"create": True, "name": "app", "roleArn": "arn:aws:iam::111122223333:role/app"},
        "networkPolicy": True,
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True},
    },
    "surroundings": {
        "caConfigMap": "corporate-ca",
        "proxy": {"https": "http://proxy:3128", "noProxy": "169.254.170.23"},
        "mesh": "istio",
        "settings": {"grace_period": "10m", "log_filter": "debug", "aws_door": True},
        "extraEnv": [{"name": "AWS_USE_FIPS_ENDPOINT", "value": "true"}],
        "probes": {"sidecarReadiness": True},
        "image": {"digest": "sha256:" + "a" * 64},
    },
    "linkerd": {"mesh": "linkerd", "shutdownGrace": "2m", "applicationStopSeconds": 60},
    "two-products": {"products": [{"productCode": "one"}, {"productCode": "two", **METERED, "name": "second"}]},
}


def pod_spec(document):
    """The pod in a workload."""
    spec = document["spec"]
    return (spec["jobTemplate"]["spec"] if document["kind"] == "CronJob" else spec)["template"]["spec"]


class Charts(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        shutil.copytree(ROOT / "helm", folder.name, dirs_exist_ok=True)
        cls.chart = pathlib.Path(folder.name) / "example"
        # What `helm dependency build` does with a file:// dependency.
        shutil.copytree(ROOT / "helm/tollgate", cls.chart / "charts/tollgate")
        cls.helm4 = helm_python.Chart.load(str(cls.chart))
        cls.addClassCleanup(cls.helm4.close)

    def helm3(self, values, version="1.32"):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(values, file)
            file.flush()
            command = [HELM3, "template", "shop", str(self.chart), "--namespace", "shop", "--kube-version", version]
            return subprocess.run([*command, "-f", file.name], capture_output=True, text=True)

    def rendered(self, values):
        done = self.helm3(values)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def documents(self, values):
        return [document for document in yaml.safe_load_all(self.rendered(values)) if document]

    def refused(self, values, text):
        done = self.helm3(values)
        self.assertNotEqual(done.returncode, 0, f"accepted: {values}")
        self.assertIn(text, done.stderr)

    def matrix(self):
        for kind in KINDS:
            for gate in ("native", "readiness", "exec"):
                for name, case in CASES.items():
                    values = {"kind": kind, "tollgate": {**copy.deepcopy(case), "gate": gate}}
                    if kind in ("Job", "CronJob") and gate != "native":
                        values["tollgate"].setdefault("settings", {})["quit"] = True
                    if gate == "readiness" and name == "two-products":
                        continue
                    if gate == "exec" and name == "two-products":
                        continue
                    yield f"{kind} {gate} {name}", values

    def test_every_rendering_is_valid_in_every_version_and_alike_in_both_engines(self):
        rendered = validated = 0
        for name, values in self.matrix():
            with self.subTest(name):
                documents = self.documents(values)
                rendered += 1
                for document in documents:
                    if document["kind"] not in CUSTOM:
                        for version in VERSIONS:
                            kubernetes_validate.validate(document, version, strict=True)
                            validated += 1
                theirs = self.helm4.render(values, name="shop", namespace="shop")
                texts = [text for path, text in theirs.items() if path.endswith(".yaml")]
                others = [d for text in texts for d in yaml.safe_load_all(text) if d]
                # Helm sorts by kind; its SDK leaves them as they come.
                both = [sorted(found, key=lambda d: (d["kind"], d["metadata"]["name"])) for found in (documents, others)]
                self.assertEqual(both[0], both[1], "Helm 3 and Helm 4 differ")
        print(f"{rendered} renderings, {validated} validations")
        self.assertGreater(validated, 800)

    def test_native_is_the_last_init_container_and_waits_longer_than_any_kubelet(self):
        pod = pod_spec(self.documents({"tollgate": {"productCode": "demo"}})[0])
        sidecar = pod["initContainers"][-1]
        self.assertEqual((sidecar["name"], sidecar["restartPolicy"]), ("tollgate", "Always"))
        probe = sidecar["startupProbe"]
        self.assertEqual(probe["exec"]["command"], ["/tollgate", "probe", "startup"])
        self.assertGreaterEqual(probe["failureThreshold"] * probe["periodSeconds"], 24 * 3600)
        self.assertFalse(pod["automountServiceAccountToken"])
        self.assertEqual(pod["securityContext"]["fsGroup"], 65532)
        self.assertGreaterEqual(pod["terminationGracePeriodSeconds"], 20 + 30)
        context = sidecar["securityContext"]
        self.assertTrue(context["readOnlyRootFilesystem"] and context["runAsNonRoot"])
        self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
        self.assertNotIn("cpu", sidecar["resources"]["limits"])
        self.assertEqual(len(pod["containers"]), 1)

    def test_readiness_gates_the_main_container_and_refuses_to_replace_a_probe(self):
        pod = pod_spec(self.documents({"tollgate": {"gate": "readiness"}})[0])
        self.assertEqual(pod["containers"][0]["readinessProbe"]["httpGet"], {"path": "/readyz", "port": 19180})
        self.assertEqual(pod["containers"][1]["name"], "tollgate")
        self.refused({"tollgate": {"gate": "readiness", "container": "absent"}}, "no container named absent")

    def test_exec_puts_await_before_the_command(self):
        pod = pod_spec(self.documents({"tollgate": {"gate": "exec", "command": ["/serve", "--fast"]}})[0])
        command = pod["containers"][0]["command"]
        self.assertEqual(command[:2] + command[-3:], ["/opt/tollgate/tollgate", "await", "--", "/serve", "--fast"])
        self.assertEqual(pod["initContainers"][0]["args"], ["install", "/opt/tollgate"])
        self.refused({"tollgate": {"gate": "exec", "command": []}}, "tollgate.command")

    def test_what_cannot_work_is_refused_with_what_to_do(self):
        self.refused({"tollgate": {"mode": "metered"}}, "set tollgate.state.type")
        saas = {"mode": "saas", "state": {"type": "emptyDir"}}
        self.refused({"replicas": 3, "tollgate": saas}, "one writer")
        self.refused({"kind": "DaemonSet", "tollgate": saas}, "one writer")
        self.refused({"kind": "Job", "tollgate": {"gate": "readiness"}}, "use gate native")
        self.refused({"tollgate": {"products": [{"name": "a"}, {"name": "a"}]}}, "two products have the name a")
        claim = {**METERED, "state": {"type": "persistentVolumeClaim"}}
        self.refused({"tollgate": claim}, "tollgate.state.claimName")
        done = self.helm3({}, version="1.28")
        self.assertIn("kubeVersion", done.stderr)

    def test_the_schema_names_each_typo(self):
        typos = [
            ({"gat": "native"}, "gat"), ({"gate": "nativ"}, "gate"), ({"mode": "hour"}, "mode"),
            ({"image": {"repo": "x"}}, "repo"), ({"state": {"typ": "none"}}, "typ"),
            ({"ports": {"probe": "19180"}}, "probe"), ({"image": {"digest": "sha256:1"}}, "digest"),
            ({"settings": {"Grace-Period": "1m"}}, "Grace-Period"), ({"shutdownGrace": "20"}, "shutdownGrace"),
            ({"serviceAccount": {"roleArn": "role/app"}}, "roleArn"), ({"mesh": "consul"}, "mesh"),
            ({"products": [{"productcode": "x"}]}, "productcode"), ({"region": "Europe"}, "region"),
        ]
        for values, name in typos:
            with self.subTest(values):
                self.refused({"tollgate": values}, name)

    def test_two_products_have_two_sidecars_with_ports_of_their_own(self):
        pod = pod_spec(self.documents({"tollgate": CASES["two-products"]})[0])
        ports = [container["ports"][0]["containerPort"] for container in pod["initContainers"]]
        self.assertEqual(ports, [19180, 19190])
        self.assertEqual([container["name"] for container in pod["initContainers"]], ["tollgate-0", "second"])

    def test_lint(self):
        done = subprocess.run([HELM3, "lint", "--strict", str(self.chart)], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        # The SDK's answer is the same linter of Helm 4; it raises where something is wrong.
        helm_python.lint(str(self.chart))

    def test_aws_marketplaces_rules_for_charts(self):
        for path in ROOT.glob("helm/**/*"):
            if path.suffix not in (".yaml", ".tpl", ".txt"):
                continue
            text = path.read_text()
            for word in ("lookup", "helm.sh/hook", ".Capabilities.APIVersions"):
                self.assertNotIn(word, text, path)
            for name in re.findall(r"\.Release\.(\w+)", text):
                self.assertIn(name, ("Name", "Namespace"), path)
            if path.parent.name == "templates":
                self.assertIsNone(re.search(r"image: *[\"']?[a-z0-9.]+/", text), f"{path} names an image")

    def test_the_add_ons_schema_allows_only_what_the_chart_takes(self):
        addon = json.loads((ROOT / "helm/example/aws_mp_configuration_schema.json").read_text())
        chart = json.loads((ROOT / "helm/tollgate/values.schema.json").read_text())
        gate = addon["properties"]["tollgate"]
        self.assertFalse(addon["additionalProperties"] or gate["additionalProperties"])
        self.assertLessEqual(set(gate["properties"]), set(chart["properties"]))
        # What belongs to the seller is not among them.
        self.assertTrue({"image", "mode", "productCode", "settings", "gate"}.isdisjoint(gate["properties"]))

    def test_the_charts_rules_are_the_published_ones(self):
        published = yaml.safe_load((ROOT / "deploy/observability/rules.yaml").read_text())
        documents = self.documents({"tollgate": {"prometheusRule": {"enabled": True}}})
        rule = next(document for document in documents if document["kind"] == "PrometheusRule")
        self.assertEqual(rule["spec"], published)

    def test_renderings_are_the_reviewed_ones(self):
        for gate in ("native", "readiness", "exec"):
            name = GOLDEN / f"deployment-{gate}.yaml"
            text = self.rendered({"tollgate": {"gate": gate, "productCode": "demo"}})
            if WRITE:
                GOLDEN.mkdir(exist_ok=True)
                name.write_text(text)
            self.assertEqual(name.read_text(), text, f"{name} differs; look, then write it with --write-golden")


class Manifests(unittest.TestCase):
    def test_the_plain_manifests_are_valid_in_every_version(self):
        files = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
        self.assertGreaterEqual(len(files), 4)
        for path in files:
            for document in yaml.safe_load_all(path.read_text()):
                for version in VERSIONS:
                    kubernetes_validate.validate(document, version, strict=True)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
