"""Responses that go on without their connection: polled, cancelled, followed by any number of readers, resumed."""

import http.client
import json
import threading

import openai
import pytest
from harness import OpenStream, Stream, assert_error, assert_stream, raw_stream, request_json, wait_until
from scripted import LLAMA_OVERFLOW, MODEL, Reply, answer, answer_chunks, call, refuse, text_then, text_then_cut, text_then_hold, usage_chunk

pytestmark = pytest.mark.timeout(90)

ENDED = ("completed", "incomplete", "failed", "cancelled")
GO = {"model": MODEL, "input": "Go."}


def fetch(proxy, id, query=""):
    status, headers, text = request_json("GET", f"{proxy.base_url}/responses/{id}{query}")
    assert status == 200, text
    return Stream(status, headers, text) if "stream=true" in query else json.loads(text)


def begin(proxy, **more):
    status, _, text = request_json("POST", proxy.base_url + "/responses", {**GO, "background": True, **more})
    assert status == 200, text
    return json.loads(text)


def wait_ended(proxy, id, status=ENDED):
    return wait_until(lambda: (r := fetch(proxy, id))["status"] in status and r, 20, f"the response is {status}")


def frames(stream):
    """The events as bytes, without comments and `[DONE]`."""
    blocks = stream.text.split("\n\n")
    return [b for b in blocks if b.startswith("event: ")]


@pytest.fixture
def stored(rejoinder, upstream, store):
    return rejoinder(upstream.url, drain_timeout="2s", **store)


@pytest.fixture
def client(stored):
    return openai.OpenAI(base_url=stored.base_url, api_key="sk-test", max_retries=0, timeout=30)


def after_release(text, rest):
    """Begins with `text`, waits until the test releases the server, then says `rest` and ends well."""
    def turn(request, reply):
        flavour = reply.upstream.flavour
        reply.start_sse()
        for c in answer_chunks(flavour, text)[:-1]:
            reply.event(c)
        reply.hold()
        if not request.disconnected.is_set():
            for c in answer_chunks(flavour, rest)[1:]:
                reply.event(c)
            reply.event(usage_chunk(flavour, 20, 7))
            reply.done()
            reply.end()

    return turn


# ---------------------------------------------------------------- polling


def test_queued_then_polled_to_its_end(client, upstream):
    upstream.script(after_release("Half", " and half."))
    response = client.responses.create(model=MODEL, input="Go.", background=True)
    assert response.status == "queued" and response.background is True and response.output == []
    upstream.wait_for(lambda u: u.chats, what="the run reaches the upstream")
    assert client.responses.retrieve(response.id).status in ("queued", "in_progress")
    upstream.released.set()
    ended = wait_until(lambda: (r := client.responses.retrieve(response.id)).status not in ("queued", "in_progress") and r,
                       20, "the response ends")
    assert (ended.status, ended.output_text, ended.usage.total_tokens) == ("completed", "Half and half.", 27)
    assert ended.id == response.id and ended.created_at == response.created_at and ended.completed_at
    # it is a turn like any other
    upstream.script(answer("On."))
    following = client.responses.create(model=MODEL, input="And?", previous_response_id=response.id)
    assert following.output_text == "On."
    assert [m["content"] for m in upstream.chats[-1].messages] == ["Go.", "Half and half.", "And?"]


def test_one_that_runs_cannot_be_continued(client, upstream):
    upstream.script(after_release("Half", " and half."))
    response = client.responses.create(model=MODEL, input="Go.", background=True)
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(model=MODEL, input="And?", previous_response_id=response.id)
    assert error.value.code == "previous_response_not_found"


def test_a_refusal_of_the_upstream_is_found_by_polling(stored, upstream):
    upstream.script(refuse(400, LLAMA_OVERFLOW), text_then_cut("Half an ans"))
    refused = wait_ended(stored, begin(stored)["id"])
    assert refused["status"] == "failed" and refused["error"]["code"] == "context_length_exceeded", refused
    cut = wait_ended(stored, begin(stored)["id"])
    assert cut["status"] == "failed" and cut["error"]["code"] == "server_error", cut


def test_it_needs_the_store(stored, upstream):
    status, headers, text = request_json("POST", stored.base_url + "/responses", {**GO, "background": True, "store": False})
    assert assert_error(status, headers, text, 400)["param"] == "background"
    assert not upstream.chats


# ---------------------------------------------------------------- cancel


def test_cancel_twice(client, stored, upstream):
    upstream.script(text_then_hold("Begun"))
    response = client.responses.create(model=MODEL, input="Go.", background=True)
    upstream.wait_for(lambda u: u.chats, what="the run reaches the upstream")
    cancelled = client.responses.cancel(response.id)
    assert cancelled.status == "cancelled" and cancelled.id == response.id
    upstream.wait_for(lambda u: u.chats[0].disconnected.is_set(), 10, "the upstream sees the hang-up")
    assert client.responses.cancel(response.id) == cancelled
    assert client.responses.retrieve(response.id) == cancelled
    status, headers, text = request_json("POST", stored.base_url + "/responses", {**GO, "previous_response_id": response.id})
    assert_error(status, headers, text, 400, code="previous_response_not_found")


