"""Runs the examples of docs/SEMANTICS.md as applications would, and compares the emulator's bill with the reported usage; promtool checks
the metrics meanwhile.

Usage: applications.py PROGRAM
"""

import os
import re
import socket
import subprocess
import sys
import urllib.request

from processes import Emulator, Sidecar

PROGRAM = sys.argv[1]
PAGE = os.path.join(os.path.dirname(__file__), "../../docs/SEMANTICS.md")


def block(text, language):
    """The first example in a language, in its section."""
    section = text.split("## From an application")[1].split("\n## ")[0]
    return re.search(rf"```{language}\n(.*?)```", section, re.S)[1]


def send(address, example):
    """Sends a request of the page, with its length added."""
    head, _, body = example.partition("\n\n")
    body = body.strip().encode()
    host, port = address.split(":")
    with socket.create_connection((host, int(port))) as stream:
        lines = head.strip().splitlines() + [f"Content-Length: {len(body)}"]
        stream.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        answer = b"".join(iter(lambda: stream.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 202") and b'"accepted"' in answer, answer


def main():
    with open(PAGE) as page:
        text = page.read()
    with Emulator(PROGRAM) as emulator:
        emulator.admin("clock", {"now": "2026-11-24T08:00:00Z"})
        with Sidecar(PROGRAM, emulator, "metered") as sidecar:
            address = sidecar.app.removeprefix("http://")
            text = text.replace("127.0.0.1:19181", address)
            subprocess.run(["bash", "-euc", block(text, "sh")], check=True, stdout=subprocess.DEVNULL)
            send(address, block(text, "http"))
            emulator.admin("clock", {"advance": "75m"})
            sidecar.log_line("record_billed")
            # Prometheus' own linter, with every metric that has values.
            with urllib.request.urlopen(sidecar.probe + "/metrics") as answer:
                metrics = answer.read()
            subprocess.run(["promtool", "check", "metrics"], input=metrics, check=True)
        billed = {key[2]: quantity for key, quantity in emulator.billed().items()}
    expected = {"requests": "19.5"}
    print(f"applications: billed {billed}")
    sys.exit(0 if billed == expected else f"expected {expected}")


if __name__ == "__main__":
    main()
