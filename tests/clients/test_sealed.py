"""Reasoning that a client carries sealed: it comes back to the upstream, or, spoilt in whatever way, leaves no trace."""

import base64
import json
import os

import openai
import pytest
from harness import raw_stream, request_json
from scripted import MODEL, answer, call
from stores import write_keys
from test_codex import after_last_user, assert_turn, codex, exec_command, items  # noqa: F401

pytestmark = [pytest.mark.timeout(150), pytest.mark.judged]

HIDDEN = {"reasoning": {"summary": None, "effort": "low"}, "include": ["reasoning.encrypted_content"], "store": False}
TOOL = {"type": "function", "name": "f", "description": "F", "parameters": {"type": "object", "properties": {}}, "strict": False}
THOUGHT = 'It wants "f", then \\n äöü 漢字 \U0001f600.'


def ask(proxy, input, headers=None, stream=False, **more):
    body = {"model": MODEL, "input": input, "tools": [TOOL], **HIDDEN, **more}
    if stream:
        return raw_stream(proxy.base_url, body, headers).terminal
    status, _, text = request_json("POST", proxy.base_url + "/responses", body, headers)
    assert status == 200, text
    return json.loads(text)


def think(proxy, upstream, headers=None, stream=False, **more):
    """One turn that ends in a call: (the request's input, its output items)."""
    upstream.script(answer(reasoning=THOUGHT, calls=[call("f", {}, "idF")]))
    input = [{"role": "user", "content": "Think."}]
    return input, ask(proxy, input, headers, stream, **more)["output"]


def go_on(proxy, upstream, input, output, headers=None):
    """Sends it all back; the assistant message that the upstream got."""
    (item,) = [i for i in output if i["type"] == "function_call"]
    upstream.script(answer("Done."))
    response = ask(proxy, [*input, *output, {"type": "function_call_output", "call_id": item["call_id"], "output": "x"}], headers)
    assert response["status"] == "completed" and response["output"][-1]["content"][0]["text"] == "Done."
    user, assistant, tool = upstream.chats[-1].messages
    assert (user["content"], tool["content"], len(assistant["tool_calls"])) == ("Think.", "x", 1)
    return assistant


def reasoning_of(assistant, upstream):
    return assistant.get("reasoning" if upstream.flavour == "vllm" else "reasoning_content")


