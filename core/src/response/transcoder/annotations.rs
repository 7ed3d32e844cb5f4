//! Owns the annotations of a text as Chat Completions servers send them: their sorts, each flat as Responses has it, and
//! when their text is open. It must not change where they point.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::response::transcoder::Transcoder;
use crate::response::transcoder::bounds::MOST_ITEMS;
use crate::response::transcoder::text::Channel;
use crate::wire::json::{compact, decode, members};
use crate::wire::trusted_json::first_elements;

/// The members that an annotation of a sort has, and what stands for one that is absent; without one it cannot be.
type Members = &'static [(&'static str, Option<&'static str>)];

/// The sorts that clients know.
const SORTS: [(&str, Members); 4] = [
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
    /// Takes the annotations of a text, which may come before it.
    pub(super) fn annotate(&mut self, raw: &RawValue, out: &mut Vec<u8>) {
        let (annotations, count) = first_elements(raw.get(), MOST_ITEMS).unwrap_or_default();
        self.dropped += (count - annotations.len()) as u64;
        for annotation in annotations {
            match flat(annotation) {
                Some(annotation) => self.annotations.push(annotation),
                None => self.dropped += 1,
            }
        }
        self.put_annotations(out);
    }

    /// Sends what waits, if its text is open.
    pub(super) fn put_annotations(&mut self, out: &mut Vec<u8>) {
        if let Some(open) = &mut self.open
            && open.takes_annotations()
        {
            for annotation in self.annotations.drain(..) {
                // some servers tell all of them with every chunk
                if !open.is_annotated(&annotation) {
                    open.annotate(&mut self.events, out, &annotation);
                }
            }
        }
    }

    /// Whether annotations wait for their text.
    pub(super) fn owes_annotations(&self, channel: Channel) -> bool {
        channel == Channel::Text && !self.annotations.is_empty()
    }
}

/// An annotation in one level, with every member that its sort has.
fn flat(raw: &RawValue) -> Option<String> {
    let outer = members(raw.get())?;
    let find = |among: &[(Cow<'_, str>, &'_ RawValue)], name: &str| {
        among.iter().find(|(key, _)| key == name).map(|(_, value)| value.get().to_owned())
    };
    let named = outer.iter().find(|(key, _)| key == "type").and_then(|(_, value)| decode(value));
    let (sort, wanted) = SORTS.iter().find(|(sort, _)| match &named {
        Some(named) => named == sort,
        None => outer.iter().any(|(key, _)| key == sort),
    })?;
    // OpenAI's chat API has them within a member of their own
    let inner = outer.iter().find(|(key, _)| key == sort).and_then(|(_, value)| members(value.get()));
    let inner = inner.unwrap_or_default();
    let mut flat = format!("{{\"type\":\"{sort}\"");
    for (name, absent) in *wanted {
        let number = absent.is_some_and(|absent| absent == "0");
        let told = find(&inner, name).or_else(|| find(&outer, name)).filter(|value| match number {
            true => value.parse::<u64>().is_ok(),
            false => value.starts_with('"'),
        });
        let value = told.or(absent.map(str::to_owned))?;
        flat.push_str(&format!(",\"{name}\":{}", compact(&value)));
    }
    flat.push('}');
    Some(flat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_becomes_flat() {
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
            assert_eq!(flat(raw).as_deref(), want, "{annotation}");
        }
    }
}
