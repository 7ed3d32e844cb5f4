"""What one caller stores does not exist for another: each endpoint answers as for an id that never was, in the same time."""

import http.client
import json
import random
import re
import statistics
import time

import pytest
from scripted import MODEL, answer, text_then_hold

pytestmark = pytest.mark.timeout(120)

OWNER = {"Authorization": "Bearer key-a"}
OTHERS = {
    "another key": {"Authorization": "Bearer key-b"},
    "no key": {},
    "the key as x-api-key": {"x-api-key": "Bearer key-a"},
    "the key as api-key": {"api-key": "key-a"},
    "the key with an organization": {**OWNER, "OpenAI-Organization": "org-1"},
    "the key with a project": {**OWNER, "OpenAI-Project": "proj-1"},
    "the key and another one": {**OWNER, "x-api-key": "key-b"},
}
UNKNOWN = "0197f1d2aaaa7bbbb8cccc9dddde0001"
VARYING = {"x-request-id", "openai-processing-ms", "date"}


class Api:
    """One caller on one connection."""

    def __init__(self, proxy, headers):
        self.connection, self.headers = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30), headers

    def __call__(self, method, path, body=None):
        """-> (status, headers that ought to be equal, body)"""
        data = None if body is None else json.dumps(body)
        self.connection.request(method, "/v1" + path, data, {"Content-Type": "application/json", **self.headers})
        reply = self.connection.getresponse()
        text = reply.read().decode()
        return reply.status, {k.lower(): v for k, v in reply.getheaders() if k.lower() not in VARYING}, text

    def ok(self, method, path, body=None):
        status, _, text = self(method, path, body)
        assert status == 200, (method, path, status, text)
        return json.loads(text)


class Owned:
    """One of everything that a caller can own."""

    def __init__(self, api, upstream, text="A secret."):
        upstream.script(answer(text, reasoning="A thought."), answer("Streamed."), answer("In a conversation."),
                        repeat=text_then_hold("Runs"))
        self.api = api
        first = api.ok("POST", "/responses", {"model": MODEL, "input": [
            {"type": "message", "role": "user", "content": "Question."}], "metadata": {"mine": "yes"}})
        self.response, self.output_item = first["id"], first["output"][-1]["id"]
        self.input_item = api.ok("GET", f"/responses/{self.response}/input_items")["data"][0]["id"]
        _, _, text = api("POST", "/responses", {"model": MODEL, "input": "Go.", "background": True, "stream": True})
        self.replayable = re.search(r'"id":"(resp_\w+)"', text).group(1)
        self.conversation = api.ok("POST", "/conversations", {"metadata": {"mine": "yes"}, "items": [
            {"type": "message", "role": "user", "content": "Hello."}]})["id"]
        api.ok("POST", "/responses", {"model": MODEL, "input": "In it.", "conversation": self.conversation})
        self.conversation_item = api.ok("GET", f"/conversations/{self.conversation}/items")["data"][0]["id"]
        self.running = api.ok("POST", "/responses", {"model": MODEL, "input": "Go.", "background": True})["id"]
        upstream.wait_for(lambda u: len(u.chats) == 4, what="the run reaches the upstream")

    def all(self):
        """Everything, as its owner sees it."""
        paths = [f"/responses/{self.response}", f"/responses/{self.response}/input_items", f"/responses/{self.replayable}",
                 f"/responses/{self.replayable}?stream=true", f"/conversations/{self.conversation}",
                 f"/conversations/{self.conversation}/items", f"/conversations/{self.conversation}/items/{self.conversation_item}"]
        return {path: self.api("GET", path) for path in paths} | {
            "running": self.api.ok("GET", f"/responses/{self.running}")["status"]}


def requests(response, conversation, conversation_item, items, own_conversation):
    """Every request that names something of the store: (name, method, path, body)."""
    yield "fetch", "GET", f"/responses/{response}", None
    yield "replay", "GET", f"/responses/{response}?stream=true", None
    yield "resume", "GET", f"/responses/{response}?stream=true&starting_after=1", None
    yield "input items", "GET", f"/responses/{response}/input_items", None
    yield "input items after one", "GET", f"/responses/{response}/input_items?after={items[0]}", None
    yield "cancel", "POST", f"/responses/{response}/cancel", {}
    yield "delete", "DELETE", f"/responses/{response}", None
    go_on = {"model": MODEL, "input": "And?"}
    for more in ({}, {"stream": True}, {"background": True}, {"store": False}, {"stream": True, "store": True}):
        yield f"continue {more}", "POST", "/responses", {**go_on, "previous_response_id": response, **more}
        yield f"converse {more}", "POST", "/responses", {**go_on, "conversation": conversation, **more}
    yield "count", "POST", "/responses/input_tokens", {**go_on, "previous_response_id": response}
    yield "count conversation", "POST", "/responses/input_tokens", {**go_on, "conversation": conversation}
    yield "compact", "POST", "/responses/compact", {**go_on, "previous_response_id": response}
    for item in items:
        input = [{"type": "item_reference", "id": item}, {"role": "user", "content": "And?"}]
        yield f"refer to {item[:4]}", "POST", "/responses", {"model": MODEL, "input": input}
        yield f"refer to {item[:4]} untyped", "POST", "/responses", {"model": MODEL, "input": [{"id": item}]}
        yield f"item {item[:4]}", "GET", f"/conversations/{own_conversation}/items/{item}", None
        yield f"delete item {item[:4]}", "DELETE", f"/conversations/{own_conversation}/items/{item}", None
        yield f"page after {item[:4]}", "GET", f"/conversations/{own_conversation}/items?after={item}", None
    at = f"/conversations/{conversation}"
    yield "conversation", "GET", at, None
    yield "conversation update", "POST", at, {"metadata": {"stolen": "yes"}}
    yield "conversation items", "GET", at + "/items", None
    yield "conversation item", "GET", f"{at}/items/{conversation_item}", None
    yield "conversation item delete", "DELETE", f"{at}/items/{conversation_item}", None
    yield "conversation add", "POST", at + "/items", {"items": [{"role": "user", "content": "Mine now."}]}
    yield "conversation delete", "DELETE", at, None


