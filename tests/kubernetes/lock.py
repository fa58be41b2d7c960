"""Refused, throttled, open: when the application starts and when it must not, across restarts of all parts."""

import os
import statistics
import subprocess
import sys
import time

from cluster import wait
from scenarios import never, scenario
from stand import EXEC, OURS, READINESS, ask, ended, entitlement, name_of, ready, restarts, running, status

# The most that may pass from the gate's opening to the application's start.
GATE_TO_APPLICATION_MAX = 1.2
# On a busy machine the measurement is repeated.
ROUNDS_MAX = 3
# How long a pod that must not start is watched: a kubelet that opens a gate by mistake does so within 3 s of its start.
WATCHED = 15
DESCRIBED_WITHIN = 60
# How long a kubelet may report an unready container as ready after its start.
UNPROBED_MAX = 10
EVENTS_MAX = 6


def shut(space, **labels):
    """Whether the application has never run. In the exec form its container runs, and waits."""
    pod = space.pod(**labels)
    if pod is None or not (running(pod, "app") or status(pod, "app")["restartCount"]):
        return True
    # For a moment after its start a kubelet has no logs.
    return "application started" not in space.kubectl("logs", name_of(pod), "-c", "app", check=False).stdout


def opened_and_started(space, pod):
    """Seconds from the gate's opening to the application's first line, both by the runtime's clock."""
    (opened, *_) = space.log_times(pod, "tollgate", '"gate":"open"') or space.log_times(pod, "tollgate", '"state":"entitled"')
    (started, *_) = space.log_times(pod, "app", "application started")
    return started - opened


@scenario(pods=5, alone=True)
def the_application_starts_soon_after_the_gate(stand):
    """A pod that waits starts its application within 1.2 s (median of five pods, the best of three rounds) after its gate opens."""
    with stand.namespace("soon") as space:
        space.install(replicas=0)
        measured = []
        for _ in range(ROUNDS_MAX):
            space.aws.fault(fault="throttle", operation="RegisterUsage")
            space.kubectl("scale", "deployment", "app", "--replicas=5")
            wait("five waiting pods", lambda: sum(running(pod, "tollgate-await") for pod in space.pods()) == 5)
            space.aws.no_fault()
            pods = wait("five applications", lambda: len(pods := [pod for pod in space.pods() if running(pod, "app")]) == 5 and pods)
            times = sorted(opened_and_started(space, pod) for pod in pods)
            measured.append(f"median {statistics.median(times):.2f} s of {', '.join(f'{one:.2f}' for one in times)}")
            if statistics.median(times) <= GATE_TO_APPLICATION_MAX:
                return measured[-1]
            space.kubectl("scale", "deployment", "app", "--replicas=0")
            wait("no pod", lambda: not space.pods())
        raise AssertionError(measured)


@scenario(pods=3)
def a_refused_pod_stays_shut(stand):
    """A refused application never starts, through a kubelet restart, a sidecar kill and a reboot; subscribed, it does."""
    with stand.namespace("refused") as space:
        space.aws.subscribe(False)
        space.install()
        space.install("inside", tollgate=EXEC)
        space.install("behind", tollgate=READINESS)
        began = time.monotonic()
        pod = space.wait_for_pod("a sidecar", lambda pod: running(pod, "tollgate"), app="app")
        wait("the reason in describe", lambda: "CustomerNotEntitledException" in space.describe(pod))
        described = time.monotonic() - began
        assert described <= DESCRIBED_WITHIN, described
        space.started(app="behind")
        names = ("app", "inside")
        wait("the waiting application", lambda: "CustomerNotEntitledException" in space.logs(space.started(app="inside")))

        def opened():
            return [name for name in names if not shut(space, app=name)]

        def never_opens(what):
            # At its start a kubelet reports every container as ready until a worker probes it, and traffic may pass
            # meanwhile.
            began, seen = time.monotonic(), 0

            def happened():
                nonlocal seen
                if ready(space.pod(app="behind")):
                    seen = time.monotonic() - began
                return opened()

            never(what, WATCHED, happened)
            assert seen < UNPROBED_MAX, f"{what}: ready for {seen:.1f} s"
            return seen

        stand.node.disturb("kubelet restart")
        unprobed = never_opens("a kubelet restart opens")
        space.kill(pod, "tollgate")
        space.wait_for_restart(pod, "tollgate")
        never_opens("a killed sidecar opens")
        stand.node.disturb("reboot")
        wait("the sidecar after a reboot", lambda: (found := space.pod(app="app")) and entitlement(found))
        never_opens("a reboot opens")
        space.aws.subscribe(True)
        # After a refusal the sidecar asks every five minutes; when it starts it asks at once.
        pod = space.pod(app="app")
        space.kill(pod, "tollgate")
        pod = space.started(app="app")
        late = opened_and_started(space, pod)
        return (f"described after {described:.0f} s; started {late:.2f} s after the gate; the readiness form was ready for {unprobed:.1f} s "
                "after the kubelet's restart")


