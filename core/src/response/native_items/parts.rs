//! Owns which part of a native item is being written: servers leave out the indices of parts, and tell finished parts once
//! more. It must not hold their texts.

use crate::response::channel::Channel;

/// In which part of its item a piece of text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The open one.
    Open,
    /// One that begins with it.
    New,
    /// One that is closed: it goes nowhere.
    Closed,
}

/// The parts of one item so far. They come one after another.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// The open part, and its index as the upstream counts.
    open: Option<(Channel, u64)>,
    /// How many were begun in the item's `content`, and in its `summary`.
    contents: u64,
    summaries: u64,
    /// Whether the next piece begins a part, by an announcement without an index.
    announced: bool,
}

impl Parts {
    /// Whether none was begun.
    pub fn is_empty(&self) -> bool {
        self.open.is_none()
    }

    /// A part was announced; `index` may be unknown.
    pub fn announce(&mut self, index: Option<u64>) {
        self.announced = index.is_none();
    }

    /// Where a piece of text with this index goes.
    pub fn place(&mut self, channel: Channel, index: Option<u64>) -> Place {
        let next = match (self.open, index) {
            (None, index) => index.unwrap_or(0),
            (Some((open, at)), index) if open == channel => match index {
                Some(index) if index == at => return Place::Open,
                Some(index) if index < at => return Place::Closed,
                Some(index) => index,
                None if !self.announced => return Place::Open,
                None => at + 1,
            },
            (Some((_, at)), index) => index.unwrap_or(at + 1),
        };
        self.open = Some((channel, next));
        self.announced = false;
        *self.count(channel) += 1;
        Place::New
    }

    /// Where the text of the part at `position` of the finished item goes.
    pub fn place_at(&mut self, channel: Channel, position: u64) -> Place {
        let begun = *self.count(channel);
        match self.open {
            _ if begun <= position => {
                let next = self.open.map_or(0, |(_, at)| at + 1);
                self.place(channel, Some(next))
            }
            Some((open, _)) if begun == position + 1 && open == channel => Place::Open,
            _ => Place::Closed,
        }
    }

    fn count(&mut self, channel: Channel) -> &mut u64 {
        match channel {
            Channel::Summary => &mut self.summaries,
            _ => &mut self.contents,
        }
    }
}
