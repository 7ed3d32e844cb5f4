"""Reasoning that llama.cpp's own server leaves in the content, between its tags (`--reasoning-format none`).

The history has the small model reason first, in the words of the answers before.
"""

import json

import pytest
from conftest import running_llama
from harness import raw_stream, request_json

pytestmark = pytest.mark.timeout(170)

QUESTIONS = [("Rome", "Italy"), ("Oslo", "Norway"), ("Cairo", "Egypt"), ("Lima", "Peru")]


@pytest.fixture(scope="module", params=["think", "think_itself"])
def tagging_llama(request, tmp_path_factory):
    """The opening tag is the template's own, or the model's."""
    yield from running_llama(
        tmp_path_factory, "--template", request.param, "--reasoning-format", "none", "--slots", "1",
        "--slot-context", "2048")


def history():
    items = []
    for n, (city, country) in enumerate(QUESTIONS):
        items += [
            {"role": "user", "content": f"Which country is {city} in?"},
            {"type": "reasoning", "id": f"rs_{n}", "summary": [
                {"type": "summary_text", "text": f"The user asks about {city}."}]},
            {"role": "assistant", "content": f"{city} is in {country}."},
        ]
    return [*items, {"role": "user", "content": "Which country is Paris in?"}]


def direct(llama, tokens):
    """What the server itself says of it."""
    messages = []
    for city, country in QUESTIONS:
        messages += [
            {"role": "user", "content": f"Which country is {city} in?"},
            {"role": "assistant", "reasoning_content": f"The user asks about {city}.",
             "content": f"{city} is in {country}."},
        ]
    messages.append({"role": "user", "content": "Which country is Paris in?"})
    body = {"messages": messages, "temperature": 0, "max_tokens": tokens}
    status, _, text = request_json("POST", llama.url + "/v1/chat/completions", body)
    assert status == 200, text
    return json.loads(text)["choices"][0]["message"]


def test_tags_in_the_content_are_reasoning(rejoinder, tagging_llama):
    said = direct(tagging_llama, 18)
    # so it is the content that has the reasoning, and not a field that was told apart already
    assert "reasoning_content" not in said and said["content"].startswith("<think>"), said
    inside, _, behind = said["content"].removeprefix("<think>").partition("</think>")
    assert inside.strip() and behind.strip(), said

    proxy = rejoinder(tagging_llama.url)
    body = {"model": tagging_llama.model, "input": history(), "temperature": 0, "max_output_tokens": 18}
    stream = raw_stream(proxy.base_url, body)
    status, _, text = request_json("POST", proxy.base_url + "/responses", body)
    assert status == 200, text
    for output in (stream.items(), json.loads(text)["output"]):
        reasoning, message = output
        assert [reasoning["type"], message["type"]] == ["reasoning", "message"], output
        assert reasoning["summary"][0]["text"] == inside.strip()
        assert message["content"][0]["text"] == behind.lstrip()
    assert stream.types.count("response.reasoning_summary_text.delta") > 2, "it comes as it is written"

    # given back it makes the prompt that the server has in its cache
    again = [*history(), *stream.items(), {"role": "user", "content": "And Berlin?"}]
    usage = raw_stream(proxy.base_url, {**body, "input": again, "max_output_tokens": 1}).terminal["usage"]
    first = stream.terminal["usage"]["input_tokens"]
    assert usage["input_tokens"] > first and usage["input_tokens_details"]["cached_tokens"] > 0.9 * first, usage


def test_a_cut_within_the_reasoning(rejoinder, tagging_llama):
    proxy = rejoinder(tagging_llama.url)
    body = {"model": tagging_llama.model, "input": history(), "temperature": 0, "max_output_tokens": 5}
    stream = raw_stream(proxy.base_url, body)
    assert stream.types[-1] == "response.incomplete", str(stream)
    (reasoning,) = stream.items()
    assert reasoning["type"] == "reasoning" and "<" not in reasoning["summary"][0]["text"], str(stream)


def test_tags_that_are_switched_off_stay_text(rejoinder, tagging_llama):
    proxy = rejoinder(tagging_llama.url, upstream__think_tags="off")
    body = {"model": tagging_llama.model, "input": history(), "temperature": 0, "max_output_tokens": 8}
    stream = raw_stream(proxy.base_url, body)
    (message,) = stream.items()
    assert message["content"][0]["text"].startswith("<think>"), str(stream)
