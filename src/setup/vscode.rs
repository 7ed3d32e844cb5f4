//! Owns what Visual Studio Code is told: a custom endpoint of its chat. It must not read or write its files.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::setting::Setting;
use super::{Env, Proxy, json};
use crate::setup::proxy::ProxyModel;

/// What tells our endpoint from others.
const NAME: &str = "Rejoinder";
/// Taken for the context of a model of which none is known: VS Code needs a number.
const ASSUMED_CONTEXT: u64 = 32_768;

/// Its list of language models, of the release or of Insiders, whichever is there.
pub fn file(env: &Env) -> Result<PathBuf, String> {
    let folder = match cfg!(target_os = "macos") {
        true => env.home()?.join("Library/Application Support"),
        false => env.folder("XDG_CONFIG_HOME", ".config")?,
    };
    let [release, insiders] = ["Code", "Code - Insiders"].map(|name| folder.join(name).join("User"));
    let user = if !release.exists() && insiders.exists() { insiders } else { release };
    Ok(user.join("chatLanguageModels.json"))
}

/// What it is told, and where.
pub fn setting(proxy: &Proxy, env: &Env) -> Result<Setting, String> {
    let endpoint = endpoint(proxy);
    let models: Vec<Map<String, Value>> = proxy.shown().map(|model| entry(proxy, model)).collect();
    let mut notes =
        vec!["Choose the model in the chat's list of models (VS Code 1.122 or newer).".to_owned()];
    if let Some(variable) = &proxy.key_env {
        notes.push(format!("Enter the key that is in {variable} by \"Chat: Manage Language Models\": VS Code keeps it apart from the file."));
    }
    notes.extend(proxy.notes(|model| format!("The context of {model} is not known, {ASSUMED_CONTEXT} tokens are written: correct maxInputTokens.")));
    let merge = move |text: &str| {
        json::edited(text, &|root| {
            let endpoints = json::root_array(root)?;
            json::set_element(&endpoints, "name", &endpoint)?;
            let ours = endpoints.elements().into_iter().filter_map(|node| node.as_object()).find(|object| {
                let name = object.get("name").and_then(|name| name.value()?.to_serde_value());
                name.as_ref().and_then(Value::as_str) == Some(NAME)
            });
            let Some(ours) = ours else { return Ok(()) };
            let list = json::array(&ours, "models")?;
            models.iter().try_for_each(|model| json::set_element(&list, "id", model))
        })
    };
    Ok(Setting { file: Some(file(env)?), merge: Box::new(merge), notes })
}

fn endpoint(proxy: &Proxy) -> Map<String, Value> {
    let mut endpoint =
        json::members(json!({ "name": NAME, "vendor": "customendpoint", "apiType": "responses" }));
    if proxy.key_env.is_none() {
        endpoint.insert("apiKey".to_owned(), "unused".into());
    }
    endpoint
}

fn entry(proxy: &Proxy, model: &ProxyModel) -> Map<String, Value> {
    let output = model.output();
    json::members(json!({
        "id": model.id,
        "name": model.id,
        "url": format!("{}/responses", proxy.base_url),
        "toolCalling": true,
        "vision": model.images,
        "maxInputTokens": model.context.unwrap_or(ASSUMED_CONTEXT).saturating_sub(output),
        "maxOutputTokens": output,
    }))
}
