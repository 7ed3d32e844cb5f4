"""`make demo` as a user runs it: in a terminal until Ctrl-C, and without one."""

import json
import os
import pty
import re
import signal
import sys
import threading
import time
import tomllib

import pytest
from harness import ROOT, Process, answers_200, request_json, run, wait_until

# It may have to build and to install first.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def environment(binary):
    return {**os.environ, "REJOINDER_BIN": str(binary)}


def base_url(text):
    return re.search(r'base_url = "(http://127\.0\.0\.1:[0-9]+/v1)"', text)[1]


def ports(text):
    return set(re.findall(r"http://127\.0\.0\.1:[0-9]+", text))


def assert_shows_everything(text):
    assert "response.created" in text and "response.completed" in text
    assert len(re.findall(r"^response\.output_text\.delta +\S*\"", text, re.M)) > 3
    codex = tomllib.loads(text[text.index('model = "'):text.index("Droid:")].strip())
    provider = codex["model_providers"][codex["model_provider"]]
    assert provider["wire_api"] == "responses" and provider["name"] != "OpenAI"
    assert codex["model_context_window"] > codex["model_auto_compact_token_limit"] > 0
    droid, _ = json.JSONDecoder().raw_decode(text[text.index("{\n", text.index("Droid:")):])
    assert droid["customModels"][0]["baseUrl"] == provider["base_url"] == base_url(text)


def assert_nothing_left(text):
    assert len(ports(text)) >= 3, text
    for url in ports(text):
        assert not answers_200(url + "/health") and not answers_200(url + "/readyz"), url
    assert "Traceback" not in text, text


def test_one_answer_without_a_terminal(environment):
    finished = run(["make", "demo"], {**environment, "DEMO_ONCE": "1"}, ROOT, timeout=580)
    assert finished.code == 0, str(finished)
    assert "Traceback" not in finished.err
    assert_shows_everything(finished.out)
    assert_nothing_left(finished.out)


def test_it_stays_up_until_it_is_told_to_end(environment, tmp_path):
    process = Process([ROOT / "scripts/demo"], tmp_path / "demo.log", env=environment, cwd=ROOT)
    try:
        wait_until(lambda: "Ctrl-C ends both servers" in process.text(), 580, "the demo", process.alive)
        status, _, text = request_json("GET", base_url(process.text()) + "/models")
        assert status == 200 and json.loads(text)["data"], text
        process.child.send_signal(signal.SIGINT)
        wait_until(lambda: not process.alive(), 30, "the demo's end")
        assert process.child.returncode == 0, process.text()
    finally:
        process.stop()
    assert_nothing_left(process.text())


class Terminal:
    """A child that has a terminal of its own, and what it wrote there."""

    def __init__(self, command, env, cwd):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.execvpe(command[0], command, env)
        self.output, self.status = b"", None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while True:
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # the last writer is gone
                return
            if not data:
                return
            self.output += data

    def text(self):
        return re.sub(r"\x1b\[[0-9;]*m", "", self.output.decode(errors="replace").replace("\r\n", "\n"))

    def alive(self):
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is None

    def type(self, keys):
        os.write(self.fd, keys)

    def end(self):
        if self.alive():
            os.kill(self.pid, signal.SIGTERM)
            deadline = time.monotonic() + 20
            while self.alive() and time.monotonic() < deadline:
                self._reader.join(0.05)
            if self.alive():
                os.kill(self.pid, signal.SIGKILL)
        os.close(self.fd)


@pytest.mark.skipif(sys.platform != "linux", reason="a terminal and its foreground group as on Linux")
def test_ctrl_c_in_a_terminal_ends_make_demo_well(environment):
    terminal = Terminal(["make", "demo"], environment, ROOT)
    try:
        wait_until(lambda: "Ctrl-C ends both servers" in terminal.text(), 580, "the demo", terminal.alive)
        terminal.type(b"\x03")
        wait_until(lambda: not terminal.alive(), 30, "the demo's end")
        assert terminal.status == 0, terminal.text()
    finally:
        terminal.end()
    assert_shows_everything(terminal.text())
    assert_nothing_left(terminal.text())
    assert "Stopping" in terminal.text() and "Interrupt" not in terminal.text()
