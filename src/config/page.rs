//! Owns the keys of the page for operators.

use serde::{Deserialize, Serialize};

use super::Switch;

/// `[ui]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UiConfig {
    /// Whether the admin address has a page for operators; `auto`: where only this machine reaches that address.
    pub page: Switch,
}

impl Default for UiConfig {
    fn default() -> Self {
        UiConfig { page: Switch::Auto }
    }
}
