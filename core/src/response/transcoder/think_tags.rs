//! Owns the tags around reasoning, and finding them in escaped text. It must not hold or send any text.

use crate::wire::escaped::{next, trim_start};

/// The tags before and after a block of reasoning.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) open: &'static str,
    pub(super) close: &'static str,
}

/// The tags that models write, according to their chat templates and to the parsers of vLLM, SGLang and llama.cpp.
pub(super) static TAGS: [Tag; 11] = [
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

/// Longest attributes of an opening tag, in bytes.
const LONGEST_ATTRIBUTES: usize = 128;

/// Longest white space that waits for a tag, in bytes, so that a model that writes only white space is not read over
/// and over.
pub(super) const LONGEST_BLANK: usize = 256;

/// How a text begins, after white space.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beginning<'a> {
    /// With an opening tag; holds the text after it.
    Opens(&'static Tag, &'a str),
    /// With a closing tag, or with a mark that follows a block; holds the text after it.
    Closes(&'a str),
    /// With what may become a tag.
    MayBeTag,
    /// With text.
    Text,
}

/// How an escaped text begins, after white space.
pub(super) fn beginning(text: &str) -> Beginning<'_> {
    let text = trim_start(text);
    let mut may = text.is_empty();
    for tag in &TAGS {
        match opens(tag, text) {
            Match::Whole(after) => return Beginning::Opens(tag, after),
            Match::Part => may = true,
            Match::No => {}
        }
    }
    for mark in TAGS.iter().map(|tag| tag.close).chain(BETWEEN) {
        match matches(mark, text) {
            Match::Whole(after) => return Beginning::Closes(after),
            Match::Part => may = true,
            Match::No => {}
        }
    }
    if may { Beginning::MayBeTag } else { Beginning::Text }
}

/// Whether an escaped text begins with the opening tag, which may have attributes.
fn opens<'a>(tag: &Tag, text: &'a str) -> Match<'a> {
    let name = tag.open.strip_suffix('>').filter(|name| !name.ends_with('|'));
    let (Match::No, Some(name)) = (matches(tag.open, text), name) else { return matches(tag.open, text) };
    let Match::Whole(rest) = matches(name, text) else { return Match::No };
    if !next(rest, 0).is_some_and(|(c, _)| c.is_ascii_whitespace()) {
        return Match::No;
    }
    let (mut at, mut assigns) = (0, false);
    while let Some((c, after)) = next(rest, at) {
        match c {
            '>' if assigns => return Match::Whole(rest.get(after..).unwrap_or_default()),
            '>' | '<' | '\n' => return Match::No,
            _ if after > LONGEST_ATTRIBUTES => return Match::No,
            _ => assigns |= c == '=',
        }
        at = after;
    }
    Match::Part
}

/// What follows the text of a block.
pub(super) enum BlockEnd<'a> {
    Closes(&'a str),
    /// The possible beginning of the closing tag, with the white space before it; may be empty.
    Waits(&'a str),
}

/// The text of a block up to its closing tag, without the white space before that tag.
pub(super) fn block<'a>(text: &'a str, close: &str) -> (&'a str, BlockEnd<'a>) {
    let (mut at, mut blank) = (0, None);
    while let Some((c, after)) = next(text, at) {
        if c.is_ascii_whitespace() {
            blank.get_or_insert(at);
        } else {
            let end = blank.take().unwrap_or(at);
            if close.starts_with(c) {
                match matches(close, text.get(at..).unwrap_or_default()) {
                    Match::Whole(after) => {
                        return (text.get(..end).unwrap_or_default(), BlockEnd::Closes(after));
                    }
                    Match::Part => return split(text, end),
                    Match::No => {}
                }
            }
        }
        at = after;
    }
    split(text, blank.filter(|blank| at - blank <= LONGEST_BLANK).unwrap_or(at))
}

fn split(text: &str, at: usize) -> (&str, BlockEnd<'_>) {
    let (inside, waits) = text.split_at_checked(at).unwrap_or((text, ""));
    (inside, BlockEnd::Waits(waits))
}

/// The text before and after a closing tag whose opening tag is in the prompt. A real closing tag follows the end of a
/// line or a sentence; in text that talks about tags it stands in quotes, in code, or among other words.
pub(super) fn split_unopened(text: &str) -> Option<(&str, &str)> {
    if !text.contains("think") && !text.contains("THINK") {
        return None;
    }
    let (mut at, mut before, mut fences, mut in_code) = (0, '\n', 0, false);
    while let Some((c, after)) = next(text, at) {
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
            if let Match::Whole(after) = matches(tag.close, rest)
                && ends
                && !in_code
            {
                let spoken_of = next(after, 0).is_some_and(|(c, _)| "`'\"),.;".contains(c));
                return (!spoken_of).then(|| (text.get(..at).unwrap_or_default(), after));
            }
        }
        before = c;
        at = after;
    }
    None
}

/// How a text compares with a mark.
pub(super) enum Match<'a> {
    /// The text begins with all of it; holds what follows.
    Whole(&'a str),
    /// The text ends inside it.
    Part,
    No,
}

/// Whether an escaped text begins with `mark`, ignoring ASCII case.
pub(super) fn matches<'a>(mark: &str, text: &'a str) -> Match<'a> {
    let mut at = 0;
    for wanted in mark.chars() {
        match next(text, at) {
            None => return Match::Part,
            Some((c, after)) if c.eq_ignore_ascii_case(&wanted) => at = after,
            Some(_) => return Match::No,
        }
    }
    Match::Whole(text.get(at..).unwrap_or_default())
}
