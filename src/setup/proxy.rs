//! Owns the running proxy as `setup` sees it: where it is, its models, and what it asks of clients. It must not change
//! anything there.

use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderName, StatusCode};
use rejoinder_core::client::{CODEX, CODEX_MODELS};
use reqwest::{Client, RequestBuilder, Response, Url};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Choice, Env};
use crate::telemetry::escaped;
use crate::upstream;

/// Models that clients without a catalog are told of, at most; of more only the chosen one.
const MANY: usize = 12;
/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(75);
/// How long a server that is not ready is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Silence until it is said what is waited for.
const QUIET: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(500);
/// Tokens of an answer: at most, at least, and where the context is not known.
const OUTPUT: [u64; 3] = [32_768, 1024, 8192];
/// The handshake of a WebSocket, whose key may be anything.
const HANDSHAKE: [(HeaderName, &str); 4] = [
    (CONNECTION, "upgrade"),
    (UPGRADE, "websocket"),
    (http::header::SEC_WEBSOCKET_VERSION, "13"),
    (http::header::SEC_WEBSOCKET_KEY, "c2V0dXAgb2YgYSBjbGllbnQ="),
];

/// A running rejoinder.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// With `/v1`.
    pub base_url: String,
    /// The variable that holds the key, if one is asked for.
    pub key_env: Option<String>,
    /// Whether `GET /v1/responses` becomes a WebSocket.
    pub websocket: bool,
    /// Whether `web_search` works, by a wrapper.
    pub web_search: bool,
    /// The chosen model first.
    chosen: ProxyModel,
    others: Vec<ProxyModel>,
    /// Whether the user named it.
    named: bool,
}

/// One of its models.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyModel {
    /// The name that clients send.
    pub id: String,
    /// Tokens of one conversation, if known.
    pub context: Option<u64>,
    /// Whether it is known to see.
    pub images: bool,
    /// Values of `reasoning.effort` that make a difference, the least first.
    pub efforts: Vec<String>,
}

impl ProxyModel {
    /// The most tokens of one answer that leave room for the question.
    pub fn output(&self) -> u64 {
        let [most, least, unknown] = OUTPUT;
        self.context.map_or(unknown, |context| (context / 4).clamp(least, most))
    }

    /// The effort to begin with.
    pub fn usual_effort(&self) -> Option<&str> {
        let usual = self.efforts.iter().find(|effort| *effort == "medium");
        usual.or_else(|| self.efforts.get(self.efforts.len() / 2)).map(String::as_str)
    }
}

impl Proxy {
    /// Asks the proxy that is named, or the one of `listen`; waits for one whose server loads its model.
    ///
    /// # Errors
    /// Why there is none, or none that can be used, and what to do.
    pub fn find(choice: &Choice, listen: SocketAddr, web_search: bool, env: &Env) -> Result<Proxy, String> {
        let base = match &choice.url {
            Some(url) => base_of(url)?,
            None => format!("http://{}/v1", reachable("listen", listen)?),
        };
        let key = choice.key_env.as_deref().map(|name| {
            env.value(name).ok_or_else(|| format!("--key-env {name}: that variable is not set, or empty"))
        });
        let key = key.transpose()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start the runtime: {error}"))?;
        let client = Client::builder().no_proxy().http1_only().timeout(TIMEOUT);
        // no roots are read for what is not encrypted
        let client = if base.starts_with("http:") { client.tls_certs_only([]) } else { client };
        let client = client.build().map_err(upstream::causes)?;
        let get = |path: &str| {
            let request = client.get(format!("{base}{path}"));
            match key {
                Some(key) => request.bearer_auth(key),
                None => request,
            }
        };
        let (models, websocket) = runtime.block_on(async {
            let models = models(&base, || get("/models")).await?;
            Ok::<_, String>((models, takes_websockets(get("/responses")).await))
        })?;
        Proxy::of(base, choice, models, websocket, web_search)
    }

    /// With the model that is wanted, or the first.
    fn of(
        base_url: String,
        choice: &Choice,
        mut models: Vec<ProxyModel>,
        websocket: bool,
        web_search: bool,
    ) -> Result<Proxy, String> {
        let place = match &choice.model {
            None => 0,
            Some(name) => models.iter().position(|model| model.id == *name).ok_or_else(|| {
                let names: Vec<&str> = models.iter().map(|model| model.id.as_str()).collect();
                format!("--model {name}: rejoinder does not list it; it lists {}", escaped(&names.join(", ")))
            })?,
        };
        if place >= models.len() {
            return Err(format!("rejoinder at {base_url} lists no model: \"rejoinder doctor\" says why"));
        }
        let chosen = models.remove(place);
        let (key_env, named) = (choice.key_env.clone(), choice.model.is_some());
        Ok(Proxy { base_url, key_env, websocket, web_search, chosen, others: models, named })
    }