@scenario()
def a_throttled_pod_waits_in_silence(stand):
    """Throttled for 90 s, a pod restarts nothing, makes at most 6 events, and starts by itself."""
    with stand.namespace("throttled") as space:
        space.aws.fault(fault="throttle", operation="RegisterUsage")
        space.install()
        pod = space.wait_for_pod("a sidecar", lambda pod: running(pod, "tollgate"))
        never("throttling restarts or starts", 90, lambda: restarts(now := space.pod(), *OURS) or running(now, "app"))
        events = space.events(pod, *OURS)
        count = sum(times for _, _, times, _ in events)
        assert count <= EVENTS_MAX, events
        space.aws.no_fault()
        space.started()
        return f"{count} events in 90 s"


@scenario()
def a_refused_pod_restarts_once_and_then_waits_in_silence(stand):
    """An hour of refusal costs one restart of tollgate-await and at most 6 events; the reason stays under Last State."""
    with stand.namespace("hour", follow_clock=True) as space:
        space.aws.subscribe(False)
        space.install()
        pod = space.wait_for_pod("one restart", lambda pod: restarts(pod, "tollgate-await") == 1)
        space.aws.advance("1h")
        never("a refusal that is old restarts", 75, lambda: restarts(space.pod(), *OURS) != 1)
        last = status(space.pod(), "tollgate-await")["lastState"]["terminated"]
        assert last["exitCode"] == 77 and "CustomerNotEntitledException" in last["message"], last
        events = space.events(pod, *OURS)
        # As describe lists them: repeated events are listed once, with a count.
        assert len(events) <= EVENTS_MAX, events
        return f"{len(events)} events"


@scenario(pods=3)
def what_kubectl_shows_stands_in_the_runbook(stand):
    """Refused, misconfigured and without its image: `tollgate explain` knows the status that kubectl shows, and the section says the rest."""
    with stand.namespace("runbook") as space:
        space.aws.subscribe(False)
        space.install("refused")
        space.install("wrong", tollgate={"extraEnv": [{"name": "TOLLGATE_GRACE_PERIOD", "value": "1h"}]})
        space.install("absent", tollgate={"image": {"tag": "9.9.9"}})
        seen = {}
        for release, statuses in (
            ("refused", ("Init:1/2",)), ("wrong", ("Init:CrashLoopBackOff",)), ("absent", ("Init:ErrImagePull", "Init:ImagePullBackOff")),
        ):
            def shown():
                listed = space.kubectl("get", "pods", "--selector", f"app={release}", "--no-headers").stdout.split()
                return len(listed) > 2 and listed[2] in statuses and listed[2]

            seen[release] = wait(f"the status of {release}", shown)
            explained = subprocess.run([stand.program, "explain", seen[release]], capture_output=True, text=True)
            assert explained.returncode == 0 and seen[release] in explained.stdout, (seen[release], explained.stderr)
        pod = space.pod(app="wrong")
        ending = wait("the exit code", lambda: status(space.pod(app="wrong"), "tollgate").get("lastState", {}).get("terminated"))
        assert ending["exitCode"] == 78 and "grace_period" in space.describe(pod), ending
        return ", ".join(seen.values())


