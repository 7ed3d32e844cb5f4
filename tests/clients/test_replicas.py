"""Two rejoinders with one Redis: what one begins the other goes on with, whichever of the three is gone meanwhile."""

import json
import threading
import time

import pytest
from harness import OpenStream, Stream, assert_error, raw_stream, request_json, wait_until
from scripted import MODEL, answer, text_then_hold
from test_background import after_release, begin, drip, fetch, frames, wait_ended

pytestmark = pytest.mark.timeout(90)

TIMEOUT, LEASE = 1.0, 2.0
SLACK = 1.5  # what a busy machine adds
GO = {"model": MODEL, "input": "Go."}
AWAY = pytest.mark.parametrize("how", ["stopped", "killed", "frozen"])


@pytest.fixture
def replica(rejoinder, upstream, redis, keys_file):
    """Starts one more."""
    return lambda **more: rejoinder(upstream.url, drain_timeout="1s", store__timeout=f"{TIMEOUT}s", store__lease=f"{LEASE}s",
                                    **redis.settings(keys_file), **more)


@pytest.fixture
def two(replica):
    return replica(), replica()


def create(proxy, input="Go.", **more):
    status, _, text = request_json("POST", proxy.base_url + "/responses", {"model": MODEL, "input": input, **more})
    assert status == 200, text
    return json.loads(text)


def kill(proxy):
    proxy.may_end = True
    proxy.child.kill()
    proxy.child.wait(10)


def metric(proxy, name):
    """The sum of a family's samples whose line begins so."""
    _, _, text = request_json("GET", proxy.admin_url + "/metrics")
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


# ---------------------------------------------------------------- all is well


def test_turns_on_either(two, upstream):
    a, b = two
    upstream.script(*[answer(text) for text in ("One.", "Two.", "Three.", "Four.", "Five.")])
    first = create(a, "1")
    second = create(b, "2", previous_response_id=first["id"])
    third = create(a, "3", previous_response_id=second["id"])
    assert [m["content"] for m in upstream.chats[2].messages] == ["1", "One.", "2", "Two.", "3"]
    for response in (first, second, third):
        assert fetch(a, response["id"]) == fetch(b, response["id"]) == response
    conversation = json.loads(request_json("POST", a.base_url + "/conversations", {"metadata": {"k": "v"}})[2])["id"]
    create(b, "4", conversation=conversation)
    asked = json.loads(request_json("GET", f"{b.base_url}/responses/{first['id']}/input_items")[2])["data"][0]["id"]
    create(a, [{"type": "item_reference", "id": asked}, {"type": "item_reference", "id": first["output"][0]["id"]},
               {"role": "user", "content": "5"}], conversation=conversation)
    assert [m["content"] for m in upstream.chats[4].messages] == ["4", "Four.", "1", "One.", "5"]
    items = [json.loads(request_json("GET", f"{x.base_url}/conversations/{conversation}/items?order=asc")[2]) for x in two]
    assert items[0] == items[1] and len(items[0]["data"]) == 6
    assert request_json("DELETE", f"{b.base_url}/responses/{second['id']}")[0] == 200
    assert_error(*request_json("POST", a.base_url + "/responses", {**GO, "previous_response_id": third["id"]}), 400,
                 code="previous_response_not_found")


def test_a_run_of_one_is_streamed_from_the_other(two, upstream):
    a, b = two
    upstream.script(after_release("The first half,", " the second half."))
    id = begin(a)["id"]
    got = {}

    def follow(name, proxy, after):
        got[name] = fetch(proxy, id, f"?stream=true&starting_after={after}" if after else "?stream=true")

    readers = [threading.Thread(target=follow, args=args) for args in (("a", a, 0), ("b", b, 0), ("b3", b, 3))]
    for reader in readers:
        reader.start()
    upstream.wait_for(lambda u: u.chats, what="the run reaches the upstream")
    assert fetch(b, id)["status"] in ("queued", "in_progress")
    upstream.released.set()
    for reader in readers:
        reader.join(20)
    assert frames(got["a"]) == frames(got["b"]) and got["b"].done and got["b"].types[-1] == "response.completed"
    assert frames(got["b3"]) == frames(got["a"])[4:] and got["b3"].done
    assert fetch(a, id) == fetch(b, id) == got["b"].terminal
    again = fetch(b, id, "?stream=true")
    assert frames(again) == frames(got["a"]), "an ended run is replayed from the other, too"


