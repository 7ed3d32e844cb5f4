//! Owns the order and roles of chat messages: where `instructions` and developer messages go, how the outputs of calls
//! follow them, and how roles alternate for templates that demand it. It must not read input items.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::options::{DeveloperMessages, PlanOptions};
use crate::request::content::{self, Piece};
use crate::request::history::{Assistant, Call, Entry, Role};
use crate::wire::json;

/// Output of an interrupted call.
pub(crate) const ABORTED: &str = "aborted";

/// Approximate length of the messages in bytes, as chat messages or as Responses items; rarely too small.
pub(super) fn length(entries: &[Entry<'_>]) -> usize {
    let all = |pieces: &[Piece<'_>]| pieces.iter().map(Piece::length).sum::<usize>();
    let call = |call: &Call<'_>| {
        let output = call.output.as_deref().map_or(0, all);
        // an output repeats the id of its call
        256 + 2 * call.id.len() + call.name.len() + call.arguments.length() + output
    };
    let entry = |entry: &Entry<'_>| match entry {
        Entry::Prompt(_, pieces) => 64 + all(pieces),
        Entry::Assistant(Assistant { text, reasoning, calls }) => {
            256 + all(text) + all(reasoning) + calls.iter().map(call).sum::<usize>()
        }
    };
    entries.iter().map(entry).sum()
}

/// Appends the `messages` array for entries made by [`arrange`].
pub(super) fn write(out: &mut Vec<u8>, entries: &[Entry<'_>], options: &PlanOptions<'_>) {
    out.push(b'[');
    let start = out.len();
    for entry in entries {
        match entry {
            Entry::Prompt(role, pieces) => write_prompt(out, start, *role, pieces),
            Entry::Assistant(assistant) => {
                write_assistant(out, start, assistant, options.dialect.reasoning_key)
            }
        }
    }
    out.push(b']');
}

/// Adapts the conversation to the server: places system and developer text, replaces images that the model cannot see,
/// joins adjacent roles. `instructions` is a JSON string literal.
pub(crate) fn arrange<'a>(
    instructions: Option<&'a RawValue>,
    entries: Vec<Entry<'a>>,
    options: &PlanOptions<'_>,
) -> Vec<Entry<'a>> {
    let mut entries = place_developer_text(instructions, entries, options.developer_messages);
    if !options.accepts_images {
        replace_images(&mut entries);
    }
    let mut entries = if options.alternate_roles { alternate(entries) } else { entries };
    // such a server would continue a trailing assistant message instead of answering it
    let unanswered = matches!(entries.last(), Some(Entry::Assistant(last)) if last.calls.is_empty());
    if unanswered && options.dialect.continues_assistant {
        entries.push(Entry::Prompt(Role::User, vec![Piece::Text(Cow::Borrowed(""))]));
    }
    entries
}

/// Replaces images by a short text if the model cannot see them, so that no base64 gets into the prompt.
fn replace_images(entries: &mut [Entry<'_>]) {
    let cover = |pieces: &mut Vec<Piece<'_>>| {
        for piece in pieces.iter_mut().filter(|piece| matches!(piece, Piece::Image { .. })) {
            *piece = Piece::Text(Cow::Borrowed("[image: this model cannot see images]"));
        }
    };
    for entry in entries {
        match entry {
            Entry::Prompt(_, pieces) => cover(pieces),
            Entry::Assistant(assistant) => {
                assistant.calls.iter_mut().filter_map(|call| call.output.as_mut()).for_each(cover);
            }
        }
    }
}

/// Places system and developer text as the mode demands. In every mode the first message depends only on the beginning
/// of the history (with `all`, on all its developer messages), and nothing else moves.
fn place_developer_text<'a>(
    instructions: Option<&'a RawValue>,
    entries: Vec<Entry<'a>>,
    mode: DeveloperMessages,
) -> Vec<Entry<'a>> {
    let moves = |entry: &Entry<'_>| matches!(entry, Entry::Prompt(Role::System | Role::Developer, _));
    if instructions.is_none() && !entries.iter().any(moves) {
        return entries;
    }
    let mut first: Vec<Piece<'a>> = Vec::new();
    first.extend(instructions.and_then(json::text).filter(|text| !text.is_empty()).map(Piece::Text));
    let mut rest: Vec<Entry<'a>> = Vec::with_capacity(entries.len() + 1);
    for entry in entries {
        match entry {
            Entry::Prompt(Role::System | Role::Developer, pieces)
                if mode == DeveloperMessages::All
                    || (mode == DeveloperMessages::Leading && rest.is_empty()) =>
            {
                // an empty piece separates messages by a blank line
                if !first.is_empty() {
                    first.push(Piece::Text(Cow::Borrowed("")));
                }
                first.extend(pieces.into_iter().map(Piece::into_text));
            }
            Entry::Prompt(_, pieces) if mode == DeveloperMessages::Leading => {
                rest.push(Entry::Prompt(Role::User, pieces));
            }
            other => rest.push(other),
        }
    }
    if !first.is_empty() {
        // it is text only: templates do not support images there
        rest.insert(0, Entry::Prompt(Role::System, first));
    }
    rest
}

