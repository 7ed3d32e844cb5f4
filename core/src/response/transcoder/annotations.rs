//! Owns annotations as Chat Completions servers send them: their types, their flat form in Responses, when their text
//! is open, and the numbered sources that a text cites. It must not change the positions that annotations point to.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::response::channel::Channel;
use crate::response::transcoder::Transcoder;
use crate::response::transcoder::bounds::MOST_ITEMS;
use crate::wire::json::{self, decode, members, minify};
use crate::wire::trusted_json::{fields, first_elements};

/// The members of an annotation type, each with the default for an absent one. A member without a default is required.
type Members = &'static [(&'static str, Option<&'static str>)];

/// Title of a source that has none, as JSON.
const NO_TITLE: &str = r#""""#;

/// The annotation types that clients know.
const TYPES: [(&str, Members); 4] = [
    (
        "url_citation",
        &[("start_index", Some("0")), ("end_index", Some("0")), ("url", None), ("title", Some("\"\""))],
    ),
    ("file_citation", &[("index", Some("0")), ("file_id", None), ("filename", Some("\"\""))]),
    (
        "container_file_citation",
        &[
            ("start_index", Some("0")),
            ("end_index", Some("0")),
            ("container_id", None),
            ("file_id", None),
            ("filename", Some("\"\"")),
        ],
    ),
    ("file_path", &[("index", Some("0")), ("file_id", None)]),
];

impl Transcoder {
    /// Processes the annotations of a text; they may precede it.
    pub(super) fn annotate(&mut self, raw: &RawValue, out: &mut Vec<u8>) {
        let (annotations, count) = first_elements(raw.get(), MOST_ITEMS).unwrap_or_default();
        self.dropped += (count - annotations.len()) as u64;
        for annotation in annotations {
            match flattened(annotation) {
                Some(annotation) => self.annotations.push(annotation),
                None => self.dropped += 1,
            }
        }
        self.send_annotations(out);
    }

    /// Turns the sources beside a finished text (Perplexity) into annotations: each number in brackets, such as `[1]`,
    /// cites one. A source that no number refers to is left out, because nothing tells which words it supports.
    pub(super) fn annotate_sources(&mut self, chunk: &str, out: &mut Vec<u8>) {
        let Some(sources) = sources(chunk) else { return };
        self.end_think(out);
        let Some(open) = self.open.as_mut().filter(|open| open.takes_annotations()) else { return };
        // a server that sends positions itself knows them better
        if open.annotated() > 0 {
            return;
        }
        let text = json::unescape(&open.text).unwrap_or_default();
        for (start, end, number) in citation_marks(&text).into_iter().take(MOST_ITEMS) {
            if let Some(Source { url, title }) =
                number.checked_sub(1).and_then(|at| sources.get(at)?.as_ref())
            {
                let annotation = format!(
                    "{{\"type\":\"url_citation\",\"start_index\":{start},\"end_index\":{end},\"url\":{url},\"title\":{title}}}"
                );
                open.annotate(&mut self.events, out, &annotation);
            }
        }
    }

    /// Sends the pending annotations if their text is open.
    pub(super) fn send_annotations(&mut self, out: &mut Vec<u8>) {
        if let Some(open) = &mut self.open
            && open.takes_annotations()
        {
            for annotation in self.annotations.drain(..) {
                // some servers repeat all of them with every chunk
                if !open.is_annotated(&annotation) {
                    open.annotate(&mut self.events, out, &annotation);
                }
            }
        }
    }

    /// Whether annotations are waiting for text of this channel.
    pub(super) fn has_pending_annotations(&self, channel: Channel) -> bool {
        channel == Channel::Text && !self.annotations.is_empty()
    }
}

/// A source that a text cites by number, as JSON literals.
struct Source<'a> {
    url: &'a str,
    title: &'a str,
}

impl<'a> Source<'a> {
    /// From a URL alone, or from an object with a URL and a title.
    fn parse(raw: &'a RawValue) -> Option<Source<'a>> {
        #[derive(Deserialize)]
        struct Page<'a> {
            #[serde(borrow, default)]
            url: Option<&'a RawValue>,
            #[serde(borrow, default)]
            title: Option<&'a RawValue>,
        }
        let literal = |raw: &'a RawValue| Some(raw.get()).filter(|text| text.starts_with('"'));
        if let Some(url) = literal(raw) {
            return Some(Source { url, title: NO_TITLE });
        }
        let page: Page<'a> = fields(raw.get())?;
        Some(Source { url: literal(page.url?)?, title: page.title.and_then(literal).unwrap_or(NO_TITLE) })
    }
}

