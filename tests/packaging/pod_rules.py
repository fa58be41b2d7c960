"""Rules for every set that the charts render. Kubernetes' schemas do not contain them; an API server or a kubelet would enforce them."""

import re

WORKLOADS = ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"]
RESTARTED = ["Deployment", "StatefulSet", "DaemonSet"]
UNITS = {"": 1, "m": 1e-3, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def pod_template(document):
    """The pod template in a workload."""
    spec = document["spec"]
    return (spec["jobTemplate"]["spec"] if document["kind"] == "CronJob" else spec)["template"]


def everyone(document):
    """All containers of a workload, in the order in which they start."""
    pod = pod_template(document)["spec"]
    return (pod.get("initContainers") or []) + pod["containers"]


def quantity(text):
    """A quantity in whole units."""
    number, unit = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(text)).groups()
    return float(number) * UNITS[unit]


def repeated(items):
    """The items that occur more than once."""
    items = [str(item) for item in items]
    return sorted({item for item in items if items.count(item) > 1})


def role(container):
    """The command of a tollgate container: run, await or install; None for the application's containers."""
    word = (container.get("args") or [""])[0]
    ours = container.get("securityContext", {}).get("runAsUser") == 65532
    return word if ours and word in ("run", "await", "install") else None


def set_violations(documents):
    """The faults of a set of documents."""
    wrong = []
    for name in repeated((document["kind"], document["metadata"]["name"]) for document in documents):
        wrong.append(f"two documents: {name}")
    accounts = {document["metadata"]["name"] for document in documents if document["kind"] == "ServiceAccount"}
    claims = []
    for document in documents:
        if document["kind"] in WORKLOADS:
            wrong += [f"{document['kind']}: {problem}" for problem in workload_violations(document)]
            pod = pod_template(document)["spec"]
            claims += [v["persistentVolumeClaim"]["claimName"] for v in pod.get("volumes") or [] if "persistentVolumeClaim" in v]
            if accounts and pod.get("serviceAccountName") not in accounts:
                wrong.append("the account that the chart makes is not that of the pods")
    wrong += [f"the claim {name} has two users" for name in repeated(claims)]
    return wrong


