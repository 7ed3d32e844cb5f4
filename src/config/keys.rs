//! Owns the table of keys and what a single value of each may be. It must not know where a value came from, nor
//! compare two keys.

use std::net::SocketAddr;
use std::time::Duration;

use figment::value::Value;
use humantime_serde::re::humantime;
use rejoinder_core::options::is_wrapper;
use rejoinder_core::quirk::Quirk;
use reqwest::Url;
use serde::de::DeserializeOwned;
use serde::de::value::StrDeserializer;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::telemetry::fraction;
use super::{
    Api, AuthMode, ClientAddressHeader, ClientCertificates, DeveloperMessages, DialectChoice, FoundTools,
    LogFormat, MetricNames, ProxyProtocol, ReasoningDisplay, SealReasoning, Switch, ThinkTags, read_budgets,
    read_efforts, read_network, url,
};

/// One key of the configuration.
pub(super) struct Key {
    /// Dotted name, as in `upstream.url`.
    pub name: &'static str,
    kind: Kind,
}

enum Kind {
    Address,
    Bool,
    Bytes,
    /// A whole number from 1 on.
    Count,
    /// Text that a function finds nothing wrong with.
    Checked(fn(&str) -> Result<(), String>),
    Choice(fn(&str) -> Result<(), Choices>),
    /// A duration that may be zero.
    Delay,
    Duration,
    Filter,
    Fraction,
    /// Texts that a function finds nothing wrong with; none at all is a value, too.
    List(fn(&str) -> Result<(), String>),
    Names,
    Path,
    Table,
    Text,
    Url,
}

/// The names an enum accepts.
type Choices = &'static [&'static str];

