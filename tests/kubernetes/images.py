"""The images of the suite, under the names that charts and manifests have: a seller's gates, FROM the development image, and an application."""

import pathlib
import re
import shutil
import subprocess
import sys

from cluster import run

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "packaging"))
import postgresql  # noqa: E402

# Made by `just first-release`.
FIRST_RELEASE = pathlib.Path(__file__).resolve().parents[2] / "target/first-release"

# A shell script, so that each behaviour that `COMMAND` in a manifest selects is one line.
APPLICATION = r"""#!/bin/sh
# A seller's application for the tests: it prints that it started, does what its argument selects, and ends on
# SIGTERM.
report() {
    case "$TOLLGATE_APP_ADDR" in
        unix:*) report-by-socket "${TOLLGATE_APP_ADDR#unix:}" "{\"dimension\":\"requests\",\"quantity\":$1}" && echo " reported $1"; return ;;
    esac
    wget -q -O - --header "content-type: application/json" \
        --post-data "{\"dimension\":\"requests\",\"quantity\":$1}" http://127.0.0.1:19181/v1/usage && echo " reported $1"
}
echo "application started $*"
trap 'echo "application stops"; exit 0' TERM
case "$1" in
    once) exit 0 ;;
    fail) exit 3 ;;
    use) report "$2"; exit ;;
    report) report "$2" ;;
    stubborn) trap '' TERM; report "$2" ;;
    last) trap 'report 4; exit 0' TERM; report "$2" ;;
esac
while :; do sleep 86400 & wait $!; done
"""

GATES = {
    "your-gate": 'mode = "hourly"\nproduct_code = "demohourly"\npublic_keys = "keys"\n',
    "your-metered-gate": 'mode = "metered"\nproduct_code = "demometered"\ndimensions = "requests,gigabytes"\non_unsent = "keep"\n',
    "your-node-hours-gate": (
        'mode = "metered"\nproduct_code = "demometered"\ndimensions = ["node_hours"]\non_unsent = "keep"\n'
        '[dimension.node_hours]\nheartbeat = 1\nrounding = { mode = "up", digits = 0 }\n'
    ),
    "your-contract-gate": 'mode = "contract"\nproduct_id = "prod-democontract"\nlicense_model = "floating"\nentitlements = "users"\n',
    "your-saas-gate": 'mode = "saas"\nproduct_code = "demosaas"\ndimensions = "requests,gigabytes"\n',
}


def build(root, folder, keys):
    """Archives for `ctr images import`, built in a storage of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    buildah = ("buildah", "--root", folder / "store", "--runroot", folder / "run", "--storage-driver", "vfs")
    archives = []

    def image(name, dockerfile, context):
        # Otherwise `COPY --from` looks for its image in a registry, and waits 40 s for a network that does not
        # exist.
        run(*buildah, "bud", "--pull=never", "--quiet", "--format", "docker", "--timestamp", "0", "--tag", name, "--file", dockerfile, context)

    def archive(name):
        path = folder / f"{name.rpartition('/')[2].replace(':', '-')}.tar"
        run(*buildah, "push", "--quiet", name, f"docker-archive:{path}:{name}")
        archives.append(path)

    image("localhost/tollgate-dev", root / "deploy/Dockerfile.dev", root / "dist/image")
    # The image of rehearsals, under the name in their files.
    (named,) = set(re.findall(r"image: (.*/tollgate-dev:.*)", (root / "deploy/rehearsal/emulator.yaml").read_text()))
    run(*buildah, "tag", "localhost/tollgate-dev", named)
    archive(named)
    for name, settings in GATES.items():
        context = folder / name
        (context / "seller").mkdir(parents=True)
        (context / "seller/seller.toml").write_text(settings)
        shutil.copytree(keys / "public_keys/demohourly", context / "seller/keys")
        (context / "Dockerfile").write_text("FROM localhost/tollgate-dev\nCOPY seller/ /usr/share/tollgate/\n")
        image(f"registry.example/{name}:1.0.0", context / "Dockerfile", context)
        archive(f"registry.example/{name}:1.0.0")
    # 0.1.0, to upgrade from: without a seller's file, because with one its endpoint cannot be the
    # emulator.
    context = folder / "first-release"
    context.mkdir()
    shutil.copy(FIRST_RELEASE / "tollgate", context)
    (context / "Dockerfile").write_text("FROM localhost/tollgate-dev\nCOPY tollgate /tollgate\n")
    image("registry.example/your-metered-gate:0.1.0", context / "Dockerfile", context)
    archive("registry.example/your-metered-gate:0.1.0")
    # As released, to measure it: without a seller's file, so that its endpoint can be the emulator, whose answers it
    # refuses.
    context = folder / "release"
    shutil.copytree(keys / "public_keys/demohourly", context / "keys")
    image("localhost/tollgate", root / "deploy/Dockerfile", root / "dist/image")
    (context / "Dockerfile").write_text("FROM localhost/tollgate\nCOPY keys/ /keys/\n")
    image("registry.example/release:1.0.0", context / "Dockerfile", context)
    archive("registry.example/release:1.0.0")
    context = folder / "application"
    (context / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", context / "bin/busybox")
    for tool in subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split():
        if tool != "busybox":
            (context / "bin" / tool).symlink_to("busybox")
    # busybox calls no Unix socket.
    run("gcc", "-static", "-Os", "-Wall", "-Werror", "-o", context / "bin/report-by-socket", pathlib.Path(__file__).with_name("report_by_socket.c"))
    (context / "your-app").write_text(APPLICATION)
    (context / "your-app").chmod(0o755)
    (context / "Dockerfile").write_text('FROM scratch\nCOPY bin/ /bin/\nCOPY your-app /your-app\nUSER 10001\nENTRYPOINT ["/your-app"]\n')
    image("registry.example/your-app:1.0.0", context / "Dockerfile", context)
    archive("registry.example/your-app:1.0.0")
    # As in exec.yaml: the gate inside the paid image.
    for name, gate in (("exec", "your-gate"), ("exec-metered", "your-metered-gate")):
        (context / name).write_text(
            f"FROM registry.example/your-app:1.0.0\nCOPY --from=registry.example/{gate}:1.0.0 /tollgate /tollgate\n"
            f"COPY --from=registry.example/{gate}:1.0.0 /usr/share/tollgate /usr/share/tollgate\n"
            'ENTRYPOINT ["/tollgate", "exec", "--", "/your-app"]\n'
        )
        image(f"registry.example/your-{name}:1.0.0", context / name, context)
        archive(f"registry.example/your-{name}:1.0.0")
    # The chart of tollgate-saas, and its example's database.
    image("registry.example/your-usage:1.0.0", root / "deploy/Dockerfile.saas-dev", root / "dist/image")
    archive("registry.example/your-usage:1.0.0")
    context = folder / "postgres"
    postgresql.write_context(context)
    image("registry.example/postgres:1", context / "Dockerfile", context)
    archive("registry.example/postgres:1")
    shutil.rmtree(context)
    context = folder / "application"
    # A pod's first container, which holds its network; it only has to run.
    (context / "pause").write_text('FROM scratch\nCOPY bin/ /bin/\nUSER 65535\nENTRYPOINT ["/bin/sleep", "2147483647"]\n')
    image("registry.example/pause:1", context / "pause", context)
    archive("registry.example/pause:1")
    shutil.rmtree(folder / "store")
    return archives
