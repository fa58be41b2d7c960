"""Runs the commands of a document unchanged in one shell, and compares the output with the document's promises.

A line `# → text` after a command promises that text in the command's output. A number promises a whole line, and a text that ends with …
promises the start of a line. A command without a promise must succeed.
"""

import os
import re
import subprocess
import sys

DOCUMENTS = os.path.join(os.path.dirname(__file__), "../../docs")


def read(name):
    """A document's text."""
    with open(os.path.join(DOCUMENTS, name)) as file:
        return file.read()


def steps(text, language="sh"):
    """(command, promise) of every block of that language."""
    for block in re.findall(rf"```{language}\n(.*?)```", text, re.S):
        command = []
        for line in block.splitlines():
            if line.startswith("# → "):
                yield "\n".join(command), line.removeprefix("# → ")
                command = []
            else:
                command.append(line)
        if command:
            yield "\n".join(command), ""


def runnable(text):
    """The page without the blocks that cannot run here, and their number: the paragraph before each says "Not run here"."""
    parts, left_out = re.split(r"(```sh\n.*?```)", text, flags=re.S), 0
    for at in range(1, len(parts), 2):
        if "**Not run here**" in parts[at - 1].rstrip().rpartition("\n\n")[2]:
            parts[at], left_out = "", left_out + 1
    return "".join(parts), left_out


def kept(promise, output):
    """Whether the output contains what the document promises."""
    lines = output.splitlines()
    if promise.endswith("…"):
        return any(line.startswith(promise.removesuffix("…")) for line in lines)
    return promise in lines if promise.isdigit() else promise in output


def run(commands, home, within=(), **environment):
    """Runs the steps in one shell (started by `within`), so that variables stay set; returns how many ran and how many failed."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    environment = {"PATH": path, "HOME": home, "AWS_PAGER": "", **environment}
    shell = subprocess.Popen(
        [*within, "bash", "-e", "-o", "pipefail"], cwd=home, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    shell.stdin.write('curl() { command curl --fail-with-body "$@"; }\n')
    ran = failed = 0
    for command, promise in commands:
        shell.stdin.write(f"{command}\necho; echo end-of-step\n")
        shell.stdin.flush()
        output, ended = [], False
        for line in shell.stdout:
            if line.startswith("end-of-step"):
                ended = True
                break
            output.append(line)
        ran += 1
        # A command that fails ends the shell, and with it the page.
        if not ended or not kept(promise, "".join(output)):
            failed += 1
            print(f"FAILED: {command}\nexpected {promise!r} in:\n{''.join(output)}")
        if not ended:
            break
    shell.stdin.close()
    shell.wait()
    shell.stdout.close()
    return ran, failed
