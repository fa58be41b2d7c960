"""Random values for the example chart, and random workloads for the library chart: the same ones for the same seed.

Most are valid, some are not: rendered, they must give a set that runs, or a sentence that says what to do. The suite in
tests/kubernetes sends them to a real API server, too.
"""

import random

KINDS = ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"]
# How often a choice is a wrong one.
ODD = 0.07


def pick(draw, usual, odd):
    """One of the usual values, sometimes one of the odd values."""
    return draw.choice(odd if draw.random() < ODD else usual)


# Each setting's usual and odd values.
SETTINGS = {
    "dimensions": (["requests", "requests,gigabytes", ["requests", "gigabytes"]], ["", [" "]]),
    "quit": ([True, "on"], [False]),
    "grace_period": (["0s", "10m", "1h30m"], ["1d"]),
    "drain_quiet": (["0s", "3s"], ["40s", "3m"]),
    "ledger_bytes_max": (["16MiB", "1GiB"], ["4GiB"]),
    "log_filter": (["debug"], ["warn"]),
    "aws_door": ([True, False], ["on"]),
    "app_token_file": (["/var/lib/tollgate/token"], ["/token"]),
    "endpoint_url": (["http://emulator:19100", "http://emulator"], ["https://emulator:99999"]),
    "on_lapse": (["keep", "close-after:3h"], ["keep"]),
    "public_key_version": ([1, "2"], [3]),
}
# The settings of mode contract.
LICENSE = {
    "entitlements": (["users:Count:10", ["users:Count", "premium:None"], ["premium"]], [[" "]]),
    "seats_per_pod": ([1, "2"], [3]),
    "renew_every": (["15m", "1h30m"], ["30s", "13h"]),
    "license_end_grace": (["72h", "0s"], ["367d"]),
    "license_region": (["eu-central-1"], ["us-east-1"]),
    "license_token_file": (["/var/lib/tollgate/license"], ["/license"]),
}
RESOURCES = [
    {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"cpu": "50m", "memory": "32Mi"}},
    {"limits": {"memory": "64Mi"}},
    {"limits": {"memory": None}},
    {"requests": {"ephemeral-storage": "1Gi"}},
]
TIGHT = [
    {"requests": {"memory": "64Mi"}},
    {"requests": {"cpu": 1}, "limits": {"cpu": "500m"}},
    {"limits": {"memory": "4Mi"}},
    {"limits": {"cpu": "1m"}},
]
VOLUME = {"name": "more", "configMap": {"name": "more"}}
MOUNT = {"name": "more", "mountPath": "/more"}


def state(draw, mode):
    """The values of `state`."""
    lasting = ["persistentVolumeClaim", "volumeClaimTemplate"]
    kept = {"type": pick(draw, ["emptyDir", "emptyDir", *lasting, *(["", "none"] if mode == "hourly" else [""] if mode == "contract" else [])], ["", "none"])}
    if kept["type"] == "persistentVolumeClaim":
        kept["claimName"] = pick(draw, ["usage", "other"], [""])
    if draw.random() < 0.2:
        kept["storageClassName"] = "gp3"
    if draw.random() < 0.2:
        kept["sizeLimit"] = pick(draw, ["5Gi", "8G"], ["8Mi"])
    return kept


def settings(draw, mode):
    """Some settings, mostly those that a mode needs."""
    known = {**SETTINGS, **LICENSE} if mode == "contract" else SETTINGS
    chosen = {name: pick(draw, usual, odd) for name, (usual, odd) in known.items() if draw.random() < 0.12}
    if mode in ("metered", "saas") and draw.random() > ODD:
        chosen["dimensions"] = pick(draw, *SETTINGS["dimensions"])
    return chosen


