"""Servers that speak Responses themselves behind rejoinder, with `upstream.api = "responses"`: recorded and described
streams, and llama.cpp's own `/v1/responses`. Every stream is judged (see README.md)."""

import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from harness import ROOT, free_port, raw_stream, request_json, wait_until
from scripted import MODEL, Upstream, refuse
from test_codex import assert_turn, codex, messages_printed  # noqa: F401 (a fixture)
from test_llama import WEATHER, solved_calls

pytestmark = pytest.mark.timeout(170)

NATIVE = ROOT / "fixtures" / "native"
# without usage the terminal response has null there, on purpose
NO_USAGE = {"codex-backend-done-only"}


def replay(name):
    """A turn that sends a fixture's bytes."""
    data = (NATIVE / name / "upstream.sse").read_bytes()

    def turn(request, reply):
        reply.start_sse()
        reply.write(data)
        reply.end()

    return turn


@pytest.fixture(params=["codex", "llama"])
def sparse(request, rejoinder):
    """A scripted server, as the Codex backend is addressed, or as a llama-server."""
    # the Codex backend says of no path that it is llama.cpp
    with Upstream("llama" if request.param == "llama" else "vllm") as upstream:
        path = "/backend-api/codex" if request.param == "codex" else ""
        dialect = "generic" if path else "llama_server"
        proxy = rejoinder(upstream.url + path, ready="/healthz", upstream__api="responses", upstream__dialect=dialect)
        yield request.param, upstream, proxy


def fixtures_of(kind):
    return sorted(p.name for p in NATIVE.iterdir() if p.name.startswith({"codex": "codex-", "llama": "llama-"}[kind]))


def test_recorded_streams_come_out_complete(sparse):
    kind, upstream, proxy = sparse
    names = [name for name in fixtures_of(kind) if "whole" not in name]
    assert len(names) > 4
    for name in names:
        upstream.script(replay(name))
        body = {"model": MODEL, "input": "hi", "tools": [WEATHER]}
        stream = raw_stream(proxy.base_url, body, usage=name not in NO_USAGE)
        assert stream.is_sse, f"{name}\n{stream}"


def test_the_codex_backend_gets_what_it_takes(rejoinder):
    with Upstream("vllm") as upstream:
        proxy = rejoinder(upstream.url + "/backend-api/codex", ready="/healthz", upstream__api="responses",
                          upstream__dialect="generic")
        upstream.script(replay("codex-backend-sparse"))
        body = {"model": MODEL, "input": [{"role": "user", "content": "hi"}, {"type": "mystery", "x": 1}], "store": True,
                "max_output_tokens": 50, "temperature": 1, "client_metadata": {"a": "b"}, "tools": [{"type": "web_search"}]}
        # without a stream for the client, with one from the server, which has nothing else
        status, _, text = request_json("POST", proxy.base_url + "/responses", body)
        assert status == 200, text
        response = json.loads(text)
        assert [i["type"] for i in response["output"]] == ["reasoning", "message", "function_call"], text
        assert response["temperature"] == 1 and response["max_output_tokens"] == 50
        (request,) = upstream.chats
        assert request.path == "/backend-api/codex/responses"
        assert request.json == {"model": MODEL, "input": body["input"], "tools": body["tools"], "store": False, "stream": True}


def test_a_turn_that_is_gone_on_from_comes_whole(sparse):
    """Of a plain message the store keeps the text; a server that takes items gets them as they were."""
    kind, upstream, proxy = sparse
    turn = replay("codex-backend-deltas-only" if kind == "codex" else "llama-server-text")
    upstream.script(turn, turn)
    said = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": 'Hi \\ "ho"'}]}
    previous = None
    for n, text in enumerate((said["content"][0]["text"], "And?")):
        body = {"model": MODEL, "input": text, "previous_response_id": previous}
        status, _, answer = request_json("POST", proxy.base_url + "/responses", body)
        assert status == 200, answer
        first, previous = (json.loads(answer) if n == 0 else first), json.loads(answer)["id"]
    (message,) = first["output"]
    assert message["content"][0]["type"] == "output_text" and message["content"][0]["text"]
    *earlier, last = upstream.chats[1].json["input"]
    if kind == "codex":
        assert earlier == [said, message] and last["content"] == "And?", earlier
    else:
        # a server of plain items: the same words, from the same sides
        told = [(i["role"], "".join(part["text"] for part in i["content"])) for i in (*earlier, last)]
        text = message["content"][0]["text"]
        assert told == [("user", said["content"][0]["text"]), ("assistant", text), ("user", "And?")], told


