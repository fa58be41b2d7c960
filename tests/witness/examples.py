"""Runs the examples that verify an attestation, in each language whose tools are on the machine, against a sidecar.

Usage: examples.py PROGRAM

Python, JavaScript, Java and Rust are required. Go is run if it is installed; otherwise the output says that it is missing.
"""

import os
import shutil
import subprocess
import sys
import tempfile

from processes import Emulator, Sidecar

PROGRAM = sys.argv[1]
FOLDER = os.path.join(os.path.dirname(__file__), "../../examples/verify")
COMMANDS = {
    "Python": [sys.executable, "verify.py"],
    "JavaScript": ["node", "verify.mjs"],
    "Java": ["java", "Verify.java"],
    "Rust": ["cargo", "run", "--quiet", "--locked", "--package", "tollgate-receipt", "--example", "attestation", "--"],
}
if shutil.which("go"):
    COMMANDS["Go"] = ["go", "run", "verify.go"]
else:
    print("examples: no Go on this machine: verify.go is not run")


def main():
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        foreign = os.path.join(folder, "foreign.pem")
        private = os.path.join(folder, "private.pem")
        subprocess.run(["openssl", "genrsa", "-out", private, "3072"], check=True, capture_output=True)
        subprocess.run(["openssl", "rsa", "-in", private, "-pubout", "-out", foreign], check=True, capture_output=True)
        for language, command in COMMANDS.items():
            # A sidecar for each, because the rate of attestations is limited.
            with Emulator(PROGRAM) as emulator, Sidecar(PROGRAM, emulator, "hourly") as sidecar:
                key = os.path.join(emulator.facts["public_keys"], "1.pem")
                for name, arguments, good in (
                    ("the seller's key", [key, "demohourly"], True),
                    ("another key", [foreign, "demohourly"], False),
                    ("another product", [key, "other"], False),
                ):
                    done = subprocess.run([*command, sidecar.app, *arguments], cwd=FOLDER, capture_output=True, text=True)
                    entitled = done.returncode == 0 and done.stdout.strip() == "entitled"
                    if entitled != good:
                        failures.append(f"{language}, {name}: {done.returncode} {done.stdout} {done.stderr[-400:]}")
    for failure in failures:
        print(failure)
    print(f"examples: {', '.join(COMMANDS)}: {len(failures)} failures")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
