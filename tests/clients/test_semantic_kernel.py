"""Semantic Kernel's agent for the Responses API: its kernel runs the functions, and its thread is a chain or a history."""

import asyncio
import json

import openai
import pytest
from scripted import MODEL, answer, call
from semantic_kernel.agents import OpenAIResponsesAgent, ResponsesAgentThread
from semantic_kernel.functions import kernel_function

pytestmark = [pytest.mark.timeout(90), pytest.mark.judged]


class Menu:
    def __init__(self):
        self.asked = []

    @kernel_function(description="The price of a dish.")
    def price(self, dish: str) -> str:
        self.asked.append(dish)
        return f"{dish} costs {len(dish)} dollars"


@pytest.fixture(params=["whole", "streamed"])
def talk(request, rejoinder, any_upstream):
    """`talk(store, *questions)` asks them in one thread, and gives the answers and what was asked of the function.
    With `again` each question comes behind all messages of the turns before it."""
    proxy = rejoinder(any_upstream.url)

    def start(store, *questions, again=False):
        async def main():
            async with openai.AsyncOpenAI(base_url=proxy.base_url, api_key="sk-test", max_retries=0, timeout=30) as client:
                menu = Menu()
                agent = OpenAIResponsesAgent(ai_model_id=MODEL, client=client, name="Host", instructions="Be brief.",
                                             plugins=[menu], store_enabled=store)
                thread = ResponsesAgentThread(client=client, enable_store=store)
                answers, told = [], []

                async def tell(message):
                    told.append(message)

                for question in questions:
                    messages = [*told, question] if again else question
                    if request.param == "whole":
                        parts = agent.invoke(messages=messages, thread=thread, on_intermediate_message=tell)
                    else:
                        parts = agent.invoke_stream(messages=messages, thread=thread, on_intermediate_message=tell)
                    answers.append("".join([str(part.message) async for part in parts]))
                return answers, menu.asked

        return asyncio.run(asyncio.wait_for(main(), 60))

    return start


def priced(*dishes):
    """One call of the agent's function for each dish, by the name that it was declared with."""

    def turn(request, reply):
        (name,) = [t["function"]["name"] for t in request.json["tools"]]
        answer(calls=[call(name, {"dish": dish}, f"id{dish}") for dish in dishes])(request, reply)

    return turn


def assert_told(request, *dishes):
    """The model reads each call once, in order, the outputs right behind it, and nothing made up."""
    messages = request.messages
    called = []
    for place, message in enumerate(messages):
        calls = message.get("tool_calls") or []
        outputs = {m["tool_call_id"]: m["content"] for m in messages[place + 1 : place + 1 + len(calls)]}
        for c in calls:
            dish = json.loads(c["function"]["arguments"])["dish"]
            called.append(dish)
            assert outputs[c["id"]] == f"{dish} costs {len(dish)} dollars", messages
    assert called == list(dishes), messages
    assert [m["role"] for m in messages].count("tool") == len(dishes), messages
    assert [m["role"] for m in messages].count("system") == 1, messages


CHAIN_AND_HISTORY = pytest.mark.parametrize("store", [True, False], ids=["chain", "history"])


@CHAIN_AND_HISTORY
def test_two_turns_with_a_call_each(talk, any_upstream, store):
    any_upstream.script(priced("soup"), answer("Four dollars."), priced("pie"), answer("Three dollars."))
    answers, asked = talk(store, "What is the soup?", "And the pie?")
    assert answers == ["Four dollars.", "Three dollars."]
    assert asked == ["soup", "pie"]
    _, second, _, fourth = any_upstream.chats
    assert_told(second, "soup")
    assert_told(fourth, "soup", "pie")
    if store:  # a thread that it keeps itself forgets what was streamed as the answer
        assert [m["content"] for m in fourth.messages if m["role"] == "assistant" and m["content"]] == ["Four dollars."]


def test_a_chain_that_is_told_again_what_it_holds(talk, any_upstream):
    any_upstream.script(priced("soup"), answer("Four dollars."), priced("pie"), answer("Three dollars."))
    answers, asked = talk(True, "What is the soup?", "And the pie?", again=True)
    assert answers == ["Four dollars.", "Three dollars."] and asked == ["soup", "pie"]
    _, second, third, fourth = any_upstream.chats
    assert_told(third, "soup")
    assert third.messages[: len(second.messages)] == second.messages
    assert_told(fourth, "soup", "pie")


@CHAIN_AND_HISTORY
def test_calls_in_parallel(talk, any_upstream, store):
    any_upstream.script(priced("soup", "stew"), answer("Four each."))
    answers, asked = talk(store, "Soup and stew?")
    assert answers == ["Four each."] and sorted(asked) == ["soup", "stew"]
    assert_told(any_upstream.chats[1], "soup", "stew")
