//! Owns what a probe of a server can teach: which one it is, its models, their limits. It must not ask for any of it.
//!
//! What a server says of itself is bounded, and read leniently: a member in an unknown form is unknown, the others are
//! still read.

use std::fmt;
use std::marker::PhantomData;

use rejoinder_core::dialect::{Dialect, GENERIC};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Most models of one server, and other names of one model.
const MOST_MODELS: usize = 10_000;
const MOST_ALIASES: usize = 64;
/// The longest name of a model, in bytes.
const LONGEST_NAME: usize = 512;
/// The longest version, in characters.
const LONGEST_VERSION: usize = 100;
/// Most slots that are believed in; llama-server has 256 at most.
const MOST_SLOTS: u32 = 1024;
/// Most tokens of context that are believed in.
const MOST_CONTEXT: f64 = 4_294_967_296.0;

/// What is known of a server. Absent is unknown, never zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// Which server it is.
    pub dialect: &'static Dialect,
    /// Its version, in its own words.
    pub version: Option<String>,
    /// What is known of its model, where it has one.
    pub traits: Traits,
    /// How many requests it works on at a time.
    pub slots: Option<u32>,
    /// Whether it serves several models at a time and loads them when they are asked for (llama-server's router mode).
    pub router: bool,
    /// The models that it lists.
    pub models: Vec<Model>,
    /// Whether it shows that list only to those who have a key.
    pub locked: bool,
    /// Whether its API is at its root, below no version.
    pub unversioned: bool,
}

/// What is known of one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traits {
    /// Tokens of context that one conversation has.
    pub context: Option<u64>,
    /// Whether it takes images.
    pub accepts_images: Option<bool>,
    /// Whether its chat template knows tools.
    pub tools: Option<bool>,
    /// Whether its chat template refuses two messages of one role in a row.
    pub alternates: Option<bool>,
    /// Whether its chat template knows `reasoning_effort`.
    pub efforts: Option<bool>,
}

/// One model that a server lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The name by which requests ask for it.
    pub id: String,
    /// Other names that it answers to.
    pub aliases: Vec<String>,
    /// What is known of it.
    pub traits: Traits,
    /// Whether it is loaded; servers that do not load on demand do not tell.
    pub loaded: Option<bool>,
}

impl ServerInfo {
    /// Nothing but the kind of server.
    pub fn of(dialect: &'static Dialect) -> ServerInfo {
        ServerInfo {
            dialect,
            version: None,
            traits: Traits::default(),
            slots: None,
            router: false,
            models: Vec::new(),
            locked: false,
            unversioned: false,
        }
    }

    /// Whether the server lists that name.
    pub fn lists(&self, name: &str) -> bool {
        self.model(name).is_some()
    }

    /// What is known of that model, or of the only one there is.
    pub fn traits_of(&self, name: &str) -> Traits {
        let named = self.model(name).map(|model| model.traits).unwrap_or_default();
        if self.router { named } else { named.or(self.traits) }
    }

    fn model(&self, name: &str) -> Option<&Model> {
        let by_id = self.models.iter().find(|model| model.id == name);
        by_id.or_else(|| self.models.iter().find(|model| model.aliases.iter().any(|alias| alias == name)))
    }
}

impl Default for ServerInfo {
    fn default() -> ServerInfo {
        ServerInfo::of(&GENERIC)
    }
}

impl Traits {
    /// The same, with what is unknown taken from others.
    pub fn or(self, other: Traits) -> Traits {
        Traits {
            context: self.context.or(other.context),
            accepts_images: self.accepts_images.or(other.accepts_images),
            tools: self.tools.or(other.tools),
            alternates: self.alternates.or(other.alternates),
            efforts: self.efforts.or(other.efforts),
        }
    }
}

/// llama-server's `/props`, as of b11549.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Props {
    /// `router` where it serves several models; these are not of any of them then.
    #[serde(deserialize_with = "lenient")]
    pub role: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub chat_template: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub default_generation_settings: Option<GenerationSettings>,
    #[serde(deserialize_with = "lenient")]
    pub modalities: Option<Modalities>,
    #[serde(deserialize_with = "lenient")]
    pub chat_template_caps: Option<TemplateCaps>,
    #[serde(deserialize_with = "number")]
    pub total_slots: Option<u64>,
    #[serde(deserialize_with = "lenient")]
    pub build_info: Option<String>,
}

