"""What a person at a terminal meets: the first lines, the help, the completions, the manual page."""

import os
import pty
import re
import shutil
import subprocess
import threading

import pytest
from harness import client_env, free_port, run, wait_until
from scripted import MODEL, N_CTX, Upstream


@pytest.fixture
def terminal(binary, home):
    """`terminal("--upstream", url)` starts rejoinder on a terminal of its own; gives what that shows so far."""
    started = []

    def start(*arguments):
        port, admin = free_port(), free_port()
        ours, theirs = pty.openpty()
        command = [binary, "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}", *arguments]
        child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=client_env(home), cwd=home)
        os.close(theirs)
        shown = []

        def read():
            while True:
                try:
                    data = os.read(ours, 4096)
                except OSError:  # the other end is closed
                    return
                if not data:
                    return
                shown.append(data)

        reader = threading.Thread(target=read)
        reader.start()
        started.append((child, reader, ours))
        return port, lambda: b"".join(shown).decode()

    yield start
    for child, reader, ours in started:
        child.terminate()
        child.wait(15)
        reader.join(10)
        os.close(ours)


def test_the_start_says_what_was_found_and_how_codex_gets_here(terminal, upstream):
    port, shown = terminal("--upstream", upstream.url)
    text = wait_until(lambda: "launch codex" in shown() and shown(), 20, "the greeting")
    assert f"http://127.0.0.1:{port}/v1" in text, text
    assert f"{upstream.url}  llama_server: {MODEL} ({N_CTX} tokens)" in text, text
    assert f"rejoinder setup codex --write --listen 127.0.0.1:{port}" in text, text


def test_log_lines_on_a_terminal_are_short(terminal, upstream):
    _, shown = terminal("--upstream", upstream.url)
    wait_until(lambda: "upstream is ready" in shown(), 20, "the log")
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown())
    assert re.search(r"^\d\d:\d\d:\d\d +INFO +rejoinder is listening ", text, re.MULTILINE), text


def test_a_server_that_is_not_there_is_told_of_while_it_is_waited_for(terminal):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    _, shown = terminal("--upstream", url)
    text = wait_until(lambda: "waiting for" in shown() and shown(), 20, "what is waited for")
    assert f"{url}  not ready: " in text and "rejoinder doctor" in text, text
    with Upstream("llama", port=port):
        wait_until(lambda: f"{url}  llama_server: {MODEL}" in shown(), 20, "the server")


def test_nothing_of_it_is_in_a_log(proxy):
    assert "In another terminal" not in proxy.text() and proxy.text().startswith("{"), proxy.text()


def test_an_address_in_use_is_named_with_what_to_do(binary, home, proxy, upstream):
    command = [binary, "--upstream", upstream.url, "--listen", f"127.0.0.1:{proxy.port}", "--admin", f"127.0.0.1:{free_port()}"]
    finished = run(command, client_env(home), home)
    assert finished.code == 1, str(finished)
    assert f"127.0.0.1:{proxy.port}" in finished.err and "choose another address" in finished.err, str(finished)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_takes_its_completions(binary, home, tmp_path, shell):
    script = run([binary, "completions", shell], client_env(home), home).out
    assert "healthcheck" in script and "keep-default" in script
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not here to read them")
    file = tmp_path / "completions"
    file.write_text(script)
    finished = run([shell, "-n", file], client_env(home), home)
    assert finished.code == 0 and not finished.err, str(finished)


def test_the_manual_page_is_one(binary, home, tmp_path):
    page = run([binary, "man"], client_env(home), home).out
    assert page.lstrip().startswith(".ie") or ".TH rejoinder 1" in page, page[:300]
    assert "setup" in page and "healthcheck" in page
