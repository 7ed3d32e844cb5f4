//! Owns what headers and configuration ask for beside the request.

use http::HeaderMap;
use http::header::HeaderName;
use rejoinder_core::options::{Wrappers, is_wrapper};

use crate::config::{Config, read_budgets};

/// What headers and configuration ask for, the request's own header first.
pub struct RequestOverrides {
    pub wrappers: Wrappers,
    pub budgets: Option<Vec<(String, u64)>>,
    pub quirks_off: Vec<String>,
}

/// How the names of these headers begin.
const OURS: [&str; 2] = ["x-rejoinder-", "x-llama-responses-"];

/// The names of one header, the one that goes first at the beginning.
type Names = [HeaderName; 2];

const WEB_SEARCH: Names = [
    HeaderName::from_static("x-rejoinder-web-search-wrapper"),
    HeaderName::from_static("x-llama-responses-web-search-wrapper"),
];

const FILE_SEARCH: Names = [
    HeaderName::from_static("x-rejoinder-file-search-wrapper"),
    HeaderName::from_static("x-llama-responses-file-search-wrapper"),
];

const BUDGETS: Names = [
    HeaderName::from_static("x-rejoinder-reasoning-budget-tokens"),
    HeaderName::from_static("x-llama-responses-reasoning-budget-tokens"),
];

impl RequestOverrides {
    pub fn read(headers: &HeaderMap, config: &Config) -> RequestOverrides {
        // they are hardly ever there
        let ours = |name: &HeaderName| OURS.iter().any(|ours| name.as_str().starts_with(ours));
        let any = headers.keys().any(ours);
        let header = |names: &Names| {
            let value = names.iter().filter(|_| any).find_map(|name| headers.get(name));
            value.and_then(|value| value.to_str().ok())
        };
        let wrapper = |names: &Names, key: &Option<String>| match header(names) {
            Some(command) if is_wrapper(command) => Some(command.to_owned()),
            Some(_) => {
                let [header, _] = names;
                tracing::warn!(%header, "ignored a wrapper that is not a bare command name or path");
                None
            }
            None => key.clone(),
        };
        let budgets = match header(&BUDGETS).map(read_budgets) {
            Some(Ok(budgets)) => Some(budgets),
            Some(Err(_)) => {
                let [header, _] = BUDGETS;
                tracing::warn!(%header, "ignored an unreadable reasoning budget header");
                None
            }
            None => None,
        };
        RequestOverrides {
            wrappers: Wrappers {
                web: wrapper(&WEB_SEARCH, &config.tools.web_search_wrapper),
                file: wrapper(&FILE_SEARCH, &config.tools.file_search_wrapper),
            },
            budgets,
            quirks_off: config
                .tools
                .disabled_quirks
                .iter()
                .flat_map(|names| names.split(','))
                .map(|name| name.trim().to_owned())
                .collect(),
        }
    }
}
