"""The commands on a real terminal, on a narrow one, on one that is closed, and with readers that end.

Usage: terminals.py PROGRAM [RELEASED | --exec]

RELEASED is the release build, without the emulator; its sidecar asks PROGRAM's emulator. With --exec it looks at `exec` only.
"""

import contextlib
import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

from processes import Emulator, Sidecar, product
from terminal import PATIENCE, Terminal

PROGRAM = os.path.abspath(sys.argv[1])
EXEC_ONLY = sys.argv[2:] == ["--exec"]
RELEASED = os.path.abspath(sys.argv[2]) if len(sys.argv) > 2 and not EXEC_ONLY else None
# A process that is started in this way has parents or a process group outside its PID namespace, which have no numbers
# in it: as in a container whose runtime makes no session, and in many CI jobs.
OUTSIDE = ["unshare", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
# The program that started this may ignore the signals of a terminal (as nohup does, and a shell for background jobs),
# and children inherit that.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)
ESCAPE = "\x1b["


def session(leader):
    """The living processes of a session."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rsplit(") ", 1)[1].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(name))
    return found


def no_more_are_left_of(leader, count):
    deadline = time.monotonic() + PATIENCE
    while len(left := session(leader)) > count:
        assert time.monotonic() < deadline, f"more than {count} processes are left: {left}"
        select.select([], [], [], 0.05)


def nothing_is_left_of(leader):
    no_more_are_left_of(leader, 0)


@contextlib.contextmanager
def running(arguments, **options):
    """A process that ends with the block, even if the block fails; Popen alone would wait for its end without a limit."""
    with subprocess.Popen(arguments, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def settings(emulator, pod, **more):
    return {
        "PATH": os.environ["PATH"], "TERM": "xterm-256color", "TOLLGATE_PRODUCT_CODE": "demohourly",
        "TOLLGATE_PUBLIC_KEYS": emulator.facts["public_keys"], "TOLLGATE_ENDPOINT_URL": emulator.endpoint,
        "TOLLGATE_PROBE_ADDR": "127.0.0.1:0", "TOLLGATE_APP_ADDR": "127.0.0.1:0", "TOLLGATE_STATE_DIR": "none",
        "TOLLGATE_POD_UID": pod, "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ACCESS_KEY_ID": pod, "AWS_SECRET_ACCESS_KEY": "any", **more,
    }


def run_speaks_to_people(program, emulator):
    says = "The gate is open." if program == PROGRAM else "The gate is shut: The token comes from the tollgate emulator"
    for columns, colours, more in [
        (200, True, {}), (40, True, {}), (200, False, {"NO_COLOR": "1"}), (200, False, {"TERM": "dumb"}),
    ]:
        with Terminal([program, "run"], settings(emulator, "pod-terminal", **more), columns) as terminal:
            text = terminal.read(says)
            assert "tollgate started" in text and "panicked" not in text, text
            assert (ESCAPE in text) == colours, (more, text)
            if program == RELEASED:
                assert "Remove the endpoint override" in text, f"the remedy stands with the reason: {text}"
            assert "{" not in text, f"JSON on a terminal: {text}"
            terminal.close()
            assert terminal.process.wait(PATIENCE) == 0, "a closed terminal drains, as SIGTERM does"


def exec_becomes_a_command_that_has_the_terminal(emulator):
    command = [PROGRAM, "exec", "--", "/bin/sh", "-c", "tty && echo the-command"]
    with Terminal(command, settings(emulator, "pod-exec")) as terminal:
        text = terminal.read()
        assert "/dev/pts/" in text and "the-command" in text, text
        assert terminal.process.wait(PATIENCE) == 0


@contextlib.contextmanager
def metered(emulator, pod):
    with tempfile.TemporaryDirectory() as state:
        yield settings(
            emulator, pod, TOLLGATE_MODE="metered", TOLLGATE_PRODUCT_CODE="demometered", TOLLGATE_DIMENSIONS="requests",
            TOLLGATE_STATE_DIR=state, PS1="$ ",
        )


# Texts that do not stand in the command line, which a terminal shows too. It waits for a program in the background: dash starts one in
# the foreground by vfork, and is stopped by nothing, and ends by nothing, while Ctrl-Z has stopped that child before its execve.
LISTENS = """
    trap 'printf "%s-%s\\n" got int' INT; trap 'printf "%s-%s\\n" got quit; exit 4' QUIT
    printf "%s-%s\\n" now up; while :; do sleep 1000 & wait $!; done
"""


def the_command_below_exec_has_the_keyboard(emulator):
    with metered(emulator, "pod-keys") as environment, Terminal([PROGRAM, "exec", "--", "/bin/sh", "-c", LISTENS], environment) as terminal:
        terminal.read("now-up")
        terminal.type("\x03")
        terminal.read("got-int")
        # It has no parent that could continue it, so Ctrl-Z must have no effect.
        terminal.type("\x1a")
        terminal.type("\x1c")
        text = terminal.read()
        assert text.count("got-int") == 1 and "got-quit" in text, text
        assert terminal.process.wait(PATIENCE) == 4
    with metered(emulator, "pod-window") as environment, Terminal([PROGRAM, "exec", "--", "/bin/sh", "-c", LISTENS], environment) as terminal:
        terminal.read("now-up")
        terminal.close()
        assert terminal.process.wait(PATIENCE) == 128 + signal.SIGHUP
        nothing_is_left_of(terminal.process.pid)


def exec_is_a_job_of_the_shell(emulator):
    with metered(emulator, "pod-job") as environment, Terminal(["/bin/bash", "--norc", "--noprofile", "-i"], environment) as terminal:
        job = "printf '%s-%s\\n' now up; read -r line; printf '%s-%s\\n' got \"$line\"; exit 3"
        terminal.type(f"{PROGRAM} exec -- /bin/sh -c {shlex.quote(job)}\n")
        terminal.read("now-up")
        terminal.type("\x1a")
        terminal.read("Stopped")
        terminal.type("fg\n")
        terminal.type("hello\n")
        terminal.read("got-hello")
        terminal.type("echo code-$?; read -r line; echo read-$line\n")
        terminal.read("code-3")
        terminal.type("again\n")
        terminal.read("read-again")
        terminal.type("exit\n")
        assert terminal.process.wait(PATIENCE) == 0


def a_script_has_the_terminal_again_after_exec(emulator):
    script = '"$0" exec -- /bin/true; read -r line; echo "read-$line"'
    with metered(emulator, "pod-script") as environment, Terminal(["/bin/sh", "-c", script, PROGRAM], environment) as terminal:
        terminal.type("hello\n")
        text = terminal.read()
        assert "read-hello" in text, text
        assert terminal.process.wait(PATIENCE) == 0


def contract(emulator, pod, **more):
    environment = settings(emulator, pod, TOLLGATE_MODE="contract", **product(emulator, "contract"), **more)
    del environment["TOLLGATE_PRODUCT_CODE"]
    return environment


def doctor_fits(program, environment):
    with Terminal([program, "doctor"], environment, 40) as terminal:
        text = terminal.read()
    assert ESCAPE in text and "panicked" not in text, text
    plain = re.sub(r"\x1b\[[0-9]*m", "", text)
    findings = plain.split("settings that differ")[0]
    for line in findings.splitlines():
        assert len(line) <= 40 or " " not in line.strip(), f"{len(line)} columns: {line}"
    piped = subprocess.run([program, "doctor"], env=environment, capture_output=True, text=True)
    assert ESCAPE not in piped.stdout and piped.returncode == terminal.process.returncode, piped


def help_fits(program):
    commands = [[], ["run"], ["probe"], ["exec"], ["license"]]
    for command in (*([*command, "--help"] for command in commands), ["explain", "CustomerNotEntitledException"]):
        with Terminal([program, *command], {"TERM": "xterm"}, 40) as terminal:
            text = re.sub(r"\x1b\[[0-9]*m", "", terminal.read())
        wide = [line for line in text.splitlines() if len(line) > 40 and "  " not in line.strip() and " " in line.strip()]
        # Usage and examples must stay on one line, so that they can be copied; clap does not wrap
        # headings.
        wide = [line for line in wide if not re.match(r" *(Usage|kubectl|tollgate|.*:$)", line)]
        assert not wide, (command, wide)


def text_of(command, environment, columns=200):
    with Terminal(command, environment, columns) as terminal:
        return re.sub(r"\x1b\[[0-9]*m", "", terminal.read())


def readers_may_leave(environment, *orders):
    for order in orders:
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run([PROGRAM, *order], env=environment, stdout=write, stderr=subprocess.PIPE, text=True)
        os.close(write)
        assert "panicked" not in done.stderr and done.returncode in (0, 1, 78), (order, done)


def the_license_is_a_table_where_it_fits(emulator):
    with Sidecar(PROGRAM, emulator, "contract") as sidecar:
        environment = contract(emulator, "witness-pod", TOLLGATE_APP_ADDR=sidecar.app.removeprefix("http://"))
        wide = text_of([PROGRAM, "license"], environment)
        assert "\nENTITLEMENT  UNIT   SOLD  TAKEN  THIS POD  VALUE\nusers        Count  10 " in wide, wide
        narrow = text_of([PROGRAM, "license"], environment, 40)
        assert "\nENTITLEMENT  users\nUNIT         Count\nSOLD         10\n" in narrow, narrow
        readers_may_leave(environment, ["license"], ["license", "--json"])


def the_ledger_is_a_table_where_it_fits(emulator):
    with Sidecar(PROGRAM, emulator, "metered") as sidecar:
        status, _ = sidecar.ask("/v1/usage", {"id": "1", "dimension": "requests", "quantity": 12.5})
        assert status == 202
        environment = settings(
            emulator, "witness-pod", TOLLGATE_MODE="metered", TOLLGATE_PRODUCT_CODE="demometered",
            TOLLGATE_DIMENSIONS="requests,gigabytes", TOLLGATE_APP_ADDR=sidecar.app.removeprefix("http://"),
            TOLLGATE_STATE_DIR=sidecar.folder.name,
        )
        command = [PROGRAM, "ledger", "reconcile"]
        wide = text_of(command, environment).splitlines()
        assert wide[0].split()[:2] == ["DIMENSION", "ACCEPTED"], wide
        assert {line.index("12.5") for line in wide if "12.5" in line} == {wide[0].index("ACCEPTED")}, wide
        narrow = text_of(command, environment, 40)
        assert narrow.startswith("DIMENSION   requests\nACCEPTED    12.5\n"), narrow
        orders = ["ledger", "list"], ["ledger", "reconcile"], ["doctor"], ["config", "print"], ["explain"], ["probe", "ready"]
        readers_may_leave(environment, *orders)


def readers_of_the_log_may_leave(program, emulator):
    environment = settings(emulator, "pod-unread")
    with running([program, "run"], env=environment, stderr=subprocess.PIPE, text=True) as process:
        started = json.loads(process.stderr.readline())
        assert started["event"] == "started", started
        process.stderr.close()
        deadline = time.monotonic() + PATIENCE
        state = "pending"
        # Each change of state is a line without a reader.
        while state == "pending":
            assert time.monotonic() < deadline and process.poll() is None, state
            try:
                with urllib.request.urlopen(f"http://{started['probe_addr']}/entitlement") as answer:
                    state = json.load(answer)["state"]
            except urllib.error.HTTPError as error:
                state = json.load(error)["state"]
        process.terminate()
        assert process.wait(PATIENCE) == 0


def nohup_keeps_it(emulator):
    environment = settings(emulator, "pod-nohup")
    ignored = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with running([PROGRAM, "run"], env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=ignored) as process:
        probe = json.loads(process.stderr.readline())["probe_addr"]
        process.send_signal(signal.SIGHUP)
        for _ in range(20):
            with urllib.request.urlopen(f"http://{probe}/livez") as answer:
                assert answer.status == 200
        process.terminate()
        assert process.wait(PATIENCE) == 0


def the_demo_leaves_nothing_behind():
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm"}
    # `demo | head -1`
    with running([PROGRAM, "demo"], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        process.stdout.readline()
        process.stdout.close()
        process.wait(PATIENCE)
        nothing_is_left_of(process.pid)
    # A terminal that is closed while the demo runs.
    with Terminal([PROGRAM, "demo"], environment) as terminal:
        text = terminal.read("end it with Ctrl-C")
        assert "panicked" not in text, text
        # The pods of earlier steps end while the demo continues: the demo itself, the emulator and a
        # sidecar stay.
        no_more_are_left_of(terminal.process.pid, 3)
        assert len(session(terminal.process.pid)) == 3, text
        terminal.close()
        terminal.process.wait(PATIENCE)
        nothing_is_left_of(terminal.process.pid)


def exec_in_a_group_from_outside(emulator):
    command = [*OUTSIDE, PROGRAM, "exec", "--", "/bin/sh", "-c", LISTENS]
    with metered(emulator, "pod-outside") as environment, Terminal(command, environment) as terminal:
        terminal.read("now-up")
        # To tollgate's process group; tollgate passes it on.
        terminal.type("\x03")
        text = terminal.read("got-int")
        assert "panicked" not in text, text
        terminal.close()
        terminal.process.wait(PATIENCE)
        nothing_is_left_of(terminal.process.pid)


def exec_on_terminals(emulator):
    exec_becomes_a_command_that_has_the_terminal(emulator)
    the_command_below_exec_has_the_keyboard(emulator)
    exec_is_a_job_of_the_shell(emulator)
    a_script_has_the_terminal_again_after_exec(emulator)
    exec_in_a_group_from_outside(emulator)


with tempfile.TemporaryDirectory() as keys, Emulator(PROGRAM, "--keys", keys) as emulator:
    exec_on_terminals(emulator)
    if EXEC_ONLY:
        sys.exit()
    subprocess.run([*OUTSIDE, sys.executable, __file__, PROGRAM, "--exec"], check=True)
    for program in filter(None, (PROGRAM, RELEASED)):
        run_speaks_to_people(program, emulator)
        for environment in (settings(emulator, "pod-doctor"), contract(emulator, "pod-doctor")):
            doctor_fits(program, environment)
        help_fits(program)
        readers_of_the_log_may_leave(program, emulator)
    the_ledger_is_a_table_where_it_fits(emulator)
    the_license_is_a_table_where_it_fits(emulator)
    nohup_keeps_it(emulator)
    the_demo_leaves_nothing_behind()
print("terminals: run, exec, doctor, ledger, license and demo on terminals, before closed ones and closed pipes")
