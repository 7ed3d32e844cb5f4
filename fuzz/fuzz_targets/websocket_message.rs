//! Whatever a client sends over a WebSocket is an event or has an error; the events of a stream are cut into the same messages
//! wherever its bytes are.
#![no_main]

#[path = "../../tests/integration/support/websocket_bytes.rs"]
mod websocket_bytes;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (bytes, cuts) = input;
    if let Ok(text) = std::str::from_utf8(&bytes) {
        websocket_bytes::check_message(text);
    }
    websocket_bytes::check_message(&websocket_bytes::built(&bytes));
    websocket_bytes::check_stream(&bytes, &cuts);
});
