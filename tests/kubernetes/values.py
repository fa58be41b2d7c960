"""Random values of the example chart: the API server accepts what Helm renders, the pod too; a refusal of Helm has a sentence."""

import concurrent.futures
import json
import pathlib
import sys

from scenarios import scenario

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "packaging"))
from chart_values import combinations  # noqa: E402

COUNT = 300
SEED = 20261126
# Kinds of an operator that this cluster does not have; the packaging tests check them by their
# schemas.
FOREIGN = "monitoring.coreos.com"
BATCH = 50


def rendered(stand, space, number, values):
    """The documents of one combination as YAML, or None if the chart refuses it."""
    file = stand.folder / f"values-{number}.json"
    file.write_text(json.dumps(values))
    # Helm treats `null` in a file of values as absent, as in a user's file.
    version = list(stand.helms)[number % len(stand.helms)]
    done = space.helm(
        version, "template", f"release-{number}", stand.folder / "example", "--namespace", space.name, "--values", file,
        "--kube-version", stand.version, check=False,
    )
    if done.returncode == 0:
        # AWS Marketplace writes the buyer's account there.
        return done.stdout.replace("${AWSMP_SERVICE_ACCOUNT}", "buyers-account")
    assert "tollgate: " in done.stderr or "values don't meet the specifications of the schema" in done.stderr, (values, done.stderr)
    return None


def with_pods(space, text):
    """The objects of a rendering, with a pod for each workload's template, because PodSecurity checks pods."""
    objects = space.parse(text)
    for one in list(objects):
        spec = one.get("spec", {})
        template = spec.get("template") or spec.get("jobTemplate", {}).get("spec", {}).get("template")
        if template:
            metadata = {**template.get("metadata", {}), "name": one["metadata"]["name"], "namespace": space.name}
            # In a dry run the account of the same rendering does not exist.
            pod = {name: value for name, value in template["spec"].items() if name != "serviceAccountName"}
            # The controller adds the names of a StatefulSet's claims.
            claims = [claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])]
            pod["volumes"] = (pod.get("volumes") or []) + [{"name": name, "emptyDir": {}} for name in claims]
            policy = {} if one["kind"] in ("Job", "CronJob") else {"restartPolicy": "Always"}
            objects.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**policy, **pod}})
    return objects


@scenario()
def whatever_renders_is_taken(stand):
    """Random combinations of values: each is refused with a sentence, or rendered into objects and pods that the API server accepts."""
    with stand.namespace("values") as space:
        drawn = list(enumerate(combinations(SEED, COUNT)))
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            texts = [text for text in pool.map(lambda one: rendered(stand, space, *one), drawn) if text]
        assert len(texts) > COUNT // 4, f"only {len(texts)} of {COUNT} render: the values are too odd to say anything"
        taken = 0
        for start in range(0, len(texts), BATCH):
            text = "\n---\n".join(part for whole in texts[start:start + BATCH] for part in whole.split("\n---\n") if FOREIGN not in part)
            objects = with_pods(space, text)
            taken += len(objects)
            documents = "\n---\n".join(map(json.dumps, objects))
            done = space.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", text=documents, check=False)
            assert done.returncode == 0, done.stderr[:4000]
        return f"{len(texts)} of {COUNT} render, {taken} objects taken"
