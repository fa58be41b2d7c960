"""The plain manifests: valid by Kubernetes' own schemas, and with a correct lock; and the files of a rehearsal.

Usage: manifests.py [TEST…]
"""

import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/live"))
import platforms  # noqa: E402

VERSIONS = ["1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37"]
WORKLOADS = ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"]
UID = {"name": "TOLLGATE_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
RESOURCES = {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "32Mi"}}
# Exit codes of a refusal, as docs/RUNBOOK.md has them.
REFUSED = [76, 77, 78]


def manifests():
    """Each document with its file's name."""
    return [
        (path.name, document)
        for path in sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]


def workloads():
    """Each workload with its file's name and its pod."""
    for name, document in manifests():
        if document["kind"] in WORKLOADS:
            spec = document["spec"]
            template = (spec["jobTemplate"]["spec"] if document["kind"] == "CronJob" else spec)["template"]
            yield name, document, template


def commented(path):
    """The YAML in the comments at a file's head."""
    lines = re.findall(r"^#   (.*)$", path.read_text(), re.M)
    return yaml.safe_load("\n".join(lines))


class Manifests(unittest.TestCase):
    def validate(self, document):
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)

    def test_the_plain_manifests_are_valid_in_every_version(self):
        self.assertGreater(len(manifests()), 6)
        for _, document in manifests():
            self.validate(document)

    def test_the_pod_of_a_run_at_aws_is_valid_and_hardened(self):
        names = {"context": "c", "namespace": "n", "service_account": "product", "denied_service_account": "denied", "client_image": "client:1"}
        pod = platforms.Eks(names, "0a1b").manifest("tollgate-live-0a1b-hourly", "denied", {"image": "gate:1"}, {"LIVE_ORDER": "{}"})
        self.validate(pod)
        (sidecar,), (client,) = pod["spec"]["initContainers"], pod["spec"]["containers"]
        for container in (sidecar, client):
            context = container["securityContext"]
            self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
            self.assertTrue(context["readOnlyRootFilesystem"] and context["runAsNonRoot"])
        self.assertIn(UID, sidecar["env"])
        self.assertEqual((pod["spec"]["serviceAccountName"], client["command"][:2]), ("denied", ["python3", "-c"]))

    def test_the_consumer_of_events_is_valid_and_hardened_and_runs_the_script(self):
        (consumer,) = yaml.safe_load_all((ROOT / "deploy/events/consumer.yaml").read_text())
        self.validate(consumer)
        pod = consumer["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        context = container["securityContext"]
        self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
        self.assertTrue(context["readOnlyRootFilesystem"] and context["runAsNonRoot"])
        script = (ROOT / "deploy/events/forward.sh").read_text()
        needed = set(re.search(r'^: (.*)$', script, re.M)[1].replace('"', "").replace("${", "").replace(":?}", "").split())
        self.assertEqual(needed - {variable["name"] for variable in container["env"]}, set())

    def test_the_move_of_a_ledger_is_valid_and_hardened_and_reads_the_single_replicas_volume(self):
        move = yaml.safe_load((ROOT / "deploy/saas/move.yaml").read_text())
        self.validate(move)
        pod = move["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        context = container["securityContext"]
        self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
        self.assertTrue(context["readOnlyRootFilesystem"] and context["runAsNonRoot"])
        (single,) = [document for name, document in manifests() if (name, document["kind"]) == ("saas.yaml", "StatefulSet")]
        claim = f"{single['spec']['volumeClaimTemplates'][0]['metadata']['name']}-{single['metadata']['name']}-0"
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        self.assertEqual(volumes["usage"]["persistentVolumeClaim"]["claimName"], claim)
        paths = {entry["name"]: entry["value"] for entry in container["env"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        self.assertEqual((paths["TOLLGATE_STATE_DIR"], paths["TOLLGATE_LEDGER_URL_FILE"]), (mounts["usage"], mounts["database"] + "/url"))

    def test_every_container_is_hardened_and_the_sidecar_has_its_folder(self):
        for name, _, template in workloads():
            pod = template["spec"]
            self.assertFalse(pod["automountServiceAccountToken"], name)
            for container in pod.get("initContainers", []) + pod["containers"]:
                context = container["securityContext"]
                self.assertEqual(context["capabilities"], {"drop": ["ALL"]}, name)
                self.assertTrue(context["readOnlyRootFilesystem"] and context["runAsNonRoot"], name)
                if not container["name"].startswith("tollgate"):
                    continue
                self.assertEqual(container["resources"], RESOURCES, name)
                self.assertIn(UID, container["env"], name)
                # Its last message, or, if it has none, its last lines.
                self.assertEqual(container["terminationMessagePolicy"], "FallbackToLogsOnError", name)
                mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
                # The receipt of an hourly product, or the ledger.
                self.assertEqual("/var/lib/tollgate" in mounts, container["args"] == ["run"], name)
                for volume in pod.get("volumes", []):
                    if volume["name"] == mounts.get("/var/lib/tollgate"):
                        self.assertIn("sizeLimit", volume["emptyDir"], name)
                        annotations = template["metadata"]["annotations"]
                        self.assertEqual(
                            annotations["cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"], volume["name"], name
                        )

    def test_the_lock_is_a_plain_init_container_and_no_probe(self):
        """From 1.35.4 on a kubelet counts a startup probe as passed when it restarts, for a refused buyer too."""
        seen = {}
        for name, document, template in workloads():
            pod = template["spec"]
            inits = pod.get("initContainers", [])
            for container in inits + pod["containers"]:
                self.assertNotIn("startupProbe", container, name)
                for probe in ("livenessProbe", "readinessProbe"):
                    # An exec probe starts a process each time, as long as the pod lives.
                    self.assertNotIn("exec", container.get(probe, {}), name)
                if "livenessProbe" in container:
                    # Each probe costs CPU, as long as the pod lives.
                    self.assertGreaterEqual(container["livenessProbe"].get("periodSeconds", 10), 30, name)
            if not inits:
                continue
            # The last two, so that all of the vendor's own have run before billing begins.
            sidecar, lock = inits[-2:]
            self.assertEqual((sidecar["name"], sidecar["args"], sidecar["restartPolicy"]), ("tollgate", ["run"], "Always"), name)
            self.assertEqual((lock["name"], lock["image"]), ("tollgate-await", sidecar["image"]), name)
            self.assertNotIn("restartPolicy", lock, name)
            # A Job waits with its pod; in other workloads one restart shows the reason in `kubectl
            # describe`.
            ends = [] if "Job" in document["kind"] else ["--refused-after", "30s"]
            self.assertEqual(lock["args"], ["await", *ends], name)
            seen[name] = document["kind"]
        kinds = {"native.yaml": "Deployment", "metered.yaml": "Deployment", "contract.yaml": "Deployment", "job.yaml": "Job", "cronjob.yaml": "CronJob"}
        self.assertEqual(seen, kinds)

    def test_the_forms_without_a_lock_say_how_they_gate(self):
        pods = {name: template["spec"] for name, _, template in workloads() if "initContainers" not in template["spec"]}
        self.assertEqual(set(pods), {"exec-metered.yaml", "exec.yaml", "readiness.yaml", "saas.yaml"})
        # tollgate stays beside the command: command_grace, then shutdown_grace.
        self.assertGreater(pods["exec-metered.yaml"]["terminationGracePeriodSeconds"], 20 + 25)
        application, _ = pods["readiness.yaml"]["containers"]
        self.assertEqual(application["readinessProbe"]["httpGet"], {"path": "/readyz", "port": 19180})
        replicas = [document["spec"].get("replicas") for name, document, _ in workloads() if name == "saas.yaml"]
        self.assertEqual(replicas, [1], "one writer")

    def test_a_metered_sidecar_spends_no_grace_on_waiting(self):
        containers = {
            name: template["spec"]["initContainers"][-2] for name, _, template in workloads() if name == "metered.yaml"
        }
        self.assertIn({"name": "TOLLGATE_DRAIN_QUIET", "value": "0s"}, containers["metered.yaml"]["env"])

    def test_the_socket_is_in_a_folder_that_sidecar_and_application_share(self):
        path = ROOT / "deploy/kubernetes/metered.yaml"
        deployment, more = yaml.safe_load(path.read_text()), commented(path)
        pod = deployment["spec"]["template"]["spec"]
        pod["volumes"] += more["volumes"]
        mounts = {}
        for kind in ("initContainers", "containers"):
            [given] = more[kind]
            container = next(container for container in pod[kind] if container["name"] == given["name"])
            for name in ("volumeMounts", "env"):
                container[name] = container.get(name, []) + given[name]
            mounts[kind] = given["volumeMounts"][0]
            folder = given["env"][0]["value"].removeprefix("unix:").rpartition("/")[0]
            self.assertEqual((given["env"][0]["name"], folder), ("TOLLGATE_APP_ADDR", mounts[kind]["mountPath"]))
        self.validate(deployment)
        # The application can connect, but not replace the socket.
        self.assertEqual(mounts["containers"], {**mounts["initContainers"], "readOnly": True})
        self.assertEqual(more["volumes"][0]["name"], mounts["containers"]["name"])

    def test_a_floating_deployment_updates_without_surplus_pods(self):
        path = ROOT / "deploy/kubernetes/contract.yaml"
        self.assertEqual(yaml.safe_load(path.read_text())["spec"]["strategy"]["rollingUpdate"]["maxSurge"], 0)

    def test_outside_aws_the_license_reaches_the_sidecar(self):
        path = ROOT / "deploy/kubernetes/contract.yaml"
        deployment, more = yaml.safe_load(path.read_text()), commented(path)
        pod = deployment["spec"]["template"]["spec"]
        [given] = more["initContainers"]
        sidecar = next(container for container in pod["initContainers"] if container["name"] == given["name"])
        pod["volumes"] += more["volumes"]
        for name in ("volumeMounts", "env"):
            sidecar[name] = sidecar[name] + given[name]
        self.validate(deployment)
        mounted = {mount["mountPath"] for mount in sidecar["volumeMounts"] if mount["name"] == more["volumes"][0]["name"]}
        told = {entry["name"]: entry.get("value") for entry in sidecar["env"]}
        self.assertEqual(told["AWS_WEB_IDENTITY_REFRESH_TOKEN_FILE"], f"{mounted.pop()}/license_token")
        self.assertIn("AWS_ROLE_ARN", told)

    def test_a_job_that_fails_when_refused_is_one_that_kubernetes_takes(self):
        path = ROOT / "deploy/kubernetes/job.yaml"
        job, policy = yaml.safe_load(path.read_text()), commented(path)
        self.assertEqual(job["spec"]["template"]["spec"]["restartPolicy"], "Never", "asked for by podFailurePolicy")
        [rule] = policy["podFailurePolicy"]["rules"]
        codes = rule["onExitCodes"]
        self.assertEqual((rule["action"], codes["containerName"], codes["values"]), ("FailJob", "tollgate-await", REFUSED))
        self.assertIn("`args: [await, --refused-after, 30s]`", path.read_text())
        job["spec"].update(policy)
        self.validate(job)


class Rehearsals(unittest.TestCase):
    """deploy/rehearsal; tests/kubernetes/rehearsals.py runs it."""

    folder = ROOT / "deploy/rehearsal"

    def test_the_emulators_manifest_is_valid_in_every_version_and_hardened(self):
        service, deployment = yaml.safe_load_all((self.folder / "emulator.yaml").read_text())
        for document in (service, deployment):
            for version in VERSIONS:
                kubernetes_validate.validate(document, version, strict=True)
        pod = deployment["spec"]["template"]["spec"]
        self.assertFalse(pod["automountServiceAccountToken"])
        (emulator,) = pod["containers"]
        context = emulator["securityContext"]
        self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
        self.assertTrue(context["readOnlyRootFilesystem"] and context["runAsNonRoot"])
        self.assertEqual(service["spec"]["selector"], deployment["spec"]["template"]["metadata"]["labels"])
        # The files that the values of the chart and the recipes name.
        values = yaml.safe_load((ROOT / "helm/example/values-rehearsal.yaml").read_text())["tollgate"]
        address = f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
        self.assertEqual((values["settings"]["endpoint_url"], values["settings"]["clock"]), (address, f"{address}/_emulator/clock"))
        image = "{registry}/{repository}:{tag}".format(**values["image"])
        named = {path.name: set(re.findall(r"[\w.]+/tollgate-dev:[\w.]+", path.read_text())) for path in self.folder.glob("*.yaml")}
        self.assertEqual(named, {"emulator.yaml": {image}, "github.yaml": {image}, "gitlab.yaml": {image}, "compose.yaml": set()})

    def test_no_chart_brings_the_emulator_along(self):
        for path in ROOT.glob("helm/*/templates/*"):
            self.assertNotIn("tollgate-emulator", path.read_text(), path)
        defaults = (ROOT / "helm/tollgate/values.yaml").read_text() + (ROOT / "helm/example/values.yaml").read_text()
        self.assertNotIn("emulator", defaults)

    def test_the_recipes_are_what_github_and_gitlab_take(self):
        def check(schema, path):
            program = pathlib.Path(sys.executable).with_name("check-jsonschema")
            return subprocess.run([program, "--builtin-schema", schema, path], capture_output=True, text=True)

        for name, schema in (("github", "vendor.github-workflows"), ("gitlab", "vendor.gitlab-ci")):
            path = self.folder / f"{name}.yaml"
            done = check(schema, path)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as broken:
                broken.write(path.read_text().replace("services:", "service:"))
                broken.flush()
                done = check(schema, broken.name)
                self.assertEqual(done.returncode, 1, f"{name}: {done.stdout}{done.stderr}")
            self.assertIn("rehearsal/ci.sh", path.read_text())


if __name__ == "__main__":
    unittest.main(verbosity=2)
