//! Owns what a base URL may be, and which part of it is the server's root and which the API's. It must not know what is
//! asked for there.

use reqwest::Url;

/// What a URL of the configuration may be.
pub(super) const A_URL: &str = "a URL such as \"http://127.0.0.1:8080\"";

/// Where the API is below a root that names none.
const USUAL: &str = "/v1";

/// Paths of the API that people copy along with its base.
const ENDPOINTS: [&str; 4] = ["/chat/completions", "/responses", "/completions", "/models"];

/// The URL in the form in which it is kept: without trailing slashes, without an endpoint behind a version, without a
/// `/v1` at its end, which is assumed. No message repeats the text: it may hold a password.
pub(super) fn normal(text: &str) -> Result<String, String> {
    let url = Url::parse(text.trim()).map_err(|error| format!("expected {A_URL} ({error})"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("expected {A_URL}; it starts with neither http:// nor https://"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must not have a query (?) or a fragment (#)".to_owned());
    }
    let mut base = url.as_str().trim_end_matches('/');
    if let Some(pasted) = without_endpoint(base).filter(|base| version(base).is_some()) {
        base = pasted.trim_end_matches('/');
    }
    // where another version stands before it, the last one is needed to tell the root
    if let Some(root) =
        base.strip_suffix(USUAL).filter(|root| version(base).is_some() && version(root).is_none())
    {
        base = root;
    }
    Ok(base.trim_end_matches('/').to_owned())
}

/// The server's root, where its health and the like are, and the path of its API below that: from the last segment of
/// the path that is a version on, as the SDKs put `/chat/completions` behind whatever they are given. Without a
/// version it is `/v1`; an endpoint that was copied without one says that there is none.
pub fn split(normal: &str) -> (&str, &str) {
    if let Some(at) = version(normal) {
        return normal.split_at(at);
    }
    match without_endpoint(normal) {
        Some(root) => (root, ""),
        None => (normal, USUAL),
    }
}

fn without_endpoint(url: &str) -> Option<&str> {
    ENDPOINTS.iter().find_map(|endpoint| url.strip_suffix(endpoint))
}

/// Where the last segment of the path that is a version begins, its slash included.
fn version(url: &str) -> Option<usize> {
    let host = url.find("://").map_or(0, |at| at + 3);
    let path = host + url.get(host..)?.find('/')?;
    let mut slashes = url.match_indices('/').map(|(at, _)| at).filter(|at| *at >= path);
    let segment = |at: &usize| url.get(at + 1..).and_then(|rest| rest.split('/').next());
    slashes.rfind(|at| segment(at).is_some_and(is_version))
}

/// `v1`, `V1`, `v3`, `v1beta`, `v1alpha2`; the path keeps its letters, as servers tell them apart.
fn is_version(segment: &str) -> bool {
    let digits = |text: &str| text.trim_start_matches(|c: char| c.is_ascii_digit()).to_owned();
    let Some(number) =
        segment.strip_prefix(['v', 'V']).filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    else {
        return false;
    };
    let rest = digits(number);
    let stage = rest.strip_prefix("alpha").or(rest.strip_prefix("beta"));
    rest.is_empty() || stage.is_some_and(|number| digits(number).is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_are_read_as_the_sdks_build_on_them() {
        for (given, kept, root, api) in [
            ("http://gpu:8080", "http://gpu:8080", "http://gpu:8080", "/v1"),
            ("http://gpu:8080/v1/", "http://gpu:8080", "http://gpu:8080", "/v1"),
            ("http://ovms:8000/v3", "http://ovms:8000/v3", "http://ovms:8000", "/v3"),
            ("https://ark/api/v3/", "https://ark/api/v3", "https://ark/api", "/v3"),
            (
                "https://z/api/coding/paas/v4",
                "https://z/api/coding/paas/v4",
                "https://z/api/coding/paas",
                "/v4",
            ),
            ("https://g/v1beta/openai/", "https://g/v1beta/openai", "https://g", "/v1beta/openai"),
            ("https://d/v1/openai", "https://d/v1/openai", "https://d", "/v1/openai"),
            ("https://c/v1/a/b/x/v1", "https://c/v1/a/b/x/v1", "https://c/v1/a/b/x", "/v1"),
            ("http://gpu/v1/chat/completions", "http://gpu", "http://gpu", "/v1"),
            ("http://gpu/v2/chat/completions/", "http://gpu/v2", "http://gpu", "/v2"),
            ("http://gpu/v1/responses", "http://gpu", "http://gpu", "/v1"),
            ("http://gpu/v1/models", "http://gpu", "http://gpu", "/v1"),
            (
                "https://m/inference/chat/completions",
                "https://m/inference/chat/completions",
                "https://m/inference",
                "",
            ),
            ("https://p/chat/completions", "https://p/chat/completions", "https://p", ""),
            ("https://gpu/llm", "https://gpu/llm", "https://gpu/llm", "/v1"),
            ("https://openrouter/api/v1", "https://openrouter/api", "https://openrouter/api", "/v1"),
            ("http://gpu/V1", "http://gpu/V1", "http://gpu", "/V1"),
            ("http://gpu/V1/chat/completions", "http://gpu/V1", "http://gpu", "/V1"),
            ("https://ark/API/V3/", "https://ark/API/V3", "https://ark/API", "/V3"),
            // no version: a host, a word that begins like one
            ("http://v1", "http://v1", "http://v1", "/v1"),
            ("http://gpu/v2ray", "http://gpu/v2ray", "http://gpu/v2ray", "/v1"),
            ("http://gpu/vllm", "http://gpu/vllm", "http://gpu/vllm", "/v1"),
        ] {
            let got = normal(given).unwrap();
            assert_eq!((&*got, split(&got)), (kept, (root, api)), "{given}");
            assert_eq!(normal(&got).unwrap(), got, "{given}");
        }
    }
}
