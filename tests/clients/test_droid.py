"""Factory's Droid CLI in front of rejoinder: what `droid exec` printed, and what the upstream got."""

import json

import pytest
from harness import offline_env, run
from scripted import MODEL, answer, call

pytestmark = [pytest.mark.timeout(150), pytest.mark.judged]


@pytest.fixture
def droid(droid_bin, home, project):
    def start(proxy, prompt, *more, timeout=100, model=MODEL, headers=None):
        settings = home / ".factory" / "settings.json"
        settings.parent.mkdir(exist_ok=True)
        settings.write_text(json.dumps({"customModels": [{
            "model": model, "id": "custom:local-0", "index": 0, "baseUrl": proxy.base_url, "apiKey": "sk-test",
            "displayName": "local", "maxOutputTokens": 4096, "provider": "openai", "extraHeaders": headers or {}}]}))
        env = offline_env(home, FACTORY_API_KEY="fk-test")
        return run([droid_bin, "exec", "-m", "custom:local-0", *more, prompt], env, project, timeout)

    return start


def test_an_answer(droid, rejoinder, any_upstream):
    any_upstream.script(answer("Hello from the upstream."))
    finished = droid(rejoinder(any_upstream.url), "say hi")
    assert finished.code == 0, str(finished)
    assert finished.out.strip() == "Hello from the upstream.", str(finished)
    (request,) = any_upstream.chats
    assert request.json["model"] == MODEL
    assert request.messages[0]["role"] == "system"
    assert "say hi" in json.dumps(request.messages[-1])
    assert "Execute" in [t["function"]["name"] for t in request.json["tools"]]
    assert request.headers["authorization"] == "Bearer sk-test"


def test_an_execute_call_and_its_output(droid, rejoinder, any_upstream):
    arguments = {"command": "echo forty-$((40+2))", "summary": "Print a number", "riskLevelReason": "It only prints.",
                 "riskLevel": "low"}
    any_upstream.script(answer(calls=[call("Execute", arguments, "id1")]), answer("It printed forty-42."))
    finished = droid(rejoinder(any_upstream.url), "run it", "--auto", "low")
    assert finished.code == 0, str(finished)
    assert finished.out.strip() == "It printed forty-42.", str(finished)
    messages = any_upstream.chats[1].messages
    (n,) = [i for i, m in enumerate(messages) if m.get("tool_calls")]
    (tool_call,) = messages[n]["tool_calls"]
    assert tool_call["function"]["name"] == "Execute"
    assert json.loads(tool_call["function"]["arguments"])["command"] == "echo forty-$((40+2))"
    assert messages[n + 1]["role"] == "tool" and messages[n + 1]["tool_call_id"] == tool_call["id"]
    assert "forty-42" in messages[n + 1]["content"], messages[n + 1]
