"""Conversations that grow too long: Codex compacts and goes on, summaries stand in for what they sum up, old turns go whole."""

import json

import openai
import pytest
from harness import assert_error, assert_failed, raw_stream, request_json
from scripted import LLAMA_OVERFLOW, MODEL, VLLM_OVERFLOW, answer, call, refuse
from test_codex import assert_turn, codex, exec_command, items, messages_printed  # noqa: F401

pytestmark = [pytest.mark.timeout(150), pytest.mark.judged]

NAMED_OPENAI = 'model_providers.r.name="OpenAI"'
LIMIT = ["model_auto_compact_token_limit=20000", "model_context_window=32768"]
PROXYS_PROMPT = "Write a summary of the conversation up to this point"
CODEXS_PROMPT = "CONTEXT CHECKPOINT COMPACTION"


def shown(request):
    return json.dumps(request.messages, ensure_ascii=False)


def last(request):
    return json.dumps(request.messages[-1])


# ---------------------------------------------------------------- Codex


@pytest.mark.parametrize("remote", [False, True], ids=["local", "remote"])
def test_codex_counts_on_exact_usage(codex, rejoinder, any_upstream, remote):
    """What the upstream counted is what Codex adds up: below its limit it goes on, at the limit it compacts first."""
    config = [*LIMIT, NAMED_OPENAI] if remote else LIMIT
    proxy = rejoinder(any_upstream.url)
    any_upstream.script(answer("A first answer.", prompt=1200, output=30, cached=1000), answer("A second answer.", prompt=19950, output=50))
    # what it prints is the sum of the whole thread
    for prompt, resume, (tokens, cached, output) in (
            ("begin", (), (1200, 1000, 30)), ("on", ("resume", "--last"), (1200 + 19950, 1000, 30 + 50))):
        usage = assert_turn(codex(proxy, prompt, *resume, config=config))["usage"]
        cached = cached if any_upstream.flavour == "llama" else 0
        assert (usage["input_tokens"], usage["cached_input_tokens"], usage["output_tokens"]) == (tokens, cached, output), usage
    assert len(any_upstream.chats) == 2, "it compacted below the limit"
    any_upstream.script(answer("SUMMARY-OF-IT", prompt=21000), answer("Going on.", prompt=900, output=8), answer("And on.", prompt=950))
    finished = codex(proxy, "go on", "resume", "--last", config=config)
    assert_turn(finished)
    assert messages_printed(finished)[-1] == "Going on.", str(finished)
    summarise, go_on = any_upstream.chats[2:]
    assert (PROXYS_PROMPT if remote else CODEXS_PROMPT) in last(summarise)
    assert "A second answer." in shown(summarise)
    assert "SUMMARY-OF-IT" in shown(go_on) and "A first answer." not in shown(go_on) and "A second answer." not in shown(go_on)
    assert "go on" in last(go_on) and "tools" in go_on.json
    # 950 tokens later it has forgotten nothing and compacts no more
    finished = codex(proxy, "once more", "resume", "--last", config=config)
    assert_turn(finished)
    assert messages_printed(finished)[-1] == "And on.", str(finished)
    assert "SUMMARY-OF-IT" in shown(any_upstream.chats[4]) and "Going on." in shown(any_upstream.chats[4])


def test_codex_compacts_in_the_middle_of_a_turn(codex, rejoinder, any_upstream):
    any_upstream.script(
        answer("Looking.", calls=[exec_command("echo forty-$((40+2))", "id1")], prompt=25000, output=20),
        answer("SUMMARY-OF-IT", reasoning="What was it all about?", prompt=25100, output=40),
        answer("It printed forty-42.", prompt=1500, output=9))
    finished = codex(rejoinder(any_upstream.url), "run it", config=[*LIMIT, NAMED_OPENAI])
    assert_turn(finished)
    (command,) = items(finished, "command_execution")
    assert command["exit_code"] == 0, str(finished)
    assert messages_printed(finished)[-1] == "It printed forty-42.", str(finished)
    first, summarise, go_on = any_upstream.chats
    assert PROXYS_PROMPT in last(summarise) and "forty-42" in shown(summarise)
    # the prompt's beginning is the same, tools included: the server's cache serves the summary too
    assert summarise.messages[: len(first.messages)] == first.messages and summarise.json["tools"] == first.json["tools"]
    assert "SUMMARY-OF-IT" in shown(go_on) and "run it" in shown(go_on) and "What was it all about?" not in shown(go_on)
    assert PROXYS_PROMPT not in shown(go_on) and not any(m.get("tool_calls") for m in go_on.messages)


