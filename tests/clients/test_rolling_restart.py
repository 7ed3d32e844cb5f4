"""Two rejoinders with one Redis behind nginx, by the configuration that users are given, restarted in turn under load."""

import json
import re
import shutil
import signal
import threading
from contextlib import suppress

import pytest
from harness import ROOT, Process, Rejoinder, Stream, answers_200, assert_failed, assert_stream, free_port, request_json, wait_until
from scripted import MODEL, answer, answer_chunks, usage_chunk

pytestmark = pytest.mark.timeout(180)

NGINX = shutil.which("nginx") or next((p for p in ("/usr/sbin/nginx", "/usr/local/sbin/nginx") if shutil.which(p)), None)
GO = {"model": MODEL, "input": "Go."}
SLOW = "tick " * 20


def slow_stream(request, reply):
    """Goes on for longer than a drain may take, unless it is cut."""
    flavour = reply.upstream.flavour
    reply.start_sse()
    with suppress(OSError):
        first, *rest = answer_chunks(flavour, SLOW)
        for chunk in (first, *rest):
            reply.event(chunk)
            # soon over once the test is
            reply.upstream.released.wait(0.1)
        reply.event(usage_chunk(flavour, 5, 5))
        reply.done()
        reply.end()


class Nginx:
    """nginx with the configuration of deploy/, on other ports."""

    def __init__(self, folder, replicas):
        folder.mkdir()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        conf = (ROOT / "deploy/nginx/rejoinder.conf").read_text()
        for name, replica in zip(("rejoinder-a", "rejoinder-b"), replicas, strict=True):
            conf, count = re.subn(rf"\b{name}:8081\b", f"127.0.0.1:{replica.port}", conf)
            assert count == 1, name
        conf, count = re.subn(r"listen 8080;", f"listen 127.0.0.1:{self.port};", conf)
        assert count == 1
        (folder / "rejoinder.conf").write_text(conf)
        paths = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (folder / "nginx.conf").write_text(
            f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log notice;"
            f" events {{}} http {{ access_log off; {paths} include {folder}/rejoinder.conf; }}")
        self.folder = folder
        self.process = Process([NGINX, "-e", folder / "error.log", "-c", folder / "nginx.conf"], folder / "nginx.log")
        wait_until(lambda: answers_200(self.url + "/health"), 20, "nginx", self.process.alive)

    def stop(self):
        self.process.stop()


class Load:
    """Clients that send one request after the other until told to stop, and what became of each."""

    def __init__(self, base_url):
        self.base_url = base_url
        self.over = threading.Event()
        self.threads, self.lost, self.counts, self.lock = [], [], {}, threading.Lock()
        self.answers = {}  # of each thread

    def run(self, client, times):
        for _ in range(times):
            thread = threading.Thread(target=self._repeat, args=(client,))
            self.threads.append(thread)
            self.answers[thread] = 0
            thread.start()

    def _repeat(self, client):
        previous = None
        while not self.over.is_set():
            try:
                previous, outcome = client(self, previous)
            except Exception as problem:
                with self.lock:
                    self.lost.append(f"{client.__name__}: {problem!r}")
                return
            with self.lock:
                self.counts[outcome] = self.counts.get(outcome, 0) + 1
                self.answers[threading.current_thread()] += 1

    def post(self, **more):
        return request_json("POST", self.base_url + "/responses", {**GO, **more}, timeout=60)

    def chain(self, previous):
        """Each turn continues the one before, whichever replica has that."""
        status, _, text = self.post(**({"previous_response_id": previous} if previous else {}))
        assert status == 200, (status, text)
        response = json.loads(text)
        assert response["status"] == "completed" and response["previous_response_id"] == previous, text
        return response["id"], "answered"

    def whole(self, _):
        """Longer than a drain, and without a stream: the replica gives it up, and the other has it."""
        status, _, text = self.post(input="Go slowly.")
        assert status == 200, (status, text)
        assert json.loads(text)["output_text"] == SLOW, text
        return None, "slow one answered"

    def stream(self, _):
        status, headers, text = self.post(input="Go slowly.", stream=True)
        assert status == 200, (status, text)
        stream = Stream(status, headers, text)
        assert_stream(stream, usage=False)
        if stream.types[-1] == "response.failed":
            assert_failed(stream, code="server_error")
            return None, "stream cut with an event"
        assert stream.types[-1] == "response.completed", stream
        return None, "stream completed"

    def goes_on(self):
        """Waits until each client has had two more answers: the second was asked for after this began."""
        before = dict(self.answers)
        wait_until(lambda: self.lost or all(self.answers[t] >= n + 2 for t, n in before.items()), 60, "the load goes on")

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive(), "a request never ended"


def restart(replica, binary, upstream, home, log, settings):
    """SIGTERM, its end, and another process at the same address."""
    replica.may_end = True
    replica.child.send_signal(signal.SIGTERM)
    assert replica.child.wait(30) == 0, replica.text()[-3000:]
    ports = (replica.port, replica.admin_port)
    return Rejoinder(binary, upstream.url, log, home, ports=ports, **settings).wait_ready()


@pytest.mark.skipif(NGINX is None, reason="no nginx here (apt-get install nginx-light)")
def test_replicas_restarted_in_turn_lose_nothing(binary, upstream, redis, keys_file, tmp_path):
    settings = {"drain_timeout": "1s", **redis.settings(keys_file)}
    upstream.script(repeat=lambda request, reply: (slow_stream if "slowly" in request.messages[-1]["content"] else answer("Yes."))(request, reply))
    replicas, started, nginx = [], [], None
    load = None
    try:
        for name in "ab":
            home = tmp_path / name
            home.mkdir()
            replicas.append(Rejoinder(binary, upstream.url, tmp_path / f"{name}.log", home, **settings).wait_ready())
        started += replicas
        nginx = Nginx(tmp_path / "nginx", replicas)
        load = Load(nginx.url + "/v1")
        load.run(Load.chain, 6)
        load.run(Load.whole, 3)
        load.run(Load.stream, 6)
        for round in range(4):
            load.goes_on()
            at = round % 2
            replicas[at] = restart(replicas[at], binary, upstream, tmp_path / "ab"[at], tmp_path / f"{round}.log", settings)
            started.append(replicas[at])
        load.goes_on()
        upstream.released.set()
        load.stop()
        assert not load.lost, "\n".join(load.lost[:10])
        given_up = sum('"status":503' in replica.text() for replica in started)
        print(load.counts, f"{given_up} replicas gave up a request without a stream")
        assert set(load.counts) == {"answered", "slow one answered", "stream completed", "stream cut with an event"}, load.counts
        assert given_up, "no request without a stream outlasted a drain"
    finally:
        if load:
            load.over.set()
        upstream.released.set()
        if nginx:
            nginx.stop()
        for replica in started:
            replica.stop()
    for replica in started:
        assert "a panic ended" not in replica.text(), replica.text()[-3000:]
