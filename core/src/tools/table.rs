//! Owns the table of one request: which chat function stands for which declared tool, in both directions. It must not
//! render anything.

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

/// What a declared tool is, and so which item a call of it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
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
    /// A call of the client's shell tool.
    Search(Search),
    /// A call of a tool that was found later, by its name.
    Found,
}

/// What the input of a custom tool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Freeform {
    /// Any text.
    Text,
    /// A patch, in the form of Codex's `apply_patch`.
    Patch,
}

/// A declared tool and the chat function that stands for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The chat function's name.
    pub chat: String,
    /// The declared name.
    pub name: String,
    /// The namespace it was declared in.
    pub namespace: Option<String>,
    /// The kind of tool.
    pub kind: Kind,
    /// Whether a parameter of it is declared `encrypted`: its client hands that on, and must hear that it is plain text.
    pub encrypts: bool,
    /// Whether `tool_choice` lets the model call it.
    pub allowed: bool,
    /// Whether it was found later and is called through [`Kind::Found`], so that the prompt's head stays as it is.
    pub behind: bool,
}

/// All tools that the model is shown in a request, for the answer and for the history.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// In the order in which they are shown.
    pub routes: Vec<Route>,
    by_chat: HashMap<String, usize>,
    /// By the hash of namespace and declared name.
    by_name: HashMap<u64, SmallVec<[usize; 1]>>,
    /// The first route of each kind.
    by_kind: HashMap<Kind, usize>,
    /// How many rounds are used up of a name that differs from its tool's, by that name's first form.
    rounds: HashMap<String, u32>,
    /// Commands for the search functions.
    pub wrappers: Wrappers,
    /// The tool that runs them.
    pub shell: Option<ShellTool>,
    /// Whether `tool_choice` is `none`: no tool may be called.
    pub closed: bool,
    /// Repairs that are switched off.
    pub quirks_off: Vec<String>,
}

/// What a name that the model called stands for.
#[derive(Debug, PartialEq, Eq)]
pub enum Called<'a> {
    /// A tool that it may call.
    Tool(&'a Route),
    /// A declared tool outside `tool_choice`.
    Forbidden,
    /// No declared tool has that name.
    Unknown,
}

