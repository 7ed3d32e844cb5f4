"""Droid's search for its own tools, and file searches that its shell tool carries out."""

import json
import shutil

import pytest
from harness import program_on_path
from scripted import answer, call
from test_droid import droid  # noqa: F401

pytestmark = [pytest.mark.timeout(150), pytest.mark.judged]

JSON = ("--auto", "low", "--output-format", "stream-json")


def events(finished, type):
    return [e for e in finished.events if e["type"] == type]


def outputs(request):
    """(name, arguments, output) of every call in the history, in order."""
    tools = {m["tool_call_id"]: m["content"] for m in request.messages if m["role"] == "tool"}
    return [(c["function"]["name"], json.loads(c["function"]["arguments"]), tools[c["id"]])
            for m in request.messages for c in m.get("tool_calls") or []]


def test_a_tool_that_a_search_found(droid, rejoinder, any_upstream):  # noqa: F811
    """ToolSearch is a function of Droid's own: what it finds is in the next request's tools, and can be called."""
    any_upstream.script(
        answer(calls=[call("ToolSearch", {"query": "fetch a web page", "limit": 3}, "id1")]),
        answer(calls=[call("FetchUrl", {"url": "http://127.0.0.1:9/"}, "id2")]),
        answer("Nobody there."),
    )
    finished = droid(rejoinder(any_upstream.url), "fetch it", *JSON)
    assert finished.code == 0, str(finished)
    assert [e["toolName"] for e in events(finished, "tool_call")] == ["ToolSearch", "FetchUrl"], str(finished)
    searched, fetched = events(finished, "tool_result")
    assert not searched["isError"] and "FetchUrl" in searched["value"]
    assert "Failed to fetch" in fetched["error"]["message"], "it tried, without a network"
    assert events(finished, "completion")[0]["finalText"] == "Nobody there."
    first, second, third = any_upstream.chats
    names = [[t["function"]["name"] for t in request.json["tools"]] for request in (first, second, third)]
    assert "FetchUrl" not in names[0] and "FetchUrl" in names[1] and names[1] == names[2], names
    assert [(name, "FetchUrl" in output) for name, _, output in outputs(second)] == [("ToolSearch", True)]
    assert "Failed to fetch" in outputs(third)[1][2]


PATCH = """*** Begin Patch
*** Update File: count.txt
@@ -1,2 +1,2 @@
 one
-two
+say "deux" \\n äöü
*** Add File: new.txt
+made
*** End Patch
"""


@pytest.mark.parametrize("fence", ["", "```\n"], ids=["bare", "fenced"])
def test_a_patch_through_the_custom_tool(droid, rejoinder, upstream, project, fence):  # noqa: F811
    """For a model of that name Droid offers a freeform ApplyPatch in place of its Edit and Create."""
    (project / "count.txt").write_text("one\ntwo\nthree\n")
    upstream.script(answer(calls=[call("ApplyPatch", {"input": fence + PATCH + fence}, "id1")]), answer("Patched."))
    finished = droid(rejoinder(upstream.url), "patch it", *JSON, model="gpt-5.1-codex")
    assert finished.code == 0, str(finished)
    assert (project / "count.txt").read_text() == 'one\nsay "deux" \\n äöü\nthree\n', str(finished)
    assert (project / "new.txt").read_text().strip() == "made", str(finished)
    (result,) = events(finished, "tool_result")
    assert result["toolId"] == "ApplyPatch" and not result["isError"], str(finished)
    first, second = upstream.chats
    (offered,) = [t["function"] for t in first.json["tools"] if t["function"]["name"] == "ApplyPatch"]
    assert list(offered["parameters"]["properties"]) == ["input"]
    ((name, arguments, output),) = outputs(second)
    assert name == "ApplyPatch" and arguments["input"].startswith("*** Begin Patch") and output


# what file_search asks of ripgrep, where there is none
RG = """
import fnmatch, os, re, sys
options, (_, *operands) = sys.argv[1:sys.argv.index("--")], sys.argv[sys.argv.index("--"):]
assert operands, "without a path ripgrep may read stdin"
files = [os.path.join(d, f) for d, _, fs in os.walk(operands[-1]) for f in fs]
if options[0] == "--files":
    found = [f for f in files if fnmatch.fnmatch(os.path.basename(f).lower(), options[options.index("--iglob") + 1].lower())]
else:
    found = []
    for f in files:
        hits = [f"{f}:{n}:{line}" for n, line in enumerate(open(f).read().splitlines(), 1) if re.search(operands[0], line)]
        found += hits[:1] and [f] if options[0] == "--files-with-matches" else hits
print("\\n".join(found))
sys.exit(not found)
"""


@pytest.mark.parametrize(("named_by", "program"), [("header", "script"), ("configuration", "script"), ("header", "ripgrep")])
def test_file_searches_through_a_wrapper(droid, rejoinder, upstream, project, tmp_path, monkeypatch, named_by, program):  # noqa: F811
    if program == "script":
        program_on_path(tmp_path, monkeypatch, "rg", RG)
    elif not shutil.which("rg"):
        pytest.skip("no ripgrep here")
    (project / "src").mkdir()
    (project / "src" / "hay stack.txt").write_text("straw\nit's a (needle) of $HOME\n")
    (project / "other.md").write_text("nothing\n")
    nasty = r"it's a \(needle\) of \$HOME"
    # as a model writes them: what is the default, it leaves out
    searches = [{"query": nasty, "path": "src"}, {"query": "needle|`nobody`", "mode": "files"}, {"query": "STACK", "mode": "names"}]
    upstream.script(
        answer(calls=[call("file_search", arguments, f"id{n}") for n, arguments in enumerate(searches)]), answer("Found."))
    if named_by == "header":
        proxy, headers = rejoinder(upstream.url), {"X-Llama-Responses-File-Search-Wrapper": "rg"}
    else:
        proxy, headers = rejoinder(upstream.url, tools__file_search_wrapper="rg"), None
    finished = droid(proxy, "search", *JSON, headers=headers)
    assert finished.code == 0, str(finished)
    ran = events(finished, "tool_call")
    assert [e["toolName"] for e in ran] == ["Execute"] * 3 and all(e["parameters"]["command"].startswith("rg ") for e in ran)
    assert not any(e["isError"] for e in events(finished, "tool_result")), str(finished)
    first, second = upstream.chats
    assert "file_search" in [t["function"]["name"] for t in first.json["tools"]]
    history = outputs(second)
    assert [(name, arguments) for name, arguments, _ in history] == [("file_search", arguments) for arguments in searches]
    lines, files, names = (output for _, _, output in history)
    assert "2:it's a (needle) of $HOME" in lines and "straw" not in lines
    assert "hay stack.txt" in files and "other.md" not in files and "needle" not in files
    assert "hay stack.txt" in names and "other.md" not in names
    assert second.messages[: len(first.messages)] == first.messages and second.json["tools"] == first.json["tools"]
