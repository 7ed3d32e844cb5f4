//! Owns who may call: by the name that a request calls us by, and by the web page that it comes from. It must not look
//! at what is asked for.
//!
//! A web page that somebody opens on this machine can send requests to 127.0.0.1. A browser says of them which page they
//! come from (`Origin`, `Sec-Fetch-Site`); where the page's own name was made to lead here (DNS rebinding) that name is in
//! `Host`. Programs send neither, and are not concerned.

mod host;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{HeaderMap, Request, Version};
use http_body::Body;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};
use wildmatch::WildMatch;

use host::Host;
use rejoinder_core::error::{Error, Kind};

/// Apps on the desktop whose pages no website can pass itself off as.
const DESKTOP: [&str; 5] = ["app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*"];
/// What a page may read of an answer beside what every page may.
const EXPOSED: [HeaderName; 10] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("openai-processing-ms"),
    HeaderName::from_static("x-should-retry"),
    header::RETRY_AFTER,
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];
/// How long a browser may keep what a preflight said; Chromium keeps nothing for longer than two hours.
const PREFLIGHT_AGE: Duration = Duration::from_secs(3600);
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Which hosts and web pages may call an address, by `Host` and `Origin`; writes the CORS headers.
#[derive(Debug, Clone)]
pub struct OriginPolicy {
    hosts: Patterns,
    /// Whether a name that is not in `hosts` is let in.
    any_name: bool,
    /// Whether an address that is not loopback is let in: no DNS can lead to us by it.
    any_address: bool,
    origins: Patterns,
}

impl OriginPolicy {
    /// The rules of the API's address.
    pub fn of_api(listen: SocketAddr, allowed_hosts: &[String], origins: &[String]) -> OriginPolicy {
        let elsewhere = !is_loopback(listen.ip());
        OriginPolicy {
            hosts: Patterns::new(allowed_hosts),
            // what names lead to an address of a network, only its operator knows
            any_name: elsewhere && allowed_hosts.is_empty(),
            any_address: elsewhere,
            origins: Patterns::new(origins.iter().map(String::as_str).chain(DESKTOP)),
        }
    }

    /// The rules of the admin address: probes and scrapers may call, web pages may not.
    pub fn of_admin(admin: SocketAddr, allowed_hosts: &[String]) -> OriginPolicy {
        OriginPolicy {
            hosts: Patterns::new(allowed_hosts),
            any_name: false,
            // an orchestrator's probes call by the address of the container
            any_address: !is_loopback(admin.ip()),
            origins: Patterns::new::<&str>([]),
        }
    }

    /// Whether web pages of every origin may call.
    pub fn any_origin(&self) -> bool {
        self.origins.has("*")
    }

