//! Owns input for responses that run (`response.steer`): it waits until its response has ended, and is then asked for as the
//! response that continues it, or beside the outputs that the client owes. It must not send anything.

use bytes::Bytes;
use rejoinder_core::fields::present;
use rejoinder_core::wire::json;
use rejoinder_core::wire::request::elements;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::client_event::{CreateEvent, SteerEvent};
use super::server_event::push_lane;
use crate::server::ids::seed;
use crate::server::socket_turns::Lane;
use crate::store::Turn;

/// Most inputs that wait for one response.
const MOST: usize = 16;
/// Most responses whose client owes outputs beside which input waits.
const MOST_OWED: usize = 16;
/// Most bytes of all inputs of a connection that wait: they are in no other count.
const MOST_BYTES: usize = 1 << 20;
/// Most bytes of a create's settings that are kept for what continues its response.
const MOST_SETTINGS: usize = 256 << 10;

/// An input that was taken.
#[derive(Debug)]
pub struct Steer {
    id: String,
    /// The response that it is for.
    response: String,
    /// As the client sent it, JSON text.
    input: Box<str>,
    /// The same as input items, JSON text with commas between.
    items: String,
}

/// What a create says beside its input, as JSON members; `None` where nothing may continue its response by itself.
pub type Settings = Option<Box<str>>;

/// A response that runs, or whose client owes outputs.
struct Target {
    id: String,
    lane: Lane,
    settings: Settings,
    steers: Vec<Steer>,
}

/// What is to be done when a response has ended.
#[derive(Debug, Default)]
pub struct Ended {
    /// Events for the client.
    pub events: Vec<Bytes>,
    /// The request that continues the response, and what it is to answer.
    pub successor: Option<(CreateEvent, Bytes, Vec<Steer>)>,
}

/// The inputs of one connection.
#[derive(Default)]
pub struct Steering {
    running: Vec<Target>,
    owed: Vec<Target>,
    /// How many events were written.
    count: u64,
}

impl Steering {
    /// A response runs.
    pub fn began(&mut self, id: String, lane: Lane, settings: Settings) {
        self.running.push(Target { id, lane, settings, steers: Vec::new() });
    }

    /// Takes an input, or says why not. `known`: the connection remembers the response, as one that has ended.
    pub fn take(&mut self, event: SteerEvent, known: bool) -> Bytes {
        let bytes = self.bytes() + event.input.len();
        let Some(target) = self.running.iter_mut().find(|target| target.id == event.previous_response_id)
        else {
            let (code, message) = match known {
                true => (
                    "response_already_completed",
                    "The response has ended; continue from it with response.create.",
                ),
                false => ("response_not_found", "No response of this id runs on this connection."),
            };
            return self.failed(&event.previous_response_id, None, &event.input, &None, code, message);
        };
        let lane = target.lane.clone();
        let refused = match items(&event.input) {
            None => {
                Err(("invalid_input", "'input' has to be a text, or a list of messages of the role 'user'."))
            }
            Some(_) if target.settings.is_none() => {
                let message = "A response of a conversation, of context_management or of large settings takes no input while it runs.";
                Err(("steering_not_supported", message))
            }
            Some(_) if target.steers.len() >= MOST || bytes > MOST_BYTES => Err((
                "too_many_pending_steers",
                "So much input waits for this response that no more is taken.",
            )),
            Some(items) => Ok(items),
        };
        match refused {
            Err((code, message)) => {
                self.failed(&event.previous_response_id, None, &event.input, &lane, code, message)
            }
            Ok(items) => {
                let id = format!("steer_{}", seed());
                let steer = Steer { id, response: event.previous_response_id, input: event.input, items };
                let mut out = self.begin("accepted", &lane);
                push_steer(&mut out, &steer);
                out.extend_from_slice(b"}}");
                if let Some(target) = self.running.iter_mut().find(|target| target.id == steer.response) {
                    target.steers.push(steer);
                }
                out.into()
            }
        }
    }

    /// Bytes of the inputs that wait.
    fn bytes(&self) -> usize {
        let steers = self.running.iter().chain(&self.owed).flat_map(|target| &target.steers);
        steers.map(|steer| steer.input.len()).sum()
    }