def test_events_reach_the_other_while_they_come(two, upstream):
    a, b = two
    upstream.script(text_then_hold("Half of it"))
    id = begin(a)["id"]
    stream = OpenStream(b.port, {}, method="GET", path=f"/v1/responses/{id}?stream=true")
    assert stream.until("response.output_text.delta")["delta"]
    assert not upstream.chats[0].disconnected.is_set()
    stream.hang_up()
    assert request_json("POST", f"{b.base_url}/responses/{id}/cancel")[0] == 200


@pytest.mark.parametrize("method", ["cancel", "delete"])
def test_a_run_of_one_is_ended_from_the_other(two, upstream, method):
    a, b = two
    upstream.script(drip)
    id = begin(a)["id"]
    upstream.wait_for(lambda u: u.chats, what="the run reaches the upstream")
    if method == "cancel":
        status, _, text = request_json("POST", f"{b.base_url}/responses/{id}/cancel")
        assert (status, json.loads(text)["status"]) == (200, "cancelled"), text
        assert fetch(a, id) == fetch(b, id) == json.loads(text)
        assert fetch(b, id, "?stream=true").types[-1] == "response.incomplete"
    else:
        assert request_json("DELETE", f"{b.base_url}/responses/{id}")[0] == 200
    upstream.wait_for(lambda u: u.chats[0].disconnected.is_set(), 10, "the upstream sees the hang-up")
    wait_until(lambda: metric(a, "rejoinder_open_streams") == 0, 10, "the run is over")
    if method == "delete":
        for proxy in two:
            assert request_json("GET", f"{proxy.base_url}/responses/{id}")[0] == 404, "it came back"


def test_a_dropped_stream_of_one_is_resumed_from_the_other(two, upstream):
    a, b = two
    upstream.script(after_release("The first half,", " the second half."))
    stream = OpenStream(a.port, {**GO, "store": True})
    id = stream.until("response.created")["response"]["id"]
    last = stream.until("response.output_text.delta")["sequence_number"]
    stream.hang_up()
    assert fetch(b, id)["status"] == "in_progress"
    upstream.released.set()
    resumed = fetch(b, id, f"?stream=true&starting_after={last}")
    assert resumed.events[0]["sequence_number"] == last + 1 and resumed.done
    assert resumed.terminal["output"][0]["content"][0]["text"] == "The first half, the second half."


def test_many_runs_polled_from_the_other_at_once(two, upstream):
    """No run is taken for dead because the other looks before the first renewal."""
    a, b = two
    upstream.script(repeat=answer("Done."))
    for _ in range(40):
        id = begin(a)["id"]
        assert wait_ended(b, id)["status"] == "completed"


def test_many_streams_looked_at_from_the_other_at_once(two, upstream):
    a, b = two
    upstream.script(repeat=text_then_hold("Half of it"))
    for _ in range(40):
        stream = OpenStream(a.port, {**GO, "store": True})
        id = stream.until("response.created")["response"]["id"]
        assert fetch(b, id)["status"] == "in_progress"
        stream.hang_up()


# ---------------------------------------------------------------- one of them dies


def test_a_run_of_a_killed_one_fails_within_its_lease(two, upstream):
    a, b = two
    upstream.script(text_then_hold("Half of it"))
    id = begin(a)["id"]
    got = []
    reader = threading.Thread(target=lambda: got.append(fetch(b, id, "?stream=true")))
    reader.start()
    upstream.wait_for(lambda u: u.chats, what="the run reaches the upstream")
    wait_until(lambda: metric(a, "rejoinder_open_streams") == 1, 10, "the run is open")
    time_of_death = time.monotonic()
    kill(a)
    failed = wait_ended(b, id)
    assert time.monotonic() - time_of_death < LEASE + SLACK
    assert failed["status"] == "failed" and failed["error"]["code"] == "server_error", failed
    reader.join(10)
    (stream,) = got
    assert stream.types[-2:] == ["error", "response.failed"] and stream.done, stream.types
    assert stream.terminal == failed
    assert [e["sequence_number"] for e in stream.events] == list(range(len(stream.events)))
    assert_error(*request_json("POST", b.base_url + "/responses", {**GO, "previous_response_id": id}), 400,
                 code="previous_response_not_found")
    # cancelled afterwards, it stays what it is
    assert json.loads(request_json("POST", f"{b.base_url}/responses/{id}/cancel")[2]) == failed


