//! A chunked body is read as a plain reader of the whole reads it, however it is cut, and chunks come out as they went in.
#![no_main]

#[path = "../../tests/integration/support/upstream_bytes.rs"]
#[allow(dead_code)] // shared with upstream_response
mod upstream_bytes;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Option<Vec<u8>>, Vec<u8>, Vec<u8>)| {
    let (lengths, bytes, cuts) = input;
    match lengths {
        Some(lengths) => upstream_bytes::check_chunks(&bytes, &lengths, &cuts),
        None => upstream_bytes::check_chunked(&bytes, &cuts),
    }
});
