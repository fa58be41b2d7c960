"""slowhttptest, a third-party program, against both servers: slow headers, slow bodies, slow reading; the servers must stay available.

Usage: slow_clients.py PROGRAM
"""

import re
import subprocess
import sys

from processes import Emulator, Sidecar

PROGRAM = sys.argv[1]
SECONDS = "8"
ATTACKS = {
    "slow headers (slowloris)": ["-H"],
    "slow bodies (R-U-Dead-Yet)": ["-B"],
    "slow reading": ["-X", "-w", "10", "-y", "20", "-n", "2", "-z", "8", "-k", "3"],
}


def main():
    failed = 0
    with Emulator(PROGRAM) as emulator, Sidecar(PROGRAM, emulator, "metered") as sidecar:
        for server, url in (("probe server", f"{sidecar.probe}/readyz"), ("application's server", f"{sidecar.app}/v1/records")):
            for attack, options in ATTACKS.items():
                command = ["slowhttptest", *options, "-c", "800", "-r", "400", "-l", SECONDS, "-p", "2", "-u", url]
                done = subprocess.run(command, capture_output=True, text=True)
                # slowhttptest's own verdict, by its own connections in between.
                plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
                available = re.findall(r"service available: +(\w+)", plain)
                good = done.returncode == 0 and set(available) == {"YES"} and sidecar.process.poll() is None
                failed += not good
                print(f"slowhttptest, {server}, {attack}: available {available or plain[-600:] + done.stderr[-300:]}")
        assert sidecar.ask("/v1/usage", {"dimension": "requests", "quantity": 1})[0] == 202
    print(f"slow clients: {failed} failures")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
