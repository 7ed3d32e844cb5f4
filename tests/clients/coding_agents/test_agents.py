"""pi, opencode and GitHub's Copilot CLI by the Responses API, each against a server that plays its part."""

import json
import time

import pytest
from scripted import LLAMA_OVERFLOW, VLLM_OVERFLOW, answer, answer_chunks, refuse, text_then_cut

pytestmark = [pytest.mark.timeout(200), pytest.mark.judged]

TEXT = 'say "hi",\nthen \\n äöü\n'
PATCH = '*** Begin Patch\n*** Add File: hello.txt\n+forty-"two"\n+äöü \\n\n*** End Patch\n'
SENTENCE = "Your input exceeds the context window of this model"


def script(upstream, *turns):
    """Plays the turns to the agent's own requests, and a title to those that ask for one; gives the list of the former."""
    left, seen = list(turns), []

    def turn(request, reply):
        if "title generator" in json.dumps(request.messages[0]):
            return answer("A title")(request, reply)
        seen.append(request)
        return (left.pop(0) if left else refuse(400, {"error": {"message": "the script is over"}}))(request, reply)

    upstream.script(repeat=turn)
    return seen


def too_long(request, reply):
    refuse(400, VLLM_OVERFLOW if reply.upstream.flavour == "vllm" else LLAMA_OVERFLOW)(request, reply)


def outputs(request):
    return [m["content"] for m in request.messages if m["role"] == "tool"]


def assistants(request):
    return [m for m in request.messages if m["role"] == "assistant"]


def test_a_shell_call(agent, did, rejoinder, any_upstream):
    """a shell call"""
    seen = script(
        any_upstream,
        answer(reasoning="I have to run it.", calls=[agent.program.shell("echo forty-$((40+2)) | tee made.txt", "id1")]),
        answer("It printed forty-42."),
    )
    finished = agent.start(rejoinder(any_upstream.url), "run it")
    assert finished.code == 0 and agent.program.said(finished) == ["It printed forty-42."], str(finished)
    assert (agent.project / "made.txt").read_text() == "forty-42\n"
    first, second = seen
    assert second.messages[: len(first.messages)] == first.messages and second.json["tools"] == first.json["tools"]
    (output,) = outputs(second)
    assert "forty-42" in output
    (told,) = assistants(second)
    assert len(told["tool_calls"]) == 1
    key = "reasoning" if any_upstream.flavour == "vllm" else "reasoning_content"
    assert told[key] == "I have to run it.", told
    did("runs it, gives the output and the reasoning back, shows the answer")


def test_two_calls_at_once(agent, did, rejoinder, any_upstream):
    """two calls at once"""
    shell = agent.program.shell
    seen = script(
        any_upstream,
        answer("Both.", calls=[shell("echo one-$((0+1))", "idA"), shell("echo two-$((1+1))", "idB")]),
        answer("Done."),
    )
    finished = agent.start(rejoinder(any_upstream.url), "run both")
    assert finished.code == 0 and agent.program.said(finished)[-1] == "Done.", str(finished)
    (told,) = assistants(seen[1])
    assert told["content"] == "Both." and len(told["tool_calls"]) == 2, told
    one, two = outputs(seen[1])
    assert "one-1" in one and "two-2" in two
    did("runs both, the outputs stand in the order of the calls")


def test_a_file(agent, did, rejoinder, any_upstream):
    """a file, written and edited"""
    path = agent.project / "notes.txt"
    seen = script(
        any_upstream,
        answer(calls=[agent.program.write(path, TEXT, "id1")]),
        answer(calls=[agent.program.edit(path, 'say "hi"', "say 'ho'", "id2")]),
        answer("Written."),
    )
    finished = agent.start(rejoinder(any_upstream.url), "write it")
    assert finished.code == 0 and agent.program.said(finished) == ["Written."], str(finished)
    assert path.read_text() == TEXT.replace('"hi"', "'ho'"), outputs(seen[-1])
    assert len(seen) == 3
    did("the file has every quote, line end and umlaut")


