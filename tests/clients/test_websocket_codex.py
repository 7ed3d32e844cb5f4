"""The Codex CLI over WebSocket: the turns that it takes over HTTP, and what becomes of a connection that is cut."""

import pytest
from harness import offline_env, run
from scripted import MODEL, Upstream, answer, text_then_hold
from socket_tap import SocketTap
from test_agents_codex import test_a_task_its_answer_and_a_follow_up_reach_their_agents  # noqa: F401
from test_codex import (  # noqa: F401
    assert_turn,
    catalog,
    exec_command,
    items,
    messages_printed,
    test_a_command_and_then_an_answer_by_the_output_schema,
    test_a_command_is_executed_and_its_output_answered,
    test_a_long_thread_is_compacted,
    test_a_patch_through_the_custom_tool,
    test_a_second_turn_of_the_same_thread,
    test_a_tool_of_an_mcp_server_keeps_its_namespace,
    test_an_answer_that_fits_the_output_schema,
    test_an_image,
    test_an_overflow_is_reported_as_such,
    test_an_upstream_refusal_is_shown_once,
    test_codex_on_llama_cpp,
    test_plain_answer,
    test_reasoning_is_printed_and_given_back,
    test_two_parallel_calls,
)

pytestmark = pytest.mark.timeout(150)


@pytest.fixture
def upstream():
    with Upstream("llama") as server:
        server.warm_ups = []
        yield server


@pytest.fixture(params=["llama", "vllm"])
def any_upstream(request):
    with Upstream(request.param) as server:
        server.warm_ups = []
        yield server


@pytest.fixture
def taps():
    """Every connection of Codex goes through one of these, and each response that came whole is judged."""
    started = []
    yield started
    for tap in started:
        tap.stop()
    for tap in started:
        tap.judge()


@pytest.fixture
def codex(codex_bin, home, project, taps):
    codex_home = home / "codex"
    codex_home.mkdir()

    def start(proxy, prompt, *more, model=MODEL, timeout=90, config=(), retries=0, posts=False, cut_at=None):
        tap = SocketTap(proxy.port)
        tap.cut_at = cut_at
        taps.append(tap)
        provider = (f'{{name="rejoinder",base_url="{tap.url}/v1",wire_api="responses",supports_websockets=true,'
                    f'request_max_retries=0,stream_max_retries={retries}}}')
        command = [codex_bin, "exec", "--skip-git-repo-check", "--json", "--dangerously-bypass-approvals-and-sandbox",
                   "-m", model, "-c", "model_provider=r", "-c", f"model_providers.r={provider}"]
        for line in config:
            command += ["-c", line]
        finished = run([*command, *more, "-"], offline_env(home, CODEX_HOME=str(codex_home)), project, timeout, stdin=prompt)
        asked = [head for head in tap.heads if head.endswith("/responses")]
        assert asked and (posts or set(asked) == {"GET /v1/responses"}), f"{tap.heads}\n{finished}"
        return finished

    return start


def test_only_what_is_new_is_sent(codex, proxy, upstream, taps):
    """The prompt is read ahead, and each request continues the one before."""
    upstream.script(answer(calls=[exec_command("echo forty-$((40+2))", "id1")]), answer("It printed forty-42."))
    finished = codex(proxy, "run it")
    assert_turn(finished)
    assert messages_printed(finished) == ["It printed forty-42."], str(finished)
    (tap,) = taps
    warm, first, second = [event for _, event in tap.sent]
    assert warm["generate"] is False and all(event["store"] is False for event in (warm, first, second))
    ids = [events[-1]["response"]["id"] for events in tap.responses()]
    assert [first["previous_response_id"], second["previous_response_id"]] == ids[:2]
    assert [item["type"] for item in second["input"]] == ["function_call_output"], second["input"]
    (read,) = upstream.warm_ups
    # developer messages that follow join the system message
    (system,) = read.messages
    assert upstream.chats[0].messages[0]["content"].startswith(system["content"])
    assert upstream.chats[0].json["tools"] == read.json["tools"]


def test_a_connection_that_is_cut_is_opened_again(codex, proxy, upstream, taps):
    upstream.script(text_then_hold("Half an ans"), answer("A whole answer."))
    cut = []

    def once(number, event):
        if event["type"] != "response.output_text.delta" or cut:
            return False
        cut.append(number)
        return True

    finished = codex(proxy, "say something", retries=3, cut_at=once)
    assert_turn(finished)
    assert messages_printed(finished)[-1] == "A whole answer.", str(finished)
    upstream.wait_for(lambda u: u.chats[0].disconnected.is_set(), 15, "the first answer is cancelled")
    (tap,) = taps
    assert tap.cuts == 1 and tap.heads.count("GET /v1/responses") >= 2, tap.heads
    assert "say something" in str(upstream.chats[1].messages)


def test_it_goes_on_over_http_where_websocket_is_switched_off(codex, rejoinder, upstream, taps):
    upstream.script(answer("Hello over HTTP."))
    finished = codex(rejoinder(upstream.url, websocket__enabled="false"), "say hi", posts=True)
    assert_turn(finished)
    assert messages_printed(finished) == ["Hello over HTTP."], str(finished)
    (tap,) = taps
    assert tap.heads.count("GET /v1/responses") == 1 and tap.heads.count("POST /v1/responses") == 1, tap.heads
    assert "Falling back" not in finished.out, str(finished)
