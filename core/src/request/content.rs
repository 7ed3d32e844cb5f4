//! Owns the parts of a message: what `input_text`, `input_image`, `input_file` and similar parts become in a chat
//! message. It must not know about roles or order.

use std::borrow::Cow;

use base64::Engine as _;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::fields::{beginning, present};
use crate::notes::Notes;
use crate::request::plain_text;
use crate::wire::quoted::Quoted;
use crate::wire::request::Part;
use crate::wire::{json, trusted_json};

/// One part of a chat message. Texts are escaped JSON.
#[derive(Debug, Clone)]
pub enum Piece<'a> {
    /// Text of any origin.
    Text(Cow<'a, str>),
    /// An image, given as a URL or data URL.
    Image {
        /// The URL, escaped.
        url: Cow<'a, str>,
        /// `low`, `high` or `auto`.
        detail: Option<&'static str>,
    },
    /// JSON shown as text: a value that is too wide or too long to be rewritten.
    Quoted(Quoted<'a>),
    /// An `input_audio` object, passed on unchanged.
    Audio(&'a RawValue),
}

impl<'a> Piece<'a> {
    /// A text piece from unescaped text.
    pub fn owned(text: &str) -> Piece<'a> {
        Piece::Text(Cow::Owned(json::escape(text).into_owned()))
    }

    /// The piece as text: a note in place of an image or audio.
    pub fn into_text(self) -> Piece<'a> {
        match self {
            Piece::Text(_) | Piece::Quoted(_) => self,
            Piece::Image { .. } => Piece::Text(Cow::Borrowed("[image: it cannot be shown here]")),
            Piece::Audio(_) => Piece::Text(Cow::Borrowed("[audio: it cannot be played here]")),
        }
    }

    /// Whether the piece is text.
    pub fn is_text(&self) -> bool {
        matches!(self, Piece::Text(_) | Piece::Quoted(_))
    }

    /// Whether the piece is an empty text.
    pub fn is_empty(&self) -> bool {
        matches!(self, Piece::Text(text) if text.is_empty())
    }

    /// Appends its text, escaped; nothing if it is not text.
    pub fn push_text(&self, out: &mut Vec<u8>) {
        match self {
            Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Quoted(quoted) => quoted.push(out),
            Piece::Image { .. } | Piece::Audio(_) => {}
        }
    }

    /// Approximate length in a message, in bytes.
    pub fn length(&self) -> usize {
        match self {
            Piece::Text(text) => text.len() + 40,
            Piece::Quoted(quoted) => quoted.length() + 40,
            Piece::Image { url, .. } => url.len() + 80,
            Piece::Audio(audio) => audio.get().len() + 40,
        }
    }
}

/// The parts of `content` (a string, or an array of parts); `None` if it is neither. Unknown parts are written out as
/// text and noted: replayed history never causes an error, and no text is lost because of its form.
pub fn pieces<'a>(content: &'a RawValue, notes: &mut Notes) -> Option<Vec<Piece<'a>>> {
    if let Some(text) = json::text(content) {
        return Some(vec![Piece::Text(text)]);
    }
    // usually there is one part
    let mut pieces = Vec::with_capacity(1);
    trusted_json::objects(content.get(), &mut pieces, |raw, part| piece(raw, part, notes))?;
    Some(pieces)
}

/// Like [`pieces`], for any value: a single object is one part, and any other value becomes text.
pub fn pieces_of_any<'a>(content: &'a RawValue, notes: &mut Notes) -> Vec<Piece<'a>> {
    pieces(content, notes)
        .unwrap_or_else(|| piece(content, trusted_json::fields(content.get()), notes).into_iter().collect())
}

