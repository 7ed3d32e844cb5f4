"""The page for operators, in a real Chromium: what it shows of real traffic, by mouse and by keyboard, and what it must not."""

import json
import shutil

import pytest
from harness import HERE, ROOT, OpenStream, client_env, raw_stream, request_json, run, wait_until
from scripted import MODEL, answer, refuse, text_then_hold

pytestmark = pytest.mark.timeout(180)

CANARY = "canary-in-a-prompt"
ANSWER = "canary-in-an-answer"


@pytest.fixture
def chromium():
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        pytest.skip("no chromium here (apt-get install chromium)")
    return program


def test_it_shows_what_runs_and_what_ended_and_nothing_of_the_contents(chromium, rejoinder, upstream, tmp_path):
    proxy = rejoinder(upstream.url)
    body = {"model": MODEL, "input": CANARY}
    upstream.script(
        answer(ANSWER, prompt=400, output=12, cached=100), refuse(500, {"error": {"message": CANARY}}), text_then_hold(ANSWER))
    raw_stream(proxy.base_url, body, {"User-Agent": "OpenAI/Python 2.9.0"})
    assert request_json("POST", proxy.base_url + "/responses", body)[0] == 500
    running = OpenStream(proxy.port, body)
    next(event for event in running if event["type"] == "response.output_text.delta")
    wait_until(lambda: len(json.loads(request_json("GET", proxy.admin_url + "/ui/state")[2])["ended"]) == 2, 20, "the end of two requests")
    seen = len(upstream.chats)

    done = run(["node", HERE / "page.mjs", proxy.admin_url + "/ui", chromium, tmp_path], client_env(tmp_path), HERE, timeout=150)
    assert done.code == 0, done
    found = json.loads(done.out)
    assert found["errors"] == [] and found["axe"] == [] and found["overflow"] == []
    assert all(url.startswith((proxy.admin_url + "/", "data:")) for url in found["requests"]), found["requests"]
    assert found["status"] == "serving"
    [server] = found["upstreams"]
    assert server[0] == upstream.url.removeprefix("http://") and server[1] == "ready" and server[-1] == "1"
    [now] = found["running"]
    assert now[0] == MODEL and now[3] == "answers"
    failed, completed = found["ended"]
    assert failed[4] == "upstream_error" and completed[4] == "completed"
    assert completed[2] == "openai-python" and completed[7] == "400 (100) → 12"
    assert found["onlyErrors"] == [failed] and found["filtered"] == []
    labels = [label for label, drawn in found["charts"] if drawn]
    assert len(labels) == 3 and "prompt, cached 400" in labels[0] and "cached 25 %" in labels[2], labels
    assert found["keyboardTab"] == ["tab-plan", False]
    assert "upstream_error" in found["details"] and found["closed"] == [True, "Show"]
    head, planned, notes = found["planned"]
    assert head.startswith("POST /v1/chat/completions to http://") and [m["role"] for m in planned["messages"]] == ["system", "user"]
    assert "web_search" in notes
    assert "temperature" in found["refused"] and "previous_response_id" in found["stored"]
    # nothing was sent for the playground, and no contents are shown
    assert len(upstream.chats) == seen
    state = request_json("GET", proxy.admin_url + "/ui/state")[2]
    for text in (found["text"].split("plan-form")[0], state):
        assert CANARY not in text and ANSWER not in text and "sk-test" not in text
    running.reply.close()


def test_what_is_embedded_of_uplot_is_what_npm_has():
    for name in ("uPlot.iife.min.js", "uPlot.min.css"):
        assert (ROOT / "ui" / "vendor" / name).read_bytes() == (HERE / "node_modules" / "uplot" / "dist" / name).read_bytes()


def test_it_is_gone_where_the_key_says_so(rejoinder, upstream):
    proxy = rejoinder(upstream.url, ui__page="off")
    for path in ("/ui", "/ui/state"):
        status, _, text = request_json("GET", proxy.admin_url + path)
        assert status == 404 and "ui.page" in text
