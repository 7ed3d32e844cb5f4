"""Tools that only Codex itself can carry out: each test shows that it did, by its own events, files or next request."""

import json
import os
import sys

import pytest
from harness import HERE, program_on_path
from scripted import answer, call
from test_codex import after_last_user, assert_turn, catalog, codex, items, messages_printed, png, tool_named  # noqa: F401

pytestmark = [pytest.mark.timeout(150), pytest.mark.judged]

MCP_SERVER = f'mcp_servers.lab={{command="{sys.executable}",args=["{HERE / "mcp_echo.py"}"]}}'


def catalog_with(tmp_path, **more):
    """Model metadata as in test_codex's `catalog`, with some of it changed."""
    path = tmp_path / "catalog.json"
    models = json.loads(path.read_text())
    models["models"][0].update(more)
    path.write_text(json.dumps(models))
    return f'model_catalog_json="{path}"'


def calls(request):
    """name -> (arguments, output) of the calls in the history."""
    messages = request.messages
    outputs = {m["tool_call_id"]: m["content"] for m in messages if m["role"] == "tool"}
    return {c["function"]["name"]: (json.loads(c["function"]["arguments"]), outputs[c["id"]])
            for m in messages for c in m.get("tool_calls") or []}


def call_of(ending, arguments, id="id1"):
    """A turn that calls the tool whose name the upstream saw end so."""
    def turn(request, reply):
        answer(calls=[call(tool_named(request, ending), arguments, id)])(request, reply)

    return turn


FENCED = """```diff
*** Begin Patch
*** Update File: count.txt
@@ -1,2 +1,2 @@
 one
-two
+deux
*** End Patch
```
"""


def test_a_fenced_patch_with_line_numbers_still_applies(codex, rejoinder, any_upstream, catalog, project):  # noqa: F811
    (project / "count.txt").write_text("one\ntwo\nthree\n")
    any_upstream.script(answer(calls=[call("apply_patch", {"input": FENCED}, "id1")]), answer("Patched."))
    finished = codex(rejoinder(any_upstream.url), "patch it", config=[catalog])
    assert_turn(finished)
    assert (project / "count.txt").read_text() == "one\ndeux\nthree\n", str(finished)
    assert [(c["kind"], os.path.basename(c["path"])) for i in items(finished, "file_change") for c in i["changes"]] == [
        ("update", "count.txt")], str(finished)
    assert "Success" in calls(any_upstream.chats[1])["apply_patch"][1]


def test_a_tool_that_a_search_found(codex, rejoinder, any_upstream, catalog, tmp_path):  # noqa: F811
    """Codex defers MCP tools, runs the search itself, and takes the found tool's call only with its namespace."""
    config = [catalog_with(tmp_path, supports_search_tool=True), MCP_SERVER]
    any_upstream.script(
        answer(calls=[call("tool_search", {"query": "say it again echo", "limit": 4}, "id1")]),
        call_of("echo", {"text": "found you"}, "id2"),
        answer("It said so."),
    )
    finished = codex(rejoinder(any_upstream.url), "search, then echo", config=config)
    assert_turn(finished)
    (tool_call,) = items(finished, "mcp_tool_call")
    assert (tool_call["server"], tool_call["tool"], tool_call["status"]) == ("lab", "echo", "completed"), str(finished)
    assert messages_printed(finished) == ["It said so."]
    first, second, third = any_upstream.chats
    names = [[t["function"]["name"] for t in request.json["tools"]] for request in (first, second, third)]
    assert "tool_search" in names[0] and not any(name.endswith("echo") for name in names[0]), names[0]
    assert names[1][: len(names[0])] == names[0] and names[1] == names[2], "what was found comes last"
    found = tool_named(second, "echo")
    arguments, output = calls(second)["tool_search"]
    assert arguments == {"query": "say it again echo", "limit": 4}
    assert f"{found}: Say it again" in output
    assert third.messages[: len(second.messages)] == second.messages
    assert "echoed: found you" in calls(third)[found][1]


def is_child(request):
    return any(m["role"] == "user" and "CHILD-TASK-7" in json.dumps(m["content"]) for m in request.messages)


def test_a_sub_agent_works_and_is_closed(codex, rejoinder, any_upstream):  # noqa: F811
    """spawn_agent, wait_agent, close_agent of namespace multi_agent_v1; the child's own request comes between."""

    def play(request, reply):
        done = calls(request)
        outputs = {name.rsplit("__", 1)[-1]: output for name, (_, output) in done.items()}
        if is_child(request):
            turn = answer("CHILD-REPORT-9")
        elif not done:
            turn = call_of("spawn_agent", {"message": "CHILD-TASK-7"}, "id1")
        elif len(done) == 1:
            agent = json.loads(outputs["spawn_agent"])["agent_id"]
            turn = call_of("wait_agent", {"targets": [agent], "timeout_ms": 60000}, "id2")
        elif len(done) == 2:
            turn = call_of("close_agent", {"target": json.loads(outputs["spawn_agent"])["agent_id"]}, "id3")
        else:
            turn = answer("All done.")
        turn(request, reply)

    any_upstream.script(repeat=play)
    finished = codex(rejoinder(any_upstream.url), "delegate to a sub-agent")
    assert_turn(finished)
    assert messages_printed(finished)[-1] == "All done.", str(finished)
    assert [i["tool"] for i in items(finished, "collab_tool_call")] == ["spawn_agent", "wait", "close_agent"], str(finished)
    assert len([r for r in any_upstream.chats if is_child(r)]) == 1, any_upstream.chats
    done = calls(any_upstream.chats[-1])
    assert [name.rsplit("__", 1)[-1] for name in done] == ["spawn_agent", "wait_agent", "close_agent"]
    (_, spawned), (_, waited), (_, closed) = done.values()
    assert "CHILD-REPORT-9" in waited and "previous_status" in closed, (spawned, waited, closed)