def product(draw):
    """Values that both the common values and one of several products may have."""
    mode = draw.choice(["hourly", "hourly", "metered", "metered", "contract", "contract", "saas"])
    gate = draw.choice(["native", "native", "native", "readiness", "exec"])
    positions = ["last", "first"] if gate == "native" else ["last"]
    chosen = {"gate": gate, "mode": mode, "settings": settings(draw, mode)}
    if mode in ("metered", "saas") or draw.random() < 0.3:
        chosen["state"] = state(draw, mode)
    choices = {
        "position": (0.3, positions, ["first"]),
        "refused": (0.1, ["wait"], ["fail"]),
        "container": (0.1, ["app", ""], ["absent"]),
        "command": (0.2, [["/serve", "--fast"]], [[]]),
        "productCode": (0.4, ["demo", "demo-1/x"], [""]),
        "region": (0.2, ["eu-central-1"], [""]),
        "ports": (0.12, [{"probe": 20000, "app": 20001}, {"app": 30000}], [{"probe": 19181}, {"probe": 65530, "app": 65531}]),
        "appSocket": (0.25, [True], [False]),
        "shutdownGrace": (0.15, ["25s", "2m", "1m30s"], ["2s"]),
        "resources": (0.25, RESOURCES, TIGHT),
        "image": (0.2, [{"digest": "sha256:" + "a" * 64}, {"pullPolicy": "Always"}, {"registry": ""}], [{"tag": ""}]),
        "extraEnv": (0.15, [
            [{"name": "AWS_USE_FIPS_ENDPOINT", "value": "true"}],
            [{"name": "AWS_DEFAULT_REGION", "valueFrom": {"configMapKeyRef": {"name": "where", "key": "region"}}}],
        ], [[{"name": "TOLLGATE_POD_UID", "value": "mine"}], [{"name": "AWS_ENDPOINT_URL", "value": "http://other"}]]),
        "caConfigMap": (0.1, ["corporate-ca"], [""]),
        "proxy": (0.2, [{"https": "http://proxy:3128"}, {"http": "proxy", "noProxy": "10.0.0.0/8"}], [{"https": "http://proxy:99999"}]),
    }
    chosen.update({name: pick(draw, usual, odd) for name, (chance, usual, odd) in choices.items() if draw.random() < chance})
    if draw.random() < (1 - ODD if mode == "contract" else ODD / 4):
        license_of(draw, chosen)
    if chosen.get("productCode") and mode == "hourly" and draw.random() > ODD:
        chosen["settings"]["public_keys"] = "/keys"
    if draw.random() < 0.15:
        chosen["extraVolumes"] = pick(draw, [[VOLUME]], [[VOLUME, VOLUME], [{"name": "tollgate-state", "emptyDir": {}}]])
        chosen["extraVolumeMounts"] = pick(draw, [[MOUNT]], [[{**MOUNT, "name": "absent"}], [{**MOUNT, "mountPath": "/var/lib/tollgate"}]])
    return chosen


def license_of(draw, chosen):
    """The product ID of a product with contract pricing, in place of its code, and its license model."""
    if chosen.pop("productCode", None):
        chosen["productId"] = pick(draw, ["prod-demo", "2205b290-19e6-4c76-9eea-377d6bf7141a"], ["demo", ""])
    if draw.random() < 0.5:
        chosen["licenseModel"] = draw.choice(["check", "floating"])
    if draw.random() < 0.2:
        chosen["licenseSecret"] = pick(draw, ["product-license"], [""])
        if draw.random() > ODD:
            chosen["settings"].pop("license_token_file", None)


def products(draw):
    """Several products, whose names may collide."""
    several = [product(draw) for _ in range(draw.choice([1, 2, 2, 3]))]
    for one in several:
        for of_all in ("refused", "extraVolumes", "ports"):
            one.pop(of_all, None)
        if draw.random() > ODD:
            one["image"] = {"repository": f"gate-{len(one)}-{draw.randrange(10**6)}"}
            one.pop("productCode", None)
            one.pop("productId", None)
        if draw.random() < 0.3:
            one["name"] = draw.choice(["one", "two", "three", "app", "one-await"])
    return several


