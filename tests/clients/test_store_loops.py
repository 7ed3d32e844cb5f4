"""Tool loops that send nothing but outputs and `previous_response_id`: what the upstream gets is the whole history, once."""

import asyncio
import json

import openai
import pytest
from agents import Agent, OpenAIConversationsSession, OpenAIResponsesModel, RunConfig, Runner, function_tool
from harness import HERE, ROOT, client_env, raw_stream, request_json, run
from scripted import MODEL, answer, call

pytestmark = pytest.mark.timeout(120)

ROUNDS = 50
STEP = {"type": "function", "name": "step", "description": "One step", "strict": True,
        "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}}


def round_of(n):
    """What the model says in round n: always a call, sometimes two, sometimes text or reasoning before them."""
    calls = [call("step", {"n": n}, f"id{n}")] + ([call("step", {"n": -n}, f"id{n}b")] if n % 7 == 0 else [])
    return {"text": f"Text {n}." if n % 5 == 0 else "", "reasoning": f"Thought {n}." if n % 3 == 0 else "", "calls": calls}


def history(rounds):
    """What the upstream must be sent after so many rounds."""
    messages = [("system", "Step by step."), ("user", "Count.")]
    for n in range(rounds):
        said = round_of(n)
        messages.append(("assistant", said["text"], said["reasoning"], [(c["name"], json.loads(c["arguments"])) for c in said["calls"]]))
        messages += [("tool", i) for i in range(len(said["calls"]))]
    return messages


def seen(request):
    """A request's messages in the same form; that each output answers its own call is asserted here."""
    messages, open_calls = [], []
    for m in request.messages:
        if m["role"] == "tool":
            nth = [c["id"] for c in open_calls].index(m["tool_call_id"])
            assert m["content"] == f"out of {m['tool_call_id']}", m
            messages.append(("tool", nth))
        elif m["role"] == "assistant":
            open_calls = m.get("tool_calls") or []
            calls = [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in open_calls]
            messages.append(("assistant", m.get("content") or "", m.get("reasoning_content") or "", calls))
        else:
            messages.append((m["role"], m["content"]))
    return messages


def assert_histories(upstream, rounds=ROUNDS):
    assert len(upstream.chats) == rounds + 1
    ids = [c["id"] for m in upstream.chats[-1].messages for c in m.get("tool_calls") or []]
    assert len(ids) == len(set(ids)), "a call's id stands twice in the history"
    for n, request in enumerate(upstream.chats):
        assert seen(request) == history(n), f"round {n}"
        # the same history makes the same bytes, so that the server's prompt cache lives on
        if n:
            before = upstream.chats[n - 1].messages
            assert request.messages[: len(before)] == before


@pytest.fixture
def looping(rejoinder, upstream, store):
    upstream.script(*[answer(**round_of(n), prompt=10 + n) for n in range(ROUNDS)], answer("Done."))
    return rejoinder(upstream.url, **store)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_openai_python(looping, upstream, streamed):
    client = openai.OpenAI(base_url=looping.base_url, api_key="sk-test", max_retries=0, timeout=30)

    def ask(**body):
        if not streamed:
            return client.responses.create(**body)
        with client.responses.stream(**body) as stream:
            for _ in stream:
                pass
            return stream.get_final_response()

    asked, previous, rounds = "Count.", None, 0
    while True:
        response = ask(model=MODEL, instructions="Step by step.", input=asked, tools=[STEP], previous_response_id=previous)
        assert response.previous_response_id == previous and response.usage.input_tokens == (10 + rounds if rounds < ROUNDS else 20)
        calls = [item for item in response.output if item.type == "function_call"]
        if not calls:
            break
        previous, rounds = response.id, rounds + 1
        asked = [{"type": "function_call_output", "call_id": c.call_id, "output": f"out of {c.call_id}"} for c in calls]
    assert (rounds, response.output_text) == (ROUNDS, "Done.")
    assert_histories(upstream)
    # everything can still be fetched, the first turn too
    assert client.responses.retrieve(response.id).output_text == "Done."


@pytest.mark.parametrize("mode", ["loop", "loopstream"])
def test_openai_node(node, looping, upstream, home, mode):
    finished = run([node, HERE / "client.mjs", mode, looping.base_url, MODEL], client_env(home), HERE, timeout=90)
    assert finished.code == 0, str(finished)
    result = json.loads(finished.out)
    assert (result["rounds"], result["text"]) == (ROUNDS, "Done.") and result["previous_response_id"].startswith("resp_")
    assert_histories(upstream)


# ---------------------------------------------------------------- openai-agents


@pytest.fixture(params=["whole", "streamed"])
def agent_run(request, rejoinder, upstream, store):
    proxy = rejoinder(upstream.url, **store)
    ran = []

    @function_tool
    def step(n: int) -> str:
        """One step."""
        ran.append(n)
        return f"stepped {n}"

    start_conversation = lambda: json.loads(request_json("POST", proxy.base_url + "/conversations", {})[2])["id"]

    def start(*prompts, options=lambda last: {}):
        """Runs the prompts one after another; `options(the result before)` are the runner's."""
        async def one(client, prompt, **more):
            agent = Agent("tester", instructions="Step by step.", tools=[step],
                          model=OpenAIResponsesModel(MODEL, openai_client=client))
            more = {"run_config": RunConfig(tracing_disabled=True), "max_turns": 6, **more}
            if request.param == "whole":
                return await Runner.run(agent, prompt, **more)
            result = Runner.run_streamed(agent, prompt, **more)
            async for _ in result.stream_events():
                pass
            return result

        async def main():
            async with openai.AsyncOpenAI(base_url=proxy.base_url, api_key="sk-test", max_retries=0, timeout=30) as client:
                results = []
                for prompt in prompts:
                    more = options(results[-1] if results else None)
                    if "session" in more:
                        more["session"] = more["session"](client)
                    results.append(await one(client, prompt, **more))
                return results

        return asyncio.run(asyncio.wait_for(main(), 60))

    start.ran, start.conversation = ran, start_conversation
    return start


def short(request):
    """(role, text or calls) of each message."""
    return [(m["role"], [json.loads(c["function"]["arguments"])["n"] for c in m.get("tool_calls") or []] or m["content"])
            for m in request.messages]


WANTED = [("system", "Step by step."), ("user", "first"), ("assistant", [1]), ("tool", "stepped 1"), ("assistant", [2, 3]),
          ("tool", "stepped 2"), ("tool", "stepped 3"), ("assistant", "One."), ("user", "second"), ("assistant", [4]),
          ("tool", "stepped 4")]
TURNS = (answer(calls=[call("step", {"n": 1}, "idA")]),
         answer(calls=[call("step", {"n": 2}, "idB"), call("step", {"n": 3}, "idC")]),
         answer("One."), answer(calls=[call("step", {"n": 4}, "idD")]), answer("Two."))


def assert_agent_histories(upstream):
    assert [short(request) for request in upstream.chats] == [WANTED[:n] for n in (2, 4, 7, 9, 11)]


def test_agents_with_previous_response_id(agent_run, upstream):
    """The runner sends the items of its own run again, and names what was before it."""
    upstream.script(*TURNS)
    results = agent_run("first", "second", options=lambda last: {"previous_response_id": last and last.last_response_id})
    assert [r.final_output for r in results] == ["One.", "Two."] and sorted(agent_run.ran) == [1, 2, 3, 4]
    assert_agent_histories(upstream)


def test_agents_with_auto_previous_response_id(agent_run, upstream):
    upstream.script(*TURNS)
    results = agent_run("first", "second", options=lambda last: {
        "previous_response_id": last and last.last_response_id, "auto_previous_response_id": True})
    assert [r.final_output for r in results] == ["One.", "Two."] and sorted(agent_run.ran) == [1, 2, 3, 4]
    assert_agent_histories(upstream)


def test_agents_with_a_conversations_session(agent_run, upstream):
    upstream.script(*TURNS)
    kept = []

    def session(client):
        kept[:] = kept or [OpenAIConversationsSession(openai_client=client)]
        return kept[0]

    results = agent_run("first", "second", options=lambda last: {"session": session})
    assert [r.final_output for r in results] == ["One.", "Two."] and sorted(agent_run.ran) == [1, 2, 3, 4]
    assert_agent_histories(upstream)


def test_agents_with_a_conversation_id(agent_run, upstream):
    """The runner sends the outputs alone: what is before them is the conversation's."""
    upstream.script(*TURNS)
    conversation = agent_run.conversation()
    results = agent_run("first", "second", options=lambda last: {"conversation_id": conversation})
    assert [r.final_output for r in results] == ["One.", "Two."] and sorted(agent_run.ran) == [1, 2, 3, 4]
    assert_agent_histories(upstream)


# ---------------------------------------------------------------- Droid


def droid_request():
    """A request in the form of Droid's, with what its earlier versions added."""
    body = json.loads((ROOT / "fixtures" / "requests" / "droid-first-turn.json").read_text())
    return {**body, "model": MODEL, "store": True, "stream_options": {"include_usage": True},
            "prompt_cache_retention": "24h", "safety_identifier": "user-1"}


def test_droids_continuation(rejoinder, upstream, store):
    proxy = rejoinder(upstream.url, **store)
    body = droid_request()
    upstream.script(answer("Looking.", calls=[call("Read", {"file_path": "/a"}, "idA"), call("Read", {"file_path": "/b"}, "idB")]),
                    answer(calls=[call("Read", {"file_path": "/c"}, "idC")]), answer("Read all of it."))
    first = raw_stream(proxy.base_url, body)
    assert first.terminal["store"] is True and first.terminal["safety_identifier"] == "user-1", str(first)
    stream, paths = first, []
    while calls := stream.items("function_call"):
        paths += [json.loads(c["arguments"])["file_path"] for c in calls]
        outputs = [{"type": "function_call_output", "call_id": c["call_id"], "output": f"content of {paths[-1]}"} for c in calls]
        stream = raw_stream(proxy.base_url, {**body, "input": outputs, "previous_response_id": stream.terminal["id"]})
        assert stream.terminal["usage"]["total_tokens"] == 27, str(stream)
    assert stream.output_text == "Read all of it." and paths == ["/a", "/b", "/c"]
    begun = upstream.chats[0].messages
    assert begun[0]["role"] == "system" and begun[-1]["role"] == "user"
    added = [m["role"] for m in upstream.chats[-1].messages[len(begun):]]
    assert added == ["assistant", "tool", "tool", "assistant", "tool"]
    assert upstream.chats[-1].messages[: len(begun)] == begun and upstream.chats[-1].json["tools"] == upstream.chats[0].json["tools"]
    status, _, text = request_json("GET", f"{proxy.base_url}/responses/{first.terminal['id']}")
    assert status == 200 and json.loads(text) == first.terminal
