//! Owns what a look at a server can teach: which one it is, its models, its limits. It must not ask for any of it.

use serde::Deserialize;

use crate::dialect::{Dialect, GENERIC};

/// What is known of a server. Absent is unknown, never zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Which server it is.
    pub dialect: &'static Dialect,
    /// Its own version.
    pub version: Option<String>,
    /// Whether its chat template refuses two messages of one role in a row.
    pub alternates: bool,
    /// Whether its model takes images; servers that do not tell are trusted to.
    pub sees: bool,
    /// Whether its chat template knows tools.
    pub tools: Option<bool>,
    /// Whether its chat template knows levels of `reasoning_effort`; servers that do not tell are trusted to.
    pub takes_efforts: bool,
    /// Tokens of context that one conversation has.
    pub context: Option<u64>,
    /// How many requests it works on at a time.
    pub slots: Option<u32>,
    /// What it lists.
    pub models: Vec<Model>,
    /// Whether it shows that list only to those who have a key.
    pub locked: bool,
    /// Whether its API is at its root, below no version.
    pub unversioned: bool,
}

/// One model that a server lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Its name.
    pub id: String,
    /// Other names that it answers to.
    pub aliases: Vec<String>,
    /// Tokens of context.
    pub context: Option<u64>,
}

impl Facts {
    /// Nothing but the kind of server.
    pub fn of(dialect: &'static Dialect) -> Facts {
        Facts {
            dialect,
            version: None,
            alternates: false,
            sees: true,
            tools: None,
            takes_efforts: true,
            context: None,
            slots: None,
            models: Vec::new(),
            locked: false,
            unversioned: false,
        }
    }

    /// Whether the server lists that name.
    pub fn lists(&self, name: &str) -> bool {
        self.models.iter().any(|model| model.id == name || model.aliases.iter().any(|alias| alias == name))
    }

    /// Tokens of context of that model, or of the only one there is.
    pub fn context_of(&self, name: &str) -> Option<u64> {
        let named = self.models.iter().find(|model| model.id == name);
        named.and_then(|model| model.context).or(self.context)
    }
}

impl Default for Facts {
    fn default() -> Facts {
        Facts::of(&GENERIC)
    }
}

/// llama-server's `/props`, as of b11434.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Props {
    pub chat_template: Option<String>,
    pub default_generation_settings: Option<GenerationSettings>,
    pub modalities: Option<Modalities>,
    pub chat_template_caps: Option<TemplateCaps>,
    pub total_slots: Option<u32>,
    pub build_info: Option<String>,
}

/// Defaults of one slot.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct GenerationSettings {
    /// Context of one slot.
    pub n_ctx: Option<u64>,
}

/// What the model takes in beside text.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Modalities {
    pub vision: Option<bool>,
}

/// What the chat template can render.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct TemplateCaps {
    pub supports_tools: Option<bool>,
    pub supports_tool_calls: Option<bool>,
    pub supports_reasoning_effort: Option<bool>,
}

/// `/v1/models`, with what servers add to it: vLLM `max_model_len`, llama-server `aliases`, LM Studio (under
/// `/api/v0/models`) its context lengths.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Listing {
    pub data: Vec<Listed>,
}

/// One element of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Listed {
    pub id: String,
    pub aliases: Option<Vec<String>>,
    pub max_model_len: Option<u64>,
    pub max_context_length: Option<u64>,
    pub loaded_context_length: Option<u64>,
    pub r#type: Option<String>,
}

impl Listing {
    /// The models, without the ones that only make embeddings.
    pub fn models(self) -> Vec<Model> {
        let talks = |listed: &Listed| !matches!(listed.r#type.as_deref(), Some("embeddings" | "embedding"));
        let model = |listed: Listed| Model {
            context: listed.loaded_context_length.or(listed.max_model_len).or(listed.max_context_length),
            aliases: listed.aliases.unwrap_or_default(),
            id: listed.id,
        };
        self.data.into_iter().filter(talks).filter(|listed| !listed.id.is_empty()).map(model).collect()
    }
}

impl Props {
    /// Whether this is llama-server's answer and not some other server's JSON.
    pub fn is_llama(&self) -> bool {
        self.chat_template.is_some() || self.default_generation_settings.is_some()
    }

    /// What it says beside the kind of server.
    pub fn teach(&self, facts: &mut Facts) {
        let n_ctx = self.default_generation_settings.as_ref().and_then(|settings| settings.n_ctx);
        facts.context = n_ctx.filter(|n_ctx| *n_ctx > 0);
        facts.slots = self.total_slots.filter(|slots| *slots > 0);
        facts.version = self.build_info.clone();
        facts.sees = self.modalities.as_ref().and_then(|modalities| modalities.vision).unwrap_or(true);
        facts.alternates = self.chat_template.as_deref().is_some_and(demands_alternation);
        let efforts = self.chat_template_caps.as_ref().and_then(|caps| caps.supports_reasoning_effort);
        facts.takes_efforts = efforts.unwrap_or(true);
        facts.tools = self
            .chat_template_caps
            .as_ref()
            .and_then(|caps| caps.supports_tool_calls.or(caps.supports_tools));
    }
}

/// Templates of the Gemma, Mistral and Llama 2 kind raise an error of these words.
fn demands_alternation(template: &str) -> bool {
    template.contains("raise_exception") && template.to_ascii_lowercase().contains("roles must alternate")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_templates_that_refuse_neighbours() {
        assert!(demands_alternation(
            "{{ raise_exception('Conversation roles must alternate user/assistant') }}"
        ));
        assert!(!demands_alternation("{% for message in messages %}{{ message.content }}{% endfor %}"));
    }

    #[test]
    fn reads_what_servers_list() {
        let listing = |text: &str| serde_json::from_str::<Listing>(text).unwrap().models();
        let vllm = listing(r#"{"object":"list","data":[{"id":"tiny","max_model_len":4096}]}"#);
        assert_eq!(vllm, [Model { id: "tiny".into(), aliases: vec![], context: Some(4096) }]);
        let studio = listing(
            r#"{"data":[{"id":"a","type":"llm","max_context_length":32768,"loaded_context_length":8192},
                {"id":"b","type":"embeddings"}]}"#,
        );
        assert_eq!(studio, [Model { id: "a".into(), aliases: vec![], context: Some(8192) }]);
        let mut facts =
            Facts { models: listing(r#"{"data":[{"id":"q","aliases":["r"]}]}"#), ..Facts::default() };
        facts.context = Some(7);
        assert!(facts.lists("r") && !facts.lists("s"));
        assert_eq!(facts.context_of("q"), Some(7));
    }
}
