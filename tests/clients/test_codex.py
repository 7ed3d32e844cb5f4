"""The Codex CLI in front of rejoinder: assertions are on what `codex exec --json` printed and on what the upstream got."""

import base64
import json
import struct
import sys
import zlib

import pytest
from harness import HERE, offline_env, run
from scripted import LLAMA_OVERFLOW, MODEL, VLLM_OVERFLOW, answer, call, refuse

pytestmark = [pytest.mark.timeout(150), pytest.mark.judged]

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "population": {"type": "integer"}},
    "required": ["city", "population"],
    "additionalProperties": False,
}


@pytest.fixture
def codex(codex_bin, home, project):
    codex_home = home / "codex"
    codex_home.mkdir()

    def start(proxy, prompt, *more, model=MODEL, timeout=90, config=()):
        provider = f'{{name="rejoinder",base_url="{proxy.base_url}",wire_api="responses",request_max_retries=0,stream_max_retries=0}}'
        command = [codex_bin, "exec", "--skip-git-repo-check", "--json", "--dangerously-bypass-approvals-and-sandbox",
                   "-m", model, "-c", "model_provider=r", "-c", f"model_providers.r={provider}"]
        for line in config:
            command += ["-c", line]
        # the prompt comes on stdin: an option such as -i takes every word that follows it
        return run([*command, *more, "-"], offline_env(home, CODEX_HOME=str(codex_home)), project, timeout, stdin=prompt)

    return start


def items(finished, type):
    return [e["item"] for e in finished.events if e["type"] == "item.completed" and e["item"]["type"] == type]


def messages_printed(finished):
    return [i["text"] for i in items(finished, "agent_message")]


def assert_turn(finished):
    assert finished.code == 0, str(finished)
    completed = [e for e in finished.events if e["type"] == "turn.completed"]
    assert len(completed) == 1, str(finished)
    return completed[0]


def exec_command(cmd, id=None):
    return call("exec_command", {"cmd": cmd}, id)


def after_last_user(request):
    """The messages behind the last user message, as the upstream got them."""
    messages = request.messages
    last = max(i for i, m in enumerate(messages) if m["role"] == "user")
    return messages[last + 1 :]


def test_plain_answer(codex, rejoinder, any_upstream):
    any_upstream.script(answer("Hello from the upstream.", prompt=321, output=9, cached=300))
    finished = codex(rejoinder(any_upstream.url), "say hi")
    completed = assert_turn(finished)
    assert messages_printed(finished) == ["Hello from the upstream."], str(finished)
    assert completed["usage"]["input_tokens"] == 321, completed
    assert completed["usage"]["output_tokens"] == 9, completed
    if any_upstream.flavour == "llama":
        assert completed["usage"]["cached_input_tokens"] == 300, completed

    (request,) = any_upstream.chats
    assert request.json["model"] == MODEL
    assert request.json["stream"] is True
    assert request.json["stream_options"]["include_usage"] is True
    roles = [m["role"] for m in request.messages]
    assert roles[0] == "system" and "system" not in roles[1:] and "developer" not in roles, roles
    assert "say hi" in json.dumps(request.messages[-1])
    assert {t["type"] for t in request.json["tools"]} == {"function"}
    names = [t["function"]["name"] for t in request.json["tools"]]
    assert "exec_command" in names and len(names) == len(set(names)), names


