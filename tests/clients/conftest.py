"""Fixtures: the built proxy, a scripted upstream, the real llama.cpp server, and an empty home for each client."""

import os
import subprocess
import sys

import pytest
from harness import BIN, HERE, JUDGED, ROOT, Process, Rejoinder, answers_200, droid_binary, find_binary, free_port, wait_until
from scripted import Upstream
from stores import Redis, redis_missing, write_keys
from tap import Tap

LLAMA_MODEL = "gemma3-270m"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        for proxy in getattr(item, "_proxies", []):
            report.sections.append(("rejoinder's log", proxy.text()[-8000:]))


def pytest_collection_modifyitems(items):
    """Where several processes run tests, one of them has all that need the real model, which takes every core; of the others
    each has whole files."""
    for item in items:
        real = any("llama" in name for name in item.fixturenames)
        item.add_marker(pytest.mark.xdist_group("real model" if real else item.path.name))


def pytest_sessionfinish(session):
    # where several processes run tests, each tells the one that reports
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["judged"] = JUDGED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    JUDGED.extend(getattr(node, "workeroutput", {}).get("judged", []))


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"streams judged: {len(JUDGED)}, with {sum(JUDGED)} events")


@pytest.fixture(scope="session")
def binary():
    path = find_binary()
    if path is None or not path.exists():
        pytest.fail(f"no rejoinder binary ({path or 'target/release, target/debug'}): cargo build --release, or set REJOINDER_BIN")
    return path


@pytest.fixture
def home(tmp_path):
    path = tmp_path / "home"
    path.mkdir()
    return path


@pytest.fixture
def project(tmp_path):
    """An empty folder for a coding agent to work in."""
    path = tmp_path / "project"
    path.mkdir()
    return path


@pytest.fixture
def upstream():
    with Upstream("llama") as server:
        yield server


@pytest.fixture(params=["llama", "vllm"])
def any_upstream(request):
    with Upstream(request.param) as server:
        yield server


@pytest.fixture
def rejoinder(request, binary, tmp_path):
    """`rejoinder(upstream.url, upstream__idle_timeout="2s")` starts the proxy and waits until it is ready.

    In a test marked `judged` its `base_url` is that of a tap, and every stream that a client read there is judged."""
    started = request.node._proxies = []
    taps = []

    def start(upstream_url, ready="/readyz", **settings):
        n = len(started)
        folder = tmp_path / f"rejoinder{n}"
        folder.mkdir()
        proxy = Rejoinder(binary, upstream_url, tmp_path / f"rejoinder{n}.log", folder, **settings)
        started.append(proxy)
        if request.node.get_closest_marker("judged"):
            taps.append(Tap(proxy.port))
            proxy.base_url = taps[-1].url + "/v1"
        return proxy.wait_ready(ready)

    yield start
    for tap in taps:
        tap.stop()
    for proxy in started:
        died = not proxy.alive() and not proxy.may_end
        proxy.stop()
        log = proxy.text()
        assert not died, f"rejoinder ended during the test\n{log[-4000:]}"
        assert "a panic ended" not in log, f"rejoinder panicked\n{log[-4000:]}"
    for tap in taps:
        tap.judge()


@pytest.fixture
def proxy(rejoinder, upstream):
    """The proxy in front of the scripted llama-server."""
    return rejoinder(upstream.url)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    """One redis-server for the whole run: every test has keys of its own, and so records of its own."""
    server = Redis(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


@pytest.fixture
def redis(tmp_path):
    """A redis-server of the test's own, which it may stop."""
    if reason := redis_missing():
        pytest.skip(reason)
    server = Redis(tmp_path / "redis").start()
    yield server
    server.stop()


@pytest.fixture
def keys_file(tmp_path):
    return write_keys(tmp_path / "keys", os.urandom(32))


@pytest.fixture(params=["memory", "redis"])
def store(request, keys_file):
    """The settings of a store: `rejoinder(upstream.url, **store)`."""
    if request.param == "memory":
        yield {}
        return
    if reason := redis_missing():
        pytest.skip(reason)
    server = request.getfixturevalue("redis_server")
    before = server.clients_so_far()
    yield server.settings(keys_file)
    assert server.clients_so_far() > before, "nothing of this test connected to redis-server"


class Llama:
    model = LLAMA_MODEL

    def __init__(self, process, url):
        self.process, self.url = process, url


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """llama.cpp's own server with a small real model, for the whole run."""
    yield from running_llama(tmp_path_factory)


@pytest.fixture(scope="module")
def thinking_llama(tmp_path_factory):
    """The same with a template that has the model begin with reasoning."""
    yield from running_llama(tmp_path_factory, "--template", "think", "--slots", "1", "--slot-context", "4096")


def running_llama(tmp_path_factory, *options):
    port = free_port()
    log = tmp_path_factory.mktemp("llama") / "llama.log"
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, HERE / "llama_server.py", "--port", port, "--cache", ROOT / ".cache", *options]
    process = Process(command, log, env=env)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers_200(url + "/health"), 150, "llama.cpp's server", process.alive)
        yield Llama(process, url)
    except AssertionError as e:
        pytest.fail(f"{e}\n{process.text()[-3000:]}")
    finally:
        process.stop()


@pytest.fixture
def llama_proxy(rejoinder, llama):
    return rejoinder(llama.url)


def _works(command):
    try:
        result = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as e:
        return str(e)
    return None if result.returncode == 0 else (result.stdout + result.stderr)[-500:]


@pytest.fixture(scope="session")
def codex_bin():
    reason = _works([BIN / "codex", "--version"])
    if reason:
        pytest.skip(f"codex does not run here (npm ci in tests/clients?): {reason}")
    return BIN / "codex"


@pytest.fixture(scope="session")
def droid_bin():
    binary = droid_binary()
    reason = _works([binary, "--version"])
    if reason:
        pytest.skip(f"droid does not run here (npm ci in tests/clients?): {reason}")
    return binary


@pytest.fixture(scope="session")
def node():
    reason = _works(["node", "--version"])
    if reason or not (HERE / "node_modules" / "openai").exists():
        pytest.skip(f"no node or no node_modules/openai: {reason or 'npm ci in tests/clients'}")
    return "node"
