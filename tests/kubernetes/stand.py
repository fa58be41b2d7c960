"""The environment of a scenario: a namespace of its own with an emulator, and the node that all scenarios share."""

import contextlib
import datetime
import http.client
import json
import re
import ssl
import subprocess
import threading
import time

from aws import Emulator
from cluster import API, NODE, PATIENCE, cgroups, wait

# tollgate's containers in a pod; events and restarts are counted for them.
OURS = ("tollgate", "tollgate-await")
# Values of the chart.
READINESS = {"gate": "readiness"}
EXEC = {"gate": "exec"}
# The number of pods that fit on the node: each requests a ninth of a core, and there are two cores.
PODS_MAX = 16


class Node:
    """Disturbances of the shared node. Each happens when every scenario has ended or waits for one, once for all waiting scenarios."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.changed = threading.Condition()
        self.waiting = {"kubelet restart": 0, "reboot": 0}
        self.done = {"kubelet restart": 0, "reboot": 0}
        self.busy = self.pods = self.queued = 0

    def enter(self):
        with self.changed:
            self.busy += 1

    @contextlib.contextmanager
    def room(self, pods):
        """Waits for room for this number of pods; at the end of the block the scenario gives the room back and has ended."""
        with self.changed:
            # This scenario does not count as busy meanwhile, because scenarios that wait for a disturbance
            # may hold the room.
            self.busy -= 1
            self.queued += 1
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.pods + pods <= PODS_MAX)
            self.queued -= 1
            self.busy += 1
            self.pods += pods
        try:
            yield
        finally:
            with self.changed:
                self.pods -= pods
                self.busy -= 1
                self.changed.notify_all()

    def disturb(self, kind):
        """Blocks until the node was disturbed in this way."""
        with self.changed:
            turn = self.done[kind] + 1
            self.waiting[kind] += 1
            self.busy -= 1
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.done[kind] >= turn)

    def serve(self):
        """Disturbs the node whenever all scenarios wait; returns when none is left."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.busy == 0 and (any(self.waiting.values()) or not self.queued))
                kind = next((kind for kind, waiting in self.waiting.items() if waiting), None)
                if kind is None:
                    return
            try:
                (self.cluster.restart_kubelet if kind == "kubelet restart" else self.cluster.reboot)()
            finally:
                with self.changed:
                    self.busy += self.waiting[kind]
                    self.waiting[kind] = 0
                    self.done[kind] += 1
                    self.changed.notify_all()


class Api(threading.local):
    """Reads the API server without starting a kubectl each time; one connection for each thread."""

    def __init__(self, cluster):
        self.token, self.authority, self.connection = cluster.token, str(cluster.folder / "ca.pem"), None

    def get(self, path):
        for fresh in (False, True):
            try:
                if fresh or self.connection is None:
                    context = ssl.create_default_context(cafile=self.authority)
                    host, port = API.removeprefix("https://").split(":")
                    self.connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=30)
                self.connection.request("GET", path, headers={"authorization": f"Bearer {self.token}"})
                answer = self.connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException):
                if fresh:
                    raise
                continue
            if answer.status == 404:
                return None
            if answer.status != 200:
                raise AssertionError(f"GET {path}: {answer.status} {body.decode()}")
            return json.loads(body)


class Stand:
    """Everything that the scenarios share."""

    def __init__(self, cluster, webhook, program, keys, helms, folder):
        self.cluster, self.webhook, self.program, self.keys, self.helms, self.folder = cluster, webhook, program, keys, helms, folder
        self.node = Node(cluster)
        self.version = cluster.get("/version")["gitVersion"]

    def volume(self, space, claim):
        """A volume on the node's disk for one claim; a pod's fsGroup changes its owner, as with a cloud's disks."""
        name = f"{space.name}-{claim}"
        path = self.folder / "volumes" / name
        path.mkdir(parents=True)
        here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
        space.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {
            "capacity": {"storage": "4Gi"}, "accessModes": ["ReadWriteOnce"], "local": {"path": str(path)},
            "claimRef": {"namespace": space.name, "name": claim},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}}}})

    @contextlib.contextmanager
    def namespace(self, name, *emulator, follow_clock=False, **environment):
        """A namespace with an own emulator, to which the webhook directs every pod."""
        with Emulator(self.program, self.keys, *emulator) as aws:
            world = {"TOLLGATE_ENDPOINT_URL": aws.endpoint, **environment}
            if follow_clock:
                world["TOLLGATE_CLOCK"] = aws.facts["clock"]
            self.webhook.worlds[name] = world
            with self.bare_namespace(name, aws) as space:
                yield space

    @contextlib.contextmanager
    def bare_namespace(self, name, aws=None):
        """A namespace as of a careful operator: PodSecurity `restricted` and a quota, and no emulator."""
        space = Namespace(self, name, aws)
        space.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {
                "pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "latest"}}},
            {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "quota", "namespace": name}, "spec": {"hard": {
                "pods": "20", "requests.cpu": "4", "requests.memory": "2Gi", "limits.memory": "4Gi"}}},
        )
        wait("the default service account", lambda: space.get("serviceaccounts/default"))
        try:
            yield space
        except BaseException:
            space.tell()
            raise
        finally:
            with contextlib.suppress(AssertionError):
                # Kills the remaining pods, because the result is known.
                space.kubectl("delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false")
                self.cluster.kubectl("delete", "namespace", name, "--wait=false")


