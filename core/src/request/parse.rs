//! Owns the first look at a request: its fields told apart, and what it asks of the store. It must not understand the
//! rest; that is `plan`, which needs what the store answered.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::value::RawValue;

use crate::error::{Error, Kind};
use crate::fields::{array, beginning, boolean, fields, integer, metadata, missing, object, present, string};
use crate::limits::{Limits, array_too_long, arrays_too_long, string_too_long, too_deep, too_wide};
use crate::stored_items::Input;
use crate::wire::request::{
    ChatMessage, ContextManagement, ConversationBody, ConversationParam, CreateResponse, InputItem, Item,
};
use crate::wire::{json, trusted_json};

/// The text of a request body.
///
/// # Errors
/// 400 for a body that is not UTF-8, naming the byte.
pub fn text(body: &[u8]) -> Result<Cow<'_, str>, Error> {
    let text = std::str::from_utf8(body)
        .map_err(|error| invalid_json(format!("the body is not UTF-8 at byte {}", error.valid_up_to())))?;
    // lone surrogates are legal in JSON and refused by most parsers, upstream's and client's alike
    Ok(json::SurrogateJoiner::default().join(text))
}

/// What a request wants from or for the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestSummary {
    /// The model, where one is named.
    pub model: Option<String>,
    /// What the client calls the prompts that begin alike.
    pub prompt_cache_key: Option<String>,
    /// The response that it continues.
    pub previous_response_id: Option<String>,
    /// The conversation that it belongs to.
    pub conversation: Option<String>,
    /// Whether the response is kept; true unless the request says otherwise.
    pub store: bool,
    /// Whether the request says `"store": true` itself.
    pub store_named: bool,
    /// Whether the request returns before the response is there.
    pub background: bool,
    /// Whether events are wanted.
    pub stream: bool,
    /// Prompt tokens from which on the conversation is summarised first (`context_management`).
    pub compact_threshold: Option<u64>,
    /// Whether the oldest turns may be left out: `truncation: "auto"`.
    pub truncates: bool,
    /// Items named by `item_reference`, with their place in `input`.
    pub references: Vec<(usize, String)>,
}

/// What the store adds to a request.
#[derive(Debug, Default)]
pub struct Context<'a> {
    /// Items before `input`, the oldest first.
    pub earlier: Vec<InputItem<'a>>,
    /// Items by their ids, for `item_reference`.
    pub references: HashMap<&'a str, InputItem<'a>>,
    /// A `compaction` item that stands for everything before the user's last words.
    pub summary: Option<InputItem<'a>>,
    /// Whether an output must answer a call that is there: so where the history is ours.
    pub strict: bool,
}

/// A request whose fields are told apart and not yet understood.
#[derive(Debug)]
pub struct ParsedRequest<'a> {
    /// The JSON text of the whole request.
    pub(crate) text: &'a str,
    pub(crate) request: CreateResponse<'a>,
    /// How much it may hold.
    pub(crate) limits: Limits,
    /// The items of an array input, told apart once: that takes a look at every byte.
    pub(crate) items: Vec<InputItem<'a>>,
    /// Those that are `item_reference`, by their place.
    pub(crate) references: Vec<(usize, String)>,
}