SOURCE = """// a comment with "quotes", \\ and äöü
const shell = await tools.exec_command({cmd: "echo from-$((40+2)) > made.txt; cat made.txt"});
text(`six times seven is ${6 * 7}`);
text(shell);
"""


def test_code_mode_runs_the_source(codex, rejoinder, any_upstream, project):  # noqa: F811
    """`exec` takes JavaScript itself, no JSON: a call of the wrong type would be "aborted"."""
    any_upstream.script(call_of("exec", {"input": SOURCE}), answer("It ran."))
    finished = codex(rejoinder(any_upstream.url), "run it", config=["features.code_mode=true"])
    assert_turn(finished)
    assert messages_printed(finished) == ["It ran."], str(finished)
    assert (project / "made.txt").read_text() == "from-42\n", str(finished)
    first, second = any_upstream.chats
    ((arguments, output),) = calls(second).values()
    assert tool_named(first, "exec") in calls(second)
    assert arguments == {"input": SOURCE}
    assert "six times seven is 42" in output and "from-42" in output


@pytest.mark.parametrize("sees", [True, False])
def test_view_image(codex, rejoinder, upstream, project, sees):  # noqa: F811
    (project / "red.png").write_bytes(png())
    props = upstream.props()
    upstream.props = lambda: {**props, "modalities": {"vision": sees, "audio": False}}
    upstream.script(call_of("view_image", {"path": str(project / "red.png")}), answer("It is red."))
    finished = codex(rejoinder(upstream.url), "look at red.png")
    assert_turn(finished)
    assert messages_printed(finished) == ["It is red."], str(finished)
    second = upstream.chats[1]
    assistant, tool = next((m, n) for m, n in zip(second.messages, second.messages[1:]) if m.get("tool_calls"))
    assert tool["role"] == "tool" and tool["tool_call_id"] == assistant["tool_calls"][0]["id"]
    assert isinstance(tool["content"], str) and tool["content"]
    urls = [p["image_url"]["url"] for m in second.messages if m["role"] == "user" and isinstance(m["content"], list)
            for p in m["content"] if p["type"] == "image_url"]
    if sees:
        (url,) = urls
        assert url.startswith("data:image/png;base64,iVBOR") and "base64" not in tool["content"]
    else:
        assert not urls and b"base64" not in second.raw and b"iVBOR" not in second.raw
        behind = json.dumps(after_last_user(second))
        assert "image" in behind, behind
        assert len(tool["content"]) < 300, tool


NASTY = """it's "quoted" $(touch pwned) `touch pwned` ; touch pwned & \\ * ~ äöü"""


@pytest.mark.parametrize("named", ["on the path", "by its path"])
def test_a_web_search_through_a_wrapper(codex, rejoinder, any_upstream, tmp_path, project, monkeypatch, named):  # noqa: F811
    source = "import json, sys\nprint(json.dumps({'asked': sys.argv[1:], 'results': ['RESULT-' + str(6 * 7)]}))\n"
    program = program_on_path(tmp_path, monkeypatch, "findit", source)
    wrapper = "findit" if named == "on the path" else str(program)
    header = f'model_providers.r.http_headers={{"X-Rejoinder-Web-Search-Wrapper"="{wrapper}"}}'
    any_upstream.script(answer(calls=[call("web_search", {"query": NASTY}, "id1")]), answer("Found."))
    # a login shell would set its own search path
    finished = codex(rejoinder(any_upstream.url), "search", config=[header, "allow_login_shell=false"])
    assert_turn(finished)
    (command,) = items(finished, "command_execution")
    assert command["exit_code"] == 0 and wrapper in command["command"], str(finished)
    assert messages_printed(finished) == ["Found."]
    assert not (project / "pwned").exists()
    first, second = any_upstream.chats
    assert "web_search" in [t["function"]["name"] for t in first.json["tools"]]
    done = calls(second)
    assert list(done) == ["web_search"], "the model is shown its own call, not the command"
    arguments, output = done["web_search"]
    assert arguments == {"query": NASTY}
    printed = next(json.loads(line) for line in output.splitlines() if line.startswith("{"))
    assert printed == {"asked": ["search", NASTY, "--json"], "results": ["RESULT-42"]}
    assert second.messages[: len(first.messages)] == first.messages and second.json["tools"] == first.json["tools"]


def test_no_wrapper_no_search(codex, proxy, upstream):  # noqa: F811
    """Codex declares a hosted web_search, which nothing here can serve: the model does not see it."""
    upstream.script(answer("Hello."))
    assert_turn(codex(proxy, "hi"))
    assert "web_search" not in [t["function"]["name"] for t in upstream.chats[0].json["tools"]]
