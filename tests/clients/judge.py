"""The judge of a whole stream: the types of openai-python, taken strictly, and the rules that docs/protocol.md names.

`check_sse(text)` gives what is wrong as lines `#<number> <event> [<rule>] <what>`; an empty list is a verdict, too, since
test_judge.py shows that each rule can be broken."""

import json
from functools import cache
from typing import get_args

from openai import BaseModel
from openai.types.responses import ResponseStreamEvent
from pydantic import ValidationError

END = {"response.completed": "completed", "response.incomplete": "incomplete", "response.failed": "failed"}
BEGIN = {"response.created": ("in_progress", "queued"), "response.queued": ("queued",), "response.in_progress": ("in_progress",)}
PREFIX = {
    "message": "msg_", "reasoning": "rs_", "function_call": "fc_", "custom_tool_call": "ctc_", "compaction": "cmp_",
    "local_shell_call": "lsh_", "shell_call": "sh_", "apply_patch_call": "apc_", "tool_search_call": "tsc_"}
# what a Response of OpenAI and one of Open Responses must have between them, and whether it may be null
FIELDS = {
    "id": False, "object": False, "created_at": False, "completed_at": True, "status": False, "background": False, "error": True,
    "incomplete_details": True, "instructions": True, "max_output_tokens": True, "max_tool_calls": True, "model": False,
    "output": False, "parallel_tool_calls": False, "presence_penalty": False, "frequency_penalty": False,
    "previous_response_id": True, "prompt_cache_key": True, "reasoning": False, "safety_identifier": True,
    "service_tier": False, "store": False, "temperature": False, "text": False, "tool_choice": False, "tools": False,
    "top_logprobs": False, "top_p": False, "truncation": False, "usage": True, "metadata": False}
# members that are sent beyond the types, and who wants them
BEYOND = {
    "Response": {"output_text", "input_transformations", "frequency_penalty", "presence_penalty", "store"},  # Open Responses
    "ResponseErrorEvent": {"error"},  # the form that OpenAI itself sends
    "ResponseFunctionCallArgumentsDoneEvent": {"name"},  # OpenAI's own description demands it
    "ResponseFunctionToolCall": {"encrypted_function_args"},  # Codex
    **{f"ResponseShellCallCommand{step}Event": {"item_id"} for step in ("Added", "Delta", "Done")},  # every other event has it
    "ResponseCustomToolCall": {"status"},  # OpenAI's own streams have it
}
# events that OpenAI sends and no published type has
UNTYPED = {f"response.apply_patch_call_operation_diff.{step}" for step in ("delta", "done")}
# items without a status
STATELESS = {"compaction", "mcp_list_tools", "mcp_approval_request"}
# these are left out where they say nothing: Open Responses does not allow null
NEVER_NULL = {"encrypted_content", "phase", "verbosity", "content", "namespace"}
# what a request says and its answer repeats
ECHOED = {
    "instructions", "metadata", "previous_response_id", "store", "background", "max_output_tokens", "max_tool_calls",
    "temperature", "top_p", "presence_penalty", "frequency_penalty", "parallel_tool_calls", "tool_choice", "truncation",
    "prompt_cache_key", "safety_identifier", "user"}
# members of a Response that may change while it goes on
CHANGING = {"status", "completed_at", "error", "incomplete_details", "output", "output_text", "usage"}
# texts in parts: (event of the part, event of the text) -> (type of item, index, type of part, member of the text)
TEXTS = {
    "response.output_text": ("message", "content_index", "output_text", "text"),
    "response.refusal": ("message", "content_index", "refusal", "refusal"),
    "response.reasoning_text": ("reasoning", "content_index", "reasoning_text", "text"),
    "response.reasoning_summary_text": ("reasoning", "summary_index", "summary_text", "text")}
PARTS = {"response.content_part": "content_index", "response.reasoning_summary_part": "summary_index"}
# texts of items: event -> (type of item, member)
INPUTS = {
    "response.function_call_arguments": ("function_call", "arguments"),
    "response.custom_tool_call_input": ("custom_tool_call", "input")}


@cache
def classes():
    """The class of each type of event."""
    union, *_ = get_args(ResponseStreamEvent)
    return {get_args(cls.model_fields["type"].annotation)[0]: cls for cls in get_args(union)}


def beyond(value, path=""):
    """Members that no type knows."""
    if isinstance(value, BaseModel):
        for name in sorted((value.model_extra or {}).keys() - BEYOND.get(type(value).__name__, set())):
            yield f"{path}{name} is no member of {type(value).__name__}"
        for name in type(value).model_fields:
            if name != "tools":  # the client's own are repeated as they came
                yield from beyond(getattr(value, name, None), f"{path}{name}.")
    elif isinstance(value, list):
        for n, element in enumerate(value):
            yield from beyond(element, f"{path}{n}.")


