"""Requests in the form of Codex: every tool that they declare can be called, and comes back as declared."""

import json

import pytest
from harness import ROOT, raw_stream
from scripted import MODEL, answer, call

pytestmark = pytest.mark.timeout(120)

FILES = sorted((ROOT / "fixtures" / "requests").glob("codex-*.json"))
HOSTED = {"web_search"}


def declared(tools, namespace=None):
    """(type, namespace, name) of every tool in a list, those in namespaces included."""
    for tool in tools:
        if tool["type"] == "namespace":
            yield from declared(tool["tools"], tool["name"])
        elif tool["type"] not in HOSTED:
            yield tool["type"], namespace, tool.get("name", tool["type"])


def all_declared(body):
    """Those of `tools`, and then those that items of the history bring, each once."""
    found = list(declared(body.get("tools") or []))
    for item in body["input"]:
        if item["type"] in ("additional_tools", "tool_search_output"):
            found += declared(item["tools"])
    return list(dict.fromkeys(found))


ITEM = {"function": "function_call", "custom": "custom_tool_call", "tool_search": "tool_search_call"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_declared_tool_can_be_called(path, rejoinder, any_upstream):
    body = json.loads(path.read_text())
    body = {**body, "model": MODEL}
    # a text in no format would be asked for once more
    body.pop("text", None)
    proxy = rejoinder(any_upstream.url)
    any_upstream.script(answer("Converted."))
    stream = raw_stream(proxy.base_url, body)
    compacts = body["input"][-1]["type"] == "compaction_trigger"
    assert stream.status == 200 and stream.output_text == ("" if compacts else "Converted."), str(stream)
    (first,) = any_upstream.chats
    functions = [t["function"] for t in first.json.get("tools") or []]
    assert all(t["type"] == "function" for t in first.json.get("tools") or [])
    names = [f["name"] for f in functions]
    wanted = all_declared(body)
    assert len(names) == len(set(names)) == len(wanted), (names, wanted)
    if compacts:
        # a summary is all that is wanted: the tools keep their place in the prompt, and none may be called
        assert [item["type"] for item in stream.items()] == ["compaction"], str(stream)
        assert first.json.get("tool_choice", "none") == "none"
        return

    text = "*** Begin Patch\n*** End Patch\n"
    any_upstream.script(*(answer(calls=[call(name, {"input": text, "query": "q"}, "id1")]) for name in names))
    came_back = []
    for name in names:
        stream = raw_stream(proxy.base_url, body)
        (item,) = stream.items()
        if item["type"] == "tool_search_call":
            assert item["execution"] == "client" and item["arguments"] == {"input": text, "query": "q"}, item
        elif item["type"] == "custom_tool_call":
            assert item["input"] == text, item
        else:
            assert json.loads(item["arguments"]) == {"input": text, "query": "q"}, item
        assert item["call_id"], item
        came_back.append((item["type"], item.get("namespace"), item.get("name", "tool_search")))
    assert came_back == [(ITEM[type], namespace, name) for type, namespace, name in wanted]
    # a prompt cache lives on the same bytes
    assert {request.raw for request in any_upstream.chats} == {first.raw}

    if names and body.get("parallel_tool_calls"):
        # all at once, too; a client that wants no parallel calls gets the first one
        any_upstream.script(answer(calls=[call(name, {"input": text, "query": "q"}, f"id{n}") for n, name in enumerate(names)]))
        stream = raw_stream(proxy.base_url, body)
        got = [(i["type"], i.get("namespace"), i.get("name", "tool_search")) for i in stream.items()]
        assert got == came_back
        assert len({i["call_id"] for i in stream.items()}) == len({i["id"] for i in stream.items()}) == len(names)
