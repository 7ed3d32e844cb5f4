"""The WebSocket clients of the official libraries, Python's sync and async, and Node's (socket_client.mjs)."""

import asyncio
import json
import threading

import openai
import pytest
from harness import HERE, client_env, run
from scripted import MODEL, answer, answer_chunks, call, text_then, text_then_hold
from socket_tap import ENDS, SocketTap

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def tap(proxy):
    """What a client reads goes through it, and each response that comes whole is judged."""
    tap = SocketTap(proxy.port)
    yield tap
    tap.stop()
    assert set(tap.heads) == {"GET /v1/responses"}, tap.heads
    tap.judge()


@pytest.fixture
def client(tap):
    with openai.OpenAI(base_url=tap.url + "/v1", api_key="sk-test", max_retries=0, timeout=30) as client:
        yield client


def take(connection):
    """The events up to the end of a response, or to an error that is no response's."""
    events = []
    for event in connection:
        events.append(event)
        if event.type in ENDS or (event.type == "error" and event.sequence_number is None):
            return events
    raise AssertionError(f"the connection ended behind {events}")


def ask(connection, input, previous=None, **more):
    connection.response.create(model=MODEL, input=input, store=False, previous_response_id=previous, **more)
    return take(connection)


def completed(events):
    assert events[-1].type == "response.completed", events[-1]
    return events[-1].response


def test_several_turns_of_a_conversation_that_is_not_stored(client, upstream):
    upstream.script(answer("One."), answer("Two."), answer("Three."))
    with client.responses.connect() as connection:
        first = completed(ask(connection, "1?"))
        assert first.output_text == "One." and first.usage.total_tokens == 27
        second = completed(ask(connection, "2?", first.id))
        third = completed(ask(connection, "3?", second.id))
        assert third.output_text == "Three." and third.previous_response_id == second.id
    said = [m["content"] for m in upstream.chats[2].messages]
    assert said == ["1?", "One.", "2?", "Two.", "3?"]


