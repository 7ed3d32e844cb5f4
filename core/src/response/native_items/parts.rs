//! Owns which part of a native item is being written: servers leave out the indices of parts, and repeat finished
//! parts. It must not hold their texts.

use crate::response::channel::Channel;

/// Which part of its item a piece of text belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The open part.
    Open,
    /// A new part, which the piece begins.
    New,
    /// A closed part: the piece is dropped.
    Closed,
}

/// The parts of one item so far. Only one is open at a time.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// The open part, with the upstream's index.
    open: Option<(Channel, u64)>,
    /// How many parts of the item's `content` and of its `summary` have begun.
    content_count: u64,
    summary_count: u64,
    /// Whether a part was announced without an index, so that the next piece begins it.
    announced_without_index: bool,
}

impl Parts {
    /// Whether no part has begun.
    pub fn is_empty(&self) -> bool {
        self.open.is_none()
    }

    /// Records the announcement of a part.
    pub fn announce(&mut self, index: Option<u64>) {
        self.announced_without_index = index.is_none();
    }

    /// Tells which part a piece of text belongs to, and makes that part the open one. `index`: the upstream's, if it sends
    /// one. While `Text 1` is open: `Text 1` or no index is [`Place::Open`], `Text 0` is [`Place::Closed`], `Text 2` and
    /// every index of another channel are [`Place::New`].
    pub fn place(&mut self, channel: Channel, index: Option<u64>) -> Place {
        let next = match (self.open, index) {
            (None, index) => index.unwrap_or(0),
            (Some((open, at)), index) if open == channel => match index {
                Some(index) if index == at => return Place::Open,
                Some(index) if index < at => return Place::Closed,
                Some(index) => index,
                None if !self.announced_without_index => return Place::Open,
                None => at + 1,
            },
            (Some((_, at)), index) => index.unwrap_or(at + 1),
        };
        self.open = Some((channel, next));
        self.announced_without_index = false;
        *self.count_mut(channel) += 1;
        Place::New
    }

    /// The same for the text at `position` of a finished item, whose parts are counted for each list.
    pub fn place_at(&mut self, channel: Channel, position: u64) -> Place {
        let begun = *self.count_mut(channel);
        match self.open {
            _ if begun <= position => {
                let next = self.open.map_or(0, |(_, at)| at + 1);
                self.place(channel, Some(next))
            }
            Some((open, _)) if begun == position + 1 && open == channel => Place::Open,
            _ => Place::Closed,
        }
    }

    fn count_mut(&mut self, channel: Channel) -> &mut u64 {
        match channel {
            Channel::Summary => &mut self.summary_count,
            _ => &mut self.content_count,
        }
    }
}