def nulls(value, path=""):
    if isinstance(value, dict):
        for name, inner in value.items():
            if inner is None and name in NEVER_NULL:
                yield f"{path}{name} is null"
            if name != "parameters":  # a client's schema
                yield from nulls(inner, f"{path}{name}.")
    elif isinstance(value, list):
        for n, inner in enumerate(value):
            yield from nulls(inner, f"{path}{n}.")


def check_sse(text, request=None):
    """What is wrong with a stream, as it came over the wire."""
    wrong, events = [], []
    if not text.endswith("\n\n"):
        wrong.append("[sse.end] the last event has no blank line")
    frames = [frame for frame in text.split("\n\n") if any(not line.startswith(":") for line in frame.splitlines())]
    for n, frame in enumerate(frames):
        lines = [line for line in frame.splitlines() if not line.startswith(":")]
        if lines == ["data: [DONE]"]:
            if n + 1 < len(frames):
                wrong.append(f"#{n} [sse.after_done] something follows [DONE]")
            continue
        if len(lines) != 2 or not lines[0].startswith("event: ") or not lines[1].startswith("data: "):
            wrong.append(f"#{n} [sse.lines] {lines}")
            continue
        try:
            event = json.loads(lines[1][6:])
        except ValueError as e:
            wrong.append(f"#{n} [sse.json] {e}")
            continue
        if event.get("type") != lines[0][7:]:
            wrong.append(f"#{n} [sse.name] {lines[0]} names another type than {event.get('type')}")
        events.append(event)
    if not frames or frames[-1].splitlines()[-1] != "data: [DONE]":
        wrong.append("[sse.no_done] no [DONE] at the end")
    return wrong + check(events, request)


def check(events, request=None):
    """What is wrong with these events."""
    judge = Judge(request)
    for event in events:
        judge.take(event)
    judge.end()
    return judge.wrong


class Item:
    def __init__(self, item):
        self.added, self.done = item, None
        # finished parts and the open one, by the list that holds them: (part, text so far, whether its text is done)
        self.parts = {"content_index": [], "summary_index": []}
        self.open = None
        self.text, self.text_done = "", None


