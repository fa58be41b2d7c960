"""PostgreSQL servers and PgBouncer for a campaign, by the shell that also the tests in Rust use (crates/postgres-fixture)."""

import os
import subprocess
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
KEEPER = os.path.join(HERE, "../../crates/postgres-fixture/src/keeper.sh")
# The role of the ledger's owner.
ROLE, PASSWORD = "tollgate", "of-the-campaign"


class Servers:
    """Servers that share a folder and a disk of limited size; all end with the `with` block, or with this process."""

    def __init__(self, room="400m"):
        with open(KEEPER) as script:
            text = script.read()
        environment = {
            **os.environ,
            "KEEPER": text,
            "ROOM": room,
            "SERVER_CERTIFICATE": "",
            "SERVER_KEY": "",
            "PASSWORD": PASSWORD,
        }
        self.lock, self.names = threading.Lock(), 0
        self.process = subprocess.Popen(
            ["sh", "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd="/"
        )
        output, good = self.answer()
        assert good, output
        self.folder, self.programs = output.split()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def answer(self):
        lines = []
        for line in self.process.stdout:
            if line.startswith("end "):
                return "".join(lines).strip(), line == "end 0\n"
            lines.append(line)
        raise AssertionError(f"the keeper of PostgreSQL has ended: {lines}")

    def attempt(self, *command):
        with self.lock:
            self.process.stdin.write(" ".join(map(str, command)) + "\n")
            self.process.stdin.flush()
            return self.answer()

    def run(self, *command):
        output, good = self.attempt(*command)
        assert good, (command, output)
        return output

    def server(self, port):
        """A new primary."""
        return Server(self, port, "init")

    def fill(self):
        self.run("fill")

    def free(self):
        self.run("free")


class Server:
    def __init__(self, servers, port, command, *arguments):
        self.servers, self.port = servers, port
        servers.names += 1
        self.name = f"server{servers.names}"
        servers.run(command, self.name, port, *arguments)

    def sql(self, statement, database="postgres"):
        """Runs a statement as superuser; returns rows as lists of texts."""
        command = [os.path.join(self.servers.programs, "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-F", "\t", "-U", "postgres"]
        command += ["-h", self.servers.folder, "-p", str(self.port), "-d", database, "-c", statement]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{statement}: {done.stderr}")
        return [line.split("\t") for line in done.stdout.splitlines()]

    def set(self, setting, value):
        self.sql(f"ALTER SYSTEM SET {setting} = {value}")
        self.sql("SELECT pg_reload_conf()")
        # Sessions that begin from then on see it.
        while self.sql(f"SHOW {setting}") != [[value.strip("'")]]:
            pass

    def standby(self, port):
        """A streaming standby of this server, for which each commit waits from here on."""
        standby = Server(self.servers, port, "standby", self.port)
        self.set("synchronous_standby_names", "'*'")
        while self.sql("SELECT sync_state FROM pg_stat_replication") != [["sync"]]:
            pass
        return standby

    def crash(self):
        """Ends all its processes by SIGKILL."""
        self.servers.run("crash", self.name)

    def stop(self, mode="immediate"):
        self.servers.run("stop", self.name, mode)

    def start(self):
        self.servers.run("start", self.name)

    def running(self):
        return self.servers.attempt("running", self.name)[1]

    def pause(self):
        self.servers.run("pause", self.name)

    def resume(self):
        self.servers.run("resume", self.name)

    def promote(self):
        self.servers.run("promote", self.name)

    def forget(self):
        self.servers.run("forget", self.name)

    def log(self):
        return self.servers.run("log", self.name)


class Bouncer:
    """PgBouncer in transaction mode before a server."""

    def __init__(self, server, port):
        self.servers, self.port = server.servers, port
        self.process = self.servers.run("bouncer", port, server.port)

    def end(self):
        self.servers.run("bouncer_end", self.process)
