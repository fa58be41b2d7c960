"""A seller's file at its real path, and a buyer's ways around it, against the built binary.

Usage: sealing.py PROGRAM [RELEASED]

RELEASED is a build without the emulator. Settings that a build with the emulator leaves to the operator are tried only on RELEASED.

Needs root or user namespaces: /usr/share/tollgate is a folder of this run's own, in a mount namespace of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

if os.environ.get("SEALING_INSIDE") != "1":
    os.environ["SEALING_INSIDE"] = "1"
    os.execvp("unshare", ["unshare", "--mount", "--map-root-user", sys.executable, *sys.argv])

from processes import Emulator

PROGRAM = os.path.abspath(sys.argv[1])
RELEASED = os.path.abspath(sys.argv[2]) if len(sys.argv) > 2 else None
REHEARSAL = ("product_code", "public_keys", "endpoint_url", "allow_emulated", "clock")
SEALED = "/usr/share/tollgate"
KEYS = {"AWS_ACCESS_KEY_ID": "pod", "AWS_SECRET_ACCESS_KEY": "any"}
BASE = {
    "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "TOLLGATE_STATE_DIR": "none", "TOLLGATE_LOG_FORMAT": "json",
    "TOLLGATE_PROBE_ADDR": "127.0.0.1:0", "TOLLGATE_APP_ADDR": "127.0.0.1:0",
}


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    return path


def check(environment, arguments=(), folder="/"):
    """Runs `config check`; returns exit code and output."""
    done = subprocess.run([RELEASED or PROGRAM, "config", "check", *arguments], env={**BASE, **KEYS, **environment}, cwd=folder,
                          capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def ways(folder, stranger):
    """Each way around: environment, arguments, working folder."""
    profile = f"[default]\nregion = us-east-1\nendpoint_url = {stranger}\n"
    services = f"[default]\nservices = mine\n[services mine]\nmarketplace_metering =\n  endpoint_url = {stranger}\n"
    values = {
        "mode": "metered", "product_code": "another", "public_keys": folder, "public_key_version": "2", "grace_period": "300d",
        "endpoint_url": stranger, "allow_emulated": "true", "clock": f"{stranger}/_emulator/clock",
        "dimensions": "request", "entitlement_dimension": "requests", "on_lapse": "keep", "on_unsent": "keep",
        "after_denial": "ask-again", "on_denied": "hold", "on_expired": "dead-letter", "on_zero_hour": "skip",
        "seal_on_shutdown": "false", "settle": "59m", "aws_door": "true", "strict_usage": "true", "ledger_repair": "true",
        "idempotency_window": "2h", "kept_receipt": "on", "docs_url": stranger,
    }
    if not RELEASED:
        values = {name: value for name, value in values.items() if name not in REHEARSAL}
    for name, value in values.items():
        yield f"--{name}", {}, [f"--{name.replace('_', '-')}={value}"], "/"
        yield f"TOLLGATE_{name.upper()}", {f"TOLLGATE_{name.upper()}": value}, [], "/"
        file = write(f"{folder}/{name}.toml", f'{name} = "{value}"\n')
        yield f"{name} in TOLLGATE_CONFIG", {"TOLLGATE_CONFIG": file}, [], "/"
        link = f"{folder}/{name}-link.toml"
        os.symlink(file, link)
        yield f"{name} behind a symbolic link, --config", {}, [f"--config={link}"], "/"
    for name, value in (("shutdown_grace", "4s"), ("ledger_bytes_max", "15MiB")):
        yield f"{name} below its floor", {f"TOLLGATE_{name.upper()}": value}, [], "/"
    names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_MARKETPLACE_METERING", "AWS_ENDPOINT_URL_STS", "AWS_EC2_METADATA_SERVICE_ENDPOINT")
    for name in names:
        yield name, {name: stranger}, [], "/"
        yield f"{name}, said to be ignored", {name: stranger, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, [], "/"
    for kind, text in (("endpoint_url", profile), ("services", services)):
        home = f"{folder}/{kind}"
        write(f"{home}/.aws/config", text)
        write(f"{home}/.aws/credentials", text)
        write(f"{home}/~/.aws/config", text)
        yield f"{kind} in AWS_CONFIG_FILE", {"AWS_CONFIG_FILE": f"{home}/.aws/config"}, [], "/"
        yield f"{kind} in a profile not chosen", {"AWS_CONFIG_FILE": f"{home}/.aws/config", "AWS_PROFILE": "other"}, [], "/"
        yield f"{kind} in AWS_SHARED_CREDENTIALS_FILE", {"AWS_SHARED_CREDENTIALS_FILE": f"{home}/.aws/credentials"}, [], "/"
        yield f"{kind} below HOME", {"HOME": home}, [], "/"
        yield f"{kind} below HOME, by ~//", {"HOME": home, "AWS_CONFIG_FILE": "~//.aws/config"}, [], "/"
        yield f"{kind} below an empty HOME, in the working folder", {"HOME": ""}, [], home
        yield f"{kind} without a HOME, below ./~", {}, [], home


def late_profile(folder, emulator):
    """A profile file that is named and absent, so that the SDK looks for it repeatedly; then it appears with keys and an endpoint."""
    path = f"{folder}/late"
    environment = {**BASE, "AWS_CONFIG_FILE": path}
    process = subprocess.Popen([PROGRAM, "run"], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        seen = []
        for line in process.stderr:
            parsed = json.loads(line)
            seen.append(parsed.get("code"))
            if seen[-1] == "CredentialsIncomplete":
                write(path, f"[default]\naws_access_key_id = pod\naws_secret_access_key = any\nendpoint_url = {emulator.endpoint}\n")
            # The next log line is about the real endpoint, which cannot be reached here.
            if seen[-1] not in (None, "NoAnswerYet", "CredentialsIncomplete"):
                break
        calls = emulator.admin("calls")["total"]
        return calls == 0 and "CredentialsIncomplete" in seen, f"{calls} calls arrived, {[code for code in seen if code]}"
    finally:
        process.kill()
        process.wait()


def main():
    failed = 0
    began = time.monotonic()
    os.makedirs(SEALED, exist_ok=True)
    with tempfile.TemporaryDirectory() as seller, tempfile.TemporaryDirectory() as folder, Emulator(PROGRAM) as emulator:
        subprocess.run(["mount", "--bind", seller, SEALED], check=True)
        subprocess.run(["cp", "-r", emulator.facts["public_keys"], f"{seller}/keys"], check=True)
        text = 'product_code = "demohourly"\npublic_keys = "keys"\n'
        write(f"{seller}/seller.toml", text)
        code, said = check({})
        assert code == 0, said
        count = 0
        for name, environment, arguments, working in ways(folder, emulator.endpoint):
            count += 1
            code, said = check(environment, arguments, working)
            if code != 78 or "seller" not in said:
                failed += 1
                print(f"NOT SEALED: {name}: {code} {said}")
        os.rename(f"{seller}/seller.toml", f"{seller}/built.toml")
        for what, make in (
            ("a link to nothing", lambda path: os.symlink("nowhere.toml", path)),
            ("a link", lambda path: os.symlink("built.toml", path)),
            ("a pipe", os.mkfifo),
        ):
            make(f"{seller}/seller.toml")
            code, said = check({"TOLLGATE_PRODUCT_CODE": "another", "TOLLGATE_PUBLIC_KEYS": f"{seller}/keys"})
            if code != 78:
                failed += 1
                print(f"NOT SEALED: a seller's file that is {what}: {code} {said}")
            os.remove(f"{seller}/seller.toml")
        os.rename(f"{seller}/built.toml", f"{seller}/seller.toml")
        good, measured = late_profile(folder, emulator)
        failed += not good
        print(f"sealing: a profile file written after the start: {measured}")
    print(f"sealing: {count} ways around, {failed} open, {time.monotonic() - began:.0f} s")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
