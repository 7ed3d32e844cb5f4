//! Owns what Codex is told: its provider, model, context and catalog. It must not read or write its files.

use std::path::PathBuf;

use rejoinder_core::client::CODEX_MODELS;
use rejoinder_core::client::compact_at;
use toml_edit::{DocumentMut, Item, Table, TableLike, Value};

use super::setting::Setting;
use super::{Env, Proxy};

/// The id of the provider. "OpenAI" would get other requests: Codex would leave its summaries to the server.
const PROVIDER: &str = "rejoinder";
const PROVIDERS: &str = "model_providers";
/// What Codex sends as its key where none is asked for: it reads the catalog only with one.
const NO_KEY: &str = "unused";

/// Keys and their values, in order.
type Keys = Vec<(&'static str, Value)>;

/// The keys of its configuration.
pub struct CodexKeys {
    /// At the top: these make it the default.
    top: Keys,
    /// Of the provider.
    provider: Keys,
}

/// `config.toml`, and the profile for those who keep another default.
pub fn files(env: &Env) -> Result<[PathBuf; 2], String> {
    let home = env.folder("CODEX_HOME", ".codex")?;
    Ok([home.join("config.toml"), home.join(format!("{PROVIDER}.config.toml"))])
}

/// What it is told, and where.
pub fn setting(proxy: &Proxy, env: &Env, keep_default: bool) -> Result<Setting, String> {
    let [config, profile] = files(env)?;
    let keys = CodexKeys::new(proxy);
    let mut notes = vec![match keep_default {
        true => format!("Start Codex with it: codex -p {PROVIDER}"),
        false => "It is Codex's default from then on: codex. With --keep-default it becomes a profile instead, for codex -p \
                  rejoinder."
            .to_owned(),
    }];
    notes.extend(proxy.notes(|model| {
        let [window, limit] = CODEX_MODELS.keys;
        let assumed = CODEX_MODELS.assumed_context;
        format!("The context of {model} is not known, Codex takes it for {assumed} tokens: set {window} and {limit}.")
    }));
    let file = Some(if keep_default { profile } else { config });
    Ok(Setting { file, merge: Box::new(move |text| keys.merged(text)), notes })
}

impl CodexKeys {
    /// For the proxy's model.
    pub fn new(proxy: &Proxy) -> CodexKeys {
        let model = proxy.model();
        let mut top: Keys = vec![("model", model.id.as_str().into()), ("model_provider", PROVIDER.into())];
        if let Some(context) = model.context {
            let [window, limit] = CODEX_MODELS.keys;
            top.extend([(window, number(context)), (limit, number(compact_at(context)))]);
        }
        if let Some(effort) = model.usual_effort() {
            top.push(("model_reasoning_effort", effort.into()));
        }
        // hosted: only a wrapper command makes something of it
        top.push(("web_search", if proxy.web_search { "live" } else { "disabled" }.into()));
        let base = &proxy.base_url;
        let mut provider: Keys = vec![
            ("name", "Rejoinder".into()),
            ("base_url", base.as_str().into()),
            ("wire_api", "responses".into()),
            ("supports_websockets", proxy.websocket.into()),
            ("model_catalog_url", format!("{base}/models").into()),
        ];
        provider.push(match &proxy.key_env {
            Some(variable) => ("env_key", variable.as_str().into()),
            None => ("experimental_bearer_token", NO_KEY.into()),
        });
        CodexKeys { top, provider }
    }

    /// `key=value` for each, as the arguments of `-c`.
    pub fn overrides(&self) -> Vec<String> {
        let mut provider = toml_edit::InlineTable::new();
        for (key, value) in &self.provider {
            provider.insert(*key, value.clone());
        }
        let mut overrides = vec![format!("{PROVIDERS}.{PROVIDER}={provider}")];
        overrides.extend(self.top.iter().map(|(key, value)| format!("{key}={value}")));
        overrides
    }

    fn merged(&self, text: &str) -> Result<String, String> {
        let mut document: DocumentMut = text.parse().map_err(|error| format!("not valid TOML: {error}"))?;
        let root = document.as_table_mut();
        for (key, value) in &self.top {
            set(root, key, value)?;
        }
        let implicit = || {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        };
        let providers = root.entry(PROVIDERS).or_insert_with(implicit);
        let Some(providers) = providers.as_table_like_mut() else {
            return Err(format!("{PROVIDERS} is not a table"));
        };
        if !providers.contains_key(PROVIDER) {
            let mut table = Table::new();
            table.decor_mut().set_prefix("\n");
            providers.insert(PROVIDER, Item::Table(table));
        }
        let provider = providers.get_mut(PROVIDER).and_then(Item::as_table_like_mut);
        let Some(provider) = provider else { return Err(format!("{PROVIDERS}.{PROVIDER} is not a table")) };
        for (key, value) in &self.provider {
            set(provider, key, value)?;
        }
        // Codex takes one of them
        let other = if self.provider.iter().any(|(key, _)| *key == "env_key") {
            "experimental_bearer_token"
        } else {
            "env_key"
        };
        provider.remove(other);
        Ok(document.to_string())
    }
}

/// Sets a key, with the comment and the spaces that its value has.
fn set(table: &mut dyn TableLike, key: &str, value: &Value) -> Result<(), String> {
    match table.get_mut(key) {
        None => {
            table.insert(key, Item::Value(value.clone()));
        }
        Some(Item::Value(there)) => {
            if there.to_string().trim() != value.to_string().trim() {
                let decor = there.decor().clone();
                *there = value.clone();
                *there.decor_mut() = decor;
            }
        }
        Some(_) => return Err(format!("{key} is a table, a value was expected")),
    }
    Ok(())
}

fn number(tokens: u64) -> Value {
    i64::try_from(tokens).unwrap_or(i64::MAX).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::proxy::example;

    fn merged(text: &str) -> String {
        CodexKeys::new(&example()).merged(text).unwrap()
    }

    #[test]
    fn everything_else_stays_as_it_was_written() {
        let text = "# mine\nmodel   = \"gpt-5.5\"  # the big one\napproval_policy = \"never\"\n\n\n[projects.\"/a\"] # here\n\
                    trust_level = 'trusted'\n\n# others\n[model_providers.azure]\nname = \"Azure\"\n# end";
        let new = merged(text);
        for line in text.lines().filter(|line| !line.starts_with("model ")) {
            assert!(new.lines().any(|new| new == line), "{line:?} is gone\n{new}");
        }
        assert!(new.contains("model   = \"local\"  # the big one\n"), "{new}");
        let read: DocumentMut = new.parse().unwrap();
        assert_eq!(read["model_context_window"].as_integer(), Some(32768));
        assert_eq!(read["model_auto_compact_token_limit"].as_integer(), Some(26214));
        assert_eq!(read["model_providers"]["azure"]["name"].as_str(), Some("Azure"));
        assert_eq!(read["model_providers"]["rejoinder"]["name"].as_str(), Some("Rejoinder"));
        assert_eq!(merged(&new), new);
    }

    #[test]
    fn a_provider_of_that_name_is_corrected_in_whatever_form_it_is() {
        for text in [
            "[model_providers.rejoinder]\nbase_url = \"http://old\" # ours\nenv_key = \"OLD\"\nrequest_max_retries = 1\n",
            "model_providers.rejoinder.base_url = \"http://old\" # ours\nmodel_providers.rejoinder.request_max_retries = 1\n",
            "model_providers = { rejoinder = { base_url = \"http://old\", request_max_retries = 1 } } # ours\n",
            "[model_providers]\nrejoinder = { base_url = \"http://old\", request_max_retries = 1 } # ours\n",
        ] {
            let new = merged(text);
            let read: DocumentMut = new.parse().unwrap();
            let provider = &read["model_providers"]["rejoinder"];
            assert_eq!(provider["base_url"].as_str(), Some("http://127.0.0.1:8081/v1"), "{new}");
            assert_eq!(provider["request_max_retries"].as_integer(), Some(1), "{new}");
            assert!(provider.get("env_key").is_none() && new.contains("# ours"), "{new}");
            assert_eq!(merged(&new), new);
        }
    }

    #[test]
    fn a_text_that_is_not_understood_is_refused() {
        let keys = CodexKeys::new(&example());
        for (text, want) in [
            ("model = ", "not valid TOML"),
            ("model_providers = 1", "model_providers is not a table"),
            ("[model]\na = 1", "model is a table"),
            ("[model_providers]\nrejoinder = 1", "model_providers.rejoinder is not a table"),
        ] {
            assert!(keys.merged(text).unwrap_err().contains(want), "{text}");
        }
    }

    #[test]
    fn a_key_is_named_and_never_written() {
        let mut proxy = example();
        proxy.key_env = Some("LOCAL_KEY".to_owned());
        let new = CodexKeys::new(&proxy)
            .merged("[model_providers.rejoinder]\nexperimental_bearer_token = \"x\"\n")
            .unwrap();
        assert!(
            new.contains("env_key = \"LOCAL_KEY\"") && !new.contains("experimental_bearer_token"),
            "{new}"
        );
    }

    #[test]
    fn each_override_is_one_line_of_toml() {
        for line in CodexKeys::new(&example()).overrides() {
            assert!(!line.contains('\n') && line.parse::<DocumentMut>().is_ok(), "{line}");
        }
    }
}
