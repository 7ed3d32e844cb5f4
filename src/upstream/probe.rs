//! Owns one probe of a server: which one it is, what it can do, whether it can serve. It must not remember anything.

use std::error::Error;
use std::io;
use std::time::Duration;

use http::StatusCode;
use rejoinder_core::dialect::{Dialect, GENERIC, LLAMA_SERVER, LM_STUDIO, OLLAMA, OPENAI, SGLANG, VLLM};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::address::Address;
use super::exchange::{self, TransportError, Why};
use super::facts::{self, Listing, Props, ServerInfo};

/// Longest wait for one path.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer that is read, in bytes.
pub const ANSWER: usize = 4 << 20;
/// Most models that are loaded at a time and asked for what they can.
const MOST_LOADED: usize = 16;

/// What a probe found.
#[derive(Debug)]
pub enum ProbeResult {
    /// Nothing there that speaks HTTP, and why.
    Absent(String),
    /// Something that took the connection and did not answer in time.
    Silent(String),
    /// A server that cannot serve yet.
    Loading(String),
    /// Nothing, for a lack of our own.
    Unseen,
    /// A server that can.
    Ready(Box<ServerInfo>),
}

struct Answer {
    status: StatusCode,
    server: String,
    body: Vec<u8>,
}

/// Which server to probe, and with which key.
pub struct Probe<'a> {
    pub client: &'a reqwest::Client,
    pub address: &'a Address,
    pub key: Option<&'a SecretString>,
}

impl Probe<'_> {
    /// Asks for `/props` (llama-server), `/version` (vLLM), `/api/version` (Ollama), `/api/v0/models` (LM Studio),
    /// `/server_info` and `/get_server_info` (SGLang), and `/v1/models`, which every server has. A llama-server that
    /// serves several models is asked for `/props` of each one that is loaded; none is loaded for that.
    pub async fn run(&self) -> ProbeResult {
        self.try_run().await.unwrap_or_else(|sight| sight)
    }

    async fn try_run(&self) -> Result<ProbeResult, ProbeResult> {
        let props = self.ask("/props").await?;
        let parsed = props.json::<Props>().filter(Props::is_llama);
        // with --api-key, /props is shut to those who do not have it; the server still says its name
        let llama = props.server.starts_with("llama.cpp") || parsed.is_some();
        if llama || props.status == StatusCode::SERVICE_UNAVAILABLE {
            let health = self.ask("/health").await?;
            if !(health.status.is_success() && llama) {
                return Ok(ProbeResult::Loading(format!("/health answers {}", health.status.as_u16())));
            }
            let mut facts = ServerInfo::of(&LLAMA_SERVER);
            if let Some(props) = parsed {
                props.teach(&mut facts);
            }
            return self.with_models(facts, "/v1/models").await;
        }
        if let Some(version) = self.version("/version").await? {
            return self
                .with_models(ServerInfo { version: Some(version), ..ServerInfo::of(&VLLM) }, "/v1/models")
                .await;
        }
        if let Some(version) = self.version("/api/version").await? {
            return self
                .with_models(ServerInfo { version: Some(version), ..ServerInfo::of(&OLLAMA) }, "/v1/models")
                .await;
        }
        if let Some(info) = self.server_info().await? {
            let mut facts = ServerInfo {
                version: info.version.as_deref().and_then(facts::version),
                ..ServerInfo::of(&SGLANG)
            };
            facts.traits.context = info.context_length;
            return self.with_models(facts, "/v1/models").await;
        }
        let studio = self.ask("/api/v0/models").await?;
        if studio.status.is_success() && Listing::read(&studio.body).is_some_and(|list| !list.data.is_empty())
        {
            return self.with_models(ServerInfo::of(&LM_STUDIO), "/api/v0/models").await;
        }
        let mut sight = self.with_models(ServerInfo::of(&GENERIC), "/v1/models").await?;
        if let ProbeResult::Ready(facts) = &mut sight
            && is_openai(&self.address.root)
        {
            facts.dialect = &OPENAI;
        }
        Ok(sight)
    }

    async fn with_models(&self, mut facts: ServerInfo, path: &str) -> Result<ProbeResult, ProbeResult> {
        // a server that is known already has said that it can serve
        let known = facts.dialect != &GENERIC;
        let mut models = match self.ask(path).await {
            Err(_) if known => return Ok(ProbeResult::Ready(Box::new(facts))),
            answer => answer?,
        };
        if models.status == StatusCode::NOT_FOUND && self.address.is_usual() {
            // nobody need have said that its API is below a version
            let unversioned = self.ask("/models").await?;
            let listed = Listing::read(&unversioned.body).is_some_and(|list| !list.data.is_empty());
            if unversioned.status.is_success() && listed {
                facts.unversioned = true;
                models = unversioned;
            }
        }
        if models.status.is_server_error() && !known {
            return Ok(ProbeResult::Loading(format!("{path} answers {}", models.status.as_u16())));
        }
        facts.locked = matches!(models.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        facts.models = Listing::read(&models.body).map(Listing::models).unwrap_or_default();
        if facts.router {
            self.ask_loaded(&mut facts).await;
        } else if let [only] = facts.models.as_mut_slice() {
            facts.traits = facts.traits.or(only.traits);
            only.traits = facts.traits;
        }
        Ok(ProbeResult::Ready(Box::new(facts)))
    }

    /// Asks each loaded model for what it can.
    async fn ask_loaded(&self, facts: &mut ServerInfo) {
        for model in facts.models.iter_mut().filter(|model| model.loaded == Some(true)).take(MOST_LOADED) {
            let Ok(props) = self.ask(&props_of(&model.id)).await else { return };
            if let Some(props) =
                props.json::<Props>().filter(|said| props.status.is_success() && said.is_llama())
            {
                model.traits = props.traits().or(model.traits);
            }
        }
    }

    async fn version(&self, path: &str) -> Result<Option<String>, ProbeResult> {
        #[derive(Deserialize)]
        struct Version {
            version: String,
            /// llama-swap's, at the path that is Ollama's otherwise.
            build_date: Option<IgnoredAny>,
        }
        let answer = self.ask(path).await?;
        let version = answer.json::<Version>().filter(|_| answer.status.is_success());
        let version = version.filter(|version| version.build_date.is_none());
        Ok(version.map(|version| facts::version(&version.version).unwrap_or_default()))
    }

    async fn server_info(&self) -> Result<Option<ServerInfoBody>, ProbeResult> {
        for path in ["/server_info", "/get_server_info"] {
            let answer = self.ask(path).await?;
            let info = answer.json::<ServerInfoBody>().filter(|_| answer.status.is_success());
            if let Some(info) = info.filter(|info| info.model_path.is_some()) {
                return Ok(Some(info));
            }
        }
        Ok(None)
    }

    async fn ask(&self, path: &str) -> Result<Answer, ProbeResult> {
        let mut request = self.client.get(self.address.url(path)).timeout(PATIENCE);
        if let Some(key) = self.key {
            request = request.bearer_auth(key.expose_secret());
        }
        let response = exchange::send(request).await.map_err(|error| {
            match (error.is_connect(), error.is_timeout()) {
                (true, _) => match (unconnected(&error), TransportError::from(error).why) {
                    (_, Why::NoDescriptor) => ProbeResult::Unseen,
                    (reason, _) => ProbeResult::Absent(reason),
                },
                (_, true) => ProbeResult::Silent("no answer in time".to_owned()),
                _ => ProbeResult::Absent(TransportError::from(error).cause),
            }
        })?;
        let status = response.status();
        let server = response.headers().get(http::header::SERVER).and_then(|v| v.to_str().ok());
        let server = server.unwrap_or("").to_owned();
        let body = super::answer::collect(&mut response.into(), ANSWER).await.unwrap_or_default().to_vec();
        Ok(Answer { status, server, body })
    }
}

