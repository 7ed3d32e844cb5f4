//! Owns the reasoning that a server without a reasoning parser leaves in the text: a block between two tags at the very
//! beginning, which its tags may be cut over chunks. It must not touch text behind the beginning: that may speak of
//! the tags.
//!
//! A stream stays one: no more is held back than what may still become a tag, with the white space before it.

use crate::options::ThinkTags;
use crate::response::open_item::append_logprobs;
use crate::response::transcoder::Transcoder;
use crate::response::transcoder::text::Channel;
use crate::wire::escaped::{next, trim, trim_end, trim_start};

/// What stands before and behind a block of reasoning.
#[derive(Debug, PartialEq, Eq)]
struct Tag {
    open: &'static str,
    close: &'static str,
}

/// The tags that models write, by their chat templates and by the parsers of vLLM, SGLang and llama.cpp for them.
static TAGS: [Tag; 11] = [
    // DeepSeek, Qwen, GLM, MiniMax, Kimi, Nemotron, ...
    Tag { open: "<think>", close: "</think>" },
    Tag { open: "<thinking>", close: "</thinking>" },
    Tag { open: "<thought>", close: "</thought>" },
    Tag { open: "<reasoning>", close: "</reasoning>" },
    // Mistral
    Tag { open: "[THINK]", close: "[/THINK]" },
    // Cohere
    Tag { open: "<|START_THINKING|>", close: "<|END_THINKING|>" },
    // Seed-OSS
    Tag { open: "<seed:think>", close: "</seed:think>" },
    // LongCat
    Tag { open: "<longcat_think>", close: "</longcat_think>" },
    // Kimi-VL
    Tag { open: "◁think▷", close: "◁/think▷" },
    // Gemma
    Tag { open: "<|channel>thought", close: "<channel|>" },
    // gpt-oss
    Tag { open: "<|channel|>analysis<|message|>", close: "<|end|>" },
];

/// Marks between a block and the answer.
const BETWEEN: [&str; 3] =
    ["<|START_RESPONSE|>", "<|start|>assistant<|channel|>final<|message|>", "<|channel|>final<|message|>"];

/// Marks that end a message of gpt-oss, and are no text of it.
const END_MARKS: [&str; 3] = ["<|return|>", "<|end|>", "<|call|>"];

/// Longest attributes of a tag, in bytes.
const LONGEST_ATTRIBUTES: usize = 128;