def tollgate(draw):
    """The values of the library chart."""
    role = "arn:aws:iam::111122223333:role/app"
    choices = {
        "serviceAccount": (0.4, [
            {"create": False}, {"create": False, "name": "own"}, {"name": "named"}, {"roleArn": role}, {"onlyTollgate": True},
            {"automountToken": True}, {"name": "named", "create": False},
        ], [{"name": "default"}, {"create": False, "roleArn": role}]),
        "probes": (0.15, [{"sidecarReadiness": True}, {"sidecarReadiness": False}], [{"startupPeriodSeconds": 2}]),
        "terminationGraceExtraSeconds": (0.1, [1, 60], [604800]),
        "applicationStopSeconds": (0.1, [1, 600], [604800]),
        "mesh": (0.3, ["istio", "linkerd"], [""]),
        "networkPolicy": (0.2, [{"enabled": True}, {"enabled": True, "egress": [{"ports": [{"port": 5432, "protocol": "TCP"}]}]}], [{"enabled": False}]),
        "podMonitor": (0.1, [{"enabled": True}, {"enabled": True, "labels": {"release": "prometheus"}}], [{"labels": {}}]),
        "prometheusRule": (0.05, [{"enabled": True}], [{"enabled": False}]),
    }
    chosen = product(draw)
    chosen.update({name: pick(draw, usual, odd) for name, (chance, usual, odd) in choices.items() if draw.random() < chance})
    if draw.random() < 0.2:
        chosen["products"] = products(draw)
    return chosen


def paths(values, above=()):
    """All places in a tree of maps."""
    for name, below in values.items():
        yield (*above, name)
        if isinstance(below, dict):
            yield from paths(below, (*above, name))


# Every place of the library's values.yaml, so that null is also tried for values that were not
# chosen.
PLACES = [
    ("image",), ("image", "registry"), ("image", "repository"), ("image", "tag"), ("image", "digest"), ("image", "pullPolicy"), ("gate",),
    ("position",), ("refused",), ("container",), ("command",), ("mode",), ("productCode",), ("productId",), ("licenseModel",), ("region",), ("settings",), ("products",),
    ("serviceAccount",), ("serviceAccount", "create"), ("serviceAccount", "name"), ("state",), ("state", "type"), ("state", "sizeLimit"),
    ("ports",), ("ports", "probe"), ("ports", "app"), ("appSocket",), ("probes",), ("probes", "sidecarReadiness"), ("resources",), ("resources", "requests"),
    ("resources", "limits"), ("resources", "limits", "memory"), ("shutdownGrace",), ("terminationGraceExtraSeconds",),
    ("applicationStopSeconds",), ("extraEnv",), ("extraVolumes",), ("extraVolumeMounts",), ("caConfigMap",), ("licenseSecret",), ("proxy",), ("proxy", "https"),
    ("mesh",), ("networkPolicy",), ("networkPolicy", "enabled"), ("networkPolicy", "egress"), ("podMonitor",), ("prometheusRule",),
]


def erase(values, place):
    """Sets a place to null."""
    *above, name = place
    for step in above:
        below = values.get(step)
        if not isinstance(below, dict):
            below = values[step] = {}
        values = below
    values[name] = None


def suited(draw, kind, values):
    """Makes values fit a kind of workload in most cases, because random values seldom do."""
    for one in [values, *(values.get("products") or [])]:
        kept = one.get("state") or {}
        if kept.get("type") == "volumeClaimTemplate" and kind != "StatefulSet" and draw.random() > ODD:
            kept["type"] = "emptyDir"
        if kept.get("type") == "persistentVolumeClaim" and kind == "DaemonSet" and draw.random() > ODD:
            kept["type"] = "emptyDir"
        if one.get("mode") == "saas" and kind in ("DaemonSet", "CronJob") and draw.random() > ODD:
            one["mode"] = "metered"
        if kind in ("Job", "CronJob"):
            if one.get("gate", "native") != "native" and draw.random() > ODD:
                one.setdefault("settings", {})["quit"] = True
            elif draw.random() < 0.3:
                one["refused"] = "fail"


def combinations(seed, count):
    """Values for helm/example."""
    draw = random.Random(seed)
    for _ in range(count):
        kind = draw.choice(KINDS)
        values = {"kind": kind, "tollgate": tollgate(draw)}
        suited(draw, kind, values["tollgate"])
        if draw.random() < 0.3:
            values["replicas"] = draw.choice([0, 1, 2, 5])
        for _ in range(draw.choice([0, 0, 0, 1, 2])):
            erase(values["tollgate"], draw.choice(PLACES + list(paths(values["tollgate"]))))
        if draw.random() < 0.02:
            erase(values, draw.choice([("tollgate",), ("image",), ("replicas",), ("command",)]))
        yield values


