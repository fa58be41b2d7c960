"""docs/REHEARSAL.md: its commands with the example chart, and the script of its recipes for CI with a chart of a seller's own."""

import os
import pathlib
import re
import shutil
import subprocess

from cluster import wait
from scenarios import scenario
from stand import entitlement, name_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The scripts limit each of their own waits, but not those of kubectl and curl.
PATIENCE = 1200
HOURLY = 'mode = "hourly"\nproduct_code = "your-product-code"\npublic_keys = "keys"\n'
METERED = """mode = "metered"
product_code = "your-product-code"
dimensions = ["requests"]
# AWS's dry run does not show whether the buyer is subscribed.
entitlement_dimension = "access"
on_unsent = "keep"
"""

CONTRACT = 'mode = "contract"\nproduct_id = "prod-your-product"\nentitlements = ["users:Count:10"]\n'
# What a buyer would set in a chart that `helm create` made.
CREATED = """
image: { repository: registry.example/your-app, tag: 1.0.0 }
livenessProbe: null
readinessProbe: null
resources: { requests: { cpu: 100m, memory: 64Mi }, limits: { memory: 128Mi } }
podSecurityContext: { runAsNonRoot: true, seccompProfile: { type: RuntimeDefault } }
securityContext: { runAsUser: 10001, allowPrivilegeEscalation: false, capabilities: { drop: [ALL] } }
tollgate:
"""
OF_HOURLY = "  mode: hourly\n"
OF_METERED = "  mode: metered\n  state: { type: emptyDir }\n"
LABEL = {"app.kubernetes.io/instance": "shop"}


class Repository:
    """A seller's repository, with kubectl and helm on the path; no file in it is special to this cluster."""

    def __init__(self, stand, space):
        self.space, self.folder = space, stand.folder / f"{space.name}-repository"
        (self.folder / "bin").mkdir(parents=True)
        self.tool("kubectl", f"{stand.cluster.program} kubectl --kubeconfig={stand.cluster.kubeconfig}")
        self.tool("helm", f"{stand.helms['4.3.1']} --kubeconfig {stand.cluster.kubeconfig}")

    def tool(self, name, command):
        path = self.folder / "bin" / name
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        path.chmod(0o755)

    def write(self, path, text):
        path = self.folder / path
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def create_chart(self, library):
        """A chart of the seller's own, as `helm create` makes it, with the library chart as its README says."""
        self.run("helm", "create", "shop")
        chart = self.folder / "shop"
        with (chart / "Chart.yaml").open("a") as described:
            described.write(f"\ndependencies: [{{ name: tollgate, version: '*', repository: 'file://{library}' }}]\n")
        template = chart / "templates/deployment.yaml"
        gated = '{{- include "tollgate.workload" (list . "shop.deployment") }}'
        template.write_text(f'{{{{- define "shop.deployment" -}}}}\n{template.read_text()}\n{{{{- end -}}}}\n{gated}\n')

    def run(self, *command, fails=False, **variables):
        environment = {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "HOME": str(self.folder), "KUBECACHEDIR": str(self.folder / "cache"),
            "NAMESPACE": self.space.name, **variables,
        }
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, env=environment, timeout=PATIENCE)
        if (done.returncode != 0) != fails:
            raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stderr if fails else done.stdout


def commands(*sections):
    """The commands of sections of the page, line by line."""
    page = (ROOT / "docs/REHEARSAL.md").read_text()
    for section in sections:
        for block in re.findall(r"```sh\n(.*?)```", page.split(f"\n## {section}\n")[1].split("\n## ")[0], re.S):
            yield from block.splitlines()


