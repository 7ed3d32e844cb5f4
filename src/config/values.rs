//! Owns the values of keys that take one of a few words. It must not know which key has which.

use serde::{Deserialize, Serialize};

/// Values of `auth.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMode {
    /// Nothing: the client's own key goes to the upstream, which may ask for one.
    Pass,
    /// One of the keys of `auth.keys_file`. It does not go to the upstream.
    Keys,
    /// Nothing, and no client's key goes to the upstream.
    None,
}

/// Values of `upstream.api`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the names are the documentation
pub enum Api {
    Chat,
    Responses,
}

/// Values of `upstream.dialect`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the names are the values
pub enum DialectChoice {
    Auto,
    LlamaServer,
    Vllm,
    Sglang,
    Ollama,
    LmStudio,
    #[serde(rename = "openai")]
    OpenAi,
    Generic,
}

/// `auto`, `on` or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the names are the values
pub enum Switch {
    Auto,
    On,
    Off,
}

/// Values of `log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the names are the values
pub enum LogFormat {
    Auto,
    Json,
    Text,
}
