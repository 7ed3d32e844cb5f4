//! Owns what Droid is told: its custom models. It must not read or write its files.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::setting::Setting;
use super::{Env, Proxy, json};
use crate::setup::proxy::ProxyModel;

/// The member of its settings that lists the models.
const MODELS: &str = "customModels";
/// What tells a model of ours from others.
const ID: &str = "id";

/// Its settings.
pub fn file(env: &Env) -> Result<PathBuf, String> {
    let home = env.value("FACTORY_HOME_OVERRIDE").map(PathBuf::from);
    Ok(home.map_or_else(|| env.home(), Ok)?.join(".factory").join("settings.json"))
}

/// What it is told, and where.
pub fn setting(proxy: &Proxy, env: &Env) -> Result<Setting, String> {
    let models = models(proxy);
    let mut notes = vec![format!(
        "Start Droid with it: droid exec -m {} \"say hi\"; /model has it in a session.",
        id(proxy.model())
    )];
    notes.extend(proxy.notes(|model| {
        format!("The context of {model} is not known: set maxContextLimit if Droid overfills it.")
    }));
    let merge = move |text: &str| {
        json::edited(text, &|root| {
            let array = json::array(&json::root_object(root)?, MODELS)?;
            for (index, model) in models.iter().enumerate() {
                let there = array.elements().iter().filter_map(|node| node.as_object()).any(|object| {
                    object.get(ID).and_then(|id| id.value()?.to_serde_value()).as_ref() == model.get(ID)
                });
                let mut model = model.clone();
                if !there {
                    // behind all others: Droid orders by it
                    let before = array.elements().len().max(index);
                    model.insert("index".to_owned(), before.into());
                }
                json::set_element(&array, ID, &model)?;
            }
            Ok(())
        })
    };
    Ok(Setting { file: Some(file(env)?), merge: Box::new(merge), notes })
}

/// Settings with nothing else in them.
pub fn settings(proxy: &Proxy) -> Value {
    json!({ MODELS: models(proxy) })
}

/// The name by which Droid is told to use a model.
pub fn id(model: &ProxyModel) -> String {
    let name = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    format!("custom:rejoinder-{}", model.id.chars().map(name).collect::<String>())
}

fn models(proxy: &Proxy) -> Vec<Map<String, Value>> {
    let key = proxy.key_env.as_ref().map_or("unused".to_owned(), |variable| format!("${{{variable}}}"));
    let one = |model: &ProxyModel| {
        let mut members = json::members(json!({
            "model": model.id,
            ID: id(model),
            "displayName": format!("{} (Rejoinder)", model.id),
            "provider": "openai",
            "baseUrl": proxy.base_url,
            "apiKey": key,
            "maxOutputTokens": model.output(),
            "noImageSupport": !model.images,
        }));
        if let Some(context) = model.context {
            members.insert("maxContextLimit".to_owned(), context.into());
        }
        members
    };
    proxy.shown().map(one).collect()
}
