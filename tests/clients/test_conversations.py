"""The Conversations API, input items, references and forks, through the official library where it has a method."""

import json

import openai
import pytest
from harness import assert_error, raw_stream, request_json
from scripted import MODEL, answer, call, refuse, text_then_cut

pytestmark = pytest.mark.timeout(90)

TOOL = {"type": "function", "name": "f", "description": "F", "parameters": {"type": "object", "properties": {}}, "strict": False}


@pytest.fixture
def stored(rejoinder, upstream, store):
    return rejoinder(upstream.url, **store)


@pytest.fixture
def client(stored):
    return openai.OpenAI(base_url=stored.base_url, api_key="sk-test", max_retries=0, timeout=30)


@pytest.fixture
def ask(client):
    """A response; `ask("text", previous_response_id=...)`."""
    return lambda input, **more: client.responses.create(model=MODEL, input=input, **more)


@pytest.fixture
def refused(stored):
    """The error object of a request that must be answered with `status`."""
    def send(method, path, body=None, status=400, **wanted):
        return assert_error(*request_json(method, stored.base_url + path, body), status, **wanted)

    return send


def user(text):
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def said(request):
    return [(m["role"], m["content"]) for m in request.messages]


def texts(items):
    return [item.content[0].text for item in items]


# ---------------------------------------------------------------- conversations


def test_a_conversations_life(client, refused):
    made = client.conversations.create(metadata={"topic": "tea"}, items=[user("One."), {"role": "assistant", "content": "Two."}])
    assert made.id.startswith("conv_") and made.object == "conversation" and made.metadata == {"topic": "tea"}
    assert client.conversations.retrieve(made.id) == made
    changed = client.conversations.update(made.id, metadata={"topic": "coffee"})
    assert changed.metadata == {"topic": "coffee"} and changed.created_at == made.created_at
    assert client.conversations.retrieve(made.id) == changed
    assert texts(client.conversations.items.list(made.id, order="asc")) == ["One.", "Two."]
    gone = client.conversations.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "conversation.deleted", True)
    for method, path in (("GET", ""), ("GET", "/items"), ("DELETE", ""), ("POST", "")):
        refused(method, f"/conversations/{made.id}{path}", {} if method == "POST" else None, status=404)


def test_its_items_one_by_one(client, refused):
    id = client.conversations.create().id
    assert list(client.conversations.items.list(id)) == []
    added = client.conversations.items.create(id, items=[
        user("One."), {"role": "assistant", "content": "Two."},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "out"}])
    assert [i.type for i in added.data] == ["message", "message", "function_call", "function_call_output"]
    assert (added.first_id, added.last_id, added.has_more) == (added.data[0].id, added.data[-1].id, False)
    assert len({i.id for i in added.data}) == 4
    for item in added.data:
        assert client.conversations.items.retrieve(item.id, conversation_id=id) == item
    head = client.conversations.items.delete(added.data[1].id, conversation_id=id)
    assert head.id == id and head.object == "conversation"
    refused("GET", f"/conversations/{id}/items/{added.data[1].id}", status=404)
    left = [added.data[0], *added.data[2:]]
    assert list(client.conversations.items.list(id, order="asc")) == left
    refused("POST", f"/conversations/{id}/items", {"items": [user(str(n)) for n in range(21)]})
    refused("POST", f"/conversations/{id}/items", {})
    assert list(client.conversations.items.list(id, order="asc")) == left


def assert_pages(list_page):
    """25 items "0" to "24", by pages of either order; `list_page(**query)` is the library's."""
    first = list_page()
    assert texts(first.data) == [str(n) for n in range(24, 4, -1)] and first.has_more
    assert (first.first_id, first.last_id) == (first.data[0].id, first.data[-1].id)
    rest = list_page(after=first.last_id)
    assert texts(rest.data) == [str(n) for n in range(4, -1, -1)] and not rest.has_more
    ascending = list_page(order="asc", limit=7)
    assert texts(ascending.data) == [str(n) for n in range(7)] and ascending.has_more
    assert texts(ascending) == [str(n) for n in range(25)], "the library's own paging"
    everything = list_page(limit=100)
    assert len(everything.data) == 25 and not everything.has_more
    middle = list_page(order="asc", limit=2, after=everything.data[-5].id)
    assert texts(middle.data) == ["5", "6"] and middle.has_more


def test_pages_of_a_conversation(client, refused):
    id = client.conversations.create(items=[user(str(n)) for n in range(20)]).id
    client.conversations.items.create(id, items=[user(str(n)) for n in range(20, 25)])
    assert_pages(lambda **query: client.conversations.items.list(id, **query))
    for query in ("limit=0", "limit=101", "limit=x", "order=up", "after=msg_1"):
        refused("GET", f"/conversations/{id}/items?{query}")


