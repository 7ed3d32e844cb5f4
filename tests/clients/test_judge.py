"""Proof that the judge can fail: sound streams pass, and each thing that is done to them breaks the rule that it should."""

import copy
import json
import re

import pytest
from harness import ROOT
from judge import check, check_sse

USAGE = {
    "input_tokens": 9, "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0}, "output_tokens": 8,
    "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 17}


def response(status, output=(), **more):
    return {
        "id": "resp_1", "object": "response", "created_at": 100, "status": status,
        "completed_at": 101 if status == "completed" else None, "error": None, "incomplete_details": None,
        "output": list(output), "usage": None, "previous_response_id": None, "background": False, "frequency_penalty": 0,
        "instructions": None, "max_output_tokens": None, "max_tool_calls": None, "metadata": {}, "parallel_tool_calls": True,
        "presence_penalty": 0, "prompt_cache_key": None, "safety_identifier": None, "store": True, "temperature": 1,
        "top_logprobs": 0, "top_p": 1, "truncation": "disabled", "model": "m", "service_tier": "default",
        "reasoning": {"effort": None, "summary": None}, "text": {"format": {"type": "text"}}, "tool_choice": "auto",
        "tools": [], **more}


def text_item(index, text, id):
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    at = {"item_id": id, "output_index": index, "content_index": 0}
    item = {"id": id, "type": "message", "role": "assistant"}
    whole = {**part, "text": text}
    return [
        {"type": "response.output_item.added", "output_index": index, "item": {**item, "status": "in_progress", "content": []}},
        {"type": "response.content_part.added", **at, "part": part},
        {"type": "response.output_text.delta", **at, "delta": text[:2], "logprobs": []},
        {"type": "response.output_text.delta", **at, "delta": text[2:], "logprobs": []},
        {"type": "response.output_text.done", **at, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **at, "part": whole},
        {"type": "response.output_item.done", "output_index": index, "item": {**item, "status": "completed", "content": [whole]}}]


def call_item(index, arguments, id):
    at = {"item_id": id, "output_index": index}
    item = {"id": id, "type": "function_call", "name": "f", "call_id": "call_1"}
    return [
        {"type": "response.output_item.added", "output_index": index, "item": {**item, "status": "in_progress", "arguments": ""}},
        {"type": "response.function_call_arguments.delta", **at, "delta": arguments},
        {"type": "response.function_call_arguments.done", **at, "name": "f", "arguments": arguments},
        {"type": "response.output_item.done", "output_index": index,
         "item": {**item, "status": "completed", "arguments": arguments}}]


def stream(*items, status="completed"):
    events = [{"type": "response.created", "response": response("in_progress")},
              {"type": "response.in_progress", "response": response("in_progress")}]
    events += [event for item in items for event in item]
    output = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    more = {"usage": USAGE}
    if status == "incomplete":
        more["incomplete_details"] = {"reason": "max_output_tokens"}
    if status == "failed":
        error = {"code": "server_error", "message": "gone"}
        nested = {**error, "type": "server_error", "param": None}
        events.append({"type": "error", **error, "param": None, "error": nested})
        more = {"error": error}
    text = "".join(part["text"] for item in output if item["type"] == "message" for part in item["content"])
    events.append({"type": f"response.{status}", "response": response(status, output, output_text=text, **more)})
    return numbered(events)


def numbered(events):
    return copy.deepcopy([{**event, "sequence_number": n} for n, event in enumerate(events)])


def sound():
    return stream(text_item(0, "Good day", "msg_1"), call_item(1, '{"a":1}', "fc_1"))


def render(events):
    return "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events) + "data: [DONE]\n\n"


def rules(violations):
    return {re.search(r"\[([a-z._]+)\]", line).group(1) for line in violations}


def at(kind):
    """The events of that type: what is done to the first of them."""
    def change(**members):
        def done(events):
            event = next(e for e in events if e["type"] == kind)
            event.update(members)
            return events
        return done
    return change


def within(kind, member, **members):
    def done(events):
        event = [e for e in events if e["type"] == kind][-1]
        event[member].update(members)
        return events
    return done


def without(*kinds):
    return lambda events: numbered([e for e in events if e["type"] not in kinds])


def twice(kind):
    def done(events):
        n = next(n for n, e in enumerate(events) if e["type"] == kind)
        return numbered(events[: n + 1] + events[n:])
    return done


def swapped(first, second):
    def done(events):
        kinds = [e["type"] for e in events]
        a, b = kinds.index(first), len(kinds) - 1 - kinds[::-1].index(second)
        events[a], events[b] = events[b], events[a]
        return numbered(events)
    return done


def dropped(kind, member, name):
    def done(events):
        event = [e for e in events if e["type"] == kind][-1]
        (event[member] if member else event).pop(name)
        return events
    return done


LAST = "response.completed"
BROKEN = [
    ("life.number", at("response.output_text.delta")(sequence_number=99)),
    ("life.first", without("response.created")),
    ("life.created_twice", twice("response.created")),
    ("life.early", without("response.in_progress")),
    ("life.no_end", without(LAST)),
    ("life.after_end", twice(LAST)),
    ("type.unknown", at("response.output_text.delta")(type="response.output_text.more")),
    ("shape", dropped("response.output_text.delta", None, "item_id")),
    ("shape", at("response.output_text.delta")(output_index="0")),
    ("shape", within(LAST, "response", created_at="100")),
    ("shape", dropped("response.function_call_arguments.delta", None, "delta")),
    ("shape.beyond", at("response.output_text.delta")(mood="good")),
    ("shape.beyond", within(LAST, "response", mood="good")),
    ("shape.null", within("response.output_item.done", "item", namespace=None)),
    ("response.missing", dropped(LAST, "response", "truncation")),
    ("response.null", within(LAST, "response", service_tier=None)),
    ("response.time", within(LAST, "response", completed_at=101.5)),
    ("response.changed", within(LAST, "response", top_p=0.5)),
    ("response.status", within(LAST, "response", status="incomplete")),
    ("response.early", within("response.in_progress", "response", usage=USAGE)),
    ("response.completed_at", within(LAST, "response", completed_at=None)),
    ("response.error", within(LAST, "response", error={"code": "server_error", "message": "gone"})),
    ("response.incomplete_details", within(LAST, "response", incomplete_details={"reason": "max_output_tokens"})),
    ("usage.missing", within(LAST, "response", usage=None)),
    ("usage.total", within(LAST, "response", usage={**USAGE, "total_tokens": 18})),
    ("usage.details", within(LAST, "response", usage={**USAGE, "output_tokens_details": {"reasoning_tokens": 9}})),
    ("usage.zeros", within(LAST, "response", usage={**USAGE, "input_tokens": 0, "total_tokens": 8})),
    ("output.items", within(LAST, "response", output=[])),
    ("output.text", within(LAST, "response", output_text="Good")),
    ("id.prefix", lambda events: json.loads(json.dumps(events).replace("fc_1", "call-1"))),
    ("id.twice", lambda events: json.loads(json.dumps(events).replace("fc_1", "msg_1"))),
    ("item.index", at("response.output_item.added")(output_index=1)),
    ("item.overlap", without("response.output_item.done")),
    ("item.not_done", without("response.output_item.done")),
    ("item.id", at("response.output_text.delta")(item_id="msg_9")),
    ("item.status", within("response.output_item.done", "item", status="in_progress")),
    ("item.full", within("response.output_item.added", "item", arguments="{}")),
    ("item.changed", within("response.output_item.done", "item", name="g")),
    ("item.text", within("response.output_item.done", "item", arguments='{"a":2}')),
    ("item.closed", without("response.output_item.added")),
    ("item.type", lambda events: [{**e, "type": e["type"].replace("function_call_arguments.delta", "custom_tool_call_input.delta")}
                                  for e in events]),
    ("item.incomplete", within("response.output_item.done", "item", status="incomplete")),
    ("item.parts", without("response.content_part.added", "response.output_text.delta", "response.output_text.done",
                           "response.content_part.done")),
    ("input.not_done", without("response.function_call_arguments.done")),
    ("part.index", at("response.content_part.added")(content_index=1)),
    ("part.open", without("response.content_part.done")),
    ("part.closed", without("response.content_part.added")),
    ("part.full", within("response.content_part.added", "part", text="G")),
    ("part.type", lambda events: [
        {**e, "part": {"type": "refusal", "refusal": "Good day"}} if e["type"] == "response.content_part.done" else e
        for e in events]),
    ("text.not_done", without("response.output_text.done")),
    ("text.differs", at("response.output_text.done")(text="Good dax")),
    ("text.differs", within("response.content_part.done", "part", text="Good dax")),
    ("text.after_done", twice("response.output_text.done")),
    ("text.empty", at("response.output_text.delta")(delta="")),
    ("annotation.differs", within("response.content_part.done", "part", annotations=[
        {"type": "url_citation", "start_index": 0, "end_index": 1, "url": "u", "title": "t"}])),
]


@pytest.mark.parametrize("rule,change", BROKEN, ids=[f"{n}-{rule}" for n, (rule, _) in enumerate(BROKEN)])
def test_each_rule_can_be_broken(rule, change):
    assert check(sound()) == []
    assert rule in rules(check(change(sound())))


def test_streams_that_are_sound_pass():
    for events in (sound(), stream(status="failed"), stream(text_item(0, "Good day", "msg_1"), status="incomplete")):
        assert check(events) == []
        assert check_sse(render(events)) == []
    cut = stream(call_item(0, '{"a":', "fc_1"), status="incomplete")
    for event in cut:
        for item in [event.get("item", {}), *event.get("response", {}).get("output", [])]:
            item.update({"status": "incomplete"} if item.get("status") == "completed" else {})
    assert check(without("response.function_call_arguments.done")(cut)) == []


@pytest.mark.parametrize("rule,change", [
    ("error.keys", within("error", "error", status=500)),
    ("error.keys", dropped("error", None, "error")),
    ("error.forms", within("error", "error", message="another")),
    ("error.code", at("error")(code=None)),
    ("life.no_error", without("error")),
    ("life.after_error", twice("error")),
    ("response.error", within("response.failed", "response", error={"code": "server_error", "message": "another"})),
])
def test_failures_are_judged(rule, change):
    assert rule in rules(check(change(stream(status="failed"))))


@pytest.mark.parametrize("rule,change", [
    ("sse.no_done", lambda text: text.removesuffix("data: [DONE]\n\n")),
    ("sse.after_done", lambda text: text + "data: [DONE]\n\n"),
    ("sse.end", lambda text: text[:-1]),
    ("sse.lines", lambda text: text.replace("data: {", "data: {\ndata: ", 1)),
    ("sse.json", lambda text: text.replace("data: {", "data: {{", 1)),
    ("sse.name", lambda text: text.replace("event: response.created", "event: response.queued", 1)),
])
def test_the_wire_is_judged(rule, change):
    assert rule in rules(check_sse(change(render(sound()))))


def test_what_the_request_says_comes_back():
    assert check(sound(), {"store": True, "input": "hi", "instructions": None}) == []
    for request in ({"store": False}, {"metadata": {"a": "b"}}, {"tools": [{"type": "web_search"}]}):
        assert rules(check(sound(), request)) == {"echo"}


def test_streams_in_the_form_of_openai():
    """Which rules go beyond what OpenAI itself keeps to."""
    beyond = {
        "response.changed",  # service_tier becomes another one
        "output.text",  # the libraries make it
        "item.status",  # reasoning has none
        "shape", "life.no_error",  # its error event has the nested form only
        "shape.beyond"}  # padding of deltas
    broken = set()
    for path in sorted((ROOT / "fixtures" / "openai").glob("*.jsonl")):
        events = []
        for line in path.read_text().splitlines():
            events.append(json.loads(line))
            if events[-1]["type"] in ("response.completed", "response.failed"):
                found = check(events)
                assert rules(found) <= beyond, (path.name, found)
                broken |= rules(found)
                events = []
    assert broken == beyond