@scenario(pods=3)
def a_seller_rehearses_in_a_cluster(stand):
    """The page's commands with a chart of `helm create`: not entitled, throttled; what is sealed stays sealed; nothing is left."""
    with stand.bare_namespace("shop") as space:
        seller = Repository(stand, space)
        shutil.copytree(ROOT / "deploy/rehearsal", seller.folder / "deploy/rehearsal")
        shutil.copytree(ROOT / "helm/example", seller.folder / "helm/example")
        seller.create_chart(ROOT / "helm/tollgate")
        seller.write("gate/seller.toml", HOURLY)
        seller.write("gate/values.yaml", CREATED + OF_HOURLY)
        # The namespace exists already; port-forward does not end; another scenario runs a day of hours.
        left_out = ("create namespace", "port-forward", "requests 48", " day ", "reconcile")
        page = [line for line in commands("In a cluster", "More") if not any(word in line for word in left_out)]
        clean_up = next(at for at, line in enumerate(page) if line.startswith("helm uninstall"))
        (end,) = [at for at, line in enumerate(page) if "delete namespace" in line]
        told = seller.run("bash", "-euc", "\n".join(page[:clean_up] + page[end + 1 :]))
        for words in ("denied: CustomerNotEntitledException", "refused pods did not start", "3 calls throttled, 0 restarts", '"RegisterUsage"'):
            assert words in told, told
        pod = space.started("shop", **LABEL)
        # The log names the seller's settings that a development build accepts; it refuses all others, as in production.
        log = space.logs(pod, "tollgate")
        for setting in ("endpoint_url", "clock"):
            assert f"TOLLGATE_{setting.upper()}" in log and "seller's file" in log, log
        for flag in ("--grace-period=1h", "--mode=metered"):
            done = space.kubectl("exec", name_of(pod), "-c", "tollgate", "--", "/tollgate", "config", "check", flag, check=False)
            assert done.returncode != 0 and "seller's file" in done.stdout + done.stderr, done
        seller.run("bash", "-euc", "\n".join(page[clean_up:end]))
        wait("the emulator to be gone", lambda: not space.pods(app="tollgate-emulator"))
        assert [one["metadata"]["name"] for one in space.get("configmaps")["items"]] == ["kube-root-ca.crt"], space.get("configmaps")
        return "; ".join(line.removeprefix("rehearse: ") for line in told.splitlines() if "refused pods" in line or "throttled:" in line)


@scenario(pods=3)
def a_seller_rehearses_a_contract_in_a_cluster(stand):
    """Contract pricing: with its license disabled a product does not start, and throttled it waits; then it starts."""
    with stand.bare_namespace("contract-shop") as space:
        seller = Repository(stand, space)
        shutil.copytree(ROOT / "deploy/rehearsal", seller.folder / "rehearsal")
        seller.write("seller.toml", CONTRACT)
        seller.run("rehearsal/rehearse.sh", "prepare", "seller.toml")
        values = ("--set", "tollgate.mode=contract", "--values", str(ROOT / "helm/example/values-rehearsal.yaml"))
        seller.run("helm", "install", "shop", str(stand.folder / "example"), "--namespace", space.name, *values)
        told = seller.run("rehearsal/rehearse.sh", "not-entitled", "app=shop")
        assert "denied: " in told, told
        told += seller.run("rehearsal/rehearse.sh", "throttled", "app=shop")
        assert entitlement(space.started(app="shop"))["gate"] == "open"
        return "; ".join(line.removeprefix("rehearse: ") for line in told.splitlines())


@scenario(pods=3)
def a_sellers_ci_rehearses_its_chart(stand):
    """ci.sh, which the recipes for GitHub and GitLab call, with a chart of `helm create` and a metered product: a bill of 24 hours,
    after a run in which the application reported half of its usage."""
    with stand.bare_namespace("ci") as space:
        seller = Repository(stand, space)
        seller.create_chart(ROOT / "helm/tollgate")
        seller.run("helm", "dependency", "update", "shop")
        shutil.copytree(ROOT / "deploy/rehearsal", seller.folder / "rehearsal")
        shutil.copy(ROOT / "helm/example/values-rehearsal.yaml", seller.folder / "rehearsal")
        seller.write("gate/seller.toml", METERED)
        seller.write("gate/values.yaml", CREATED + OF_METERED)
        half = seller.run("rehearsal/ci.sh", fails=True, HOURS="2", USE="/your-app use 1")
        assert half.endswith("rehearse: bill: 2 hours, 2 requests: not 4\n"), half
        # What the page commits, and how a job runs it. The namespace exists already.
        page = [line for line in commands("In a CI job") if "NAMESPACE" not in line]
        told = seller.run("bash", "-euc", "\n".join(page))
        assert told.endswith("rehearse: bill: 24 hours, 48 requests: as reported\nci: the bill is right\n"), told
        bill = [line.split(",") for line in (seller.folder / "product/bill.csv").read_text().splitlines()[1:]]
        used = [row for row in bill if row[5] == "requests"]
        assert len(used) == len({row[6] for row in used}) == 24 and {row[8] for row in used} == {"2"}, bill
        assert {row[8] for row in bill if row[5] != "requests"} <= {"0"}, bill
        (command,) = [line for line in commands("In a cluster") if "reconcile" in line]
        told = seller.run("bash", "-euc", command)
        assert "requests" in told and "48" in told, told
        # By a dry run AWS refuses nobody, so there is no refusal to wait for.
        seller.write("gate/seller.toml", re.sub("entitlement_dimension.*\n", "", METERED))
        seller.run("rehearsal/rehearse.sh", "prepare", "gate/seller.toml")
        assert "no entitlement_dimension" in seller.run("rehearsal/rehearse.sh", "not-entitled", "app.kubernetes.io/instance=shop", fails=True)
        return f"{len(used)} hours billed"
