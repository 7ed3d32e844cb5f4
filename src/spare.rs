//! Owns the buffers that a thread lends to whatever runs on it. Between two tokens of a stream come those of a thousand
//! others: a buffer of its own would be memory that waits with it, and would have left the processor's caches each time.
//! It must not know what is written into one.

use std::cell::RefCell;

/// Most buffers that a thread keeps.
const MOST: usize = 4;
/// The largest one that it keeps, in bytes.
pub const LARGEST: usize = 16 << 10;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer; where one was given back, that one.
pub fn lend() -> Vec<u8> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Takes a buffer back, whoever made it. What is in it is lost.
pub fn give_back(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > LARGEST {
        return;
    }
    buffer.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < MOST {
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_lent_again_empty_and_within_bounds() {
        let mut buffer = lend();
        buffer.extend_from_slice(b"secret");
        let place = buffer.as_ptr();
        give_back(buffer);
        let again = lend();
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        give_back(Vec::with_capacity(LARGEST + 1));
        assert_eq!(lend().capacity(), 0, "too large to be kept");
        for _ in 0..2 * MOST {
            give_back(Vec::with_capacity(8));
        }
        let kept = (0..2 * MOST).filter(|_| lend().capacity() > 0).count();
        assert_eq!(kept, MOST);
    }
}