impl Table {
    /// Adds a tool under a name of its own; `None` when the same tool is there already.
    pub fn add(&mut self, namespace: Option<&str>, name: &str, kind: Kind) -> Option<usize> {
        if self.declared(namespace, name).any(|route| route.kind == kind) {
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
        let at = self.routes.len();
        self.by_chat.insert(chat.clone(), at);
        self.by_name.entry(self.hash(namespace, name)).or_default().push(at);
        self.by_kind.entry(kind).or_insert(at);
        let namespace = namespace.map(str::to_owned);
        self.routes.push(Route {
            chat,
            name: name.to_owned(),
            namespace,
            kind,
            encrypts: false,
            allowed: true,
            behind: false,
        });
        Some(at)
    }

    /// The tools of that declared name, each of another kind, the first one first.
    fn declared(&self, namespace: Option<&str>, name: &str) -> impl Iterator<Item = &Route> {
        // most requests of a conversation without tools
        let places =
            if self.routes.is_empty() { None } else { self.by_name.get(&self.hash(namespace, name)) };
        let routes = places.into_iter().flatten().filter_map(|at| self.routes.get(*at));
        routes.filter(move |route| route.name == name && route.namespace.as_deref() == namespace)
    }

    fn hash(&self, namespace: Option<&str>, name: &str) -> u64 {
        self.by_chat.hasher().hash_one((namespace, name))
    }

    /// The first tool of that kind.
    pub fn of_kind(&self, kind: Kind) -> Option<&Route> {
        self.by_kind.get(&kind).and_then(|at| self.routes.get(*at))
    }

    /// Whether a function is shown under that name.
    pub fn shows(&self, chat: &str) -> bool {
        self.by_chat.contains_key(chat)
    }

    /// The function through which a tool of that chat name is called, if it is called through one.
    pub fn through(&self, chat: &str) -> Option<&Route> {
        let route = self.by_chat.get(chat).and_then(|at| self.routes.get(*at))?;
        self.of_kind(Kind::Found).filter(|_| route.behind)
    }

    /// The chat name of a declared tool, or the one that it would have.
    pub fn chat_name<'a>(&self, namespace: Option<&str>, name: &'a str) -> Cow<'a, str> {
        let namespace = namespace.filter(|namespace| !namespace.is_empty());
        // Codex leaves its own namespace out on return
        let own = || self.declared(CODEX.namespace, name).next().filter(|_| namespace.is_none());
        match self.declared(namespace, name).next().or_else(own) {
            Some(route) => Cow::Owned(route.chat.clone()),
            None => names::flat(namespace, name),
        }
    }

    /// Which tool the model means: the exact name, the name with other separators, or the only tool that ends so.
    pub fn called(&self, name: &str) -> Called<'_> {
        let exact = |name: &str| self.by_chat.get(name).and_then(|at| self.routes.get(*at));
        let normal = names::normal(name);
        let found = exact(name).or_else(|| exact(&normal)).or_else(|| {
            let mut ending = self.routes.iter().filter(|route| {
                route.name == *normal
                    || route.chat.strip_suffix(&*normal).is_some_and(|rest| rest.ends_with("__"))
            });
            let first = ending.next()?;
            ending.next().is_none().then_some(first)
        });
        match found {
            Some(route) if self.closed || !route.allowed => Called::Forbidden,
            Some(route) => Called::Tool(route),
            None if self.closed => Called::Forbidden,
            None => Called::Unknown,
        }
    }

    /// The search call that a call of the client's shell tool was, for the history.
    pub fn search_in(&self, route_name: &str, arguments: &str) -> Option<(Search, Value)> {
        // a line of ours is not long
        const LONGEST: usize = 64 << 10;
        let wrapped = self.wrappers.web.is_some() || self.wrappers.file.is_some();
        let shell = self.shell.as_ref().filter(|_| wrapped && arguments.len() <= LONGEST)?;
        if self.routes.get(shell.route)?.name != route_name {
            return None;
        }
        let line = shell.line_of(&serde_json::from_str(arguments).ok()?)?;
        Search::from_line(&self.wrappers, &line)
    }

    /// Whether a repair is switched on.
    pub fn quirk(&self, quirk: Quirk) -> bool {
        !self.quirks_off.iter().any(|off| off == quirk.name())
    }

    /// Whether that is no tool's name, escaped, and the beginning of one: some servers send it in pieces.
    pub fn may_go_on(&self, name: &str) -> bool {
        matches!(self.called(name), Called::Unknown)
            && self.quirk(Quirk::CallNames)
            && self.routes.iter().any(|route| route.chat.len() > name.len() && route.chat.starts_with(name))
    }

    /// The name without what models and parsers leave around it, where it means no tool as it is: the chat name of the tool
    /// that it then means, or what is left of it.
    pub fn bare<'c>(&self, called: &'c str) -> Option<String> {
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
            Called::Tool(route) => Some(route),
            Called::Forbidden => self.routes.iter().find(|route| route.name == name || route.chat == name),
            Called::Unknown => None,
        });
        let found = found.or_else(|| {
            let letters = |name: &str| -> String {
                let letters = name.chars().filter(|c| c.is_alphanumeric());
                letters.map(|c| c.to_ascii_lowercase()).collect()
            };
            let wanted = letters(last);
            let mut alike = self.routes.iter().filter(|route| letters(&route.chat) == wanted);
            let first = alike.next()?;
            alike.next().is_none().then_some(first)
        });
        let name = found.map_or(bare, |route| &route.chat);
        (!name.is_empty() && name != called).then(|| name.to_owned())
    }
}