def test_a_command_is_executed_and_its_output_answered(codex, rejoinder, any_upstream):
    any_upstream.script(
        answer(calls=[exec_command("echo forty-$((40+2))", "id1")]),
        answer("It printed forty-42."),
    )
    finished = codex(rejoinder(any_upstream.url), "run it")
    assert_turn(finished)
    (command,) = items(finished, "command_execution")
    assert command["exit_code"] == 0 and "forty-42" in command["aggregated_output"], str(finished)
    assert messages_printed(finished) == ["It printed forty-42."]

    first, second = any_upstream.chats
    assistant, tool = after_last_user(second)
    (tool_call,) = assistant["tool_calls"]
    assert assistant["role"] == "assistant" and tool_call["type"] == "function"
    assert tool_call["function"]["name"] == "exec_command"
    assert json.loads(tool_call["function"]["arguments"]) == {"cmd": "echo forty-$((40+2))"}
    assert tool["role"] == "tool" and tool["tool_call_id"] == tool_call["id"]
    assert "forty-42" in tool["content"] and "Process exited with code 0" in tool["content"]
    # the same history makes the same bytes: the server's prompt cache lives on that
    assert second.messages[: len(first.messages)] == first.messages
    assert second.json["tools"] == first.json["tools"]


def test_two_parallel_calls(codex, rejoinder, any_upstream):
    any_upstream.script(
        answer(text="Both at once.", calls=[exec_command("echo one-$((0+1))", "idA"), exec_command("echo two-$((1+1))", "idB")]),
        answer("Done."),
    )
    finished = codex(rejoinder(any_upstream.url), "run both")
    assert_turn(finished)
    outputs = sorted(i["aggregated_output"].strip() for i in items(finished, "command_execution"))
    assert outputs == ["one-1", "two-2"], str(finished)
    assert messages_printed(finished) == ["Both at once.", "Done."]

    assistant, *tools = after_last_user(any_upstream.chats[1])
    assert assistant["content"] == "Both at once."
    assert len(assistant["tool_calls"]) == 2 and [t["role"] for t in tools] == ["tool", "tool"]
    for tool_call, tool, output in zip(assistant["tool_calls"], tools, ("one-1", "two-2")):
        assert tool["tool_call_id"] == tool_call["id"]
        assert output in tool["content"]


def test_reasoning_is_printed_and_given_back(codex, rejoinder, any_upstream):
    any_upstream.script(
        answer(reasoning="The user wants a number.", calls=[exec_command("echo 7", "id1")]),
        answer("Seven."),
    )
    finished = codex(rejoinder(any_upstream.url), "think first")
    assert_turn(finished)
    assert [i["text"] for i in items(finished, "reasoning")] == ["The user wants a number."], str(finished)
    assert messages_printed(finished) == ["Seven."]
    assistant, tool = after_last_user(any_upstream.chats[1])
    key = "reasoning" if any_upstream.flavour == "vllm" else "reasoning_content"
    assert assistant.get(key) == "The user wants a number.", assistant
    assert len(assistant["tool_calls"]) == 1 and tool["role"] == "tool"


PARIS = {"city": "Paris", "population": 2100000}


