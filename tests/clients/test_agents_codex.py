"""Codex's sub-agents, second version: what one agent tells another travels as items of their own, and reaches the model."""

import json

import pytest
from scripted import answer, call
from test_codex import assert_turn, codex, messages_printed, tool_named  # noqa: F401

pytestmark = [pytest.mark.timeout(150), pytest.mark.judged]

TASK = "Count the notes in this folder, and say how many there are."
SECOND = "Now say which one is the longest."


def texts(request, role):
    """All that a role says, as one text."""
    return "\n".join(m["content"] if isinstance(m["content"], str) else json.dumps(m["content"])
                     for m in request.messages if m["role"] == role and m["content"])


def is_child(request):
    return "newly spawned child agent" in texts(request, "user")


def test_a_task_its_answer_and_a_follow_up_reach_their_agents(codex, rejoinder, any_upstream):  # noqa: F811
    seen = {"child": [], "parent": []}

    def turn(request, reply):
        if is_child(request):
            seen["child"].append(request)
            told = texts(request, "user")
            answer("The longest is b.txt." if SECOND in told else "There are two notes.")(request, reply)
            return
        seen["parent"].append(request)
        parameters = [t["function"]["parameters"] for t in request.json["tools"] if t["function"]["name"].endswith("spawn_agent")]
        if not parameters or "task_name" not in parameters[0]["properties"]:
            answer("no such agents")(request, reply)
            return
        outputs = sum(m["role"] == "tool" for m in request.messages)
        told = texts(request, "user")
        if outputs == 0:
            step = call(tool_named(request, "spawn_agent"), {"task_name": "look", "message": TASK}, "id1")
        elif outputs == 1:
            step = call(tool_named(request, "wait_agent"), {"timeout_ms": 20000}, "id2")
        elif outputs == 2:
            step = call(tool_named(request, "followup_task"), {"target": "look", "message": SECOND}, "id3")
        elif outputs == 3:
            step = call(tool_named(request, "wait_agent"), {"timeout_ms": 20000}, "id4")
        else:
            answer(f"Heard: {'two notes' if 'two notes' in told else '?'}, {'b.txt' if 'b.txt' in told else '?'}.")(request, reply)
            return
        answer(calls=[step])(request, reply)

    any_upstream.script(*[turn] * 12)
    finished = codex(rejoinder(any_upstream.url), "ask an agent", config=["features.multi_agent_v2=true"])
    if "no such agents" in messages_printed(finished):
        pytest.skip("this Codex has no sub-agents of the second version")
    assert_turn(finished)
    assert TASK in texts(seen["child"][0], "user"), seen["child"][0].messages
    assert SECOND in texts(seen["child"][-1], "user"), seen["child"][-1].messages
    assert messages_printed(finished)[-1] == "Heard: two notes, b.txt.", str(finished)