/// Joins adjacent messages of one role. Two assistant entries are adjacent only if the first one has no calls, because
/// outputs follow calls.
fn alternate(entries: Vec<Entry<'_>>) -> Vec<Entry<'_>> {
    let mut joined: Vec<Entry<'_>> = Vec::with_capacity(entries.len());
    for entry in entries {
        match (joined.last_mut(), entry) {
            (Some(Entry::Prompt(last, into)), Entry::Prompt(role, pieces)) if *last == role => {
                into.push(Piece::Text(Cow::Borrowed("")));
                into.extend(pieces);
            }
            (Some(Entry::Assistant(last)), Entry::Assistant(next)) if last.calls.is_empty() => {
                last.append_text(next.text);
                last.reasoning.extend(next.reasoning);
                last.calls.extend(next.calls);
            }
            (_, entry) => joined.push(entry),
        }
    }
    joined
}

fn write_prompt(out: &mut Vec<u8>, start: usize, role: Role, pieces: &[Piece<'_>]) {
    begin(out, start, role.name());
    out.extend_from_slice(b",\"content\":");
    content::write(out, pieces.iter(), "\\n");
    out.push(b'}');
}

/// Appends one assistant message, then the outputs of its calls in order, then the images in those outputs.
fn write_assistant(out: &mut Vec<u8>, start: usize, assistant: &Assistant<'_>, reasoning_key: &str) {
    begin(out, start, "assistant");
    out.extend_from_slice(b",\"content\":");
    if assistant.text.iter().all(Piece::is_empty) {
        out.extend_from_slice(b"null");
    } else {
        content::write_text(out, assistant.text.iter(), "");
    }
    if !assistant.reasoning.is_empty() {
        out.push(b',');
        json::push_string(out, reasoning_key);
        out.push(b':');
        content::write_text(out, assistant.reasoning.iter(), "\\n\\n");
    }
    for (n, call) in assistant.calls.iter().enumerate() {
        out.extend_from_slice(if n == 0 { b",\"tool_calls\":[" } else { b"," });
        out.extend_from_slice(b"{\"id\":");
        json::push_literal(out, &call.id);
        out.extend_from_slice(b",\"type\":\"function\",\"function\":{\"name\":");
        json::push_literal(out, &call.name);
        out.extend_from_slice(b",\"arguments\":\"");
        call.arguments.push_text(out);
        out.extend_from_slice(b"\"}}");
    }
    if !assistant.calls.is_empty() {
        out.push(b']');
    }
    out.push(b'}');

    let mut images: Vec<Piece<'_>> = Vec::new();
    for call in &assistant.calls {
        begin(out, start, "tool");
        out.extend_from_slice(b",\"tool_call_id\":");
        json::push_literal(out, &call.id);
        out.extend_from_slice(b",\"content\":");
        match &call.output {
            None => json::push_string(out, ABORTED),
            Some(pieces) => write_output(out, pieces, &call.id, &mut images),
        }
        out.push(b'}');
    }
    if !images.is_empty() {
        write_prompt(out, start, Role::User, &images);
    }
}

/// Appends the output of a call as one string. Images, which a string cannot contain, are added to `images`.
pub(crate) fn write_output<'a>(
    out: &mut Vec<u8>,
    pieces: &[Piece<'a>],
    id: &str,
    images: &mut Vec<Piece<'a>>,
) {
    let shown = pieces.iter().filter(|piece| piece.is_text());
    let others = pieces.iter().filter(|piece| !piece.is_text());
    if others.clone().next().is_none() {
        return content::write_text(out, shown, "\\n");
    }
    let elsewhere = Piece::Text(Cow::Borrowed("[see the next user message for the image]"));
    content::write_text(out, shown.chain([&elsewhere]), "\\n");
    images.push(Piece::Text(Cow::Owned(format!("[Image from tool call {id}]"))));
    images.extend(others.cloned());
}

fn begin(out: &mut Vec<u8>, start: usize, role: &str) {
    if out.len() > start {
        out.push(b',');
    }
    out.extend_from_slice(b"{\"role\":");
    json::push_string(out, role);
}