/// Defaults of one slot.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct GenerationSettings {
    /// Context of one slot.
    #[serde(deserialize_with = "number")]
    pub n_ctx: Option<u64>,
}

/// What the model takes in beside text.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Modalities {
    #[serde(deserialize_with = "lenient")]
    pub vision: Option<bool>,
}

/// What the chat template can render.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct TemplateCaps {
    #[serde(deserialize_with = "lenient")]
    pub supports_tools: Option<bool>,
    #[serde(deserialize_with = "lenient")]
    pub supports_tool_calls: Option<bool>,
    #[serde(deserialize_with = "lenient")]
    pub supports_reasoning_effort: Option<bool>,
}

/// `/v1/models`, with what servers add to it: vLLM `max_model_len`; llama-server `aliases`, `meta`, `architecture` and
/// `status`; OpenRouter `context_length`, Groq `context_window`; LM Studio (under `/api/v0/models`) its lengths.
#[derive(Debug, Default)]
pub struct Listing {
    pub data: Vec<Listed>,
}

/// One element of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Listed {
    #[serde(deserialize_with = "lenient")]
    pub id: Option<String>,
    #[serde(deserialize_with = "lenient")]
    aliases: Option<Vec<String>>,
    #[serde(deserialize_with = "number")]
    max_model_len: Option<u64>,
    #[serde(deserialize_with = "number")]
    context_length: Option<u64>,
    #[serde(deserialize_with = "number")]
    context_window: Option<u64>,
    #[serde(deserialize_with = "number")]
    max_context_length: Option<u64>,
    #[serde(deserialize_with = "number")]
    loaded_context_length: Option<u64>,
    #[serde(deserialize_with = "lenient")]
    r#type: Option<String>,
    #[serde(deserialize_with = "lenient")]
    meta: Option<GenerationSettings>,
    #[serde(deserialize_with = "lenient")]
    architecture: Option<Architecture>,
    #[serde(deserialize_with = "lenient")]
    status: Option<Status>,
    /// Mistral's; LM Studio has a list of words.
    #[serde(deserialize_with = "lenient")]
    capabilities: Option<Modalities>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Architecture {
    #[serde(deserialize_with = "lenient")]
    input_modalities: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    #[serde(deserialize_with = "lenient")]
    value: Option<String>,
}

impl Listing {
    /// Reads the body of an answer; `None` where it is not a list of models.
    pub fn read(body: &[u8]) -> Option<Listing> {
        let data = elements(body)?;
        Some(Listing { data: data.iter().filter_map(|raw| serde_json::from_str(raw.get()).ok()).collect() })
    }

    /// The models, without the ones that only make embeddings.
    pub fn models(self) -> Vec<Model> {
        self.data.into_iter().filter_map(Listed::model).collect()
    }
}

impl Listed {
    fn model(self) -> Option<Model> {
        let fits = |name: &String| !name.is_empty() && name.len() <= LONGEST_NAME;
        if matches!(self.r#type.as_deref(), Some("embeddings" | "embedding")) {
            return None;
        }
        let modalities = self.architecture.and_then(|architecture| architecture.input_modalities);
        let context = self
            .loaded_context_length
            .or(self.max_model_len)
            .or(self.meta.and_then(|meta| meta.n_ctx))
            .or(self.context_length)
            .or(self.context_window)
            .or(self.max_context_length);
        let accepts_images = match self.r#type.as_deref() {
            Some("vlm") => Some(true),
            Some("llm") => Some(false),
            _ => modalities
                .map(|names| names.iter().any(|name| name == "image"))
                .or(self.capabilities.and_then(|capabilities| capabilities.vision)),
        };
        Some(Model {
            id: self.id.filter(fits)?,
            aliases: self.aliases.into_iter().flatten().filter(fits).take(MOST_ALIASES).collect(),
            traits: Traits { context, accepts_images, ..Traits::default() },
            // one that sleeps answers for itself without being loaded anew
            loaded: self
                .status
                .and_then(|status| status.value)
                .map(|value| matches!(&*value, "loaded" | "sleeping")),
        })
    }
}

