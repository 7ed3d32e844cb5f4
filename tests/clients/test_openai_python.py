"""The official Python library, sync and async, in front of rejoinder."""

import asyncio
import json

import openai
import pytest
from pydantic import BaseModel
from scripted import LLAMA_OVERFLOW, MODEL, answer, call, refuse, text_then_cut, text_then_hold

pytestmark = [pytest.mark.timeout(90), pytest.mark.judged]

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


class City(BaseModel):
    name: str
    population: int


@pytest.fixture
def client(proxy):
    with openai.OpenAI(base_url=proxy.base_url, api_key="sk-test", max_retries=0, timeout=30) as client:
        yield client


def with_async_client(proxy, work):
    async def main():
        async with openai.AsyncOpenAI(base_url=proxy.base_url, api_key="sk-test", max_retries=0, timeout=30) as client:
            return await work(client)

    return asyncio.run(main())


def assert_answer(response, text):
    assert response.status == "completed"
    assert response.output_text == text
    assert response.id.startswith("resp_") and response.output[-1].id.startswith("msg_")
    assert response.usage.input_tokens == 20 and response.usage.output_tokens == 7
    assert response.usage.total_tokens == 27
    assert response.error is None and response.incomplete_details is None


def assert_events(events, text):
    types = [e.type for e in events]
    assert types[:2] == ["response.created", "response.in_progress"] and types[-1] == "response.completed"
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == text
    assert [e.sequence_number for e in events] == list(range(len(events)))


def test_create(client, upstream):
    upstream.script(answer("Hello there."))
    response = client.responses.create(
        model=MODEL, instructions="Be brief.", input="Say hello.", temperature=0.5, top_p=0.9, max_output_tokens=50)
    assert_answer(response, "Hello there.")
    assert (response.temperature, response.top_p, response.max_output_tokens) == (0.5, 0.9, 50)
    assert response.instructions == "Be brief."
    sent = upstream.chats[0].json
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello."}]
    assert (sent["temperature"], sent["top_p"]) == (0.5, 0.9)
    assert 50 in (sent.get("max_tokens"), sent.get("max_completion_tokens"))
    # a llama-server without a stream would not notice a client that leaves
    assert sent["stream"] is True and "tools" not in sent


def test_create_async(proxy, upstream):
    upstream.script(answer("Hello there."))
    assert_answer(with_async_client(proxy, lambda c: c.responses.create(model=MODEL, input="Hi.")), "Hello there.")


def test_stream(client, upstream):
    upstream.script(answer("Hello there, this is a stream.", reasoning="Thinking it over."))
    with client.responses.stream(model=MODEL, input="Hi.") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert_events(events, "Hello there, this is a stream.")
    assert_answer(final, "Hello there, this is a stream.")
    thoughts = [e.delta for e in events if e.type == "response.reasoning_summary_text.delta"]
    assert "".join(thoughts) == "Thinking it over."
    assert [i.type for i in final.output] == ["reasoning", "message"]


def test_stream_async(proxy, upstream):
    upstream.script(answer("Hello there, this is a stream."))

    async def work(client):
        async with client.responses.stream(model=MODEL, input="Hi.") as stream:
            events = [e async for e in stream]
            return events, await stream.get_final_response()

    events, final = with_async_client(proxy, work)
    assert_events(events, "Hello there, this is a stream.")
    assert_answer(final, "Hello there, this is a stream.")


def test_create_with_stream_true(client, upstream):
    upstream.script(answer("Plain events."))
    events = list(client.responses.create(model=MODEL, input="Hi.", stream=True))
    assert_events(events, "Plain events.")
    assert_answer(events[-1].response, "Plain events.")


def test_parse(client, upstream):
    upstream.script(answer('{"name":"Paris","population":2100000}'))
    response = client.responses.parse(model=MODEL, input="A city.", text_format=City)
    assert response.output_parsed == City(name="Paris", population=2100000)
    response_format = upstream.chats[0].json["response_format"]
    assert response_format["type"] == "json_schema"
    assert set(response_format["json_schema"]["schema"]["properties"]) == {"name", "population"}


def test_parse_async(proxy, upstream):
    upstream.script(answer('{"name":"Oslo","population":700000}'))
    response = with_async_client(
        proxy, lambda c: c.responses.parse(model=MODEL, input="A city.", text_format=City))
    assert response.output_parsed == City(name="Oslo", population=700000)