    /// Refuses a request that was sent under a foreign name, or by a page that is not let in.
    ///
    /// # Errors
    /// 400 without one proper `Host`, 403 otherwise.
    pub fn admit<B>(&self, request: &Request<B>) -> Result<(), Error> {
        let host = self.host(request)?;
        let headers = request.headers();
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => self.admit_unnamed(headers),
            (Some(origin), None) if self.lets_in(origin, host.as_ref()) => Ok(()),
            (Some(origin), _) => {
                Err(self.foreign(&format!("{:?}", String::from_utf8_lossy(origin.as_bytes()))))
            }
        }
    }

    /// The host that the request names.
    fn host<B>(&self, request: &Request<B>) -> Result<Option<Host>, Error> {
        let bad = |message: &str| Error::new(Kind::BadRequest, message).code_as("invalid_host");
        let mut values = request.headers().get_all(header::HOST).iter();
        let value = values.next();
        if values.next().is_some() {
            return Err(bad("The request has more than one Host header."));
        }
        let in_target = request.uri().authority().map(Authority::as_str);
        let in_header = value.map(|value| value.to_str().unwrap_or("?"));
        let mut named = None;
        for text in [in_target, in_header].into_iter().flatten() {
            let host = Host::read(text).ok_or_else(|| bad("The request's Host is not a host name."))?;
            if !self.answers_to(&host) {
                let message = format!(
                    "The host {:?} is not allowed, since a web page could lead a browser here by it. If the name is \
                     yours, or that of a reverse proxy in front of this server, add it to allowed_hosts.",
                    host.name
                );
                return Err(Error::new(Kind::Forbidden, message).code_as("host_not_allowed"));
            }
            named = named.or(Some(host));
        }
        // a check of HAProxy's, for example, is HTTP/1.0 without a host; browsers speak no HTTP/1.0
        if named.is_none() && request.version() >= Version::HTTP_11 {
            return Err(bad("The request has no Host header."));
        }
        Ok(named)
    }

    fn answers_to(&self, host: &Host) -> bool {
        let own = match host.address() {
            Some(address) => self.any_address || is_loopback(address),
            None => self.any_name || host.name == "localhost" || host.name.ends_with(".localhost"),
        };
        own || self.hosts.any(&host.name)
    }

    fn lets_in(&self, origin: &HeaderValue, host: Option<&Host>) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        self.origins.any(origin) || host.is_some_and(|host| host.serves(origin))
    }

    /// What names no origin: programs, and of a page's requests those that it makes without wanting to read the answer
    /// (images, scripts, links).
    fn admit_unnamed(&self, headers: &HeaderMap) -> Result<(), Error> {
        let own = |value: &HeaderValue| matches!(value.as_bytes(), b"none" | b"same-origin");
        match headers.get_all(SEC_FETCH_SITE).iter().all(own) || self.any_origin() {
            true => Ok(()),
            false => Err(self.foreign("another site")),
        }
    }

    fn foreign(&self, of: &str) -> Error {
        let message = match self.origins.0.is_empty() {
            true => format!("A web page of {of} sent this request; no web page may."),
            false => format!(
                "A web page of {of} may not use this server. To allow it, add its origin to cors.origins \
                 (\"https://app.example\")."
            ),
        };
        Error::new(Kind::Forbidden, message).code_as("origin_not_allowed")
    }

    /// What lets pages of allowed origins read our answers, and answers their preflights.
    pub fn cors(&self) -> CorsLayer {
        let origins = self.origins.clone();
        let allowed =
            move |origin: &HeaderValue, _: &_| origin.to_str().is_ok_and(|origin| origins.any(origin));
        CorsLayer::new()
            .allow_origin(AllowOrigin::predicate(allowed))
            .allow_methods(AllowMethods::mirror_request())
            .allow_headers(AllowHeaders::mirror_request())
            .allow_private_network(true)
            .expose_headers(EXPOSED)
            .max_age(PREFLIGHT_AGE)
    }
}

/// Refuses a body that a page could send without a preflight: one that does not say that it is JSON. Paths that are
/// passed on also take forms with files, which have no other type.
///
/// # Errors
/// 415.
pub fn check_body<B: Body>(request: &Request<B>, passed_on: bool) -> Result<(), Error> {
    let headers = request.headers();
    let site = headers.get(SEC_FETCH_SITE).is_some_and(|site| site != "none");
    if !(site || headers.contains_key(header::ORIGIN)) || request.body().is_end_stream() {
        return Ok(());
    }
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = value.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let json = essence.ends_with("/json") || essence.ends_with("+json");
    let simple = matches!(essence.as_str(), "" | "text/plain" | "application/x-www-form-urlencoded");
    if json || (passed_on && !simple) {
        return Ok(());
    }
    let message = "A request of a web page needs the header Content-Type: application/json.";
    Err(Error::new(Kind::UnsupportedType, message))
}

/// Texts in which `*` stands for any text, compared without regard to case.
#[derive(Debug, Clone)]
struct Patterns(Vec<WildMatch>);

impl Patterns {
    fn new<T: AsRef<str>>(patterns: impl IntoIterator<Item = T>) -> Patterns {
        Patterns(patterns.into_iter().map(|text| WildMatch::new_case_insensitive(text.as_ref())).collect())
    }

