//! Owns the form of a model in Codex's catalog.
//!
//! Codex reads `models` where its provider has `model_catalog_url` and a key (docs/clients.md), and so learns the
//! context window, which it otherwise assumes. One entry that it cannot read makes it drop the whole list;
//! `tests/clients/test_upstreams.py` shows this list to the real Codex.

use rejoinder_core::client::{CODEX_MODELS, compact_at};
use serde_json::{Value, json};

use super::Entry;

impl Entry {
    /// Its `ModelInfo`, with every member that Codex's parser demands. Of two models the one of lower `priority` comes first.
    pub(super) fn in_catalog(&self, priority: usize) -> Value {
        let context = self.traits.context;
        let longest = CODEX_MODELS.longest_output;
        // an output that fills the context leaves no room to act on it
        let output = context.map_or(longest, |context| (context / 8).clamp(1000, longest));
        // left out, Codex would take it for one that sees
        let modalities = match self.traits.accepts_images {
            Some(true) => json!(["text", "image"]),
            _ => json!(["text"]),
        };
        let level = |effort: &String| json!({ "effort": effort, "description": format!("{effort} reasoning effort") });
        let levels: Vec<Value> = self.efforts.iter().map(level).collect();
        let mut model = json!({
            "slug": self.id,
            "display_name": self.id,
            "description": null,
            "supported_reasoning_levels": levels,
            "shell_type": "unified_exec",
            "visibility": "list",
            "supported_in_api": true,
            "priority": priority,
            "base_instructions": CODEX_MODELS.instructions,
            "support_verbosity": false,
            "apply_patch_tool_type": "freeform",
            "truncation_policy": { "mode": "tokens", "limit": output },
            "supports_parallel_tool_calls": true,
            "experimental_supported_tools": [],
            "input_modalities": modalities,
        });
        if let (Some(members), Some(context)) = (model.as_object_mut(), context) {
            members.insert("context_window".to_owned(), context.into());
            members.insert("max_context_window".to_owned(), context.into());
            members.insert("auto_compact_token_limit".to_owned(), compact_at(context).into());
        }
        model
    }
}