def test_a_refusal_keeps_its_words(rejoinder):
    with Upstream("llama") as upstream:
        proxy = rejoinder(upstream.url, upstream__api="responses")
        upstream.script(refuse(400, {"detail": "Unsupported parameter: metadata"}))
        status, _, text = request_json("POST", proxy.base_url + "/responses", {"model": MODEL, "input": "hi"})
        assert status == 400 and "Unsupported parameter: metadata" in text


def test_streams_that_are_well_lose_nothing(rejoinder):
    """In OpenAI's own form: the same events in the same order with the same words."""
    with Upstream("llama") as upstream:
        proxy = rejoinder(upstream.url, upstream__api="responses", upstream__dialect="generic")
        for path in sorted((ROOT / "fixtures" / "openai").glob("*.jsonl")):
            for n, told in enumerate(responses_in(path)):
                upstream.script(sent(told))
                stream = raw_stream(proxy.base_url, {"model": MODEL, "input": "hi"}, usage=False)
                what = f"{path.name}, response {n}\n{stream}"
                assert shape(stream.events) == shape(told), what


def responses_in(path):
    """A file may hold several responses, one after another."""
    found = []
    for line in path.read_text().splitlines():
        event = json.loads(line)
        if event["type"] == "response.created":
            found.append([])
        found[-1].append(event)
    return found


def sent(events):
    def turn(request, reply):
        reply.start_sse()
        for event in events:
            reply.event(event)
        reply.end()

    return turn


def shape(events):
    """What must not change: kinds, order, texts, items. Deltas may be added where a recording lacks some."""
    rows = []
    for e in events:
        item = {k: v for k, v in (e.get("item") or {}).items() if v not in (None, "", []) and k != "status"}
        for part in item.get("content", []):
            part.pop("logprobs", None)
        if not e["type"].endswith(".delta"):
            # OpenAI's events of shell commands name no item, ours do
            id = None if "shell_call_command" in e["type"] else e.get("item_id")
            rows.append((e["type"], id, e.get("text"), e.get("arguments"), item))
    return rows


def test_a_request_that_comes_before_its_server(rejoinder):
    """Planned for a server that nobody has seen; the one that comes is a llama-server, which knows functions alone."""
    port = free_port()
    proxy = rejoinder(f"http://127.0.0.1:{port}", ready="/healthz", upstream__api="responses", commit_after="100ms")
    tools = [{"type": "custom", "name": "apply_patch"}]
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(raw_stream, proxy.base_url, {"model": MODEL, "input": "hi", "tools": tools})
        begun = 'rejoinder_requests_total{endpoint="responses",status="200"} 1\n'
        wait_until(lambda: begun in request_json("GET", proxy.admin_url + "/metrics")[2], 20, "a stream that has begun", proxy.alive)
        with Upstream("llama", port=port) as upstream:
            upstream.script(replay("functions-custom-tool"))
            stream = sent.result(60)
            (request,) = upstream.chats
    assert request.path == "/v1/responses" and request.json["tools"][0]["type"] == "function", request
    (call,) = stream.items()
    assert call["type"] == "custom_tool_call" and call["input"] == "*** Begin Patch", str(stream)


# ---------------------------------------------------------------- llama.cpp's own


@pytest.fixture
def mended(rejoinder, llama):
    return rejoinder(llama.url, upstream__api="responses")


@pytest.fixture
def direct(llama):
    """What the server says by itself: the reason for all this."""
    return lambda body: request_json("POST", llama.url + "/v1/responses", {"stream": True, **body})[2]


def test_text_and_its_cut(mended, llama, direct):
    body = {"model": llama.model, "input": "Count: one two", "max_output_tokens": 8, "temperature": 0}
    stream = raw_stream(mended.base_url, body)
    assert stream.types[-1] == "response.incomplete", str(stream)
    assert stream.terminal["incomplete_details"] == {"reason": "max_output_tokens"}
    assert stream.output_text and stream.terminal["usage"]["output_tokens"] == 8
    native = direct(body)
    assert "response.incomplete" not in native and "sequence_number" not in native, "the server has learned: look again"
    status, _, text = request_json("POST", mended.base_url + "/responses", body)
    response = json.loads(text)
    assert status == 200 and response["status"] == "incomplete"
    assert response["output"][0]["content"][0]["text"] == stream.output_text


def test_a_schema_is_enforced(mended, llama):
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
    stream = raw_stream(mended.base_url, {
        "model": llama.model, "input": "Describe.", "temperature": 0,
        "text": {"format": {"type": "json_schema", "name": "thing", "strict": True, "schema": schema}}})
    assert stream.types[-1] == "response.completed", str(stream)
    assert isinstance(json.loads(stream.output_text)["ok"], bool)