def only_sealed(output):
    (item,) = [i for i in output if i["type"] == "reasoning"]
    assert item["summary"] == [] and "content" not in item, item
    assert THOUGHT[:12] not in json.dumps(output, ensure_ascii=False)
    return item["encrypted_content"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_it_comes_back_as_reasoning(rejoinder, any_upstream, stream):
    proxy = rejoinder(any_upstream.url)
    input, output = think(proxy, any_upstream, stream=stream)
    blob = only_sealed(output)
    assert THOUGHT.encode() not in base64.urlsafe_b64decode(blob + "==")
    assert reasoning_of(go_on(proxy, any_upstream, input, output), any_upstream) == THOUGHT
    # clients strip ids and whatever they do not know
    bare = [{k: v for k, v in i.items() if k not in ("id", "status")} for i in output]
    assert reasoning_of(go_on(proxy, any_upstream, input, bare), any_upstream) == THOUGHT


def test_shown_and_sealed_it_comes_back_once(proxy, upstream):
    input, output = think(proxy, upstream, reasoning={"summary": "auto"})
    (item,) = [i for i in output if i["type"] == "reasoning"]
    assert item["summary"][0]["text"] == THOUGHT and item["encrypted_content"]
    for kept in (output, [{**i, "summary": []} if i is item else i for i in output],
                 [{k: v for k, v in i.items() if k != "encrypted_content"} for i in output]):
        assert reasoning_of(go_on(proxy, upstream, input, kept), upstream) == THOUGHT


def test_what_is_stored_nowhere_is_sealed_without_the_wish_and_else_by_it(rejoinder, upstream):
    """Some clients replay what they are given without asking for it: with `store` false it is their copy alone."""
    proxy = rejoinder(upstream.url)
    input, output = think(proxy, upstream, include=[], reasoning={"summary": "auto"}, store=False)
    (item,) = [i for i in output if i["type"] == "reasoning"]
    bare = [{**i, "summary": []} if i is item else i for i in output]
    assert reasoning_of(go_on(proxy, upstream, input, bare), upstream) == THOUGHT
    _, output = think(proxy, upstream, include=[], reasoning={"summary": "auto"}, store=True)
    assert all("encrypted_content" not in item for item in output)
    asked = rejoinder(upstream.url, seal_reasoning="asked")
    _, output = think(asked, upstream, include=[], reasoning={"summary": "auto"}, store=False)
    assert all("encrypted_content" not in item for item in output)


def test_the_library_carries_it(proxy, upstream):
    client = openai.OpenAI(base_url=proxy.base_url, api_key="sk-test", max_retries=0)
    upstream.script(answer(reasoning=THOUGHT, calls=[call("f", {}, "idF")]), answer("Done."))
    history = [{"role": "user", "content": "Think."}]
    with client.responses.stream(model=MODEL, input=history, tools=[TOOL], **HIDDEN) as stream:
        first = stream.get_final_response()
    only_sealed([item.to_dict() for item in first.output])
    history += first.output
    history.append({"type": "function_call_output", "call_id": first.output[-1].call_id, "output": "x"})
    assert client.responses.create(model=MODEL, input=history, tools=[TOOL], **HIDDEN).output_text == "Done."
    assert upstream.chats[1].messages[1]["reasoning_content"] == THOUGHT


def test_a_stored_turn_carries_it_too(rejoinder, upstream, store):
    """previous_response_id, where the reasoning was never shown."""
    proxy = rejoinder(upstream.url, **store)
    upstream.script(answer(reasoning=THOUGHT, calls=[call("f", {}, "idF")]), answer("Done."))
    first = ask(proxy, "Think.", store=True)
    only_sealed(first["output"])
    ask(proxy, [{"type": "function_call_output", "call_id": first["output"][-1]["call_id"], "output": "x"}],
        previous_response_id=first["id"])
    assert upstream.chats[1].messages[1]["reasoning_content"] == THOUGHT


# ---------------------------------------------------------------- keys


def test_it_survives_a_restart_and_new_keys(rejoinder, upstream, tmp_path):
    old, new = os.urandom(32), os.urandom(32)
    files = {name: write_keys(tmp_path / name, *keys) for name, keys in {
        "old": [old], "both": [new, old], "new": [new]}.items()}
    first = rejoinder(upstream.url, keys_file=files["old"])
    input, output = think(first, upstream)
    only_sealed(output)
    first.may_end = True
    first.stop()
    for name, wanted in (("old", THOUGHT), ("both", THOUGHT), ("new", None)):
        again = rejoinder(upstream.url, keys_file=files[name])
        assert reasoning_of(go_on(again, upstream, input, output), upstream) == wanted, name
    # what is sealed while both are there is sealed with the new one
    both = rejoinder(upstream.url, keys_file=files["both"])
    input, output = think(both, upstream)
    assert reasoning_of(go_on(rejoinder(upstream.url, keys_file=files["new"]), upstream, input, output), upstream) == THOUGHT
    assert reasoning_of(go_on(rejoinder(upstream.url, keys_file=files["old"]), upstream, input, output), upstream) is None


def test_without_a_configured_key_each_start_makes_its_own(rejoinder, upstream):
    input, output = think(rejoinder(upstream.url), upstream)
    assert reasoning_of(go_on(rejoinder(upstream.url), upstream, input, output), upstream) is None


def spoil(blob, alien):
    """Everything that can become of a blob: (name, blob)."""
    data = bytearray(base64.urlsafe_b64decode(blob + "=" * (-len(blob) % 4)))

    def written(data):
        return base64.urlsafe_b64encode(bytes(data)).decode().rstrip("=")

    for at in {0, 1, 4, 5, 20, 21, len(data) // 2, len(data) - 16, len(data) - 1}:
        flipped = bytearray(data)
        flipped[at] ^= 1
        yield f"byte {at} flipped", written(flipped)
    yield "cut off", blob[:-8]
    yield "its head alone", written(data[:21])
    yield "lengthened", blob + "AAAA"
    yield "twice", blob + blob
    yield "of another caller", alien
    yield "plain text", "I am no blob at all."
    yield "OpenAI's", "gAAAAABo" + "Qk1Q" * 60
    yield "empty", ""
    yield "null", None
    yield "a number", 17
    yield "an object", {"a": ["b"]}
    yield "very long", "A" * 300_000
    yield "not ASCII", "ключ\u0000\ud83d"


def test_a_spoilt_blob_changes_nothing_and_breaks_nothing(proxy, upstream):
    input, output = think(proxy, upstream)
    blob = only_sealed(output)
    _, others = think(proxy, upstream, {"Authorization": "Bearer somebody-else"})
    bare = go_on(proxy, upstream, input, [i for i in output if i["type"] != "reasoning"])
    seen = set()
    for name, spoilt in spoil(blob, only_sealed(others)):
        assert spoilt != blob
        changed = [{**i, "encrypted_content": spoilt} if i["type"] == "reasoning" else i for i in output]
        assert go_on(proxy, upstream, input, changed) == bare, name
        seen.add(name)
    assert len(seen) > 15 and reasoning_of(bare, upstream) is None
    # and the blob itself still opens
    assert reasoning_of(go_on(proxy, upstream, input, output), upstream) == THOUGHT


def test_a_blob_that_does_not_open_leaves_the_summary_beside_it(proxy, upstream):
    input, output = think(proxy, upstream, reasoning={"summary": "auto"})
    changed = [{**i, "encrypted_content": "garbage"} if i["type"] == "reasoning" else i for i in output]
    assert reasoning_of(go_on(proxy, upstream, input, changed), upstream) == THOUGHT


# ---------------------------------------------------------------- Codex


def test_codex_replays_its_items(codex, rejoinder, any_upstream):
    """It asks for the sealed form always, and sends back what it was given, within a turn and after a resume."""
    any_upstream.script(answer(reasoning=THOUGHT, calls=[exec_command("echo 7", "id1")]), answer("Seven.", reasoning="Done thinking."))
    proxy = rejoinder(any_upstream.url)
    assert_turn(codex(proxy, "think first"))
    assert reasoning_of(after_last_user(any_upstream.chats[1])[0], any_upstream) == THOUGHT
    any_upstream.script(answer("Again."))
    finished = codex(proxy, "and now?", "resume", "--last")
    assert_turn(finished)
    thoughts = [reasoning_of(m, any_upstream) for m in any_upstream.chats[2].messages if m["role"] == "assistant"]
    assert thoughts == [THOUGHT, "Done thinking."], str(finished)


def test_codex_with_hidden_reasoning_gives_it_back(codex, rejoinder, upstream, home):
    """Nothing readable reaches Codex's own files, and the upstream still gets its reasoning back."""
    upstream.script(answer(reasoning=THOUGHT, calls=[exec_command("echo 7", "id1")]), answer("Seven."))
    finished = codex(rejoinder(upstream.url, reasoning="hidden"), "think first")
    assert_turn(finished)
    assert items(finished, "reasoning") == [] and "then" not in finished.out
    kept = [path.read_text() for path in (home / "codex" / "sessions").rglob("*.jsonl")]
    assert kept and "encrypted_content" in kept[0] and not any("漢字" in text for text in kept)
    assert after_last_user(upstream.chats[1])[0]["reasoning_content"] == THOUGHT
