//! A few empty buffers per thread, for whatever runs on it. A stream that had a buffer of its own would hold that memory
//! between its tokens, and between two tokens of one stream come those of a thousand others, so that the buffer would have
//! left the processor's caches each time. It must not know what is written into one.

use std::cell::RefCell;

/// Most buffers that a thread keeps.
const MOST: usize = 4;
/// The largest one that it keeps, in bytes.
pub const LARGEST: usize = 16 << 10;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Takes an empty buffer: one that was put back, or a new one without capacity.
pub fn take() -> Vec<u8> {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Puts a buffer back, whoever made it; its content is dropped. Buffers over [`LARGEST`] are freed.
pub fn put(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > LARGEST {
        return;
    }
    buffer.clear();
    POOL.with_borrow_mut(|pool| {
        if pool.len() < MOST {
            pool.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_back_is_taken_again_empty_and_within_bounds() {
        let mut buffer = take();
        buffer.extend_from_slice(b"secret");
        let place = buffer.as_ptr();
        put(buffer);
        let again = take();
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        put(Vec::with_capacity(LARGEST + 1));
        assert_eq!(take().capacity(), 0, "too large to be kept");
        for _ in 0..2 * MOST {
            put(Vec::with_capacity(8));
        }
        let kept = (0..2 * MOST).filter(|_| take().capacity() > 0).count();
        assert_eq!(kept, MOST);
    }
}