/// The elements of a list of models as their server wrote them; `None` where the body is not such a list.
pub fn elements(body: &[u8]) -> Option<Vec<Box<RawValue>>> {
    #[derive(Deserialize)]
    struct Object {
        #[serde(deserialize_with = "bounded")]
        data: Vec<Box<RawValue>>,
    }
    #[derive(Deserialize)]
    struct Array(#[serde(deserialize_with = "bounded")] Vec<Box<RawValue>>);
    match body.trim_ascii_start().first() {
        Some(b'[') => serde_json::from_slice::<Array>(body).ok().map(|Array(data)| data),
        _ => serde_json::from_slice::<Object>(body).ok().map(|object| object.data),
    }
}

impl Props {
    /// Whether this is llama-server's answer and not some other server's JSON.
    pub fn is_llama(&self) -> bool {
        self.chat_template.is_some() || self.default_generation_settings.is_some()
    }

    /// What it says beside the kind of server.
    pub fn teach(&self, facts: &mut ServerInfo) {
        facts.version = self.build_info.as_deref().and_then(version);
        facts.router = self.role.as_deref() == Some("router");
        if !facts.router {
            facts.slots =
                self.total_slots.and_then(|slots| u32::try_from(slots).ok()).filter(|n| *n <= MOST_SLOTS);
            facts.traits = self.traits();
        }
    }

    /// What it says of its model.
    pub fn traits(&self) -> Traits {
        let caps = self.chat_template_caps.as_ref();
        Traits {
            context: self.default_generation_settings.as_ref().and_then(|settings| settings.n_ctx),
            accepts_images: self.modalities.as_ref().and_then(|modalities| modalities.vision),
            tools: caps.and_then(|caps| caps.supports_tool_calls.or(caps.supports_tools)),
            alternates: self.chat_template.as_deref().map(demands_alternation),
            efforts: caps.and_then(|caps| caps.supports_reasoning_effort),
        }
    }
}

/// A version as a person may be shown it.
pub fn version(text: &str) -> Option<String> {
    let shown = |c: &char| c.is_ascii_graphic() || *c == ' ';
    let text: String = text.chars().take(LONGEST_VERSION).filter(shown).collect();
    (!text.is_empty()).then_some(text)
}

/// Templates of the Gemma, Mistral and Llama 2 kind raise an error of these words.
fn demands_alternation(template: &str) -> bool {
    template.contains("raise_exception") && template.to_ascii_lowercase().contains("roles must alternate")
}

/// What has another form is as good as absent.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    let raw = Box::<RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(raw.get()).ok())
}

/// A whole number from 1 on, also as a string or with a fraction of zero; 0 stands for "unknown" in places.
pub fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let raw = Box::<RawValue>::deserialize(deserializer)?;
    let number = raw.get().trim_matches('"').parse::<f64>().ok();
    Ok(number.filter(|n| n.fract() == 0.0 && (1.0..=MOST_CONTEXT).contains(n)).map(|n| n as u64))
}

