//! Owns the reasoning that a server without a reasoning parser leaves in the text: a block between two tags at the very
//! beginning, which its tags may be cut over chunks, and a mark at the very end. It must not touch text in between: that
//! may speak of the tags.
//!
//! A stream stays one: no more is held back than what may still become a tag, with the white space before it.

use crate::options::ThinkTags;
use crate::response::channel::Channel;
use crate::response::open_item::append_logprobs;
use crate::response::transcoder::Transcoder;
use crate::response::transcoder::think_tags::{
    Beginning, LONGEST_BLANK, Match, TAGS, Tag, Then, beginning, block, matches, unopened,
};
use crate::wire::escaped::{trim, trim_end, trim_start};

/// Marks that end a message of gpt-oss, and are no text of it.
const END_MARKS: [&str; 3] = ["<|return|>", "<|end|>", "<|call|>"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// From here on, text is text.
    Text,
    /// At the beginning, or behind a block: a tag may come.
    Beginning,
    /// Behind reasoning that came by itself: a block may come that is empty, or the end of one.
    Separate,
    /// Within a block.
    Block(&'static Tag),
    /// In text that is not shown before it is whole: a closing tag may come, whose opening one the prompt had.
    Unseen,
}

/// How far the text has been read.
#[derive(Debug)]
pub(super) struct Think {
    tags: ThinkTags,
    at: At,
    /// Whether what is said now has been looked at.
    saying: bool,
    /// The mark that the text ends with, if that is its end.
    mark: &'static str,
    /// Whether there is such a mark.
    pub(super) marked: bool,
    /// Escaped text that waits, and its log probabilities.
    held: String,
    logprobs: String,
    /// Whether a block was read.
    read: bool,
    /// Whether the block has no text yet.
    fresh: bool,
    /// All of a block that nothing but configuration said to be one, escaped.
    assumed: Option<String>,
}

impl Think {
    pub fn new(tags: ThinkTags) -> Think {
        let [first, ..] = &TAGS;
        Think {
            tags,
            at: match tags {
                ThinkTags::Read => At::Beginning,
                ThinkTags::Open => At::Block(first),
                ThinkTags::Off => At::Text,
            },
            saying: false,
            mark: "",
            marked: false,
            held: String::new(),
            logprobs: String::new(),
            read: false,
            fresh: tags == ThinkTags::Open,
            assumed: (tags == ThinkTags::Open).then(String::new),
        }
    }

    /// The same at the beginning of another answer.
    pub fn anew(&self) -> Think {
        Think::new(self.tags)
    }

    /// Whether a piece of text ends with what may be a mark, or comes behind one.
    pub fn marks(&self, piece: &str) -> bool {
        matches!(piece.as_bytes(), [.., b'|', b'>']) || self.marked
    }

    /// Whether reasoning that comes by itself changes nothing.
    pub fn awaits_text(&self) -> bool {
        matches!(self.at, At::Separate) && self.held.is_empty()
    }

    /// Whether text has to be looked at.
    #[inline(always)]
    pub fn reads(&self) -> bool {
        !self.saying && !matches!(self.at, At::Text)
    }
}

impl Transcoder {
    /// Takes a piece of text, escaped, of which the beginning may be reasoning.
    pub(super) fn think(&mut self, piece: &str, out: &mut Vec<u8>) {
        if self.think.at == At::Unseen {
            return self.hold(piece);
        }
        self.think.saying = true;
        let mut held = std::mem::take(&mut self.think.held);
        if held.is_empty() && matches!(self.think.at, At::Block(_)) {
            self.read_on(piece, out);
        } else {
            held.push_str(piece);
            self.read_on(&held, out);
        }
        if self.think.held.is_empty() {
            // its memory serves the next piece
            held.clear();
            self.think.held = held;
        }
        self.think.saying = false;
    }

    fn read_on(&mut self, text: &str, out: &mut Vec<u8>) {
        let mut rest = text;
        while !rest.is_empty() {
            let behind = match self.think.at {
                At::Text => return self.take_text(Channel::Text, rest, out),
                At::Unseen => return self.hold(rest),
                At::Beginning => self.read_beginning(rest, out),
                At::Separate => self.read_separate(rest, out),
                At::Block(tag) => self.read_block(tag, rest, out),
            };
            rest = behind.unwrap_or_default();
        }
    }

    /// Reads a tag at the beginning; what stands behind it. `None`: all of the text is taken.
    fn read_beginning<'a>(&mut self, text: &'a str, out: &mut Vec<u8>) -> Option<&'a str> {
        match beginning(text) {
            Beginning::Opens(tag, behind) => {
                self.think.at = At::Block(tag);
                self.think.fresh = true;
                self.logprobs.clear();
                return Some(behind);
            }
            Beginning::Closes(behind) => {
                self.think.read = true;
                self.logprobs.clear();
                return Some(behind);
            }
            Beginning::May if text.len() <= LONGEST_BLANK => self.hold(text),
            Beginning::May | Beginning::Text => self.begin_text(text, out),
        }
        None
    }

    /// The same behind reasoning that came by itself.
    fn read_separate<'a>(&mut self, text: &'a str, out: &mut Vec<u8>) -> Option<&'a str> {
        let behind = match beginning(text) {
            Beginning::Closes(behind) => Match::Whole(behind),
            Beginning::Opens(tag, behind) => matches(tag.close, trim_start(behind)),
            Beginning::May => Match::Part,
            Beginning::Text => Match::No,
        };
        match behind {
            Match::Whole(behind) => {
                (self.think.at, self.think.read) = (At::Beginning, true);
                self.logprobs.clear();
                return Some(behind);
            }
            Match::Part if text.len() <= LONGEST_BLANK => self.hold(text),
            Match::Part | Match::No => {
                self.think.at = At::Text;
                self.take_held(text, out);
            }
        }
        None
    }

    /// Reads the text of a block up to its closing tag; what stands behind that.
    fn read_block<'a>(&mut self, tag: &Tag, text: &'a str, out: &mut Vec<u8>) -> Option<&'a str> {
        let mut text = text;
        if self.think.fresh {
            text = trim_start(text);
            if text.is_empty() {
                return None;
            }
            // the prompt had the tag, and the model wrote it once more
            if self.think.assumed.is_some() {
                match beginning(text) {
                    Beginning::Opens(_, behind) => return Some(behind),
                    Beginning::May => {
                        self.hold(text);
                        return None;
                    }
                    Beginning::Closes(_) | Beginning::Text => {}
                }
            }
            self.think.fresh = false;
        }
        let (inside, then) = block(text, tag.close);
        self.reason(inside, out);
        match then {
            Then::Closes(behind) => {
                (self.think.at, self.think.read, self.think.assumed) = (At::Beginning, true, None);
                self.logprobs.clear();
                Some(behind)
            }
            Then::Waits(waits) => {
                self.hold(waits);
                None
            }
        }
    }

    /// Reasoning comes by itself.
    pub(super) fn begin_separate(&mut self, out: &mut Vec<u8>) {
        let begins = matches!(self.think.at, At::Beginning | At::Separate);
        self.end_think(out);
        if begins {
            self.think.at = At::Separate;
        }
    }

    /// Takes a piece of text without the mark at its end, which waits: it may be the end of the text.
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

    /// Nothing more can be a tag: what waits goes where it belongs.
    pub(super) fn end_think(&mut self, out: &mut Vec<u8>) {
        self.think.saying = true;
        let held = std::mem::take(&mut self.think.held);
        match std::mem::replace(&mut self.think.at, At::Text) {
            At::Text => {}
            At::Beginning => self.take_held(if self.think.read { trim_start(&held) } else { &held }, out),
            At::Separate => self.take_held(&held, out),
            At::Block(_) => self.reason(trim_end(&held), out),
            At::Unseen => match unopened(&held) {
                Some((inside, behind)) => {
                    self.reason(trim(inside), out);
                    self.take_text(Channel::Text, trim_start(behind), out);
                }
                None => self.take_held(&held, out),
            },
        }
        self.think.saying = false;
    }

    /// The answer ended well. Where nothing but configuration said that its beginning was reasoning, and no end of that
    /// came, it was the answer.
    pub(super) fn answer_assumed(&mut self, out: &mut Vec<u8>) {
        if let Some(assumed) = self.think.assumed.take()
            && self.calls.is_empty()
        {
            self.take_text(Channel::Text, &assumed, out);
        }
    }

    /// Text begins, with this.
    fn begin_text(&mut self, text: &str, out: &mut Vec<u8>) {
        let text = if self.think.read { trim_start(text) } else { text };
        let unopened = if self.think.read { None } else { unopened(text) };
        match unopened {
            Some((inside, behind)) => {
                self.reason(trim(inside), out);
                self.logprobs.clear();
                self.think.read = true;
                self.think.at = At::Text;
                self.take_text(Channel::Text, trim_start(behind), out);
            }
            // nobody sees it before it is whole
            None if !self.events.enabled && !self.think.read => {
                self.think.at = At::Unseen;
                self.hold(text);
            }
            None => {
                self.think.at = At::Text;
                self.take_held(text, out);
            }
        }
    }

    fn hold(&mut self, text: &str) {
        self.think.held.push_str(text);
        append_logprobs(&mut self.think.logprobs, &std::mem::take(&mut self.logprobs));
    }

    /// Says text of which a part was held.
    fn take_held(&mut self, text: &str, out: &mut Vec<u8>) {
        let mut logprobs = std::mem::take(&mut self.think.logprobs);
        if !logprobs.is_empty() {
            append_logprobs(&mut logprobs, &self.logprobs);
            self.logprobs = logprobs;
        }
        self.take_text(Channel::Text, text, out);
    }

    fn reason(&mut self, text: &str, out: &mut Vec<u8>) {
        self.think.logprobs.clear();
        if let Some(assumed) = &mut self.think.assumed {
            assumed.push_str(text);
        }
        self.take_text(Channel::Reasoning, text, out);
    }
}
