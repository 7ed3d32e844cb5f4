//! Owns the values of keys that take one of a few words, or a list with a form of its own. It must not know which key has
//! which.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Values of `proxy_protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    /// A connection begins with its first request.
    Off,
    /// A connection comes from a trusted proxy and begins with the PROXY header.
    Required,
}

/// Values of `client_address_header`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // the names are the values
pub enum ClientAddressHeader {
    XForwardedFor,
    Forwarded,
}

/// Values of `auth.mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMode {
    /// Nothing: the client's own key goes to the upstream, which may ask for one.
    #[default]
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

/// Values of `metrics.names`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricNames {
    /// Our own.
    Rejoinder,
    /// Those of OpenTelemetry's conventions for generative AI, where there is one.
    GenAi,
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

/// Reads an entry of `trusted_proxies`: `10.0.0.0/8`, or one address.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn read_network(text: &str) -> Result<IpNet, String> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| format!("{text:?} is no network; expected one such as \"10.0.0.0/8\", or an address"))
}

/// Reads `minimal=2048,low=4096`: tokens by `reasoning.effort`.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn read_budgets(text: &str) -> Result<Vec<(String, u64)>, String> {
    text.split(',')
        .map(|pair| {
            let (effort, tokens) = pair.split_once('=').unwrap_or((pair, ""));
            match tokens.trim().parse() {
                Ok(tokens) if !effort.trim().is_empty() => Ok((effort.trim().to_owned(), tokens)),
                _ => Err(format!(
                    "expected effort=tokens pairs such as \"low=4096,high=16384\", found {pair:?}"
                )),
            }
        })
        .collect()
}

/// Reads `low,medium,high`: levels of `reasoning.effort`.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn read_efforts(text: &str) -> Result<Vec<String>, String> {
    let level = |name: &str| match name.trim() {
        "" => Err(format!("expected levels such as \"low,medium,high\", found {text:?}")),
        name => Ok(name.to_owned()),
    };
    text.split(',').map(level).collect()
}
