"""Every `tollgate` command in the documents exists in the program, with its flags.

Commands are in blocks of sh and console, and in the text as code that begins with the program's name. Usage: commands.py PROGRAM
"""

import functools
import pathlib
import re
import subprocess
import sys

PROGRAM = sys.argv[1]
ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMANDS_MIN = 150
# The program at the start of a command, not as an argument of another program.
COMMAND = r"(?:^\s*|[|&;($] *|\b(?:do|until|if) |[A-Z_]+=\S* |-- )(?:\S*/)?tollgate"


@functools.cache
def help_of(*words):
    """The `--help` of a command, or None if there is no such command."""
    done = subprocess.run([PROGRAM, *words, "--help"], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


@functools.cache
def subcommands(*words):
    """The names of a command's subcommands."""
    listed = re.search(r"^Commands:\n((?:  .*\n|\n)*)", help_of(*words), re.M)
    return set(re.findall(r"^  ([a-z-]+)", listed[1], re.M)) if listed else set()


def written(text):
    """Every command line that a document shows."""
    for block in re.findall(r"^ *```(?:sh|console)\n(.*?)```", text, re.S | re.M):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.split(r"(?:^|\s)#", line)[0]
            yield from re.findall(rf"{COMMAND}((?: [^\s|;&)>]+)+)", line)
    prose = re.sub(r"^ *```.*?```", "", text, flags=re.S | re.M)
    yield from re.findall(r"`tollgate((?: [^`]+)?)`", prose)


def wrong(words):
    """The part of one command that the program does not have; None if the command is right."""
    path = []
    while words and (below := subcommands(*path)):
        # `ledger list|reconcile` names two commands.
        names = words[0].split("|")
        if unknown := [name for name in names if name not in below]:
            # A flag or a value before a subcommand is not checked.
            return None if words[0].startswith("-") else f"{' '.join([*path, unknown[0]])} is no command"
        path, words = [*path, names[0]], words[1:]
    shown = help_of(*path)
    for word in words:
        if word == "--":
            break
        flag = word.strip("[],.…").partition("=")[0]
        if flag.startswith("--") and not re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", shown):
            return f"{' '.join(path)} has no {flag}"
    return None


def main():
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("helm/*/README.md")]
    found = 0
    failures = []
    for document in sorted(documents):
        # It names former commands.
        if document.name == "CHANGELOG.md":
            continue
        for command in written(document.read_text()):
            found += 1
            if problem := wrong(command.split()):
                failures.append(f"{document.relative_to(ROOT)}: tollgate{command}: {problem}")
    for line in failures:
        print(f"FAILED: {line}")
    # The check must find these faults.
    assert wrong("ledger lists".split()) and wrong("probe ready --json --nonsense".split()), "the check finds nothing"
    assert not wrong("ledger list|reconcile --csv".split()), "the check finds too much"
    print(f"commands: {found} in the documents, {len(failures)} wrong")
    sys.exit(1 if failures or found < COMMANDS_MIN else 0)


if __name__ == "__main__":
    main()
