"""What every test here uses: processes that end with the test, raw event streams, and the judge of a stream."""

import ctypes
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BIN = HERE / "node_modules" / ".bin"
JUDGED = []  # how many events each stream had that was judged
# below the ports that the kernel gives to outgoing connections: one of those may take a port while its server restarts;
# others for each process that runs tests beside this one
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 4
PORTS = iter(random.sample(range(12000 + 5000 * WORKER, 17000 + 5000 * WORKER), 5000))


# ---------------------------------------------------------------- waiting


def free_port():
    """A port on which nobody listens, another one each time."""
    for port in PORTS:
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("no port is free")


def wait_until(condition, timeout, what, alive=lambda: True):
    """Poll `condition` until it holds; what it returned is the result. `alive` false ends the wait early."""
    deadline = time.monotonic() + timeout
    tick = threading.Event()
    while True:
        result = condition()
        if result:
            return result
        if not alive():
            raise AssertionError(f"{what}: the process ended")
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout} s")
        tick.wait(0.03)


def answers_200(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return reply.status == 200
    except (OSError, http.client.HTTPException):
        return False


# ---------------------------------------------------------------- processes

LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def end_with_parent():
    """In a child: SIGTERM when the process that started it is gone, however that ended (Linux; elsewhere nothing)."""
    if hasattr(LIBC, "prctl"):
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Process:
    """A child in its own process group, its output in a file; `stop()` ends the group and nothing else."""

    def __init__(self, command, log, env=None, cwd=None):
        self.log = Path(log)
        self._out = self.log.open("wb")
        self.child = subprocess.Popen(
            [str(c) for c in command], stdin=subprocess.DEVNULL, stdout=self._out, stderr=subprocess.STDOUT,
            env=env, cwd=cwd, start_new_session=True, preexec_fn=end_with_parent)

    def alive(self):
        return self.child.poll() is None

    def text(self):
        return self.log.read_text(errors="replace")

    def stop(self, timeout=10):
        if self.alive():
            os.killpg(self.child.pid, signal.SIGTERM)
        try:
            self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait(10)
        self._out.close()
        return self.child.returncode


class Finished:
    """What a client printed, and how it ended."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def events(self):
        found = []
        for line in self.out.splitlines():
            if line.startswith("{"):
                found.append(json.loads(line))
        return found

    def __str__(self):
        return f"exit {self.code}\n--- stdout\n{self.out[-6000:]}\n--- stderr\n{self.err[-6000:]}"


def run(command, env, cwd, timeout=90, stdin=""):
    """Run a client to its end; its whole process group ends with it or with the time limit."""
    child = subprocess.Popen(
        [str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=env, cwd=cwd, start_new_session=True, text=True, errors="replace", preexec_fn=end_with_parent)
    try:
        out, err = child.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        out, err = child.communicate(timeout=10)
        raise AssertionError(f"{command[0]} still ran after {timeout} s\n{Finished(None, out, err)}") from None
    return Finished(child.returncode, out, err)


def client_env(home, **more):
    """An environment without the machine's own settings, keys and proxies."""
    keep = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LC_ALL", "TERM", "TMPDIR", "TZ")}
    return {**keep, "HOME": str(home), "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost", **more}


def offline_env(home, **more):
    """The same for a client that also calls home: everything but loopback goes to a port where nobody listens."""
    nobody = "http://127.0.0.1:9"
    return client_env(home, HTTPS_PROXY=nobody, HTTP_PROXY=nobody, https_proxy=nobody, http_proxy=nobody, **more)


def find_binary():
    named = os.environ.get("REJOINDER_BIN")
    if named:
        return Path(named)
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    built = [p for p in (target / "release" / "rejoinder", target / "debug" / "rejoinder") if p.exists()]
    return max(built, key=lambda p: p.stat().st_mtime) if built else None


class Rejoinder(Process):
    """The built proxy in front of `upstream_url`. Settings are environment variables: `upstream__idle_timeout="2s"`."""

    def __init__(self, binary, upstream_url, log, home, ports=None, **settings):
        self.may_end = False  # a test that ends the proxy itself says so here
        self.port, self.admin_port = ports or (free_port(), free_port())
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin_url = f"http://127.0.0.1:{self.admin_port}"
        self.base_url = self.url + "/v1"
        env = client_env(home, **{f"REJOINDER_{k.upper()}": str(v) for k, v in settings.items()})
        super().__init__(
            [binary, "--upstream", upstream_url, "--listen", f"127.0.0.1:{self.port}",
             "--admin", f"127.0.0.1:{self.admin_port}"], log, env=env, cwd=home)

    def wait_ready(self, path="/readyz", timeout=20):
        try:
            wait_until(lambda: answers_200(self.admin_url + path), timeout, f"rejoinder's {path}", self.alive)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.text()[-4000:]}") from None
        return self


# ---------------------------------------------------------------- raw HTTP


def request_json(method, url, body=None, headers=None, timeout=60):
    """-> (status, headers, text)"""
    data = None if body is None else json.dumps(body).encode()
    head = {"Content-Type": "application/json", "Authorization": "Bearer sk-test", **(headers or {})}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, data=data, method=method, headers=head)
    try:
        with opener.open(request, timeout=timeout) as reply:
            return reply.status, reply.headers, reply.read().decode()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.headers, e.read().decode()