impl<'a> ParsedRequest<'a> {
    /// Takes a body apart.
    ///
    /// # Errors
    /// 400 for a body that is no JSON object, or holds more than `limits` allow.
    pub fn read(text: &'a str, limits: &Limits) -> Result<ParsedRequest<'a>, Error> {
        if !text.trim_start().starts_with('{') {
            return Err(invalid_json("expected one JSON object".to_owned()));
        }
        let request: CreateResponse<'a> =
            serde_json::from_str(text).map_err(|error| match error.classify() {
                serde_json::error::Category::Data => {
                    invalid_json(format!("expected one JSON object: {error}"))
                }
                _ => invalid_json(error.to_string()),
            })?;
        for (name, value) in request.members() {
            // the items of an input are looked at one by one
            if name != "input" {
                shallow(value.get(), name, limits)?;
            }
        }
        let items = items(request.input, limits)?;
        let references = items.iter().enumerate();
        let references =
            references.filter_map(|(n, (_, item))| Some((n, reference(item.as_ref()?)?))).collect();
        Ok(ParsedRequest { text, request, limits: *limits, items, references })
    }

    /// What it asks of the store.
    ///
    /// # Errors
    /// 400 for a field of the wrong type, for `conversation` beside `previous_response_id`, and for a background
    /// response that may not be stored.
    pub fn asks(&self) -> Result<RequestSummary, Error> {
        let request = &self.request;
        let store = boolean(request.store, "store")?;
        let asks = RequestSummary {
            model: string(request.model, "model")?.filter(|model| !model.is_empty()).map(Cow::into_owned),
            prompt_cache_key: string(request.prompt_cache_key, "prompt_cache_key")?.map(Cow::into_owned),
            previous_response_id: string(request.previous_response_id, "previous_response_id")?
                .map(Cow::into_owned),
            conversation: conversation(request)?,
            store: store.unwrap_or(true),
            store_named: store == Some(true),
            background: boolean(request.background, "background")?.unwrap_or(false),
            stream: boolean(request.stream, "stream")?.unwrap_or(false),
            compact_threshold: threshold(request.context_management)?,
            truncates: string(request.truncation, "truncation")?.as_deref() == Some("auto"),
            references: self.references.clone(),
        };
        if asks.conversation.is_some() && asks.previous_response_id.is_some() {
            let message = "Mutually exclusive parameters. Ensure you are only providing one of: \
                           'previous_response_id' or 'conversation'.";
            return Err(Error::new(Kind::MutuallyExclusive, message).param("previous_response_id"));
        }
        if asks.background && !asks.store {
            let message = "Invalid value: 'background' responses are kept until they are fetched, and \
                           'store' is false.";
            return Err(Error::new(Kind::InvalidValue, message).param("background"));
        }
        Ok(asks)
    }

    /// The input as a store keeps it: references resolved, and without the items that it holds already, by their place.
    pub fn stored_input(&self, context: &Context<'_>, repeated: &[usize]) -> Input {
        let Some(input) = present(self.request.input) else { return Input::new("[]") };
        if (context.references.is_empty() && repeated.is_empty()) || input.get().starts_with('"') {
            return Input::new(input.get());
        }
        // both in the order of the items
        let mut named = self.references.iter().peekable();
        let mut repeated = repeated.iter().peekable();
        let items = self.items.iter().enumerate().filter_map(|(n, item)| {
            let id = named.next_if(|(at, _)| *at == n).map(|(_, id)| id.as_str());
            if repeated.next_if(|at| **at == n).is_some() {
                return None;
            }
            let (raw, _) = id.and_then(|id| context.references.get(id)).unwrap_or(item);
            Some(raw.get())
        });
        let mut kept = String::with_capacity(input.get().len());
        for item in items {
            kept.push(if kept.is_empty() { '[' } else { ',' });
            kept.push_str(item);
        }
        kept.push_str(if kept.is_empty() { "[]" } else { "]" });
        Input::new(&kept)
    }
}

/// The items of an array input.
fn items<'a>(input: Option<&'a RawValue>, limits: &Limits) -> Result<Vec<InputItem<'a>>, Error> {
    let (mut items, mut count) = (Vec::new(), 0);
    let Some(input) = present(input) else { return Ok(items) };
    let seen = trusted_json::objects(input.get(), &mut items, |raw, item| {
        count += 1;
        (count <= limits.items).then_some((raw, item))
    });
    // no array
    let Some(seen) = seen else {
        shallow(input.get(), "input", limits)?;
        return Ok(items);
    };
    if count > limits.items {
        return Err(array_too_long("input", limits.items, count));
    }
    for (n, (_, item)) in items.iter().enumerate() {
        let Some(item) = item else { continue };
        for (name, id) in [("call_id", item.call_id), ("id", item.id)] {
            let bytes = id.map_or(0, |id| id.get().len());
            if bytes > limits.call_id_bytes.saturating_add(2) {
                return Err(string_too_long(&format!("input[{n}].{name}"), limits.call_id_bytes, bytes - 2));
            }
        }
    }
    // in the request, in the array, in an item
    if seen.depth > limits.depth.saturating_sub(3) {
        return Err(too_deep("input", limits.depth));
    }
    // both are among all that is nested there, and hardly ever is that so much
    if seen.values > limits.parts.min(limits.items - count) {
        nested(&items, limits)?;
    }
    Ok(items)
}

