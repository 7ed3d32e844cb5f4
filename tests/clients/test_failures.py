"""Everything that can go wrong with an upstream, over raw HTTP: each outcome has one right answer."""

import http.client
import json
import re
import signal
import time

import pytest
from harness import (
    OpenStream, Stream, answers_200, assert_error, assert_failed, assert_stream, free_port, parse_events, raw_stream,
    request_json, wait_until,
)
from scripted import (
    LLAMA_LOADING, LLAMA_OVERFLOW, MODEL, VLLM_OVERFLOW, VLLM_UNKNOWN_MODEL, Reply, Upstream, answer, answer_chunks, call, chunk,
    held_then, refuse, text_then, text_then_cut, text_then_hold, text_then_write, usage_chunk,
)

pytestmark = pytest.mark.timeout(90)
HELLO = {"model": MODEL, "input": "Hi."}


def post(proxy, body, **kw):
    return request_json("POST", proxy.base_url + "/responses", body, **kw)


def both_ways(proxy, body=HELLO):
    """The same request without and with `stream`: an error before the first event is the same HTTP error for both."""
    for stream in (False, True):
        yield post(proxy, {**body, "stream": stream})


def retry_after(headers):
    value = headers["retry-after"]
    assert value is not None and re.fullmatch(r"[0-9]+", value), f"Retry-After: {value}"
    return int(value)


def assert_still_works(proxy, upstream):
    upstream.script(answer("Still here."))
    stream = raw_stream(proxy.base_url, HELLO)
    assert stream.types[-1] == "response.completed" and stream.output_text == "Still here.", str(stream)


# ---------------------------------------------------------------- before the first event


def test_nobody_listens_upstream(rejoinder):
    proxy = rejoinder(f"http://127.0.0.1:{free_port()}", ready="/healthz", upstream__ready_timeout="300ms")
    for status, headers, text in both_ways(proxy):
        assert_error(status, headers, text, 503)
        assert retry_after(headers) >= 1
    assert not answers_200(proxy.admin_url + "/readyz")


def test_an_upstream_that_comes_up_later(rejoinder):
    port = free_port()
    proxy = rejoinder(f"http://127.0.0.1:{port}", ready="/healthz", upstream__probe_interval="1s", upstream__ready_timeout="300ms")
    status, headers, text = post(proxy, HELLO)
    assert_error(status, headers, text, 503)
    with Upstream("llama", port) as upstream:
        wait_until(lambda: answers_200(proxy.admin_url + "/readyz"), 30, "ready once the upstream is")
        assert_still_works(proxy, upstream)


def test_an_upstream_that_loads_its_model(proxy, upstream):
    upstream.script(repeat=refuse(503, LLAMA_LOADING))
    for status, headers, text in both_ways(proxy):
        assert_error(status, headers, text, 503)
        assert retry_after(headers) >= 1


@pytest.mark.parametrize("given", ["7", None])
def test_a_busy_upstream(proxy, upstream, given):
    body = {"error": {"code": 429, "message": "too many requests", "type": "rate_limit_error"}}
    upstream.script(repeat=refuse(429, body, [("Retry-After", given)] if given else []))
    for status, headers, text in both_ways(proxy):
        error = assert_error(status, headers, text, 429)
        assert "too many requests" in error["message"]
        assert retry_after(headers) == 7 if given else retry_after(headers) >= 1


def test_a_gateway_in_between_answers_html(proxy, upstream):
    page = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
    upstream.script(repeat=refuse(502, page, content_type="text/html"))
    for status, headers, text in both_ways(proxy):
        error = assert_error(status, headers, text, 502)
        assert "<html" not in error["message"], error


def test_a_page_with_status_200(proxy, upstream):
    upstream.script(repeat=refuse(200, b"<html>Please log in</html>", content_type="text/html"))
    for status, headers, text in both_ways(proxy):
        if status == 200:  # a stream may have begun by then
            events = [e for e in parse_events(text) if e != "[DONE]"]
            assert [e["type"] for e in events][-2:] == ["error", "response.failed"], text
        else:
            assert_error(status, headers, text, 502)


