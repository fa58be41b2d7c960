"""A command on a terminal of its own, for the witnesses."""

import codecs
import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time

PATIENCE = 60


class Terminal:
    """A command with a terminal of its own, in a session of its own."""

    def __init__(self, arguments, environment, columns=200):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            arguments, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.seen = ""
        # A read may end inside a character.
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def read(self, wanted=None):
        """The command's output, until it contains a text, or until the command ends."""
        deadline = time.monotonic() + PATIENCE
        while wanted is None or wanted not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{wanted!r} does not come:\n{self.seen}"
            try:
                piece = os.read(self.master, 65536)
            except OSError:  # Linux returns EIO when no process has the other end open.
                piece = b""
            if not piece:
                assert wanted is None, f"it ended without {wanted!r}:\n{self.seen}"
                break
            self.seen += self.decoder.decode(piece)
        return self.seen.replace("\r\n", "\n")

    def type(self, keys):
        os.write(self.master, keys.encode())

    def close(self):
        """Closes the terminal, as when a window is closed."""
        with contextlib.suppress(OSError):
            os.close(self.master)