    /// The model that is used.
    pub fn model(&self) -> &ProxyModel {
        &self.chosen
    }

    /// The models that a client without a catalog is told of, the chosen one first.
    pub fn shown(&self) -> impl Iterator<Item = &ProxyModel> {
        let all = !self.named && self.others.len() < MANY;
        std::iter::once(&self.chosen).chain(self.others.iter().filter(move |_| all))
    }

    /// What to know, whatever the client is; `unknown` is what it does without a context.
    pub fn notes(&self, unknown: impl Fn(&str) -> String) -> Vec<String> {
        let id = escaped(&self.chosen.id);
        let first = CODEX_MODELS.first_request;
        let mut notes = Vec::new();
        match self.chosen.context {
            None => notes.push(unknown(&id)),
            Some(context) if context < 2 * first => notes.push(format!(
                "{id} has a context of {context} tokens, which is small: {}'s first request takes about {first}.",
                CODEX.name
            )),
            Some(_) => {}
        }
        if let Some(variable) = &self.key_env {
            notes.push(format!(
                "The key is read from {variable}: export it in the shell that starts the client."
            ));
        }
        if !self.others.is_empty() && !self.named {
            let names: Vec<&str> = self.others.iter().take(MANY).map(|model| model.id.as_str()).collect();
            let more = if self.others.len() > MANY { ", ..." } else { "" };
            notes.push(format!(
                "The model is {id}; with --model it is another: {}{more}",
                escaped(&names.join(", "))
            ));
        }
        notes.retain(|note| !note.is_empty());
        notes
    }
}

/// The base URL with its `/v1`.
fn base_of(url: &str) -> Result<String, String> {
    let parsed = Url::parse(url).map_err(|error| format!("--url {url}: {error}"))?;
    if !matches!(parsed.scheme(), "http" | "https")
        || parsed.query().is_some()
        || !parsed.username().is_empty()
    {
        return Err(format!(
            "--url {url}: expected the base URL of rejoinder, such as http://127.0.0.1:8081/v1"
        ));
    }
    let base = parsed.as_str().trim_end_matches('/');
    Ok(if base.ends_with("/v1") { base.to_owned() } else { format!("{base}/v1") })
}

/// The address by which this machine reaches what listens at the address of that key.
pub fn reachable(key: &str, listen: SocketAddr) -> Result<SocketAddr, String> {
    if listen.port() == 0 {
        return Err(format!("{key} has port 0: give the real address with --url"));
    }
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok(SocketAddr::new(ip, listen.port()))
}

/// Its models, as soon as its server is ready.
async fn models(base: &str, ask: impl Fn() -> RequestBuilder) -> Result<Vec<ProxyModel>, String> {
    let mut waiting = Waiting::new();
    loop {
        let answer = waiting.until(ask().send()).await;
        let answer = answer.map_err(|error| {
            let advice = if error.is_connect() {
                "start it first (rejoinder --upstream URL), or say where it is (--listen ADDR, --url URL)"
            } else {
                "\"rejoinder doctor\" says how its servers are"
            };
            format!("no rejoinder answers at {base} ({}): {advice}", escaped(&upstream::causes(error)))
        })?;
        let (status, text) = read(answer).await?;
        match status {
            StatusCode::SERVICE_UNAVAILABLE if waiting.since.elapsed() < PATIENCE => {
                waiting.until(tokio::time::sleep(PAUSE)).await;
            }
            StatusCode::OK => return listed(base, &text),
            StatusCode::UNAUTHORIZED => {
                return Err(format!(
                    "rejoinder at {base} asks for an API key: export one in a variable and name it with --key-env VARIABLE \
                     (\"rejoinder keys add NAME\" makes one)"
                ));
            }
            status => {
                let text = escaped(text.get(..300).unwrap_or(&text));
                return Err(format!(
                    "{base}/models answers {status}: {text}; \"rejoinder doctor\" says how its servers are"
                ));
            }
        }
    }
}

async fn read(answer: Response) -> Result<(StatusCode, String), String> {
    let status = answer.status();
    let text =
        answer.text().await.map_err(|error| format!("no whole answer: {}", upstream::causes(error)))?;
    Ok((status, text))
}

/// Whether a WebSocket is accepted there.
async fn takes_websockets(request: RequestBuilder) -> bool {
    let request = HANDSHAKE.into_iter().fold(request, |request, (name, value)| request.header(name, value));
    request.send().await.is_ok_and(|answer| answer.status() == StatusCode::SWITCHING_PROTOCOLS)
}

/// Says what is waited for, once that takes long.
struct Waiting {
    since: Instant,
    told: bool,
}

impl Waiting {
    fn new() -> Waiting {
        Waiting { since: Instant::now(), told: false }
    }