def test_a_tool_in_two_rounds(client, upstream):
    upstream.script(answer(calls=[call("get_weather", {"city": "Paris"}, "idP")]), answer("It is dry."))
    tools = [{"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}]
    with client.responses.connect() as connection:
        first = completed(ask(connection, "Weather in Paris?", tools=tools))
        (item,) = first.output
        assert item.name == "get_weather" and json.loads(item.arguments) == {"city": "Paris"}
        output = [{"type": "function_call_output", "call_id": item.call_id, "output": "dry"}]
        assert completed(ask(connection, output, first.id, tools=tools)).output_text == "It is dry."
    assert [m["role"] for m in upstream.chats[1].messages] == ["user", "assistant", "tool"]


def test_an_unknown_id_and_one_of_another_connection(client, upstream):
    upstream.script(repeat=answer("Yes."))
    with client.responses.connect() as connection:
        (error,) = ask(connection, "x", "resp_unknown")
        assert (error.status, error.error.code, error.error.param) == (
            400, "previous_response_not_found", "previous_response_id")
        known = completed(ask(connection, "x"))
    with client.responses.connect() as other:
        (error,) = ask(other, "x", known.id)
        assert error.error.code == "previous_response_not_found"
        fresh = completed(ask(other, "x"))
        completed(ask(other, "y", fresh.id))


def test_a_failed_continuation_is_forgotten(client, upstream):
    upstream.script(repeat=answer("Yes."))
    with client.responses.connect() as connection:
        first = completed(ask(connection, "x"))
        (error,) = ask(connection, [{"type": "function_call_output", "call_id": "call_none", "output": "x"}], first.id)
        assert error.status == 400 and error.error.type == "invalid_request_error"
        (error,) = ask(connection, "y", first.id)
        assert error.error.code == "previous_response_not_found"
        completed(ask(connection, "x"))


def test_a_client_that_goes_cancels_its_response(client, upstream):
    upstream.script(text_then_hold("Once upon a time"))
    with client.responses.connect() as connection:
        connection.response.create(model=MODEL, input="A story.")
        next(event for event in connection if event.type == "response.output_text.delta")
    upstream.wait_for(lambda u: u.chats[0].disconnected.is_set(), 15, "the upstream sees the end")


def test_two_lanes_at_once(client, upstream):
    """The first lane holds until the second has ended."""
    ended = threading.Event()

    def slow(request, reply):
        ended.wait(30)
        answer("Slow.")(request, reply)

    upstream.script(repeat=lambda request, reply: (slow if "slow" in str(request.messages) else answer("Quick."))(request, reply))
    with client.responses.connect() as connection:
        connection.response.create(model=MODEL, input="slow", store=False, stream_id="a")
        connection.response.create(model=MODEL, input="quick", store=False, stream_id="b")
        events = []
        while sum(event.type in ENDS for event in events) < 2:
            event = connection.recv()
            events.append(event)
            if event.type in ENDS:
                ended.set()
    lanes = [(event.stream_id, event.response.output_text) for event in events if event.type in ENDS]
    assert lanes == [("b", "Quick."), ("a", "Slow.")]
    assert {event.stream_id for event in events} == {"a", "b"}


def test_a_warm_up_is_continued(client, upstream):
    upstream.warm_ups = []
    upstream.script(answer("Ready."))
    with client.responses.connect() as connection:
        warm = completed(ask(connection, "context", generate=False))
        assert warm.output == []
        assert completed(ask(connection, "Now?", warm.id)).output_text == "Ready."
    assert [m["content"] for m in upstream.chats[0].messages] == ["context", "Now?"]
    assert len(upstream.warm_ups) == 1


def test_input_for_a_response_that_runs(client, upstream):
    go = threading.Event()

    def end(reply):
        go.wait(30)
        for c in answer_chunks("llama", " a time.")[1:]:
            reply.event(c)
        reply.done()
        reply.end()

    upstream.script(text_then("Once upon", end), answer("In short: once."))
    with client.responses.connect() as connection:
        connection.response.create(model=MODEL, input="A story.", store=False)
        begun = next(event for event in connection if event.type == "response.created")
        connection.response.steer(previous_response_id=begun.response.id, input="Be brief.")
        accepted = next(event for event in connection if event.type.startswith("response.steer"))
        assert accepted.type == "response.steer.accepted" and accepted.steer.previous_response_id == begun.response.id
        go.set()
        assert completed(take(connection)).output_text == "Once upon a time."
        second = completed(take(connection))
        assert (second.output_text, second.previous_response_id) == ("In short: once.", begun.response.id)
    assert [m["content"] for m in upstream.chats[1].messages] == ["A story.", "Once upon a time.", "Be brief."]


def test_the_async_client_dispatches_events(tap, upstream):
    upstream.script(answer("One."), answer("Two."))

    async def main():
        texts = []
        async with openai.AsyncOpenAI(base_url=tap.url + "/v1", api_key="sk-test", max_retries=0) as client:
            async with client.responses.connect() as connection:

                @connection.on("response.completed")
                async def ended(event):
                    texts.append(event.response.output_text)
                    if len(texts) == 2:
                        await connection.close()
                    else:
                        await connection.response.create(
                            model=MODEL, input="2?", store=False, previous_response_id=event.response.id)

                await connection.response.create(model=MODEL, input="1?", store=False)
                await connection.dispatch_events()
        return texts

    assert asyncio.run(main()) == ["One.", "Two."]


@pytest.mark.timeout(200)
def test_a_real_server_makes_the_prompt_ready(rejoinder, llama):
    """The prompt of a warm-up is in llama.cpp's cache when the response that continues it comes. It is no longer than the
    model's window of attention: of a longer one llama.cpp cannot take back the end."""
    proxy = rejoinder(llama.url)
    context = "The quick brown fox jumps over the lazy dog. " * 30
    with openai.OpenAI(base_url=proxy.base_url, api_key="sk-test", max_retries=0) as client:
        with client.responses.connect() as connection:
            connection.response.create(model=llama.model, input=context, store=False, generate=False)
            warm = completed(take(connection))
            assert warm.output == [] and warm.usage.input_tokens > 280, warm
            connection.response.create(
                model=llama.model, input="Say hi.", store=False, previous_response_id=warm.id, max_output_tokens=8)
            events = take(connection)
            assert events[-1].type in ("response.completed", "response.incomplete"), events[-1]
            usage = events[-1].response.usage
            assert usage.input_tokens_details.cached_tokens > 280, usage


@pytest.fixture
def script(node, tap, home):
    def start(mode):
        finished = run([node, HERE / "socket_client.mjs", mode, tap.url + "/v1", MODEL], client_env(home), HERE, timeout=60)
        assert finished.code == 0, str(finished)
        return json.loads(finished.out)

    return start


def test_node_turns(script, upstream):
    upstream.script(answer("One."), answer("Two."), answer("Three."))
    assert script("turns") == {"texts": ["One.", "Two.", "Three."]}
    assert [m["content"] for m in upstream.chats[2].messages] == ["1?", "One.", "2?", "Two.", "3?"]


def test_node_unknown_and_failed(script, upstream):
    upstream.script(repeat=answer("Yes."))
    assert script("failed") == {"unknown": [400, "previous_response_not_found"], "orphan": 400,
                                "evicted": [400, "previous_response_not_found"], "fresh": "Yes."}


def test_node_lanes(script, upstream):
    quick, waited = threading.Event(), []

    def turn(request, reply):
        if "slow" in str(request.messages):
            waited.append(quick.wait(30))
            answer("Slow.")(request, reply)
        else:
            answer("Quick.")(request, reply)
            quick.set()

    upstream.script(repeat=turn)
    assert sorted(script("lanes")["ended"]) == [["a", "Slow."], ["b", "Quick."]]
    assert waited == [True], "the second lane waited for the first"


def test_node_cancel(script, upstream):
    upstream.script(text_then_hold("Once upon a time"))
    assert script("cancel") == {"left": True}
    upstream.wait_for(lambda u: u.chats[0].disconnected.is_set(), 15, "the upstream sees the end")