/// Every key, in the order of `config/rejoinder.toml`.
pub(super) static KEYS: &[Key] = &[
    Key { name: "listen", kind: Kind::Address },
    Key { name: "admin", kind: Kind::Address },
    Key { name: "allowed_hosts", kind: Kind::List(host) },
    Key { name: "trusted_proxies", kind: Kind::List(network) },
    Key { name: "client_address_header", kind: Kind::Choice(choice::<ClientAddressHeader>) },
    Key { name: "proxy_protocol", kind: Kind::Choice(choice::<ProxyProtocol>) },
    Key { name: "max_connections", kind: Kind::Count },
    Key { name: "max_connections_per_address", kind: Kind::Count },
    Key { name: "max_open_streams", kind: Kind::Count },
    Key { name: "stream_buffer_bytes", kind: Kind::Bytes },
    Key { name: "default_model", kind: Kind::Text },
    Key { name: "reasoning", kind: Kind::Choice(choice::<ReasoningDisplay>) },
    Key { name: "seal_reasoning", kind: Kind::Choice(choice::<SealReasoning>) },
    Key { name: "developer_messages", kind: Kind::Choice(choice::<DeveloperMessages>) },
    Key { name: "max_body_bytes", kind: Kind::Bytes },
    Key { name: "max_buffered_bytes", kind: Kind::Bytes },
    Key { name: "buffer_timeout", kind: Kind::Duration },
    Key { name: "body_timeout", kind: Kind::Duration },
    Key { name: "send_timeout", kind: Kind::Duration },
    Key { name: "commit_after", kind: Kind::Duration },
    Key { name: "heartbeat", kind: Kind::Duration },
    Key { name: "in_progress_after", kind: Kind::Duration },
    Key { name: "drain_delay", kind: Kind::Delay },
    Key { name: "drain_timeout", kind: Kind::Duration },
    Key { name: "keys_file", kind: Kind::Path },
    Key { name: "tls.certificate", kind: Kind::Path },
    Key { name: "tls.key", kind: Kind::Path },
    Key { name: "tls.client_ca", kind: Kind::Path },
    Key { name: "tls.client_certificates", kind: Kind::Choice(choice::<ClientCertificates>) },
    Key { name: "tls.admin", kind: Kind::Bool },
    Key { name: "auth.mode", kind: Kind::Choice(choice::<AuthMode>) },
    Key { name: "auth.keys_file", kind: Kind::Path },
    Key { name: "auth.allow_remote", kind: Kind::Bool },
    Key { name: "cors.origins", kind: Kind::List(origin) },
    Key { name: "passthrough.paths", kind: Kind::List(path) },
    Key { name: "websocket.enabled", kind: Kind::Bool },
    Key { name: "websocket.max_pending", kind: Kind::Count },
    Key { name: "websocket.max_age", kind: Kind::Duration },
    Key { name: "websocket.idle_timeout", kind: Kind::Duration },
    Key { name: "websocket.ping_interval", kind: Kind::Duration },
    Key { name: "websocket.memory_max_bytes", kind: Kind::Bytes },
    Key { name: "upstream.url", kind: Kind::Url },
    Key { name: "upstream.models", kind: Kind::Names },
    Key { name: "upstream.weight", kind: Kind::Count },
    Key { name: "upstream.max_in_flight", kind: Kind::Count },
    Key { name: "upstream.dialect", kind: Kind::Choice(choice::<DialectChoice>) },
    Key { name: "upstream.api", kind: Kind::Choice(choice::<Api>) },
    Key { name: "upstream.api_key_file", kind: Kind::Path },
    Key { name: "upstream.forward_authorization", kind: Kind::Bool },
    Key { name: "upstream.alternate_roles", kind: Kind::Choice(choice::<Switch>) },
    Key { name: "upstream.think_tags", kind: Kind::Choice(choice::<ThinkTags>) },
    Key { name: "upstream.images", kind: Kind::Choice(choice::<Switch>) },
    Key { name: "upstream.reasoning_budget_tokens", kind: Kind::Checked(budgets) },
    Key { name: "upstream.reasoning_efforts", kind: Kind::Checked(efforts) },
    Key { name: "upstream.extra_body", kind: Kind::Table },
    Key { name: "upstream.pin_slots", kind: Kind::Bool },
    Key { name: "upstream.slot_save", kind: Kind::Bool },
    Key { name: "upstream.slot_save_dir", kind: Kind::Path },
    Key { name: "upstream.slot_save_after", kind: Kind::Duration },
    Key { name: "upstream.slot_save_max_files", kind: Kind::Count },
    Key { name: "upstream.slot_save_max_bytes", kind: Kind::Bytes },
    Key { name: "upstream.ready_timeout", kind: Kind::Duration },
    Key { name: "upstream.max_waiting", kind: Kind::Count },
    Key { name: "upstream.stall_timeout", kind: Kind::Duration },
    Key { name: "upstream.connect_timeout", kind: Kind::Duration },
    Key { name: "upstream.response_timeout", kind: Kind::Duration },
    Key { name: "upstream.idle_timeout", kind: Kind::Duration },
    Key { name: "upstream.probe_interval", kind: Kind::Duration },
    Key { name: "store.url", kind: Kind::Checked(store_url) },
    Key { name: "store.ttl", kind: Kind::Duration },
    Key { name: "store.max_entries", kind: Kind::Count },
    Key { name: "store.max_bytes", kind: Kind::Bytes },
    Key { name: "store.max_turns", kind: Kind::Count },
    Key { name: "store.timeout", kind: Kind::Duration },
    Key { name: "store.seal", kind: Kind::Bool },
    Key { name: "store.resume_window", kind: Kind::Duration },
    Key { name: "store.replay_window", kind: Kind::Duration },
    Key { name: "store.replay_max_bytes", kind: Kind::Bytes },
    Key { name: "store.replay_total_bytes", kind: Kind::Bytes },
    Key { name: "store.lease", kind: Kind::Duration },
    Key { name: "tools.web_search_wrapper", kind: Kind::Checked(wrapper) },
    Key { name: "tools.file_search_wrapper", kind: Kind::Checked(wrapper) },
    Key { name: "tools.disabled_quirks", kind: Kind::Checked(quirks) },
    Key { name: "tools.found_tools", kind: Kind::Choice(choice::<FoundTools>) },
    Key { name: "limits.depth", kind: Kind::Count },
    Key { name: "limits.items", kind: Kind::Count },
    Key { name: "limits.parts", kind: Kind::Count },
    Key { name: "limits.tools", kind: Kind::Count },
    Key { name: "limits.name_bytes", kind: Kind::Count },
    Key { name: "limits.allowed_tools", kind: Kind::Count },
    Key { name: "limits.include", kind: Kind::Count },
    Key { name: "limits.metadata", kind: Kind::Count },
    Key { name: "limits.call_id_bytes", kind: Kind::Count },
    Key { name: "limits.rewritten_bytes", kind: Kind::Count },
    Key { name: "ui.page", kind: Kind::Choice(choice::<Switch>) },
    Key { name: "log.level", kind: Kind::Filter },
    Key { name: "log.format", kind: Kind::Choice(choice::<LogFormat>) },
    Key { name: "metrics.names", kind: Kind::Choice(choice::<MetricNames>) },
    Key { name: "traces.endpoint", kind: Kind::Url },
    Key { name: "traces.sample", kind: Kind::Fraction },
];