/// The first elements of an array, as many as are believed in; the others are passed over.
fn bounded<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct Bounded<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Bounded<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }
        fn visit_unit<E>(self) -> Result<Vec<T>, E> {
            Ok(Vec::new())
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut found = Vec::new();
            while found.len() < MOST_MODELS {
                let Some(element) = seq.next_element()? else { return Ok(found) };
                found.push(element);
            }
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok(found)
        }
    }
    deserializer.deserialize_any(Bounded(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(text: &str) -> Vec<Model> {
        Listing::read(text.as_bytes()).unwrap().models()
    }

    fn model(id: &str, context: Option<u64>, accepts_images: Option<bool>) -> Model {
        let traits = Traits { context, accepts_images, ..Traits::default() };
        Model { id: id.into(), aliases: vec![], traits, loaded: None }
    }

    #[test]
    fn knows_templates_that_refuse_neighbours() {
        assert!(demands_alternation(
            "{{ raise_exception('Conversation roles must alternate user/assistant') }}"
        ));
        assert!(!demands_alternation("{% for message in messages %}{{ message.content }}{% endfor %}"));
    }

    #[test]
    fn reads_what_servers_list() {
        for (text, want) in [
            (r#"{"object":"list","data":[{"id":"a","max_model_len":4096}]}"#, model("a", Some(4096), None)),
            (
                r#"{"data":[{"id":"a","type":"llm","max_context_length":32768,"loaded_context_length":8192},
                    {"id":"b","type":"embeddings"}]}"#,
                model("a", Some(8192), Some(false)),
            ),
            (r#"[{"id":"a","context_length":"8192"}]"#, model("a", Some(8192), None)),
            (r#"{"data":[{"id":"a","context_window":8192.0}]}"#, model("a", Some(8192), None)),
            (
                r#"{"data":[{"id":"a","meta":{"n_ctx_train":99,"n_ctx":7},"architecture":{"input_modalities":["text","image"]}}]}"#,
                model("a", Some(7), Some(true)),
            ),
            (
                r#"{"data":[{"id":"a","capabilities":{"vision":true},"max_context_length":9}]}"#,
                model("a", Some(9), Some(true)),
            ),
            (r#"{"data":[{"id":"a","capabilities":["completion","vision"]}]}"#, model("a", None, None)),
            (r#"{"data":[{"id":"a","type":"vlm","meta":null}]}"#, model("a", None, Some(true))),
            // what has another form is unknown, and spoils nothing beside it
            (
                r#"{"data":[7,{"id":5},{"id":"a","aliases":3,"max_model_len":-1,"context_length":1e30,"architecture":"x","status":1}]}"#,
                model("a", None, None),
            ),
        ] {
            assert_eq!(listing(text), [want], "{text}");
        }
        assert!(Listing::read(b"{\"data\":null}").unwrap().data.is_empty());
        assert!(Listing::read(b"{}").is_none() && Listing::read(b"<html>").is_none());
        let facts = ServerInfo {
            models: listing(r#"{"data":[{"id":"q","aliases":["r"]}]}"#),
            traits: Traits { context: Some(7), ..Traits::default() },
            ..ServerInfo::default()
        };
        assert!(facts.lists("r") && !facts.lists("s"));
        assert_eq!(facts.traits_of("q").context, Some(7));
    }

    #[test]
    fn a_router_says_nothing_of_its_models() {
        let mut facts = ServerInfo::of(&rejoinder_core::dialect::LLAMA_SERVER);
        let props = r#"{"role":"router","model_path":"none","default_generation_settings":{"n_ctx":0},"modalities":{"vision":true},"build_info":"b11549","total_slots":4}"#;
        serde_json::from_str::<Props>(props).unwrap().teach(&mut facts);
        facts.models = listing(
            r#"{"data":[{"id":"a","status":{"value":"loaded"},"meta":{"n_ctx":8192}},{"id":"b","status":{"value":"unloaded"}},
                {"id":"c","status":{"value":"sleeping"}},{"id":"d","status":{"value":"loading"}}]}"#,
        );
        assert!(facts.router && facts.slots.is_none());
        let loaded: Vec<_> = facts.models.iter().map(|model| model.loaded).collect();
        assert_eq!(loaded, [Some(true), Some(false), Some(true), Some(false)]);
        assert_eq!(facts.traits_of("a").context, Some(8192));
        assert_eq!((facts.traits_of("b"), facts.traits_of("x")), (Traits::default(), Traits::default()));
    }

    #[test]
    fn what_a_server_claims_is_bounded() {
        for (claim, slots) in
            [("4000000000", None), ("1025", None), ("0", None), ("-1", None), ("256", Some(256))]
        {
            let props = format!(
                r#"{{"default_generation_settings":{{"n_ctx":18446744073709551615}},"total_slots":{claim}}}"#
            );
            let mut facts = ServerInfo::default();
            serde_json::from_str::<Props>(&props).unwrap().teach(&mut facts);
            assert_eq!((facts.slots, facts.traits.context), (slots, None), "{claim}");
        }
        assert_eq!(version(&format!("b1\n{}", "\u{1b}[31mx".repeat(1000))).unwrap().len(), 82);
        let many: Vec<String> = (0..400_000).map(|n| format!(r#"{{"id":"{n}"}}"#)).collect();
        assert_eq!(listing(&format!(r#"{{"data":[{}]}}"#, many.join(","))).len(), MOST_MODELS);
        let aliases = vec!["\"a\""; 1000].join(",");
        let long = "x".repeat(LONGEST_NAME + 1);
        let models = listing(&format!(
            r#"{{"data":[{{"id":"{long}"}},{{"id":"a","aliases":["{long}",{aliases}]}}]}}"#
        ));
        assert_eq!(models.iter().map(|model| model.aliases.len()).collect::<Vec<_>>(), [MOST_ALIASES]);
    }
}