/// Where a llama-server that serves several models tells of one, without loading it.
fn props_of(model: &str) -> String {
    let parameters = [("model", model), ("autoload", "false")];
    let url = reqwest::Url::parse_with_params("http://server/props", parameters);
    format!("/props?{}", url.as_ref().ok().and_then(|url| url.query()).unwrap_or_default())
}

/// Why there is no connection. Mostly nobody listens; a name that nobody knows or a certificate that nobody trusts is told
/// in the words of what found it.
fn unconnected(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        _ => cause.to_string(),
    }
}

impl Answer {
    fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// The part of SGLang's server info that we read.
#[derive(Deserialize)]
struct ServerInfoBody {
    model_path: Option<String>,
    version: Option<String>,
    #[serde(default, deserialize_with = "facts::number")]
    context_length: Option<u64>,
}

/// Whether a base URL is OpenAI's own, or Azure's of it.
fn is_openai(base: &str) -> bool {
    let host = base.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_ascii_lowercase));
    host.is_some_and(|host| host == "api.openai.com" || host.ends_with(".openai.azure.com"))
}

/// The dialect that a name of the configuration stands for; `None` for `auto`.
pub fn chosen(choice: crate::config::DialectChoice) -> Option<&'static Dialect> {
    use crate::config::DialectChoice::{Auto, Generic, LlamaServer, LmStudio, Ollama, OpenAi, Sglang, Vllm};
    match choice {
        Auto => None,
        LlamaServer => Some(&LLAMA_SERVER),
        Vllm => Some(&VLLM),
        Sglang => Some(&SGLANG),
        Ollama => Some(&OLLAMA),
        LmStudio => Some(&LM_STUDIO),
        OpenAi => Some(&OPENAI),
        Generic => Some(&GENERIC),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn absent(base: &str) -> String {
        let (client, address) = (reqwest::Client::new(), Address::of(base));
        match (Probe { client: &client, address: &address, key: None }).run().await {
            ProbeResult::Absent(reason) => reason,
            other => panic!("{base}: {other:?}"),
        }
    }

    #[test]
    fn openai_is_known_by_its_host() {
        for (base, want) in [
            ("https://api.openai.com", true),
            ("https://API.openai.com:443/v1", true),
            ("https://mine.openai.azure.com/openai/v1", true),
            ("https://api.openai.com.example", false),
            ("https://example.com/api.openai.com", false),
            ("http://127.0.0.1:8080", false),
        ] {
            assert_eq!(is_openai(base), want, "{base}");
        }
    }

    #[tokio::test]
    async fn only_a_refused_connection_is_called_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let plain = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 no TLS here\r\n\r\n").await
        });
        let no_tls = absent(&format!("https://{address}")).await;
        assert!(no_tls.contains("InvalidContentType"), "{no_tls}");
        plain.await.unwrap().unwrap();
        assert_eq!(absent(&format!("http://{address}")).await, "connection refused");
    }
}
