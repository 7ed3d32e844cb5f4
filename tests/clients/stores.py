"""A real redis-server that ends with its test, and the settings that make rejoinder keep responses there."""

import base64
import os
import shutil
import signal
import socket
from contextlib import closing

from harness import Process, free_port, wait_until

MISSING = "no redis-server here (apt-get install redis-server)"


def redis_missing():
    return None if shutil.which("redis-server") else MISSING


def write_keys(path, *keys):
    """A keys_file with the 32-byte `keys`, the one that seals first."""
    path.write_text("".join(base64.b64encode(key).decode() + "\n" for key in keys))
    return path


class Redis:
    """A redis-server on its own port and folder, which writes every change to disk before it answers."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process, self.starts, self.frozen, self.asked = None, 0, False, 0

    def start(self):
        self.starts += 1
        self.process = Process(
            ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--dir", self.folder, "--save", "",
             "--appendonly", "yes", "--appendfsync", "always"], self.folder / f"redis{self.starts}.log")
        wait_until(lambda: self.ask("PING") == "+PONG", 20, "redis-server", self.process.alive)
        return self

    def ask(self, line, timeout=2.0):
        """What it answers to an inline command: one line, or the text of that length; None if it does not."""
        self.asked += 1
        try:
            with closing(socket.create_connection(("127.0.0.1", self.port), timeout)) as connection:
                connection.settimeout(timeout)
                connection.sendall(line.encode() + b"\r\n")
                answer = connection.makefile("rb")
                first = answer.readline().decode().strip()
                return answer.read(int(first[1:])).decode() if first.startswith("$") else first
        except OSError:
            return None

    def clients_so_far(self):
        """Connections since it started, without those of `ask`."""
        stats = dict(line.split(":") for line in self.ask("INFO stats").splitlines() if ":" in line)
        return int(stats["total_connections_received"]) - self.asked

    def stop(self):
        """SIGTERM: it says farewell, and connections are refused afterwards."""
        self.thaw()
        self.process.stop()

    def kill(self):
        """SIGKILL: as a crash."""
        self.process.child.kill()
        self.process.child.wait(10)

    def freeze(self):
        """SIGSTOP: the kernel takes connections for it, and nothing is ever answered."""
        os.kill(self.process.child.pid, signal.SIGSTOP)
        self.frozen = True

    def thaw(self):
        if self.frozen:
            os.kill(self.process.child.pid, signal.SIGCONT)
            self.frozen = False

    def go_away(self, how):
        {"stopped": self.stop, "killed": self.kill, "frozen": self.freeze}[how]()

    def come_back(self, how):
        self.thaw() if how == "frozen" else self.start()

    def settings(self, keys_file, **more):
        return {"store__url": self.url, "keys_file": keys_file, **more}