def test_cancel_of_one_that_has_ended(client, upstream):
    upstream.script(answer("Done."))
    response = client.responses.create(model=MODEL, input="Go.", background=True)
    ended = wait_until(lambda: (r := client.responses.retrieve(response.id)).status == "completed" and r, 20, "it ends")
    assert client.responses.cancel(response.id) == ended


def test_a_foreground_response_cannot_be_cancelled(client, upstream):
    upstream.script(answer("Done."))
    response = client.responses.create(model=MODEL, input="Go.")
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(response.id)
    assert client.responses.retrieve(response.id).status == "completed"


def test_a_body_that_nobody_needs_does_not_end_the_connection(stored, upstream):
    upstream.script(answer("Done."))
    id = begin(stored)["id"]
    connection = http.client.HTTPConnection("127.0.0.1", stored.port, timeout=20)
    head = {"Content-Type": "application/json", "Authorization": "Bearer sk-test"}
    for _ in range(3):
        connection.request("POST", f"/v1/responses/{id}/cancel", b" " * 500_000, head)
        reply = connection.getresponse()
        assert reply.status == 200, reply.read()
        reply.read()
        assert connection.sock is not None, "the connection was closed"


# ---------------------------------------------------------------- following and resuming


def test_resumed_from_every_number(client, stored, upstream):
    upstream.script(answer("A short answer.", reasoning="Hm.", calls=[call("f", {"x": 1}, "id1"), call("f", {"y": 2}, "id2")]))
    body = {**GO, "background": True, "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}]}
    first = raw_stream(stored.base_url, body)
    assert first.types[:3] == ["response.created", "response.queued", "response.in_progress"], first.types
    assert [i["type"] for i in first.items()] == ["reasoning", "message", "function_call", "function_call"]
    id, wanted = first.terminal["id"], frames(first)
    for after in range(len(wanted)):
        again = fetch(stored, id, f"?stream=true&starting_after={after}")
        assert frames(again) == wanted[after + 1:] and again.done, after
    whole = fetch(stored, id, "?stream=true")
    assert frames(whole) == wanted
    assert_stream(whole, body)
    # the same by the library
    events = list(client.responses.retrieve(id, stream=True, starting_after=3))
    assert [e.sequence_number for e in events] == list(range(4, len(wanted)))
    assert events[-1].type == "response.completed" and events[-1].response == client.responses.retrieve(id)
    for bad in ("stream=true&starting_after=-1", "stream=true&starting_after=x", "stream=maybe"):
        status, headers, text = request_json("GET", f"{stored.base_url}/responses/{id}?{bad}")
        assert_error(status, headers, text, 400)


def test_many_readers_follow_a_run_and_none_is_needed(stored, upstream):
    upstream.script(after_release("The first half,", " the second half."))
    stream = OpenStream(stored.port, {**GO, "background": True})
    id = stream.until("response.created")["response"]["id"]
    stream.until("response.output_text.delta")
    stream.hang_up()
    got = {}

    def follow(after):
        got[after] = fetch(stored, id, f"?stream=true&starting_after={after}")

    readers = [threading.Thread(target=follow, args=(after,)) for after in (0, 1, 2, 3, 5)]
    for reader in readers:
        reader.start()
    assert not upstream.chats[0].disconnected.is_set()
    upstream.released.set()
    for reader in readers:
        reader.join(20)
    assert len(got) == 5
    assert fetch(stored, id)["output"][0]["content"][0]["text"] == "The first half, the second half."
    whole = fetch(stored, id, "?stream=true")
    assert_stream(whole, {**GO, "background": True})
    assert whole.types[-1] == "response.completed"
    for after, stream in got.items():
        assert frames(stream) == frames(whole)[after + 1:], after


def test_without_stream_it_can_be_followed_too(client, upstream):
    upstream.script(after_release("One", " two."))
    response = client.responses.create(model=MODEL, input="Go.", background=True)
    stream = client.responses.retrieve(response.id, stream=True)
    upstream.released.set()
    events = list(stream)
    assert events[-1].type == "response.completed" and events[-1].response.output_text == "One two."


def test_a_cancelled_run_ends_the_streams_that_follow_it(client, upstream):
    upstream.script(text_then_hold("Begun, never ended"))
    stream = client.responses.create(model=MODEL, input="Go.", background=True, stream=True)
    types = []
    for event in stream:
        types.append(event.type)
        if event.type == "response.created":
            id = event.response.id
        if event.type == "response.output_text.delta" and "cancelled" not in types:
            assert client.responses.cancel(id).status == "cancelled"
            types.append("cancelled")
    assert types[-1] in ("response.incomplete", "response.failed"), types
    upstream.wait_for(lambda u: u.chats[0].disconnected.is_set(), 10, "the upstream sees the hang-up")


# ---------------------------------------------------------------- foreground


def test_a_dropped_foreground_stream_is_resumed_if_it_said_store(client, stored, upstream):
    upstream.script(after_release("The first half,", " the second half."))
    body = {**GO, "store": True}
    stream = OpenStream(stored.port, body)
    id = stream.until("response.created")["response"]["id"]
    last = stream.until("response.output_text.delta")["sequence_number"]
    stream.hang_up()
    follower = client.responses.retrieve(id, stream=True, starting_after=last)
    assert fetch(stored, id)["status"] == "in_progress" and not upstream.chats[0].disconnected.is_set()
    upstream.released.set()
    events = list(follower)
    assert [e.sequence_number for e in events] == list(range(last + 1, last + 1 + len(events)))
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "The first half, the second half."
    assert_stream(fetch(stored, id, "?stream=true"), body)


@pytest.mark.parametrize("body", [{}, {"store": False}], ids=["store not named", "store false"])
def test_without_it_a_hang_up_frees_the_upstream_at_once(stored, upstream, body):
    upstream.script(text_then_hold("Half"))
    stream = OpenStream(stored.port, {**GO, **body})
    id = stream.until("response.created")["response"]["id"]
    stream.until("response.output_text.delta")
    stream.hang_up()
    upstream.wait_for(lambda u: u.chats[0].disconnected.is_set(), 5, "the upstream sees the hang-up")
    if "store" in body:
        assert request_json("GET", f"{stored.base_url}/responses/{id}")[0] == 404
    else:
        # it is stored when its end is known, which the store learns after the upstream
        wait_until(lambda: request_json("GET", f"{stored.base_url}/responses/{id}")[0] == 200, 20, "the response is stored")
        assert fetch(stored, id)["status"] == "cancelled"


def drip(request, reply):
    """Goes on for as long as someone listens."""
    reply.start_sse()
    for c in answer_chunks(reply.upstream.flavour, "Begun")[:-1]:
        reply.event(c)
    pause = threading.Event()
    while not reply.upstream.released.is_set():
        reply.event(answer_chunks(reply.upstream.flavour, "more ")[1])
        pause.wait(0.02)


def test_a_stream_that_nobody_resumes_ends_although_the_upstream_goes_on(rejoinder, upstream, store):
    proxy = rejoinder(upstream.url, store__resume_window="300ms", **store)
    upstream.script(drip)
    stream = OpenStream(proxy.port, {**GO, "store": True})
    id = stream.until("response.created")["response"]["id"]
    stream.until("response.output_text.delta")
    stream.hang_up()
    upstream.wait_for(lambda u: u.chats[0].disconnected.is_set(), 10, "the upstream sees the hang-up")
    assert wait_ended(proxy, id)["status"] == "cancelled"


# ---------------------------------------------------------------- delete, drain


def test_delete_while_it_runs(client, stored, upstream):
    upstream.script(text_then_hold("Begun"))
    response = client.responses.create(model=MODEL, input="Go.", background=True)
    upstream.wait_for(lambda u: u.chats, what="the run reaches the upstream")
    client.responses.delete(response.id)
    upstream.wait_for(lambda u: u.chats[0].disconnected.is_set(), 10, "the upstream sees the hang-up")
    for method, path in (("GET", ""), ("GET", "?stream=true"), ("POST", "/cancel"), ("GET", "/input_items"), ("DELETE", "")):
        status, headers, text = request_json(method, f"{stored.base_url}/responses/{response.id}{path}")
        assert_error(status, headers, text, 404)


def test_a_drain_waits_for_runs(rejoinder, upstream, store):
    proxy = rejoinder(upstream.url, drain_timeout="20s", **store)
    upstream.script(after_release("Half", " and half."))
    id = begin(proxy)["id"]
    upstream.wait_for(lambda u: u.chats, what="the run reaches the upstream")
    proxy.may_end = True
    proxy.child.terminate()
    wait_until(lambda: "draining" in proxy.text(), 10, "the drain begins")
    assert proxy.alive() and not upstream.chats[0].disconnected.is_set()
    upstream.released.set()
    assert proxy.child.wait(15) == 0
    assert '"ended":"completed"' in proxy.text()
    if store:  # another start with the same keys finds it
        again = rejoinder(upstream.url, **store)
        assert fetch(again, id)["output"][0]["content"][0]["text"] == "Half and half."


def test_a_drain_that_is_over_ends_runs_as_failed(rejoinder, upstream, store):
    proxy = rejoinder(upstream.url, drain_timeout="300ms", **store)
    upstream.script(text_then(" Half", Reply.hold))
    id = begin(proxy)["id"]
    upstream.wait_for(lambda u: u.chats, what="the run reaches the upstream")
    proxy.may_end = True
    proxy.child.terminate()
    assert proxy.child.wait(15) == 0
    upstream.wait_for(lambda u: u.chats[0].disconnected.is_set(), 10, "the upstream sees the hang-up")
    if store:
        assert fetch(rejoinder(upstream.url, **store), id)["status"] == "failed"
