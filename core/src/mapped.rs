//! Owns how much is set aside for large buffers, so that their memory goes back to the system when they are freed. It must
//! not know what is in them.
//!
//! The C library maps and unmaps what is large by itself, and keeps what is not. But each freed buffer up to 32 MiB
//! teaches it that such sizes are worth keeping, and after some requests of 20 MB it kept half a gigabyte. What is over
//! 32 MiB teaches it nothing; of that, what is never written takes no memory.

/// Bytes from which on a buffer is large. To map and unmap costs half as much again as all else that is done to a request, and
/// smaller ones are more often wanted again.
const LARGE: usize = 16 << 20;
/// Bytes from which on a buffer that grows without a known end is.
const GROWN: usize = 2 << 20;
/// What is set aside for a large one at least.
const ROOM: usize = 33 << 20;

/// How much to set aside for so many bytes.
pub fn room(bytes: usize) -> usize {
    if bytes < LARGE { bytes } else { bytes.max(ROOM) }
}

/// Has room for `more` bytes, where that makes the buffer large.
pub fn reserve(buffer: &mut Vec<u8>, more: usize) {
    let wanted = buffer.len().saturating_add(more);
    if wanted >= GROWN && wanted > buffer.capacity() {
        buffer.reserve_exact(wanted.saturating_mul(2).max(ROOM) - buffer.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_are_larger_than_what_is_kept() {
        assert_eq!((room(10), room(LARGE - 1), room(LARGE), room(ROOM + 1)), (10, LARGE - 1, ROOM, ROOM + 1));
        let mut buffer = vec![1; 10];
        reserve(&mut buffer, 10);
        assert!(buffer.capacity() < GROWN);
        reserve(&mut buffer, GROWN);
        assert!(buffer.capacity() >= ROOM && buffer.len() == 10);
        let before = buffer.as_ptr();
        reserve(&mut buffer, ROOM - 10);
        assert_eq!(buffer.as_ptr(), before);
    }
}