def test_a_template_error_is_the_requests_fault(proxy, upstream):
    message = "Jinja Exception: Conversation roles must alternate user/assistant/user/assistant/..."
    upstream.script(repeat=refuse(500, {"error": {"code": 500, "message": message, "type": "server_error"}}))
    for status, headers, text in both_ways(proxy):
        error = assert_error(status, headers, text, 400, type="invalid_request_error")
        assert message in error["message"]


def test_an_overflow(rejoinder, any_upstream):
    overflow = VLLM_OVERFLOW if any_upstream.flavour == "vllm" else LLAMA_OVERFLOW
    any_upstream.script(repeat=refuse(400, overflow))
    for status, headers, text in both_ways(rejoinder(any_upstream.url)):
        error = assert_error(status, headers, text, 400, code="context_length_exceeded", type="invalid_request_error")
        assert "context_length_exceeded" in error["message"] and "context" in error["message"]


@pytest.mark.parametrize("headers", [
    {"originator": "codex_exec"}, {"originator": "Codex Desktop"}, {"user-agent": "codex_cli_rs/0.171.0"},
    {"originator": "other", "user-agent": "codex-tui/0.171.0"}])
def test_an_overflow_for_codex(rejoinder, any_upstream, headers):
    """Codex 0.163, which the Codex SDK pins, knows an overflow from `response.failed` alone."""
    overflow = VLLM_OVERFLOW if any_upstream.flavour == "vllm" else LLAMA_OVERFLOW
    any_upstream.script(repeat=refuse(400, overflow))
    proxy = rejoinder(any_upstream.url)
    message = assert_failed(raw_stream(proxy.base_url, HELLO, headers=headers), "context_length_exceeded")["message"]
    assert message.startswith("Your input exceeds the context window of this model. "), message
    assert overflow["error"]["message"].split("(")[0] in message and message.endswith(" (context_length_exceeded)"), message
    assert "retry" not in message, message
    # without a stream there is nothing but a status
    assert_error(*post(proxy, HELLO, headers=headers), 400, code="context_length_exceeded")


def test_another_refusal_for_codex_is_a_status(proxy, upstream):
    upstream.script(repeat=refuse(400, {"error": {"code": 400, "message": "no", "type": "invalid_request_error"}}))
    assert_error(*post(proxy, {**HELLO, "stream": True}, headers={"originator": "codex_exec"}), 400)


def test_a_servers_own_failure_is_told_as_its(rejoinder, upstream):
    """Neither its words nor our counters let it look like a defect of ours."""
    body = {"error": {"code": 500, "message": "Internal Server Error", "type": "server_error"}}
    upstream.script(repeat=refuse(500, body))
    proxy = rejoinder(upstream.url)
    for status, headers, text in both_ways(proxy):
        error = assert_error(status, headers, text, 500)
        assert error["message"] == "The upstream server failed: Internal Server Error"
    _, _, metrics = request_json("GET", proxy.admin_url + "/metrics")
    assert 'rejoinder_errors_total{kind="upstream_error"} 2' in metrics, metrics


@pytest.mark.parametrize("body", [
    [{"error": {"code": 400, "message": "schema too deep", "status": "INVALID_ARGUMENT"}}]])
def test_an_error_in_a_list(proxy, upstream, body):
    upstream.script(repeat=refuse(400, body))
    for status, headers, text in both_ways(proxy):
        assert assert_error(status, headers, text, 400)["message"] == "schema too deep"
    upstream.script(text_then_write("Half", b"data: " + json.dumps(body).encode() + b"\n\n"))
    assert assert_failed(raw_stream(proxy.base_url, HELLO))["message"] == "schema too deep"