def test_responses_in_a_conversation(client, ask, refused, stored, upstream):
    upstream.script(answer("Ada, good.", reasoning="A name."), answer(calls=[call("f", {}, "idF")]), answer("You are Ada."),
                    refuse(400, {"error": {"message": "no", "code": 400}}))
    id = client.conversations.create(items=[user("Be kind.")]).id
    first = ask("I am Ada.", conversation=id)
    assert first.conversation.id == id and first.previous_response_id is None
    second = raw_stream(stored.base_url, {"model": MODEL, "input": "Who am I?", "conversation": {"id": id}, "tools": [TOOL]})
    (item,) = second.items("function_call")
    third = ask([{"type": "function_call_output", "call_id": item["call_id"], "output": "Ada"}], conversation=id, tools=[TOOL])
    assert third.output_text == "You are Ada."
    with pytest.raises(openai.BadRequestError):  # what fails leaves nothing
        ask("Lost.", conversation=id)
    assert [m["role"] for m in upstream.chats[2].messages] == ["user", "user", "assistant", "user", "assistant", "tool"]
    items = list(client.conversations.items.list(id, order="asc"))
    assert [i.type for i in items] == ["message", "message", "reasoning", "message", "message", "function_call",
                                       "function_call_output", "message"]
    assert items[3].id == first.output[-1].id and items[5].call_id == item["call_id"]
    # a response's end is not the conversation's, nor the other way round
    client.responses.delete(first.id)
    assert len(list(client.conversations.items.list(id))) == 8
    client.conversations.items.delete(items[5].id, conversation_id=id)
    client.conversations.items.delete(items[6].id, conversation_id=id)
    upstream.script(answer("On."))
    ask("Go on.", conversation=id)
    assert [m["role"] for m in upstream.chats[-1].messages] == ["user", "user", "assistant", "user", "assistant", "user"]
    refused("POST", "/responses", {"model": MODEL, "input": "x", "conversation": id, "previous_response_id": third.id})
    refused("POST", "/responses", {"model": MODEL, "conversation": id, "input": [
        {"type": "function_call_output", "call_id": "nobody", "output": "x"}]})


def test_store_false_still_belongs_to_its_conversation(client, ask, refused, upstream):
    upstream.script(answer("Two."), answer("Four."))
    id = client.conversations.create().id
    response = ask("One.", conversation=id, store=False)
    refused("GET", f"/responses/{response.id}", status=404)
    ask("Three.", conversation=id)
    assert said(upstream.chats[1]) == [("user", "One."), ("assistant", "Two."), ("user", "Three.")]


# ---------------------------------------------------------------- input items


def test_pages_of_input_items(client, ask, refused, upstream):
    upstream.script(answer("Counted."))
    response = ask([user(str(n)) for n in range(25)])
    assert_pages(lambda **query: client.responses.input_items.list(response.id, **query))
    refused("GET", f"/responses/{response.id}/input_items?limit=101")


def test_input_items_hold_what_was_before_and_images_on_demand(client, ask, upstream):
    url = "data:image/png;base64,iVBORw0KGgo="
    upstream.script(answer("A dot."), answer("Small."))
    first = ask([{"role": "user", "content": [
        {"type": "input_text", "text": "What?"}, {"type": "input_image", "image_url": url, "detail": "low"}]}])
    second = ask("How large?", previous_response_id=first.id)
    items = list(client.responses.input_items.list(second.id, order="asc"))
    assert [(i.role, i.content[0].text) for i in items] == [("user", "What?"), ("assistant", "A dot."), ("user", "How large?")]
    assert items[1].id == first.output[0].id and len({i.id for i in items}) == 3
    assert items[0].content[1].type == "input_image" and items[0].content[1].image_url is None
    shown = list(client.responses.input_items.list(second.id, order="asc", include=["message.input_image.image_url"]))
    assert shown[0].content[1].image_url == url and shown[0].content[1].detail == "low"
    assert [i.id for i in shown] == [i.id for i in items], "an item keeps its id"
    # the model still gets the image
    assert url in json.dumps(upstream.chats[1].messages[0])


# ---------------------------------------------------------------- references


def test_references_to_output_and_input_items(client, ask, refused, upstream):
    upstream.script(answer("An answer.", reasoning="Why not."), answer(calls=[call("f", {"x": 1}, "idF")]), answer("Third."), answer("4"))
    first = ask([user("A question."), {**user("Its own id."), "id": "msg_mine"}])
    asked = list(client.responses.input_items.list(first.id, order="asc"))
    assert asked[1].id == "msg_mine"
    second = ask("Call.", tools=[TOOL])
    (item,) = second.output
    third = ask([{"type": "item_reference", "id": asked[0].id}, *[{"type": "item_reference", "id": i.id} for i in first.output],
                 {"id": item.id}, {"type": "function_call_output", "call_id": item.call_id, "output": "out"}], tools=[TOOL])
    assert third.output_text == "Third."
    messages = upstream.chats[2].messages
    assert [m["role"] for m in messages] == ["user", "assistant", "tool"]
    assert messages[0]["content"] == "A question." and messages[1]["content"] == "An answer."
    assert messages[1]["reasoning_content"] == "Why not." and messages[2]["content"] == "out"
    # what was referred to is the response's own input from then on
    client.responses.delete(first.id)
    client.responses.delete(second.id)
    ask("And?", previous_response_id=third.id)
    assert upstream.chats[3].messages[: len(messages)] == messages
    error = refused("POST", "/responses", {"model": MODEL, "input": [user("x"), {"type": "item_reference", "id": first.output[0].id}]})
    assert first.output[0].id in error["message"] and error["param"] == "input[1]"