def test_what_a_killed_one_acknowledged_is_there(replica, upstream):
    a, b = replica(), replica()
    upstream.script(repeat=answer("Yes."))
    last, ids = None, []
    for n in range(10):
        stream = raw_stream(a.base_url, {"model": MODEL, "input": str(n), "previous_response_id": last})
        last = stream.terminal["id"]
        ids.append(last)
    kill(a)
    assert create(b, "And?", previous_response_id=last)["status"] == "completed"
    assert [m["content"] for m in upstream.chats[-1].messages if m["role"] == "user"] == [*map(str, range(10)), "And?"]


# ---------------------------------------------------------------- Redis is away


@AWAY
def test_redis_goes_away_and_comes_back_in_mid_traffic(two, upstream, redis, how):
    """Nothing acknowledged is lost, and nothing takes longer than it may."""
    upstream.script(repeat=answer("Yes."))
    kept, refused, slow, all_well, stop = [], [], [], threading.Event(), threading.Event()
    all_well.set()

    def talk(n):
        last, here = None, n % 2
        while not stop.wait(0.03):  # a pace, so that what waits for the store can be written beside it
            # what was answered while the store was away is at first known to the one that answered
            here = 1 - here if all_well.is_set() else here
            body = {"model": MODEL, "input": f"{n}", "previous_response_id": last}
            begun = time.monotonic()
            status, headers, text = request_json("POST", two[here].base_url + "/responses", body)
            if time.monotonic() - begun > 2 * TIMEOUT + SLACK:
                slow.append(time.monotonic() - begun)
            if status == 200:
                last = json.loads(text)["id"]
                kept.append(last)
            else:
                refused.append((status, headers, text))
                last = None if len(refused) % 2 else last

    talkers = [threading.Thread(target=talk, args=(n,)) for n in range(4)]
    for talker in talkers:
        talker.start()
    wait_until(lambda: len(kept) > 20, 20, "traffic")
    all_well.clear()
    redis.go_away(how)
    wait_until(lambda: len(refused) > 5, 20, "what needs the store is refused")
    before = len(kept)
    wait_until(lambda: len(kept) > before + 5, 20, "what does not need it goes on")
    redis.come_back(how)
    for proxy in two:
        for id in list(kept):
            wait_until(lambda: request_json("GET", f"{proxy.base_url}/responses/{id}")[0] == 200, 20, f"{id} is there")
    all_well.set()
    before = len(kept)
    wait_until(lambda: len(kept) > before + 20, 20, "traffic")
    stop.set()
    for talker in talkers:
        talker.join(20)
    assert not slow, slow
    for status, headers, text in refused:
        assert_error(status, headers, text, 503)
        assert int(headers["retry-after"]) > 0
    for proxy in two:
        for id in kept:
            wait_until(lambda: request_json("GET", f"{proxy.base_url}/responses/{id}")[0] == 200, 10, f"{id} is there")
    assert len(kept) == len(set(kept)) > 40