def test_too_many_output_tokens_are_no_overflow(rejoinder):
    message = ("max_tokens=5000 cannot be greater than max_model_len=4096. Please request fewer output tokens. "
               "(parameter=max_tokens, value=5000)")
    body = {"error": {"message": message, "type": "BadRequestError", "param": "max_tokens", "code": 400}}
    with Upstream("vllm") as upstream:
        upstream.script(repeat=refuse(400, body))
        for status, headers, text in both_ways(rejoinder(upstream.url)):
            error = assert_error(status, headers, text, 400)
            assert error["code"] != "context_length_exceeded", error


def test_an_unknown_model(rejoinder):
    with Upstream("vllm") as upstream:
        upstream.script(repeat=refuse(404, VLLM_UNKNOWN_MODEL))
        for status, headers, text in both_ways(rejoinder(upstream.url)):
            error = assert_error(status, headers, text, 404)
            assert "does not exist" in error["message"]


def test_a_wrong_key(proxy, upstream):
    body = {"error": {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}}
    upstream.script(repeat=refuse(401, body))
    for status, headers, text in both_ways(proxy):
        assert_error(status, headers, text, 401)


def test_a_failure_after_the_stream_began_without_the_upstream(rejoinder, upstream):
    """The upstream reads a long prompt; the client sees life; then the upstream refuses."""
    upstream.script(held_then(refuse(400, LLAMA_OVERFLOW)))
    stream = OpenStream(rejoinder(upstream.url, commit_after="200ms").port, HELLO)
    assert stream.until("response.in_progress")
    upstream.released.set()
    rest = list(stream)
    assert [e["type"] for e in rest][-2:] == ["error", "response.failed"], rest
    assert rest[-1]["response"]["error"]["code"] == "context_length_exceeded"
    assert "context_length_exceeded" in rest[-1]["response"]["error"]["message"]


# ---------------------------------------------------------------- within the stream

IN_STREAM = {
    "llama-server": (
        {"error": {"code": 500, "message": "decode failed", "type": "server_error"}}, False),
    "vllm": (
        {"error": {"message": "decode failed", "type": "InternalServerError", "param": None, "code": 500}}, True),
}


@pytest.mark.parametrize("server", IN_STREAM)
def test_an_error_object_in_the_stream(proxy, upstream, server):
    error, done = IN_STREAM[server]
    data = b"data: " + json.dumps(error).encode() + b"\n\n" + (b"data: [DONE]\n\n" if done else b"")
    upstream.script(text_then_write("Half an ans", data))
    stream = raw_stream(proxy.base_url, HELLO)
    error = assert_failed(stream, "server_error")
    assert "decode failed" in error["message"]
    assert stream.output_text == "Half an ans"
    assert_still_works(proxy, upstream)


def test_an_overflow_in_the_stream(proxy, upstream):
    upstream.script(text_then_write("Half", b"data: " + json.dumps(LLAMA_OVERFLOW).encode() + b"\n\n"))
    assert_failed(raw_stream(proxy.base_url, HELLO), "context_length_exceeded")


def cut_at_once(request, reply):
    reply.start_sse()
    reply.cut()


def cut_in_a_line(request, reply):
    reply.start_sse()
    reply.event(chunk("llama", {"content": "Half"}))
    reply.write(b'data: {"choices":[{"finish_reason":null,"ind')
    reply.cut()