impl Key {
    /// The key of that dotted name.
    pub(super) fn named(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The variable that sets this key.
    pub(super) fn variable(&self) -> String {
        format!("REJOINDER_{}", self.name.replace('.', "__").to_uppercase())
    }

    /// The value as [`Config`](super::Config) deserializes it. A string stands for any type (variables and flags
    /// have no others), and a key that holds a string takes nothing else.
    pub(super) fn read(&self, value: &Value) -> Result<Value, String> {
        let text = value.as_str();
        match &self.kind {
            Kind::Address => text
                .and_then(|text| text.parse::<SocketAddr>().ok())
                .map(|address| address.to_string().into())
                .ok_or_else(|| expected("an IP address with a port such as \"127.0.0.1:8081\"", value)),
            Kind::Bool => value
                .to_bool()
                .or_else(|| text?.parse().ok())
                .map(Value::from)
                .ok_or_else(|| expected("true or false", value)),
            Kind::Bytes => read_bytes(value),
            Kind::Count => match whole_number(value) {
                Some(0) => Err("must be at least 1".to_owned()),
                Some(number) => Ok(number.into()),
                None => Err(expected("a whole number such as 1000", value)),
            },
            Kind::Checked(check) => match text {
                Some(text) => check(text).map(|()| value.clone()),
                None => Err(expected("text in quotes", value)),
            },
            Kind::Choice(choice) => match text.map(choice) {
                Some(Ok(())) => Ok(value.clone()),
                Some(Err(choices)) => Err(expected(&one_of(choices), value)),
                None => Err(expected(&one_of(choice("").err().unwrap_or_default()), value)),
            },
            Kind::Delay => read_delay(value),
            Kind::Duration => match read_delay(value)?.as_str().map(humantime::parse_duration) {
                Some(Ok(Duration::ZERO)) => Err("must be longer than zero".to_owned()),
                _ => Ok(value.clone()),
            },
            Kind::Filter => match text {
                Some(text) if is_filter(text) => Ok(value.clone()),
                _ => Err(expected(
                    "a level such as \"info\" or a filter such as \"info,rejoinder=debug\"",
                    value,
                )),
            },
            Kind::Fraction => {
                let fraction = fraction(value).map(Value::from);
                fraction.ok_or_else(|| expected("a number from 0 to 1 such as 0.1", value))
            }
            Kind::List(check) => read_list(value, *check),
            Kind::Names => read_names(value),
            Kind::Table => read_table(value),
            Kind::Path | Kind::Text => match text {
                Some(text) if text.trim().is_empty() => Err("must not be empty".to_owned()),
                Some(_) => Ok(value.clone()),
                None => Err(expected("text in quotes", value)),
            },
            Kind::Url => match text {
                Some(text) => url::normal(text).map(Value::from),
                None => Err(expected(url::A_URL, value)),
            },
        }
    }
}

fn wrapper(text: &str) -> Result<(), String> {
    match is_wrapper(text) {
        true => Ok(()),
        false => Err("must be one command name or path, without spaces or options".to_owned()),
    }
}

/// No message repeats the text: it may hold a password.
fn store_url(text: &str) -> Result<(), String> {
    let url = Url::parse(text.trim()).map_err(|error| format!("expected {A_STORE} ({error})"))?;
    match url.scheme() {
        "redis" | "rediss" | "valkey" | "valkeys" if url.has_host() => Ok(()),
        _ => Err(format!("expected {A_STORE}")),
    }
}

fn efforts(text: &str) -> Result<(), String> {
    read_efforts(text).map(drop)
}

fn budgets(text: &str) -> Result<(), String> {
    read_budgets(text).map(|_| ())
}

fn quirks(text: &str) -> Result<(), String> {
    let quirks = Quirk::ALL.map(Quirk::name);
    match text.split(',').map(str::trim).find(|name| !quirks.contains(name)) {
        Some(name) => Err(format!("{name:?} is not one of {}", quirks.join(", "))),
        None => Ok(()),
    }
}

/// Whether keys live below that name, as in `[upstream]`.
pub(super) fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

fn whole_number(value: &Value) -> Option<usize> {
    let number = match value {
        Value::Num(_, number) => {
            number.to_u128().or_else(|| number.to_i128().and_then(|n| n.try_into().ok()))
        }
        other => other.as_str().and_then(|text| text.trim().parse().ok()),
    };
    number.and_then(|number| usize::try_from(number).ok())
}

/// A list of texts, or one text with commas.
fn texts(value: &Value) -> Option<Vec<String>> {
    let trimmed = |text: &str| text.trim().to_owned();
    match value {
        Value::Array(_, values) => values.iter().map(|value| value.as_str().map(trimmed)).collect(),
        other => other.as_str().map(|text| text.split(',').map(trimmed).collect()),
    }
}

fn read_list(value: &Value, check: fn(&str) -> Result<(), String>) -> Result<Value, String> {
    let mut listed = texts(value).ok_or_else(|| expected("a list of texts in quotes", value))?;
    listed.retain(|text| !text.is_empty());
    listed.iter().try_for_each(|text| check(text))?;
    Ok(listed.into())
}

/// A name as a `Host` header has it, without its port.
fn host(text: &str) -> Result<(), String> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    match name.parse::<http::uri::Authority>() {
        _ if text == "*" => Ok(()),
        Ok(authority) if authority.host() == name => Ok(()),
        _ => Err(format!("{text:?} is not a host; a name such as \"llm.example\" stands for all its ports")),
    }
}