/// Longest white space that waits for a tag, in bytes: a model that writes nothing else is not to be read over and over.
const LONGEST_BLANK: usize = 256;

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
        piece.ends_with("|>") || !self.mark.is_empty()
    }

    /// Whether reasoning that comes by itself changes nothing.
    pub fn awaits_text(&self) -> bool {
        matches!(self.at, At::Separate) && self.held.is_empty()
    }

    /// Whether text has to be looked at.
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
            match self.think.at {
                At::Text => return self.say(Channel::Text, rest, out),
                At::Unseen => return self.hold(rest),
                At::Beginning => match beginning(rest) {
                    Beginning::Opens(tag, behind) => {
                        self.think.at = At::Block(tag);
                        self.think.fresh = true;
                        self.logprobs.clear();
                        rest = behind;
                    }
                    Beginning::Closes(behind) => {
                        self.think.read = true;
                        self.logprobs.clear();
                        rest = behind;
                    }
                    Beginning::May if rest.len() <= LONGEST_BLANK => return self.hold(rest),
                    _ => return self.begin_text(rest, out),
                },
                At::Separate => {
                    let behind = match beginning(rest) {
                        Beginning::Closes(behind) => Match::Whole(behind),
                        Beginning::Opens(tag, behind) => matches(tag.close, trim_start(behind)),
                        Beginning::May => Match::Part,
                        Beginning::Text => Match::No,
                    };
                    match behind {
                        Match::Whole(behind) => {
                            (self.think.at, self.think.read) = (At::Beginning, true);
                            self.logprobs.clear();
                            rest = behind;
                        }
                        Match::Part if rest.len() <= LONGEST_BLANK => return self.hold(rest),
                        _ => {
                            self.think.at = At::Text;
                            return self.say_held(rest, out);
                        }
                    }
                }
                At::Block(tag) => {
                    if self.think.fresh {
                        rest = trim_start(rest);
                        if rest.is_empty() {
                            return;
                        }
                        // the prompt had the tag, and the model wrote it once more
                        if self.think.assumed.is_some() {
                            match beginning(rest) {
                                Beginning::Opens(_, behind) => {
                                    rest = behind;
                                    continue;
                                }
                                Beginning::May => return self.hold(rest),
                                _ => {}
                            }
                        }
                        self.think.fresh = false;
                    }
                    let (inside, then) = block(rest, tag.close);
                    self.reason(inside, out);
                    match then {
                        Then::Closes(behind) => {
                            (self.think.at, self.think.read, self.think.assumed) =
                                (At::Beginning, true, None);
                            self.logprobs.clear();
                            rest = behind;
                        }
                        Then::Waits(waits) => return self.hold(waits),
                    }
                }
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
    pub(super) fn say_marked(&mut self, piece: &str, out: &mut Vec<u8>) {
        let before = std::mem::take(&mut self.think.mark);
        let mark = END_MARKS.into_iter().find(|mark| piece.ends_with(mark));
        let mark = mark.filter(|_| self.think.tags != ThinkTags::Off).unwrap_or_default();
        let text = piece.strip_suffix(mark).unwrap_or(piece);
        match before {
            "" => self.say_on(Channel::Text, text, out),
            before => self.say_on(Channel::Text, &[before, text].concat(), out),
        }
        self.think.mark = mark;
    }

    /// Nothing more can be a tag: what waits goes where it belongs.
    pub(super) fn end_think(&mut self, out: &mut Vec<u8>) {
        self.think.saying = true;
        let held = std::mem::take(&mut self.think.held);
        match std::mem::replace(&mut self.think.at, At::Text) {
            At::Text => {}
            At::Beginning => self.say_held(if self.think.read { trim_start(&held) } else { &held }, out),
            At::Separate => self.say_held(&held, out),
            At::Block(_) => self.reason(trim_end(&held), out),
            At::Unseen => match unopened(&held) {
                Some((inside, behind)) => {
                    self.reason(trim(inside), out);
                    self.say(Channel::Text, trim_start(behind), out);
                }
                None => self.say_held(&held, out),
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
            self.say(Channel::Text, &assumed, out);
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
                self.say(Channel::Text, trim_start(behind), out);
            }
            // nobody sees it before it is whole
            None if !self.events.enabled && !self.think.read => {
                self.think.at = At::Unseen;
                self.hold(text);
            }
            None => {
                self.think.at = At::Text;
                self.say_held(text, out);
            }
        }
    }

    fn hold(&mut self, text: &str) {
        self.think.held.push_str(text);
        append_logprobs(&mut self.think.logprobs, &std::mem::take(&mut self.logprobs));
    }

    /// Says text of which a part was held.
    fn say_held(&mut self, text: &str, out: &mut Vec<u8>) {
        let mut logprobs = std::mem::take(&mut self.think.logprobs);
        if !logprobs.is_empty() {
            append_logprobs(&mut logprobs, &self.logprobs);
            self.logprobs = logprobs;
        }
        self.say(Channel::Text, text, out);
    }

    fn reason(&mut self, text: &str, out: &mut Vec<u8>) {
        self.think.logprobs.clear();
        if let Some(assumed) = &mut self.think.assumed {
            assumed.push_str(text);
        }
        self.say(Channel::Reasoning, text, out);
    }
}

/// How a text begins, behind white space.
#[derive(Debug, PartialEq, Eq)]
enum Beginning<'a> {
    /// With a tag that opens a block; what stands behind it.
    Opens(&'static Tag, &'a str),
    /// With a tag that closes one, or with a mark behind one.
    Closes(&'a str),
    /// With what may become a tag.
    May,
    /// With text.
    Text,
}

fn beginning(text: &str) -> Beginning<'_> {
    let text = trim_start(text);
    let mut may = text.is_empty();
    for tag in &TAGS {
        match opens(tag, text) {
            Match::Whole(behind) => return Beginning::Opens(tag, behind),
            Match::Part => may = true,
            Match::No => {}
        }
    }
    for mark in TAGS.iter().map(|tag| tag.close).chain(BETWEEN) {
        match matches(mark, text) {
            Match::Whole(behind) => return Beginning::Closes(behind),
            Match::Part => may = true,
            Match::No => {}
        }
    }
    if may { Beginning::May } else { Beginning::Text }
}

