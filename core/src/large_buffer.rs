//! Owns the capacity of large buffers, chosen so that their memory is returned to the system when they are freed. It
//! must not allocate anything itself.
//!
//! The C library maps large allocations separately and unmaps them when they are freed, but keeps smaller ones. Each
//! freed buffer of up to 32 MiB raises the threshold to its size: after some requests of 20 MB, half a gigabyte was
//! kept. A buffer of more than 32 MiB does not raise it, and pages that are never written take no memory. Fixing the
//! threshold (`mallopt`) makes transcripts of 8 MB half as expensive again, because they are then mapped anew each
//! time.

/// Buffers of at least this many bytes are large. Mapping and unmapping adds half to the cost of a request, and smaller
/// buffers are reused more often.
const LARGE: usize = 16 << 20;
/// Like `LARGE`, for a buffer that grows to an unknown length.
const GROWN: usize = 2 << 20;
/// Smallest capacity of a large buffer.
const LEAST: usize = 33 << 20;

/// The capacity for a buffer of this many bytes.
pub fn capacity(bytes: usize) -> usize {
    if bytes < LARGE { bytes } else { bytes.max(LEAST) }
}

/// Reserves room for `more` bytes if that makes the buffer large; else does nothing, and the buffer grows as usual.
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
    fn large_buffers_exceed_the_threshold() {
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