@pytest.mark.parametrize("who", OTHERS)
def test_anothers_records_answer_like_unknown_ones(rejoinder, upstream, store, who):
    proxy = rejoinder(upstream.url, **store)
    owner, other = Api(proxy, OWNER), Api(proxy, OTHERS[who])
    owned = Owned(owner, upstream)
    before, chats = owned.all(), len(upstream.chats)
    assert before["running"] in ("queued", "in_progress")
    own_conversation = other.ok("POST", "/conversations", {})["id"]

    def unknown(id):
        prefix, rest = id.split("_", 1)
        return f"{prefix}_{UNKNOWN}{rest[len(UNKNOWN):]}"

    def normal(reply, ids):
        status, headers, text = reply
        for id in ids:
            text = text.replace(id, "ID")
        return status, headers, text

    tried = 0
    for response in (owned.response, owned.replayable, owned.running):
        real = (response, owned.conversation, owned.conversation_item, (owned.output_item, owned.input_item))
        made_up = tuple(unknown(id) if isinstance(id, str) else tuple(map(unknown, id)) for id in real)
        pairs = zip(requests(*real, own_conversation), requests(*made_up, own_conversation))
        for (name, method, path, body), (_, _, other_path, other_body) in pairs:
            foreign = normal(other(method, path, body), real[:3] + real[3])
            missing = normal(other(method, other_path, other_body), made_up[:3] + made_up[3])
            assert foreign == missing, f"{who}: {name}"
            assert foreign[0] in (400, 404), f"{who}: {name}: {foreign}"
            tried += 1
    assert tried > 100
    # nothing of it did anything
    assert owned.all() == before
    assert len(upstream.chats) == chats and not upstream.chats[3].disconnected.is_set()
    assert owner.ok("POST", f"/responses/{owned.running}/cancel")["status"] == "cancelled"


def test_every_caller_reaches_its_own(rejoinder, upstream, store):
    """The counterpart: each of these callers is one that can store, read and continue."""
    proxy = rejoinder(upstream.url, **store)
    upstream.script(repeat=answer("Hello."))
    for who, headers in {"owner": OWNER, **OTHERS}.items():
        api = Api(proxy, headers)
        first = api.ok("POST", "/responses", {"model": MODEL, "input": f"I am {who}."})
        again = Api(proxy, headers)
        assert again.ok("GET", f"/responses/{first['id']}") == first, who
        again.ok("POST", "/responses", {"model": MODEL, "input": "Who?", "previous_response_id": first["id"]})
        assert [m["content"] for m in upstream.chats[-1].messages] == [f"I am {who}.", "Hello.", "Who?"]


def test_anothers_records_take_as_long_as_unknown_ones(rejoinder, upstream, store):
    """Large records: had one been read before its owner was looked at, that would show."""
    proxy = rejoinder(upstream.url, **store)
    owner, other = Api(proxy, OWNER), Api(proxy, OTHERS["another key"])
    text = "secret " * 150_000
    upstream.script(repeat=answer(text))
    response = owner.ok("POST", "/responses", {"model": MODEL, "input": "Question."})["id"]
    conversation = owner.ok("POST", "/conversations", {"items": [{"role": "user", "content": text}]})["id"]
    pick = random.Random(4)
    asks = {
        "fetch": lambda r, c: ("GET", f"/responses/{r}", None),
        "input items": lambda r, c: ("GET", f"/responses/{r}/input_items", None),
        "continue": lambda r, c: ("POST", "/responses", {"model": MODEL, "input": "And?", "previous_response_id": r}),
        "cancel": lambda r, c: ("POST", f"/responses/{r}/cancel", None),
        "delete": lambda r, c: ("DELETE", f"/responses/{r}", None),
        "conversation": lambda r, c: ("GET", f"/conversations/{c}/items", None),
    }
    spent = {}

    def timed(key, api, arguments, wanted):
        begun = time.perf_counter()
        status, _, _ = api(*arguments)
        spent.setdefault(key, []).append(time.perf_counter() - begun)
        assert status in wanted, (key, status)

    for _ in range(40):
        timed("own", owner, asks["fetch"](response, conversation), (200,))
        for name, ask in asks.items():
            ids = {"foreign": (response, conversation)}
            for unknown in ("unknown", "unknown too"):
                digits = "".join(pick.choice("0123456789abcdef") for _ in range(32))
                ids[unknown] = (f"resp_{digits}", f"conv_{digits}")
            for kind in pick.sample(list(ids), 3):
                timed((name, kind), other, ask(*ids[kind]), (400, 404))
    medians = {key: statistics.median(times) for key, times in spent.items()}
    # the measure can see it: to have the record costs far more than not to have it
    assert medians["own"] > 3 * medians["fetch", "unknown"], medians
    for name in asks:
        unknown = medians[name, "unknown"]
        noise = max(3 * abs(unknown - medians[name, "unknown too"]), medians["own"] / 4)
        assert abs(medians[name, "foreign"] - unknown) <= noise, (name, medians)