    fn any(&self, text: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(text))
    }

    fn has(&self, pattern: &str) -> bool {
        self.0.iter().any(|one| one.pattern() == pattern)
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: &str = "127.0.0.1:8081";
    const EVERYWHERE: &str = "0.0.0.0:8081";

    fn api(listen: &str, hosts: &[&str], origins: &[&str]) -> OriginPolicy {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        OriginPolicy::of_api(listen.parse().unwrap(), &owned(hosts), &owned(origins))
    }

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let request =
            headers.iter().fold(Request::get("/"), |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap()
    }

    fn status(policy: &OriginPolicy, headers: &[(&str, &str)]) -> u16 {
        policy.admit(&request(headers)).map_or_else(|error| error.status(), |()| 200)
    }

    #[test]
    fn a_loopback_address_answers_to_loopback_names() {
        let policy = api(LOOPBACK, &[], &[]);
        for host in [
            "localhost",
            "LOCALHOST:1",
            "localhost.",
            "a.localhost:8081",
            "127.0.0.1",
            "127.8.9.1:80",
            "[::1]:8081",
            "[::ffff:127.0.0.1]",
        ] {
            assert_eq!(status(&policy, &[("host", host)]), 200, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8081",
            "localhost.evil.example",
            "notlocalhost",
            "10.0.0.1",
            "[fe80::1]",
            "127.0.0.1.nip.example",
            "a,localhost",
            "0x7f.1",
        ] {
            let error = policy.admit(&request(&[("host", host)])).unwrap_err();
            assert_eq!(error.status(), 403, "{host}");
            assert!(error.message.contains("allowed_hosts"), "{}", error.message);
        }
        for host in ["", "a b", "user@localhost", "http://localhost", "localhost/x", "\""] {
            assert_eq!(status(&policy, &[("host", host)]), 400, "{host}");
        }
        assert_eq!(status(&policy, &[]), 400);
        assert_eq!(status(&policy, &[("host", "localhost"), ("host", "localhost")]), 400);
        let mut old = request(&[]);
        *old.version_mut() = Version::HTTP_10;
        assert!(policy.admit(&old).is_ok());
    }

    #[test]
    fn a_target_that_names_a_host_is_judged_too() {
        let policy = api(LOOPBACK, &[], &[]);
        let absolute = |host| Request::get("http://evil.example/").header("host", host).body(()).unwrap();
        assert_eq!(policy.admit(&absolute("localhost")).unwrap_err().status(), 403);
        let mut http2 = Request::get("http://localhost:8081/").body(()).unwrap();
        *http2.version_mut() = Version::HTTP_2;
        assert!(policy.admit(&http2).is_ok());
    }

    #[test]
    fn names_are_let_in_by_allowed_hosts() {
        for listen in [LOOPBACK, EVERYWHERE] {
            let policy = api(listen, &["llm.example", "*.lan"], &[]);
            for (host, want) in [
                ("llm.example:8443", 200),
                ("LLM.example", 200),
                ("gpu.lan", 200),
                ("127.0.0.1", 200),
                ("lan", 403),
                ("evil.example", 403),
                ("llm.example.evil.example", 403),
            ] {
                assert_eq!(status(&policy, &[("host", host)]), want, "{listen} {host}");
            }
        }
        assert_eq!(status(&api(LOOPBACK, &["*"], &[]), &[("host", "evil.example")]), 200);
        assert_eq!(status(&api(EVERYWHERE, &[], &[]), &[("host", "gpu.example")]), 200);
        assert_eq!(status(&api(EVERYWHERE, &["llm.example"], &[]), &[("host", "10.0.0.7:8081")]), 200);
    }

    #[test]
    fn admin_answers_to_addresses_where_it_is_not_on_loopback() {
        for (admin, host, want) in [
            (LOOPBACK, "localhost:8082", 200),
            (LOOPBACK, "10.1.2.3:8082", 403),
            (EVERYWHERE, "10.1.2.3:8082", 200),
            (EVERYWHERE, "[fd00::7]:8082", 200),
            (EVERYWHERE, "evil.example", 403),
        ] {
            assert_eq!(
                status(&OriginPolicy::of_admin(admin.parse().unwrap(), &[]), &[("host", host)]),
                want,
                "{admin} {host}"
            );
        }
        let policy = OriginPolicy::of_admin(EVERYWHERE.parse().unwrap(), &["rejoinder".to_owned()]);
        assert_eq!(status(&policy, &[("host", "rejoinder:8082")]), 200);
        assert_eq!(status(&policy, &[("host", "rejoinder"), ("origin", "app://x")]), 403);
        assert_eq!(status(&policy, &[("host", "rejoinder"), ("sec-fetch-site", "cross-site")]), 403);
    }

    #[test]
    fn pages_are_let_in_by_origin() {
        let own = "127.0.0.1:8081";
        let allowed =
            ["https://app.example", "http://localhost:*", "https://*.wild.example", "chrome-extension://abc"];
        for (origin, alone, listed) in [
            ("https://evil.example", 403, 403),
            ("null", 403, 403),
            ("", 403, 403),
            ("http://127.0.0.1:3000", 403, 403),
            ("http://127.0.0.1", 403, 403),
            ("http://127.0.0.1:8081", 200, 200),
            ("http://localhost:3000", 403, 200),
            ("http://localhost:8081", 403, 200),
            ("https://app.example", 403, 200),
            ("https://app.example:8443", 403, 403),
            ("http://app.example", 403, 403),
            ("https://app.example.evil.example", 403, 403),
            ("https://a.wild.example", 403, 200),
            ("https://wild.example", 403, 403),
            ("chrome-extension://abc", 403, 200),
            ("chrome-extension://abcd", 403, 403),
            ("tauri://localhost", 200, 200),
            ("app://obsidian.md", 200, 200),
            ("vscode-webview://1a2b", 200, 200),
            ("file://", 200, 200),
        ] {
            let headers = [("host", own), ("origin", origin), ("sec-fetch-site", "cross-site")];
            assert_eq!(status(&api(LOOPBACK, &[], &[]), &headers), alone, "{origin}");
            assert_eq!(status(&api(LOOPBACK, &[], &allowed), &headers), listed, "{origin}");
            assert_eq!(status(&api(LOOPBACK, &[], &["*"]), &headers), 200, "{origin}");
        }
        let behind_tls = [("host", "llm.example"), ("origin", "https://llm.example")];
        assert_eq!(status(&api(LOOPBACK, &["llm.example"], &[]), &behind_tls), 200);
        let twice = [("host", own), ("origin", "http://127.0.0.1:8081"), ("origin", "https://evil.example")];
        assert_eq!(status(&api(LOOPBACK, &[], &[]), &twice), 403);
        let error =
            api(LOOPBACK, &[], &[]).admit(&request(&[("host", own), ("origin", "null")])).unwrap_err();
        assert!(error.message.contains("cors.origins"), "{}", error.message);
    }

    #[test]
    fn what_a_page_asks_for_without_an_origin_is_told_by_its_site() {
        for (site, want) in
            [("none", 200), ("same-origin", 200), ("same-site", 403), ("cross-site", 403), ("what", 403)]
        {
            let headers = [("host", "localhost"), ("sec-fetch-site", site)];
            assert_eq!(status(&api(LOOPBACK, &[], &["https://app.example"]), &headers), want, "{site}");
            assert_eq!(status(&api(LOOPBACK, &[], &["*"]), &headers), 200, "{site}");
        }
    }

    #[test]
    fn a_page_says_that_its_body_is_json() {
        let post = |headers: &[(&str, &str)], body: &'static str| {
            let request = headers
                .iter()
                .fold(Request::post("/"), |request, (name, value)| request.header(*name, *value));
            request.body(body.to_owned()).unwrap()
        };
        let page = ("origin", "tauri://localhost");
        for (headers, body, own, passed) in [
            (vec![("content-type", "application/x-www-form-urlencoded")], "{}", 200, 200),
            (vec![], "{}", 200, 200),
            (vec![("sec-fetch-site", "none"), ("content-type", "text/plain")], "{}", 200, 200),
            (vec![("sec-fetch-site", "same-origin"), ("content-type", "text/plain")], "{}", 415, 415),
            (vec![page], "", 200, 200),
            (vec![page], "{}", 415, 415),
            (vec![page, ("content-type", "text/plain")], "{}", 415, 415),
            (vec![page, ("content-type", "Text/Plain; x=application/json")], "{}", 415, 415),
            (vec![page, ("content-type", "application/x-www-form-urlencoded")], "{}", 415, 415),
            (vec![page, ("content-type", "multipart/form-data; boundary=x")], "{}", 415, 200),
            (vec![page, ("content-type", "application/octet-stream")], "{}", 415, 200),
            (vec![page, ("content-type", "application/JSON; charset=utf-8")], "{}", 200, 200),
            (vec![page, ("content-type", "application/vnd.x+json")], "{}", 200, 200),
        ] {
            for (passed_on, want) in [(false, own), (true, passed)] {
                let found = check_body(&post(&headers, body), passed_on);
                assert_eq!(found.map_or_else(|error| error.status(), |()| 200), want, "{headers:?}");
            }
        }
    }
}
