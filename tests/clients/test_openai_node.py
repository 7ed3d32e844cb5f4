"""The official Node library (client.mjs) in front of rejoinder."""

import json

import pytest
from harness import HERE, client_env, run
from scripted import LLAMA_OVERFLOW, MODEL, answer, call, refuse, text_then_cut, text_then_hold

pytestmark = [pytest.mark.timeout(90), pytest.mark.judged]


@pytest.fixture
def script(node, proxy, home):
    def start(mode):
        finished = run([node, HERE / "client.mjs", mode, proxy.base_url, MODEL], client_env(home), HERE, timeout=60)
        assert finished.code == 0, str(finished)
        return json.loads(finished.out)

    return start


def test_create(script, upstream):
    upstream.script(answer("Hello there."))
    result = script("create")
    assert result["text"] == "Hello there."
    assert result["response"]["status"] == "completed" and result["response"]["usage"]["total_tokens"] == 27


def test_stream_with_final_response(script, upstream):
    upstream.script(answer("Hello there, this is a stream.", reasoning="Thinking it over."))
    result = script("stream")
    assert result["text"] == "Hello there, this is a stream."
    types = [e["type"] for e in result["events"]]
    assert types[0] == "response.created" and types[-1] == "response.completed"
    deltas = [e["delta"] for e in result["events"] if e["type"] == "response.output_text.delta"]
    assert "".join(deltas) == "Hello there, this is a stream."
    assert [i["type"] for i in result["response"]["output"]] == ["reasoning", "message"]


def test_function_tool_in_two_rounds(script, upstream):
    upstream.script(answer(calls=[call("get_weather", {"city": "Paris"}, "idP")]), answer("It is dry."))
    result = script("tools")
    assert result["text"] == "It is dry."
    (item,) = result["first"]["output"]
    assert item["name"] == "get_weather" and json.loads(item["arguments"]) == {"city": "Paris"}
    assert [m["role"] for m in upstream.chats[1].messages] == ["user", "assistant", "tool"]


def test_leaving_the_loop_cancels_upstream(script, upstream):
    upstream.script(text_then_hold("Once upon a time"))
    assert script("hangup") == {"left": True}
    upstream.wait_for(lambda u: u.chats[0].disconnected.is_set(), 15, "the upstream sees the hang-up")


def test_an_overflow_is_a_bad_request_with_its_code(script, upstream):
    upstream.script(repeat=refuse(400, LLAMA_OVERFLOW))
    result = script("error")
    assert (result["raised"], result["status"], result["code"]) == ("BadRequestError", 400, "context_length_exceeded")


def test_a_failure_in_the_stream_raises(script, upstream):
    upstream.script(text_then_cut("Half an ans"))
    assert script("cut")["raised"] == "APIError"