class Judge:
    def __init__(self, request):
        self.request, self.wrong, self.items, self.ids = request, [], [], set()
        self.next, self.first, self.progress, self.error, self.last = 0, None, False, None, None
        self.event = {}

    def bad(self, rule, what):
        self.wrong.append(f"#{self.event.get('sequence_number')} {self.event.get('type')} [{rule}] {str(what)[:300]}")

    def that(self, holds, rule, what):
        if not holds:
            self.bad(rule, what)
        return holds

    def take(self, event):
        self.event, kind = event, event.get("type")
        self.that(event.get("sequence_number") == self.next, "life.number", f"{self.next} is the next number")
        self.next += 1
        self.that(self.last is None, "life.after_end", f"behind {self.last}")
        if not self.shape(kind, event):
            return
        if kind in BEGIN or kind in END:
            return self.snapshot(kind, event["response"])
        self.that(self.progress, "life.early", "before response.in_progress")
        self.that(self.error is None, "life.after_error", "only response.failed follows an error")
        base, _, step = kind.rpartition(".")
        if kind == "error":
            self.take_error(event)
        elif kind == "response.output_item.added":
            self.begin(event)
        elif kind == "response.output_item.done":
            self.finish(event)
        elif base in PARTS:
            self.part(event, PARTS[base], step)
        elif base in TEXTS:
            self.part_text(event, *TEXTS[base], step)
        elif base in INPUTS:
            self.input(event, *INPUTS[base], step)
        elif kind == "response.output_text.annotation.added":
            self.annotation(event)
        elif "item_id" in event:
            self.current(event)

    def shape(self, kind, event):
        if kind in UNTYPED:
            return True
        cls = classes().get(kind)
        if cls is None:
            return self.that(False, "type.unknown", "no such event")
        for what in nulls(event):
            self.bad("shape.null", what)
        try:
            # as JSON: strictness in Python would want the nested objects to be instances
            read = cls.model_validate_json(json.dumps(event), strict=True)
        except ValidationError as e:
            # codes are an open set: an upstream's own are passed on
            errors = [error for error in e.errors() if error["loc"] != ("response", "error", "code") or error["type"] != "literal_error"]
            whats = [f"{'.'.join(str(step) for step in error['loc'])}: {error['msg']}" for error in errors]
            return self.that(not whats, "shape", "; ".join(whats[:4]))
        for what in beyond(read):
            self.bad("shape.beyond", what)
        return True

    # ------------------------------------------------------------ the response

    def snapshot(self, kind, response):
        for name, nullable in FIELDS.items():
            if name not in response:
                self.bad("response.missing", name)
            elif response[name] is None and not nullable:
                self.bad("response.null", name)
        for name in ("created_at", "completed_at"):
            self.that(response.get(name) is None or type(response[name]) is int, "response.time", f"{name} is no integer")
        self.that(response["id"].startswith("resp_"), "id.prefix", response["id"])
        if self.first is None:
            self.that(kind == "response.created", "life.first", "the first event is another one")
            self.first = response
            self.echo(response)
        elif kind == "response.created":
            self.bad("life.created_twice", "")
        for name in (self.first.keys() | response.keys()) - CHANGING:
            if response.get(name) != self.first.get(name):
                self.bad("response.changed", f"{name}: {self.first.get(name)} became {response.get(name)}")
        if kind in BEGIN:
            self.that(response["status"] in BEGIN[kind], "response.status", response["status"])
            self.that(response["output"] == [], "response.early", "output is not empty")
            for name in ("usage", "error", "incomplete_details", "completed_at"):
                self.that(response.get(name) is None, "response.early", f"{name} is there already")
            self.progress |= kind == "response.in_progress"
            return
        self.last = kind
        self.that(response["status"] == END[kind], "response.status", response["status"])
        self.that(self.progress, "life.early", "before response.in_progress")
        self.that(bool(response["completed_at"]) == (kind == "response.completed"), "response.completed_at", response["completed_at"])
        self.that((response["error"] is not None) == (kind == "response.failed"), "response.error", response["error"])
        details = response["incomplete_details"]
        self.that((details is not None) == (kind == "response.incomplete"), "response.incomplete_details", details)
        if kind == "response.failed":
            self.that(self.error is not None, "life.no_error", "no error event before it")
            same = self.error is None or {k: self.error.get(k) for k in ("code", "message")} == response["error"]
            self.that(same, "response.error", "is another one than the event's")
        else:
            self.that(self.error is None, "life.after_error", kind)
            self.that(response["usage"] is not None, "usage.missing", "usage is null")
            self.that(all(item.done for item in self.items), "item.not_done", "an item is open")
        done = [item.done for item in self.items if item.done]
        self.that(response["output"] == done, "output.items", f"{response['output']} are not the items that were done: {done}")
        texts = [p["text"] for i in done if i["type"] == "message" for p in i["content"] if p["type"] == "output_text"]
        self.that(response.get("output_text") == "".join(texts), "output.text", response.get("output_text"))
        for item in done[:-1]:
            self.that(item.get("status") != "incomplete", "item.incomplete", "an incomplete item is not the last one")
        if kind == "response.completed":
            self.that(all(i.get("status") != "incomplete" for i in done), "item.incomplete", "in a response that is complete")
        self.usage(response["usage"])

    def echo(self, response):
        request = self.request or {}
        for name in ECHOED & request.keys():
            if request[name] is not None and response.get(name) != request[name]:
                self.bad("echo", f"{name} is {response.get(name)}, the request has {request[name]}")
        tools = request.get("tools") or []
        self.that(len(response["tools"]) == len(tools) or not self.request, "echo", f"{len(response['tools'])} tools of {len(tools)}")

    def usage(self, usage):
        if usage is None:
            return
        counts = usage["input_tokens"], usage["output_tokens"]
        self.that(usage["total_tokens"] == sum(counts), "usage.total", usage)
        inside = usage["input_tokens_details"]["cached_tokens"], usage["output_tokens_details"]["reasoning_tokens"]
        self.that("cache_write_tokens" in usage["input_tokens_details"], "usage.details", usage)
        self.that(all(0 <= part <= whole for part, whole in zip(inside, counts)), "usage.details", usage)
        self.that(counts[0] > 0, "usage.zeros", "a prompt of no tokens was not counted")

    def take_error(self, event):
        nested = event.get("error") or {}
        self.that(set(nested) == {"message", "type", "param", "code"}, "error.keys", nested)
        for name in ("code", "message", "param"):
            self.that(nested.get(name) == event.get(name), "error.forms", f"{name} differs between the two forms")
        self.that(isinstance(event.get("code"), str), "error.code", event.get("code"))
        self.error = event

    # ------------------------------------------------------------ items

    def begin(self, event):
        item = event["item"]
        self.that(event["output_index"] == len(self.items), "item.index", f"{len(self.items)} is the next index")
        self.that(not self.items or self.items[-1].done, "item.overlap", "the one before is not done")
        prefix = PREFIX.get(item["type"])
        self.that(bool(item.get("id")) and item["id"].startswith(prefix or ""), "id.prefix", item.get("id"))
        self.that(item.get("id") not in self.ids, "id.twice", item.get("id"))
        self.ids.add(item.get("id"))
        whole = item["type"] not in ("message", "reasoning", "function_call", "custom_tool_call")
        if not whole:
            self.that(item.get("status") == "in_progress", "item.status", item.get("status"))
            for name in ("content", "summary", "arguments", "input"):
                self.that(not item.get(name), "item.full", f"{name} is not empty")
        self.items.append(Item(item))

    def finish(self, event):
        item = self.current(event, event["item"].get("id"))
        if item is None:
            return
        done, added = event["item"], item.added
        item.done = done
        for name in ("id", "type", "role", "name", "call_id", "namespace"):
            self.that(done.get(name) == added.get(name), "item.changed", f"{name}: {added.get(name)} became {done.get(name)}")
        self.that(item.open is None, "part.open", "a part is open")
        if done["type"] not in STATELESS:
            self.that(done.get("status") in ("completed", "incomplete"), "item.status", done.get("status"))
        for index, name in (("content_index", "content"), ("summary_index", "summary")):
            if done["type"] in ("message", "reasoning"):
                # log probabilities are in the item and not in the part's own event
                bare = [{k: v for k, v in part.items() if k != "logprobs"} for part in done.get(name) or []]
                told = [{k: v for k, v in part.items() if k != "logprobs"} for part in item.parts[index]]
                self.that(bare == told, "item.parts", f"{name} is {bare}, its parts were {told}")
        for kind, name in INPUTS.values():
            if done["type"] == kind:
                self.that(done[name] == item.text, "item.text", f"{done[name]!r} is not what the deltas say: {item.text!r}")
                # a call that was cut has no end
                self.that(item.text_done is not None or done["status"] == "incomplete", "input.not_done", done)

    def current(self, event, id=None):
        """The open item, if the event is about that one."""
        item = self.items[-1] if self.items else None
        if item is None or item.done:
            self.bad("item.closed", "no item is open")
            return None
        self.that(event.get("output_index") == len(self.items) - 1, "item.index", event.get("output_index"))
        self.that((id or event.get("item_id")) == item.added.get("id"), "item.id", id or event.get("item_id"))
        return item

    def part(self, event, index, step):
        item = self.current(event)
        if item is None:
            return
        part = event["part"]
        parts = item.parts[index]
        self.that(event[index] == len(parts), "part.index", f"{len(parts)} is the next index")
        if step == "added":
            self.that(item.open is None, "part.open", "the one before is not done")
            self.that(not part.get("text") and not part.get("refusal"), "part.full", part)
            item.open = {"part": part, "index": index, "text": "", "done": None, "annotations": []}
            return
        if not self.that(item.open is not None and item.open["index"] == index, "part.closed", "no such part is open"):
            return
        opened, item.open = item.open, None
        name = "refusal" if part["type"] == "refusal" else "text"
        self.that(part["type"] == opened["part"]["type"], "part.type", part["type"])
        self.that(opened["done"] is not None, "text.not_done", "its text has no end")
        self.that(part[name] == opened["text"], "text.differs", f"{part[name]!r} is not what the deltas say: {opened['text']!r}")
        self.that(part.get("annotations", []) == opened["annotations"], "annotation.differs", part.get("annotations"))
        parts.append(part)

    def part_text(self, event, kind, index, type, name, step):
        item = self.current(event)
        if item is None:
            return
        opened = item.open
        fits = opened is not None and opened["index"] == index and opened["part"]["type"] == type and item.added["type"] == kind
        if not self.that(fits, "part.closed", f"no {type} is open"):
            return
        self.that(event[index] == len(item.parts[index]), "part.index", event[index])
        self.that(opened["done"] is None, "text.after_done", "its text has ended")
        if step == "delta":
            self.that(event["delta"] != "", "text.empty", "a delta of nothing")
            opened["text"] += event["delta"]
        else:
            opened["done"] = event[name]
            self.that(event[name] == opened["text"], "text.differs", f"{event[name]!r} is not what the deltas say: {opened['text']!r}")

    def input(self, event, kind, name, step):
        item = self.current(event)
        if item is None:
            return
        self.that(item.added["type"] == kind, "item.type", f"{item.added['type']} has no {name}")
        self.that(item.text_done is None, "text.after_done", f"{name} have ended")
        if step == "delta":
            self.that(event["delta"] != "", "text.empty", "a delta of nothing")
            item.text += event["delta"]
        else:
            item.text_done = event[name]
            self.that(event[name] == item.text, "text.differs", f"{event[name]!r} is not what the deltas say: {item.text!r}")

    def annotation(self, event):
        item = self.current(event)
        if item is None or not self.that(item.open is not None, "part.closed", "no part is open"):
            return
        known = item.open["annotations"]
        self.that(event["annotation_index"] == len(known), "annotation.index", event["annotation_index"])
        known.append(event["annotation"])

    def end(self):
        self.event = {"type": "end", "sequence_number": self.next}
        self.that(self.last is not None, "life.no_end", "no completed, incomplete or failed")
