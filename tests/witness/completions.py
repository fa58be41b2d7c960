"""Completions in bash, zsh and fish, as a person uses them: the shell reads the script that the program prints, and TAB completes.

Usage: completions.py PROGRAM [RELEASED]

RELEASED is built as the released scripts are (`just completions`): without the emulator, with the feature completions.
"""

import os
import shlex
import subprocess
import sys
import tempfile

from terminal import Terminal

PROGRAMS = [os.path.abspath(program) for program in sys.argv[1:]]
# The text before TAB, and the command line after it.
CASES = {
    "expl": "explain", "support-b": "support-bundle", "config ch": "config check", "ledger repl": "ledger replay", "run --renew-e": "run --renew-every",
    "probe star": "probe startup", "run --mode contr": "run --mode contract", "run --on-denied ex": "run --on-denied exit", "run --quit t": "run --quit true", "doctor --js": "doctor --json",
}
# clap's scripts for fish do not complete a value without a flag before it.
NOT_IN_FISH = {"probe star", "completions zs"}
OF_DEVELOPMENT = {"emul": "emulator", "dem": "demo", "completions zs": "completions zsh"}
# Names of the same program, which here only prints its arguments.
CALLED = 'tollgate() { printf "called:%s:\\n" "$*"; }'
INTERACTIVE = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "PS1=; bind 'set bell-style none'"),
    "zsh": (["zsh", "-f", "-i"], "PROMPT=; unsetopt zle_bracketed_paste beep; autoload -Uz compinit; compinit -u -d $HOME/dump"),
}


def typed(shell, program, cases):
    """The lines that TAB does not complete as it should, in a shell on a terminal."""
    command, begin = INTERACTIVE[shell]
    wrong = []
    with tempfile.TemporaryDirectory() as home, open(os.path.join(home, "script"), "w") as script:
        script.write(subprocess.run([program, "completions", shell], check=True, capture_output=True, text=True).stdout)
        script.flush()
        environment = {"PATH": os.environ["PATH"], "HOME": home, "TERM": "dumb", "LC_ALL": "C.UTF-8"}
        with Terminal(command, environment) as terminal:
            terminal.type(f"{begin}; {CALLED}; source {shlex.quote(script.name)}; echo rea'dy:'\n")
            terminal.read("ready:")
            for number, (text, expected) in enumerate(cases.items()):
                # The shell handles the tab when it edits the line, so it has read the text before it by
                # then.
                terminal.type(f"tollgate {text}\t\n")
                terminal.type(f"echo do'ne:{number}:'\n")
                seen = terminal.read(f"done:{number}:")
                if f"called:{expected}:" not in seen:
                    wrong.append(f"{shell}: {text!r} becomes {seen[-300:]!r}, not {expected!r}")
                terminal.seen = ""
    return wrong


def asked(program, cases):
    """The same for fish, which can print its completions."""
    wrong = []
    with tempfile.TemporaryDirectory() as home:
        script = os.path.join(home, "tollgate.fish")
        with open(script, "w") as file:
            file.write(subprocess.run([program, "completions", "fish"], check=True, capture_output=True, text=True).stdout)
        for text, expected in cases.items():
            if text in NOT_IN_FISH:
                continue
            question = f"source {shlex.quote(script)}; complete --do-complete {shlex.quote(f'tollgate {text}')}"
            environment = {"PATH": os.environ["PATH"], "HOME": home, "TERM": "dumb"}
            done = subprocess.run(["fish", "--no-config", "--command", question], env=environment, capture_output=True, text=True)
            found = [line.partition("\t")[0] for line in done.stdout.splitlines()]
            if expected.split()[-1] not in found:
                wrong.append(f"fish: {text!r} becomes {found}, not {expected!r}: {done.stderr}")
    return wrong


def main():
    wrong = []
    for number, program in enumerate(PROGRAMS):
        cases = CASES if number else {**CASES, **OF_DEVELOPMENT}
        for shell in INTERACTIVE:
            wrong += typed(shell, program, cases)
        wrong += asked(program, cases)
        # For a shell without a script the message names the shells that have one.
        refused = subprocess.run([program, "completions", "tcsh"], capture_output=True, text=True)
        if refused.returncode != 64 or "bash" not in refused.stderr:
            wrong.append(f"tcsh: {refused}")
        print(f"completions: {program}: {len(cases)} lines in bash, zsh and fish")
    for line in wrong:
        print(line)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
