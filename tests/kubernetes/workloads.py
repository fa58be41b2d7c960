"""Each kind of workload and each form of the gate, installed as a user installs them; then the unchanged manifests of deploy/kubernetes."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from cluster import wait
from scenarios import scenario
from stand import EXEC, READINESS, ended, ready, running, status

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/witness"))
import pages  # noqa: E402
# Twice the goal, because the same steps cost more beside other work on the machine.
CPU_SECONDS_A_DAY_MAX = 3
# Two liveness probes, as often as the chart asks.
IDLE = 60


@scenario(pods=9)
def each_kind_and_each_form_starts(stand):
    """Deployment, StatefulSet and DaemonSet start in each form, together in one namespace, by Helm 3 and by Helm 4."""
    with stand.namespace("kinds") as space:
        releases = []
        for kind in ("Deployment", "StatefulSet", "DaemonSet"):
            for form, gate in (("native", {}), ("readiness", READINESS), ("exec", EXEC)):
                release = f"{kind.lower()}-{form}"
                version = "3.22.0" if form == "exec" else "4.3.1"
                space.install(release, helm=version, kind=kind, tollgate=gate)
                releases.append(release)
        for release in releases:
            pod = space.started(app=release)
            wait(f"{release} to be ready", lambda: ready(space.pod(app=release)))
            wait(f"the application of {release}", lambda: "application started" in space.logs(pod))
        return f"{len(releases)} releases"


@scenario(pods=4)
def helm_waits_for_the_gate(stand):
    """`helm install --wait` returns when the application runs; refused, it fails and the application has not started."""
    with stand.namespace("waiting") as space:
        for version in stand.helms:
            release = f"helm-{version[0]}"
            space.install(release, helm=version, wait="120s")
            assert running(space.pod(app=release), "app")
        space.aws.subscribe(False)
        for version in stand.helms:
            release = f"refused-{version[0]}"
            done = space.install(release, helm=version, wait="15s", check=False)
            assert done.returncode != 0, done.stdout
            assert not running(space.pod(app=release), "app")


@scenario(pods=2)
def a_chart_of_helm_create_starts_behind_the_gate(stand):
    """The commands of docs/quickstart/eks-helm.md on what `helm create` makes, by Helm 3 and by Helm 4: the gate, and then the application."""
    text, _ = pages.runnable(pages.read("quickstart/eks-helm.md"))
    values = {
        "podSecurityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsUser": 10001},
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "32Mi"}},
        # The test's application has no web page.
        "livenessProbe": None, "readinessProbe": None,
    }
    with stand.namespace("quickstart") as space:
        for version, helm in stand.helms.items():
            with tempfile.TemporaryDirectory() as home:
                shutil.copytree(ROOT / "helm", f"{home}/helm")
                # What the page begins with.
                subprocess.run([stand.program, "config", "init", "gate"], cwd=home, check=True, stdout=subprocess.DEVNULL)
                (pathlib.Path(home) / "values.json").write_text(json.dumps(values))
                ran, failed = pages.run(pages.steps(text), home, PATH=f"{helm.parent}:{os.environ['PATH']}")
                assert ran and not failed, f"{failed} of {ran} steps of the page failed"
                release = f"shop-{version[0]}"
                files = [f"--values={home}/gate/values.yaml", f"--values={home}/values.json"]
                space.helm(version, "install", release, f"{home}/shop", "--namespace", space.name, *files)
            pod = space.started("shop", **{"app.kubernetes.io/instance": release})
            assert status(pod, "tollgate-await")["state"]["terminated"]["exitCode"] == 0, pod["status"]
            wait(f"the application of {release}", lambda: "application started" in space.logs(pod, "shop"))


def released(mode, **settings):
    """A pod with only the released sidecar, and only the chart's liveness probe."""
    environment = {"TOLLGATE_MODE": mode, "TOLLGATE_PRODUCT_CODE": f"demo{mode}", **settings}
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True, "runAsUser": 65532}
    uid = {"name": "TOLLGATE_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": mode}, "spec": {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "state", "emptyDir": {}}],
        "containers": [{
            "name": "tollgate", "image": "registry.example/release:1.0.0", "args": ["run"], "securityContext": security,
            "env": [uid] + [{"name": name, "value": value} for name, value in environment.items()],
            "volumeMounts": [{"name": "state", "mountPath": "/var/lib/tollgate"}],
            "livenessProbe": {"httpGet": {"path": "/livez", "port": 19180}, "periodSeconds": 30},
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "32Mi"}},
        }],
    }}


@scenario()
def an_idle_sidecar_costs_little(stand):
    """As released, refused in mode hourly and with only its liveness probe, a sidecar uses at most 3 s of a processor a day."""
    with stand.namespace("idle") as space:
        # Refused, so that it asks every five minutes: a released build does not open by the emulator's answers. (In
        # mode metered it would notice that the answer is the emulator's, and ask more often.)
        space.aws.subscribe(False)
        space.apply(released("hourly", TOLLGATE_PUBLIC_KEYS="/keys"))
        space.wait_for_state("denied")
        pod = space.pod()
        before, began = space.cpu_seconds(pod, "tollgate"), time.monotonic()
        time.sleep(IDLE)
        used = (space.cpu_seconds(pod, "tollgate") - before) * 86400 / (time.monotonic() - began)
        assert used <= CPU_SECONDS_A_DAY_MAX, used
        return f"{used:.2f} s a day"


@scenario(pods=3)
def jobs_end(stand):
    """Job and CronJob end although their sidecar continues; a failed Job is reported as failed."""
    with stand.namespace("jobs") as space:
        space.install("job", kind="Job", command=["/your-app", "once"])
        space.install("failing", kind="Job", command=["/your-app", "fail"])
        space.install("cron", kind="CronJob", command=["/your-app", "once"])
        space.kubectl("create", "job", "--from=cronjob/cron", "run")
        for name in ("job", "run"):
            wait(f"{name} to succeed", lambda: (space.get(f"jobs/{name}", "/apis/batch/v1")["status"].get("succeeded")) == 1)
        pods = wait("a failed pod", lambda: [pod for pod in space.pods(app="failing") if ended(pod)])
        assert status(pods[0], "app")["state"]["terminated"]["exitCode"] == 3, pods[0]["status"]


@scenario(pods=2)
def the_manifests_run_as_they_stand(stand):
    """deploy/kubernetes runs unchanged, except for the name of the gate's image."""
    ran = []
    for path in sorted((ROOT / "deploy/kubernetes").glob("*.yaml")):
        name = path.stem
        image = {"metered": "your-metered-gate", "contract": "your-contract-gate", "saas": "your-saas-gate"}.get(name, "your-gate")
        with stand.namespace(f"manifest-{name}") as space:
            space.kubectl("create", "serviceaccount", "tollgate" if name == "saas" else "your-app")
            if name == "saas":
                space.kubectl("create", "secret", "generic", "tollgate-token", "--from-literal=token=a-token-of-some-length")
                stand.volume(space, "usage-tollgate-0")
            text = path.read_text().replace("registry.example/your-gate:", f"registry.example/{image}:")
            if name.startswith("exec"):
                text = text.replace("registry.example/your-app:", f"registry.example/your-{name}:")
            space.kubectl("apply", "-f", "-", text=text)
            if name == "cronjob":
                space.kubectl("create", "job", "--from=cronjob/your-job", "run")
            if name in ("job", "cronjob"):
                pod = space.wait_for_pod("the Job's end", ended)
                assert pod["status"]["phase"] == "Succeeded", pod["status"]
            else:
                space.wait_for_pod("readiness", ready)
        ran.append(name)
    return ", ".join(ran)
