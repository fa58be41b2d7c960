#!/usr/bin/env python3
"""Writes the linker script that places the code of a start and of a sidecar at rest together.

Usage: code_order.py PROGRAM MAP > deploy/code-order.ld

PROGRAM is the release build with its symbols, MAP the linker's map of it. The kernel maps a program by groups of pages, so a function
that runs makes its neighbours resident: without an order, a sidecar holds nearly its whole program in memory. Valgrind says which
functions run in its start, its probes, two minutes of rest and its end. The script names them without the hashes that each build
adds. The linker passes over a name that no longer exists, and leaves a new function where the compiler put it.

Needs valgrind and what benches/start.py needs.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

from start import Bench
from measure import free_port, get

PROBES = ["/livez", "/readyz", "/startupz", "/entitlement", "/metrics"]
# The sender looks once a minute whether an hour is over.
REST_SECONDS = 120
HEADER = """\
/* The code of a start, of probes and of a sidecar at rest, placed together. `just code-order` writes this: benches/code_order.py says why. */
SECTIONS {
.text.start : {
"""
# What valgrind's processor does not run: the C library's functions for newer processors, the one that looks for the kernel's library,
# and SHA-256 by the processor's instructions.
PROCESSORS = "*libc.a:*(.text.*)"
UNSEEN = [PROCESSORS, "*libc.a:*avx512*.o(.text)", "*libc.a:dl-object.o(.text)", "*rcrt1.o(.text)", "*(.text.*4sha2*)"]
# Called all the time, and at the start and the end.
FOOTER = """\
}
.iplt : { *(.iplt) }
.init : { KEEP(*(.init)) }
.fini : { KEEP(*(.fini)) }
} INSERT BEFORE .text;
"""
# A crate's hash in Rust's newer names, and a function's in the older ones; what the compiler adds to a name that it has twice.
CRATE_HASH, FUNCTION_HASH = re.compile(r"Cs[0-9A-Za-z]+_"), re.compile(r"17h[0-9a-f]{16}E.*|\.(llvm\.)?\d+$")


class Recorder:
    def __init__(self, program, folder):
        self.folder = folder
        self.bench = Bench(program, folder)
        wrapper = pathlib.Path(folder, "recorded")
        wrapper.write_text(
            f'#!/bin/sh\nexec valgrind --quiet --tool=callgrind --demangle=no --callgrind-out-file={folder}/%p.calls '
            f'{self.bench.program} "$@"\n'
        )
        wrapper.chmod(0o755)
        self.bench.program = str(wrapper)

    def functions(self):
        """The functions that ran since the last time, and forgets them."""
        found = set()
        for file in pathlib.Path(self.folder).glob("*.calls*"):
            found.update(re.findall(r"(?m)^c?fn=\(\d+\) (.*?)(?:'\d+)?$", file.read_text()))
            file.unlink()
        return found

    def hourly(self):
        port = free_port()
        addr = f"127.0.0.1:{port}"
        with self.bench.open_gate({**self.bench.plain, "TOLLGATE_PROBE_ADDR": addr}):
            for path in PROBES:
                assert get(port, path), path
            for probe in ("ready", "live"):
                environment = {**os.environ, "TOLLGATE_PROBE_ADDR": addr}
                subprocess.run([self.bench.program, "probe", probe], env=environment, check=True, stdout=subprocess.DEVNULL)

    def web_identity(self):
        self.bench.start_over_tls(0.0)

    def metered(self):
        addr = f"127.0.0.1:{free_port()}"
        settings = {
            **self.bench.plain, "TOLLGATE_MODE": "metered", "TOLLGATE_DIMENSIONS": "requests", "TOLLGATE_STATE_DIR": f"{self.folder}/state",
            "TOLLGATE_APP_ADDR": addr,
        }
        os.mkdir(settings["TOLLGATE_STATE_DIR"])
        with self.bench.open_gate(settings):
            event = json.dumps([{"id": "1", "dimension": "requests", "quantity": 1}]).encode()
            request = urllib.request.Request(f"http://{addr}/v1/usage", event, {"content-type": "application/json"})
            urllib.request.urlopen(request).close()
            time.sleep(REST_SECONDS)


def sections(linked):
    """The pattern of the section that each function is in, by the linker's map."""
    found, section = {}, None
    # Addresses, size, alignment, and by their indent: an output section, a section of an object file, a symbol in it.
    for indent, what in re.findall(r"(?m)^ *\w+ +\w+ +\w+ +\d+ ( *)(\S.*)$", linked):
        if len(indent) == 8:
            section = pattern(what)
        elif len(indent) == 16 and section:
            found.setdefault(what, section)
    return found


def pattern(section):
    """A section of a function as the linker's script names it, without the hashes that each build adds; None for data."""
    file, name = re.fullmatch(r"(.*):\((.*)\)", section).groups()
    if "/libc.a(" in file and name.startswith(".text."):
        return PROCESSORS
    if name == ".text":
        # An object whose functions have no sections of their own; in an archive or not.
        file = re.sub(r".*/([^/(]*)\((.*)\)", r"\1:\2", file) if file.endswith(")") else os.path.basename(file)
        return "*" + re.sub(r"-?[0-9a-f]{16}", "*", file) + "(.text)"
    return f"*({FUNCTION_HASH.sub('*', CRATE_HASH.sub('Cs*_', name))})" if name.startswith(".text") else None


def main():
    program, linked = sys.argv[1:3]
    section_of = sections(pathlib.Path(linked).read_text())
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(program, folder)
        try:
            written, lines = set(UNSEEN), [*UNSEEN]
            # From what all pods do to what some do.
            for run in (recorder.hourly, recorder.web_identity, recorder.metered):
                run()
                patterns = {section_of[function] for function in recorder.functions() & section_of.keys()} - written
                written |= patterns
                lines += [f"/* {run.__name__} */", *sorted(patterns)]
        finally:
            recorder.bench.close()
    sys.stdout.write(HEADER + "".join(f"{line}\n" for line in lines) + FOOTER)


if __name__ == "__main__":
    main()