@scenario()
def an_open_pod_is_left_alone(stand):
    """Open: a kubelet restart restarts nothing; an OOM kill of the sidecar leaves the application; a reboot without AWS opens by the receipt."""
    with stand.namespace("open") as space:
        space.install()
        pod = space.started()
        before = {name: status(pod, name)["containerID"] for name in ("tollgate", "app")}
        stand.node.disturb("kubelet restart")

        def same(*names):
            now = space.pod()
            return all(status(now, name)["containerID"] == before[name] and running(now, name) for name in names)

        never("a kubelet restart restarts", 2 * WATCHED, lambda: not same("tollgate", "app"))
        exhaust(space, pod, "tollgate")
        pod = space.wait_for_restart(pod, "tollgate")
        reason = status(pod, "tollgate")["lastState"]["terminated"]["reason"]
        assert reason == "OOMKilled", reason
        wait("the gate", lambda: (answer := ask(space.pod(), 19180, "GET", "/readyz")) and answer[0] == 200)
        assert same("app"), "the application was restarted"
        space.aws.fault(fault="reset-before")
        stand.node.disturb("reboot")
        pod = space.wait_for_pod("the application after a reboot", lambda pod: status(pod, "app")["containerID"] != before["app"]
                                 and running(pod, "app"))
        proof = entitlement(pod)
        assert proof["gate"] == "open", proof
        return "opened from its receipt"


def exhaust(space, pod, container):
    """Fills a container's memory limit from the node, so that the kernel kills the process in its cgroup with the highest score: the sidecar."""
    process, folder = space.process(pod, container), space.cgroup(pod, container, "memory")
    grow = "import os,sys\nopen(sys.argv[1],'w').write(str(os.getpid()))\nkept=[]\nwhile True: kept.append(bytearray(os.urandom(1<<20)))"
    hungry = subprocess.Popen([sys.executable, "-c", grow, folder / "cgroup.procs"])
    try:
        wait("an OOM kill", lambda: not os.path.exists(f"/proc/{process}"))
    finally:
        hungry.kill()
        hungry.wait()


@scenario()
def a_job_waits_and_ends(stand):
    """A Job whose sidecar was killed while it waited ends when its buyer subscribes, with restartPolicy Never."""
    with stand.namespace("job") as space:
        space.aws.subscribe(False)
        space.install(kind="Job", command=["/your-app", "once"])
        pod = space.wait_for_pod("a refusal", lambda pod: (answer := entitlement(pod)) and answer["state"] == "denied")
        space.kill(pod, "tollgate")
        space.wait_for_restart(pod, "tollgate")
        space.aws.subscribe(True)
        space.kill(space.pod(), "tollgate")
        pod = space.wait_for_pod("the Job's end", ended)
        assert pod["status"]["phase"] == "Succeeded", pod["status"]
        wait("the Job to succeed", lambda: space.get("jobs/app", "/apis/batch/v1")["status"].get("succeeded") == 1)


@scenario()
def a_refused_job_fails_where_it_is_told_to(stand):
    """`refused: fail`: a refused Job fails at once, without another pod, and says why."""
    with stand.namespace("fails") as space:
        space.aws.subscribe(False)
        space.install(kind="Job", command=["/your-app", "once"], tollgate={"refused": "fail"})
        job = wait("the Job to fail", lambda: (job := space.get("jobs/app", "/apis/batch/v1")) and job["status"].get("failed") and job)
        failed = wait("the Job's condition", lambda: [
            one for one in space.get("jobs/app", "/apis/batch/v1")["status"].get("conditions", []) if one["type"] == "Failed"])
        assert job["status"]["failed"] == 1 and failed[0]["reason"] == "PodFailurePolicy", (job["status"], failed)
        (pod,) = space.pods(app="app")
        ending = status(pod, "tollgate-await")["state"]["terminated"]
        assert ending["exitCode"] == 77 and "CustomerNotEntitledException" in ending["message"], ending
        assert shut(space, app="app")
