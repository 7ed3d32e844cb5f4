//! Owns `GET /v1/models`: the lists of all servers as one, in OpenAI's format and in that of Codex's catalog. It must
//! not ask the servers itself.
//!
//! Codex reads `models` where its provider has `model_catalog_url` and a key (docs/clients.md), and so learns the
//! context window, without which it takes a local model for one of 272000 tokens. One entry that it cannot read makes
//! it drop the whole list; `tests/clients/test_upstreams.py` shows this list to the real Codex.

use std::collections::HashSet;
use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use rejoinder_core::error::{Error, Kind};
use serde_json::{Map, Value, json};

use super::app::App;
use super::passthrough;
use super::reply::{self, ResponseBody};
use crate::upstream::{ANY, Listing, Traits};

/// The list, or with `id` one element of it. Where no server shows us its list, the server's own words are passed on.
pub async fn answer(
    app: &App,
    request: Request<Incoming>,
    id: Option<&str>,
) -> Result<Response<ResponseBody>, Error> {
    let entries = list(app, request.headers()).await;
    if entries.is_empty() {
        return passthrough::answer(app, request).await;
    }
    let body = match id {
        None => {
            let catalog: Vec<Value> = entries.iter().enumerate().map(|(n, entry)| entry.codex(n)).collect();
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
async fn list(app: &App, client: &HeaderMap) -> Vec<Entry> {
    let mut names = HashSet::new();
    let listings = app.upstream.listings(client).await;
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
        let traits = Traits { sees: listing.images, ..Traits::default() }.or(listing.facts.traits_of(own));
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
        return LEVELS
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

impl Entry {
    /// Codex's `ModelInfo`. Every member that its parser demands is there; `base_instructions` is one of them, and
    /// takes the place of the 17 KB that Codex sends for models it does not know.
    fn codex(&self, priority: usize) -> Value {
        let context = self.traits.context;
        // an output that fills the context leaves no room to act on it
        let output = context.map_or(LONGEST_OUTPUT, |context| (context / 8).clamp(1000, LONGEST_OUTPUT));
        // left out, Codex would take it for one that sees
        let modalities = match self.traits.sees {
            Some(true) => json!(["text", "image"]),
            _ => json!(["text"]),
        };
        let level = |effort: &String| json!({ "effort": effort, "description": format!("{effort} reasoning effort") });
        let levels: Vec<Value> = self.efforts.iter().map(level).collect();
        let mut model = json!({
            "slug": self.id,
            "display_name": self.id,
            "description": null,
            "supported_reasoning_levels": levels,
            "shell_type": "unified_exec",
            "visibility": "list",
            "supported_in_api": true,
            "priority": priority,
            "base_instructions": INSTRUCTIONS,
            "support_verbosity": false,
            "apply_patch_tool_type": "freeform",
            "truncation_policy": { "mode": "tokens", "limit": output },
            "supports_parallel_tool_calls": true,
            "experimental_supported_tools": [],
            "input_modalities": modalities,
        });
        if let (Some(members), Some(context)) = (model.as_object_mut(), context) {
            members.insert("context_window".to_owned(), context.into());
            members.insert("max_context_window".to_owned(), context.into());
            // a summary has to be written, too
            members.insert("auto_compact_token_limit".to_owned(), (context * 4 / 5).into());
        }
        model
    }
}

/// The longest element of a server's list that is shown as it is, in bytes; it is left out otherwise.
const LONGEST_ENTRY: usize = 64 << 10;
/// Levels that Codex knows, the least first.
const LEVELS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
/// What a chat template that knows efforts is known to take.
const EFFORTS: [&str; 3] = ["low", "medium", "high"];
/// Most tokens of a tool's output that Codex shows the model, its own default.
const LONGEST_OUTPUT: u64 = 10_000;

/// What a coding model is told by default. Short on purpose: it is part of every prompt.
const INSTRUCTIONS: &str = "\
You are a coding agent that works in a user's project through the Codex CLI. You can run commands and change files.

How to work
- Look before you change: read the files that matter, and search with `rg` where it is there, else with `grep`.
- Go on until the task is done. Make no plan without acting on it, and do not ask for what you can find out yourself.
- Change files with the `apply_patch` tool. Change as little as the task needs, in the style of the code around it.
- Follow the instructions of AGENTS.md files: the nearest one above a file counts most.
- Never undo changes that are not yours, never commit or push unless you are asked to.
- After a change, run the build or the tests that are near it, if there are any, and mend what you broke.
- Do not repeat a command that failed in the same way twice; find out why it failed.

How to answer
- Before you run something that takes long, say in one sentence what it is for.
- When you are done, say in a few sentences what you changed and what you checked. Name files by their path.
- Say so when something did not work, or was not tried.
";

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
        assert_eq!(first.codex(0)["context_window"], 4096);
        assert_eq!(second.listed["object"], "model");
        assert_eq!(second.codex(1).get("context_window"), None, "unknown is left out, never made up");
        let any = |name: &str, own: &str| Some(vec![(name.into(), own.into())]);
        listing.models = any("*", "qwen3");
        assert_eq!(ids(&listing), ["qwen3"], "a name that stands for all others is no model's");
        listing.models = any("*", "*");
        assert_eq!(ids(&listing), ["qwen3", "other"]);
    }

    #[test]
    fn what_is_unknown_is_never_told_as_yes() {
        let seen = |sees| model(&format!("{sees:?}"), Traits { sees, ..Traits::default() });
        let models = vec![seen(None), seen(Some(true)), seen(Some(false))];
        let data = [r#"{"id":"None"}"#, r#"{"id":"Some(true)"}"#, r#"{"id":"Some(false)"}"#];
        let modalities: Vec<Value> = listed(&listing(&data, models))
            .iter()
            .map(|entry| entry.codex(0)["input_modalities"].clone())
            .collect();
        assert_eq!(modalities, [json!(["text"]), json!(["text", "image"]), json!(["text"])]);
        let mut told = listing(&[r#"{"id":"None"}"#], Vec::new());
        told.images = Some(true);
        assert_eq!(listed(&told)[0].codex(0)["input_modalities"], json!(["text", "image"]));
    }

    #[test]
    fn efforts_are_those_that_make_a_difference() {
        let efforts = |efforts, budgets: &[&str]| {
            let mut listing =
                listing(&[r#"{"id":"m"}"#], vec![model("m", Traits { efforts, ..Traits::default() })]);
            listing.efforts = budgets.iter().map(|budget| (*budget).to_owned()).collect();
            let levels = listed(&listing)[0].codex(0)["supported_reasoning_levels"].clone();
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