def test_a_patch(agent, did, rejoinder, any_upstream):
    """a patch, as it makes them under OpenAI's model names"""
    if not hasattr(agent.program, "patch"):
        pytest.skip("has no tool for patches")
    seen = script(any_upstream, answer(calls=[agent.program.patch(PATCH, "id1")]), answer("Patched."))
    finished = agent.start(rejoinder(any_upstream.url), "patch it", model="gpt-5.5")
    assert finished.code == 0 and agent.program.said(finished) == ["Patched."], str(finished)
    assert (agent.project / "hello.txt").read_text() == 'forty-"two"\näöü \\n\n', outputs(seen[-1])
    did("the patch is applied as the model wrote it")


def test_a_broken_stream(agent, did, rejoinder, any_upstream):
    """a stream that breaks in its text"""
    seen = script(any_upstream, text_then_cut("Half an answer and "), answer("The whole answer."))
    finished = agent.start(rejoinder(any_upstream.url), "say it")
    assert finished.code == 0 and agent.program.said(finished)[-1] == "The whole answer.", str(finished)
    assert len(agent.program.tried_again(finished)) == 1 and len(seen) == 2, str(finished)
    assert assistants(seen[1]) == [], "what is left of the broken answer would be told twice"
    did("asks once more by itself and shows the whole answer")


def test_a_broken_call(agent, did, rejoinder, any_upstream):
    """a stream that breaks in a call"""
    shell = agent.program.shell

    def half(request, reply):
        reply.start_sse()
        for chunk in answer_chunks(any_upstream.flavour, calls=[shell("echo half > half.txt", "id1")])[:-3]:
            reply.event(chunk)
        reply.cut()

    seen = script(any_upstream, half, answer(calls=[shell("echo whole > whole.txt", "id2")]), answer("Done."))
    finished = agent.start(rejoinder(any_upstream.url), "run it")
    assert finished.code == 0 and agent.program.said(finished)[-1] == "Done.", str(finished)
    assert [p.name for p in agent.project.iterdir()] == ["whole.txt"]
    assert len(agent.program.tried_again(finished)) == 1 and len(seen) == 3, str(finished)
    did("runs no half call, asks once more by itself")


@pytest.mark.parametrize("where", ["status", "stream"])
def test_an_overflow(agent, did, rejoinder, any_upstream, where):
    """a conversation that has become too long"""
    def refused(request, reply):
        if where == "stream":
            time.sleep(1)  # a server that counts for a while, until the stream has begun
        too_long(request, reply)

    def summary_then_answer(request, reply):
        told = "SUMMARY-OF-IT" in json.dumps(request.messages)
        answer("Going on." if told else "SUMMARY-OF-IT")(request, reply)

    seen = script(
        any_upstream,
        answer(calls=[agent.program.shell("seq 1 3000", "id1")]), answer("Counted."),
        refused, *[summary_then_answer] * 3,
    )
    proxy = rejoinder(any_upstream.url, commit_after="50ms" if where == "stream" else "20s")
    assert agent.program.said(agent.start(proxy, "count"))[-1] == "Counted."
    finished = agent.start(proxy, "go on", again=True)
    assert agent.program.said(finished)[-1] == "Going on." and agent.program.summarised(finished), str(finished)
    refusals = [line for line in proxy.text().splitlines() if '"status":400' in line]
    assert bool(refusals) == (where == "status"), refusals
    assert "2999" not in json.dumps(seen[-1].messages) and "SUMMARY-OF-IT" in json.dumps(seen[-1].messages)
    did(f"summarises by itself and goes on (told by the {where})")


def test_an_overflow_that_nothing_helps(agent, did, rejoinder, any_upstream):
    """a first request that is too long"""
    seen = script(any_upstream, *[too_long] * 2)
    finished = agent.start(rejoinder(any_upstream.url), "say it")
    shown = finished.out + finished.err
    assert SENTENCE in shown or "rejected the prompt as too long" in shown, str(finished)
    did(f"shows why, after {len(seen)} request(s)")
