"""Completions in bash, zsh and fish, as a person uses them: the shell reads a script, and TAB completes. bash must offer what `--help-all` lists.

Usage: completions.py PROGRAM ARCHIVE RELEASED

PROGRAM prints its own scripts. ARCHIVE is the release's file (`just completions`); its scripts are for RELEASED, which prints none.
"""

import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile

from terminal import Terminal

PROGRAM, ARCHIVE, RELEASED = (os.path.abspath(path) for path in sys.argv[1:])
# The text before TAB, and the command line after it.
CASES = {
    "expl": "explain", "support-b": "support-bundle", "config ch": "config check", "ledger repl": "ledger replay", "run --renew-e": "run --renew-every",
    "probe star": "probe startup", "run --mode contr": "run --mode contract", "run --on-denied ex": "run --on-denied exit", "run --quit t": "run --quit true", "doctor --js": "doctor --json",
}
# clap's scripts for fish do not complete a value without a flag before it.
NOT_IN_FISH = {"probe star", "completions zs"}
OF_DEVELOPMENT = {"emul": "emulator", "dem": "demo", "completions zs": "completions zsh"}
SHELLS = ["bash", "zsh", "fish"]
COMMANDS_MIN = 20
# Names of the same program, which here only prints its arguments.
CALLED = 'tollgate() { printf "called:%s:\\n" "$*"; }'
INTERACTIVE = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "PS1=; bind 'set bell-style none'"),
    "zsh": (["zsh", "-f", "-i"], "PROMPT=; unsetopt zle_bracketed_paste beep; autoload -Uz compinit; compinit -u -d $HOME/dump"),
}


def typed(shell, text_of_script, cases):
    """The lines that TAB does not complete as it should, in a shell on a terminal."""
    command, begin = INTERACTIVE[shell]
    wrong = []
    with tempfile.TemporaryDirectory() as home, open(os.path.join(home, "script"), "w") as script:
        script.write(text_of_script)
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


def asked(text_of_script, cases):
    """The same for fish, which can print its completions."""
    wrong = []
    with tempfile.TemporaryDirectory() as home:
        script = os.path.join(home, "tollgate.fish")
        with open(script, "w") as file:
            file.write(text_of_script)
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


def help_of(program, words):
    """The flags, the commands, and the words for an argument without a flag that `--help-all` lists."""
    text = subprocess.run([program, *words, "--help-all"], check=True, capture_output=True, text=True).stdout
    listed = re.search(r"^Commands:\n((?:  .*\n|\n)*)", text, re.M)
    commands = set(re.findall(r"^  ([a-z-]+)", listed[1], re.M)) if listed else set()
    arguments = re.search(r"^Arguments:\n((?:  .*\n|\n)*)", text, re.M)
    values = re.findall(r"\[possible values: (.*?)\]|^ +- ([a-z]+):", arguments[1], re.M) if arguments else []
    return set(re.findall(r"^ {2,}(?:-\w, )?(--[a-z][a-z-]*)", text, re.M)), commands, {one for pair in values for one in re.findall(r"[a-z]+", " ".join(pair))}


def offered(script, words):
    """The flags and the other words that bash offers behind these words."""
    line = ["tollgate", *words, ""]
    question = f"source {shlex.quote(script)}; COMP_WORDS=({' '.join(map(shlex.quote, line))}); COMP_CWORD={len(line) - 1}"
    question += f"; _tollgate tollgate '' {line[-2]}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    found = set(subprocess.run(["bash", "--norc", "-c", question], check=True, capture_output=True, text=True).stdout.split("\n"))
    return {one for one in found if one.startswith("--")}, {one for one in found if re.fullmatch(r"[a-z][a-z-]*", one)}


def differences(program, text_of_script):
    """The commands for which bash and the help of the program differ, and how many commands were compared."""
    wrong, compared, left = [], 0, [()]
    with tempfile.NamedTemporaryFile("w") as script:
        script.write(text_of_script)
        script.flush()
        while left:
            words = left.pop()
            (flags, commands, values), compared = help_of(program, words), compared + 1
            said = offered(script.name, words)
            if said != (flags, commands | values):
                wrong.append(f"tollgate {' '.join(words)}: bash offers {said}, the help lists {flags, commands | values}")
            left += [(*words, command) for command in commands if command != "help"]
    return wrong, compared


def main():
    scripts = {shell: subprocess.run([PROGRAM, "completions", shell], check=True, capture_output=True, text=True).stdout for shell in SHELLS}
    with tarfile.open(ARCHIVE) as archive:
        released = {shell: archive.extractfile(f"completions/tollgate.{shell}").read().decode() for shell in SHELLS}
    wrong = []
    for program, texts, cases in ((PROGRAM, scripts, {**CASES, **OF_DEVELOPMENT}), (RELEASED, released, CASES)):
        for shell in INTERACTIVE:
            wrong += typed(shell, texts[shell], cases)
        wrong += asked(texts["fish"], cases)
        different, compared = differences(program, texts["bash"])
        if compared < COMMANDS_MIN:
            wrong.append(f"{program}: {compared} commands were compared")
        wrong += different
        print(f"completions: {program}: {len(cases)} lines in bash, zsh and fish; {compared} commands offer what their help lists")
    # The comparison can fail: a development build has commands that a released one has not.
    if not differences(RELEASED, scripts["bash"])[0]:
        wrong.append("scripts of a development build pass for those of a released one")
    # For a shell without a script the message names the shells that have one.
    refused = subprocess.run([PROGRAM, "completions", "tcsh"], capture_output=True, text=True)
    if refused.returncode != 64 or "bash" not in refused.stderr:
        wrong.append(f"tcsh: {refused}")
    for line in wrong:
        print(line)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
