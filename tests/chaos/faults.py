"""Faults between the sidecar and AWS: a proxy that delays, cuts and trickles, a TLS front, a name server."""

import socket
import ssl
import struct
import threading
import time


def listening(address=("127.0.0.1", 0)):
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(address)
    server.listen(512)
    return server


def reset(connection):
    """Closes with RST. It wakes a reader in another thread, because until then the kernel keeps the socket open."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RD)
    connection.close()


class Proxy:
    """Passes bytes to `upstream` with the current `fault`, a name and a number.

    delay: the answer waits that many seconds. cut: the answer is reset after that many bytes. trickle: one byte of the answer each time
    after that many seconds. hang: no answer. lose: the request arrives, its answer does not. plain: no fault.
    """

    def __init__(self, upstream, fault=("plain", 0), context=None):
        self.upstream, self.fault, self.context = upstream, fault, context
        self.server = listening()
        self.port = self.server.getsockname()[1]
        self.scheme = "https" if context else "http"
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def endpoint(self):
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def accept(self):
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self.carry, args=(connection,), daemon=True).start()

    def carry(self, connection):
        try:
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
            if self.fault[0] == "hang":
                while connection.recv(65536):
                    pass
                return
            with socket.create_connection(self.upstream) as server:
                threading.Thread(target=pump, args=(connection, server), daemon=True).start()
                self.answer(server, connection)
        except OSError:
            pass
        finally:
            connection.close()

    def answer(self, server, connection):
        passed = 0
        while data := server.recv(65536):
            name, number = self.fault
            if name == "lose":
                reset(connection)
                return
            if name == "delay":
                time.sleep(number)
            if name == "cut":
                connection.sendall(data[: max(0, number - passed)])
                passed += len(data)
                if passed >= number:
                    reset(connection)
                    return
            elif name == "trickle":
                for byte in data:
                    connection.sendall(bytes([byte]))
                    time.sleep(number)
            else:
                connection.sendall(data)

    def close(self):
        self.server.close()


def pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def tls(certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


class NameServer:
    """Answers every question according to `mode`: `address`, `refuse`, `fail`, or `silent`."""

    def __init__(self, mode):
        self.mode = mode
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 53))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                question, client = self.socket.recvfrom(4096)
            except OSError:
                return
            answer = self.answer(question)
            if answer:
                self.socket.sendto(answer, client)

    def answer(self, question):
        """RFC 1035, section 4: identifier, flags, counts; the question repeated; one A record if it asks for one."""
        if self.mode == "silent":
            return None
        end = question.index(0, 12) + 5
        kind = struct.unpack("!H", question[end - 4 : end - 2])[0]
        code = {"address": 0, "fail": 2, "refuse": 5}[self.mode]
        record = b""
        if self.mode == "address" and kind == 1:
            record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + bytes([127, 0, 0, 1])
        flags = 0x8180 | code
        return question[:2] + struct.pack("!HHHHH", flags, 1, 1 if record else 0, 0, 0) + question[12:end] + record

    def close(self):
        self.socket.close()