BROKEN = {
    "cut after some text": text_then_cut("Half an ans"),
    "cut within a line": cut_in_a_line,
    "ended without a finish_reason": text_then("Half an ans", Reply.end),
    "ended with [DONE] within a call": text_then_write(
        "Half", b"data: " + json.dumps(chunk("vllm", {"tool_calls": [{"index": 0, "id": "a", "function": {
            "name": "f", "arguments": "{\"a"}}]})).encode() + b"\n\ndata: [DONE]\n\n"),
    "garbage in a data line": text_then_write("Half an ans", b"data: {this is no json\n\n"),
    "invalid UTF-8": text_then_write("Half", b'data: {"choices":[{"index":0,"delta":{"content":"\xff\xfe"}}]}\n\n'),
    "unknown finish_reason": text_then_write(
        "Half", b"data: " + json.dumps(chunk("vllm", {}, "abort")).encode() + b"\n\ndata: [DONE]\n\n"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_stream_fails_once(proxy, upstream, name):
    upstream.script(BROKEN[name])
    stream = raw_stream(proxy.base_url, HELLO)
    error = assert_failed(stream, "server_error")
    assert error["message"].endswith("You can retry your request. (server_error)"), error
    assert "Half an ans".startswith(stream.output_text)
    assert_still_works(proxy, upstream)


def test_done_is_an_end_without_a_finish_reason(proxy, upstream):
    """So vllm-mlx and NIM end their answers; nothing tells what they cost."""
    upstream.script(text_then_write("A whole answer.", b"data: [DONE]\n\n"))
    stream = raw_stream(proxy.base_url, HELLO, usage=False)
    assert stream.types[-1] == "response.completed" and stream.output_text == "A whole answer.", str(stream)
    assert stream.terminal["usage"] is None


def test_a_stream_that_is_cut_before_any_chunk_is_asked_for_once_more(proxy, upstream):
    """Nothing was generated; but a request that breaks the server twice is not given to it again."""
    cut = cut_at_once
    upstream.script(cut, answer("Again."))
    stream = raw_stream(proxy.base_url, HELLO)
    assert stream.types[-1] == "response.completed" and stream.output_text == "Again.", str(stream)
    assert len(upstream.chats) == 2
    upstream.script(repeat=cut)
    status, headers, text = post(proxy, {**HELLO, "stream": True})
    assert_error(status, headers, text, 502)
    assert len(upstream.chats) == 4


def test_a_stream_without_done_completes(proxy, upstream):
    def turn(request, reply):
        reply.start_sse()
        for c in answer_chunks("llama", "All of it."):
            reply.event(c)
        reply.end()

    upstream.script(turn)
    stream = raw_stream(proxy.base_url, HELLO, usage=False)
    assert stream.types[-1] == "response.completed" and stream.output_text == "All of it.", str(stream)
    assert stream.terminal["usage"] is None, "usage that the upstream never gave must be null"


def test_a_content_filter(proxy, upstream):
    upstream.script(answer("Not th", finish="content_filter"))
    stream = raw_stream(proxy.base_url, HELLO)
    assert stream.types[-1] == "response.incomplete"
    assert stream.terminal["incomplete_details"] == {"reason": "content_filter"}


def test_a_call_cut_by_the_token_limit(proxy, upstream):
    """It must not look like a call that can be executed."""
    upstream.script(answer(calls=[call("get", '{"x":1}', "id1"), call("get", '{"x":', "id2")], finish="length"))
    tool = {"type": "function", "name": "get", "parameters": {"type": "object", "properties": {}}}
    stream = raw_stream(proxy.base_url, {**HELLO, "tools": [tool]})
    assert stream.types[-1] == "response.incomplete"
    assert [(i["status"], i["arguments"]) for i in stream.items("function_call")] == [
        ("completed", '{"x":1}'), ("incomplete", '{"x":')]
    assert stream.types.count("response.function_call_arguments.done") == 1


def test_a_line_of_20_megabytes(proxy, upstream):
    big = "x" * (20 << 20)
    line = b"data: " + json.dumps(chunk("llama", {"content": big})).encode() + b"\n\n"
    end = b"data: " + json.dumps(chunk("llama", {}, "stop")).encode() + b"\n\ndata: [DONE]\n\n"
    upstream.script(text_then_write("Half", line + end))
    begun = time.monotonic()
    status, headers, text = post(proxy, {**HELLO, "stream": True}, timeout=60)
    assert status == 200 and time.monotonic() - begun < 30
    events = [e for e in parse_events(text) if e != "[DONE]"]
    last = events[-1]
    assert last["type"] in ("response.failed", "response.completed"), last["type"]
    if last["type"] == "response.completed":
        assert last["response"]["output"][0]["content"][0]["text"] == "Half" + big
    else:
        assert [e["type"] for e in events][-2] == "error"
    assert_still_works(proxy, upstream)


def test_a_stalled_stream_ends(rejoinder, upstream):
    proxy = rejoinder(upstream.url, upstream__idle_timeout="2s")
    upstream.script(text_then_hold("Half an ans"))
    begun = time.monotonic()
    stream = raw_stream(proxy.base_url, HELLO, timeout=30)
    took = time.monotonic() - begun
    assert_failed(stream, "server_error")
    assert stream.output_text == "Half an ans"
    assert 1.5 < took < 15, took
    upstream.wait_for(lambda u: u.chats[0].disconnected.is_set(), 10, "a given up stream is closed upstream")
    assert_still_works(proxy, upstream)


@pytest.mark.parametrize("turn", [text_then_cut("Half"), refuse(200, b'{"choices": [', content_type="application/json")],
                         ids=["event stream", "half an object"])
def test_without_stream_a_broken_answer_is_an_http_error(proxy, upstream, turn):
    upstream.script(turn)
    status, headers, text = post(proxy, HELLO)
    assert_error(status, headers, text, 502)


def test_life_signs_while_the_upstream_is_silent(rejoinder, upstream):
    """Comments for HTTP middleboxes, `response.in_progress` for Codex, which does not count comments."""
    proxy = rejoinder(upstream.url, heartbeat="300ms", in_progress_after="700ms")

    def turn(request, reply):
        reply.start_sse()
        reply.event(chunk("llama", {"content": "A"}))
        reply.hold()
        if not request.disconnected.is_set():
            for c in answer_chunks("llama", "nd on.")[1:]:
                reply.event(c)
            reply.event(usage_chunk("llama", 20, 4))
            reply.done()
            reply.end()

    upstream.script(turn)
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    connection.request("POST", "/v1/responses", json.dumps({**HELLO, "stream": True}), {"Content-Type": "application/json"})
    lines, comments, repeats = [], 0, 0
    with connection.getresponse() as reply:
        for line in reply:
            lines.append(line)
            comments += line.startswith(b":")
            repeats += line.strip() == b"event: response.in_progress"
            if comments >= 2 and repeats >= 3:
                upstream.released.set()
        text, headers = b"".join(lines).decode(), reply.headers
    connection.close()
    stream = Stream(200, headers, text)
    assert_stream(stream, {**HELLO, "stream": True})
    assert stream.types[-1] == "response.completed" and stream.output_text == "And on."


def test_a_hang_up_reaches_the_upstream(rejoinder, any_upstream):
    proxy = rejoinder(any_upstream.url)
    any_upstream.script(text_then_hold("Half an ans"))
    stream = OpenStream(proxy.port, HELLO)
    assert stream.until("response.output_text.delta")
    stream.hang_up()
    any_upstream.wait_for(lambda u: u.chats[0].disconnected.is_set(), 10, "the upstream sees the hang-up")
    assert_still_works(proxy, any_upstream)


def test_a_drain_lets_an_open_stream_end(rejoinder, upstream):
    proxy = rejoinder(upstream.url)
    proxy.may_end = True

    def turn(request, reply):
        reply.start_sse()
        reply.event(chunk("llama", {"content": "To the "}))
        reply.hold()
        for c in answer_chunks("llama", "end.")[1:]:
            reply.event(c)
        reply.done()
        reply.end()

    upstream.script(turn)
    stream = OpenStream(proxy.port, HELLO)
    assert stream.until("response.output_text.delta")["delta"] == "To the "
    proxy.child.send_signal(signal.SIGTERM)
    wait_until(lambda: not answers_200(proxy.admin_url + "/readyz"), 10, "not ready while it drains")
    assert proxy.alive(), "a drain waits for the open stream"
    upstream.released.set()
    rest = list(stream)
    assert rest[-1]["type"] == "response.completed", rest
    wait_until(lambda: not proxy.alive(), 15, "the end of the drain")
    assert proxy.child.returncode == 0, proxy.text()


# ---------------------------------------------------------------- the client's own mistakes

MISTAKES = {
    "no model": {"input": "Hi."},
    "no input": {"model": MODEL},
    "input is a number": {"model": MODEL, "input": 5},
    "temperature is a word": {**HELLO, "temperature": "hot"},
    "stream is a word": {**HELLO, "stream": "yes"},
    "the body is a list": [1, 2],
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_request(proxy, upstream, name):
    status, headers, text = post(proxy, MISTAKES[name])
    assert_error(status, headers, text, 400, type="invalid_request_error")
    assert not upstream.chats


def test_a_body_that_is_no_json(proxy, upstream):
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    connection.request("POST", "/v1/responses", b'{"model": "x", ', {"Content-Type": "application/json"})
    reply = connection.getresponse()
    assert_error(reply.status, reply.headers, reply.read().decode(), 400, type="invalid_request_error")
    connection.close()
    assert not upstream.chats


def test_a_body_that_is_too_large(rejoinder, upstream):
    proxy = rejoinder(upstream.url, max_body_bytes=2000)
    status, headers, text = post(proxy, {"model": MODEL, "input": "x" * 4000})
    assert_error(status, headers, text, 413, type="invalid_request_error")
    assert not upstream.chats


def test_an_unknown_path_is_the_upstreams(proxy, upstream):
    direct = request_json("GET", upstream.url + "/v1/no-such-thing")
    through = request_json("GET", proxy.base_url + "/no-such-thing")
    assert (through[0], through[2]) == (direct[0], direct[2]) and direct[0] == 404


def test_a_wrong_method(proxy):
    assert_error(*request_json("PUT", proxy.base_url + "/responses", HELLO), 405, type="invalid_request_error")


def test_an_unknown_stored_response(proxy):
    for method in ("GET", "DELETE"):
        assert_error(*request_json(method, proxy.base_url + "/responses/resp_unknown"), 404)


def test_an_unknown_previous_response(proxy, upstream):
    for status, headers, text in both_ways(proxy, {**HELLO, "previous_response_id": "resp_unknown"}):
        error = assert_error(status, headers, text, 400, code="previous_response_not_found")
        assert error["param"] == "previous_response_id"
    assert not upstream.chats


def test_query_strings_are_ignored(proxy, upstream):
    upstream.script(answer("Hello."))
    status, _, text = request_json("POST", proxy.base_url + "/responses?api-version=1", HELLO)
    assert status == 200, text


def test_unknown_items_and_hosted_tools_are_no_error(proxy, upstream):
    upstream.script(answer("Hello."))
    stream = raw_stream(proxy.base_url, {
        "model": MODEL,
        "tools": [{"type": "web_search"}],
        "input": [
            {"role": "user", "content": "Hi."},
            {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}},
            {"type": "brand_new_item", "id": "bn_1"},
            {"role": "user", "content": [{"type": "input_text", "text": "Go on."}, {"type": "brand_new_part"}]},
        ],
    })
    assert stream.types[-1] == "response.completed" and stream.output_text == "Hello.", str(stream)
    assert "tools" not in upstream.chats[0].json


def test_an_unknown_tool_is_no_error(proxy, upstream):
    upstream.script(answer("Hello."))
    status, _, text = post(proxy, {**HELLO, "tools": [{"type": "brand_new_tool", "x": 1}]})
    assert status == 200 and json.loads(text)["status"] == "completed", text
    assert "tools" not in upstream.chats[0].json
