//! Owns `GET /v1/models`: the lists of all servers as one, in OpenAI's format and in that of Codex's catalog. It must
//! not ask the servers itself.
//!
//! Codex reads `models` where its provider has `model_catalog_url` and a key (CLIENTS.md 3.1), and so learns the
//! context window, without which it takes a local model for one of 272000 tokens. One entry that it cannot read makes
//! it drop the whole list; `tests/clients/test_upstreams.py` shows this list to the real Codex.

use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use super::reply::{self, ResponseBody};
use super::{App, passthrough};
use crate::error::{Error, Kind};
use crate::upstream::{ANY, Facts, Listing};

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
    facts: Arc<Facts>,
    /// The server's own name.
    own: String,
}

/// Every model once, in the order of the servers.
async fn list(app: &App, client: &HeaderMap) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for listing in app.upstream.listings(client).await {
        for entry in listed(&listing) {
            if !entries.iter().any(|there| there.id == entry.id) {
                entries.push(entry);
            }
        }
    }
    entries
}

fn listed(listing: &Listing) -> Vec<Entry> {
    let parsed: Value = serde_json::from_slice(&listing.body).unwrap_or_default();
    let models: Vec<Map<String, Value>> = match parsed.get("data") {
        Some(Value::Array(models)) => models.iter().filter_map(|model| model.as_object().cloned()).collect(),
        _ => Vec::new(),
    };
    let id = |model: &Map<String, Value>| model.get("id").and_then(Value::as_str).map(str::to_owned);
    let entry = |name: &str, own: &str, mut listed: Map<String, Value>| {
        listed.insert("id".to_owned(), name.into());
        Entry { id: name.to_owned(), own: own.to_owned(), listed, facts: listing.facts.clone() }
    };
    match &listing.models {
        None => models.into_iter().filter_map(|model| id(&model).map(|id| entry(&id, &id, model))).collect(),
        Some(names) => {
            let of = |own: &str| models.iter().find(|model| id(model).as_deref() == Some(own)).cloned();
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

impl Entry {
    /// Codex's `ModelInfo`. Every member that its parser demands is there; `base_instructions` is one of them, and
    /// takes the place of the 17 KB that Codex sends for models it does not know.
    fn codex(&self, priority: usize) -> Value {
        let context = self.facts.context_of(&self.own);
        // an output that fills the context leaves no room to act on it
        let output = context.map_or(LONGEST_OUTPUT, |context| (context / 8).clamp(1000, LONGEST_OUTPUT));
        let modalities = if self.facts.sees { json!(["text", "image"]) } else { json!(["text"]) };
        let mut model = json!({
            "slug": self.id,
            "display_name": self.id,
            "description": null,
            "supported_reasoning_levels": [],
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
    use crate::upstream::Model;

    #[test]
    fn names_of_the_configuration_stand_over_the_servers_own() {
        let body =
            r#"{"object":"list","data":[{"id":"qwen3","object":"model","meta":{"n":1}},{"id":"other"}]}"#;
        let facts = Facts {
            models: vec![Model { id: "qwen3".into(), aliases: Vec::new(), context: Some(4096) }],
            ..Facts::default()
        };
        let mut listing = Listing { body: body.into(), facts: Arc::new(facts), models: None };
        let ids = |listing: &Listing| listed(listing).into_iter().map(|entry| entry.id).collect::<Vec<_>>();
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
}
