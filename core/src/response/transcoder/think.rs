//! Owns the reasoning that a server without a reasoning parser leaves in the text: a block between two tags at the very
//! beginning, where chunks may split the tags, and a mark at the very end. It must not touch text in between, which may
//! talk about the tags.
//!
//! The text still streams: only what may become a tag is held back, with the white space before it.

use crate::options::ThinkTags;
use crate::response::channel::Channel;
use crate::response::open_item::append_logprobs;
use crate::response::transcoder::Transcoder;
use crate::response::transcoder::think_tags::{
    Beginning, BlockEnd, LONGEST_BLANK, Match, TAGS, Tag, beginning, block, matches, split_unopened,
};
use crate::wire::escaped::{trim, trim_end, trim_start};

/// Marks that end a message of gpt-oss, and do not belong to its text.
const END_MARKS: [&str; 3] = ["<|return|>", "<|end|>", "<|call|>"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// After the beginning: everything is text.
    Text,
    /// At the beginning, or after a block: a tag may follow.
    Beginning,
    /// After reasoning that the server sent separately: an empty block may follow, or the end of one.
    Separate,
    /// Inside a block.
    Block(&'static Tag),
    /// In text that the client does not see before it is complete: a closing tag may follow whose opening tag is in the
    /// prompt.
    Unstreamed,
}

/// The state of reading tags.
#[derive(Debug)]
pub(super) struct Think {
    tags: ThinkTags,
    at: At,
    /// Set while text that has been read is passed on, so that it is not read again.
    passing_on: bool,
    /// The mark at the end of the text so far, or empty.
    mark: &'static str,
    /// Whether `mark` is not empty.
    pub(super) marked: bool,
    /// Escaped text that waits, and its log probabilities.
    held: String,
    logprobs: String,
    /// Whether a block has been read.
    had_block: bool,
    /// Whether the current block has no text yet.
    block_is_empty: bool,
    /// The escaped text of a block that only the configuration calls reasoning.
    assumed: Option<String>,
}

impl Think {
    /// The state at the beginning of an answer.
    pub fn new(tags: ThinkTags) -> Think {
        let [first, ..] = &TAGS;
        Think {
            tags,
            at: match tags {
                ThinkTags::Read => At::Beginning,
                ThinkTags::Open => At::Block(first),
                ThinkTags::Off => At::Text,
            },
            passing_on: false,
            mark: "",
            marked: false,
            held: String::new(),
            logprobs: String::new(),
            had_block: false,
            block_is_empty: tags == ThinkTags::Open,
            assumed: (tags == ThinkTags::Open).then(String::new),
        }
    }

    /// A new state with the same setting, for another answer.
    pub fn restarted(&self) -> Think {
        Think::new(self.tags)
    }

    /// Whether a piece of text ends with a possible mark, or follows one.
    pub fn marks(&self, piece: &str) -> bool {
        matches!(piece.as_bytes(), [.., b'|', b'>']) || self.marked
    }

    /// Whether separately sent reasoning leaves the state unchanged.
    pub fn awaits_text(&self) -> bool {
        matches!(self.at, At::Separate) && self.held.is_empty()
    }

    /// Whether text must be searched for tags.
    #[inline(always)]
    pub fn is_searching(&self) -> bool {
        !self.passing_on && !matches!(self.at, At::Text)
    }
}

impl Transcoder {
    /// Processes an escaped piece of text whose beginning may be reasoning.
    pub(super) fn search_tags(&mut self, piece: &str, out: &mut Vec<u8>) {
        if self.think.at == At::Unstreamed {
            return self.hold_back(piece);
        }
        self.think.passing_on = true;
        let mut held = std::mem::take(&mut self.think.held);
        if held.is_empty() && matches!(self.think.at, At::Block(_)) {
            self.read_on(piece, out);
        } else {
            held.push_str(piece);
            self.read_on(&held, out);
        }
        if self.think.held.is_empty() {
            // keeps the allocation for the next piece
            held.clear();
            self.think.held = held;
        }
        self.think.passing_on = false;
    }

    fn read_on(&mut self, text: &str, out: &mut Vec<u8>) {
        let mut rest = text;
        while !rest.is_empty() {
            let after = match self.think.at {
                At::Text => return self.take_text(Channel::Text, rest, out),
                At::Unstreamed => return self.hold_back(rest),
                At::Beginning => self.read_beginning(rest, out),
                At::Separate => self.read_separate(rest, out),
                At::Block(tag) => self.read_block(tag, rest, out),
            };
            rest = after.unwrap_or_default();
        }
    }

    /// Reads a tag at the beginning. Returns the text after it, or `None` if all text is consumed.
    fn read_beginning<'a>(&mut self, text: &'a str, out: &mut Vec<u8>) -> Option<&'a str> {
        match beginning(text) {
            Beginning::Opens(tag, after) => {
                self.think.at = At::Block(tag);
                self.think.block_is_empty = true;
                self.logprobs.clear();
                return Some(after);
            }
            Beginning::Closes(after) => {
                self.think.had_block = true;
                self.logprobs.clear();
                return Some(after);
            }
            Beginning::MayBeTag if text.len() <= LONGEST_BLANK => self.hold_back(text),
            Beginning::MayBeTag | Beginning::Text => self.begin_text(text, out),
        }
        None
    }

    /// The same after separately sent reasoning.
    fn read_separate<'a>(&mut self, text: &'a str, out: &mut Vec<u8>) -> Option<&'a str> {
        let after = match beginning(text) {
            Beginning::Closes(after) => Match::Whole(after),
            Beginning::Opens(tag, after) => matches(tag.close, trim_start(after)),
            Beginning::MayBeTag => Match::Part,
            Beginning::Text => Match::No,
        };
        match after {
            Match::Whole(after) => {
                (self.think.at, self.think.had_block) = (At::Beginning, true);
                self.logprobs.clear();
                return Some(after);
            }
            Match::Part if text.len() <= LONGEST_BLANK => self.hold_back(text),
            Match::Part | Match::No => {
                self.think.at = At::Text;
                self.take_held(text, out);
            }
        }
        None
    }

    /// Reads the text of a block up to its closing tag. Returns the text after that, or `None` if all is consumed.
    fn read_block<'a>(&mut self, tag: &Tag, text: &'a str, out: &mut Vec<u8>) -> Option<&'a str> {
        let mut text = text;
        if self.think.block_is_empty {
            text = trim_start(text);
            if text.is_empty() {
                return None;
            }
            // the prompt ended with the tag, and the model repeated it
            if self.think.assumed.is_some() {
                match beginning(text) {
                    Beginning::Opens(_, after) => return Some(after),
                    Beginning::MayBeTag => {
                        self.hold_back(text);
                        return None;
                    }
                    Beginning::Closes(_) | Beginning::Text => {}
                }
            }
            self.think.block_is_empty = false;
        }
        let (inside, then) = block(text, tag.close);
        self.send_reasoning(inside, out);
        match then {
            BlockEnd::Closes(after) => {
                (self.think.at, self.think.had_block, self.think.assumed) = (At::Beginning, true, None);
                self.logprobs.clear();
                Some(after)
            }
            BlockEnd::Waits(waits) => {
                self.hold_back(waits);
                None
            }
        }
    }

    /// Notes that the server sends reasoning separately.
    pub(super) fn begin_separate(&mut self, out: &mut Vec<u8>) {
        let begins = matches!(self.think.at, At::Beginning | At::Separate);
        self.end_think(out);
        if begins {
            self.think.at = At::Separate;
        }
    }

    /// Processes a piece of text, holding back a mark at its end: it may be the end of the whole text.
    pub(super) fn take_marked(&mut self, piece: &str, out: &mut Vec<u8>) {
        let before = std::mem::take(&mut self.think.mark);
        let mark = END_MARKS.into_iter().find(|mark| piece.ends_with(mark));
        let mark = mark.filter(|_| self.think.tags != ThinkTags::Off).unwrap_or_default();
        let text = piece.strip_suffix(mark).unwrap_or(piece);
        match before {
            "" => self.route_text(Channel::Text, text, out),
            before => self.route_text(Channel::Text, &[before, text].concat(), out),
        }
        (self.think.mark, self.think.marked) = (mark, !mark.is_empty());
    }

    /// Ends the search for tags: what is held is sent as text or reasoning.
    pub(super) fn end_think(&mut self, out: &mut Vec<u8>) {
        self.think.passing_on = true;
        let held = std::mem::take(&mut self.think.held);
        match std::mem::replace(&mut self.think.at, At::Text) {
            At::Text => {}
            At::Beginning => {
                self.take_held(if self.think.had_block { trim_start(&held) } else { &held }, out)
            }
            At::Separate => self.take_held(&held, out),
            At::Block(_) => self.send_reasoning(trim_end(&held), out),
            At::Unstreamed => match split_unopened(&held) {
                Some((inside, after)) => {
                    self.send_reasoning(trim(inside), out);
                    self.take_text(Channel::Text, trim_start(after), out);
                }
                None => self.take_held(&held, out),
            },
        }
        self.think.passing_on = false;
    }

    /// Called when the answer ended well. A block that only the configuration called reasoning, and that was never
    /// closed, was the answer: it is sent as text.
    pub(super) fn send_assumed_as_text(&mut self, out: &mut Vec<u8>) {
        if let Some(assumed) = self.think.assumed.take()
            && self.calls.is_empty()
        {
            self.take_text(Channel::Text, &assumed, out);
        }
    }

    /// Begins the text of the answer with this piece.
    fn begin_text(&mut self, text: &str, out: &mut Vec<u8>) {
        let text = if self.think.had_block { trim_start(text) } else { text };
        let unopened = if self.think.had_block { None } else { split_unopened(text) };
        match unopened {
            Some((inside, after)) => {
                self.send_reasoning(trim(inside), out);
                self.logprobs.clear();
                self.think.had_block = true;
                self.think.at = At::Text;
                self.take_text(Channel::Text, trim_start(after), out);
            }
            // without a stream, the client sees only the complete text
            None if !self.events.enabled && !self.think.had_block => {
                self.think.at = At::Unstreamed;
                self.hold_back(text);
            }
            None => {
                self.think.at = At::Text;
                self.take_held(text, out);
            }
        }
    }

    fn hold_back(&mut self, text: &str) {
        self.think.held.push_str(text);
        append_logprobs(&mut self.think.logprobs, &std::mem::take(&mut self.logprobs));
    }

    /// Processes text of which some was held, with the held log probabilities.
    fn take_held(&mut self, text: &str, out: &mut Vec<u8>) {
        let mut logprobs = std::mem::take(&mut self.think.logprobs);
        if !logprobs.is_empty() {
            append_logprobs(&mut logprobs, &self.logprobs);
            self.logprobs = logprobs;
        }
        self.take_text(Channel::Text, text, out);
    }

    fn send_reasoning(&mut self, text: &str, out: &mut Vec<u8>) {
        self.think.logprobs.clear();
        if let Some(assumed) = &mut self.think.assumed {
            assumed.push_str(text);
        }
        self.take_text(Channel::Reasoning, text, out);
    }
}