fn piece<'a>(raw: &'a RawValue, part: Option<Part<'a>>, notes: &mut Notes) -> Option<Piece<'a>> {
    let Some(part) = part else {
        return match json::text(raw) {
            Some(text) => Some(Piece::Text(text)),
            None if raw.get() == "null" => None,
            None => Some(of_value(raw, notes)),
        };
    };
    let kind = present(part.r#type).and_then(json::decode).unwrap_or_default();
    let read = match &*kind {
        "input_text" | "output_text" | "text" | "summary_text" | "reasoning_text" => {
            part.text.and_then(json::text).map(Piece::Text)
        }
        "refusal" => part.refusal.and_then(json::text).map(Piece::Text),
        "input_image" | "image_url" | "computer_screenshot" => image(&part),
        "input_file" | "file" => Some(file(&part, notes)),
        "input_audio" => present(part.input_audio).map(Piece::Audio),
        _ => None,
    };
    read.or_else(|| other(raw, &kind, notes))
}

/// An unknown part, or a known one without its essential member: its text if it has nothing else, an image in the form
/// of another API, or else the whole part as text.
fn other<'a>(raw: &'a RawValue, kind: &str, notes: &mut Notes) -> Option<Piece<'a>> {
    if kind == "image"
        && let Some(url) = image_of_data(raw)
    {
        notes.add("written_part", kind);
        return Some(Piece::Image { url, detail: None });
    }
    let Some(Value::Object(members)) =
        notes.may_rewrite(raw.get().len()).then(|| json::tree(raw.get())).flatten()
    else {
        // too wide or too long to be parsed
        notes.add("written_part", kind);
        return Some(Piece::Quoted(Quoted::new(raw.get())));
    };
    let text = |key: &str| members.get(key).and_then(Value::as_str);
    let at = |pointer: [&str; 2]| members.get(pointer[0])?.get(pointer[1])?.as_str();
    notes.add("written_part", kind);
    if let Some(sealed) = text("encrypted_content") {
        // Codex puts messages between sub-agents here, in plain text unless something encrypts them
        return Some(Piece::owned(if plain_text::is_ciphertext(sealed) {
            plain_text::UNREADABLE
        } else {
            sealed
        }));
    }
    if let Some(name) = kind.strip_suffix("_url") {
        let url = text(kind).or_else(|| at([kind, "url"])).filter(|url| url.starts_with("http"));
        return Some(Piece::owned(&format!("[{name}: {}]", url.unwrap_or("not available to this server"))));
    }
    let bare = |key: &String| matches!(key.as_str(), "type" | "text" | "id" | "annotations" | "logprobs");
    match text("text") {
        Some(text) if members.keys().all(bare) => Some(Piece::owned(text)),
        None if !kind.is_empty() && members.len() == 1 => {
            Some(Piece::owned(&format!("[{kind}: not available to this server]")))
        }
        _ => Some(Piece::owned(&plain_text::of_value(raw))),
    }
}

/// A JSON value as text, without the binary data in it.
fn of_value<'a>(raw: &'a RawValue, notes: &mut Notes) -> Piece<'a> {
    match notes.may_rewrite(raw.get().len()) {
        true => Piece::owned(&plain_text::of_value(raw)),
        false => Piece::Quoted(Quoted::new(raw.get())),
    }
}

/// The escaped data URL of an image in the form of MCP, or of Anthropic's Messages API.
fn image_of_data<'a>(raw: &'a RawValue) -> Option<Cow<'a, str>> {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Data<'a> {
        #[serde(borrow)]
        data: Option<&'a RawValue>,
        #[serde(borrow, rename = "mimeType")]
        mime_type: Option<&'a RawValue>,
        #[serde(borrow)]
        source: Option<&'a RawValue>,
        #[serde(borrow)]
        media_type: Option<&'a RawValue>,
    }
    let image: Data<'a> = trusted_json::fields(raw.get())?;
    let source: Data<'a> = image.source.and_then(|raw| trusted_json::fields(raw.get())).unwrap_or_default();
    let data = image.data.or(source.data).and_then(json::text)?;
    let media = image.mime_type.or(source.media_type).and_then(json::text);
    let media = media.unwrap_or(Cow::Borrowed("image/png"));
    Some(Cow::Owned(["data:", &*media, ";base64,", &*data].concat()))
}

/// An image part. `image_url` is a string in Responses, and `{url, detail}` in Chat Completions; both are accepted.
fn image<'a>(part: &Part<'a>) -> Option<Piece<'a>> {
    let given = present(part.detail);
    let Some(url) = present(part.image_url) else {
        let id = present(part.file_id).and_then(json::decode)?;
        let id = beginning(&id, NAME_BYTES);
        return Some(Piece::owned(&format!("[image {id}: not available to this server]")));
    };
    if let Some(url) = json::text(url) {
        return Some(Piece::Image { url, detail: given.and_then(detail) });
    }
    #[derive(serde::Deserialize)]
    struct ChatImage<'a> {
        #[serde(borrow)]
        url: &'a RawValue,
        #[serde(borrow, default)]
        detail: Option<&'a RawValue>,
    }
    let chat: ChatImage<'a> = serde_json::from_str(url.get()).ok()?;
    Some(Piece::Image { url: json::text(chat.url)?, detail: given.or(chat.detail).and_then(detail) })
}

