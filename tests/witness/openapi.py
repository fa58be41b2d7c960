"""schemathesis against both servers by the OpenAPI document: no server error, no answer that the document lacks.

Usage: openapi.py PROGRAM
"""

import json
import os
import subprocess
import sys
import tempfile

import yaml

from processes import Emulator, Sidecar

PROGRAM = sys.argv[1]
DOCUMENT = os.path.join(os.path.dirname(__file__), "../../docs/openapi.yaml")
PROBE_PATHS = "^/(livez|startupz|readyz|entitlement|metrics)$"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,response_headers_conformance"


def run(folder, sidecar, server, url, paths):
    """One run of schemathesis. The document describes 503 with Retry-After, so a shut gate is no failure."""
    program = os.path.join(os.path.dirname(sys.executable), "schemathesis")
    done = subprocess.run(
        [program, "run", f"{sidecar.app}/openapi.json", "--url", url, *paths, "--checks", CHECKS, "--max-examples", "60",
         "--seed", "7", "--phases", "examples,coverage,fuzzing", "--no-color"],
        cwd=folder, capture_output=True, text=True,
    )
    print(f"schemathesis, {server}: exit {done.returncode}")
    if done.returncode:
        print(done.stdout[-6000:], done.stderr[-2000:])
    return done.returncode != 0


def main():
    with open(DOCUMENT) as file:
        document = yaml.safe_load(file)
    failed = 0
    with Emulator(PROGRAM) as emulator, tempfile.TemporaryDirectory() as folder:
        for mode in ("metered", "saas", "hourly", "contract"):
            with Sidecar(PROGRAM, emulator, mode) as sidecar:
                served = sidecar.ask("/openapi.json")[1]
                assert served == json.loads(json.dumps(document)), "src/api/openapi.json is not docs/openapi.yaml"
                failed += run(folder, sidecar, f"app server, mode {mode}", sidecar.app, ["--exclude-path-regex", PROBE_PATHS])
                failed += run(folder, sidecar, f"probe server, mode {mode}", sidecar.probe, ["--include-path-regex", PROBE_PATHS])
                if mode == "contract":
                    license = sidecar.ask("/v1/license")[1]
                    assert [held["quantity"] for held in license["held"]] == [1], license
                if mode in ("metered", "saas"):
                    rows = sidecar.ask("/v1/reconciliation")[1]["dimensions"]
                    assert all(row["balanced"] for row in rows), rows
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
