//! Owns one look at a server: which one it is, and whether it can serve. It must not remember anything.

use std::time::Duration;

use http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::dialect::{Dialect, GENERIC, LLAMA_SERVER, VLLM};

/// Longest look at one path.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a look showed.
pub enum Sight {
    /// Nothing there that speaks HTTP, and why.
    Absent(String),
    /// A server that cannot serve yet.
    Loading(String),
    /// A server that can.
    Ready { dialect: &'static Dialect, alternates: bool, sees: bool },
}

/// The part of llama-server's `/props` that we read.
#[derive(Deserialize)]
struct Props {
    #[serde(default)]
    chat_template: Option<String>,
    #[serde(default)]
    default_generation_settings: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    modalities: Option<Modalities>,
}

#[derive(Deserialize)]
struct Modalities {
    vision: Option<bool>,
}

struct Answer {
    status: StatusCode,
    server: String,
    body: Vec<u8>,
}

/// Looks at `/props` (llama-server), `/version` (vLLM), then `/v1/models`, which every server has.
pub async fn look(client: &reqwest::Client, base: &str, key: Option<&SecretString>) -> Sight {
    let props = match get(client, base, "/props", key).await {
        Ok(answer) => answer,
        Err(reason) => return Sight::Absent(reason),
    };
    let parsed: Option<Props> = serde_json::from_slice(&props.body).ok();
    let parsed = parsed.filter(|p| p.chat_template.is_some() || p.default_generation_settings.is_some());
    // with --api-key, /props is shut to those who do not have it; the server still says its name
    let llama = props.server.starts_with("llama.cpp") || parsed.is_some();
    if llama || props.status == StatusCode::SERVICE_UNAVAILABLE {
        return match get(client, base, "/health", key).await {
            Ok(health) if health.status.is_success() && llama => {
                // servers that do not tell are trusted to see
                let vision = parsed.as_ref().and_then(|props| props.modalities.as_ref()?.vision);
                let template = parsed.and_then(|props| props.chat_template).unwrap_or_default();
                let alternates = demands_alternation(&template);
                Sight::Ready { dialect: &LLAMA_SERVER, alternates, sees: vision.unwrap_or(true) }
            }
            Ok(health) => Sight::Loading(format!("/health answers {}", health.status.as_u16())),
            Err(reason) => Sight::Absent(reason),
        };
    }
    if let Ok(version) = get(client, base, "/version", key).await {
        #[derive(Deserialize)]
        struct Version {
            #[allow(dead_code)] // its presence is the sign
            version: String,
        }
        if version.status.is_success() && serde_json::from_slice::<Version>(&version.body).is_ok() {
            return Sight::Ready { dialect: &VLLM, alternates: false, sees: true };
        }
    }
    match get(client, base, "/v1/models", key).await {
        Ok(models) if models.status.is_server_error() => {
            Sight::Loading(format!("/v1/models answers {}", models.status.as_u16()))
        }
        Ok(_) => Sight::Ready { dialect: &GENERIC, alternates: false, sees: true },
        Err(reason) => Sight::Absent(reason),
    }
}

/// Templates of the Gemma, Mistral and Llama 2 kind raise an error of these words.
fn demands_alternation(template: &str) -> bool {
    template.contains("raise_exception") && template.to_ascii_lowercase().contains("roles must alternate")
}

async fn get(
    client: &reqwest::Client,
    base: &str,
    path: &str,
    key: Option<&SecretString>,
) -> Result<Answer, String> {
    let mut request = client.get(format!("{base}{path}")).timeout(PATIENCE);
    if let Some(key) = key {
        request = request.bearer_auth(key.expose_secret());
    }
    let why = |error: reqwest::Error| match (error.is_connect(), error.is_timeout()) {
        (true, _) => "connection refused".to_owned(),
        (_, true) => "no answer in time".to_owned(),
        _ => error.without_url().to_string(),
    };
    let response = request.send().await.map_err(why)?;
    let status = response.status();
    let server =
        response.headers().get(http::header::SERVER).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
    let body = super::collect(response, 4 << 20).await.unwrap_or_default().to_vec();
    Ok(Answer { status, server, body })
}

#[cfg(test)]
mod tests {
    use super::demands_alternation;

    #[test]
    fn knows_templates_that_refuse_neighbours() {
        assert!(demands_alternation(
            "{{ raise_exception('Conversation roles must alternate user/assistant') }}"
        ));
        assert!(!demands_alternation("{% for message in messages %}{{ message.content }}{% endfor %}"));
    }
}
