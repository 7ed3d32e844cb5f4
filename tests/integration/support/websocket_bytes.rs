//! Owns what must hold of messages over a WebSocket, whatever they are: the fuzz target and the ordinary tests check the same.

use bytes::Bytes;
use rejoinder::server::websocket::client_event::{BadEvent, ClientEvent};
use rejoinder::server::websocket::event_cutter::{Cut, EventCutter};
use rejoinder::server::websocket::server_event;
use serde_json::Value;

/// Parts of what clients send, good and bad. A script of bytes names them one after another.
const PARTS: [&str; 32] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"type\":\"response.create\"",
    "\"type\":\"response.steer\"",
    "\"type\":7",
    "\"type\":null",
    "\"stream_id\":\"a\"",
    "\"stream_id\":\"\\u0000\\\"\"",
    "\"stream_id\":\"\"",
    "\"stream_id\":{}",
    "\"generate\":false",
    "\"generate\":\"x\"",
    "\"background\":true",
    "\"background\":null",
    "\"previous_response_id\":\"resp_1\"",
    "\"previous_response_id\":[]",
    "\"prompt_cache_options\":{\"prewarm\":true}",
    "\"input\":\"x\"",
    "\"input\":[{\"role\":\"user\",\"content\":\"x\"}]",
    "\"input\":",
    "\"model\":\"m\"",
    "\"\\ud800\":1",
    "\"typ\\u0065\":\"response.create\"",
    " ",
    "\n",
    "1e999",
    "\"x\"",
    "\u{e4}",
];

/// The text that a script names; a script that begins with zero has its parts in braces, with commas between.
pub fn built(script: &[u8]) -> String {
    let parts = script.iter().map(|byte| PARTS[usize::from(*byte) % PARTS.len()]);
    match script.first() {
        Some(0) => format!("{{{}}}", parts.skip(1).collect::<Vec<_>>().join(",")),
        _ => parts.collect(),
    }
}

/// A message is an event or has an error that can be sent.
pub fn check_message(text: &str) {
    let parsed = serde_json::from_str::<Value>(text).ok();
    match ClientEvent::read(text) {
        Ok(event) => {
            let parsed = parsed.expect("what is no JSON is no event");
            let (kind, lane) = match event {
                ClientEvent::Create(create) => ("response.create", Some(create.lane)),
                ClientEvent::Steer(_) => ("response.steer", None),
            };
            assert_eq!(parsed["type"], kind);
            if let Some(lane) = lane {
                assert_eq!(parsed["stream_id"].as_str(), lane.as_deref());
                let event = server_event::in_lane(Bytes::from_static(b"{\"a\":1}"), &lane);
                let event: Value = serde_json::from_slice(&event).expect("an event in a lane is JSON");
                assert_eq!((&event["a"], event["stream_id"].as_str()), (&Value::from(1), lane.as_deref()));
            }
        }
        Err(BadEvent { lane, error }) => {
            let sent: Value =
                serde_json::from_slice(&server_event::error(&error, &lane, Some("req_1"))).unwrap();
            assert_eq!((&sent["type"], &sent["status"]), (&Value::from("error"), &Value::from(400)));
            assert_eq!(sent["stream_id"].as_str(), lane.as_deref());
            assert!(sent["error"]["message"].as_str().is_some_and(|message| !message.is_empty()));
        }
    }
}

/// Events, comments and the end of a stream, as a script names them; and the payloads in it.
fn stream(script: &[u8]) -> (String, Vec<String>) {
    let (mut text, mut payloads) = (String::new(), Vec::new());
    for byte in script {
        match byte % 8 {
            0 => text.push_str(": keep-alive\n\n"),
            1 => text.push_str("data: [DONE]\n\n"),
            n => {
                let payload =
                    serde_json::json!({"type": "x", "text": "\u{e4}\n\ndata: y".repeat(usize::from(n) * 7)});
                text.push_str(&format!("event: data: {n}\ndata: {payload}\n\n"));
                payloads.push(payload.to_string());
            }
        }
    }
    (text, payloads)
}

/// The payloads of a stream are the same wherever its bytes are cut, each cut taken as a fraction of 256.
pub fn check_stream(script: &[u8], cuts: &[u8]) {
    let (text, want) = stream(script);
    let mut places: Vec<usize> = cuts.iter().map(|cut| text.len() * usize::from(*cut) / 256).collect();
    places.extend([0, text.len()]);
    places.sort_unstable();
    let (mut cutter, mut found, mut open) = (EventCutter::default(), Vec::new(), Vec::new());
    for place in places.windows(2) {
        let mut bytes = Bytes::copy_from_slice(&text.as_bytes()[place[0]..place[1]]);
        while let Some(cut) = cutter.cut(&mut bytes) {
            if let Cut::Part { bytes, last } = cut {
                open.extend_from_slice(&bytes);
                if last {
                    found.push(String::from_utf8(std::mem::take(&mut open)).unwrap());
                }
            }
        }
    }
    assert!(open.is_empty());
    assert_eq!(found, want);
}
