//! Owns the reading of what a client sends: which event a message is, and what of it is the connection's business. It must
//! not read the create request that it holds.

use std::borrow::Cow;

use rejoinder_core::error::{Error, Kind};
use rejoinder_core::fields::{boolean, missing, present, string};
use rejoinder_core::wire::json;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Lane;

/// Longest name of a lane, in bytes.
const LONGEST_LANE: usize = 256;

/// An event of a client.
#[derive(Debug)]
pub enum ClientEvent {
    /// `response.create`: the message is a create request.
    Create(CreateEvent),
    /// `response.steer`
    Steer(SteerEvent),
}

/// What the connection has to know of a `response.create`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CreateEvent {
    /// `stream_id`
    pub lane: Lane,
    /// The response that it continues.
    pub previous_response_id: Option<String>,
    /// Whether the model is to answer.
    pub generate: bool,
    /// What Codex says of the turn; over HTTP in the header of that name, here in `client_metadata`.
    pub turn_metadata: Option<String>,
}

/// A `response.steer`.
#[derive(Debug, PartialEq, Eq)]
pub struct SteerEvent {
    /// The response that it is for.
    pub previous_response_id: String,
    /// JSON text.
    pub input: Box<str>,
}

/// A message that is no event, with the lane that it names.
#[derive(Debug)]
pub struct BadEvent {
    /// `stream_id`
    pub lane: Lane,
    /// What is wrong.
    pub error: Box<Error>,
}

/// The members that are the connection's business.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Members<'a> {
    #[serde(borrow)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow)]
    stream_id: Option<&'a RawValue>,
    #[serde(borrow)]
    generate: Option<&'a RawValue>,
    #[serde(borrow)]
    background: Option<&'a RawValue>,
    #[serde(borrow)]
    previous_response_id: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt_cache_options: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    client_metadata: Option<&'a RawValue>,
}

/// `client_metadata`
#[derive(Default, Deserialize)]
#[serde(default)]
struct ClientMetadata<'a> {
    #[serde(borrow, rename = "x-codex-turn-metadata")]
    turn: Option<&'a RawValue>,
}

/// `prompt_cache_options`
#[derive(Default, Deserialize)]
#[serde(default)]
struct CacheOptions<'a> {
    #[serde(borrow)]
    prewarm: Option<&'a RawValue>,
}

impl ClientEvent {
    /// Reads a message.
    ///
    /// # Errors
    /// One that is no JSON object, has no known type, or names what is not to be had over a WebSocket.
    pub fn read(text: &str) -> Result<ClientEvent, BadEvent> {
        let bad = |lane: &Lane, error| BadEvent { lane: lane.clone(), error: Box::new(error) };
        let members = members(text).map_err(|error| bad(&None, error))?;
        let lane = lane(&members).map_err(|error| bad(&None, error))?;
        ClientEvent::of(&members, &lane).map_err(|error| bad(&lane, error))
    }

    fn of(members: &Members<'_>, lane: &Lane) -> Result<ClientEvent, Error> {
        match string(members.r#type, "type")?.as_deref() {
            Some("response.create") => CreateEvent::of(members, lane).map(ClientEvent::Create),
            Some("response.steer") => SteerEvent::of(members).map(ClientEvent::Steer),
            None => {
                let message = "Missing required parameter: 'type'. Send an event such as {\"type\": \"response.create\", ...}.";
                Err(Error::new(Kind::MissingParameter, message).param("type"))
            }
            Some(other) => {
                let other: String = other.chars().take(64).collect();
                let message = format!(
                    "Invalid value: '{other}'. Supported values are: 'response.create' and 'response.steer'."
                );
                Err(Error::new(Kind::InvalidValue, message).param("type"))
            }
        }
    }
}

impl CreateEvent {
    fn of(members: &Members<'_>, lane: &Lane) -> Result<CreateEvent, Error> {
        if boolean(members.background, "background")? == Some(true) {
            let message = "Unsupported parameter: 'background' is not supported over WebSocket. Send the request over HTTP.";
            return Err(Error::new(Kind::UnsupportedParameter, message).param("background"));
        }
        let options = present(members.prompt_cache_options).map(RawValue::get).unwrap_or_default();
        let options: CacheOptions<'_> = serde_json::from_str(options).unwrap_or_default();
        let prewarm = boolean(options.prewarm, "prompt_cache_options.prewarm")?.unwrap_or(false);
        let previous = string(members.previous_response_id, "previous_response_id")?;
        let metadata = present(members.client_metadata).map(RawValue::get).unwrap_or_default();
        let metadata: ClientMetadata<'_> = serde_json::from_str(metadata).unwrap_or_default();
        Ok(CreateEvent {
            turn_metadata: metadata.turn.and_then(json::decode).map(Cow::into_owned),
            lane: lane.clone(),
            previous_response_id: previous.map(Cow::into_owned),
            generate: boolean(members.generate, "generate")?.unwrap_or(true) && !prewarm,
        })
    }
}

