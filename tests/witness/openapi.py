"""schemathesis against the application's server by its own OpenAPI document: no server error, no answer that the document lacks.

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
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,response_headers_conformance"


def main():
    with open(DOCUMENT) as file:
        document = yaml.safe_load(file)
    program = os.path.join(os.path.dirname(sys.executable), "schemathesis")
    failed = 0
    with Emulator(PROGRAM) as emulator, tempfile.TemporaryDirectory() as folder:
        for mode in ("metered", "saas", "hourly"):
            with Sidecar(PROGRAM, emulator, mode) as sidecar:
                served = sidecar.ask("/openapi.json")[1]
                assert served == json.loads(json.dumps(document)), "src/api/openapi.json is not docs/openapi.yaml"
                done = subprocess.run(
                    [program, "run", f"{sidecar.app}/openapi.json", "--checks", CHECKS, "--max-examples", "60", "--seed", "7",
                     "--phases", "examples,coverage,fuzzing", "--no-color"],
                    cwd=folder, capture_output=True, text=True,
                )
                print(f"schemathesis, mode {mode}: exit {done.returncode}")
                if done.returncode:
                    failed += 1
                    print(done.stdout[-6000:], done.stderr[-2000:])
                if mode != "hourly":
                    rows = sidecar.ask("/v1/reconciliation")[1]["dimensions"]
                    assert all(row["balanced"] for row in rows), rows
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
