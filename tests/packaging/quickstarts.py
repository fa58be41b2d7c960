"""Runs the commands of docs/quickstart and docs/KEYS.md in a shell, page by page, as far as they can run without AWS, a cluster and a registry.

The paragraph before a block that cannot run here says "Not run here". Every other `sh` block runs, in a folder with the release's `deploy`
and `helm`, and in a network of its own, so that the ports are those of the page.

A page of a platform begins with the folder `gate`, which a page of the pricing makes: `tollgate config init` writes it before the page runs.

Usage: quickstarts.py HELM TOLLGATE AWS [PAGE…]. Needs root and iproute2, for the network, and docker-compose.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

# Processes that a page leaves running end with the page, and no other program uses its ports.
APART = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "--"]

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/witness"))
import pages  # noqa: E402

RUNS = {
    "KEYS": "KEYS.md",
    **{
        name: f"quickstart/{name}.md"
        for name in ("hourly", "metered", "contract", "saas", "eks-helm", "eks-manifests", "fargate", "ecs-ec2", "compose")
    },
}

# Metered, because the page has a step for it.
GATE = {"eks-helm": ["config", "init", "gate", "--mode", "metered", "--product-code", "demometered"]}


def run(page, tools):
    """Runs one page in a new folder; returns how many steps ran, failed, and cannot run here."""
    text, left_out = pages.runnable(pages.read(RUNS[page]))
    with tempfile.TemporaryDirectory() as home:
        for folder in ("deploy", "helm"):
            shutil.copytree(ROOT / folder, pathlib.Path(home) / folder)
        if page in GATE:
            subprocess.run([f"{tools}/tollgate", *GATE[page]], cwd=home, check=True, stdout=subprocess.DEVNULL)
        ran, failed = pages.run(
            pages.steps(text), home, [*APART, "sh", "-c", 'ip link set lo up && exec "$@"', "sh"],
            PATH=f"{tools}:{os.environ['PATH']}", AWS_EC2_METADATA_DISABLED="true",
        )
    return ran, failed, left_out


def main():
    programs = dict(zip(("helm", "tollgate", "aws"), sys.argv[1:4]))
    chosen = set(sys.argv[4:]) or set(RUNS)
    there = {f"quickstart/{path.name}" for path in (ROOT / "docs/quickstart").glob("*.md")}
    assert there <= set(RUNS.values()), there - set(RUNS.values())
    failures = 0
    with tempfile.TemporaryDirectory() as tools:
        for name, program in programs.items():
            os.symlink(os.path.abspath(program), os.path.join(tools, name))
        for page in sorted(chosen):
            ran, failed, left_out = run(page, tools)
            print(f"quick start {page}: {ran} steps run, {failed} failed; {left_out} blocks not run here", flush=True)
            failures += failed or not ran
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