impl SteerEvent {
    fn of(members: &Members<'_>) -> Result<SteerEvent, Error> {
        let previous = string(members.previous_response_id, "previous_response_id")?;
        Ok(SteerEvent {
            previous_response_id: previous.ok_or_else(|| missing("previous_response_id"))?.into_owned(),
            input: present(members.input).ok_or_else(|| missing("input"))?.get().into(),
        })
    }
}

fn members(text: &str) -> Result<Members<'_>, Error> {
    let invalid = |why: String| {
        let message = format!("We could not parse the JSON of your message: {why}.");
        Error::new(Kind::InvalidJson, message)
    };
    if !text.trim_start().starts_with('{') {
        return Err(invalid("expected one JSON object".to_owned()));
    }
    serde_json::from_str(text).map_err(|error| invalid(error.to_string()))
}

fn lane(members: &Members<'_>) -> Result<Lane, Error> {
    let Some(name) = string(members.stream_id, "stream_id")? else { return Ok(None) };
    if name.is_empty() || name.len() > LONGEST_LANE {
        let message = format!("Invalid 'stream_id': expected a name of 1 to {LONGEST_LANE} bytes.");
        return Err(Error::new(Kind::InvalidValue, message).param("stream_id"));
    }
    Ok(Some(name.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(text: &str) -> CreateEvent {
        match ClientEvent::read(text).unwrap() {
            ClientEvent::Create(create) => create,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn creates_and_steers_are_told_apart() {
        let plain =
            create(r#"{"type":"response.create","model":"m","input":[{"type":"x"}],"background":false}"#);
        assert_eq!(plain, CreateEvent { generate: true, ..CreateEvent::default() });
        let all = create(
            r#" {"stream_id":"a","generate":false,"previous_response_id":"resp_1","type":"response.create"}"#,
        );
        let want = CreateEvent {
            lane: Some("a".into()),
            previous_response_id: Some("resp_1".to_owned()),
            ..CreateEvent::default()
        };
        assert_eq!(all, want);
        let turn = create(
            r#"{"type":"response.create","client_metadata":{"x-codex-turn-metadata":"{\"a\":1}","b":2}}"#,
        );
        assert_eq!(turn.turn_metadata.as_deref(), Some("{\"a\":1}"));
        assert_eq!(create(r#"{"type":"response.create","client_metadata":[]}"#).turn_metadata, None);
        assert!(!create(r#"{"type":"response.create","prompt_cache_options":{"prewarm":true}}"#).generate);
        assert!(create(r#"{"type":"response.create","prompt_cache_options":7}"#).generate);
        let steer = ClientEvent::read(r#"{"type":"response.steer","previous_response_id":"r","input": "x"}"#);
        let want = SteerEvent { previous_response_id: "r".to_owned(), input: "\"x\"".into() };
        assert!(matches!(steer, Ok(ClientEvent::Steer(steer)) if steer == want));
    }

    #[test]
    fn what_is_no_event_is_refused_by_name() {
        for (text, code, param) in [
            ("", "invalid_json", None),
            ("[1]", "invalid_json", None),
            ("{\"type\":\"response.create\"", "invalid_json", None),
            ("{}", "missing_required_parameter", Some("type")),
            (r#"{"type":7}"#, "invalid_type", Some("type")),
            (r#"{"type":"response.cancel"}"#, "invalid_value", Some("type")),
            (r#"{"type":"response.create","stream_id":""}"#, "invalid_value", Some("stream_id")),
            (r#"{"type":"response.create","stream_id":1}"#, "invalid_type", Some("stream_id")),
            (r#"{"type":"response.create","generate":"no"}"#, "invalid_type", Some("generate")),
            (r#"{"type":"response.create","background":true}"#, "unsupported_parameter", Some("background")),
            (
                r#"{"type":"response.steer","input":"x"}"#,
                "missing_required_parameter",
                Some("previous_response_id"),
            ),
            (
                r#"{"type":"response.steer","previous_response_id":"r"}"#,
                "missing_required_parameter",
                Some("input"),
            ),
        ] {
            let BadEvent { error, .. } = ClientEvent::read(text).unwrap_err();
            assert_eq!((error.code().as_deref(), error.param.as_deref()), (Some(code), param), "{text}");
            assert_eq!(error.status(), 400, "{text}");
        }
        let named = r#"{"type":"response.create","stream_id":"a","background":true}"#;
        assert_eq!(ClientEvent::read(named).unwrap_err().lane.as_deref(), Some("a"));
    }
}