@AWAY
def test_while_redis_is_away(two, upstream, redis, how):
    a, _ = two
    upstream.script(repeat=answer("Yes."))
    first = create(a)
    conversation = json.loads(request_json("POST", a.base_url + "/conversations", {})[2])["id"]
    redis.go_away(how)
    base = a.base_url
    needing = [("POST", "/responses", {**GO, "previous_response_id": first["id"]}), ("POST", "/responses", {**GO, "background": True}),
               ("POST", "/responses", {**GO, "conversation": conversation}), ("GET", f"/responses/{first['id']}", None),
               ("POST", "/responses", {**GO, "stream": True, "previous_response_id": first["id"]}),
               ("POST", "/responses", {"model": MODEL, "input": [{"type": "item_reference", "id": first["output"][0]["id"]}]}),
               ("GET", f"/responses/{first['id']}?stream=true", None), ("DELETE", f"/responses/{first['id']}", None),
               ("POST", f"/responses/{first['id']}/cancel", None), ("GET", f"/responses/{first['id']}/input_items", None),
               ("POST", "/conversations", {}), ("GET", f"/conversations/{conversation}", None),
               ("GET", f"/conversations/{conversation}/items", None), ("DELETE", f"/conversations/{conversation}", None)]
    for method, path, body in needing:
        begun = time.monotonic()
        status, headers, text = request_json(method, base + path, body)
        assert time.monotonic() - begun < TIMEOUT + SLACK, (method, path)
        error = assert_error(status, headers, text, 503, type="service_unavailable_error")
        assert int(headers["retry-after"]) > 0 and "127.0.0.1" not in error["message"], (headers, error)
    asked = len(upstream.chats)
    assert asked == 1, "what cannot be served is not generated"
    # what needs no store goes on as if nothing were
    for body in ({**GO, "store": False}, {**GO, "store": False, "stream": True}):
        begun = time.monotonic()
        assert request_json("POST", base + "/responses", body)[0] == 200
        assert time.monotonic() - begun < TIMEOUT / 2, body
    assert request_json("GET", base + "/models")[0] == 200 and request_json("GET", a.admin_url + "/readyz")[0] == 200
    # what cannot be stored is answered in full, and told of
    assert metric(a, 'rejoinder_notes_total{kind="not_stored"}') == 0
    for n, more in enumerate(({}, {"store": True}), 1):
        stream = raw_stream(base, {**GO, **more})
        assert stream.types[-1] == "response.completed" and stream.output_text == "Yes."
        assert metric(a, 'rejoinder_notes_total{kind="not_stored"}') >= n
    create(a)
    said = [json.loads(line) for line in a.text().splitlines() if "could not be stored" in line]
    assert said and all(line["level"] == "ERROR" for line in said)
    assert any(stream.terminal["id"] in json.dumps(line) for line in said), said[-1]


@AWAY
def test_a_run_outlives_redis_for_longer_than_its_lease(two, upstream, redis, how):
    a, b = two
    upstream.script(after_release("The first half,", " the second half."))
    id = begin(a)["id"]
    upstream.wait_for(lambda u: u.chats, what="the run reaches the upstream")
    redis.go_away(how)
    gone = time.monotonic()
    wait_until(lambda: time.monotonic() - gone > LEASE + 0.5, 10, "the lease would be over")
    assert not upstream.chats[0].disconnected.is_set()
    redis.come_back(how)
    upstream.released.set()
    wait_until(lambda: metric(a, "rejoinder_open_streams") == 0, 15, "the run is over")
    for proxy in two:
        ended = wait_until(lambda: (r := request_json("GET", f"{proxy.base_url}/responses/{id}"))[0] == 200
                           and json.loads(r[2])["status"] == "completed" and json.loads(r[2]), 15, "completed")
        assert ended["output"][0]["content"][0]["text"] == "The first half, the second half."
    def replayed(proxy):  # a machine that is busy enough makes Redis seem away once more
        got = wait_until(lambda: (r := request_json("GET", f"{proxy.base_url}/responses/{id}?stream=true"))[0] == 200 and r, 15, "replayed")
        return frames(Stream(*got))

    assert replayed(a) == replayed(b)


def test_started_without_redis(redis, replica, upstream):
    """It comes up, serves what needs no store, and finds Redis when that is there."""
    redis.stop()
    proxy = replica()
    upstream.script(repeat=answer("Yes."))
    assert create(proxy, store=False)["status"] == "completed"
    assert_error(*request_json("GET", proxy.base_url + "/responses/resp_x"), 503)
    redis.start()
    wait_until(lambda: request_json("GET", proxy.base_url + "/responses/resp_x")[0] == 404, 15, "the store is there")
    assert fetch(proxy, create(proxy)["id"])["status"] == "completed"


def test_records_can_be_sealed_at_rest(redis, replica, upstream):
    a, b = replica(store__seal="true"), replica(store__seal="true")
    upstream.script(answer("The answer is a-secret-word."), answer("Two."))
    first = create(a, "A question with another-secret-word.")
    create(b, "On.", previous_response_id=first["id"])
    assert "a-secret-word" in json.dumps(upstream.chats[1].messages)
    redis.stop()
    kept = b"".join(path.read_bytes() for path in redis.folder.rglob("*") if path.is_file())
    assert first["id"].encode() in kept
    assert b"secret-word" not in kept and b"sk-test" not in kept
    redis.start()
