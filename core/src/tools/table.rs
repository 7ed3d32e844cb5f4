//! Owns the mapping of one request's declared tools to chat functions, in both directions. It must not write anything.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::BuildHasher as _;

use serde_json::Value;
use smallvec::SmallVec;

use crate::client::CODEX;
use crate::options::Wrappers;
use crate::quirk::Quirk;
use crate::tools::names;
use crate::tools::search::{Search, ShellTool};

/// The kind of a declared tool, which decides the item that a call becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ToolKind {
    /// `function_call`
    Function,
    /// `custom_tool_call`
    Custom(Freeform),
    /// `tool_search_call`
    ToolSearch,
    /// `local_shell_call`
    LocalShell,
    /// `shell_call`
    Shell,
    /// `apply_patch_call`
    ApplyPatch,
    /// A call of the client's shell tool, made by a search function.
    Search(Search),
    /// A call of a tool found later, by its name.
    Found,
}

/// Tools of OpenAI's own types that a client executes.
pub const BUILT_IN: [ToolKind; 4] =
    [ToolKind::ToolSearch, ToolKind::LocalShell, ToolKind::Shell, ToolKind::ApplyPatch];

impl ToolKind {
    /// The `type` by which a request declares such a tool.
    pub fn type_name(self) -> &'static str {
        match self {
            ToolKind::Function | ToolKind::Search(_) | ToolKind::Found => "function",
            ToolKind::Custom(_) => "custom",
            ToolKind::ToolSearch => "tool_search",
            ToolKind::LocalShell => "local_shell",
            ToolKind::Shell => "shell",
            ToolKind::ApplyPatch => "apply_patch",
        }
    }
}

/// The input format of a custom tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Freeform {
    /// Any text.
    Text,
    /// A patch in the format of Codex's `apply_patch`.
    Patch,
}

/// A declared tool and its chat function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredTool {
    /// The chat function's name.
    pub chat: String,
    /// The declared name.
    pub name: String,
    /// The namespace it was declared in.
    pub namespace: Option<String>,
    /// The kind of tool.
    pub kind: ToolKind,
    /// Whether it has an `encrypted` parameter. The client forwards that, and must be told that it is plain text.
    pub encrypts: bool,
    /// Whether `tool_choice` allows the model to call it.
    pub allowed: bool,
    /// Whether it was found later and is called through [`ToolKind::Found`], so that the beginning of the prompt stays
    /// the same.
    pub indirect: bool,
}

/// All tools of a request, used for the answer and for the history.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// In the order of their definitions.
    pub tools: Vec<DeclaredTool>,
    by_chat: HashMap<String, usize>,
    /// By the hash of namespace and declared name.
    by_name: HashMap<u64, SmallVec<[usize; 1]>>,
    /// The first tool of each kind.
    by_kind: HashMap<ToolKind, usize>,
    /// For each hashed chat name, how many rounds of hashing are used up.
    rounds: HashMap<String, u32>,
    /// Commands behind the search functions.
    pub wrappers: Wrappers,
    /// The client's shell tool, which runs them.
    pub shell: Option<ShellTool>,
    /// Whether `tool_choice` is `none`: no tool may be called.
    pub forbids_calls: bool,
    /// Names of the quirks whose repair is switched off.
    pub quirks_off: Vec<String>,
}

/// What a name called by the model stands for.
#[derive(Debug, PartialEq, Eq)]
pub enum Called<'a> {
    /// A tool that the model may call.
    Tool(&'a DeclaredTool),
    /// A declared tool that `tool_choice` forbids, or any name if it forbids all.
    Forbidden,
    /// No declared tool.
    Unknown,
}

impl Table {
    /// Adds a tool under a unique chat name and returns its position; `None` if the same tool was added before.
    pub fn add(&mut self, namespace: Option<&str>, name: &str, kind: ToolKind) -> Option<usize> {
        if self.declared(namespace, name).any(|tool| tool.kind == kind) {
            return None;
        }
        let mut chat = names::flat(namespace, name).into_owned();
        if self.by_chat.contains_key(&chat) {
            chat = names::hashed(namespace, name, 0);
            let round = self.rounds.entry(chat.clone()).or_default();
            while self.by_chat.contains_key(&chat) {
                *round += 1;
                chat = names::hashed(namespace, name, *round);
            }
        }
        let at = self.tools.len();
        self.by_chat.insert(chat.clone(), at);
        self.by_name.entry(self.hash(namespace, name)).or_default().push(at);
        self.by_kind.entry(kind).or_insert(at);
        let namespace = namespace.map(str::to_owned);
        self.tools.push(DeclaredTool {
            chat,
            name: name.to_owned(),
            namespace,
            kind,
            encrypts: false,
            allowed: true,
            indirect: false,
        });
        Some(at)
    }

    /// The tools with that declared name, which differ in kind, in the order of declaration.
    fn declared(&self, namespace: Option<&str>, name: &str) -> impl Iterator<Item = &DeclaredTool> {
        // a fast path for requests without tools
        let places = if self.tools.is_empty() { None } else { self.by_name.get(&self.hash(namespace, name)) };
        let tools = places.into_iter().flatten().filter_map(|at| self.tools.get(*at));
        tools.filter(move |tool| tool.name == name && tool.namespace.as_deref() == namespace)
    }

    fn hash(&self, namespace: Option<&str>, name: &str) -> u64 {
        self.by_chat.hasher().hash_one((namespace, name))
    }