# ---------------------------------------------------------------- truncation


def tool_round(n):
    return [{"type": "function_call", "call_id": f"c{n}a", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": f"c{n}b", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": f"c{n}b", "output": f"out {n}b"},
            {"type": "function_call_output", "call_id": f"c{n}a", "output": f"out {n}a"}]


def turn(n, rounds=1):
    return [{"role": "user", "content": f"question {n}"}, *[i for r in range(rounds) for i in tool_round(f"{n}.{r}.")],
            {"role": "assistant", "content": f"answer {n}"}]


HISTORY = [{"role": "developer", "content": "Rules."}, *[i for n in range(9) for i in turn(n, rounds=1 + n % 2)],
           {"role": "user", "content": "the last question"}, *tool_round("z1."), *tool_round("z2.")]


def refused_above(most, overflow, then):
    def play(request, reply):
        (then if len(request.messages) <= most else refuse(400, overflow))(request, reply)

    return play


def assert_whole(messages):
    """No call without its output, no output without its call, nothing but a user's message at the beginning."""
    open_calls = []
    for m in messages:
        if m["role"] == "tool":
            open_calls.remove(m["tool_call_id"])
            continue
        assert not open_calls, messages
        open_calls = [c["id"] for c in m.get("tool_calls") or []]
    assert not open_calls, messages
    assert [m["role"] for m in messages[:2]] == ["system", "user"], messages[:2]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("most", [40, 25, 12, 6])
def test_auto_drops_whole_turns_until_it_fits(rejoinder, any_upstream, most, stream):
    overflow = VLLM_OVERFLOW if any_upstream.flavour == "vllm" else LLAMA_OVERFLOW
    any_upstream.script(repeat=refused_above(most, overflow, answer("Fits.")))
    proxy = rejoinder(any_upstream.url)
    body = {"model": MODEL, "input": HISTORY, "truncation": "auto", "stream": stream}
    if stream:
        assert raw_stream(proxy.base_url, body).output_text == "Fits."
    else:
        status, _, text = request_json("POST", proxy.base_url + "/responses", body)
        assert status == 200 and json.loads(text)["truncation"] == "auto", text
    sizes = [len(request.messages) for request in any_upstream.chats]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes) <= 20, sizes
    assert sizes[-1] <= most < sizes[-2], sizes
    whole = any_upstream.chats[0].messages
    for request in any_upstream.chats:
        messages = request.messages
        assert_whole(messages)
        assert messages[0] == whole[0] and [m for m in messages if m["content"] == "the last question"]
        assert messages[-1] == whole[-1], "the newest stays"
        kept = [m for m in whole if m in messages]
        assert kept == messages, "what is left stands as it stood"


def test_disabled_refuses_and_so_does_what_can_never_fit(rejoinder, any_upstream):
    overflow = VLLM_OVERFLOW if any_upstream.flavour == "vllm" else LLAMA_OVERFLOW
    any_upstream.script(repeat=refuse(400, overflow))
    proxy = rejoinder(any_upstream.url)
    for more in ({}, {"truncation": "disabled"}):
        answered = request_json("POST", proxy.base_url + "/responses", {"model": MODEL, "input": HISTORY, **more})
        assert_error(*answered, 400, code="context_length_exceeded")
    assert len(any_upstream.chats) == 2
    answered = request_json("POST", proxy.base_url + "/responses", {"model": MODEL, "input": HISTORY, "truncation": "auto"})
    assert_error(*answered, 400, code="context_length_exceeded")
    assert 3 < len(any_upstream.chats) < 30, "it gives up when nothing is left to drop"


