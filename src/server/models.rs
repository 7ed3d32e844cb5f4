//! Owns `GET /v1/models`: the lists of all servers as one, in OpenAI's format and in that of Codex's catalog. It must
//! not ask the servers itself.

mod codex_catalog;

use std::collections::HashSet;
use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use rejoinder_core::client::CODEX_MODELS;
use rejoinder_core::error::{Error, Kind};
use serde_json::{Map, Value, json};

use super::app::App;
use super::passthrough;
use super::reply::{self, ResponseBody};
use crate::client_keys::ClientKey;
use crate::telemetry::RequestRecord;
use crate::upstream::{ANY, Listing, Traits};

/// The list, or with `id` one element of it. Where no server shows us its list, the server's own words are passed on.
pub async fn answer(
    app: &App,
    request: Request<Incoming>,
    id: Option<&str>,
    record: &RequestRecord,
) -> Result<Response<ResponseBody>, Error> {
    let key = app.client_keys.still(request.headers())?;
    let mut entries = list(app, request.headers(), key.as_deref()).await;
    if entries.is_empty() {
        return passthrough::answer(app, request, record).await;
    }
    if let Some(key) = key {
        entries.retain(|entry| key.may_use(&entry.id));
    }
    let body = match id {
        None => {
            let catalog: Vec<Value> =
                entries.iter().enumerate().map(|(n, entry)| entry.in_catalog(n)).collect();
            let data: Vec<Value> = entries.into_iter().map(|entry| Value::Object(entry.listed)).collect();
            json!({ "object": "list", "data": data, "models": catalog })
        }
        Some(id) => {
            let found = entries.into_iter().find(|entry| entry.id == id);
            let message = || format!("The model '{id}' does not exist.");
            let entry = found.ok_or_else(|| Error::new(Kind::ModelNotFound, message()).param("model"))?;
            Value::Object(entry.listed)
        }
    };
    Ok(reply::json(StatusCode::OK, body.to_string()))
}

/// One model, under the name that clients use.
struct Entry {
    id: String,
    /// As its server lists it.
    listed: Map<String, Value>,
    /// What is known of it.
    traits: Traits,
    /// Values of `reasoning.effort` that make a difference.
    efforts: Arc<[String]>,
}

/// Every model once, in the order of the servers.
async fn list(app: &App, client: &HeaderMap, key: Option<&ClientKey>) -> Vec<Entry> {
    let mut names = HashSet::new();
    let requester = App::requester(key, &app.keyring.caller(client));
    let listings = app.upstream.listings(client, &requester).await;
    let entries = listings.iter().flat_map(listed);
    entries.filter(|entry| names.insert(entry.id.clone())).collect()
}

fn listed(listing: &Listing) -> Vec<Entry> {
    let id = |model: &Map<String, Value>| model.get("id").and_then(Value::as_str).map(str::to_owned);
    let short = listing.elements.iter().filter(|raw| raw.get().len() <= LONGEST_ENTRY);
    let models: Vec<Map<String, Value>> =
        short.filter_map(|raw| serde_json::from_str(raw.get()).ok()).collect();
    let budgets: Arc<[String]> = listing.efforts.as_slice().into();
    let efforts: Arc<[String]> = EFFORTS.map(str::to_owned).into();
    let entry = |name: &str, own: &str, mut listed: Map<String, Value>| {
        listed.insert("id".to_owned(), name.into());
        let traits =
            Traits { accepts_images: listing.images, ..Traits::default() }.or(listing.facts.traits_of(own));
        let efforts = match (budgets.is_empty(), traits.efforts) {
            (true, Some(true)) => efforts.clone(),
            (true, None) => told_efforts(&listed).into(),
            _ => budgets.clone(),
        };
        Entry { id: name.to_owned(), listed, traits, efforts }
    };
    match &listing.models {
        None => models.into_iter().filter_map(|model| id(&model).map(|id| entry(&id, &id, model))).collect(),
        Some(names) => {
            let of = |own: &str| {
                let named =
                    |model: &&Map<String, Value>| model.get("id").and_then(Value::as_str) == Some(own);
                models.iter().find(named).cloned()
            };
            // a name that the server does not list is still one that it is configured to have
            let bare = || {
                let members = json!({ "id": "", "object": "model", "created": 0, "owned_by": "upstream" });
                members.as_object().cloned().unwrap_or_default()
            };
            let named = |(name, own): &(String, String)| match (name.as_str(), own.as_str()) {
                // every name: those that the server has, or the one that stands for all
                (ANY, ANY) => {
                    models.iter().filter_map(|m| id(m).map(|id| entry(&id, &id, m.clone()))).collect()
                }
                (ANY, own) => vec![entry(own, own, of(own).unwrap_or_else(bare))],
                (name, own) => vec![entry(name, own, of(own).unwrap_or_else(bare))],
            };
            names.iter().flat_map(named).collect()
        }
    }
}

/// The levels that the list itself has for a model, the least first: OpenRouter's `reasoning.supported_efforts`, or
/// the usual ones where it says that the parameter is taken.
fn told_efforts(listed: &Map<String, Value>) -> Vec<String> {
    let words = |value: Option<&Value>| -> Vec<String> {
        let words = value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        words.map(str::to_owned).collect()
    };
    let told = words(listed.get("reasoning").and_then(|reasoning| reasoning.get("supported_efforts")));
    if !told.is_empty() {
        return CODEX_MODELS
            .efforts
            .iter()
            .filter(|level| told.iter().any(|told| told == *level))
            .map(ToString::to_string)
            .collect();
    }
    match words(listed.get("supported_parameters")).iter().any(|word| word == "reasoning_effort") {
        true => EFFORTS.map(str::to_owned).into(),
        false => Vec::new(),
    }
}

