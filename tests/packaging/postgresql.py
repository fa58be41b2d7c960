"""An image of Debian's PostgreSQL, from this machine's packages, which stands for the public image `postgres:…-alpine` where no registry is.

It takes the public image's variables (POSTGRES_USER, POSTGRES_DB, POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE, PGDATA), has its user 70, and
busybox with a shell and wget. The public image itself is not run.
"""

import pathlib
import re
import shutil
import subprocess

ENTRY = r"""#!/bin/sh
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    password=${POSTGRES_PASSWORD:-}
    [ -n "$password" ] || password=$(cat "$POSTGRES_PASSWORD_FILE")
    printf '%s\n' "$password" >/tmp/password
    initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 \
        --pgdata="$PGDATA" >/tmp/initdb
    rm /tmp/password
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    echo "CREATE DATABASE \"$POSTGRES_DB\"" | postgres --single -D "$PGDATA" postgres >/dev/null
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql
"""

DOCKERFILE = """FROM scratch
COPY root/ /
ENV PATH=/usr/lib/postgresql/bin:/bin PGDATA=/var/lib/postgresql/data/pgdata
USER 70:70
EXPOSE 5432
ENTRYPOINT ["/entry"]
"""


def programs():
    """The folder of the newest PostgreSQL's programs."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    if not found:
        raise AssertionError("PostgreSQL is missing: install Debian's package postgresql")
    return found[-1].parent


def write_context(folder):
    """Writes what the image is built from."""
    root, bin_folder = folder / "root", programs()
    version = bin_folder.parent.name
    target = root / f"usr/lib/postgresql/{version}"
    files = [bin_folder / name for name in ("postgres", "initdb", "pg_isready", "psql")]
    (target / "bin").mkdir(parents=True)
    for file in files:
        shutil.copy2(file, target / "bin")
    (target.parent / "bin").symlink_to(f"{version}/bin")
    shutil.copytree(bin_folder.parent / "lib", target / "lib", ignore=shutil.ignore_patterns("bitcode", "pgxs", "llvmjit*"))
    for tree in (f"usr/share/postgresql/{version}", "usr/share/zoneinfo", "usr/lib/locale/C.utf8"):
        shutil.copytree(f"/{tree}", root / tree, symlinks=True)
    # Resolves users and host names beside the C library, which loads them by name.
    files += [*(target / "lib").glob("*.so"), *pathlib.Path("/lib").glob("*-linux-gnu/libnss_*.so.2")]
    needed = set()
    for file in files:
        listed = subprocess.run(["ldd", file], capture_output=True, text=True).stdout
        needed |= set(re.findall(r"(?:=> )?(/\S+\.so\S*) \(0x", listed))
    for library in sorted(needed | {str(path) for path in files if path.name.startswith("libnss_")}):
        place = root / library.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(library, place, follow_symlinks=True)
    for name, mode in (("tmp", 0o1777), ("var/run/postgresql", 0o777), ("var/lib/postgresql/data", 0o777), ("etc", 0o755), ("bin", 0o755)):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name).chmod(mode)
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\npostgres:x:70:70::/var/lib/postgresql:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\npostgres:x:70:\n")
    (root / "etc/nsswitch.conf").write_text("passwd: files\nhosts: files dns\n")
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for tool in subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split():
        if tool != "busybox":
            (root / "bin" / tool).symlink_to("busybox")
    (root / "entry").write_text(ENTRY)
    (root / "entry").chmod(0o755)
    (folder / "Dockerfile").write_text(DOCKERFILE)