def container(draw, name, before=False):
    """A vendor's container; one that runs before the others has no probe."""
    made = {"name": name, "image": f"{name}:1"}
    if draw.random() < 0.5:
        made["command"] = [f"/{name}"]
    if not before and draw.random() < 0.3:
        made["readinessProbe"] = {"httpGet": {"path": "/ready", "port": 8080}}
    if draw.random() < 0.3:
        made["ports"] = [{"containerPort": pick(draw, [8080], [19180])}]
    if draw.random() < 0.2:
        made["volumeMounts"] = [{"name": "own", "mountPath": pick(draw, ["/own"], ["/opt/tollgate", "/run/tollgate"])}]
    if draw.random() < 0.2:
        made["env"] = None
    return made


def workloads(seed, count):
    """Workloads as vendors write them, null included, each with options of the include and values: (manifest, options, values)."""
    draw = random.Random(seed)
    for _ in range(count):
        kind = draw.choice(KINDS)
        pod = {"containers": [container(draw, name) for name in draw.choice([["app"], ["app", "helper"]])]}
        if draw.random() < 0.4:
            pod["initContainers"] = draw.choice([None, [], *([container(draw, name, True) for name in names] for names in (["migrate"], ["migrate", "warm"]))])
        pod["volumes"] = [{"name": "own", "emptyDir": {}}]
        for name, chance, of in (
            ("hostNetwork", 0.15, [True]), ("serviceAccountName", 0.2, ["theirs"]), ("securityContext", 0.3, [None, {}, {"fsGroup": 7}]),
            ("terminationGracePeriodSeconds", 0.3, [None, 5, 300]), ("automountServiceAccountToken", 0.2, [True, False, None]),
        ):
            if draw.random() < chance:
                pod[name] = draw.choice(of)
        template = {"metadata": {"labels": {"a": "b"}}, "spec": pod}
        if draw.random() < 0.3:
            template["metadata"]["annotations"] = draw.choice([None, {}, {"traffic.sidecar.istio.io/excludeOutboundPorts": "5432"}])
        spec = {"template": template}
        if kind in ("Job", "CronJob"):
            pod["restartPolicy"] = draw.choice(["Never", "Never", "OnFailure"])
            if draw.random() < 0.2:
                spec["parallelism"] = draw.choice([1, 3])
            if draw.random() < 0.2 and pod["restartPolicy"] == "Never":
                rule = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
                spec["podFailurePolicy"] = {"rules": [rule]}
        else:
            spec["selector"] = {"matchLabels": {"a": "b"}}
        if kind == "CronJob":
            spec = {"schedule": "0 3 * * *", "jobTemplate": {"spec": spec}}
            if draw.random() < 0.5:
                spec["concurrencyPolicy"] = draw.choice(["Allow", "Forbid", "Replace"])
        if kind == "StatefulSet":
            spec["serviceName"] = "data"
            if draw.random() < 0.3:
                claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
                spec["volumeClaimTemplates"] = [{"metadata": {"name": draw.choice(["data", "tollgate-state"])}, "spec": claim}]
        if kind in ("Deployment", "StatefulSet") and draw.random() < 0.4:
            spec["replicas"] = draw.choice([None, 1, 3])
        if kind == "Deployment" and draw.random() < 0.3:
            spec["strategy"] = draw.choice([None, {"type": "Recreate"}, {"type": "RollingUpdate"}])
        manifest = {
            "apiVersion": "batch/v1" if kind in ("Job", "CronJob") else "apps/v1", "kind": kind,
            "metadata": {"name": "theirs"}, "spec": spec,
        }
        options = {}
        for name, chance, of in (
            ("gate", 0.4, ["native", "readiness", "exec"]), ("position", 0.1, ["first", "last"]), ("refused", 0.1, ["fail"]),
            ("mode", 0.2, ["hourly", "metered", "contract"]), ("licenseModel", 0.1, ["floating"]), ("container", 0.15, ["helper", "app"]), ("command", 0.3, [["/other"], None]),
        ):
            if draw.random() < chance:
                options[name] = draw.choice(of)
        if draw.random() < ODD:
            options.update(draw.choice([{"gat": "native"}, {"gate": "exce"}, {"command": "/other"}, {"state": "none"}]))
        values = tollgate(draw)
        values.pop("products", None)
        suited(draw, kind, values)
        yield manifest, options, values
