//! Owns which paths are passed on, and that the upstream reads each as it was judged here. It must not send anything.

use http::Method;
use percent_encoding::percent_decode_str;
use rejoinder_core::client::CODEX;
use rejoinder_core::error::{Error, Kind};
use reqwest::Url;
use wildmatch::WildMatch;

/// Which paths are passed on.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The patterns of `passthrough.paths`, each with its part before the first `*`.
    open: Vec<(WildMatch, String)>,
}

impl Paths {
    /// The paths that the patterns of `passthrough.paths` match.
    pub fn new(patterns: &[String]) -> Paths {
        let open = patterns.iter().map(|pattern| {
            let pattern = pattern.to_ascii_lowercase();
            let begin = pattern.split('*').next().unwrap_or("").to_owned();
            (WildMatch::new(&pattern), begin)
        });
        Paths { open: open.collect() }
    }

    /// Whether a request for that path, in the form that [`plain`] gives it, is passed on.
    ///
    /// # Errors
    /// 403 that names the key.
    pub fn check(&self, method: &Method, path: &str) -> Result<(), Error> {
        let managing = MANAGEMENT.iter().find(|entry| entry.is_of(method, path));
        // a pattern that happens to reach such a path does not name it
        let names = |begin: &str| managing.is_none_or(|entry| entry.has(begin));
        if self.open.iter().any(|(pattern, begin)| pattern.matches(path) && names(begin)) {
            return Ok(());
        }
        let message = match managing {
            Some(_) => format!(
                "{method} {path} manages the server, and is not passed on to it. To allow it, add it to \
                 passthrough.paths."
            ),
            None => {
                format!("{path} is not passed on to the server: no pattern of passthrough.paths matches it.")
            }
        };
        Err(Error::new(Kind::Forbidden, message).code_as("path_not_allowed"))
    }
}

/// The path without what a client puts before it for its own backend.
pub fn without_client_prefix(path: &str) -> &str {
    let behind = CODEX.path_prefix.and_then(|prefix| path.strip_prefix(prefix));
    behind.filter(|path| path.starts_with("/v1/")).unwrap_or(path)
}

/// The path as a server may read it at most: decoded, without regard to case, and to doubled or last slashes.
///
/// # Errors
/// 400 for a path that could be read in more than one way, or that the way to the upstream would change.
pub fn plain(path: &str) -> Result<String, Error> {
    let bad = |what: &str| Error::new(Kind::BadRequest, format!("The path {what}.")).code_as("invalid_path");
    if !path.starts_with('/') {
        return Err(bad("does not begin with a slash"));
    }
    if has_stray_percent(path) {
        return Err(bad("has a percent sign without two hexadecimal digits after it; write %25"));
    }
    let decoded =
        percent_decode_str(path).decode_utf8().map_err(|_| bad("is not UTF-8 once it is decoded"))?;
    if decoded.contains(char::is_control) {
        return Err(bad("has a control character"));
    }
    let mut plain = String::with_capacity(decoded.len());
    for segment in decoded.split(['/', '\\']).filter(|segment| !segment.is_empty()) {
        if matches!(segment.split(';').next(), Some("." | "..")) {
            return Err(bad("has a segment of dots"));
        }
        plain.push('/');
        plain.push_str(&segment.to_ascii_lowercase());
    }
    // what a URL may not hold, the client that sends it would encode or replace
    let sent = Url::parse(&["http://upstream", path].concat());
    if !sent.is_ok_and(|url| url.path() == path) {
        return Err(bad("has a character that must be percent-encoded"));
    }
    Ok(if plain.is_empty() { "/".to_owned() } else { plain })
}