    /// A response has ended. `turn`: as it is remembered, if it can be continued. `goes_on`: the connection takes creates.
    pub fn ended(&mut self, id: &str, turn: Option<&Turn>, goes_on: bool) -> Ended {
        let mut ended = Ended::default();
        let Some(at) = self.running.iter().position(|target| target.id == id) else { return ended };
        let mut target = self.running.swap_remove(at);
        if target.steers.is_empty() {
            return ended;
        }
        let (Some(turn), Some(settings), true) = (turn, &target.settings, goes_on) else {
            let message = "The response ended so that nothing can continue it.";
            ended.events = self.failed_all(&target.steers, &target.lane, "response_not_active", message);
            return ended;
        };
        let owed = required(&turn.output.array(id));
        if owed.is_empty() {
            let steers = std::mem::take(&mut target.steers);
            let body = successor(settings, id, &steers);
            let event = CreateEvent {
                lane: target.lane,
                previous_response_id: Some(id.to_owned()),
                generate: true,
                turn_metadata: None,
            };
            ended.successor = Some((event, body, steers));
            return ended;
        }
        for steer in &target.steers {
            let mut out = self.begin("pending", &target.lane);
            push_steer(&mut out, steer);
            out.extend_from_slice(b"},\"reason\":\"waiting_for_required_input\",\"required_input\":[");
            out.extend_from_slice(owed.join(",").as_bytes());
            out.extend_from_slice(b"]}");
            ended.events.push(out.into());
        }
        if self.owed.len() >= MOST_OWED {
            let oldest = self.owed.remove(0);
            let message = "Other responses wait for their outputs.";
            ended.events.extend(self.failed_all(
                &oldest.steers,
                &oldest.lane,
                "too_many_pending_steers",
                message,
            ));
        }
        self.owed.push(target);
        ended
    }

    /// Puts what waits beside the outputs of a response before the input of the create that brings them.
    pub fn prepend(&mut self, event: &CreateEvent, body: &Bytes) -> Option<(Bytes, Vec<Steer>)> {
        let previous = event.previous_response_id.as_deref()?;
        let at = self.owed.iter().position(|target| target.id == previous && target.lane == event.lane)?;
        let steers = self.owed.swap_remove(at).steers;
        let Some(body) = prepended(body, &steers) else { return Some((body.clone(), steers)) };
        Some((body, steers))
    }

    /// Gives inputs back.
    pub fn failed_all(&mut self, steers: &[Steer], lane: &Lane, code: &str, message: &str) -> Vec<Bytes> {
        let mut failed =
            |steer: &Steer| self.failed(&steer.response, Some(&steer.id), &steer.input, lane, code, message);
        steers.iter().map(&mut failed).collect()
    }

    fn failed(
        &mut self,
        response: &str,
        id: Option<&str>,
        input: &str,
        lane: &Lane,
        code: &str,
        message: &str,
    ) -> Bytes {
        let mut out = self.begin("failed", lane);
        out.extend_from_slice(b"\"steer\":{\"previous_response_id\":");
        json::push_string(&mut out, response);
        if let Some(id) = id {
            out.extend_from_slice(b",\"id\":");
            json::push_string(&mut out, id);
        }
        out.extend_from_slice(b",\"input\":");
        out.extend_from_slice(input.as_bytes());
        out.extend_from_slice(b"},\"error\":{\"code\":");
        json::push_string(&mut out, code);
        out.extend_from_slice(b",\"message\":");
        json::push_string(&mut out, message);
        out.extend_from_slice(b",\"type\":\"invalid_request_error\"}}");
        out.into()
    }

    fn begin(&mut self, kind: &str, lane: &Lane) -> Vec<u8> {
        let mut out = format!("{{\"type\":\"response.steer.{kind}\",").into_bytes();
        push_lane(&mut out, lane);
        out.extend_from_slice(format!("\"sequence_number\":{},", self.count).as_bytes());
        self.count += 1;
        out
    }
}

/// Appends the member `steer`, without its brace.
fn push_steer(out: &mut Vec<u8>, steer: &Steer) {
    out.extend_from_slice(b"\"steer\":{\"id\":");
    json::push_string(out, &steer.id);
    out.extend_from_slice(b",\"previous_response_id\":");
    json::push_string(out, &steer.response);
}

/// What a create says beside its input.
pub fn settings(body: &[u8]) -> Settings {
    let mut settings = String::new();
    for (key, value) in json::members(std::str::from_utf8(body).ok()?)? {
        match &*key {
            "type" | "input" | "stream_id" | "generate" | "previous_response_id" => {}
            "conversation" | "context_management" if present(Some(value)).is_some() => return None,
            _ if settings.len() + value.get().len() > MOST_SETTINGS => return None,
            key => settings.push_str(&format!("\"{}\":{},", json::escape(key), value.get())),
        }
    }
    Some(settings.into())
}

