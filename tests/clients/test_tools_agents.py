"""The OpenAI Agents SDK: its runner carries out each kind of tool that it has, twice over, streamed and not."""

import asyncio
import json
import subprocess

import openai
import pytest
from agents import (Agent, ApplyPatchTool, CustomTool, LocalShellTool, OpenAIResponsesModel, RunConfig, Runner, ShellCallOutcome,
                    ShellCommandOutput, ShellResult, ShellTool, apply_diff, function_tool)
from pydantic import BaseModel
from scripted import MODEL, answer, call

pytestmark = [pytest.mark.timeout(90), pytest.mark.judged]


@pytest.fixture(params=["whole", "streamed"])
def run_agent(request, rejoinder, any_upstream):
    """`run_agent(tools)` is the runner's result; it has read a stream to its end."""
    proxy = rejoinder(any_upstream.url)

    def start(tools, prompt="do it", **settings):
        async def main():
            async with openai.AsyncOpenAI(base_url=proxy.base_url, api_key="sk-test", max_retries=0, timeout=30) as client:
                agent = Agent("tester", instructions="Use the tools.", tools=tools, **settings,
                              model=OpenAIResponsesModel(MODEL, openai_client=client))
                config = RunConfig(tracing_disabled=True)
                if request.param == "whole":
                    return await Runner.run(agent, prompt, run_config=config, max_turns=4)
                result = Runner.run_streamed(agent, prompt, run_config=config, max_turns=4)
                async for _ in result.stream_events():
                    pass
                return result

        return asyncio.run(asyncio.wait_for(main(), 60))

    return start


def raw_types(result):
    """The types of the raw items that the run made, in order."""
    return [item.raw_item["type"] if isinstance(item.raw_item, dict) else item.raw_item.type for item in result.new_items]


def outputs(request):
    """(name, arguments, output) of every call in the history, in order."""
    tools = {m["tool_call_id"]: m["content"] for m in request.messages if m["role"] == "tool"}
    return [(c["function"]["name"], json.loads(c["function"]["arguments"]), tools[c["id"]])
            for m in request.messages for c in m.get("tool_calls") or []]


def test_functions_and_a_custom_tool_in_parallel_and_again(run_agent, any_upstream):
    ran = []

    @function_tool
    def add(a: int, b: int) -> str:
        """Adds."""
        ran.append(("add", a, b))
        return f"sum {a + b}"

    def shout(context, input):
        ran.append(("shout", input))
        return input.upper()

    shouting = CustomTool("shout", "Says it loudly.", shout, format={"type": "grammar", "syntax": "regex", "definition": "[a-z]+"})
    text = 'say "hi",\nthen \\n äöü'
    any_upstream.script(
        answer(calls=[call("add", {"a": 1, "b": 2}, "idA"), call("shout", {"input": text}, "idB"), call("add", {"a": 3, "b": 4}, "idC")]),
        answer(reasoning="Once more.", calls=[call("shout", {"input": "again"}, "idD"), call("add", {"a": 5, "b": 6}, "idE")]),
        answer("All done."),
    )
    result = run_agent([add, shouting])
    assert result.final_output == "All done."
    assert sorted(map(str, ran)) == sorted(map(str, [
        ("add", 1, 2), ("shout", text), ("add", 3, 4), ("shout", "again"), ("add", 5, 6)]))
    types = raw_types(result)
    assert types.count("function_call") == 3 and types.count("custom_tool_call") == 2, types
    first, second, third = any_upstream.chats
    assert [t["function"]["name"] for t in first.json["tools"]] == ["add", "shout"]
    assert "[a-z]+" in first.json["tools"][1]["function"]["description"]
    assert outputs(second) == [("add", {"a": 1, "b": 2}, "sum 3"), ("shout", {"input": text}, text.upper()),
                               ("add", {"a": 3, "b": 4}, "sum 7")]
    assert outputs(third)[3:] == [("shout", {"input": "again"}, "AGAIN"), ("add", {"a": 5, "b": 6}, "sum 11")]
    assert third.messages[: len(second.messages)] == second.messages
    assert len([m for m in third.messages if m.get("tool_calls")]) == 2, "parallel calls are one message"


def test_the_shell_tool(run_agent, any_upstream, project):
    def execute(request):
        done = [subprocess.run(["sh", "-c", line], capture_output=True, text=True, cwd=project, timeout=20)
                for line in request.data.action.commands]
        return ShellResult([ShellCommandOutput(p.stdout, p.stderr, ShellCallOutcome("exit", p.returncode)) for p in done])

    any_upstream.script(
        answer(calls=[call("shell", {"commands": ["echo forty-$((40+2)) > made.txt", "cat made.txt; exit 3"]}, "id1")]),
        answer("Ran."),
    )
    result = run_agent([ShellTool(execute)])
    assert result.final_output == "Ran." and "shell_call" in raw_types(result)
    assert (project / "made.txt").read_text() == "forty-42\n"
    ((name, arguments, output),) = outputs(any_upstream.chats[1])
    assert name == "shell" and arguments["commands"][1] == "cat made.txt; exit 3"
    assert "forty-42" in output and "3" in output


