"""tollgate on a real Kubernetes: charts and manifests with a kubelet, an API server and Helm, against the emulator.

Usage: suite.py CLUSTER TOLLGATE HELM3 HELM4 [NAME…]   (programs; `just kubernetes` builds them; NAMEs of scenarios, all by default)

Needs root, containerd, runc, CNI plugins, iproute2, iptables, buildah, busybox, openssl and gcc. Fails, never skips, when one is missing.
"""

import concurrent.futures
import json
import pathlib
import shutil
import sys
import time
import traceback

import cluster as clusters
# These imports add their scenarios to the list.
import identity  # noqa: F401
import images
import lock  # noqa: F401
import node_hours  # noqa: F401
import rehearsals  # noqa: F401
import saas  # noqa: F401
import seats  # noqa: F401
import upgrade  # noqa: F401
import usage  # noqa: F401
import values  # noqa: F401
import workloads  # noqa: F401
from aws import Emulator, Webhook
from names import Names
from scenarios import SCENARIOS
from stand import Api, Stand

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "target/kubernetes"


def main():
    cgroup = clusters.enclosed(FOLDER)
    program, tollgate, helm3, helm4 = (pathlib.Path(path).resolve() for path in sys.argv[1:5])
    chosen = [one for one in SCENARIOS if not sys.argv[5:] or one.__name__ in sys.argv[5:]]
    if unknown := set(sys.argv[5:]) - {one.__name__ for one in chosen}:
        sys.exit(f"kubernetes: no scenario {' '.join(unknown)}; there are: {' '.join(one.__name__ for one in SCENARIOS)}")
    began = time.monotonic()
    cluster = clusters.Cluster(program, FOLDER, cgroup)
    cluster.isolate()
    # An emulator makes the product's keys when it starts; the image needs them.
    keys = cluster.folder / "keys"
    with Emulator(tollgate, keys):
        pass
    with concurrent.futures.ThreadPoolExecutor() as pool:
        archives = pool.submit(images.build, ROOT, cluster.folder / "images", keys)
        cluster.start()
        for archive in archives.result():
            cluster.ctr("images", "import", archive)
    cluster.get = Api(cluster).get
    webhook = Webhook(cluster)
    Names(cluster)
    cluster.kubectl("apply", "-f", "-", text=json.dumps(webhook.configuration()))
    for name, charts in (("example", ROOT / "helm"), ("example-0.1.0", images.FIRST_RELEASE / "source/helm")):
        shutil.copytree(charts / "example", cluster.folder / name)
        shutil.copytree(charts / "tollgate", cluster.folder / name / "charts/tollgate")
    stand = Stand(cluster, webhook, tollgate, keys, {"3.22.0": helm3, "4.3.1": helm4}, cluster.folder)
    say(f"node ready in {time.monotonic() - began:.0f} s")
    failed = scenarios(stand, chosen)
    if failed:
        sys.exit(f"kubernetes: {len(failed)} of {len(chosen)} scenarios failed: {' '.join(failed)}")
    say(f"{len(chosen)} scenarios passed")


def scenarios(stand, chosen):
    """Runs the scenarios, several at once; returns the names of those that failed."""
    failed = []

    def one(scenario):
        with stand.node.room(scenario.pods):
            began = time.monotonic()
            try:
                measured = scenario(stand)
                say(f"ok   {scenario.__name__} ({time.monotonic() - began:.0f} s): {measured or scenario.__doc__.splitlines()[0]}")
            except BaseException:
                failed.append(scenario.__name__)
                promise = scenario.__doc__.splitlines()[0]
                say(f"FAIL {scenario.__name__} ({time.monotonic() - began:.0f} s): {promise}\n{traceback.format_exc()}")

    for scenario in (one for one in chosen if one.alone):
        stand.node.enter()
        one(scenario)
    together = [scenario for scenario in chosen if not scenario.alone]
    with concurrent.futures.ThreadPoolExecutor(max_workers=len(together) or 1) as pool:
        for scenario in together:
            stand.node.enter()
            pool.submit(one, scenario)
        stand.node.serve()
    return failed


def say(text):
    print(f"kubernetes: {text}", flush=True)


if __name__ == "__main__":
    main()