def workload_violations(document):
    """The faults of one workload."""
    kind, spec, pod = document["kind"], document["spec"], pod_template(document)["spec"]
    job = spec["jobTemplate"]["spec"] if kind == "CronJob" else spec
    inits, mains = pod.get("initContainers") or [], pod["containers"]
    containers = inits + mains
    sidecars = [container for container in containers if role(container) == "run"]
    locks = [container for container in containers if role(container) == "await"]
    wrong = []

    def must(holds, text):
        if not holds:
            wrong.append(text)

    must(sidecars, "no sidecar gates it")
    must(not repeated(c["name"] for c in containers), "two containers of one name")
    for container in containers:
        must(not (role(container) and "startupProbe" in container), "a startup probe is no lock")
    # The native form: directly after each sidecar that is an init container its own lock; no other locks.
    native = [place for place, container in enumerate(inits) if role(container) == "run"]
    must(len(locks) == len(native), "a sidecar without its lock, or a lock without its sidecar")
    failing = {rule["onExitCodes"]["containerName"]: rule for rule in (job.get("podFailurePolicy") or {}).get("rules", []) if "onExitCodes" in rule}
    for place in native:
        sidecar, lock = inits[place], inits[place + 1] if place + 1 < len(inits) else {}
        must(sidecar.get("restartPolicy") == "Always", "a sidecar without restartPolicy Always")
        words = lock.get("args", [])
        must(role(lock) == "await" and lock["name"] == f"{sidecar['name']}-await", f"{sidecar['name']} is not followed by its lock")
        must("restartPolicy" not in lock and "livenessProbe" not in lock, "the lock must be a plain init container")
        port = sidecar["ports"][0]["containerPort"]
        asked = words[words.index("--probe-addr") + 1] if "--probe-addr" in words else "127.0.0.1:19180"
        must(asked == f"127.0.0.1:{port}", "the lock asks another port")
        must(any(entry["name"] == "TOLLGATE_POD_UID" for entry in lock.get("env", [])), "the lock accepts any pod's sidecar")
        fails = lock.get("name") in failing
        must(("--refused-after" in words) == (kind in RESTARTED or fails), "--refused-after where it would end the pod, or missing where it would show the reason")
        must(lock.get("resources") == sidecar.get("resources"), "the lock must have the sidecar's resources")
    for name, rule in failing.items():
        must(name in {c["name"] for c in containers}, "podFailurePolicy names no container")
        must(pod.get("restartPolicy") == "Never", "podFailurePolicy needs restartPolicy Never")
        must(sorted(rule["onExitCodes"]["values"]) == [76, 77, 78] and rule["action"] == "FailJob", "other exit codes than those of a refusal")
    beside = [container for container in mains if role(container) == "run"]
    # A sidecar beside the application is a gate by readiness, or by the command of a main
    # container.
    for sidecar in beside:
        port = sidecar["ports"][0]["containerPort"]
        asked = any(f"127.0.0.1:{port}" in (container.get("command") or []) for container in mains)
        must("readinessProbe" in sidecar or asked, f"{sidecar['name']} gates nothing")
    if beside and kind in ("Job", "CronJob"):
        for sidecar in beside:
            must(values_of(sidecar).get("TOLLGATE_QUIT") in ("true", "on"), "a Job that never ends")

    # Volumes.
    templates = [template["metadata"]["name"] for template in spec.get("volumeClaimTemplates") or []]
    volumes = [volume["name"] for volume in pod.get("volumes") or []] + templates
    must(not repeated(volumes), "two volumes of one name")
    must(not templates or kind == "StatefulSet", "volumeClaimTemplates outside a StatefulSet")
    for container in containers:
        mounts = container.get("volumeMounts") or []
        must(not repeated(mount["mountPath"] for mount in mounts), "two volumes at one path")
        must({mount["name"] for mount in mounts} <= set(volumes), "a mount without its volume")
    # A claim has one pod at a time; saas has one writer.
    claim = any("persistentVolumeClaim" in volume for volume in pod.get("volumes") or [])
    if claim or "saas" in [values_of(sidecar).get("TOLLGATE_MODE") for sidecar in sidecars]:
        must(kind != "DaemonSet", "many pods for one ledger")
        must((spec.get("replicas") or 1) <= 1 and (job.get("parallelism") or 1) <= 1, "several pods for one ledger")
        must(kind != "Deployment" or spec.get("strategy") == {"type": "Recreate"}, "a rolling update of one ledger's writer")
        must(kind != "CronJob" or spec.get("concurrencyPolicy") in ("Forbid", "Replace"), "runs that overlap")
    kept = {mount["name"] for sidecar in sidecars for mount in sidecar.get("volumeMounts") or [] if mount["mountPath"] == "/var/lib/tollgate"}
    if claim or kept & set(templates):
        must("fsGroup" in (pod.get("securityContext") or {}), "a volume that only root may write")

    # A product with contract pricing: its checkout is on disk, and its license where the sidecar looks for it.
    for sidecar in sidecars:
        values, mounts = values_of(sidecar), {mount["mountPath"] for mount in sidecar.get("volumeMounts") or []}
        contract = values.get("TOLLGATE_MODE") == "contract"
        must(not contract or "/var/lib/tollgate" in mounts, "seats that a restart would lose")
        must(not (contract and "TOLLGATE_PRODUCT_CODE" in values), "a product code in mode contract")
        token = values.get("AWS_WEB_IDENTITY_REFRESH_TOKEN_FILE")
        must(not token or token.rpartition("/")[0] in mounts, "a license token that is not mounted")
        if kind == "Deployment" and values.get("TOLLGATE_LICENSE_MODEL") == "floating":
            strategy = spec.get("strategy") or {}
            first = strategy.get("type") == "Recreate" or (strategy.get("rollingUpdate") or {}).get("maxSurge") == 0
            must(first, "a new pod that waits for the seat of the old one")

    # Ports, environment, resources.
    ports = [port["containerPort"] for container in containers for port in container.get("ports") or [] if not port.get("hostPort")]
    ours = [sidecar["ports"][0]["containerPort"] for sidecar in sidecars]
    must(all(ports.count(port) == 1 for port in ours), "a port of tollgate that another container has, too")
    must(all(0 < port < 65536 for port in ours), "an invalid port")
    if pod.get("hostNetwork"):
        declared = [port["containerPort"] for container in mains for port in container.get("ports") or []]
        needed = [sidecar["ports"][0]["containerPort"] for sidecar in sidecars]
        addresses = [values_of(sidecar).get("TOLLGATE_APP_ADDR", ":19181") for sidecar in sidecars]
        needed += [int(address.rpartition(":")[2]) for address in addresses if not address.startswith("unix:")]
        must(all(declared.count(port) == 1 for port in needed), "hostNetwork: each port of tollgate must be declared once")
    for container in sidecars + locks:
        must(not repeated(entry["name"] for entry in container["env"]), "a variable that is set twice")
        must(not any(entry["name"].startswith("AWS_ENDPOINT_URL") for entry in container["env"]), "an endpoint that the sidecar refuses")
        resources = container.get("resources") or {}
        for name, limit in (resources.get("limits") or {}).items():
            must(quantity((resources.get("requests") or {}).get(name, 0)) <= quantity(limit), "requests above limits")
            must(name != "memory" or quantity(limit) >= 2**24, "less memory than it needs")
    for sidecar in sidecars:
        values = values_of(sidecar)
        door = values.get("TOLLGATE_AWS_DOOR") in ("true", "on")
        must(not (door and values.get("TOLLGATE_APP_TOKEN_FILE")), "the AWS door with a token")
        address = values.get("TOLLGATE_APP_ADDR", "")
        if address.startswith("unix:"):
            must(not door, "the AWS door on a Unix socket")
            folder = address.removeprefix("unix:").rpartition("/")[0]
            places = [mount for mount in sidecar.get("volumeMounts") or [] if mount["mountPath"] == folder]
            must(len(places) == 1 and not places[0].get("readOnly"), "a socket in a folder that the sidecar cannot write to")
            for container in mains:
                if role(container) is None and places:
                    shared = {"name": places[0]["name"], "mountPath": folder, "readOnly": True}
                    must(shared in (container.get("volumeMounts") or []), f"{container['name']} cannot reach the socket")
                    known = values_of(container).get("TOLLGATE_APP_ADDR")
                    must(known or len(sidecars) > 1, f"{container['name']} is not told the socket's address")
    graces = [values_of(sidecar).get("TOLLGATE_SHUTDOWN_GRACE", "25s") for sidecar in sidecars]
    stops = [seconds(grace) for grace in graces]
    must(min(stops, default=5) >= 5, "no time to send the last usage")
    one_by_one = sum(stop for stop, sidecar in zip(stops, sidecars) if sidecar in inits)
    must(pod["terminationGracePeriodSeconds"] > one_by_one, "killed before the last sidecar has stopped")
    return wrong


def values_of(container):
    """A container's plain environment."""
    return {entry["name"]: entry.get("value") for entry in container.get("env") or []}


def seconds(text):
    """The seconds of a duration in the chart."""
    minutes, rest = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", text).groups()
    return int(minutes or 0) * 60 + int(rest or 0)