/// Counts the parts of all items, and the calls in messages of Chat Completions, each of which is an item here.
fn nested(items: &[InputItem<'_>], limits: &Limits) -> Result<(), Error> {
    let (mut parts, mut count) = (0, items.len());
    for (n, (raw, item)) in items.iter().enumerate() {
        let Some(item) = item else { continue };
        if raw.get().contains("\"tool_calls\"") {
            let message: ChatMessage<'_> = trusted_json::fields(raw.get()).unwrap_or_default();
            let calls = message.tool_calls.and_then(|calls| trusted_json::first_elements(calls.get(), 0));
            count += calls.map_or(0, |(_, calls)| calls);
            if count > limits.items {
                return Err(arrays_too_long(&format!("input[{n}].tool_calls"), "items", limits.items));
            }
        }
        for (name, list) in [("content", item.content), ("output", item.output), ("summary", item.summary)] {
            parts += list
                .and_then(|list| trusted_json::first_elements(list.get(), 0))
                .map_or(0, |(_, count)| count);
            if parts > limits.parts {
                return Err(arrays_too_long(&format!("input[{n}].{name}"), "parts", limits.parts));
            }
        }
    }
    Ok(())
}

/// Refuses a member of a body that is nested too deeply.
fn shallow(value: &str, name: &str, limits: &Limits) -> Result<(), Error> {
    let most = limits.depth.saturating_sub(1);
    // a level takes two bytes
    match value.len() / 2 > most && trusted_json::seen(value).depth > most {
        true => Err(too_deep(beginning(name, 64), limits.depth)),
        false => Ok(()),
    }
}

/// Most entries of `context_management`; there is one type of them.
const MOST_CONTEXT_MANAGEMENT: usize = 16;

/// The smallest threshold of `context_management`; entries of other types are none of ours.
fn threshold(raw: Option<&RawValue>) -> Result<Option<u64>, Error> {
    let mut smallest: Option<u64> = None;
    for (n, entry) in
        array(raw, "context_management", MOST_CONTEXT_MANAGEMENT)?.unwrap_or_default().into_iter().enumerate()
    {
        let path = format!("context_management[{n}]");
        let entry: ContextManagement<'_> = fields(Some(entry), &path)?;
        if string(entry.r#type, &format!("{path}.type"))?.as_deref() == Some("compaction") {
            let path = format!("{path}.compact_threshold");
            let threshold = integer(entry.compact_threshold, &path, 1000, u64::from(u32::MAX))?;
            smallest = threshold.into_iter().chain(smallest).min();
        }
    }
    Ok(smallest)
}

/// `conversation` is an id, or an object that holds one.
pub(crate) fn conversation(request: &CreateResponse<'_>) -> Result<Option<String>, Error> {
    let Some(raw) = present(request.conversation) else { return Ok(None) };
    if raw.get().starts_with('"') {
        return Ok(string(Some(raw), "conversation")?.map(Cow::into_owned));
    }
    let named: ConversationParam<'_> = fields(Some(raw), "conversation")?;
    let id = string(named.id, "conversation.id")?.ok_or_else(|| missing("conversation.id"))?;
    Ok(Some(id.into_owned()))
}

/// Most items of one request about a conversation, as OpenAI has it.
const MOST_CONVERSATION_ITEMS: usize = 20;

/// The body of a request about a conversation.
#[derive(Debug)]
pub struct ConversationRequest<'a> {
    /// `metadata`, an object.
    pub metadata: Option<&'a str>,
    /// `items`
    pub items: Vec<&'a RawValue>,
}

impl<'a> ConversationRequest<'a> {
    /// Reads it.
    ///
    /// # Errors
    /// 400 for a body that is no JSON object, a member of the wrong type, or one that holds more than `limits` allow.
    pub fn read(text: &'a str, limits: &Limits) -> Result<ConversationRequest<'a>, Error> {
        let body: &RawValue = serde_json::from_str(text).map_err(|error| invalid_json(error.to_string()))?;
        let body = object(Some(body), "body")?;
        let mut deep = Ok(());
        trusted_json::members(body.map_or("", RawValue::get), |name, value| {
            if deep.is_ok() {
                deep = shallow(value.get(), &json::decode(name).unwrap_or_default(), limits);
            }
        });
        deep?;
        let body: ConversationBody<'a> = fields(body, "body")?;
        let items = array(body.items, "items", MOST_CONVERSATION_ITEMS)?.unwrap_or_default();
        for (n, item) in items.iter().enumerate() {
            if !json::is_tree(item.get()) {
                return Err(too_wide(&format!("items[{n}]")));
            }
        }
        Ok(ConversationRequest {
            metadata: metadata(body.metadata, limits.metadata)?.map(RawValue::get),
            items,
        })
    }
}

fn invalid_json(why: String) -> Error {
    Error::new(Kind::InvalidJson, format!("We could not parse the JSON body of your request: {why}."))
}

/// The id, if the item is an `item_reference`; such an item may come without a type, and then says nothing itself.
fn reference(item: &Item<'_>) -> Option<String> {
    let Item { role, content, call_id, name, arguments, input, output, summary, tools, .. } = *item;
    let Item { action, operation, encrypted_content, .. } = *item;
    let said = [role, content, call_id, name, arguments, input, output, summary, tools];
    let said = said.into_iter().chain([action, operation, encrypted_content]).flatten();
    match present(item.r#type).and_then(json::decode).as_deref() {
        Some("item_reference") => {}
        None if said.count() == 0 => {}
        _ => return None,
    }
    present(item.id).and_then(json::decode).map(Cow::into_owned)
}