/// The longest element of a server's list that is shown as it is, in bytes; it is left out otherwise.
const LONGEST_ENTRY: usize = 64 << 10;
/// What a chat template that knows efforts is known to take.
const EFFORTS: [&str; 3] = ["low", "medium", "high"];
#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Model, ServerInfo};

    fn listing(data: &[&str], models: Vec<Model>) -> Listing {
        let elements = data.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        let facts = Arc::new(ServerInfo { models, ..ServerInfo::default() });
        Listing { elements, facts, models: None, images: None, efforts: Vec::new() }
    }

    fn model(id: &str, traits: Traits) -> Model {
        Model { id: id.into(), aliases: Vec::new(), traits, loaded: None }
    }

    fn ids(listing: &Listing) -> Vec<String> {
        listed(listing).into_iter().map(|entry| entry.id).collect()
    }

    #[test]
    fn names_of_the_configuration_stand_over_the_servers_own() {
        let traits = Traits { context: Some(4096), ..Traits::default() };
        let data = [r#"{"id":"qwen3","object":"model","meta":{"n":1}}"#, r#"{"id":"other"}"#];
        let mut listing = listing(&data, vec![model("qwen3", traits)]);
        assert_eq!(ids(&listing), ["qwen3", "other"]);
        listing.models = Some(vec![("gpt-5".into(), "qwen3".into()), ("new".into(), "new".into())]);
        let entries = listed(&listing);
        assert_eq!(ids(&listing), ["gpt-5", "new"]);
        let [first, second] = entries.as_slice() else { panic!() };
        assert_eq!(
            Value::Object(first.listed.clone()),
            json!({"id":"gpt-5","object":"model","meta":{"n":1}})
        );
        assert_eq!(first.in_catalog(0)["context_window"], 4096);
        assert_eq!(second.listed["object"], "model");
        assert_eq!(second.in_catalog(1).get("context_window"), None, "unknown is left out, never made up");
        let any = |name: &str, own: &str| Some(vec![(name.into(), own.into())]);
        listing.models = any("*", "qwen3");
        assert_eq!(ids(&listing), ["qwen3"], "a name that stands for all others is no model's");
        listing.models = any("*", "*");
        assert_eq!(ids(&listing), ["qwen3", "other"]);
    }

    #[test]
    fn what_is_unknown_is_never_told_as_yes() {
        let seen = |accepts_images| {
            model(&format!("{accepts_images:?}"), Traits { accepts_images, ..Traits::default() })
        };
        let models = vec![seen(None), seen(Some(true)), seen(Some(false))];
        let data = [r#"{"id":"None"}"#, r#"{"id":"Some(true)"}"#, r#"{"id":"Some(false)"}"#];
        let modalities: Vec<Value> = listed(&listing(&data, models))
            .iter()
            .map(|entry| entry.in_catalog(0)["input_modalities"].clone())
            .collect();
        assert_eq!(modalities, [json!(["text"]), json!(["text", "image"]), json!(["text"])]);
        let mut told = listing(&[r#"{"id":"None"}"#], Vec::new());
        told.images = Some(true);
        assert_eq!(listed(&told)[0].in_catalog(0)["input_modalities"], json!(["text", "image"]));
    }

    #[test]
    fn efforts_are_those_that_make_a_difference() {
        let efforts = |efforts, budgets: &[&str]| {
            let mut listing =
                listing(&[r#"{"id":"m"}"#], vec![model("m", Traits { efforts, ..Traits::default() })]);
            listing.efforts = budgets.iter().map(|budget| (*budget).to_owned()).collect();
            let levels = listed(&listing)[0].in_catalog(0)["supported_reasoning_levels"].clone();
            let levels =
                levels.as_array().unwrap().iter().map(|level| level["effort"].as_str().unwrap().to_owned());
            levels.collect::<Vec<_>>()
        };
        assert_eq!(efforts(None, &[]), Vec::<String>::new());
        assert_eq!(efforts(Some(false), &[]), Vec::<String>::new());
        assert_eq!(efforts(Some(true), &[]), ["low", "medium", "high"]);
        assert_eq!(efforts(None, &["minimal", "high"]), ["minimal", "high"]);
    }

    #[test]
    fn efforts_that_the_list_tells_are_shown_the_least_first() {
        for (listed, want) in [
            (
                json!({"reasoning": {"supported_efforts": ["max", "high", "low"]}}),
                &["low", "high", "max"][..],
            ),
            (json!({"supported_parameters": ["tools", "reasoning_effort"]}), &["low", "medium", "high"]),
            (json!({"supported_parameters": ["tools"]}), &[]),
            (json!({"reasoning": {"supported_efforts": ["sideways"]}}), &[]),
            (json!({"reasoning": true, "supported_parameters": "reasoning_effort"}), &[]),
        ] {
            assert_eq!(told_efforts(listed.as_object().unwrap()), want, "{listed}");
        }
    }

    #[test]
    fn an_element_that_is_too_long_is_left_out() {
        let long = format!(r#"{{"id":"long","x":"{}"}}"#, "x".repeat(LONGEST_ENTRY));
        assert_eq!(ids(&listing(&[&long, r#"{"id":"m"}"#, "7"], Vec::new())), ["m"]);
    }
}