fn network(text: &str) -> Result<(), String> {
    read_network(text).map(drop)
}

/// An origin as a browser sends it, or a pattern of such.
fn origin(text: &str) -> Result<(), String> {
    let authority = text.split_once("://").map(|(scheme, authority)| (scheme.is_empty(), authority));
    match authority {
        _ if matches!(text, "*" | "null") => Ok(()),
        Some((false, authority)) if !authority.contains(['/', '?', '#', '@']) => Ok(()),
        _ => Err(format!(
            "{text:?} is not an origin; expected scheme and host such as \"https://app.example\""
        )),
    }
}

/// A path, or a pattern of such.
fn path(text: &str) -> Result<(), String> {
    match text.starts_with('/') || text == "*" {
        true => Ok(()),
        false => Err(format!("{text:?} is not a path; expected one such as \"/v1/embeddings\" or \"/v1/*\"")),
    }
}

fn read_names(value: &Value) -> Result<Value, String> {
    let names = texts(value).ok_or_else(|| expected("a list such as [\"qwen3\", \"gpt-5=qwen3\"]", value))?;
    match names.iter().find(|name| name.split('=').any(|part| part.trim().is_empty())) {
        Some(name) => {
            Err(format!("{name:?} is not a model name; expected a name, or name=the server's name for it"))
        }
        None if names.is_empty() => Err("must not be empty".to_owned()),
        None => Ok(names.into()),
    }
}

/// A table; as text, a JSON object. No message repeats what is in it.
fn read_table(value: &Value) -> Result<Value, String> {
    const WANTED: &str = "a table such as { top_k = 40 }, or a JSON object as text";
    let table = match value {
        Value::Dict(..) => value.clone(),
        other => {
            let text = other.as_str().ok_or_else(|| expected(WANTED, value))?;
            let object: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(text).map_err(|_| format!("expected {WANTED}"))?;
            Value::serialize(object).map_err(|_| format!("expected {WANTED}"))?
        }
    };
    match table.as_dict().and_then(|table| table.keys().find(|key| RENDERED.contains(&key.as_str()))) {
        Some(key) => Err(format!("{key} is written by rejoinder itself")),
        None => Ok(table),
    }
}