def test_an_answer_that_fits_the_output_schema(codex, proxy, upstream, tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    upstream.script(answer(json.dumps(PARIS)))
    finished = codex(proxy, "a city", "--output-schema", str(schema))
    assert_turn(finished)
    assert json.loads(messages_printed(finished)[-1]) == PARIS
    (request,) = upstream.chats
    assert "response_format" not in request.json and request.json["tools"], "the model could call nothing"


def test_a_command_and_then_an_answer_by_the_output_schema(codex, rejoinder, any_upstream, tmp_path):
    """The format binds the final text alone: the model calls, and what it then says is asked for in that format."""
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    any_upstream.script(
        answer("I will look.", calls=[exec_command("echo forty-$((40+2))", "id1")]),
        answer("It is Paris, with 2.1 million people."),
        answer(json.dumps(PARIS)),
    )
    finished = codex(rejoinder(any_upstream.url), "a city", "--output-schema", str(schema))
    assert_turn(finished)
    (command,) = items(finished, "command_execution")
    assert command["exit_code"] == 0 and "forty-42" in command["aggregated_output"], str(finished)
    assert [json.loads(text) for text in messages_printed(finished)] == [PARIS], str(finished)

    first, second, third = any_upstream.chats
    assert "response_format" not in first.json and "response_format" not in second.json
    response_format = third.json["response_format"]
    assert response_format["type"] == "json_schema"
    assert response_format["json_schema"]["schema"] == SCHEMA
    assert response_format["json_schema"]["name"] == "codex_output_schema"
    assert third.json["tools"] == second.json["tools"] and third.json["tool_choice"] == "none"
    assert third.messages[: len(second.messages)] == second.messages


def test_an_overflow_is_reported_as_such(codex, rejoinder, any_upstream):
    overflow = VLLM_OVERFLOW if any_upstream.flavour == "vllm" else LLAMA_OVERFLOW
    any_upstream.script(repeat=refuse(400, overflow))
    finished = codex(rejoinder(any_upstream.url), "too much")
    assert finished.code != 0, str(finished)
    (failed,) = [e for e in finished.events if e["type"] == "turn.failed"]
    assert "ran out of room in the model's context window" in failed["error"]["message"], str(finished)
    assert len(any_upstream.chats) == 1, "an overflow must not be tried again"


def test_an_upstream_refusal_is_shown_once(codex, proxy, upstream):
    body = {"error": {"code": 500, "message": "Jinja Exception: no user query found", "type": "server_error"}}
    upstream.script(repeat=refuse(500, body))
    finished = codex(proxy, "hi")
    assert finished.code != 0
    assert "no user query found" in finished.out, str(finished)
    assert len(upstream.chats) == 1, "a deterministic fault must not be tried again"


def png():
    def part(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"\xff\x00\x00" * 8 for _ in range(8))
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)) + part(
        b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")


def test_an_image(codex, rejoinder, any_upstream, project):
    (project / "red.png").write_bytes(png())
    any_upstream.script(answer("It is red."))
    finished = codex(rejoinder(any_upstream.url), "what colour is this?", "-i", "red.png")
    assert_turn(finished)
    assert messages_printed(finished) == ["It is red."]
    parts = [p for m in any_upstream.chats[0].messages if isinstance(m["content"], list) for p in m["content"]]
    (image,) = [p for p in parts if p["type"] == "image_url"]
    url = image["image_url"]["url"]
    assert url.startswith("data:image/png;base64,")
    assert base64.b64decode(url.split(",", 1)[1]).startswith(b"\x89PNG\r\n")
    assert {p["type"] for p in parts} == {"text", "image_url"}


def test_a_second_turn_of_the_same_thread(codex, proxy, upstream):
    upstream.script(answer("My name is Ada."), answer("Ada, as I said."))
    assert_turn(codex(proxy, "your name?"))
    finished = codex(proxy, "again?", "resume", "--last")
    assert_turn(finished)
    assert messages_printed(finished) == ["Ada, as I said."]
    messages = upstream.chats[1].messages
    assert any(m["role"] == "assistant" and m["content"] == "My name is Ada." for m in messages), messages
    assert [m["role"] for m in messages].count("system") == 1


def tool_named(request, ending):
    """The name under which the upstream was offered a tool."""
    names = [t["function"]["name"] for t in request.json["tools"]]
    return next((name for name in names if name.endswith(ending)), f"no tool named {ending}")


def test_a_tool_of_an_mcp_server_keeps_its_namespace(codex, rejoinder, any_upstream):
    """Codex offers it as a namespace and runs only a call that comes back with it: a flat name is "unsupported"."""

    def call_echo(request, reply):
        answer(calls=[call(tool_named(request, "echo"), {"text": "forty-two"}, "id1")])(request, reply)

    any_upstream.script(call_echo, answer("It said so."))
    server = f'mcp_servers.lab={{command="{sys.executable}",args=["{HERE / "mcp_echo.py"}"]}}'
    finished = codex(rejoinder(any_upstream.url), "echo it", config=[server])
    assert_turn(finished)
    (tool_call,) = items(finished, "mcp_tool_call")
    assert (tool_call["server"], tool_call["tool"], tool_call["status"]) == ("lab", "echo", "completed"), str(finished)
    assert messages_printed(finished) == ["It said so."]
    first, second = any_upstream.chats
    assistant, tool = after_last_user(second)
    assert assistant["tool_calls"][0]["function"]["name"] == tool_named(first, "echo")
    assert "echoed: forty-two" in tool["content"]


PATCH = """*** Begin Patch
*** Add File: hello.txt
+forty-"two"
+äöü \\n
*** End Patch
"""


@pytest.fixture
def catalog(tmp_path):
    """Model metadata that makes Codex offer apply_patch as a custom (freeform) tool."""
    path = tmp_path / "catalog.json"
    path.write_text(json.dumps({"models": [{
        "slug": MODEL, "display_name": MODEL, "base_instructions": "You are a coding agent.",
        "supported_reasoning_levels": [], "shell_type": "unified_exec", "visibility": "list", "supported_in_api": True,
        "priority": 1, "support_verbosity": False, "truncation_policy": {"mode": "tokens", "limit": 10000},
        "experimental_supported_tools": [], "context_window": 32768, "apply_patch_tool_type": "freeform",
        "supports_parallel_tool_calls": True}]}))
    return f'model_catalog_json="{path}"'


def test_a_patch_through_the_custom_tool(codex, rejoinder, any_upstream, catalog, project):
    any_upstream.script(answer(calls=[call("apply_patch", {"input": PATCH}, "id1")]), answer("Patched."))
    finished = codex(rejoinder(any_upstream.url), "patch it", config=[catalog])
    assert_turn(finished)
    assert (project / "hello.txt").read_text() == 'forty-"two"\näöü \\n\n', str(finished)
    assert [c["kind"] for i in items(finished, "file_change") for c in i["changes"]] == ["add"], str(finished)
    assert messages_printed(finished) == ["Patched."]
    first, second = any_upstream.chats
    (offered,) = [t["function"] for t in first.json["tools"] if t["function"]["name"] == "apply_patch"]
    assert list(offered["parameters"]["properties"]) == ["input"]
    assistant, tool = after_last_user(second)
    assert json.loads(assistant["tool_calls"][0]["function"]["arguments"]) == {"input": PATCH}
    assert tool["role"] == "tool" and tool["tool_call_id"] == assistant["tool_calls"][0]["id"]


def test_a_long_thread_is_compacted(codex, proxy, upstream):
    """Past the limit Codex asks for a summary, in a request without tools, and goes on with it."""
    limit = ["model_auto_compact_token_limit=20000", "model_context_window=32768"]
    upstream.script(answer("A first answer.", prompt=25000, output=9))
    assert_turn(codex(proxy, "begin", config=limit))
    upstream.script(answer("SUMMARY-OF-IT"), answer("Going on.", prompt=900))
    finished = codex(proxy, "go on", "resume", "--last", config=limit)
    assert_turn(finished)
    assert messages_printed(finished)[-1] == "Going on.", str(finished)
    summarise, go_on = upstream.chats[1:]
    assert "tools" not in summarise.json
    assert "CONTEXT CHECKPOINT COMPACTION" in json.dumps(summarise.messages[-1])
    assert "SUMMARY-OF-IT" in json.dumps(go_on.messages) and "A first answer." not in json.dumps(go_on.messages)


@pytest.mark.timeout(330)
def test_codex_on_llama_cpp(codex, rejoinder, llama, tmp_path):
    """A whole turn with the full Codex prompt and tools. A model that never ends by itself is made to end at once;
    its grammar then lets it end behind the JSON of the schema alone, once its first answer does not fit that."""
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({
        "type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}))
    proxy = rejoinder(llama.url, upstream__extra_body='{"logit_bias":[[1,100]]}')
    finished = codex(proxy, "Say hi.", "--output-schema", str(schema), model=llama.model, timeout=300,
                     config=["model_context_window=16000", 'web_search="disabled"'])
    usage = assert_turn(finished)["usage"]
    assert usage["input_tokens"] > 1000 and usage["output_tokens"] > 0, usage
    assert json.loads(messages_printed(finished)[-1])["ok"] in (True, False), str(finished)