/// The level of detail. Chat Completions has three, and servers refuse others (Ark, StepFun, GLM and older vLLM refuse
/// Codex's `original`), which would then fail every later turn as well.
fn detail(raw: &RawValue) -> Option<&'static str> {
    match json::decode(raw).map(|word| word.to_ascii_lowercase()).as_deref() {
        Some("low") => Some("low"),
        Some("high" | "original") => Some("high"),
        Some("auto") => Some("auto"),
        _ => None,
    }
}

/// A file part: its name and content if that is text, else only its name. Local servers do not read file formats.
fn file<'a>(part: &Part<'a>, notes: &mut Notes) -> Piece<'a> {
    let name = [part.filename, part.file_id, part.file_url]
        .into_iter()
        .find_map(|raw| present(raw).and_then(json::decode));
    let name = beginning(name.as_deref().unwrap_or("unnamed"), NAME_BYTES);
    let data = present(part.file_data);
    if data.is_some_and(|data| !notes.may_rewrite(data.get().len())) {
        return Piece::owned(&format!("[file {name}: it is too long and was left out]"));
    }
    match data.and_then(json::decode).and_then(|data| text_of(&data)) {
        Some(text) => {
            let name = name.replace('"', "'");
            Piece::owned(&format!("<file name=\"{name}\">\n{text}\n</file>"))
        }
        None => Piece::owned(&format!("[file {name}: its content is not text and was left out]")),
    }
}

/// The text in `file_data`, a data URL or plain base64. `None` if the content is binary.
fn text_of(data: &str) -> Option<String> {
    let encoded = match data.strip_prefix("data:") {
        Some(url) => {
            let (header, body) = url.split_once(',')?;
            if !header.ends_with(";base64") {
                return Some(body.to_owned());
            }
            body
        }
        None => data,
    };
    let engine = base64::engine::GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    let text = String::from_utf8(engine.decode(encoded.trim()).ok()?).ok()?;
    (!text.contains('\0')).then_some(text)
}

/// Longest part of a file name that is shown, in bytes.
const NAME_BYTES: usize = 1024;

/// Appends `content`: one string if all pieces are text, else an array of parts.
pub fn write<'p, 'a: 'p>(
    out: &mut Vec<u8>,
    pieces: impl Iterator<Item = &'p Piece<'a>> + Clone,
    separator: &str,
) {
    if pieces.clone().all(Piece::is_text) {
        return write_text(out, pieces, separator);
    }
    out.push(b'[');
    for (n, piece) in pieces.enumerate() {
        if n > 0 {
            out.push(b',');
        }
        match piece {
            Piece::Text(_) | Piece::Quoted(_) => {
                out.extend_from_slice(b"{\"type\":\"text\",\"text\":\"");
                piece.push_text(out);
                out.push(b'"');
            }
            Piece::Image { url, detail } => {
                out.extend_from_slice(b"{\"type\":\"image_url\",\"image_url\":{\"url\":");
                json::push_literal(out, url);
                if let Some(detail) = detail {
                    out.extend_from_slice(b",\"detail\":");
                    json::push_literal(out, detail);
                }
                out.push(b'}');
            }
            Piece::Audio(audio) => {
                out.extend_from_slice(b"{\"type\":\"input_audio\",\"input_audio\":");
                out.extend_from_slice(audio.get().as_bytes());
            }
        }
        out.push(b'}');
    }
    out.push(b']');
}

/// Appends text pieces as one string.
pub fn write_text<'p, 'a: 'p>(
    out: &mut Vec<u8>,
    pieces: impl Iterator<Item = &'p Piece<'a>>,
    separator: &str,
) {
    out.push(b'"');
    for (n, piece) in pieces.enumerate() {
        if n > 0 {
            out.extend_from_slice(separator.as_bytes());
        }
        piece.push_text(out);
    }
    out.push(b'"');
}
