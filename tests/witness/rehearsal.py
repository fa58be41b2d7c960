"""Runs the commands of docs/EMULATOR.md with the AWS CLI and compares what stands behind the arrows: every command has
to succeed, an HTTP error included, and a promise of a number is a line of its own; one that ends with … is how a line begins.

Usage: rehearsal.py PROGRAM
"""

import os
import re
import subprocess
import sys
import tempfile

from processes import Emulator

PROGRAM = sys.argv[1]
PAGE = os.path.join(os.path.dirname(__file__), "../../docs/EMULATOR.md")


def steps(text):
    """(command, expected output) of every sh block; a command without an arrow only has to succeed."""
    for block in re.findall(r"```sh\n(.*?)```", text, re.S):
        command = []
        for line in block.splitlines():
            if line.startswith("# → "):
                yield "\n".join(command), line.removeprefix("# → ")
                command = []
            else:
                command.append(line)
        if command:
            yield "\n".join(command), ""


def kept(promise, output):
    """Whether the output holds what the page promises."""
    lines = output.splitlines()
    if promise.endswith("…"):
        return any(line.startswith(promise.removesuffix("…")) for line in lines)
    return promise in lines if promise.isdigit() else promise in output


def main():
    with open(PAGE) as page:
        text = page.read()
    run = failed = 0
    with Emulator(PROGRAM) as emulator, tempfile.TemporaryDirectory() as home:
        # One shell for the whole page: what is exported stays.
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        environment = {"PATH": path, "HOME": home, "AWS_PAGER": ""}
        shell = subprocess.Popen(["bash", "-e", "-o", "pipefail"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        shell.stdin.write('curl() { command curl --fail-with-body "$@"; }\n')
        for command, expected in steps(text.replace("http://127.0.0.1:8090", emulator.endpoint)):
            shell.stdin.write(f"{command}\necho; echo end-of-step\n")
            shell.stdin.flush()
            output, ended = [], False
            for line in shell.stdout:
                if line.startswith("end-of-step"):
                    ended = True
                    break
                output.append(line)
            run += 1
            # A command that fails ends the shell, and with it the page.
            if not ended or not kept(expected, "".join(output)):
                failed += 1
                print(f"FAILED: {command}\nexpected {expected!r} in:\n{''.join(output)}")
            if not ended:
                break
        shell.stdin.close()
        shell.wait()
        shell.stdout.close()
    print(f"rehearsal: {run} steps, {failed} failed")
    sys.exit(1 if failed or run < 8 else 0)


if __name__ == "__main__":
    main()