fn has_stray_percent(path: &str) -> bool {
    path.split('%').skip(1).any(|behind| {
        let digits = behind.as_bytes().get(..2);
        !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// Whether a path is that one, or begins with it and a slash.
fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A path, with all below it, by which a server is managed.
struct Management {
    path: &'static str,
    /// Whether reading it is harmless.
    readable: bool,
}

impl Management {
    fn is_of(&self, method: &Method, path: &str) -> bool {
        self.has(path) && !(self.readable && method.is_safe())
    }

    /// Whether a path is of it, also as a path of the API, whose `/v1` is left out for a server that has none.
    fn has(&self, path: &str) -> bool {
        is_below(path, self.path) || path.strip_prefix("/v1").is_some_and(|rest| is_below(rest, self.path))
    }
}

const fn all(path: &'static str) -> Management {
    Management { path, readable: false }
}

const fn writes(path: &'static str) -> Management {
    Management { path, readable: true }
}

/// Paths that show what others ask, change what the server does for all, or reach beyond it: those that are known of
/// llama.cpp's server, vLLM, SGLang, Ollama, llama-swap and LM Studio. A release may have others, which
/// `passthrough.paths` keeps shut where it lists what is open.
static MANAGEMENT: &[Management] = &[
    // llama-server; the slots show prompts, the tools run commands, the proxy asks any address
    all("/slots"),
    all("/tools"),
    all("/cors-proxy"),
    writes("/props"),
    writes("/lora-adapters"),
    writes("/models"),
    // vLLM
    all("/abort_requests"),
    all("/collective_rpc"),
    all("/finish_weight_update"),
    all("/init_weight_transfer_engine"),
    all("/pause"),
    all("/reset_encoder_cache"),
    all("/reset_mm_cache"),
    all("/reset_prefix_cache"),
    all("/resume"),
    all("/scale_elastic_ep"),
    all("/server_info"),
    all("/sleep"),
    all("/start_profile"),
    all("/start_weight_update"),
    all("/stop_profile"),
    all("/update_weights"),
    all("/v1/load_lora_adapter"),
    all("/v1/unload_lora_adapter"),
    all("/wake_up"),
    // SGLang
    all("/abort_request"),
    all("/add_worker"),
    all("/clear_hicache_storage_backend"),
    all("/close_session"),
    all("/configure_logging"),
    all("/continue_generation"),
    all("/destroy_weights_update_group"),
    all("/dump_expert_distribution_record"),
    all("/dumper"),
    all("/flush_cache"),
    all("/freeze_gc"),
    all("/get_internal_state"),
    all("/get_server_info"),
    all("/get_weights_by_name"),
    all("/hicache"),
    all("/init_weights_send_group_for_remote_instance"),
    all("/init_weights_update_group"),
    all("/load_lora_adapter"),
    all("/load_lora_adapter_from_tensors"),
    all("/open_session"),
    all("/pause_generation"),
    all("/release_memory_occupation"),
    all("/remove_worker"),
    all("/resume_memory_occupation"),
    all("/send_weights_to_remote_instance"),
    all("/set_internal_state"),
    all("/set_trace_level"),
    all("/slow_down"),
    all("/start_expert_distribution_record"),
    all("/stop_expert_distribution_record"),
    all("/unload_lora_adapter"),
    all("/update_weight_version"),
    all("/update_weights_from_disk"),
    all("/update_weights_from_distributed"),
    all("/update_weights_from_ipc"),
    all("/update_weights_from_tensor"),
    all("/weights_checker"),
    // Ollama
    writes("/api/blobs"),
    writes("/api/copy"),
    writes("/api/create"),
    writes("/api/delete"),
    writes("/api/pull"),
    writes("/api/push"),
    writes("/api/signout"),
    writes("/api/user"),
    // LM Studio
    writes("/api/v1/models"),
    // llama-swap; below /upstream are all paths of the servers behind it
    all("/api/models/unload"),
    all("/logs"),
    all("/unload"),
    all("/upstream"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn status(paths: &Paths, method: &Method, path: &str) -> u16 {
        let judged = plain(path).and_then(|path| paths.check(method, &path));
        judged.map_or_else(|error| error.status(), |()| 200)
    }

    fn paths(patterns: &[&str]) -> Paths {
        Paths::new(&patterns.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_path_that_could_be_read_in_two_ways_is_refused() {
        for path in [
            "/v1/../slots",
            "/..",
            "/.",
            "/a/./b",
            "/v1/%2e%2e/slots",
            "/v1/%2E./slots",
            "/v1/..%2fslots",
            "/v1%2f..%2fslots",
            "/v1/..;/slots",
            "/v1\\..\\slots",
            "/\\slots",
            "/v1\\slots",
            "/%",
            "/%7",
            "/%zz",
            "/%u0073lots",
            "/a%00",
            "/%0a",
            "/%ff",
            "/a\"b",
            "/{a}",
            "/caf\u{e9}",
            "*",
            "",
            "slots",
            "@evil.example/",
            ":80/",
        ] {
            assert_eq!(plain(path).map_err(|error| error.status()), Err(400), "{path:?}");
        }
    }

    #[test]
    fn every_spelling_of_a_path_has_one_plain_form() {
        for (path, want) in [
            ("/", "/"),
            ("//", "/"),
            ("/v1/embeddings", "/v1/embeddings"),
            ("/V1/Embeddings/", "/v1/embeddings"),
            ("//v1///embeddings", "/v1/embeddings"),
            ("/%73lots", "/slots"),
            ("/v1/models/org%2Fname", "/v1/models/org/name"),
            ("/a%5Cb", "/a/b"),
            ("/100%25", "/100%"),
            ("/files/a..b/.well-known/...", "/files/a..b/.well-known/..."),
            ("/caf%C3%A9", "/café"),
        ] {
            assert_eq!(plain(path).unwrap(), want, "{path}");
        }
    }

    #[test]
    fn management_is_closed_in_every_spelling_until_it_is_named() {
        let usual = paths(&["*"]);
        for (method, path, want) in [
            (Method::POST, "/v1/embeddings", 200),
            (Method::GET, "/", 200),
            (Method::GET, "/props", 200),
            (Method::POST, "/props", 403),
            (Method::GET, "/lora-adapters", 200),
            (Method::POST, "/lora-adapters", 403),
            (Method::GET, "/slots", 403),
            (Method::HEAD, "/slots", 403),
            (Method::POST, "/slots/0", 403),
            (Method::GET, "/slots/", 403),
            (Method::GET, "//slots", 403),
            (Method::GET, "/SLOTS", 403),
            (Method::GET, "/%73lots", 403),
            (Method::GET, "/%5Cslots", 403),
            (Method::GET, "/%2Fslots", 403),
            (Method::GET, "/v1/slots", 403),
            (Method::GET, "/v1%2Fslots", 403),
            (Method::POST, "/v1/models/load", 403),
            (Method::GET, "/slotsx", 200),
            (Method::POST, "/models/load", 403),
            (Method::DELETE, "/models", 403),
            (Method::POST, "/cors-proxy", 403),
            (Method::POST, "/tools", 403),
            (Method::POST, "/v1/load_lora_adapter", 403),
            (Method::POST, "/collective_rpc", 403),
            (Method::DELETE, "/api/delete", 403),
            (Method::GET, "/api/tags", 200),
            (Method::GET, "/api/ps", 200),
            (Method::GET, "/upstream/m/slots", 403),
            (Method::GET, "/metrics", 200),
        ] {
            assert_eq!(status(&usual, &method, path), want, "{method} {path}");
        }
        let named = paths(&["*", "/slots", "/slots/*", "/v1/load_lora*"]);
        for path in ["/slots", "/slots/3", "/v1/embeddings"] {
            assert_eq!(status(&named, &Method::POST, path), 200, "{path}");
        }
        assert_eq!(status(&named, &Method::POST, "/models/load"), 403);
        assert_eq!(status(&named, &Method::POST, "/v1/load_lora_adapter"), 403, "not named in full");
    }

    #[test]
    fn no_spelling_of_any_management_path_is_open() {
        let usual = ["*", "/*", "/v1/*", "/a*", "/s*"].map(|pattern| paths(&[pattern]));
        for entry in MANAGEMENT {
            let path = entry.path;
            let (head, tail) = path.split_at(path.len() - 1);
            let encoded = format!("{head}%{:02x}", tail.as_bytes()[0]);
            let slashes = path.replace('/', "//");
            for spelling in [
                path,
                &encoded,
                &slashes,
                &path.to_uppercase(),
                &format!("/{}", path.replace('/', "%2f")),
                &format!("/v1{path}"),
            ] {
                for end in ["", "/", "/x", "//", "/%78"] {
                    let spelling = format!("{spelling}{end}");
                    for paths in &usual {
                        assert_eq!(status(paths, &Method::POST, &spelling), 403, "{spelling}");
                    }
                    let named = paths(&["*", path, &format!("{path}/*"), &format!("/v1{path}*")]);
                    assert_eq!(status(&named, &Method::POST, &spelling), 200, "{spelling}");
                }
            }
        }
    }

    #[test]
    fn only_what_is_listed_is_passed_on() {
        let some = paths(&["/v1/chat/completions", "/v1/audio/*"]);
        for (path, want) in [
            ("/v1/chat/completions", 200),
            ("/v1/chat/completions/", 200),
            ("/v1/audio/speech", 200),
            ("/v1/audio", 403),
            ("/v1/embeddings", 403),
            ("/", 403),
            ("/v1/audio/%2e%2e/embeddings", 400),
        ] {
            assert_eq!(status(&some, &Method::POST, path), want, "{path}");
        }
        assert_eq!(status(&paths(&["/v1/*"]), &Method::POST, "/v1/load_lora_adapter"), 403);
        assert_eq!(status(&paths(&["/v1/*"]), &Method::GET, "/v1/slots"), 403);
        assert_eq!(status(&paths(&["/v1/slots"]), &Method::GET, "/v1/slots"), 200);
        assert_eq!(status(&paths(&[]), &Method::GET, "/"), 403);
        let error = some.check(&Method::GET, "/slots").unwrap_err();
        assert!(error.message.contains("passthrough.paths"), "{}", error.message);
    }
}
