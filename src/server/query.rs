//! Owns what an address says: the segments of its path, the values of its query by name, and pages of lists. It must not know what is listed.

use std::borrow::Cow;

use http::Uri;
use percent_encoding::percent_decode_str;
use rejoinder_core::error::{Error, Kind};
use serde_json::{Value, json as value};

/// One segment of a path, as it was before it was encoded for an address.
pub fn decoded(segment: &str) -> Cow<'_, str> {
    percent_decode_str(segment).decode_utf8_lossy()
}

/// The parameters of a request's address.
#[derive(Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Reads them; `include[]` and `include[0]` are `include`.
    pub fn of(uri: &Uri) -> Query {
        let address = format!("http://localhost/?{}", uri.query().unwrap_or(""));
        let pairs = reqwest::Url::parse(&address).map(|url| {
            let name = |name: &str| name.split('[').next().unwrap_or(name).to_owned();
            url.query_pairs().map(|(key, text)| (name(&key), text.into_owned())).collect()
        });
        Query { pairs: pairs.unwrap_or_default() }
    }

    /// The first value of that name; `None` where it is absent or empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        let mut found = self.pairs.iter().filter(|(key, _)| key == name);
        found.next().map(|(_, text)| text.as_str()).filter(|text| !text.is_empty())
    }

    /// A boolean parameter (`true`, `false`, `1`, `0`); `None` where it is absent or empty.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, Error> {
        match self.text(name) {
            None => Ok(None),
            Some("true" | "True" | "1") => Ok(Some(true)),
            Some("false" | "False" | "0") => Ok(Some(false)),
            Some(other) => Err(invalid(name, other, "'true' or 'false'")),
        }
    }

    /// A whole number from `min` to `max`; `None` where it is absent or empty.
    pub fn integer(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Error> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(invalid(name, text, &format!("a whole number from {min} to {max}"))),
        }
    }
}

fn invalid(name: &str, found: &str, expected: &str) -> Error {
    let message = format!("Invalid value for '{name}': expected {expected}, found '{found}'.");
    Error::new(Kind::InvalidValue, message).param(name)
}

/// Which part of a list is wanted (`limit` 1 to 100, newest first unless asked otherwise).
#[derive(Debug)]
pub struct Page {
    limit: usize,
    ascending: bool,
    after: Option<String>,
    /// Whether `include` names `message.input_image.image_url`.
    pub images: bool,
}

impl Page {
    /// # Errors
    /// 400 for a value out of bounds.
    pub fn read(query: &Query) -> Result<Page, Error> {
        Ok(Page {
            limit: query.integer("limit", 1, 100)?.unwrap_or(20) as usize,
            ascending: match query.text("order") {
                None | Some("desc") => false,
                Some("asc") => true,
                Some(other) => return Err(invalid("order", other, "'asc' or 'desc'")),
            },
            after: query.text("after").map(str::to_owned),
            images: query.pairs.iter().any(|(key, text)| {
                key == "include" && text.split(',').any(|name| name == "message.input_image.image_url")
            }),
        })
    }

    /// The page of `items` (id and item, the oldest first) as a list object.
    ///
    /// # Errors
    /// 400 for an `after` that is not among them.
    pub fn list(&self, mut items: Vec<(String, Value)>) -> Result<Value, Error> {
        if !self.ascending {
            items.reverse();
        }
        if let Some(after) = &self.after {
            let at = items.iter().position(|(id, _)| id == after).ok_or_else(|| {
                let message = format!("Invalid value for 'after': no item with id '{after}' in this list.");
                Error::new(Kind::InvalidValue, message).param("after")
            })?;
            items.drain(..=at);
        }
        let has_more = items.len() > self.limit;
        items.truncate(self.limit);
        let id = |item: Option<&(String, Value)>| item.map(|(id, _)| id.clone());
        let (first, last) = (id(items.first()), id(items.last()));
        let data: Vec<Value> = items.into_iter().map(|(_, item)| item).collect();
        Ok(value!({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more}))
    }
}
