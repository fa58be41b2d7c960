"""Each kind of workload and each form of the gate, installed as a user installs them; then the manifests of deploy/kubernetes as they stand."""

import pathlib
import time

from cluster import wait
from scenarios import scenario
from stand import EXEC, READINESS, ended, ready, running, status

ROOT = pathlib.Path(__file__).resolve().parents[2]
CPU_SECONDS_A_DAY_MAX = 1.5
# Six liveness probes.
IDLE = 60


@scenario(pods=9)
def each_kind_and_each_form_starts(stand):
    """Deployment, StatefulSet and DaemonSet start in each form, beside each other in one namespace, by Helm 3 and by Helm 4."""
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


@scenario()
def helm_waits_for_the_gate(stand):
    """`helm install --wait` returns when the application runs; refused, it fails and the application has not started."""
    with stand.namespace("waiting") as space:
        for version in stand.helms:
            release = f"helm-{version[0]}"
            space.install(release, helm=version, wait=True)
            assert running(space.pod(app=release), "app")
            space.helm(version, "uninstall", release, "--namespace", space.name)


@scenario(pods=2)
def an_idle_sidecar_costs_little(stand):
    """An open pod's sidecar, with the probes that the chart gives it, uses at most 1.5 s of a processor a day."""
    with stand.namespace("idle") as space:
        space.install("hourly")
        space.install("metered", tollgate={
            "mode": "metered", "image": {"repository": "your-metered-gate"}, "state": {"type": "emptyDir"}})
        pods = {release: space.started(app=release) for release in ("hourly", "metered")}
        # A start is not idle.
        time.sleep(IDLE / 2)
        before = {release: space.cpu_seconds(pod, "tollgate") for release, pod in pods.items()}
        began = time.monotonic()
        time.sleep(IDLE)
        a_day = 86400 / (time.monotonic() - began)
        used = {release: (space.cpu_seconds(pod, "tollgate") - before[release]) * a_day for release, pod in pods.items()}
        text = ", ".join(f"{release} {seconds:.2f} s" for release, seconds in used.items())
        assert max(used.values()) <= CPU_SECONDS_A_DAY_MAX, text
        return f"{text} a day"


@scenario(pods=3)
def jobs_end(stand):
    """Job and CronJob end although their sidecar goes on; a Job that fails says so."""
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
    """deploy/kubernetes runs as it is, but for the name of the gate's image."""
    ran = []
    for path in sorted((ROOT / "deploy/kubernetes").glob("*.yaml")):
        name = path.stem
        image = {"metered": "your-metered-gate", "saas": "your-saas-gate"}.get(name, "your-gate")
        with stand.namespace(f"manifest-{name}") as space:
            space.kubectl("create", "serviceaccount", "tollgate" if name == "saas" else "your-app")
            if name == "saas":
                space.kubectl("create", "secret", "generic", "tollgate-token", "--from-literal=token=a-token-of-some-length")
                stand.volume(space, "usage-tollgate-0")
            text = path.read_text().replace("registry.example/your-gate:", f"registry.example/{image}:")
            if name == "exec":
                text = text.replace("registry.example/your-app:", "registry.example/your-exec:")
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
