"""llama.cpp's own server with a small real model behind rejoinder.

The model is a base model that talks nonsense: the tests assert on shapes, limits and enforced grammar, and on tool
calls that a history of solved calls makes it repeat.
"""

import json
import urllib.request

import pytest
from harness import OpenStream, assert_error, assert_failed, raw_stream, request_json, wait_until

pytestmark = pytest.mark.timeout(170)

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "size": {"type": "string", "enum": ["small", "large"]}},
    "required": ["ok", "size"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def solved_calls():
    """A history in which every question was answered through the tool, so that the model does it again."""
    items = []
    for n, (city, weather) in enumerate([("Rome", "sunny"), ("Oslo", "snow"), ("Cairo", "hot"), ("Lima", "fog")]):
        items += [
            {"role": "user", "content": f"What is the weather in {city}?"},
            {"type": "function_call", "call_id": f"call_{n}", "name": "get_weather",
             "arguments": json.dumps({"city": city})},
            {"type": "function_call_output", "call_id": f"call_{n}", "output": weather},
            {"role": "assistant", "content": f"The weather in {city} is {weather}."},
        ]
    return [*items, {"role": "user", "content": "What is the weather in Paris?"}]


def slots(llama):
    with urllib.request.urlopen(llama.url + "/slots", timeout=10) as reply:
        return json.load(reply)


def busy(llama):
    return any(slot["is_processing"] for slot in slots(llama))


def test_stream(llama_proxy, llama):
    stream = raw_stream(llama_proxy.base_url, {
        "model": llama.model, "input": "Count: one two", "max_output_tokens": 12, "temperature": 0})
    assert stream.types[-1] in ("response.completed", "response.incomplete"), str(stream)
    assert stream.output_text
    response = stream.terminal
    assert response["model"] == llama.model and response["temperature"] == 0
    usage = response["usage"]
    assert usage["input_tokens"] > 0 and 0 < usage["output_tokens"] <= 12
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_without_stream_the_same_text(llama_proxy, llama):
    body = {"model": llama.model, "input": "Count: one two", "max_output_tokens": 12, "temperature": 0}
    status, headers, text = request_json("POST", llama_proxy.base_url + "/responses", body)
    assert status == 200, text
    response = json.loads(text)
    assert response["object"] == "response" and response["status"] in ("completed", "incomplete")
    (message,) = response["output"]
    assert message["content"][0]["text"] == raw_stream(llama_proxy.base_url, body).output_text
    if response["status"] == "incomplete":
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert message["status"] == "incomplete"


def test_a_tool_call_and_the_turn_after_it(llama_proxy, llama):
    history = solved_calls()
    body = {"model": llama.model, "tools": [WEATHER], "temperature": 0, "max_output_tokens": 60}
    first = raw_stream(llama_proxy.base_url, {**body, "input": history}, timeout=120)
    calls = [c for c in first.items("function_call") if c["status"] == "completed"]
    assert calls, str(first)
    assert calls[0]["name"] == "get_weather" and json.loads(calls[0]["arguments"]) == {"city": "Paris"}
    assert len({c["call_id"] for c in calls}) == len(calls) and all(c["call_id"] for c in calls)

    history += first.items()
    history += [{"type": "function_call_output", "call_id": c["call_id"], "output": "rain"} for c in calls]
    second = raw_stream(llama_proxy.base_url, {**body, "input": history}, timeout=120)
    assert second.types[-1] in ("response.completed", "response.incomplete"), str(second)
    assert second.items(), str(second)
    assert second.terminal["usage"]["input_tokens"] > first.terminal["usage"]["input_tokens"]
    assert second.terminal["usage"]["input_tokens_details"]["cached_tokens"] > 0, "the prompt prefix changed"


def test_one_call_is_an_end(llama_proxy, llama):
    """`finish_reason: "tool_calls"`. The end token is made likely, which the grammar allows behind one call alone."""
    body = {"model": llama.model, "tools": [WEATHER], "temperature": 0, "max_output_tokens": 60, "input": solved_calls(),
            "tool_choice": "required", "parallel_tool_calls": False, "logit_bias": [[1, 100]]}
    stream = raw_stream(llama_proxy.base_url, body, timeout=120)
    assert stream.types[-1] == "response.completed", str(stream)
    (call,) = stream.items()
    assert call["status"] == "completed" and json.loads(call["arguments"]) == {"city": "Paris"}


def test_a_call_that_is_cut(llama_proxy, llama):
    """`finish_reason: "length"` within the arguments."""
    body = {"model": llama.model, "tools": [WEATHER], "temperature": 0, "max_output_tokens": 18, "input": solved_calls()}
    stream = raw_stream(llama_proxy.base_url, body, timeout=120)
    assert stream.types[-1] == "response.incomplete", str(stream)
    assert stream.terminal["incomplete_details"] == {"reason": "max_output_tokens"}
    (call,) = stream.items()
    assert call["type"] == "function_call" and call["status"] == "incomplete"


def test_an_answer_that_ends_at_once(llama_proxy, llama):
    """`finish_reason: "stop"` and nothing said: the end token is made certain."""
    body = {"model": llama.model, "input": "Say nothing.", "logit_bias": [[1, 100]], "max_output_tokens": 12}
    stream = raw_stream(llama_proxy.base_url, body)
    status, _, text = request_json("POST", llama_proxy.base_url + "/responses", body)
    assert status == 200, text
    for response in (stream.terminal, json.loads(text)):
        assert response["status"] == "completed", response
        (message,) = response["output"]
        assert message["status"] == "completed" and message["content"][0]["text"] == ""
        assert response["usage"]["output_tokens"] == 1


def test_a_stop_word_is_an_end(llama_proxy, llama):
    body = {"model": llama.model, "input": "Count: one two", "temperature": 0, "max_output_tokens": 12}
    first = raw_stream(llama_proxy.base_url, body).output_text
    word = first.split()[1]
    stream = raw_stream(llama_proxy.base_url, {**body, "stop": [word]})
    assert stream.types[-1] == "response.completed", str(stream)
    assert stream.output_text == first.partition(word)[0]


def test_json_schema_is_enforced(llama_proxy, llama):
    text_format = {"type": "json_schema", "name": "thing", "strict": True, "schema": SCHEMA}
    stream = raw_stream(llama_proxy.base_url, {
        "model": llama.model, "input": "Describe a thing.", "text": {"format": text_format}, "temperature": 0,
        "max_output_tokens": 200})
    assert stream.types[-1] == "response.completed", str(stream)
    thing = json.loads(stream.output_text)
    assert set(thing) == {"ok", "size"} and isinstance(thing["ok"], bool) and thing["size"] in ("small", "large")
    assert stream.terminal["text"]["format"]["schema"] == SCHEMA


def test_a_format_beside_tools_lets_the_model_call_and_binds_its_text(llama_proxy, llama):
    text_format = {"type": "json_schema", "name": "weather", "strict": True, "schema": {
        "type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "rain": {"type": "boolean"}},
        "required": ["city", "rain"], "additionalProperties": False}}
    body = {"model": llama.model, "tools": [WEATHER], "temperature": 0, "max_output_tokens": 60,
            "text": {"format": text_format}}
    history = solved_calls()
    first = raw_stream(llama_proxy.base_url, {**body, "input": history}, timeout=120)
    calls = [c for c in first.items("function_call") if c["status"] == "completed"]
    assert calls and json.loads(calls[0]["arguments"]) == {"city": "Paris"}, str(first)
    assert not first.items("message"), str(first)

    # one call and its output, as the solved ones: the model would call for ever, so its end token is made
    # likely: it says nothing, and is asked for its answer in the format, whose grammar lets it end behind the JSON alone
    body |= {"logit_bias": [[1, 100]]}
    history += [{k: v for k, v in calls[0].items() if k != "id"},
                {"type": "function_call_output", "call_id": calls[0]["call_id"], "output": "rain"}]
    for stream in (True, False):
        if stream:
            response = raw_stream(llama_proxy.base_url, {**body, "input": history}, timeout=120).terminal
        else:
            status, _, text = request_json("POST", llama_proxy.base_url + "/responses", {**body, "input": history}, timeout=120)
            assert status == 200, text
            response = json.loads(text)
        assert response["status"] == "completed", response
        (message,) = [item for item in response["output"] if item["type"] == "message"]
        weather = json.loads(message["content"][0]["text"])
        assert weather["city"] in ("Paris", "Rome") and isinstance(weather["rain"], bool) and len(weather) == 2
        usage = response["usage"]
        # the second request began as the first one and its answer: hardly anything was read anew
        assert usage["input_tokens"] - usage["input_tokens_details"]["cached_tokens"] < 120, usage


def test_an_overflow(llama_proxy, llama):
    body = {"model": llama.model, "input": "word " * 17000}
    status, headers, text = request_json("POST", llama_proxy.base_url + "/responses", body)
    error = assert_error(status, headers, text, 400, code="context_length_exceeded", type="invalid_request_error")
    assert "exceeds the available context size" in error["message"]
    stream = raw_stream(llama_proxy.base_url, body)
    if stream.is_sse:  # on a busy machine counting the tokens takes longer than the status line waits
        assert_failed(stream, "context_length_exceeded")
    else:
        assert_error(stream.status, stream.headers, stream.text, 400, code="context_length_exceeded")


def test_a_hang_up_frees_the_slot(llama_proxy, llama):
    wait_until(lambda: not busy(llama), 30, "an idle server")
    stream = OpenStream(llama_proxy.port, {
        "model": llama.model, "input": "Count to a million: one two three", "max_output_tokens": 10000, "temperature": 0.9})
    assert stream.until("response.output_text.delta")
    assert busy(llama), "the model should still be writing"
    stream.hang_up()
    wait_until(lambda: not busy(llama), 20, "a slot that is free again")


def test_a_full_context_is_not_a_success_without_a_word(llama_proxy, llama):
    """n tokens asked, n tokens given: the limit is told, not hidden."""
    stream = raw_stream(llama_proxy.base_url, {
        "model": llama.model, "input": "Once upon a time there was a", "max_output_tokens": 3, "temperature": 0})
    assert stream.types[-1] == "response.incomplete", str(stream)
    assert stream.terminal["incomplete_details"] == {"reason": "max_output_tokens"}
    assert stream.terminal["usage"]["output_tokens"] == 3


def test_pass_through_is_equal(llama_proxy, llama):
    wait_until(lambda: not busy(llama), 30, "an idle server")
    direct = request_json("GET", llama.url + "/props")
    through = request_json("GET", llama_proxy.url + "/props")
    assert (through[0], json.loads(through[2])) == (direct[0], json.loads(direct[2]))


def test_models_are_listed_with_their_context(llama_proxy, llama):
    wait_until(lambda: not busy(llama), 30, "an idle server")
    direct = json.loads(request_json("GET", llama.url + "/v1/models")[2])
    through = json.loads(request_json("GET", llama_proxy.url + "/v1/models")[2])
    assert through["data"] == direct["data"]
    (model,) = through["models"]
    assert model["slug"] == llama.model
    n_ctx = json.loads(request_json("GET", llama.url + "/props")[2])["default_generation_settings"]["n_ctx"]
    assert model["context_window"] == n_ctx


def test_chat_completions_pass_through(llama_proxy, llama):
    body = {"model": llama.model, "messages": [{"role": "user", "content": "Count: one two"}], "max_tokens": 8,
            "temperature": 0, "seed": 1}
    answers = []
    for url in (llama.url, llama_proxy.url):
        status, _, text = request_json("POST", url + "/v1/chat/completions", body)
        assert status == 200, text
        answers.append(json.loads(text)["choices"])
    assert answers[0] == answers[1]
    status, headers, text = request_json("POST", llama_proxy.url + "/v1/chat/completions", {**body, "stream": True})
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    content = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert content == answers[0][0]["message"]["content"]
    assert text.rstrip().endswith("data: [DONE]")
