//! Whatever a server sends as a response is read in pieces as it is read at once: head, body, end, what is refused.
#![no_main]

#[path = "../../tests/integration/support/upstream_bytes.rs"]
#[allow(dead_code)] // shared with chunked_body
mod upstream_bytes;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, Vec<u8>, Vec<u8>)| {
    let (raw, bytes, cuts) = input;
    let bytes = if raw { bytes } else { upstream_bytes::built(&bytes) };
    upstream_bytes::check_response(&bytes, &cuts);
});
