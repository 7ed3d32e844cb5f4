//! Owns what makes an id unique.

/// What makes an id unique: letters and digits that come in the order of time.
pub(super) fn seed() -> String {
    seed_ending(None)
}

/// One with these last bytes (`Store::id_ending`). Before them are a time and a counter, unique in this process and random
/// otherwise.
pub(super) fn seed_ending(ending: Option<[u8; 4]>) -> String {
    let mut bytes = uuid::Uuid::now_v7().into_bytes();
    if let (Some(ending), Some(end)) = (ending, bytes.last_chunk_mut()) {
        *end = ending;
    }
    uuid::Uuid::from_bytes(bytes).simple().encode_lower(&mut uuid::Uuid::encode_buffer()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Also when many are made within one millisecond.
    #[test]
    fn ids_that_end_alike_differ() {
        let made = || (0..20_000).map(|_| seed_ending(Some([0xab; 4]))).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(made)).collect();
        let made: Vec<String> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert!(made.iter().all(|seed| seed.len() == 32 && seed.ends_with("abababab")));
        assert_eq!(made.iter().collect::<HashSet<_>>().len(), 80_000);
        assert_ne!(seed()[24..], seed()[24..]);
    }
}