/// Whether a text begins with the opening tag, which may have attributes.
fn opens<'a>(tag: &Tag, text: &'a str) -> Match<'a> {
    let name = tag.open.strip_suffix('>').filter(|name| !name.ends_with('|'));
    let (Match::No, Some(name)) = (matches(tag.open, text), name) else { return matches(tag.open, text) };
    let Match::Whole(rest) = matches(name, text) else { return Match::No };
    if !next(rest, 0).is_some_and(|(c, _)| c.is_ascii_whitespace()) {
        return Match::No;
    }
    let (mut at, mut assigns) = (0, false);
    while let Some((c, behind)) = next(rest, at) {
        match c {
            '>' if assigns => return Match::Whole(rest.get(behind..).unwrap_or_default()),
            '>' | '<' | '\n' => return Match::No,
            _ if behind > LONGEST_ATTRIBUTES => return Match::No,
            _ => assigns |= c == '=',
        }
        at = behind;
    }
    Match::Part
}

/// What follows the text of a block.
enum Then<'a> {
    Closes(&'a str),
    /// What may be the beginning of the closing tag, with the white space before; empty: nothing.
    Waits(&'a str),
}

/// The text of a block up to its closing tag, without the white space before that.
fn block<'a>(text: &'a str, close: &str) -> (&'a str, Then<'a>) {
    let (mut at, mut blank) = (0, None);
    while let Some((c, behind)) = next(text, at) {
        if c.is_ascii_whitespace() {
            blank.get_or_insert(at);
        } else {
            let end = blank.take().unwrap_or(at);
            if close.starts_with(c) {
                match matches(close, text.get(at..).unwrap_or_default()) {
                    Match::Whole(behind) => {
                        return (text.get(..end).unwrap_or_default(), Then::Closes(behind));
                    }
                    Match::Part => return split(text, end),
                    Match::No => {}
                }
            }
        }
        at = behind;
    }
    split(text, blank.filter(|blank| at - blank <= LONGEST_BLANK).unwrap_or(at))
}

fn split(text: &str, at: usize) -> (&str, Then<'_>) {
    let (inside, waits) = text.split_at_checked(at).unwrap_or((text, ""));
    (inside, Then::Waits(waits))
}

/// The two sides of a closing tag whose opening one stands in the prompt. It ends a line or a sentence there; in text
/// that speaks of it, it stands in quotes, in code, or among other words.
fn unopened(text: &str) -> Option<(&str, &str)> {
    if !text.contains("think") && !text.contains("THINK") {
        return None;
    }
    let (mut at, mut before, mut fences, mut in_code) = (0, '\n', 0, false);
    while let Some((c, behind)) = next(text, at) {
        if c == '`' {
            fences += 1;
        } else {
            in_code ^= fences >= 3;
            fences = 0;
        }
        let rest = text.get(at..).unwrap_or_default();
        for tag in TAGS.iter().filter(|tag| tag.open.starts_with(c) || tag.close.starts_with(c)) {
            if let Match::Whole(_) = matches(tag.open, rest) {
                return None;
            }
            let ends = before == '\n' || before.is_alphanumeric() || ".!?:;)]}…。！？".contains(before);
            if let Match::Whole(behind) = matches(tag.close, rest)
                && ends
                && !in_code
            {
                let spoken_of = next(behind, 0).is_some_and(|(c, _)| "`'\"),.;".contains(c));
                return (!spoken_of).then(|| (text.get(..at).unwrap_or_default(), behind));
            }
        }
        before = c;
        at = behind;
    }
    None
}

enum Match<'a> {
    /// All of it is there; what stands behind it.
    Whole(&'a str),
    /// The text ends within it.
    Part,
    No,
}

/// Whether an escaped text begins with `mark`, whatever its letters' case.
fn matches<'a>(mark: &str, text: &'a str) -> Match<'a> {
    let mut at = 0;
    for wanted in mark.chars() {
        match next(text, at) {
            None => return Match::Part,
            Some((c, behind)) if c.eq_ignore_ascii_case(&wanted) => at = behind,
            Some(_) => return Match::No,
        }
    }
    Match::Whole(text.get(at..).unwrap_or_default())
}