/// The sources in a chunk, ordered by number. An entry without a URL is `None`.
fn sources<'c>(chunk: &'c str) -> Option<Vec<Option<Source<'c>>>> {
    #[derive(Deserialize)]
    struct Lists<'a> {
        #[serde(borrow, default)]
        citations: Option<&'a RawValue>,
        #[serde(borrow, default)]
        search_results: Option<&'a RawValue>,
    }
    // most chunks have no sources; a search is cheaper than parsing them a second time
    let names = |name: &[u8]| memchr::memmem::find(chunk.as_bytes(), name).is_some();
    if !names(b"\"citations\"") && !names(b"\"search_results\"") {
        return None;
    }
    let lists: Lists<'_> = fields(chunk)?;
    let (results, _) =
        lists.search_results.and_then(|raw| first_elements(raw.get(), MOST_ITEMS)).unwrap_or_default();
    let results: Vec<_> = results.into_iter().map(Source::parse).collect();
    let Some((citations, _)) = lists.citations.and_then(|raw| first_elements(raw.get(), MOST_ITEMS)) else {
        return Some(results);
    };
    let titles: HashMap<&str, &'c str> =
        results.iter().flatten().map(|source| (source.url, source.title)).collect();
    let titled = |source: Source<'c>| match titles.get(source.url) {
        Some(title) if source.title == NO_TITLE => Source { title, ..source },
        _ => source,
    };
    Some(citations.into_iter().map(|raw| Source::parse(raw).map(titled)).collect())
}

/// The bracketed numbers outside code: start, end (in characters) and value of each.
fn citation_marks(text: &str) -> Vec<(usize, usize, usize)> {
    let (mut marks, mut code, mut ticks, mut opened) = (Vec::new(), 0, 0, None);
    for (at, c) in text.chars().enumerate() {
        if c == '`' {
            ticks += 1;
            continue;
        }
        if ticks > 0 {
            code = match code {
                0 => ticks,
                code if code == ticks => 0,
                code => code,
            };
            ticks = 0;
        }
        opened = match (c, opened) {
            ('[', _) if code == 0 => Some((at, 0_usize)),
            (']', Some((start, number))) if number > 0 => {
                marks.push((start, at + 1, number));
                None
            }
            (c, Some((start, number))) if number <= MOST_ITEMS => {
                c.to_digit(10).map(|digit| (start, number * 10 + digit as usize))
            }
            _ => None,
        };
    }
    marks
}

/// An annotation as one flat object with every member of its type; `None` if its type is unknown or a required member
/// is missing.
fn flattened(raw: &RawValue) -> Option<String> {
    let outer = members(raw.get())?;
    let find = |among: &[(Cow<'_, str>, &'_ RawValue)], name: &str| {
        among.iter().find(|(key, _)| key == name).map(|(_, value)| value.get().to_owned())
    };
    let named = outer.iter().find(|(key, _)| key == "type").and_then(|(_, value)| decode(value));
    let (sort, wanted) = TYPES.iter().find(|(sort, _)| match &named {
        Some(named) => named == sort,
        None => outer.iter().any(|(key, _)| key == sort),
    })?;
    // OpenAI's chat API nests them in a member named after the type
    let inner = outer.iter().find(|(key, _)| key == sort).and_then(|(_, value)| members(value.get()));
    let inner = inner.unwrap_or_default();
    let mut flat = format!("{{\"type\":\"{sort}\"");
    for (name, absent) in *wanted {
        let number = absent.is_some_and(|absent| absent == "0");
        let given = find(&inner, name).or_else(|| find(&outer, name)).filter(|value| match number {
            true => value.parse::<u64>().is_ok(),
            false => value.starts_with('"'),
        });
        let value = given.or(absent.map(str::to_owned))?;
        flat.push_str(&format!(",\"{name}\":{}", minify(&value)));
    }
    flat.push('}');
    Some(flat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_flattened() {
        for (annotation, want) in [
            (
                r#"{"type":"url_citation","url_citation":{"url":"http://a","title":"A","start_index":1,"end_index":3,"content":"x"}}"#,
                Some(r#"{"type":"url_citation","start_index":1,"end_index":3,"url":"http://a","title":"A"}"#),
            ),
            (
                r#"{"type":"url_citation","url":"http://a","start_index":1,"end_index":3}"#,
                Some(r#"{"type":"url_citation","start_index":1,"end_index":3,"url":"http://a","title":""}"#),
            ),
            (
                r#"{"url_citation":{"url":"http://a","title":null,"start_index":1.5}}"#,
                Some(r#"{"type":"url_citation","start_index":0,"end_index":0,"url":"http://a","title":""}"#),
            ),
            (
                r#"{"type":"file_citation","file_citation":{"file_id":"f"},"index":2}"#,
                Some(r#"{"type":"file_citation","index":2,"file_id":"f","filename":""}"#),
            ),
            (r#"{"type":"url_citation","url_citation":{"title":"no address"}}"#, None),
            (r#"{"type":"weather"}"#, None),
            ("[]", None),
            ("null", None),
        ] {
            let raw: &RawValue = serde_json::from_str(annotation).unwrap();
            assert_eq!(flattened(raw).as_deref(), want, "{annotation}");
        }
    }
}