# ---------------------------------------------------------------- chains


def test_forks(ask, client, upstream):
    upstream.script(*[answer(text) for text in ("Root.", "Left.", "Right.", "Left on.", "Right on.")])
    root = ask("Begin.")
    left, right = ask("Go left.", previous_response_id=root.id), ask("Go right.", previous_response_id=root.id)
    ask("On.", previous_response_id=left.id)
    ask("On.", previous_response_id=right.id)
    begun = [("user", "Begin."), ("assistant", "Root.")]
    assert said(upstream.chats[3]) == [*begun, ("user", "Go left."), ("assistant", "Left."), ("user", "On.")]
    assert said(upstream.chats[4]) == [*begun, ("user", "Go right."), ("assistant", "Right."), ("user", "On.")]
    client.responses.delete(left.id)
    upstream.script(answer("Still there."))
    assert ask("More.", previous_response_id=right.id).output_text == "Still there."


def test_a_deleted_link_in_the_middle(ask, client, refused, upstream):
    upstream.script(repeat=answer("Yes."))
    first = ask("One.")
    second = ask("Two.", previous_response_id=first.id)
    third = ask("Three.", previous_response_id=second.id)
    client.responses.delete(second.id)
    for id in (second.id, third.id):
        error = refused("POST", "/responses", {"model": MODEL, "input": "On.", "previous_response_id": id},
                        code="previous_response_not_found", type="invalid_request_error")
        assert error["param"] == "previous_response_id"
    assert client.responses.retrieve(third.id).output_text == "Yes."
    assert ask("Two again.", previous_response_id=first.id).output_text == "Yes."


def test_an_output_without_its_call(ask, refused, upstream):
    upstream.script(answer(calls=[call("f", {}, "idF")]), answer("Text."))
    first = ask("Call.", tools=[TOOL])
    body = {"model": MODEL, "input": [{"type": "function_call_output", "call_id": "call_X", "output": "x"}]}
    error = refused("POST", "/responses", {**body, "previous_response_id": first.id})
    assert error["message"] == "No tool call found for function call output with call_id call_X."
    assert error["param"] == "input" and len(upstream.chats) == 1
    # a client that replays its history itself is given more room
    assert ask(body["input"]).output_text == "Text."
    assert "call_X" in upstream.chats[1].messages[0]["content"]


def test_store_false_is_not_stored(ask, refused, stored, upstream):
    upstream.script(answer("Whole."), answer("Streamed."))
    whole = ask("One.", store=False).id
    streamed = raw_stream(stored.base_url, {"model": MODEL, "input": "Two.", "store": False}).terminal["id"]
    for id in (whole, streamed):
        refused("GET", f"/responses/{id}", status=404)
        refused("DELETE", f"/responses/{id}", status=404)
        refused("POST", "/responses", {"model": MODEL, "input": "x", "previous_response_id": id}, code="previous_response_not_found")


def test_what_failed_cannot_be_continued_and_what_was_cut_off_can(ask, refused, stored, upstream):
    upstream.script(text_then_cut("Half an ans"), answer("Cut o", finish="length"), answer("Goes on."))
    body = {"model": MODEL, "input": "Begin."}
    failed, cut = raw_stream(stored.base_url, body), raw_stream(stored.base_url, body)
    assert (failed.terminal["status"], cut.terminal["status"]) == ("failed", "incomplete")
    status, _, text = request_json("GET", f"{stored.base_url}/responses/{failed.terminal['id']}")
    assert status == 200 and json.loads(text) == failed.terminal
    refused("POST", "/responses", {**body, "previous_response_id": failed.terminal["id"]}, code="previous_response_not_found")
    assert ask("Go on.", previous_response_id=cut.terminal["id"]).output_text == "Goes on."
    assert said(upstream.chats[2]) == [("user", "Begin."), ("assistant", "Cut o"), ("user", "Go on.")]


def test_settings_are_not_inherited(ask, client, upstream):
    one = '{"n": 1}'
    upstream.script(answer(one), answer("Two."), answer("Three."))
    first = ask("Begin.", instructions="Be brief.", tools=[TOOL], tool_choice="required", temperature=0.1, max_output_tokens=99,
                metadata={"a": "b"}, text={"format": {"type": "json_object"}})
    second = ask("On.", previous_response_id=first.id)
    third = ask("On.", previous_response_id=second.id, instructions="Be long.")
    assert said(upstream.chats[1]) == [("user", "Begin."), ("assistant", one), ("user", "On.")]
    assert not {"tools", "tool_choice", "temperature", "max_tokens", "response_format"} & set(upstream.chats[1].json)
    assert (second.instructions, second.tools, second.metadata, second.temperature) == (None, [], {}, 1.0)
    assert upstream.chats[2].messages[0] == {"role": "system", "content": "Be long."}
    again = client.responses.retrieve(first.id)
    assert again == first and again.instructions == "Be brief." and client.responses.retrieve(third.id) == third
