//! Owns the parsing of a request into its fields, and what it needs from the store. It must not interpret other fields:
//! `plan` does, and needs what the store returned.

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

/// The text of a request body, with lone surrogates replaced.
///
/// # Errors
/// 400 if the body is not UTF-8, naming the byte.
pub fn text(body: &[u8]) -> Result<Cow<'_, str>, Error> {
    let text = std::str::from_utf8(body)
        .map_err(|error| invalid_json(format!("the body is not UTF-8 at byte {}", error.valid_up_to())))?;
    // lone surrogates are legal in JSON, but most parsers refuse them, the upstream's and the client's alike
    Ok(json::SurrogateJoiner::default().join(text))
}

/// What a request needs from the store, and how it wants to be answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestSummary {
    /// The model, if the request names one.
    pub model: Option<String>,
    /// The client's key for prompts with the same beginning.
    pub prompt_cache_key: Option<String>,
    /// The response that the request continues.
    pub previous_response_id: Option<String>,
    /// The conversation that the request belongs to.
    pub conversation: Option<String>,
    /// Whether to store the response; true unless the request says otherwise.
    pub store: bool,
    /// Whether the request contains an explicit `"store": true`.
    pub store_named: bool,
    /// Whether to answer before the response is complete.
    pub background: bool,
    /// Whether to answer with events.
    pub stream: bool,
    /// Number of prompt tokens from which the conversation is summarised first (`context_management`).
    pub compact_threshold: Option<u64>,
    /// Whether the oldest turns may be dropped: `truncation: "auto"`.
    pub truncates: bool,
    /// Ids of `item_reference` items, with their positions in `input`.
    pub references: Vec<(usize, String)>,
}

/// What the store contributes to a request.
#[derive(Debug, Default)]
pub struct Context<'a> {
    /// Items before `input`, oldest first.
    pub earlier: Vec<InputItem<'a>>,
    /// Referenced items by id, for `item_reference`.
    pub references: HashMap<&'a str, InputItem<'a>>,
    /// A `compaction` item that replaces everything before the user's last messages.
    pub summary: Option<InputItem<'a>>,
    /// Whether an output without a call is an error, as it is when the history is stored here.
    pub strict: bool,
}

/// A request parsed into fields, which are not interpreted yet.
#[derive(Debug)]
pub struct ParsedRequest<'a> {
    /// The JSON text of the whole request.
    pub(crate) text: &'a str,
    pub(crate) request: CreateResponse<'a>,
    /// The limits that it was checked against.
    pub(crate) limits: Limits,
    /// The items of an array input, parsed once because that reads every byte.
    pub(crate) items: Vec<InputItem<'a>>,
    /// The ids of `item_reference` items, with their positions.
    pub(crate) references: Vec<(usize, String)>,
}

impl<'a> ParsedRequest<'a> {
    /// Parses a body, which must come from [`text`].
    ///
    /// # Errors
    /// 400 for a body that is not a JSON object, or exceeds `limits`.
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
            // the items of `input` are checked one by one
            if name != "input" {
                check_depth(value.get(), name, limits)?;
            }
        }
        let items = items(request.input, limits)?;
        let references = items.iter().enumerate();
        let references =
            references.filter_map(|(n, (_, item))| Some((n, reference(item.as_ref()?)?))).collect();
        Ok(ParsedRequest { text, request, limits: *limits, items, references })
    }

    /// What the request needs from the store.
    ///
    /// # Errors
    /// 400 for a field of the wrong type, for `conversation` together with `previous_response_id`, and for a background
    /// response that must not be stored.
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

    /// The input as the store keeps it: references resolved, and without the items at the positions `repeated`.
    pub fn stored_input(&self, context: &Context<'_>, repeated: &[usize]) -> Input {
        let Some(input) = present(self.request.input) else { return Input::new("[]") };
        if (context.references.is_empty() && repeated.is_empty()) || input.get().starts_with('"') {
            return Input::new(input.get());
        }
        // both are sorted by position
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

/// Parses the items of an array input; empty if the input is not an array.
fn items<'a>(input: Option<&'a RawValue>, limits: &Limits) -> Result<Vec<InputItem<'a>>, Error> {
    let (mut items, mut count) = (Vec::new(), 0);
    let Some(input) = present(input) else { return Ok(items) };
    let seen = trusted_json::objects(input.get(), &mut items, |raw, item| {
        count += 1;
        (count <= limits.items).then_some((raw, item))
    });
    // not an array
    let Some(seen) = seen else {
        check_depth(input.get(), "input", limits)?;
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
    // three levels are above it: the request, the array and the item
    if seen.depth > limits.depth.saturating_sub(3) {
        return Err(too_deep("input", limits.depth));
    }
    // all nested values together are rarely that many, so parts and calls need no count of their own
    if seen.values > limits.parts.min(limits.items - count) {
        check_nested(&items, limits)?;
    }
    Ok(items)
}

/// Checks the number of parts of all items, and of calls in Chat Completions messages, each of which counts as an item.
fn check_nested(items: &[InputItem<'_>], limits: &Limits) -> Result<(), Error> {
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
fn check_depth(value: &str, name: &str, limits: &Limits) -> Result<(), Error> {
    let most = limits.depth.saturating_sub(1);
    // a level takes at least two bytes
    match value.len() / 2 > most && trusted_json::nesting(value).depth > most {
        true => Err(too_deep(beginning(name, 64), limits.depth)),
        false => Ok(()),
    }
}

/// Most entries of `context_management`, which has only one type of entry.
const MOST_CONTEXT_MANAGEMENT: usize = 16;

/// The smallest threshold of `context_management`; entries of other types are ignored.
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

/// The id of `conversation`, which is an id or an object with one.
pub(crate) fn conversation(request: &CreateResponse<'_>) -> Result<Option<String>, Error> {
    let Some(raw) = present(request.conversation) else { return Ok(None) };
    if raw.get().starts_with('"') {
        return Ok(string(Some(raw), "conversation")?.map(Cow::into_owned));
    }
    let named: ConversationParam<'_> = fields(Some(raw), "conversation")?;
    let id = string(named.id, "conversation.id")?.ok_or_else(|| missing("conversation.id"))?;
    Ok(Some(id.into_owned()))
}

/// Most items in one request about a conversation, as in OpenAI's API.
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
    /// Parses the body.
    ///
    /// # Errors
    /// 400 for a body that is not a JSON object, has a member of the wrong type, or exceeds `limits`.
    pub fn read(text: &'a str, limits: &Limits) -> Result<ConversationRequest<'a>, Error> {
        let body: &RawValue = serde_json::from_str(text).map_err(|error| invalid_json(error.to_string()))?;
        let body = object(Some(body), "body")?;
        let mut deep = Ok(());
        trusted_json::members(body.map_or("", RawValue::get), |name, value| {
            if deep.is_ok() {
                deep = check_depth(value.get(), &json::decode(name).unwrap_or_default(), limits);
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

/// The id, if the item is an `item_reference`. Without a type, it is one if it has no content of its own.
fn reference(item: &Item<'_>) -> Option<String> {
    let Item { role, content, call_id, name, arguments, input, output, summary, tools, .. } = *item;
    let Item { action, operation, encrypted_content, .. } = *item;
    let content_members = [role, content, call_id, name, arguments, input, output, summary, tools];
    let content_members = content_members.into_iter().chain([action, operation, encrypted_content]).flatten();
    match present(item.r#type).and_then(json::decode).as_deref() {
        Some("item_reference") => {}
        None if content_members.count() == 0 => {}
        _ => return None,
    }
    present(item.id).and_then(json::decode).map(Cow::into_owned)
}
