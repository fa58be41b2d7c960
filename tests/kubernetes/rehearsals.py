"""docs/REHEARSAL.md: the example chart with its values for a rehearsal, and the scripts that a seller and a seller's CI run, as they stand."""

import os
import pathlib
import shutil
import subprocess

from cluster import wait
from scenarios import scenario
from stand import name_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOURLY = 'mode = "hourly"\nproduct_code = "your-product-code"\npublic_keys = "keys"\n'
METERED = """mode = "metered"
product_code = "your-product-code"
dimensions = ["requests"]
# AWS's dry run does not say who is subscribed.
entitlement_dimension = "access"
on_unsent = "keep"
"""


class Repository:
    """A seller's repository as docs/REHEARSAL.md lays it out, and a machine with kubectl and helm; nothing in it knows of this cluster."""

    def __init__(self, stand, space, settings, values=""):
        self.space = space
        self.folder = stand.folder / f"{space.name}-repository"
        shutil.copytree(ROOT / "deploy/rehearsal", self.folder / "rehearsal")
        shutil.copy(ROOT / "helm/example/values-rehearsal.yaml", self.folder / "rehearsal")
        shutil.copytree(stand.folder / "example", self.folder / "chart")
        for folder in ("gate", "bin"):
            (self.folder / folder).mkdir()
        (self.folder / "gate/seller.toml").write_text(settings)
        (self.folder / "gate/values.yaml").write_text(values)
        world = self.folder / "rehearsal/world.toml"
        if "metered" in settings:
            priced = world.read_text().replace('pricing = "hourly"', 'pricing = "metered"')
            world.write_text(priced.replace('# dimensions = ["requests"]', 'dimensions = ["requests", "access"]'))
        self.tool("kubectl", f"{stand.cluster.program} kubectl --kubeconfig={stand.cluster.kubeconfig}")
        self.tool("helm", f"{stand.helms['4.3.1']} --kubeconfig {stand.cluster.kubeconfig}")

    def tool(self, name, command):
        path = self.folder / "bin" / name
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        path.chmod(0o755)

    def run(self, *command):
        environment = {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "HOME": str(self.folder), "KUBECACHEDIR": str(self.folder / "cache"),
            "NAMESPACE": self.space.name,
        }
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout


@scenario(pods=3)
def a_seller_rehearses_in_a_cluster(stand):
    """helm/example with values-rehearsal.yaml and rehearse.sh: not entitled, throttled; what is sealed stays sealed; `remove` leaves nothing."""
    with stand.bare_namespace("rehearsal") as space:
        seller = Repository(stand, space, HOURLY)
        seller.run("rehearsal/rehearse.sh", "prepare", "gate/seller.toml", "rehearsal/world.toml")
        seller.run("helm", "install", "shop", "chart", "--namespace", space.name, "--values", "rehearsal/values-rehearsal.yaml")
        told = seller.run("rehearsal/rehearse.sh", "not-entitled", "app=shop")
        assert "denied: CustomerNotEntitledException" in told, told
        told += seller.run("rehearsal/rehearse.sh", "throttled", "app=shop")
        pod = space.started(app="shop")
        # What a development build leaves to the operator is told; the seller's other settings are refused, as in production.
        log = space.logs(pod, "tollgate")
        for setting in ("endpoint_url", "clock"):
            assert f"TOLLGATE_{setting.upper()}" in log and "seller's file" in log, log
        for flag in ("--grace-period=1h", "--mode=metered"):
            done = space.kubectl("exec", name_of(pod), "-c", "tollgate", "--", "/tollgate", "config", "check", flag, check=False)
            assert done.returncode != 0 and "seller's file" in done.stdout + done.stderr, done
        seller.run("rehearsal/rehearse.sh", "remove")
        wait("the emulator to be gone", lambda: not space.pods(app="tollgate-emulator"))
        assert [one["metadata"]["name"] for one in space.get("configmaps")["items"]] == ["kube-root-ca.crt"], space.get("configmaps")
        return "; ".join(line.removeprefix("rehearse: ") for line in told.splitlines() if "refused pods" in line or "throttled:" in line)


@scenario(pods=3)
def a_sellers_ci_rehearses_its_chart(stand):
    """ci.sh, which the recipes for GitHub and GitLab call, with a metered product: all three rehearsals, and a bill of 24 hours."""
    with stand.bare_namespace("ci") as space:
        seller = Repository(stand, space, METERED, "tollgate: { mode: metered, state: { type: emptyDir } }\n")
        told = seller.run("rehearsal/ci.sh")
        assert told.splitlines()[-1] == "ci: the bill is right", told
        bill = [line.split(",") for line in (seller.folder / "bill.csv").read_text().splitlines()[1:]]
        used = [row for row in bill if row[5] == "requests"]
        assert len(used) == len({row[6] for row in used}) == 24 and {row[8] for row in used} == {"2"}, bill
        assert {row[8] for row in bill if row[5] != "requests"} <= {"0"}, bill
        return f"{len(used)} hours billed"
