//! Whatever bytes a server sends as a response: the cases of the fuzz targets `upstream_response` and `chunked_body`.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::upstream_bytes::{built, check_chunked, check_chunks, check_response};

fn cuts() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..8)
}

/// Parts of chunked bodies.
const CHUNKS: &[&[u8]] = &[
    b"3",
    b"0",
    b"a",
    b"F",
    b"00000",
    b"g",
    b";",
    b";x=y",
    b" ",
    b"\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"abc",
    b"\r\nabc\r\n",
    b"3\r\nabc\r\n",
    b"0\r\n",
    b"x: y\r\n",
    b"0\r\n\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_response_of_good_and_bad_parts(script in vec(any::<u8>(), 0..12), cuts in cuts()) {
        check_response(&built(&script), &cuts);
    }

    #[test]
    fn a_response_that_begins_well(script in vec(any::<u8>(), 0..10), garbage in vec(any::<u8>(), 0..40), cuts in cuts()) {
        let bytes = [&b"HTTP/1.1 200 OK\r\n"[..], &built(&script), b"\r\n", &garbage].concat();
        check_response(&bytes, &cuts);
    }

    #[test]
    fn a_response_of_any_bytes(bytes in vec(any::<u8>(), 0..200), cuts in cuts()) {
        check_response(&bytes, &cuts);
    }

    #[test]
    fn a_chunked_body_of_any_bytes(bytes in vec(any::<u8>(), 0..60), cuts in cuts()) {
        check_chunked(&bytes, &cuts);
    }

    #[test]
    fn a_chunked_body_of_good_and_bad_parts(script in vec(any::<prop::sample::Index>(), 0..12), cuts in cuts()) {
        let bytes: Vec<u8> = script.iter().flat_map(|part| *part.get(CHUNKS)).copied().collect();
        check_chunked(&bytes, &cuts);
    }

    #[test]
    fn chunks_come_out_as_they_went_in(data in vec(any::<u8>(), 0..300), lengths in vec(any::<u8>(), 0..8), cuts in cuts()) {
        check_chunks(&data, &lengths, &cuts);
    }
}
