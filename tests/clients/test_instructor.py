"""The instructor library in its Responses modes: a forced tool and the same schema as the text's format, in one request."""

import asyncio
import json

import instructor
import openai
import pytest
from pydantic import BaseModel, field_validator
from scripted import MODEL, answer, call

pytestmark = [pytest.mark.timeout(90), pytest.mark.judged]

MODES = [instructor.Mode.RESPONSES_TOOLS, instructor.Mode.RESPONSES_TOOLS_WITH_INBUILT_TOOLS]
ASKED = {"messages": [{"role": "user", "content": "Ada is 36 years old."}], "max_tokens": 200}
ADA = {"name": "Ada", "age": 36}


class Person(BaseModel):
    name: str
    age: int

    @field_validator("age")
    @classmethod
    def plausible(cls, age):
        if age > 150:
            raise ValueError("nobody is that old")
        return age


@pytest.fixture(params=MODES, ids=lambda mode: mode.value)
def ask(request, rejoinder, any_upstream):
    """An instructor client of a proxy in front of a scripted server."""
    return client_of(rejoinder(any_upstream.url), request.param)


def client_of(proxy, mode, library=openai.OpenAI):
    client = library(base_url=proxy.base_url, api_key="sk-test", max_retries=0, timeout=30)
    return instructor.from_openai(client, mode=mode, model=MODEL)


def grammar_or_call(calls, text):
    """As llama-server and vLLM do: under a format no call can be written, not even a forced one."""

    def turn(request, reply):
        if "response_format" in request.json:
            answer(text)(request, reply)
        else:
            answer(calls=calls)(request, reply)

    return turn


def assert_forced(request):
    """The upstream was asked for the call alone, in the form that it takes, and for no format."""
    body = request.json
    (name,) = [t["function"]["name"] for t in body["tools"]]
    assert "response_format" not in body
    forced = body["tool_choice"]
    assert forced == "required" or forced == {"type": "function", "function": {"name": name}}, forced


def test_an_object_by_a_forced_tool(ask, any_upstream):
    any_upstream.script(grammar_or_call([call("Person", ADA, "id1")], json.dumps(ADA)))
    assert ask.create(response_model=Person, **ASKED) .model_dump() == ADA
    (request,) = any_upstream.chats
    assert_forced(request)
    assert request.json["max_tokens"] == 200


def test_partial_objects_as_they_stream(ask, any_upstream):
    any_upstream.script(grammar_or_call([call("Person", {"name": "Ada, Countess of Lovelace", "age": 36}, "id1")], "{}"))
    seen = list(ask.create_partial(response_model=Person, **ASKED))
    names = [p.name for p in seen if p.name]
    assert len(set(names)) > 2 and all(names[-1].startswith(n) for n in names), names
    assert (seen[-1].name, seen[-1].age) == ("Ada, Countess of Lovelace", 36)
    assert any_upstream.chats[0].streaming
    assert_forced(any_upstream.chats[0])


def test_a_list_of_objects_as_it_streams(ask, any_upstream):
    people = [ADA, {"name": "Grace", "age": 85}, {"name": "Alan", "age": 41}]
    any_upstream.script(grammar_or_call([call("IterablePerson", {"tasks": people}, "id1")], "{}"))
    assert list(ask.create_iterable(response_model=Person, **ASKED)) == [Person(**p) for p in people]


def test_an_object_that_does_not_hold_is_asked_for_again(ask, any_upstream):
    any_upstream.script(
        grammar_or_call([call("Person", {"name": "Ada", "age": 360}, "id1")], "{}"),
        grammar_or_call([call("Person", ADA, "id2")], "{}"),
    )
    person = ask.create(response_model=Person, max_retries=2, **ASKED)
    assert person .model_dump() == ADA
    first, second = any_upstream.chats
    assert second.messages[: len(first.messages)] == first.messages
    assert "nobody is that old" in json.dumps(second.messages[-1])
    assert_forced(second)


def test_the_asynchronous_client(rejoinder, any_upstream):
    any_upstream.script(*[grammar_or_call([call("Person", ADA, "id1")], "{}")] * 2)
    ask = client_of(rejoinder(any_upstream.url), MODES[0], openai.AsyncOpenAI)

    async def both():
        whole = await ask.create(response_model=Person, **ASKED)
        return whole, [p async for p in ask.create_partial(response_model=Person, **ASKED)][-1]

    whole, last = asyncio.run(both())
    assert whole.model_dump() == ADA and last.model_dump() == ADA


def test_its_json_mode_is_passed_on(rejoinder, any_upstream):
    """This mode speaks Chat Completions, which go to the server as they are."""
    any_upstream.script(answer(json.dumps(ADA)))
    ask = client_of(rejoinder(any_upstream.url), instructor.Mode.JSON_SCHEMA)
    assert ask.create(response_model=Person, **ASKED) .model_dump() == ADA
    (request,) = any_upstream.chats
    assert request.path == "/v1/chat/completions"
    assert request.json["response_format"]["json_schema"]["name"] == "Person"


class City(BaseModel):
    """The weather in a city"""

    city: str


def test_a_real_server_writes_the_object(llama_proxy, llama):
    """Examples make the small model write one more call; under a format it could write none."""
    told = []
    for name in ("Rome", "Oslo", "Cairo", "Lima"):
        written = json.dumps({"name": "City", "arguments": {"city": name}})
        told += [{"role": "user", "content": f"What is the weather in {name}?"},
                 {"role": "assistant", "content": f"<tool_call>\n{written}\n</tool_call>"}]
    told.append({"role": "user", "content": "What is the weather in Paris?"})
    asked = {"messages": told, "max_tokens": 40, "model": llama.model, "temperature": 0, "max_retries": 0}
    ask = client_of(llama_proxy, MODES[0])
    assert list(ask.create_partial(response_model=City, **asked))[-1].city == "Paris"