fn successor(settings: &str, previous: &str, steers: &[Steer]) -> Bytes {
    let (previous, items) = (json::escape(previous), all_items(steers));
    format!("{{{settings}\"previous_response_id\":\"{previous}\",\"input\":[{items}]}}").into()
}

fn prepended(body: &[u8], steers: &[Steer]) -> Option<Bytes> {
    let members = json::members(std::str::from_utf8(body).ok()?)?;
    let mut out = String::with_capacity(body.len() + 512);
    for (key, value) in &members {
        out.push(if out.is_empty() { '{' } else { ',' });
        out.push_str(&format!("\"{}\":", json::escape(key)));
        match (&**key, own_items(value.get())) {
            ("input", Some(own)) => {
                let comma = if own.is_empty() { "" } else { "," };
                out.push_str(&format!("[{}{comma}{own}]", all_items(steers)));
            }
            _ => out.push_str(value.get()),
        }
    }
    out.push('}');
    Some(out.into())
}

fn all_items(steers: &[Steer]) -> String {
    steers.iter().map(|steer| &*steer.items).collect::<Vec<_>>().join(",")
}

/// The items of an input, with commas between: those of a list, or a text as a message.
fn own_items(input: &str) -> Option<String> {
    let input = input.trim();
    match input.as_bytes().first()? {
        b'"' => Some(format!("{{\"type\":\"message\",\"role\":\"user\",\"content\":{input}}}")),
        b'[' => Some(input.get(1..input.len() - 1)?.trim().to_owned()),
        _ => None,
    }
}

/// The same of an input that may steer: a text, or messages of the user's.
fn items(input: &str) -> Option<String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Message<'a> {
        #[serde(borrow)]
        r#type: Option<&'a RawValue>,
        #[serde(borrow)]
        role: Option<&'a RawValue>,
        #[serde(borrow)]
        content: Option<&'a RawValue>,
    }
    if input.starts_with('[') {
        let list = elements(input);
        let fits = list.iter().all(|item| {
            let message: Message<'_> = serde_json::from_str(item.get()).unwrap_or_default();
            let content = message.content.is_some_and(|content| content.get().starts_with(['"', '[']));
            content
                && message.role.and_then(json::decode).as_deref() == Some("user")
                && matches!(message.r#type.and_then(json::decode).as_deref(), None | Some("message"))
        });
        if list.is_empty() || !fits {
            return None;
        }
    }
    own_items(input)
}