def test_the_local_shell_tool(run_agent, any_upstream, project):
    def execute(request):
        done = subprocess.run(request.data.action.command, capture_output=True, text=True, cwd=project, timeout=20)
        return done.stdout

    command = ["sh", "-c", "echo 'forty-two' > made.txt; cat made.txt"]
    any_upstream.script(answer(calls=[call("local_shell", {"command": command}, "id1")]), answer("Ran."))
    result = run_agent([LocalShellTool(execute)])
    assert result.final_output == "Ran." and "local_shell_call" in raw_types(result)
    assert (project / "made.txt").read_text() == "forty-two\n"
    ((name, arguments, output),) = outputs(any_upstream.chats[1])
    assert (name, arguments["command"]) == ("local_shell", command) and "forty-two" in output


def test_the_apply_patch_tool(run_agent, any_upstream, project):
    class Editor:
        def create_file(self, operation):
            (project / operation.path).write_text(apply_diff("", operation.diff, mode="create"))
            return "created"

        def update_file(self, operation):
            path = project / operation.path
            path.write_text(apply_diff(path.read_text(), operation.diff))
            return "updated"

        def delete_file(self, operation):
            (project / operation.path).unlink()
            return "deleted"

    (project / "old.txt").write_text("one\ntwo\n")
    (project / "gone.txt").write_text("x")
    any_upstream.script(
        answer(calls=[call("apply_patch", {"type": "create_file", "path": "new.txt", "diff": '+say "hi"\n+äöü\n'}, "id1"),
                      call("apply_patch", {"type": "update_file", "path": "old.txt", "diff": "@@\n one\n-two\n+deux\n"}, "id2"),
                      call("apply_patch", {"type": "delete_file", "path": "gone.txt"}, "id3")]),
        answer("Patched."),
    )
    result = run_agent([ApplyPatchTool(Editor())])
    assert result.final_output == "Patched." and raw_types(result).count("apply_patch_call") == 3
    assert (project / "new.txt").read_text().rstrip("\n") == 'say "hi"\näöü'
    assert (project / "old.txt").read_text() == "one\ndeux\n"
    assert not (project / "gone.txt").exists()
    assert [(name, output) for name, _, output in outputs(any_upstream.chats[1])] == [
        ("apply_patch", "created"), ("apply_patch", "updated"), ("apply_patch", "deleted")]


class Sum(BaseModel):
    a: int
    b: int
    total: int


@pytest.mark.parametrize("said", ["It is three.", '{"a":1,"b":2,"total":3}'], ids=["asked once more", "fits at once"])
def test_functions_and_then_an_output_of_a_type(run_agent, any_upstream, said):
    """The type binds the last text alone: under its format the server could write no call."""
    ran = []

    @function_tool
    def add(a: int, b: int) -> int:
        """Adds."""
        ran.append((a, b))
        return a + b

    def turn(request, reply):
        if "response_format" in request.json:
            answer('{"a": 1, "b": 2, "total": 3}')(request, reply)
        elif not any(m["role"] == "tool" for m in request.messages):
            answer("I will add.", calls=[call("add", {"a": 1, "b": 2}, "idA")])(request, reply)
        else:
            answer(said)(request, reply)

    any_upstream.script(*[turn] * 4)
    result = run_agent([add], output_type=Sum)
    assert ran == [(1, 2)]
    assert result.final_output == Sum(a=1, b=2, total=3)
    fits = said.startswith("{")
    assert raw_types(result)[-3:] == ["function_call", "function_call_output", "message"], raw_types(result)
    formats = ["response_format" in request.json for request in any_upstream.chats]
    assert formats == ([False, False] if fits else [False, False, True])
    if not fits:
        _, second, third = any_upstream.chats
        assert third.json["response_format"]["json_schema"]["schema"]["required"] == ["a", "b", "total"]
        assert third.messages[: len(second.messages)] == second.messages and third.json["tools"] == second.json["tools"]
    assert outputs(any_upstream.chats[1]) == [("add", {"a": 1, "b": 2}, "3")]


def test_an_output_of_a_type_without_tools(run_agent, any_upstream):
    any_upstream.script(answer('{"a": 1, "b": 2, "total": 3}'))
    assert run_agent([], output_type=Sum).final_output == Sum(a=1, b=2, total=3)
    (request,) = any_upstream.chats
    assert request.json["response_format"]["json_schema"]["strict"] is True
