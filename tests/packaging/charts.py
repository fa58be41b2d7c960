"""The charts, rendered by both Helm engines over a matrix of values, validated against Kubernetes' own schemas.

Usage: charts.py HELM3 [--write-golden] [TEST…]

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

from chart_case import CLAIM, CONTRACT, FLOATING, HELM3, METERED, ROOT, ChartCase, pod_spec, sorted_by_name
from chart_values import KINDS

GOLDEN = pathlib.Path(__file__).parent / "golden"
WRITE = "--write-golden" in sys.argv
VERSIONS = ["1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37"]
# Kinds without a schema of Kubernetes itself.
CUSTOM = {"PodMonitor", "PrometheusRule"}

CASES = {
    "plain": {},
    "code": {"productCode": "demo-1/x", "region": "eu-central-1", "settings": {"public_keys": "/keys"}},
    "metered": METERED,
    "claim": CLAIM,
    "contract": {**CONTRACT, "settings": {"entitlements": ["users:Count:10", "premium"]}},
    "floating": {**FLOATING, "licenseSecret": "product-license"},
    "account": {
        "serviceAccount": {"create": True, "name": "app", "roleArn": "arn:aws:iam::111122223333:role/app"},
        "networkPolicy": {"enabled": True, "egress": [{"ports": [{"port": 5432, "protocol": "TCP"}]}]},
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True},
    },
    "surroundings": {
        "caConfigMap": "corporate-ca",
        "proxy": {"https": "http://proxy:3128", "noProxy": "169.254.170.23"},
        "mesh": "istio",
        "settings": {"grace_period": "10m", "log_filter": "debug", "aws_door": True},
        "state": {"type": "emptyDir"},
        "extraEnv": [{"name": "AWS_USE_FIPS_ENDPOINT", "value": "true"}],
        "probes": {"sidecarReadiness": True},
        "image": {"digest": "sha256:" + "a" * 64},
    },
    "linkerd": {"mesh": "linkerd", "shutdownGrace": "2m", "applicationStopSeconds": 60, "networkPolicy": {"enabled": True}},
    "socket": {**METERED, "appSocket": True},
    "two-products": {"products": [{"productCode": "one", "settings": {"public_keys": "/keys"}}, {"productCode": "two", **METERED, "name": "second"}]},
}


class Charts(ChartCase):
    def matrix(self):
        for kind in KINDS:
            for gate in ("native", "readiness", "exec"):
                for name, case in CASES.items():
                    values = {"kind": kind, "tollgate": {**copy.deepcopy(case), "gate": gate}}
                    if kind in ("Job", "CronJob") and gate != "native":
                        values["tollgate"].setdefault("settings", {})["quit"] = True
                    if name == "claim" and kind == "DaemonSet":
                        continue
                    yield f"{kind} {gate} {name}", values

    def test_what_the_upgrade_guide_calls_refused_is_refused_in_its_words(self):
        table = (ROOT / "docs/UPGRADE.md").read_text().partition("<!-- refused")[2].partition("<!-- end of refused")[0]
        rows = re.findall(r"(?m)^\| `(.*)` \| (.*) \|$", table)
        self.assertEqual(len(rows), table.count("\n| `"), "a row in another form")
        self.assertGreater(len(rows), 10)
        for values, sentence in rows:
            with self.subTest(values):
                self.refused(yaml.safe_load(values), sentence)

    def test_every_rendering_is_valid_in_every_version_and_alike_in_both_engines(self):
        rendered, validated = 0, set()
        for name, values in self.matrix():
            with self.subTest(name):
                documents = self.documents(values)
                rendered += 1
                for document in documents:
                    text = json.dumps(document)
                    if document["kind"] not in CUSTOM and text not in validated:
                        validated.add(text)
                        for version in VERSIONS:
                            kubernetes_validate.validate(document, version, strict=True)
                self.assertEqual(sorted_by_name(documents), sorted_by_name(self.documents4(values)), "Helm 3 and Helm 4 differ")
        print(f"{rendered} renderings, {len(validated)} different documents in {len(VERSIONS)} versions")
        self.assertGreater(len(validated), 100)

    def test_the_schema_names_each_typo(self):
        typos = [
            ({"gat": "native"}, "gat"), ({"gate": "nativ"}, "gate"), ({"mode": "hour"}, "mode"),
            ({"image": {"repo": "x"}}, "repo"), ({"state": {"typ": "none"}}, "typ"),
            ({"ports": {"probe": "19180"}}, "probe"), ({"image": {"digest": "sha256:1"}}, "digest"),
            ({"settings": {"Grace-Period": "1m"}}, "Grace-Period"), ({"shutdownGrace": "20"}, "shutdownGrace"),
            ({"serviceAccount": {"roleArn": "role/app"}}, "roleArn"), ({"mesh": "consul"}, "mesh"),
            ({"products": [{"productcode": "x"}]}, "productcode"), ({"region": "Europe"}, "region"),
            ({"settings": {"grace_perod": "1m"}}, "grace_perod"), ({"settings": {"settle": "2 min"}}, "settle"),
            ({"settings": {"quit": "yes"}}, "quit"), ({"settings": {"product_code": "x"}}, "product_code"),
            ({"resources": {"limit": {"memory": "32Mi"}}}, "limit"), ({"resources": {"limits": {"mem": "1Mi"}}}, "mem"),
            ({"extraEnv": [{"nam": "X"}]}, "nam"), ({"extraVolumes": [{"emptyDir": {}}]}, "name"),
            ({"networkPolicy": {"enable": True}}, "enable"), ({"podMonitor": {"labels": {"a": 1}}}, "labels"),
            ({"probes": {"startupPeriod": 2}}, "startupPeriod"), ({"proxy": {"https_proxy": "x"}}, "https_proxy"),
            ({"prometheusRule": {"on": True}}, "on"), ({"state": {"type": "emptydir"}}, "state.type"),
            ({"state": {"sizeLimit": "2 GB"}}, "sizeLimit"), ({"position": "middle"}, "position"), ({"refused": "exit"}, "refused"),
            ({"productId": "a b-c"}, "productId"), ({"licenseModel": "drawdown"}, "licenseModel"), ({"licenseSecret": "My Secret"}, "licenseSecret"),
            ({"settings": {"product_id": "x-y"}}, "product_id"), ({"settings": {"license_model": "check"}}, "license_model"),
            ({"serviceAccount": {"automount": False}}, "automount"), ({"state": {"claimName": "My Claim"}}, "claimName"),
            ({"extraEnv": [{"name": "X", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}, "extraEnv"),
            ({"extraVolumes": [{"name": "x", "emptyDir": {}, "configMap": {"name": "x"}}]}, "extraVolumes"),
            ({"podMonitor": {"labels": {"a": "not a label"}}}, "labels"), ({"proxy": {"https": "http://proxy 3128"}}, "https"), ({"extraVolumeMounts": [{"name": "x"}]}, "mountPath"),
            ({"sidecar": {}}, "sidecar"), ({"command": "/serve"}, "command"), ({"applicationStopSeconds": "30"}, "applicationStopSeconds"),
        ]
        for values, name in typos:
            with self.subTest(values):
                self.refused({"tollgate": values}, name)
        of_the_example = [
            ({"kind": "Deploymen"}, "kind"), ({"replica": 2}, "replica"), ({"replicas": "2"}, "replicas"), ({"image": {"name": "x"}}, "name"),
            ({"command": "/app"}, "command"), ({"command": []}, "command"),
        ]
        for values, name in of_the_example:
            with self.subTest(values):
                self.refused(values, name)

    def test_the_network_policy_lets_out_what_the_gate_needs(self):
        def ports(values):
            documents = self.documents({"tollgate": {"networkPolicy": {"enabled": True}, **values}})
            policy = next(document for document in documents if document["kind"] == "NetworkPolicy")
            return [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]]

        self.assertEqual(ports({}), [53, 53, 443])
        self.assertEqual(ports({"proxy": {"https": "http://proxy:3128"}}), [53, 53, 443, 3128])
        self.assertEqual(ports(CASES["account"]), [53, 53, 443, 5432])

    def test_the_pod_monitor_scrapes_ports_that_exist(self):
        documents = self.documents({"tollgate": {**CASES["two-products"], "podMonitor": {"enabled": True}}})
        monitor = next(document for document in documents if document["kind"] == "PodMonitor")
        workload = next(document for document in documents if document["kind"] in KINDS)
        named = [port["name"] for container in pod_spec(workload)["initContainers"] for port in container.get("ports", [])]
        self.assertEqual([endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]], named)
        labels = monitor["spec"]["selector"]["matchLabels"]
        self.assertLessEqual(labels.items(), workload["spec"]["template"]["metadata"]["labels"].items())

    def test_notes_tell_what_to_do(self):
        notes = "{{ include \"tollgate.notes\" . }}"
        self.assertEqual((self.chart / "templates/NOTES.txt").read_text().strip(), notes)
        with tempfile.TemporaryDirectory() as folder:
            chart = pathlib.Path(folder) / "chart"
            shutil.copytree(self.chart, chart)
            # `helm template` prints no notes, so they are rendered as a manifest.
            (chart / "templates/notes.yaml").write_text(f"notes: |\n  {{{{- include \"tollgate.notes\" . | nindent 2 }}}}\n")
            printed = self.helm3({}, chart=chart).stdout
        for words in ("Init:1/2", "kubectl describe pod POD -n shop", "kubectl logs POD -c tollgate-await -n shop", "-- /tollgate doctor"):
            self.assertIn(words, printed)

    def test_lint(self):
        done = subprocess.run([HELM3, "lint", "--strict", str(self.chart)], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        # Helm 4's linter returns its findings and raises nothing: 2 is a warning, 3 an error.
        def complaints(chart):
            return [message for message in helm_python.lint(str(chart))["messages"] if message["severity"] >= 2]

        self.assertEqual(complaints(self.chart), [])
        with tempfile.TemporaryDirectory() as folder:
            broken = pathlib.Path(folder) / "chart"
            shutil.copytree(self.chart, broken)
            described = (broken / "Chart.yaml").read_text()
            (broken / "Chart.yaml").write_text(described.replace("\nversion: 0.2.0", "\nversion: none"))
            self.assertNotEqual(complaints(broken), [])

    def test_aws_marketplaces_rules_for_charts(self):
        files = [path for path in ROOT.glob("helm/**/*") if path.suffix in (".yaml", ".tpl", ".txt", ".json", ".md")]
        self.assertGreater(len(files), 12)
        for path in files:
            text = path.read_text()
            # Buyers set values in a file or in the console.
            self.assertNotRegex(text, r"--set\b", path)
            if path.suffix == ".md":
                continue
            for word in ("lookup", "helm.sh/hook", ".Capabilities.APIVersions", "CustomResourceDefinition"):
                self.assertNotIn(word, text, path)
            for name in re.findall(r"\.Release\.(\w+)", text):
                self.assertIn(name, ("Name", "Namespace"), path)
            if path.parent.name == "templates":
                self.assertIsNone(re.search(r"image: *[\"']?[a-z0-9.]+/", text), f"{path} names an image")
                # No role in the cluster, because no part calls the Kubernetes API.
                self.assertNotRegex(text, r"kind: (Cluster)?Role", path)

    def test_every_rendered_image_comes_from_values(self):
        values = {
            "image": {"registry": "one", "repository": "app", "tag": "2"},
            "tollgate": {"gate": "exec", "image": {"registry": "two", "repository": "gate", "tag": "3"}},
        }
        pod = pod_spec(self.workload(values))
        images = {container["image"] for container in pod["containers"] + pod["initContainers"]}
        self.assertEqual(images, {"one/app:2", "two/gate:3"})

    def test_the_add_on_makes_its_account_a_workload_and_nothing_cluster_wide(self):
        documents = self.documents({})
        kinds = [document["kind"] for document in documents]
        self.assertIn("ServiceAccount", kinds)
        self.assertTrue({"Deployment", "DaemonSet"} & set(kinds))
        account = next(document for document in documents if document["kind"] == "ServiceAccount")
        pod = pod_spec(self.workload({}))
        self.assertEqual(pod["serviceAccountName"], account["metadata"]["name"])
        self.assertEqual({document["metadata"]["namespace"] for document in documents}, {"shop"})
        # The variant of Marketplace's Helm listings: the account is the buyer's.
        listed = {"tollgate": {"serviceAccount": {"create": False, "name": "${AWSMP_SERVICE_ACCOUNT}"}}}
        self.assertEqual(pod_spec(self.workload(listed))["serviceAccountName"], "${AWSMP_SERVICE_ACCOUNT}")

    def test_the_add_ons_schema_allows_only_what_the_chart_takes(self):
        addon = json.loads((ROOT / "helm/example/aws_mp_configuration_schema.json").read_text())
        self.assertIn(addon["$schema"], [f"http://json-schema.org/draft-0{n}/schema#" for n in (4, 6, 7)])
        chart = json.loads((ROOT / "helm/tollgate/values.schema.json").read_text())
        gate = addon["properties"]["tollgate"]
        self.assertFalse(addon["additionalProperties"] or gate["additionalProperties"])
        self.assertLessEqual(set(gate["properties"]), set(chart["properties"]))
        # The seller's values are not among them.
        self.assertTrue({"image", "mode", "productCode", "productId", "licenseModel", "settings", "gate"}.isdisjoint(gate["properties"]))

        def names(schema):
            for name, below in schema.get("properties", {}).items():
                yield name
                yield from names(below)

        found = list(names(addon))
        self.assertGreater(len(found), 10)
        for name in found:
            self.assertRegex(name, r"^[a-z][a-zA-Z0-9]*$", "AWS asks for camelCase")
            self.assertNotRegex(name.lower(), r"secret|password|token|credential", "AWS forbids secrets in it")
        # For EKS Pod Identity, which pay-as-you-go products cannot use.
        self.assertFalse((ROOT / "helm/example/aws_mp_addon_parameters.json").exists())

    def test_the_table_of_values_is_the_file_of_values(self):
        def leaves(values, path=""):
            for name, value in values.items():
                if isinstance(value, dict) and value:
                    yield from leaves(value, f"{path}{name}.")
                else:
                    yield f"{path}{name}", value

        for chart in ("tollgate", "example", "tollgate-saas"):
            readme = (ROOT / f"helm/{chart}/README.md").read_text()
            table = readme[readme.index("<!-- values -->") : readme.index("<!-- end of values -->")]
            rows = re.findall(r"^\| `([\w.]+)` \| `([^`]*)` \|", table, re.M)
            self.assertEqual([(name, json.loads(default)) for name, default in rows], list(leaves(yaml.safe_load((ROOT / f"helm/{chart}/values.yaml").read_text()))))

    def test_what_artifact_hub_shows(self):
        chart = yaml.safe_load((ROOT / "helm/tollgate/Chart.yaml").read_text())
        texts = {name.removeprefix("artifacthub.io/"): text for name, text in chart["annotations"].items()}
        self.assertEqual(complaints_of_artifact_hub(chart, texts), [])
        # The image is the one that the chart installs, with the program's own version.
        image = yaml.safe_load((ROOT / "helm/tollgate/values.yaml").read_text())["image"]
        cargo = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M).group(1)
        (shown,) = yaml.safe_load(texts["images"])
        self.assertEqual(shown["image"], f"{image['repository']}:{image['tag']}")
        self.assertEqual((chart["version"], chart["appVersion"], image["tag"]), (cargo, cargo, cargo))
        self.assertIn(texts["license"], (ROOT / "Cargo.toml").read_text())
        for name, wrong in [
            ("category", "metering"), ("prerelease", "true"), ("prerelease", "no"), ("containsSecurityUpdates", "true"),
            ("changes", "- kind: improved\n  description: x"), ("changes", "- kind: security\n  description: x"), ("changes", "- fixed"),
            ("links", "- name: x\n  url: docs/INSTALL.md"), ("images", "- name: x"), ("images", "- image: x:1\n  platforms: [amd64]"),
            ("signKey", "fingerprint: x"), ("signkey", "x"), ("links", "- name: ["),
        ]:
            with self.subTest(name=name, wrong=wrong):
                self.assertEqual(len(complaints_of_artifact_hub(chart, {**texts, name: wrong})), 1)
        repository = yaml.safe_load((ROOT / "helm/artifacthub-repo.yml").read_text())
        self.assertLessEqual(set(repository), {"repositoryID", "owners", "ignore"})
        charts = {yaml.safe_load(path.read_text())["name"] for path in ROOT.glob("helm/*/Chart.yaml")}
        self.assertEqual(charts - {entry["name"] for entry in repository["ignore"]}, {chart["name"], "tollgate-saas"})

    def test_settings_are_those_of_the_document_that_the_chart_does_not_set_itself(self):
        document = (ROOT / "docs/CONFIGURATION.md").read_text()
        table = document[document.index("<!-- settings -->") : document.index("<!-- end of settings -->")]
        documented = set(re.findall(r"^\| `(\w+)` \|", table, re.M))
        own = {"mode", "product_code", "product_id", "license_model", "region", "probe_addr", "app_addr", "state_dir", "shutdown_grace"}
        self.assertLessEqual(own, documented)
        schema = json.loads((ROOT / "helm/tollgate/values.schema.json").read_text())
        self.assertEqual(set(schema["definitions"]["settings"]["properties"]), documented - own)

    def test_the_charts_rules_are_the_published_ones(self):
        published = yaml.safe_load((ROOT / "deploy/observability/rules.yaml").read_text())
        documents = self.documents({"tollgate": {"prometheusRule": {"enabled": True}}})
        rule = next(document for document in documents if document["kind"] == "PrometheusRule")
        self.assertEqual(rule["spec"], published)

    def test_renderings_are_the_reviewed_ones(self):
        examples = {path.stem.removeprefix("values-"): yaml.safe_load(path.read_text()) for path in (ROOT / "helm/example").glob("values-*.yaml")}
        self.assertEqual(set(examples), {"readiness", "exec", "job", "cronjob", "contract", "node-hours", "rehearsal", "socket"})
        everything = {**CASES["surroundings"], **CASES["account"], "gate": "native"}
        cases = {
            "native": {}, **examples,
            "metered-statefulset": {"kind": "StatefulSet", "tollgate": CASES["claim"]},
            "two-products": {"tollgate": CASES["two-products"]},
            "anywhere": {"tollgate": CASES["floating"]},
            "all-switches": {"tollgate": everything},
        }
        reviewed = {path.stem for path in GOLDEN.glob("*.yaml")}
        for name, values in cases.items():
            with self.subTest(name):
                text = self.rendered(values)
                if WRITE:
                    GOLDEN.mkdir(exist_ok=True)
                    (GOLDEN / f"{name}.yaml").write_text(text)
                self.assertEqual((GOLDEN / f"{name}.yaml").read_text(), text, "look, then write it with --write-golden")
        if not WRITE:
            self.assertEqual(reviewed, set(cases), "a golden file of no case")

class Documents(unittest.TestCase):
    def test_every_file_that_ships_has_its_place_in_a_document(self):
        documents = {path: path.read_text() for path in [ROOT / "docs/INSTALL.md", ROOT / "docs/REHEARSAL.md", *ROOT.glob("helm/*/README.md")]}
        linked = {
            (path.parent / target.partition("#")[0]).resolve()
            for path, text in documents.items() for target in re.findall(r"\]\(([^)#:]+)", text)
        }
        for pattern in ("deploy/kubernetes/*.yaml", "deploy/ecs/*", "deploy/iam/*", "deploy/rehearsal/*", "helm/example/values-*.yaml"):
            for path in ROOT.glob(pattern):
                self.assertIn(path, linked, f"{path.name} is in no document")


def complaints_of_artifact_hub(chart, texts):
    """The faults of a chart's annotations, by Artifact Hub's documentation."""
    categories = {"ai-machine-learning", "database", "integration-delivery", "monitoring-logging", "networking", "security", "storage", "streaming-messaging"}

    def listed(name, keys, check):
        try:
            entries = yaml.safe_load(texts[name])
        except yaml.YAMLError:
            return False
        return all(isinstance(entry, dict) and keys <= set(entry) and check(entry) for entry in entries)

    secure = any(change.get("kind") == "security" for change in yaml.safe_load(texts["changes"]) if isinstance(change, dict))
    checks = {
        "category": texts["category"] in categories,
        "license": bool(texts["license"]),
        # A version with a hyphen is a prerelease (semantic versioning).
        "prerelease": texts["prerelease"] == str("-" in chart["version"]).lower(),
        "containsSecurityUpdates": texts["containsSecurityUpdates"] == str(secure).lower(),
        "changes": listed("changes", {"kind", "description"}, lambda change: change["kind"] in ("added", "changed", "deprecated", "removed", "fixed", "security")),
        "links": listed("links", {"name", "url"}, lambda link: link["url"].startswith("https://")),
        "images": listed("images", {"image"}, lambda image: all("/" in platform for platform in image.get("platforms", []))),
    }
    # signKey names the PGP key of a signed chart; these charts are not signed with PGP.
    return [name for name in texts if not checks.get(name, False)]


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *(word for word in sys.argv[2:] if word != "--write-golden")], verbosity=2)