/// What a response's client owes before it can go on: stubs of the outputs of its calls.
fn required(output: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct Call {
        r#type: String,
        id: Option<String>,
        call_id: Option<String>,
        name: Option<String>,
        execution: Option<String>,
    }
    let stub = |item: &RawValue| {
        let call: Call = serde_json::from_str(item.get()).ok()?;
        let quoted = |text: Option<String>| Some(format!("\"{}\"", json::escape(&text?)));
        let kind = match &*call.r#type {
            "mcp_approval_request" => {
                let id = quoted(call.id)?;
                return Some(format!("{{\"type\":\"mcp_approval_response\",\"approval_request_id\":{id}}}"));
            }
            "function_call" | "custom_tool_call" | "computer_call" | "shell_call" | "local_shell_call"
            | "apply_patch_call" => format!("{}_output", call.r#type),
            "tool_search_call" if call.execution.as_deref() == Some("client") => {
                "tool_search_output".to_owned()
            }
            _ => return None,
        };
        let id = quoted(call.call_id.or(call.id))?;
        let more = match &*call.r#type {
            "function_call" => format!(",\"name\":{}", quoted(call.name)?),
            "tool_search_call" => ",\"execution\":\"client\"".to_owned(),
            _ => String::new(),
        };
        Some(format!("{{\"type\":\"{kind}\",\"call_id\":{id}{more}}}"))
    };
    elements(output).into_iter().filter_map(stub).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parsed(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    fn steer(response: &str, input: &Value) -> SteerEvent {
        SteerEvent { previous_response_id: response.to_owned(), input: input.to_string().into() }
    }

    #[test]
    fn only_a_response_that_runs_takes_input() {
        let mut steering = Steering::default();
        steering.began("resp_1".to_owned(), Some("a".into()), settings(b"{\"model\":\"m\"}"));
        steering.began("resp_2".to_owned(), None, settings(b"{\"conversation\":\"conv_1\"}"));
        let message = json!([{"role": "user", "content": [{"type": "input_text", "text": "x"}]}]);
        for (response, input, known, code) in [
            ("resp_9", json!("x"), false, "response_not_found"),
            ("resp_9", json!("x"), true, "response_already_completed"),
            ("resp_2", json!("x"), false, "steering_not_supported"),
            ("resp_1", json!(7), false, "invalid_input"),
            ("resp_1", json!([]), false, "invalid_input"),
            ("resp_1", json!([{"role": "system", "content": "x"}]), false, "invalid_input"),
            (
                "resp_1",
                json!([{"type": "function_call_output", "call_id": "c", "output": "x"}]),
                false,
                "invalid_input",
            ),
        ] {
            let failed = parsed(&steering.take(steer(response, &input), known));
            assert_eq!(
                (&failed["type"], &failed["error"]["code"]),
                (&json!("response.steer.failed"), &json!(code))
            );
            assert_eq!(failed["steer"], json!({"previous_response_id": response, "input": input}));
            assert_eq!(failed["error"]["type"], "invalid_request_error");
        }
        let accepted = parsed(&steering.take(steer("resp_1", &message), false));
        assert_eq!(
            (&accepted["type"], &accepted["stream_id"]),
            (&json!("response.steer.accepted"), &json!("a"))
        );
        assert!(accepted["steer"]["id"].as_str().unwrap().starts_with("steer_"));
        assert_eq!(accepted["sequence_number"], 7, "one number each");
        for _ in 1..MOST {
            steering.take(steer("resp_1", &message), false);
        }
        let full = parsed(&steering.take(steer("resp_1", &message), false));
        assert_eq!(full["error"]["code"], "too_many_pending_steers");
        steering.began("resp_3".to_owned(), None, settings(b"{}"));
        let long = json!("x".repeat(MOST_BYTES / 2));
        assert_eq!(parsed(&steering.take(steer("resp_3", &long), false))["type"], "response.steer.accepted");
        let full = parsed(&steering.take(steer("resp_3", &long), false));
        assert_eq!(full["error"]["code"], "too_many_pending_steers", "too many bytes");
    }

    #[test]
    fn settings_are_all_but_the_input_and_its_place() {
        let body = br#"{"type":"response.create","model":"m","input":"x","tools":[1],"stream_id":"a","generate":true,"store":false}"#;
        let steers = [steer_of("\"y\""), steer_of("[{\"role\":\"user\",\"content\":\"z\"}]")];
        let next = parsed(&successor(&settings(body).unwrap(), "resp_1", &steers));
        let y = json!({"type": "message", "role": "user", "content": "y"});
        let z = json!({"role": "user", "content": "z"});
        assert_eq!(
            next,
            json!({"model": "m", "tools": [1], "store": false, "previous_response_id": "resp_1", "input": [y, z]})
        );
        assert_eq!(settings(br#"{"context_management":[]}"#), None);
        let long = json!({"input": "x".repeat(MOST_SETTINGS), "tools": []}).to_string();
        assert_eq!(settings(long.as_bytes()).as_deref(), Some("\"tools\":[],"));
        assert_eq!(settings(long.replace("input", "metadata").as_bytes()), None, "too much to keep");
        let own = parsed(&prepended(br#"{"input":[{"a":1}],"model":"m"}"#, &steers).unwrap());
        assert_eq!(own, json!({"input": [y, z, {"a": 1}], "model": "m"}));
        let text = parsed(&prepended(br#"{"input":"own"}"#, &steers).unwrap());
        assert_eq!(text["input"][2]["content"], "own");
        assert_eq!(parsed(&prepended(br#"{"input":[]}"#, &steers).unwrap())["input"], json!([y, z]));
    }

    fn steer_of(input: &str) -> Steer {
        let items = items(input).unwrap();
        Steer { id: "steer_1".to_owned(), response: "resp_1".to_owned(), input: input.into(), items }
    }

    #[test]
    fn what_a_client_owes_has_its_stub() {
        let output = json!([
            {"type": "message", "content": []},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": ""},
            {"type": "tool_search_call", "call_id": "c3", "execution": "client"},
            {"type": "tool_search_call", "call_id": "c4", "execution": "server"},
            {"type": "mcp_approval_request", "id": "mcpr_1"},
        ]);
        let stubs: Vec<Value> =
            required(&output.to_string()).iter().map(|stub| parsed(stub.as_bytes())).collect();
        let want = [
            json!({"type": "function_call_output", "call_id": "c1", "name": "f"}),
            json!({"type": "custom_tool_call_output", "call_id": "c2"}),
            json!({"type": "tool_search_output", "call_id": "c3", "execution": "client"}),
            json!({"type": "mcp_approval_response", "approval_request_id": "mcpr_1"}),
        ];
        assert_eq!(stubs, want);
    }
}