    /// The first tool of that kind.
    pub fn of_kind(&self, kind: ToolKind) -> Option<&DeclaredTool> {
        self.by_kind.get(&kind).and_then(|at| self.tools.get(*at))
    }

    /// Whether a tool has that chat name.
    pub fn has_chat_name(&self, chat: &str) -> bool {
        self.by_chat.contains_key(chat)
    }

    /// The function through which the tool of that chat name is called; `None` if it is called directly.
    pub fn caller_of(&self, chat: &str) -> Option<&DeclaredTool> {
        let tool = self.by_chat.get(chat).and_then(|at| self.tools.get(*at))?;
        self.of_kind(ToolKind::Found).filter(|_| tool.indirect)
    }

    /// The chat name of a declared tool, or the one that an undeclared tool would get.
    pub fn chat_name<'a>(&self, namespace: Option<&str>, name: &'a str) -> Cow<'a, str> {
        let namespace = namespace.filter(|namespace| !namespace.is_empty());
        // Codex omits its own namespace in calls it sends back
        let own = || self.declared(CODEX.namespace, name).next().filter(|_| namespace.is_none());
        match self.declared(namespace, name).next().or_else(own) {
            Some(tool) => Cow::Owned(tool.chat.clone()),
            None => names::flat(namespace, name),
        }
    }

    /// The tool that the model means: by exact name, by the name with other separators, or the only tool with that
    /// ending.
    pub fn called(&self, name: &str) -> Called<'_> {
        let exact = |name: &str| self.by_chat.get(name).and_then(|at| self.tools.get(*at));
        let normal = names::normalised(name);
        let found = exact(name).or_else(|| exact(&normal)).or_else(|| {
            let mut ending = self.tools.iter().filter(|tool| {
                tool.name == *normal
                    || tool.chat.strip_suffix(&*normal).is_some_and(|rest| rest.ends_with("__"))
            });
            let first = ending.next()?;
            ending.next().is_none().then_some(first)
        });
        match found {
            Some(tool) if self.forbids_calls || !tool.allowed => Called::Forbidden,
            Some(tool) => Called::Tool(tool),
            None if self.forbids_calls => Called::Forbidden,
            None => Called::Unknown,
        }
    }

    /// The search call made through a call of the client's shell tool, for the history.
    pub fn search_in(&self, route_name: &str, arguments: &str) -> Option<(Search, Value)> {
        // lines written by this proxy are shorter
        const LONGEST: usize = 64 << 10;
        let wrapped = self.wrappers.web.is_some() || self.wrappers.file.is_some();
        let shell = self.shell.as_ref().filter(|_| wrapped && arguments.len() <= LONGEST)?;
        if self.tools.get(shell.tool)?.name != route_name {
            return None;
        }
        let line = shell.line_of(&serde_json::from_str(arguments).ok()?)?;
        Search::from_line(&self.wrappers, &line)
    }

    /// Whether the repair for this quirk is switched on.
    pub fn quirk(&self, quirk: Quirk) -> bool {
        !self.quirks_off.iter().any(|off| off == quirk.name())
    }

    /// Whether `name`, escaped, is not a tool's name but the beginning of one: some servers send names in pieces.
    pub fn may_continue(&self, name: &str) -> bool {
        matches!(self.called(name), Called::Unknown)
            && self.quirk(Quirk::CallNames)
            && self.tools.iter().any(|tool| tool.chat.len() > name.len() && tool.chat.starts_with(name))
    }

    /// Repairs a name that means no tool as it is: removes what models and parsers leave around it. Returns the chat
    /// name of the tool it then means, or the remaining name; `None` if nothing changes.
    pub fn repaired_name<'c>(&self, called: &'c str) -> Option<String> {
        if !matches!(self.called(called), Called::Unknown) || !self.quirk(Quirk::CallNames) {
            return None;
        }
        // harmony: `f<|channel|>commentary`, `<|channel|>commentary to=functions.f`
        let addressed = called.rsplit_once("to=").map_or(called, |(_, name)| name);
        let trimmed =
            |part: &'c str| part.trim_matches(|c: char| c.is_whitespace() || "\"'`()[]".contains(c));
        let mut parts =
            addressed.split("<|").map(|part| part.rsplit("|>").next().unwrap_or(part)).map(trimmed);
        let bare = parts.find(|part| !part.is_empty()).unwrap_or_default();
        // Kimi: `functions.f:0`
        let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let bare = bare.rsplit_once(':').filter(|(_, last)| number(last)).map_or(bare, |(name, _)| name);
        // Gemini: `default_api:f`
        let last = bare.rsplit(['.', ':', '/']).next().unwrap_or(bare);
        let found = [bare, last].into_iter().find_map(|name| match self.called(name) {
            Called::Tool(tool) => Some(tool),
            Called::Forbidden => self.tools.iter().find(|tool| tool.name == name || tool.chat == name),
            Called::Unknown => None,
        });
        let found = found.or_else(|| {
            let letters = |name: &str| -> String {
                let letters = name.chars().filter(|c| c.is_alphanumeric());
                letters.map(|c| c.to_ascii_lowercase()).collect()
            };
            let wanted = letters(last);
            let mut alike = self.tools.iter().filter(|tool| letters(&tool.chat) == wanted);
            let first = alike.next()?;
            alike.next().is_none().then_some(first)
        });
        let name = found.map_or(bare, |tool| &tool.chat);
        (!name.is_empty() && name != called).then(|| name.to_owned())
    }
}