fn read_bytes(value: &Value) -> Result<Value, String> {
    match whole_number(value) {
        Some(bytes) if bytes < MIN_BODY_BYTES => Err(format!("must be at least {MIN_BODY_BYTES} bytes")),
        Some(bytes) => Ok(bytes.into()),
        None => Err(expected("a number of bytes such as 134217728", value)),
    }
}

fn read_delay(value: &Value) -> Result<Value, String> {
    match value.as_str().and_then(|text| humantime::parse_duration(text).ok()) {
        // a deadline is now + duration, which must not overflow
        Some(duration) if duration > MAX_DURATION => Err("must be at most 365days".to_owned()),
        Some(_) => Ok(value.clone()),
        None => Err(expected("a duration such as \"30s\"", value)),
    }
}

/// `EnvFilter` takes any bare word for a module, so that `level = "verbose"` would silence everything.
fn is_filter(text: &str) -> bool {
    let bare_word = |part: &str| !part.contains(['=', '[', ']', '}', ':']);
    let known = |part: &str| part.parse::<LevelFilter>().is_ok();
    let no_stray_word =
        text.contains('[') || text.split(',').map(str::trim).all(|p| !bare_word(p) || known(p));
    !text.trim().is_empty() && no_stray_word && EnvFilter::try_new(text).is_ok()
}

fn choice<T: DeserializeOwned>(text: &str) -> Result<(), Choices> {
    match T::deserialize(StrDeserializer::<figment::Error>::new(text)) {
        Ok(_) => Ok(()),
        Err(error) => match error.kind {
            figment::error::Kind::UnknownVariant(_, choices) => Err(choices),
            _ => Err(&[]),
        },
    }
}

fn one_of(choices: Choices) -> String {
    let quoted: Vec<String> = choices.iter().map(|choice| format!("{choice:?}")).collect();
    format!("one of {}", quoted.join(", "))
}

fn expected(what: &str, found: &Value) -> String {
    let found = match found {
        Value::String(_, text) => format!("{text:?}"),
        Value::Char(_, char) => format!("{:?}", char.to_string()),
        Value::Bool(_, bool) => bool.to_string(),
        Value::Num(_, number) => match (number.to_i128(), number.to_u128(), number.to_f64()) {
            (Some(integer), ..) => integer.to_string(),
            (_, Some(integer), _) => integer.to_string(),
            (.., Some(float)) => float.to_string(),
            _ => "a number".to_owned(),
        },
        Value::Empty(..) => "nothing".to_owned(),
        Value::Dict(..) => "a table".to_owned(),
        Value::Array(..) => "a list".to_owned(),
    };
    format!("expected {what}, found {found}")
}

/// Members of a chat body that the translation itself writes and reads back.
const RENDERED: [&str; 7] = ["messages", "model", "n", "stream", "stream_options", "tool_choice", "tools"];
const A_STORE: &str = "a URL such as \"redis://127.0.0.1:6379/0\"";
const MIN_BODY_BYTES: usize = 1024;
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::Config;

    #[test]
    fn the_table_has_the_keys_of_the_struct() {
        let mut names = BTreeSet::new();
        let document = serde_json::to_value(Config::default()).unwrap();
        for (name, value) in document.as_object().unwrap() {
            match value.as_object() {
                Some(section) => names.extend(section.keys().map(|key| format!("{name}.{key}"))),
                None => drop(names.insert(name.clone())),
            }
        }
        assert_eq!(names, KEYS.iter().map(|key| key.name.to_owned()).collect());
    }

    #[test]
    fn filters() {
        for good in
            ["info", "WARN", "off", "info,rejoinder=trace", "rejoinder::sse=debug", "[span{a=1}]=debug"]
        {
            assert!(is_filter(good), "{good}");
        }
        for bad in ["", " ", "verbose", "info,debgu", "rejoinder=loud"] {
            assert!(!is_filter(bad), "{bad}");
        }
    }
}
