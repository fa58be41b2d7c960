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

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = pathlib.Path(__file__).parent / "golden"
WRITE = "--write-golden" in sys.argv
HELM3 = sys.argv[1]
VERSIONS = ["1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37"]
KINDS = ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"]
# Kinds that no schema of Kubernetes itself has.
CUSTOM = {"PodMonitor", "PrometheusRule"}

METERED = {"mode": "metered", "productCode": "demo", "settings": {"dimensions": "requests"}, "state": {"type": "emptyDir"}}
CASES = {
    "plain": {},
    "code": {"productCode": "demo-1/x", "region": "eu-central-1"},
    "metered": METERED,
    "claim": {**METERED, "state": {"type": "persistentVolumeClaim", "claimName": "usage"}},
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
        made = shutil.ignore_patterns("charts", "Chart.lock")
        shutil.copytree(ROOT / "helm", folder.name, dirs_exist_ok=True, ignore=made)
        cls.chart = pathlib.Path(folder.name) / "example"
        subprocess.run([HELM3, "dependency", "build", cls.chart], check=True, capture_output=True)
        cls.helm4 = helm_python.Chart.load(str(cls.chart))
        cls.addClassCleanup(cls.helm4.close)

    def helm3(self, values, version="1.32", chart=None):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(values, file)
            file.flush()
            command = [HELM3, "template", "shop", str(chart or self.chart), "--namespace", "shop", "--kube-version", version]
            return subprocess.run([*command, "-f", file.name], capture_output=True, text=True)

    def workload(self, values):
        """The one workload that the example renders."""
        found = [document for document in self.documents(values) if document["kind"] in KINDS]
        self.assertEqual(len(found), 1)
        return found[0]

    def of(self, template, values=None):
        """What the example renders when its own template is another: (documents, standard error)."""
        with tempfile.TemporaryDirectory() as folder:
            chart = pathlib.Path(folder) / "chart"
            shutil.copytree(self.chart, chart)
            body = f'{{{{- define "other" -}}}}\n{template}\n{{{{- end -}}}}\n{{{{- include "tollgate.workload" (list . "other") }}}}\n'
            (chart / "templates/workload.yaml").write_text(body)
            done = self.helm3({"tollgate": values or {}}, chart=chart)
        return [document for document in yaml.safe_load_all(done.stdout) if document], done.stderr

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
                    yield f"{kind} {gate} {name}", values

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
                theirs = self.helm4.render(values, name="shop", namespace="shop")
                texts = [text for path, text in theirs.items() if path.endswith(".yaml")]
                others = [d for text in texts for d in yaml.safe_load_all(text) if d]
                # Helm sorts by kind; its SDK leaves them as they come.
                both = [sorted(found, key=lambda d: (d["kind"], d["metadata"]["name"])) for found in (documents, others)]
                self.assertEqual(both[0], both[1], "Helm 3 and Helm 4 differ")
        print(f"{rendered} renderings, {len(validated)} different documents in {len(VERSIONS)} versions")
        self.assertGreater(len(validated), 100)

    def test_native_is_the_last_init_container_and_waits_longer_than_any_kubelet(self):
        pod = pod_spec(self.workload({"tollgate": {"productCode": "demo"}}))
        sidecar = pod["initContainers"][-1]
        self.assertEqual((sidecar["name"], sidecar["restartPolicy"]), ("tollgate", "Always"))
        probe = sidecar["startupProbe"]
        self.assertEqual(probe["exec"]["command"], ["/tollgate", "probe", "startup"])
        self.assertGreaterEqual(probe["failureThreshold"] * probe["periodSeconds"], 24 * 3600)
        self.assertFalse(pod["automountServiceAccountToken"])
        self.assertEqual(pod["terminationGracePeriodSeconds"], 30 + 25 + 15)
        context = sidecar["securityContext"]
        self.assertTrue(context["readOnlyRootFilesystem"] and context["runAsNonRoot"])
        self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
        self.assertNotIn("cpu", sidecar["resources"]["limits"])
        self.assertEqual(len(pod["containers"]), 1)

    def test_readiness_gates_the_main_container_and_refuses_to_replace_a_probe(self):
        pod = pod_spec(self.workload({"tollgate": {"gate": "readiness"}}))
        self.assertEqual(pod["containers"][0]["readinessProbe"]["httpGet"], {"path": "/readyz", "port": 19180})
        self.assertEqual(pod["containers"][1]["name"], "tollgate")
        self.refused({"tollgate": {"gate": "readiness", "container": "absent"}}, "no container named absent")

    def test_exec_puts_await_before_the_command(self):
        pod = pod_spec(self.workload({"tollgate": {"gate": "exec", "command": ["/serve", "--fast"]}}))
        command = pod["containers"][0]["command"]
        self.assertEqual(command[:2] + command[-3:], ["/opt/tollgate/tollgate", "await", "--", "/serve", "--fast"])
        self.assertEqual(pod["initContainers"][0]["args"], ["install", "/opt/tollgate"])
        # Two products: the binary once, one wait after the other, then the command.
        pod = pod_spec(self.workload({"tollgate": {**CASES["two-products"], "gate": "exec", "command": ["/serve"]}}))
        wait = ["/opt/tollgate/tollgate", "await", "--probe-addr"]
        second, first = [*wait, "127.0.0.1:19190", "--"], [*wait, "127.0.0.1:19180", "--"]
        self.assertEqual(pod["containers"][0]["command"], [*second, *first, "/serve"])
        self.assertEqual([container["name"] for container in pod["initContainers"]], ["tollgate-install"])
        self.assertEqual(len(pod["containers"][0]["volumeMounts"]), 1)
        self.refused({"tollgate": {"gate": "exec", "command": []}}, "tollgate.command")

    def test_what_cannot_work_is_refused_with_what_to_do(self):
        self.refused({"tollgate": {"mode": "metered"}}, "set tollgate.state.type")
        self.refused({"tollgate": {**METERED, "settings": {}}}, "set tollgate.settings.dimensions")
        saas = {"mode": "saas", "state": {"type": "emptyDir"}}
        self.refused({"replicas": 3, "tollgate": saas}, "one writer")
        self.refused({"kind": "DaemonSet", "tollgate": saas}, "one writer")
        self.refused({"kind": "Job", "tollgate": {"gate": "readiness"}}, "use gate native")
        self.refused({"tollgate": {"products": [{"name": "a"}, {"name": "a"}]}}, "two containers of the pod have the name a")
        self.refused({"tollgate": {"gate": "readiness", "products": [{"name": "a"}, {"name": "b"}]}}, "asks one gate")
        self.refused({"tollgate": {"products": [{"name": "app"}, {"name": "b"}]}}, "two containers of the pod have the name app")
        same = {"probe": 19180, "app": 19185}
        self.refused({"tollgate": {"products": [{"name": "a"}, {"name": "b", "ports": same}]}}, "two products have the port 19180")
        self.refused({"tollgate": {"settings": {"grace_period": "10m"}}}, "grace_period is counted on disk")
        self.workload({"tollgate": {"settings": {"grace_period": "0s"}}})
        self.refused({"tollgate": {"image": {"tag": ""}}}, "set tollgate.image.tag")
        self.refused({"tollgate": {"serviceAccount": {"create": True, "name": ""}}}, "tollgate.serviceAccount.name")
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
            ({"settings": {"grace_perod": "1m"}}, "grace_perod"), ({"settings": {"settle": "2 min"}}, "settle"),
            ({"settings": {"quit": "yes"}}, "quit"), ({"settings": {"product_code": "x"}}, "product_code"),
            ({"resources": {"limit": {"memory": "32Mi"}}}, "limit"), ({"resources": {"limits": {"mem": "1Mi"}}}, "mem"),
            ({"extraEnv": [{"nam": "X"}]}, "nam"), ({"extraVolumes": [{"emptyDir": {}}]}, "name"),
            ({"networkPolicy": {"enable": True}}, "enable"), ({"podMonitor": {"labels": {"a": 1}}}, "labels"),
            ({"probes": {"startupPeriod": 2}}, "startupPeriod"), ({"proxy": {"https_proxy": "x"}}, "https_proxy"),
            ({"prometheusRule": {"on": True}}, "on"), ({"state": {"type": "emptydir"}}, "state.type"),
            ({"state": {"sizeLimit": "2 GB"}}, "sizeLimit"), ({"extraVolumeMounts": [{"name": "x"}]}, "mountPath"),
            ({"sidecar": {}}, "sidecar"), ({"command": "/serve"}, "command"), ({"applicationStopSeconds": "30"}, "applicationStopSeconds"),
        ]
        for values, name in typos:
            with self.subTest(values):
                self.refused({"tollgate": values}, name)

    def test_two_products_have_two_sidecars_with_ports_of_their_own(self):
        pod = pod_spec(self.workload({"tollgate": CASES["two-products"]}))
        ports = [container["ports"][0]["containerPort"] for container in pod["initContainers"]]
        self.assertEqual(ports, [19180, 19190])
        self.assertEqual([container["name"] for container in pod["initContainers"]], ["tollgate-0", "second"])
        # Native sidecars are stopped one after the other.
        self.assertEqual(pod["terminationGracePeriodSeconds"], 30 + 25 + 25 + 15)

    def test_what_equals_tollgates_defaults_is_left_to_the_sellers_file(self):
        def names(values):
            return {entry["name"] for entry in pod_spec(self.workload({"tollgate": values}))["initContainers"][-1]["env"]}

        self.assertEqual(names({}), {"TOLLGATE_POD_UID", "TOLLGATE_STATE_DIR"})
        self.assertEqual(names({"state": {"type": "emptyDir"}, "mode": "metered"}), {"TOLLGATE_POD_UID", "TOLLGATE_DRAIN_QUIET"})
        own = {"state": {"type": "emptyDir"}, "settings": {"drain_quiet": "1s"}}
        self.assertEqual(names(own), {"TOLLGATE_POD_UID", "TOLLGATE_DRAIN_QUIET"})
        changed = names({"ports": {"probe": 20000, "app": 20001}, "shutdownGrace": "1m", "productCode": "x", "region": "eu-west-1"})
        self.assertEqual(changed - names({}), {
            "TOLLGATE_PROBE_ADDR", "TOLLGATE_APP_ADDR", "TOLLGATE_SHUTDOWN_GRACE", "TOLLGATE_PRODUCT_CODE", "TOLLGATE_MODE", "AWS_REGION",
        })

    workload_with_a_past = """
apiVersion: v1
kind: Service
metadata: { name: front }
spec: { ports: [{ port: 80 }] }
---
apiVersion: apps/v1
kind: StatefulSet
metadata: { name: data }
spec:
  serviceName: front
  selector: { matchLabels: { a: b } }
  template:
    metadata:
      labels: { a: b }
      annotations:
        cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes: scratch
        traffic.sidecar.istio.io/excludeOutboundPorts: "5432"
    spec:
      automountServiceAccountToken: true
      terminationGracePeriodSeconds: 300
      securityContext: { runAsUser: 1000660000 }
      initContainers: [{ name: migrate, image: "migrate:1" }]
      containers: [{ name: db, image: "db:1", args: ["on", "0644", "1e3"] }]
      volumes: [{ name: scratch, emptyDir: {} }]
"""

    def test_what_a_workload_had_it_keeps(self):
        values = {**METERED, "mesh": "istio", "products": [{"name": "one"}, {"name": "two"}]}
        (service, stateful), _ = self.of(self.workload_with_a_past, values)
        self.assertEqual(service["spec"], {"ports": [{"port": 80}]})
        template = stateful["spec"]["template"]
        self.assertEqual(template["metadata"]["annotations"], {
            "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes": "scratch,one-state,two-state",
            "traffic.sidecar.istio.io/excludeOutboundPorts": "5432,443",
            "traffic.sidecar.istio.io/excludeInboundPorts": "19180,19190",
        })
        pod = template["spec"]
        self.assertTrue(pod["automountServiceAccountToken"])
        self.assertEqual(pod["terminationGracePeriodSeconds"], 300 + 25 + 25 + 15)
        # No fsGroup: it would change the group of the application's own volumes.
        self.assertEqual(pod["securityContext"], {"runAsUser": 1000660000})
        self.assertEqual(pod["containers"], [{"name": "db", "image": "db:1", "args": ["on", "0644", "1e3"]}])
        self.assertEqual([container["name"] for container in pod["initContainers"]], ["migrate", "one", "two"])
        self.assertEqual(pod["volumes"][0], {"name": "scratch", "emptyDir": {}})

    def test_a_claim_gets_an_fs_group_unless_the_pod_has_one(self):
        (_, stateful), _ = self.of(self.workload_with_a_past, CASES["claim"])
        self.assertEqual(pod_spec(stateful)["securityContext"], {"runAsUser": 1000660000, "fsGroup": 65532})
        (_, stateful), _ = self.of(self.workload_with_a_past.replace("runAsUser: 1000660000", "fsGroup: 7"), CASES["claim"])
        self.assertEqual(pod_spec(stateful)["securityContext"], {"fsGroup": 7})

    def test_a_template_without_workload_or_yaml_is_refused(self):
        _, error = self.of("apiVersion: v1\nkind: Service\nmetadata: { name: front }")
        self.assertIn("renders nothing to gate", error)
        _, error = self.of("apiVersion: [")
        self.assertIn("other is no YAML", error)

    def test_one_writer_for_saas_through_updates_too(self):
        saas = {"mode": "saas", "state": {"type": "persistentVolumeClaim", "claimName": "usage"}}
        self.assertEqual(self.workload({"tollgate": saas})["spec"]["strategy"], {"type": "Recreate"})
        rolling = """
apiVersion: apps/v1
kind: Deployment
metadata: { name: x }
spec: { strategy: { type: RollingUpdate }, selector: { matchLabels: { a: b } }, template: { spec: { containers: [{ name: a, image: b }] } } }
"""
        _, error = self.of(rolling, saas)
        self.assertIn("one writer", error)
        parallel = "apiVersion: batch/v1\nkind: Job\nmetadata: { name: x }\n" \
            "spec: { parallelism: 2, template: { spec: { containers: [{ name: a, image: b }] } } }"
        _, error = self.of(parallel, saas)
        self.assertIn("one writer", error)

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
        named = [port["name"] for container in pod_spec(workload)["initContainers"] for port in container["ports"]]
        self.assertEqual([endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]], named)
        labels = monitor["spec"]["selector"]["matchLabels"]
        self.assertLessEqual(labels.items(), workload["spec"]["template"]["metadata"]["labels"].items())

    def test_notes_tell_what_to_do(self):
        notes = "{{ include \"tollgate.notes\" . }}"
        self.assertEqual((self.chart / "templates/NOTES.txt").read_text().strip(), notes)
        with tempfile.TemporaryDirectory() as folder:
            chart = pathlib.Path(folder) / "chart"
            shutil.copytree(self.chart, chart)
            # `helm template` prints no notes; as a manifest it does.
            (chart / "templates/notes.yaml").write_text(f"notes: |\n  {{{{- include \"tollgate.notes\" . | nindent 2 }}}}\n")
            printed = self.helm3({}, chart=chart).stdout
        for words in ("Init:0/1", "kubectl describe pod POD -n shop", "kubectl logs POD -c tollgate -n shop", "-- /tollgate doctor"):
            self.assertIn(words, printed)

    def test_lint(self):
        done = subprocess.run([HELM3, "lint", "--strict", str(self.chart)], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        # Helm 4's linter answers, and raises nothing: 2 is a warning, 3 an error.
        def complaints(chart):
            return [message for message in helm_python.lint(str(chart))["messages"] if message["severity"] >= 2]

        self.assertEqual(complaints(self.chart), [])
        with tempfile.TemporaryDirectory() as folder:
            broken = pathlib.Path(folder) / "chart"
            shutil.copytree(self.chart, broken)
            described = (broken / "Chart.yaml").read_text()
            (broken / "Chart.yaml").write_text(described.replace("\nversion: 0.1.0", "\nversion: none"))
            self.assertNotEqual(complaints(broken), [])

    def test_aws_marketplaces_rules_for_charts(self):
        files = [path for path in ROOT.glob("helm/**/*") if path.suffix in (".yaml", ".tpl", ".txt", ".json", ".md")]
        self.assertGreater(len(files), 12)
        for path in files:
            text = path.read_text()
            # Buyers give values in a file or in the console.
            self.assertNotRegex(text, r"--set\b", path)
            if path.suffix == ".md":
                continue
            for word in ("lookup", "helm.sh/hook", ".Capabilities.APIVersions", "CustomResourceDefinition"):
                self.assertNotIn(word, text, path)
            for name in re.findall(r"\.Release\.(\w+)", text):
                self.assertIn(name, ("Name", "Namespace"), path)
            if path.parent.name == "templates":
                self.assertIsNone(re.search(r"image: *[\"']?[a-z0-9.]+/", text), f"{path} names an image")
                # No role in the cluster: nothing here speaks to Kubernetes.
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
        # Helm's own variant for Marketplace: the account is the buyer's.
        listed = {"tollgate": {"serviceAccount": {"create": False, "name": "${AWSMP_SERVICE_ACCOUNT}"}}}
        self.assertEqual(pod_spec(self.workload(listed))["serviceAccountName"], "${AWSMP_SERVICE_ACCOUNT}")

    def test_the_add_ons_schema_allows_only_what_the_chart_takes(self):
        addon = json.loads((ROOT / "helm/example/aws_mp_configuration_schema.json").read_text())
        self.assertIn(addon["$schema"], [f"http://json-schema.org/draft-0{n}/schema#" for n in (4, 6, 7)])
        chart = json.loads((ROOT / "helm/tollgate/values.schema.json").read_text())
        gate = addon["properties"]["tollgate"]
        self.assertFalse(addon["additionalProperties"] or gate["additionalProperties"])
        self.assertLessEqual(set(gate["properties"]), set(chart["properties"]))
        # What belongs to the seller is not among them.
        self.assertTrue({"image", "mode", "productCode", "settings", "gate"}.isdisjoint(gate["properties"]))

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
                    yield f"{path}{name}", json.dumps(value)

        readme = (ROOT / "helm/tollgate/README.md").read_text()
        table = readme[readme.index("<!-- values") : readme.index("<!-- end of values -->")]
        rows = re.findall(r"^\| `([\w.]+)` \| `([^`]*)` \|", table, re.M)
        self.assertEqual(rows, list(leaves(yaml.safe_load((ROOT / "helm/tollgate/values.yaml").read_text()))))

    def test_settings_are_those_of_the_document_that_the_chart_does_not_set_itself(self):
        document = (ROOT / "docs/CONFIGURATION.md").read_text()
        table = document[document.index("<!-- settings -->") : document.index("<!-- end of settings -->")]
        documented = set(re.findall(r"^\| `(\w+)` \|", table, re.M))
        own = {"mode", "product_code", "region", "probe_addr", "app_addr", "state_dir", "shutdown_grace"}
        self.assertLessEqual(own, documented)
        schema = json.loads((ROOT / "helm/tollgate/values.schema.json").read_text())
        self.assertEqual(set(schema["definitions"]["settings"]["properties"]), documented - own)

    def test_one_version_everywhere(self):
        version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
        library = yaml.safe_load((ROOT / "helm/tollgate/Chart.yaml").read_text())
        example = yaml.safe_load((ROOT / "helm/example/Chart.yaml").read_text())
        values = yaml.safe_load((ROOT / "helm/tollgate/values.yaml").read_text())
        found = [library["version"], library["appVersion"], example["dependencies"][0]["version"], values["image"]["tag"]]
        found += re.findall(r"^    version: (.*)$", (ROOT / "helm/tollgate/README.md").read_text(), re.M)
        self.assertEqual(found, [version] * 5)

    def test_the_charts_rules_are_the_published_ones(self):
        published = yaml.safe_load((ROOT / "deploy/observability/rules.yaml").read_text())
        documents = self.documents({"tollgate": {"prometheusRule": {"enabled": True}}})
        rule = next(document for document in documents if document["kind"] == "PrometheusRule")
        self.assertEqual(rule["spec"], published)

    def test_renderings_are_the_reviewed_ones(self):
        examples = {path.stem.removeprefix("values-"): yaml.safe_load(path.read_text()) for path in (ROOT / "helm/example").glob("values-*.yaml")}
        self.assertEqual(set(examples), {"readiness", "exec", "job", "cronjob"})
        everything = {**CASES["surroundings"], **CASES["account"], "gate": "native"}
        cases = {
            "native": {}, **examples,
            "metered-statefulset": {"kind": "StatefulSet", "tollgate": CASES["claim"]},
            "two-products": {"tollgate": CASES["two-products"]},
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
    def test_the_checklist_names_tests_that_exist(self):
        named = set(re.findall(r"test_\w+", (ROOT / "docs/LISTING.md").read_text()))
        written = "".join(path.read_text() for path in pathlib.Path(__file__).parent.glob("*.py"))
        self.assertGreater(len(named), 8)
        self.assertEqual({name for name in named if f"def {name}(" not in written}, set())

    def test_every_file_that_ships_has_its_place_in_a_document(self):
        documents = {path: path.read_text() for path in [ROOT / "docs/INSTALL.md", *ROOT.glob("helm/*/README.md")]}
        linked = {
            (path.parent / target.partition("#")[0]).resolve()
            for path, text in documents.items() for target in re.findall(r"\]\(([^)#:]+)", text)
        }
        for pattern in ("deploy/kubernetes/*.yaml", "deploy/ecs/*", "helm/example/values-*.yaml"):
            for path in ROOT.glob(pattern):
                self.assertIn(path, linked, f"{path.name} is in no document")


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *(word for word in sys.argv[2:] if word != "--write-golden")], verbosity=2)
