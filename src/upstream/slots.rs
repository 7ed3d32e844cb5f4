//! Owns which slot of one server a conversation is held to: the one that has its cache. It must not know what a slot
//! is; the server is told a number.
//!
//! llama-server (b11434) would choose by the longest common beginning, and so give Codex's title request, whose prompt
//! begins like the conversation's, the conversation's own slot. A named slot that is busy is waited for even when
//! another is free, so only slots that no request of ours holds are named.

/// One element a slot, by its number.
#[derive(Debug, Default)]
pub struct Slots {
    slots: Vec<Slot>,
    clock: u64,
}

#[derive(Debug, Default, Clone)]
struct Slot {
    owner: Option<Box<str>>,
    busy: bool,
    used: u64,
}

impl Slots {
    /// The slot for the next request, out of `count`; `None` leaves the choice to the server. A side request becomes
    /// no owner, and takes the slot that is missed least.
    pub fn take(&mut self, count: u32, conversation: Option<&str>, side: bool) -> Option<u32> {
        self.slots.resize(usize::try_from(count).ok()?, Slot::default());
        self.clock += 1;
        let own = |slot: &Slot| !side && conversation.is_some() && slot.owner.as_deref() == conversation;
        let mine = self.slots.iter().position(own);
        let foreign = |slot: &Slot| !side || conversation.is_none() || slot.owner.as_deref() != conversation;
        let free = self.slots.iter().enumerate().filter(|(_, slot)| !slot.busy && foreign(slot));
        let at = match mine {
            // a second request of the conversation while the first runs: the server knows best
            Some(at) if self.slots.get(at).is_some_and(|slot| slot.busy) => return None,
            Some(at) => at,
            None => free.min_by_key(|(_, slot)| (slot.owner.is_some(), slot.used)).map(|(at, _)| at)?,
        };
        let slot = self.slots.get_mut(at)?;
        slot.busy = true;
        slot.used = self.clock;
        if !side {
            slot.owner = conversation.map(Box::from);
        }
        u32::try_from(at).ok()
    }

    /// That slot once more, for a request whose prompt begins as the last one's; `None` where it is busy by now.
    pub fn again(&mut self, slot: u32) -> Option<u32> {
        self.clock += 1;
        let known = self.slots.get_mut(usize::try_from(slot).ok()?).filter(|known| !known.busy)?;
        (known.busy, known.used) = (true, self.clock);
        Some(slot)
    }

    /// The request that held the slot is over.
    pub fn free(&mut self, slot: u32) {
        if let Some(slot) = usize::try_from(slot).ok().and_then(|at| self.slots.get_mut(at)) {
            slot.busy = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_keeps_its_slot() {
        let mut slots = Slots::default();
        let a = slots.take(2, Some("a"), false).unwrap();
        let title = slots.take(2, Some("a"), true).unwrap();
        assert_ne!(a, title);
        assert_eq!(slots.take(2, Some("b"), false), None, "every slot is busy");
        slots.free(title);
        let b = slots.take(2, Some("b"), false).unwrap();
        assert_eq!(b, title, "a side request owns nothing");
        slots.free(a);
        slots.free(b);
        for _ in 0..3 {
            assert_eq!(slots.take(2, Some("a"), false), Some(a));
            slots.free(a);
            assert_eq!(slots.take(2, Some("a"), true), Some(b), "not its own conversation's slot");
            slots.free(b);
        }
    }

    #[test]
    fn the_oldest_makes_room_and_anonymous_requests_own_nothing() {
        let mut slots = Slots::default();
        for name in ["a", "b"] {
            let slot = slots.take(2, Some(name), false).unwrap();
            slots.free(slot);
        }
        assert_eq!(slots.take(2, Some("a"), false), Some(0));
        slots.free(0);
        assert_eq!(slots.take(2, Some("c"), false), Some(1));
        slots.free(1);
        assert_eq!(slots.take(2, None, false), Some(0));
        slots.free(0);
        assert_eq!(slots.take(2, Some("d"), false), Some(0), "whose owner is gone");
        // one that goes on where it was
        slots.free(0);
        assert_eq!(slots.again(0), Some(0));
        assert_eq!(slots.again(0), None, "it is busy");
        assert_eq!(slots.again(9), None);
        // a server that came back with fewer slots
        slots.free(0);
        assert_eq!(slots.take(1, Some("c"), false), Some(0));
        slots.free(7);
    }
}