class Namespace:
    """One scenario's pods and emulator, and the operations on both."""

    def __init__(self, stand, name, aws):
        self.stand, self.name, self.aws = stand, name, aws

    def kubectl(self, *arguments, **options):
        return self.stand.cluster.kubectl("--namespace", self.name, *arguments, **options)

    def apply(self, *documents):
        text = "\n---\n".join(json.dumps(document) for document in documents)
        return self.kubectl("apply", "-f", "-", text=text).stdout

    def parse(self, text):
        """The objects in a manifest, as kubectl reads them."""
        listed = self.kubectl("create", "--dry-run=client", "--validate=false", "-o", "json", "-f", "-", text=text).stdout
        decoder, objects = json.JSONDecoder(), []
        while listed := listed.strip():
            one, end = decoder.raw_decode(listed)
            objects += one["items"] if one["kind"] == "List" else [one]
            listed = listed[end:]
        return objects

    def get(self, path, group="/api/v1"):
        return self.stand.cluster.get(f"{group}/namespaces/{self.name}/{path}")

    # === charts ===

    def install(self, release="app", helm="4.3.1", wait=None, check=True, order="install", chart="example", **values):
        """Runs `helm install`, or another command, with the example chart and values as in a file: `tollgate={"gate": "exec"}`."""
        file = self.stand.folder / f"{self.name}-{release}.json"
        file.write_text(json.dumps({"tollgate": {}, **values}))
        command = [order, release, self.stand.folder / chart, "--namespace", self.name, "--values", file]
        return self.helm(helm, *command, *(["--wait", "--timeout", wait] if wait else []), check=check)

    def helm(self, version, *arguments, check=True):
        command = [self.stand.helms[version], *map(str, arguments), "--kubeconfig", str(self.stand.cluster.kubeconfig)]
        folder = self.stand.folder
        environment = {"HELM_CACHE_HOME": f"{folder}/helm", "HELM_CONFIG_HOME": f"{folder}/helm", "HELM_DATA_HOME": f"{folder}/helm"}
        done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "HOME": str(folder), **environment})
        if check and done.returncode != 0:
            raise AssertionError(f"helm {version} {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}")
        return done

    # === pods ===

    def pods(self, **labels):
        query = "%2C".join(f"{name}%3D{value}" for name, value in labels.items())
        return self.get(f"pods?labelSelector={query}")["items"]

    def pod(self, name=None, **labels):
        """The one pod, or None if there is none."""
        if name:
            return self.get(f"pods/{name}")
        pods = [pod for pod in self.pods(**labels) if "deletionTimestamp" not in pod["metadata"]]
        assert len(pods) < 2, [pod["metadata"]["name"] for pod in pods]
        return pods[0] if pods else None

    def wait_for_pod(self, what, condition, patience=PATIENCE, **labels):
        """Waits until a condition holds for the one pod; returns the pod."""
        return wait(f"{self.name}: {what}", lambda: (pod := self.pod(**labels)) and condition(pod) and pod, patience)

    def started(self, container="app", patience=PATIENCE, **labels):
        return self.wait_for_pod(f"{container} to run", lambda pod: running(pod, container), patience, **labels)

    def wait_for_state(self, state, pod=None, patience=PATIENCE):
        """Waits until the sidecar is in a state; returns the document of /entitlement."""
        def told():
            found = (self.pod(pod) if pod else self.pod())
            answer = found and entitlement(found)
            return answer and answer["state"] == state and answer

        return wait(f"{self.name}: state {state}", told, patience)

    def describe(self, pod):
        return self.kubectl("describe", "pod", name_of(pod)).stdout

    def logs(self, pod, container="app", *arguments):
        return self.kubectl("logs", name_of(pod), "-c", container, *arguments).stdout

    def log_times(self, pod, container, text):
        """The times at which lines with this text were written, by the runtime's clock, in seconds."""
        lines = self.logs(pod, container, "--timestamps").splitlines()
        return [seconds(line.split(" ")[0]) for line in lines if text in line]

    def events(self, pod, *containers):
        """The events of a pod's containers: (container, reason, how often, message)."""
        found = []
        for event in self.get(f"events?fieldSelector=involvedObject.name%3D{name_of(pod)}")["items"]:
            container = (event["involvedObject"].get("fieldPath") or "").partition("{")[2].rstrip("}")
            if container in containers:
                found.append((container, event["reason"], event.get("count") or 1, event["message"]))
        return found

    def kill(self, pod, container):
        """Sends SIGKILL to a container's first process, from the node."""
        identifier = status(pod, container)["containerID"].removeprefix("containerd://")
        self.stand.cluster.ctr("task", "kill", "--signal", "SIGKILL", identifier)
        return identifier

    def evict(self, pod, **options):
        """Evicts a pod, as a node drain does; `gracePeriodSeconds=2` sets its time to stop."""
        name = name_of(pod)
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": self.name}, "deleteOptions": options}
        self.kubectl("create", "--raw", f"/api/v1/namespaces/{self.name}/pods/{name}/eviction", "-f", "-", text=json.dumps(eviction))

    def process(self, pod, container):
        """The process ID of a container's first process."""
        identifier = status(pod, container)["containerID"].removeprefix("containerd://")
        for line in self.stand.cluster.ctr("task", "ls").stdout.splitlines():
            if line.startswith(identifier):
                return int(line.split()[1])
        raise AssertionError(f"{container} does not run")

    def cgroup(self, pod, container, controller):
        """The folder of a container's cgroup, with either version of the interface."""
        with open(f"/proc/{self.process(pod, container)}/cgroup") as file:
            paths = dict(line.strip().split(":", 2)[1:] for line in file)
        top = next(top for top in cgroups() if top.name in (controller, "cgroup"))
        return top / paths[controller if top.name == controller else ""].lstrip("/")

    def cpu_seconds(self, pod, container):
        """The processor time of a container."""
        old = self.cgroup(pod, container, "cpuacct") / "cpuacct.usage"
        if old.exists():
            return int(old.read_text()) / 1e9
        return int(re.search(r"usage_usec (\d+)", (old.parent / "cpu.stat").read_text())[1]) / 1e6

    def wait_for_restart(self, pod, container, patience=PATIENCE):
        before = status(pod, container)["containerID"]
        return wait(f"{self.name}: a new {container}", lambda: (now := self.pod(name_of(pod))) and running(now, container)
                    and status(now, container)["containerID"] != before and now, patience)

    def tell(self):
        """The information that an operator would look at first, for a failed scenario."""
        with contextlib.suppress(AssertionError):
            print(f"--- {self.name}\n{self.kubectl('get', 'all', check=False).stdout}")
            print(self.kubectl("describe", "pods", check=False).stdout[-6000:])
            for pod in self.pods():
                for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
                    text = self.kubectl("logs", name_of(pod), "-c", container["name"], "--tail=8", check=False).stdout
                    print(f"--- {name_of(pod)} {container['name']}\n{text}")


def name_of(pod):
    return pod if isinstance(pod, str) else pod["metadata"]["name"]


def status(pod, container):
    statuses = pod["status"].get("initContainerStatuses", []) + pod["status"].get("containerStatuses", [])
    return next((one for one in statuses if one["name"] == container), {"state": {}, "restartCount": 0, "containerID": ""})


def running(pod, container):
    return "running" in status(pod, container)["state"]


def restarts(pod, *containers):
    return sum(status(pod, container)["restartCount"] for container in containers)


def ready(pod):
    """Whether Services send the pod traffic."""
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", []))


def ended(pod):
    return pod["status"]["phase"] in ("Succeeded", "Failed")


def seconds(timestamp):
    return datetime.datetime.fromisoformat(timestamp.replace("Z", "+00:00")[:26].rstrip("+") + "+00:00").timestamp()


def ask(pod, port, method, path, body=None):
    """One request to a pod, from the node; returns status and JSON, or None if the connection fails."""
    connection = http.client.HTTPConnection(pod["status"].get("podIP") or "0.0.0.0", port, timeout=5)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def entitlement(pod, port=19180):
    answer = ask(pod, port, "GET", "/entitlement")
    return answer and answer[1]
