//! How much capacity a large buffer gets, so that its memory goes back to the system when it is freed.
//!
//! The C library maps what is large by itself and unmaps it when it is freed, and keeps what is not. But each freed buffer
//! of up to 32 MiB raises that limit to its size: after some requests of 20 MB half a gigabyte was kept. A buffer of more
//! than 32 MiB does not raise it, and pages of it that are never written take no memory. To fix the limit (`mallopt`)
//! costs half as much again for transcripts of 8 MB, which are then mapped anew each time.

/// Bytes from which on a buffer is large. Mapping and unmapping costs half as much again as all else that is done to a
/// request, and smaller ones are more often wanted again.
const LARGE: usize = 16 << 20;
/// Bytes from which on a buffer that grows to an unknown length is large.
const GROWN: usize = 2 << 20;
/// Least capacity of a large one.
const LEAST: usize = 33 << 20;

/// The capacity for so many bytes.
pub fn capacity(bytes: usize) -> usize {
    if bytes < LARGE { bytes } else { bytes.max(LEAST) }
}

/// Makes room for `more` bytes, where that makes the buffer large.
pub fn reserve(buffer: &mut Vec<u8>, more: usize) {
    let wanted = buffer.len().saturating_add(more);
    if wanted >= GROWN && wanted > buffer.capacity() {
        buffer.reserve_exact(wanted.saturating_mul(2).max(LEAST) - buffer.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_are_larger_than_what_is_kept() {
        assert_eq!(
            (capacity(10), capacity(LARGE - 1), capacity(LARGE), capacity(LEAST + 1)),
            (10, LARGE - 1, LEAST, LEAST + 1)
        );
        let mut buffer = vec![1; 10];
        reserve(&mut buffer, 10);
        assert!(buffer.capacity() < GROWN);
        reserve(&mut buffer, GROWN);
        assert!(buffer.capacity() >= LEAST && buffer.len() == 10);
        let before = buffer.as_ptr();
        reserve(&mut buffer, LEAST - 10);
        assert_eq!(buffer.as_ptr(), before);
    }
}
