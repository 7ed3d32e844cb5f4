//! Owns what makes an id unique.

use crate::store::Group;

/// What makes an id unique: letters and digits that come in the order of time.
pub(super) fn seed() -> String {
    seed_in(None)
}

/// One whose end names a group. What is before it is a time and a counter, unique in this process and random otherwise.
pub(super) fn seed_in(group: Option<Group>) -> String {
    let mut bytes = uuid::Uuid::now_v7().into_bytes();
    if let (Some(group), Some(end)) = (group, bytes.last_chunk_mut()) {
        *end = group;
    }
    uuid::Uuid::from_bytes(bytes).simple().encode_lower(&mut uuid::Uuid::encode_buffer()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Those that end alike differ before it, also when many are made within one millisecond.
    #[test]
    fn ids_of_one_group_are_unique() {
        let made = || (0..20_000).map(|_| seed_in(Some([0xab; 4]))).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(made)).collect();
        let made: Vec<String> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert!(made.iter().all(|seed| seed.len() == 32 && seed.ends_with("abababab")));
        assert_eq!(made.iter().collect::<HashSet<_>>().len(), 80_000);
        assert_ne!(seed()[24..], seed()[24..]);
    }
}
