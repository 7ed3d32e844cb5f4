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
        self.process, self.starts, self.frozen = None, 0, False

    def start(self):
        self.starts += 1
        self.process = Process(
            ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--dir", self.folder, "--save", "",
             "--appendonly", "yes", "--appendfsync", "always"], self.folder / f"redis{self.starts}.log")
        wait_until(lambda: self.ask("PING") == "+PONG", 20, "redis-server", self.process.alive)
        return self

    def ask(self, line, timeout=2.0):
        """The first line of what it answers to an inline command, or None."""
        try:
            with closing(socket.create_connection(("127.0.0.1", self.port), timeout)) as connection:
                connection.settimeout(timeout)
                connection.sendall(line.encode() + b"\r\n")
                return connection.makefile().readline().strip()
        except OSError:
            return None

    def stop(self):
        """SIGTERM: connections are refused afterwards."""
        self.thaw()
        self.process.stop()

    def freeze(self):
        """SIGSTOP: connections are accepted by the kernel and never answered."""
        os.kill(self.process.child.pid, signal.SIGSTOP)
        self.frozen = True

    def thaw(self):
        if self.frozen:
            os.kill(self.process.child.pid, signal.SIGCONT)
            self.frozen = False

    def settings(self, keys_file, **more):
        return {"store__url": self.url, "keys_file": keys_file, **more}
