"""A proxy between a replica and PostgreSQL that reads the protocol, and loses the answer to COMMIT, or COMMIT itself.

https://www.postgresql.org/docs/current/protocol-message-formats.html. The client must not use TLS: a proxy could not read it.
"""

import socket
import struct
import threading
import time

# What is lost: the server's answer to COMMIT, which it has carried out, or the request, which it never sees.
ANSWER, REQUEST = "answer", "request"
PLAIN_START = 196608


def reset(connection):
    """Closes with RST. It wakes a reader in another thread, because until then the kernel keeps the socket open."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    connection.close()


class Messages:
    """Cuts a stream of bytes into messages: (kind, bytes). The first message of a client has no kind."""

    def __init__(self, starts=False):
        self.rest, self.starts = b"", starts

    def feed(self, data):
        self.rest += data
        while True:
            head = 0 if self.starts else 1
            if len(self.rest) < head + 4:
                return
            size = head + struct.unpack("!I", self.rest[head : head + 4])[0]
            if len(self.rest) < size:
                return
            message, self.rest = self.rest[:size], self.rest[size:]
            kind = b"" if self.starts else message[:1]
            # After the start, or in its place a request to cancel; one for TLS would be followed by another start.
            self.starts = False
            yield kind, message


def asks_for_commit(kind, message):
    """A client's simple query, or statement to prepare, that is COMMIT or ends with it; or the Sync that ends an implicit transaction."""
    if kind == b"S":
        return True
    text = message[5:] if kind == b"Q" else message[5:].partition(b"\0")[2] if kind == b"P" else b""
    return text.partition(b"\0")[0].rstrip(b" ;\n").rpartition(b";")[2].strip().upper() in (b"COMMIT", b"END")


def tells_of_commit(kind, message):
    """A server's completion of COMMIT (it tells of a failed transaction's COMMIT as ROLLBACK), or that no transaction is open any more."""
    return (kind == b"C" and message[5:].rstrip(b"\0") == b"COMMIT") or (kind == b"Z" and message[5:] == b"I")


class Wire:
    """Passes connections at `address` on to `upstream()`, until the `with` block ends; only transactions with the marker in a message lose.

    A statement outside BEGIN and COMMIT is a transaction of its own. Its commit is the client's Sync, and the server answers it with
    ReadyForQuery, after rows and completion. So a client that relies on those alone would be found out.
    """

    def __init__(self, address, upstream, marker=b""):
        self.upstream, self.lock, self.marker = upstream, threading.Lock(), marker
        self.armed, self.closed_until, self.closed_for = [], 0.0, 0.0
        self.lost, self.connections = {ANSWER: 0, REQUEST: 0}, set()
        self.server = socket.create_server((address, 0), backlog=128)
        self.address = self.server.getsockname()
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Closing alone does not wake the thread that accepts.
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        self.break_all()

    def lose(self, what, commits=1, closed_for=0.0):
        """Loses this of the next commits; after each loss new connections are refused for this time."""
        with self.lock:
            self.armed, self.closed_for = [what] * commits, closed_for

    def pending(self):
        with self.lock:
            return len(self.armed)

    def break_all(self):
        """Resets all connections, as a failed network device does."""
        with self.lock:
            connections = list(self.connections)
        for connection in connections:
            reset(connection)

    def hits(self, what):
        """Whether this commit is one to lose."""
        with self.lock:
            if self.armed[:1] != [what]:
                return False
            self.armed.pop(0)
            self.lost[what] += 1
            self.closed_until = time.monotonic() + self.closed_for
            return True

    def accept(self):
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self.carry, args=(client,), daemon=True).start()

    def carry(self, client):
        if time.monotonic() < self.closed_until:
            reset(client)
            return
        try:
            server = socket.create_connection(self.upstream(), timeout=5)
        except OSError:
            reset(client)
            return
        server.settimeout(None)
        both = (client, server)
        for connection in both:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.lock:
            self.connections.update(both)
        # Whether the transaction under way has the marker; a client waits for the end of one before it begins the next.
        marked = threading.Event()
        sides = (client, server, Messages(starts=True), REQUEST, asks_for_commit, marked)
        forward = threading.Thread(target=self.pump, args=sides, daemon=True)
        forward.start()
        self.pump(server, client, Messages(), ANSWER, tells_of_commit, marked)
        forward.join()
        with self.lock:
            self.connections.difference_update(both)
        for connection in both:
            connection.close()

    def pump(self, source, sink, messages, what, is_commit, marked):
        """Passes whole messages on; at a commit to lose it breaks both sides."""
        try:
            while data := source.recv(65536):
                passed = b""
                for kind, message in messages.feed(data):
                    if kind == b"":
                        start = struct.unpack("!I", message[4:8])[0]
                        assert start == PLAIN_START, f"the client began with {start}: use sslmode=disable"
                    if what == REQUEST and self.marker in message:
                        marked.set()
                    commits = is_commit(kind, message)
                    if commits and marked.is_set() and self.hits(what):
                        sink.sendall(passed)
                        reset(source)
                        reset(sink)
                        return
                    if kind == b"Z" and message[5:] == b"I":
                        marked.clear()
                    passed += message
                sink.sendall(passed)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            reset(source)
            reset(sink)