    async fn until<T>(&mut self, done: impl Future<Output = T>) -> T {
        tokio::pin!(done);
        loop {
            tokio::select! {
                done = &mut done => return done,
                () = tokio::time::sleep(QUIET.saturating_sub(self.since.elapsed()).max(PAUSE)) => self.tell(),
            }
        }
    }

    fn tell(&mut self) {
        let seconds = self.since.elapsed();
        if seconds < QUIET || (self.told && !io::stderr().is_terminal()) {
            return;
        }
        let mut out = io::stderr();
        let begin = if self.told { "\r" } else { "" };
        let _ = write!(out, "{begin}waiting until the model is loaded ... {} s", seconds.as_secs());
        self.told = true;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.told {
            let _ = writeln!(io::stderr());
        }
    }
}

/// `GET /v1/models`, as far as it is of use here.
#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    data: Vec<IgnoredAny>,
    models: Vec<Entry>,
}

/// One model of the catalog.
#[derive(Deserialize)]
struct Entry {
    slug: String,
    context_window: Option<u64>,
    #[serde(default)]
    input_modalities: Vec<String>,
    #[serde(default)]
    supported_reasoning_levels: Vec<Level>,
}

#[derive(Deserialize)]
struct Level {
    effort: String,
}

fn listed(base: &str, text: &str) -> Result<Vec<ProxyModel>, String> {
    let Ok(Listed { models, data }) = serde_json::from_str(text) else {
        return Err(format!(
            "what answers at {base} is not rejoinder: say where it is (--listen ADDR, --url URL), or start it (rejoinder \
             --upstream URL)"
        ));
    };
    drop(data);
    let model = |entry: Entry| ProxyModel {
        id: entry.slug,
        context: entry.context_window,
        images: entry.input_modalities.iter().any(|kind| kind == "image"),
        efforts: entry.supported_reasoning_levels.into_iter().map(|level| level.effort).collect(),
    };
    Ok(models.into_iter().map(model).collect())
}

#[cfg(test)]
pub(super) fn example() -> Proxy {
    let model =
        |id: &str, context| ProxyModel { id: id.to_owned(), context, images: false, efforts: Vec::new() };
    let models = vec![model("local", Some(32768))];
    Proxy::of("http://127.0.0.1:8081/v1".to_owned(), &Choice::default(), models, true, false).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_taken_with_and_without_its_version() {
        for (url, want) in [
            ("http://h:1", Ok("http://h:1/v1")),
            ("http://h:1/", Ok("http://h:1/v1")),
            ("https://h/v1/", Ok("https://h/v1")),
            ("http://h/a/v1", Ok("http://h/a/v1")),
            ("h:1", Err(())),
            ("ftp://h", Err(())),
            ("http://user@h", Err(())),
        ] {
            assert_eq!(base_of(url).map_err(|_| ()), want.map(str::to_owned), "{url}");
        }
        let listen =
            |text: &str| reachable("listen", text.parse().unwrap()).map(|address| address.to_string());
        assert_eq!(listen("0.0.0.0:1"), Ok("127.0.0.1:1".to_owned()));
        assert_eq!(listen("[::]:1"), Ok("[::1]:1".to_owned()));
        assert!(listen("127.0.0.1:0").unwrap_err().contains("--url"));
    }

    #[test]
    fn another_server_is_not_taken_for_rejoinder() {
        let llama = r#"{"object":"list","data":[{"id":"q"}],"models":[{"name":"q","model":"q"}]}"#;
        for text in [llama, r#"{"object":"list","data":[{"id":"q"}]}"#, "<html>", "[]"] {
            assert!(listed("http://h/v1", text).unwrap_err().contains("not rejoinder"), "{text}");
        }
    }

    #[test]
    fn a_model_is_chosen_by_name_and_others_are_named() {
        let models = || {
            let model = |id: &str| ProxyModel { id: id.to_owned(), ..ProxyModel::default() };
            vec![model("a"), model("b")]
        };
        let of = |model: Option<&str>| {
            let choice = Choice { model: model.map(str::to_owned), ..Choice::default() };
            Proxy::of("http://h/v1".to_owned(), &choice, models(), false, false)
        };
        let ids = |proxy: &Proxy| proxy.shown().map(|model| model.id.clone()).collect::<Vec<_>>();
        let first = of(None).unwrap();
        assert_eq!(ids(&first), ["a", "b"]);
        let notes = first.notes(|model| format!("{model} unknown"));
        assert!(
            notes[0] == "a unknown" && notes[1].contains("--model") && notes[1].contains('b'),
            "{notes:?}"
        );
        assert_eq!(ids(&of(Some("b")).unwrap()), ["b"]);
        assert!(of(Some("c")).unwrap_err().contains("it lists a, b"));
    }
}
