"""What docs/why.md says of llama-server's own `/v1/responses`, asked of the pinned release, and what the same request gets
through rejoinder. A row that fails here is a row to correct there."""

import json

import pytest
from harness import parse_events, request_json

pytestmark = pytest.mark.timeout(170)

SHORT = {"model": "gemma3-270m", "max_output_tokens": 8, "input": "Say hello."}
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
USER = {"role": "user", "content": "hi"}
CUSTOM_CALL = {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "x"}


@pytest.fixture(scope="module")
def native(llama):
    """Asks the server itself."""
    return lambda body=None, path="", method="POST": request_json(method, f"{llama.url}/v1/responses{path}", body, timeout=120)


@pytest.fixture
def ours(rejoinder, llama):
    proxy = rejoinder(llama.url)
    return lambda body=None, path="", method="POST": request_json(method, f"{proxy.base_url}/responses{path}", body, timeout=120)


@pytest.mark.parametrize("more, words", [
    ({"previous_response_id": "resp_1"}, "does not support 'previous_response_id'"),
    ({"input": [USER, CUSTOM_CALL, {"type": "custom_tool_call_output", "call_id": "c1", "output": "ok"}]}, "Cannot determine type of 'item'"),
    ({"input": [{"type": "web_search_call", "id": "ws_1", "status": "completed"}, USER]}, "Cannot determine type of 'item'"),
    ({"input": [{"type": "agent_message", "author": "/root", "recipient": "/root/a", "content": [{"type": "input_text", "text": "hi"}]}]},
     "Cannot determine type of 'item'"),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,aGk="}]}]},
     "'input_file' is not supported"),
])
def test_it_refuses(native, ours, more, words):
    status, _, text = native({**SHORT, **more})
    assert status == 400 and words in text, (status, text)
    if "previous_response_id" not in more:  # nobody stored that one
        status, _, text = ours({**SHORT, **more})
        assert status == 200, text


def test_it_stores_nothing(native, ours):
    for path, method in (("/resp_1", "GET"), ("/resp_1", "DELETE"), ("/resp_1/cancel", "POST"), ("/resp_1/input_items", "GET"), ("/compact", "POST"), ("", "GET")):
        status, _, text = native(SHORT if method == "POST" else None, path, method)
        assert status == 404 and "File Not Found" in text, (path, status, text)
    first = json.loads(ours(SHORT)[2])
    assert ours(None, f"/{first['id']}", "GET")[0] == 200
    status, _, text = ours({**SHORT, "previous_response_id": first["id"]})
    assert status == 200 and json.loads(text)["previous_response_id"] == first["id"], text


@pytest.mark.parametrize("more", [{"conversation": "conv_1"}, {"background": True}])
def test_it_ignores(native, more):
    status, _, text = native({**SHORT, **more})
    assert status == 200 and json.loads(text)["status"] == "completed", (status, text)


def test_it_drops_tools_that_are_no_functions(native, ours):
    """Told by the prompt's length: with a function it is longer, with any other tool it is not."""
    tools = [{"type": "custom", "name": "apply_patch", "description": "Edits files."},
             {"type": "namespace", "name": "n", "description": "A server.", "tools": [FUNCTION]}, {"type": "local_shell"}]
    count = lambda ask, *tools: json.loads(ask({**SHORT, "tools": list(tools)}, "/input_tokens")[2])["input_tokens"]  # noqa: E731
    plain = count(native)
    assert count(native, FUNCTION) > plain
    for tool in tools:
        assert count(native, tool) == plain, tool
        assert count(ours, tool) > plain, tool


def test_its_stream_lacks_members(native, ours):
    def events(ask):
        status, _, text = ask({**SHORT, "stream": True})
        assert status == 200, text
        return [event for event in parse_events(text) if event != "[DONE]"]

    theirs = events(native)
    assert {tuple(sorted({"sequence_number", "output_index", "content_index"} & set(event))) for event in theirs} == {()}
    assert set(theirs[0]["response"]) == {"id", "object", "status"}
    assert theirs[-1]["type"] == "response.completed"  # although the limit was reached
    whole = events(ours)
    assert all("sequence_number" in event for event in whole) and len(whole[0]["response"]) > 25
    assert whole[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_it_takes_values_out_of_range(native, ours):
    assert native({**SHORT, "temperature": 5})[0] == 200
    status, _, text = ours({**SHORT, "temperature": 5})
    assert status == 400 and "decimal_above_max_value" in text


def test_its_overflow_is_not_truncated(native):
    """What rejoinder does there is tested with a scripted server: this one would read 10,000 tokens."""
    turns = [{"role": "user", "content": "a b c d " * 700} for _ in range(9)]
    status, _, text = native({**SHORT, "truncation": "auto", "input": turns})
    assert status == 400 and "exceed_context_size_error" in text, (status, text)