def parse_events(text):
    """The parsed `data:` objects of an event stream; `[DONE]` is the string."""
    events = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        data = "\n".join(line[5:].lstrip() for line in block.split("\n") if line.startswith("data:"))
        if data:
            events.append(data if data == "[DONE]" else json.loads(data))
    return events


class Stream:
    """One response as it came over the wire. For a stream `events` are its events without `[DONE]`."""

    def __init__(self, status, headers, text):
        self.status, self.headers, self.text = status, headers, text
        self.is_sse = (headers.get("content-type") or "").startswith("text/event-stream")
        parsed = parse_events(text) if self.is_sse else []
        self.done = parsed[-1:] == ["[DONE]"]
        self.events = [e for e in parsed if e != "[DONE]"]

    @property
    def types(self):
        return [e["type"] for e in self.events]

    @property
    def terminal(self):
        """The response object of the last event."""
        return self.events[-1]["response"]

    @property
    def output_text(self):
        return "".join(e["delta"] for e in self.events if e["type"] == "response.output_text.delta")

    def items(self, type=None):
        items = [e["item"] for e in self.events if e["type"] == "response.output_item.done"]
        return [i for i in items if type in (None, i["type"])]

    def __str__(self):
        return f"HTTP {self.status}\n{self.text[-5000:]}"


def raw_stream(base_url, body, headers=None, timeout=60, usage=True):
    """POST a streaming request; a stream that comes back is judged before the test sees it.

    `usage=False`: the upstream told none, so the terminal response has null there, which no schema allows."""
    body = {"stream": True, **body}
    status, head, text = request_json("POST", base_url + "/responses", body, headers, timeout)
    stream = Stream(status, head, text)
    if stream.is_sse:
        assert_stream(stream, body, usage)
    return stream


class OpenStream:
    """A stream read event by event, to leave in the middle of it."""

    def __init__(self, port, body, timeout=30, method="POST", path="/v1/responses"):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        self.connection.request(method, path, json.dumps({"stream": True, **body}),
                                {"Content-Type": "application/json", "Authorization": "Bearer sk-test"})
        self.reply = self.connection.getresponse()
        assert self.reply.status == 200, (self.reply.status, self.reply.read())

    def __iter__(self):
        for line in self.reply:
            if line.startswith(b"data:") and line.strip() != b"data: [DONE]":
                yield json.loads(line[5:])

    def until(self, type):
        return next(e for e in self if e["type"] == type)

    def hang_up(self):
        self.reply.close()
        self.connection.close()


# ---------------------------------------------------------------- the judge


def assert_stream(stream, request=None, usage=True):
    """Assert what every stream owes its client: see judge.py."""
    events = stream.events
    assert events, f"an empty stream\n{stream}"
    assert [e["sequence_number"] for e in events] == list(range(len(events))), str(stream)
    ends = [t for t in stream.types if t in ("response.completed", "response.incomplete", "response.failed")]
    assert len(ends) == 1 and stream.types[-1] == ends[0], f"not exactly one terminal event at the end\n{stream}"
    assert stream.done, f"no [DONE] at the end\n{stream}"
    JUDGED.append(len(events))
    from judge import check_sse  # needs openai-python, which the demo does without

    violations = check_sse(stream.text, request)
    if not usage:  # the upstream told none
        violations = [v for v in violations if "[usage.missing]" not in v]
    assert not violations, "\n".join(violations) + f"\n{stream}"


def assert_error(status, headers, text, expected_status, code=..., type=...):
    """An HTTP error in the four-key envelope; gives the error object."""
    assert status == expected_status, (status, text)
    assert (headers.get("content-type") or "").startswith("application/json"), headers
    error = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert isinstance(error["message"], str) and error["message"]
    assert isinstance(error["type"], str)
    assert error["code"] is None or isinstance(error["code"], str), error
    assert error["param"] is None or isinstance(error["param"], str), error
    if code is not ...:
        assert error["code"] == code, error
    if type is not ...:
        assert error["type"] == type, error
    return error


def assert_failed(stream, code=...):
    """A stream that ended with `error` (both shapes in one object) and `response.failed`; gives the error object."""
    assert stream.status == 200 and stream.is_sse, str(stream)
    assert stream.types[-2:] == ["error", "response.failed"], str(stream)
    event, error = stream.events[-2], stream.terminal["error"]
    assert event["message"] == event["error"]["message"] == error["message"], (event, error)
    assert event["code"] == event["error"]["code"] == error["code"], (event, error)
    assert stream.terminal["status"] == "failed"
    if code is not ...:
        assert error["code"] == code, error
    return error


# ---------------------------------------------------------------- clients


def program_on_path(tmp_path, monkeypatch, name, source):
    """A Python program of that name, found before any other; gives its path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / name
    program.write_text(f"#!{sys.executable}\n{source}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return program


def droid_binary():
    """Droid's program itself: the `droid` package is an install script around it, and not every mirror has its parts."""
    return HERE / "node_modules" / "@factory" / "cli-linux-x64" / "bin" / "droid"
