//! Owns the table of one request: which chat function stands for which declared tool, in both directions. It must not
//! render anything.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::Value;

use super::names;
use super::search::{Search, ShellTool, Wrappers};

/// What a declared tool is, and so which item a call of it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `function_call`
    Function,
    /// `custom_tool_call`; true: its input is a patch.
    Custom(bool),
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

/// One tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The chat function's name.
    pub chat: String,
    /// The declared name.
    pub name: String,
    /// The namespace it was declared in.
    pub namespace: Option<String>,
    /// What it is.
    pub kind: Kind,
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
    /// Commands for the search functions.
    pub wrappers: Wrappers,
    /// The tool that runs them.
    pub shell: Option<ShellTool>,
    /// `tool_choice: none`.
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
    /// No declared tool.
    Unknown,
}

impl Table {
    /// Adds a tool under a name of its own; `None` when the same tool is there already.
    pub fn add(&mut self, namespace: Option<&str>, name: &str, kind: Kind) -> Option<usize> {
        let same = |route: &Route| route.name == name && route.namespace.as_deref() == namespace;
        let mut chat = names::flat(namespace, name).into_owned();
        let mut round = 0;
        while let Some(taken) = self.by_chat.get(&chat).and_then(|at| self.routes.get(*at)) {
            if same(taken) && taken.kind == kind {
                return None;
            }
            chat = names::hashed(namespace, name, round);
            round += 1;
        }
        let at = self.routes.len();
        self.by_chat.insert(chat.clone(), at);
        let namespace = namespace.map(str::to_owned);
        self.routes.push(Route {
            chat,
            name: name.to_owned(),
            namespace,
            kind,
            allowed: true,
            behind: false,
        });
        Some(at)
    }

    /// The function through which a tool of that chat name is called, if it is called through one.
    pub fn through(&self, chat: &str) -> Option<&Route> {
        let behind =
            self.by_chat.get(chat).and_then(|at| self.routes.get(*at)).is_some_and(|route| route.behind);
        self.routes.iter().find(|route| behind && route.kind == Kind::Found)
    }

    /// The chat name of a declared tool, or the one that it would have.
    pub fn chat_name<'a>(&self, namespace: Option<&str>, name: &'a str) -> Cow<'a, str> {
        let namespace = namespace.filter(|namespace| !namespace.is_empty());
        let same = |route: &&Route| route.name == name && route.namespace.as_deref() == namespace;
        // Codex leaves its own namespace out on return
        let own = |route: &&Route| {
            namespace.is_none() && route.name == name && route.namespace.as_deref() == Some("functions")
        };
        match self.routes.iter().find(same).or_else(|| self.routes.iter().find(own)) {
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
        let shell = self.shell.as_ref()?;
        if self.routes.get(shell.route)?.name != route_name {
            return None;
        }
        let line = shell.line_of(&serde_json::from_str(arguments).ok()?)?;
        Search::from_line(&self.wrappers, &line)
    }

    /// Whether a repair is switched on.
    pub fn quirk(&self, name: &str) -> bool {
        !self.quirks_off.iter().any(|off| off == name)
    }
}