def test_calls_and_the_turn_after_them(mended, llama):
    history = solved_calls()
    body = {"model": llama.model, "tools": [WEATHER, {"type": "web_search"}], "temperature": 0, "max_output_tokens": 60}
    first = raw_stream(mended.base_url, {**body, "input": history}, timeout=120)
    calls = [c for c in first.items("function_call") if c["status"] == "completed"]
    assert calls and calls[0]["name"] == "get_weather" and json.loads(calls[0]["arguments"]) == {"city": "Paris"}, str(first)
    assert all(c["id"].startswith("fc_") and c["call_id"].startswith("call_") for c in calls), calls
    history += first.items()
    history += [{"type": "function_call_output", "call_id": c["call_id"], "output": "rain"} for c in first.items("function_call")]
    second = raw_stream(mended.base_url, {**body, "input": history}, timeout=120)
    assert second.items(), str(second)
    assert second.terminal["usage"]["input_tokens_details"]["cached_tokens"] > 0, "the prompt prefix changed"


def test_a_format_beside_tools_lets_the_model_call_and_binds_its_text(mended, llama):
    """The server's own Responses API makes a grammar of a format beside tools, as its chat API does."""
    text_format = {"type": "json_schema", "name": "weather", "strict": True, "schema": {
        "type": "object", "properties": {"rain": {"type": "boolean"}}, "required": ["rain"], "additionalProperties": False}}
    body = {"model": llama.model, "tools": [WEATHER], "temperature": 0, "max_output_tokens": 24, "input": solved_calls(),
            "text": {"format": text_format}}
    first = raw_stream(mended.base_url, body, timeout=120)
    assert first.items()[0]["type"] == "function_call" and not first.items("message"), str(first)
    # its end token is made likely: it says nothing, and is asked for its answer in the format
    second = raw_stream(mended.base_url, {**body, "logit_bias": [[1, 100]]}, timeout=120)
    assert second.types[-1] == "response.completed", str(second)
    (message,) = second.items()
    assert list(json.loads(message["content"][0]["text"])) == ["rain"], str(second)
    usage = second.terminal["usage"]
    assert usage["input_tokens"] - usage["input_tokens_details"]["cached_tokens"] < 120, usage


def test_a_cut_call(mended, llama):
    stream = raw_stream(mended.base_url, {
        "model": llama.model, "tools": [WEATHER], "temperature": 0, "max_output_tokens": 18, "input": solved_calls()}, timeout=120)
    (call,) = stream.items("function_call")
    assert stream.types[-1] == "response.incomplete" and call["status"] == "incomplete", str(stream)


def test_reasoning(rejoinder, thinking_llama):
    proxy = rejoinder(thinking_llama.url, upstream__api="responses")
    history = []
    for question, result in [("2+2", "four"), ("3+3", "six"), ("1+1", "two")]:
        history += [
            {"role": "user", "content": f"What is {question}?"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [
                {"type": "reasoning_text", "text": f"I add {question} and get {result}."}]},
            {"role": "assistant", "content": f"It is {result}."},
        ]
    history.append({"role": "user", "content": "What is 5+5?"})
    body = {"model": thinking_llama.model, "input": history, "temperature": 0}
    stream = raw_stream(proxy.base_url, {**body, "max_output_tokens": 40}, timeout=120)
    reasoning, message = stream.items()
    assert [reasoning["type"], message["type"]] == ["reasoning", "message"], str(stream)
    assert reasoning["summary"][0]["text"].strip() and "encrypted_content" not in reasoning
    cut = raw_stream(proxy.base_url, {**body, "max_output_tokens": 4}, timeout=120)
    (reasoning,) = cut.items()
    assert reasoning["type"] == "reasoning" and cut.types[-1] == "response.incomplete", str(cut)


def test_the_python_library(mended, llama):
    with openai.OpenAI(base_url=mended.base_url, api_key="sk-test", max_retries=0, timeout=60) as client:
        body = {"model": llama.model, "input": "Count: one two", "max_output_tokens": 8, "temperature": 0}
        events = list(client.responses.create(**body, stream=True))
        text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
        response = events[-1].response
        assert response.output_text == text and response.status == "incomplete"
        assert client.responses.create(**body).output_text == text


@pytest.mark.timeout(330)
def test_codex(codex, mended, llama, tmp_path):  # noqa: F811
    """Its namespaces, freeform and hosted tools mean nothing to the server's own endpoint."""
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(
        {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}))
    finished = codex(mended, "Say hi.", "--output-schema", str(schema), model=llama.model, timeout=300)
    assert_turn(finished)
    assert json.loads(messages_printed(finished)[-1]).keys() == {"ok"}, str(finished)
