//! Owns what opencode is told: a provider with its models. It must not read or write its files.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::setting::Setting;
use super::{Env, Proxy, json};
use crate::setup::proxy::ProxyModel;

const PROVIDER: &str = "rejoinder";

/// Its files, the one that wins first.
pub fn files(env: &Env) -> Result<[PathBuf; 2], String> {
    let folder = env.folder("XDG_CONFIG_HOME", ".config")?.join("opencode");
    Ok([folder.join("opencode.jsonc"), folder.join("opencode.json")])
}

/// What it is told, and where.
pub fn setting(proxy: &Proxy, env: &Env, keep_default: bool) -> Result<Setting, String> {
    let [commented, plain] = files(env)?;
    let file = if commented.exists() { commented } else { plain };
    let members = settings(proxy, keep_default);
    let name = name(proxy);
    let mut notes = vec![match keep_default {
        true => format!("Start opencode with it: opencode -m {name}"),
        false => format!(
            "It is opencode's default from then on: opencode. With --keep-default it is chosen by opencode -m {name}"
        ),
    }];
    notes.extend(proxy.notes(|model| {
        format!("The context of {model} is not known: set limit.context if opencode overfills it.")
    }));
    let merge =
        move |text: &str| json::edited(text, &|root| json::set_all(&json::root_object(root)?, &members));
    Ok(Setting { file: Some(file), merge: Box::new(merge), notes })
}

/// The model, as opencode names it.
pub fn name(proxy: &Proxy) -> String {
    format!("{PROVIDER}/{}", proxy.model().id)
}

/// The members of its configuration.
pub fn settings(proxy: &Proxy, keep_default: bool) -> Map<String, Value> {
    // opencode itself adds it to a file that has none
    let mut settings = json::members(json!({ "$schema": "https://opencode.ai/config.json" }));
    if !keep_default {
        settings.insert("model".to_owned(), name(proxy).into());
    }
    let key = proxy.key_env.as_ref().map_or("unused".to_owned(), |variable| format!("{{env:{variable}}}"));
    let models: Map<String, Value> = proxy.shown().map(|model| (model.id.clone(), entry(model))).collect();
    let provider = json!({
        // speaks Responses, @ai-sdk/openai-compatible does not
        "npm": "@ai-sdk/openai",
        "name": "Rejoinder",
        "options": { "baseURL": proxy.base_url, "apiKey": key },
        "models": models,
    });
    settings.insert("provider".to_owned(), json!({ PROVIDER: provider }));
    settings
}

fn entry(model: &ProxyModel) -> Value {
    let entry = json!({ "name": model.id, "tool_call": true, "reasoning": true, "attachment": model.images });
    let mut entry = json::members(entry);
    if let Some(context) = model.context {
        entry.insert("limit".to_owned(), json!({ "context": context, "output": model.output() }));
    }
    Value::Object(entry)
}