def test_auto_on_a_chain(rejoinder, upstream, store):
    proxy = rejoinder(upstream.url, **store)
    upstream.script(repeat=refused_above(4, LLAMA_OVERFLOW, answer("Yes.")))
    previous = None
    for n in range(6):
        status, _, text = request_json("POST", proxy.base_url + "/responses", {
            "model": MODEL, "input": f"question {n}", "previous_response_id": previous, "truncation": "auto"})
        assert status == 200, text
        previous = json.loads(text)["id"]
    contents = [m["content"] for m in upstream.chats[-1].messages]
    assert contents in (["question 4", "Yes.", "question 5"], ["question 5"]), contents
    # dropped for the model, not from the record
    items = json.loads(request_json("GET", f"{proxy.base_url}/responses/{previous}/input_items?limit=100&order=asc")[2])["data"]
    assert [i["content"][0]["text"] for i in items if i["role"] == "user"] == [f"question {n}" for n in range(6)]


def test_auto_on_llama_cpp(llama_proxy, llama):
    """Two turns that do not fit each on its own, one that does: the server's own refusal and its own count."""
    client = openai.OpenAI(base_url=llama_proxy.base_url, api_key="sk-test", max_retries=0, timeout=120)
    long = "one two three four five six seven eight nine ten " * 1800
    small = [{"role": "user", "content": "My name is Ada."}, {"role": "assistant", "content": "Hello Ada."}, {"role": "user", "content": "Who am I?"}]
    history = [{"role": "user", "content": long}, {"role": "assistant", "content": "Yes."}] * 2 + small
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(model=llama.model, input=history, max_output_tokens=1)
    assert error.value.code == "context_length_exceeded"
    response = client.responses.create(model=llama.model, input=history, max_output_tokens=1, truncation="auto")
    counted = client.responses.input_tokens.count(model=llama.model, input=small)
    assert response.usage.input_tokens == counted.input_tokens < 200
    stream = raw_stream(llama_proxy.base_url, {"model": llama.model, "input": history, "max_output_tokens": 1})
    if stream.status == 200:
        assert_failed(stream, code="context_length_exceeded")
    else:
        assert_error(stream.status, stream.headers, stream.text, 400, code="context_length_exceeded")


# ---------------------------------------------------------------- counting


@pytest.mark.timeout(300)
def test_input_tokens_are_what_llama_cpp_counts(llama_proxy, llama):
    client = openai.OpenAI(base_url=llama_proxy.base_url, api_key="sk-test", max_retries=0, timeout=120)
    tool = {"type": "function", "name": "get_weather", "description": "The weather in a city", "strict": False,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}
    shared = {"model": llama.model}
    first = client.responses.create(**shared, input="Say hello.", max_output_tokens=1)
    for body in ({"input": "Say hello.", "instructions": "Be brief, and äöü 漢字."}, {"input": turn(1), "tools": [tool]},
                 {"input": "And?", "previous_response_id": first.id}):
        counted = client.responses.input_tokens.count(**shared, **body)
        assert counted.object == "response.input_tokens"
        response = client.responses.create(**shared, **body, max_output_tokens=1)
        assert counted.input_tokens == response.usage.input_tokens > 0, body


def test_input_tokens_by_each_servers_endpoint(rejoinder, any_upstream):
    any_upstream.prompt_tokens = 4321
    proxy = rejoinder(any_upstream.url)
    body = {"model": MODEL, "input": turn(1), "instructions": "Brief.", "tools": [{"type": "function", "name": "f", "parameters": {}}]}
    status, _, text = request_json("POST", proxy.base_url + "/responses/input_tokens", body)
    assert (status, json.loads(text)) == (200, {"object": "response.input_tokens", "input_tokens": 4321})
    (asked,) = [r for r in any_upstream.others if r.path == any_upstream.counts_at]
    any_upstream.script(answer("Hi."))
    request_json("POST", proxy.base_url + "/responses", body)
    # the very messages and tools that a response would be made of
    assert asked.messages == any_upstream.chats[0].messages and asked.json["tools"] == any_upstream.chats[0].json["tools"]
    assert asked.headers["authorization"] == "Bearer sk-test"