@pytest.mark.parametrize("stream", [False, True], ids=["create", "stream"])
def test_function_tools_in_two_rounds(client, upstream, stream):
    upstream.script(
        answer(calls=[call("get_weather", {"city": "Paris"}, "idP"), call("get_weather", {"city": "Rome"}, "idR")]),
        answer("Paris is dry, Rome is wet."),
    )

    def ask(input):
        if not stream:
            return client.responses.create(model=MODEL, input=input, tools=[WEATHER])
        with client.responses.stream(model=MODEL, input=input, tools=[WEATHER]) as events:
            return events.get_final_response()

    history = [{"role": "user", "content": "Weather in Paris and Rome?"}]
    first = ask(history)
    calls = [i for i in first.output if i.type == "function_call"]
    assert [json.loads(c.arguments) for c in calls] == [{"city": "Paris"}, {"city": "Rome"}]
    assert {c.name for c in calls} == {"get_weather"} and calls[0].call_id != calls[1].call_id
    history += [i.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for i in first.output]
    history += [{"type": "function_call_output", "call_id": c.call_id, "output": w}
                for c, w in zip(calls, ("dry", "wet"))]
    second = ask(history)
    assert second.output_text == "Paris is dry, Rome is wet."

    tool = upstream.chats[0].json["tools"][0]
    assert tool["type"] == "function" and tool["function"]["name"] == "get_weather"
    assert tool["function"]["parameters"] == WEATHER["parameters"]
    user, assistant, *tools = upstream.chats[1].messages
    assert user["role"] == "user"
    ids = [c["id"] for c in assistant["tool_calls"]]
    assert [json.loads(c["function"]["arguments"])["city"] for c in assistant["tool_calls"]] == ["Paris", "Rome"]
    assert [(t["role"], t["tool_call_id"], t["content"]) for t in tools] == [
        ("tool", ids[0], "dry"), ("tool", ids[1], "wet")]


def test_closing_the_stream_cancels_upstream(client, upstream):
    upstream.script(text_then_hold("Once upon a time"))
    with client.responses.create(model=MODEL, input="A story.", stream=True) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                break
    upstream.wait_for(lambda u: u.chats[0].disconnected.is_set(), 15, "the upstream sees the hang-up")


def test_closing_the_async_stream_cancels_upstream(proxy, upstream):
    upstream.script(text_then_hold("Once upon a time"))

    async def work(client):
        stream = await client.responses.create(model=MODEL, input="A story.", stream=True)
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        await asyncio.to_thread(
            upstream.wait_for, lambda u: u.chats[0].disconnected.is_set(), 15, "the upstream sees the hang-up")

    with_async_client(proxy, work)


def test_giving_up_before_the_first_token_cancels_upstream(proxy, upstream):
    """A client that leaves while the model still reads its prompt: nothing was answered yet."""
    upstream.script(lambda request, reply: reply.hold())
    with openai.OpenAI(base_url=proxy.base_url, api_key="sk-test", max_retries=0, timeout=1) as client:
        with pytest.raises(openai.APITimeoutError):
            client.responses.create(model=MODEL, input="Hi.")
    upstream.wait_for(lambda u: u.chats[0].disconnected.is_set(), 15, "the upstream sees the hang-up")


def test_a_token_limit_is_incomplete(client, upstream):
    upstream.script(answer("Cut sho", finish="length"), answer("Cut sho", finish="length"))
    response = client.responses.create(model=MODEL, input="Hi.", max_output_tokens=2)
    assert response.status == "incomplete" and response.incomplete_details.reason == "max_output_tokens"
    assert response.output_text == "Cut sho"
    events = list(client.responses.create(model=MODEL, input="Hi.", max_output_tokens=2, stream=True))
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output[-1].status == "incomplete"


def test_an_overflow_is_a_bad_request_with_its_code(client, upstream):
    upstream.script(repeat=refuse(400, LLAMA_OVERFLOW))
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as raised:
            client.responses.create(model=MODEL, input="Hi.", stream=stream)
        assert raised.value.code == "context_length_exceeded"
        assert "20024" in raised.value.message and "context_length_exceeded" in raised.value.message


def test_a_failure_in_the_stream_raises(client, upstream):
    upstream.script(text_then_cut("Half an ans"))
    with pytest.raises(openai.APIError) as raised:
        list(client.responses.create(model=MODEL, input="Hi.", stream=True))
    assert raised.value.message


def test_models(client):
    assert [m.id for m in client.models.list().data] == [MODEL]


def test_chat_completions_pass_through(client, upstream):
    upstream.script(answer("The old way."), answer("The old way, streamed."))
    messages = [{"role": "user", "content": "Hi."}]
    assert client.chat.completions.create(model=MODEL, messages=messages).choices[0].message.content == "The old way."
    chunks = list(client.chat.completions.create(model=MODEL, messages=messages, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "The old way, streamed."
    assert upstream.chats[0].messages == messages