def test_input_tokens_of_a_server_without_such_an_endpoint(rejoinder, any_upstream):
    any_upstream.script(answer("H", prompt=777, output=1))
    status, _, text = request_json("POST", rejoinder(any_upstream.url).base_url + "/responses/input_tokens",
                                   {"model": MODEL, "input": "Hi.", "max_output_tokens": 500, "stream": True})
    assert (status, json.loads(text)["input_tokens"]) == (200, 777)
    assert any_upstream.chats[0].json["max_tokens"] == 1 and not any_upstream.chats[0].streaming


# ---------------------------------------------------------------- summaries on demand


def test_compact_endpoint(rejoinder, upstream, store):
    proxy = rejoinder(upstream.url, **store)
    client = openai.OpenAI(base_url=proxy.base_url, api_key="sk-test", max_retries=0, timeout=30)
    upstream.script(answer("First answer."), answer("SUMMARY-OF-IT", prompt=70, output=5), answer("Going on."), answer("On and on."))
    first = client.responses.create(model=MODEL, input="First question.")
    compacted = client.responses.compact(model=MODEL, previous_response_id=first.id, input=[*turn(1), {"role": "user", "content": "Keep me."}])
    assert compacted.object == "response.compaction" and compacted.id.startswith("resp_")
    assert (compacted.usage.input_tokens, compacted.usage.output_tokens) == (70, 5)
    assert [i.type for i in compacted.output] == ["message", "message", "message", "compaction"]
    assert "SUMMARY" not in compacted.output[-1].encrypted_content
    assert PROXYS_PROMPT in last(upstream.chats[1]) and "First answer." in shown(upstream.chats[1])
    response = client.responses.create(model=MODEL, input=[*compacted.output, {"role": "user", "content": "Go on."}])
    assert response.output_text == "Going on."
    contents = [m["content"] for m in upstream.chats[2].messages]
    assert contents[:3] == ["First question.", "question 1", "Keep me."] and contents[-1] == "Go on."
    assert "SUMMARY-OF-IT" in contents[-2] and "answer 1" not in shown(upstream.chats[2])
    client.responses.create(model=MODEL, input="More.", previous_response_id=response.id)
    assert "SUMMARY-OF-IT" in shown(upstream.chats[3])
    status, headers, text = request_json("POST", proxy.base_url + "/responses/compact", {"input": "x"})
    assert assert_error(status, headers, text, 400)["param"] == "model"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_context_management(rejoinder, upstream, store, stream):
    """Below its threshold nothing happens; from there on a summary is made first, and later turns begin with it."""
    upstream.prompt_tokens = lambda request: 2000 if "Long." in shown(request) else 500
    proxy = rejoinder(upstream.url, **store)
    management = {"context_management": [{"type": "compaction", "compact_threshold": 1000}]}

    def ask(text, previous=None):
        body = {"model": MODEL, "input": text, "previous_response_id": previous, **management}
        if stream:
            return raw_stream(proxy.base_url, body).terminal
        status, _, text = request_json("POST", proxy.base_url + "/responses", body)
        assert status == 200, text
        return json.loads(text)

    padding = "x" * 1500
    upstream.script(answer("Short."), answer("SUMMARY-OF-IT"), answer("Third."), answer("Fourth."))
    first = ask(padding + " Begin.")
    assert [i["type"] for i in first["output"]] == ["message"] and len(upstream.chats) == 1
    second = ask("Long.", first["id"])
    assert [i["type"] for i in second["output"]] == ["compaction", "message"], second["output"]
    summarise, go_on = upstream.chats[1:]
    assert PROXYS_PROMPT in last(summarise) and "Short." in shown(summarise)
    assert "SUMMARY-OF-IT" in shown(go_on) and padding not in shown(go_on) and go_on.messages[-1]["content"] == "Long."
    ask("Next.", second["id"])
    third = upstream.chats[3]
    assert "SUMMARY-OF-IT" in shown(third) and padding not in shown(third)
    assert [m["content"] for m in third.messages][-2:] == ["Third.", "Next."]
    # a client that replays everything itself gets the same
    items = [{"role": "user", "content": padding + " Begin."}, *first["output"], {"role": "user", "content": "Long."},
             *second["output"], {"role": "user", "content": "Next."}]
    upstream.script(answer("Fourth."))
    ask(items)
    assert upstream.chats[4].messages == third.messages
