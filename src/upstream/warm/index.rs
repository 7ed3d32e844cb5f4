//! Owns the list of snapshots: which file holds whose slot, as of which prompt, and what has to make room. Bookkeeping
//! alone: it must not touch a file or a server.

use aws_lc_rs::digest::{SHA256, digest};
use rejoinder_core::wire::json;
use serde::{Deserialize, Serialize};

/// One slot's state in a file, and all that has to fit before it is loaded again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Name within the server's `--slot-save-path`.
    pub file: String,
    /// Whose it is; hashed.
    pub conversation: String,
    /// The server's model, context, build and template; hashed.
    pub server: String,
    /// What the slot's prompt began with.
    pub prompt: Prompt,
    /// Tokens of the saved prompt.
    pub tokens: u64,
    /// Length of the file.
    pub bytes: u64,
    /// What the file began with, where we can read it; hashed.
    pub content: Option<String>,
    /// Counts up with every use.
    pub used: u64,
}

/// A prompt, as far as it decides what a snapshot is good for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// What stands before the messages: model, tools, template arguments; hashed.
    head: String,
    /// The messages, hashed, and the length of their text.
    messages: String,
    length: usize,
}

/// A request's body, read for the sake of its prompt.
#[derive(Debug)]
pub struct Asked<'a> {
    head: String,
    /// The array's text without its last bracket: what a longer history begins with.
    messages: &'a str,
    /// Whether the server may look into its cache for it.
    cached: bool,
}

impl<'a> Asked<'a> {
    /// Reads a body; `None` where it holds no messages.
    pub fn read(body: &'a [u8]) -> Option<Asked<'a>> {
        let members = json::members(std::str::from_utf8(body).ok()?)?;
        let mut head = Vec::new();
        let (mut messages, mut cached) = (None, true);
        for (key, value) in &members {
            match &**key {
                "messages" | "input" => messages = value.get().strip_suffix(']'),
                "cache_prompt" => cached = value.get() != "false",
                "model" | "tools" | "chat_template_kwargs" | "reasoning_effort" => {
                    head.extend_from_slice(key.as_bytes());
                    head.extend_from_slice(value.get().as_bytes());
                }
                _ => {}
            }
        }
        Some(Asked { head: hash(&head), messages: messages?.trim_end(), cached })
    }

    /// Whether the server may look into its cache for it.
    pub fn wants_cache(&self) -> bool {
        self.cached
    }

    /// The prompt for which a snapshot taken after this request is of use.
    pub fn prompt(&self) -> Prompt {
        Prompt {
            head: self.head.clone(),
            messages: hash(self.messages.as_bytes()),
            length: self.messages.len(),
        }
    }

    /// Whether this prompt begins with that one.
    pub fn continues(&self, earlier: &Prompt) -> bool {
        self.head == earlier.head
            && self
                .messages
                .get(..earlier.length)
                .is_some_and(|begin| hash(begin.as_bytes()) == earlier.messages)
    }
}

/// The snapshots of one server.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Index {
    snapshots: Vec<Snapshot>,
    clock: u64,
    /// Servers, hashed, that read a restored prompt anew.
    #[serde(default)]
    useless: Vec<String>,
}

/// How many files there may be, and how long all of them together.
#[derive(Debug, Clone, Copy)]
pub struct FolderLimits {
    pub files: usize,
    pub bytes: u64,
}

impl Index {
    /// Reads what [`Index::to_json`] wrote; anything else is an empty index.
    pub fn read(text: &str) -> Index {
        serde_json::from_str(text).unwrap_or_default()
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The snapshot of a conversation that this request goes on from, on a server that it was taken from.
    pub fn find(&mut self, conversation: &str, server: &str, asked: &Asked<'_>) -> Option<&Snapshot> {
        let conversation = hash(conversation.as_bytes());
        self.clock += 1;
        let found = self.snapshots.iter_mut().find(|snapshot| snapshot.conversation == conversation)?;
        found.used = self.clock;
        (found.server == server && asked.continues(&found.prompt)).then_some(found)
    }

    /// Whether a conversation has a snapshot at all.
    pub fn knows(&self, conversation: &str) -> bool {
        let conversation = hash(conversation.as_bytes());
        self.snapshots.iter().any(|snapshot| snapshot.conversation == conversation)
    }

    /// The file for a conversation's next snapshot: its own, else one that nobody has, else the one used least. What was
    /// in it is forgotten at once: it is about to be overwritten.
    /// `names`: what the server's files begin with.
    pub fn file_for(&mut self, names: &str, conversation: &str, bounds: FolderLimits) -> String {
        let conversation = hash(conversation.as_bytes());
        let own = self.snapshots.iter().position(|snapshot| snapshot.conversation == conversation);
        let at =
            own.or_else(|| (self.snapshots.len() >= bounds.files.max(1)).then(|| self.oldest()).flatten());
        if let Some(at) = at {
            return self.snapshots.remove(at).file;
        }
        let taken = |name: &String| self.snapshots.iter().any(|snapshot| snapshot.file == *name);
        (0..).map(|n| format!("{names}{n}{SUFFIX}")).find(|name| !taken(name)).unwrap_or_default()
    }

    /// Adds a snapshot that was taken, and returns the files that have to go for it.
    pub fn add(&mut self, conversation: &str, snapshot: Snapshot, bounds: FolderLimits) -> Vec<String> {
        self.clock += 1;
        self.snapshots.retain(|other| other.file != snapshot.file);
        let conversation = hash(conversation.as_bytes());
        self.snapshots.push(Snapshot { conversation, used: self.clock, ..snapshot });
        let mut gone = Vec::new();
        while self.bytes() > bounds.bytes || self.snapshots.len() > bounds.files.max(1) {
            let Some(oldest) = self.oldest() else { break };
            gone.push(self.snapshots.remove(oldest).file);
        }
        gone
    }

    /// Nothing of that server is worth to be saved; the files that have to go.
    pub fn give_up(&mut self, server: &str) -> Vec<String> {
        self.useless.retain(|known| known != server);
        self.useless.push(server.to_owned());
        if self.useless.len() > MOST_USELESS {
            self.useless.remove(0);
        }
        let files = self.snapshots.iter().filter(|snapshot| snapshot.server == server);
        files.map(|snapshot| snapshot.file.clone()).collect()
    }

    /// Whether that was found of a server.
    pub fn is_useless(&self, server: &str) -> bool {
        self.useless.iter().any(|known| known == server)
    }

    /// Removes a file's entry; the file itself stays.
    pub fn forget(&mut self, file: &str) {
        self.snapshots.retain(|snapshot| snapshot.file != file);
    }

    /// Whether the index has an entry for a file.
    pub fn has(&self, file: &str) -> bool {
        self.snapshots.iter().any(|snapshot| snapshot.file == file)
    }

    /// Removes the entries of files for which `holds` is false.
    pub fn retain(&mut self, holds: impl Fn(&str) -> bool) {
        self.snapshots.retain(|snapshot| holds(&snapshot.file));
    }

    fn bytes(&self) -> u64 {
        self.snapshots.iter().map(|snapshot| snapshot.bytes).sum()
    }

    fn oldest(&self) -> Option<usize> {
        let mut all = self.snapshots.iter().enumerate();
        let first = all.next()?;
        Some(all.fold(first, |a, b| if b.1.used < a.1.used { b } else { a }).0)
    }
}

/// What the names of a server's files begin with; other servers may share the folder.
pub fn names(url: &str) -> String {
    let hash = hash(url.as_bytes());
    format!("rejoinder-{}-", hash.get(..8).unwrap_or_default())
}

/// Whether a file is one of those.
pub fn is_ours(names: &str, file: &str) -> bool {
    file.starts_with(names) && file.ends_with(SUFFIX)
}

/// The SHA-256 of `bytes` in hexadecimal.
pub fn hash(bytes: &[u8]) -> String {
    crate::hex::encode(digest(&SHA256, bytes).as_ref())
}

const SUFFIX: &str = ".slot";
/// Most servers that are remembered to gain nothing.
const MOST_USELESS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: FolderLimits = FolderLimits { files: 2, bytes: 100 };

    fn taken(file: String, asked: &Asked<'_>, bytes: u64) -> Snapshot {
        Snapshot {
            file,
            conversation: String::new(),
            server: "s".to_owned(),
            prompt: asked.prompt(),
            tokens: 10,
            bytes,
            content: None,
            used: 0,
        }
    }

    fn keep(index: &mut Index, conversation: &str, bytes: u64) -> (String, Vec<String>) {
        let body = br#"{"messages":[1]}"#;
        let file = index.file_for("x-", conversation, BOUNDS);
        let gone = index.add(conversation, taken(file.clone(), &Asked::read(body).unwrap(), bytes), BOUNDS);
        (file, gone)
    }

    #[test]
    fn only_a_prompt_that_goes_on_finds_it() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":"a"}],"tools":[],"stream":true}"#;
        let asked = Asked::read(body).unwrap();
        let mut index = Index::default();
        let file = index.file_for("x-", "c", BOUNDS);
        index.add("c", taken(file, &asked, 1), BOUNDS);
        let mut found = |conversation: &str, server: &str, body: &str| {
            index.find(conversation, server, &Asked::read(body.as_bytes()).unwrap()).is_some()
        };
        let longer =
            r#"{"model":"m","messages":[{"role":"user","content":"a"},{"x":1}],"tools":[],"temperature":1}"#;
        assert!(found("c", "s", longer));
        assert!(!found("d", "s", longer), "another conversation");
        assert!(!found("c", "t", longer), "another server");
        assert!(!found("c", "s", &longer.replace("\"a\"", "\"b\"")), "another beginning");
        assert!(!found("c", "s", &longer.replace("\"tools\":[]", "\"tools\":[1]")), "other tools");
        assert!(!found("c", "s", &longer.replace("\"model\":\"m\"", "\"model\":\"n\"")), "another model");
        assert!(!found("c", "s", r#"{"model":"m","messages":[],"tools":[]}"#), "a shorter prompt");
        assert!(Asked::read(b"{}").is_none());
    }

    #[test]
    fn count_and_bytes_are_bounded_by_what_is_used_least() {
        let mut index = Index::default();
        let (a, gone) = keep(&mut index, "a", 10);
        assert!(gone.is_empty());
        let (b, _) = keep(&mut index, "b", 10);
        assert_ne!(a, b);
        assert_eq!(keep(&mut index, "b", 10), (b.clone(), vec![]), "its own file again");
        index.find("a", "s", &Asked::read(br#"{"messages":[1]}"#).unwrap()).unwrap();
        assert_eq!(keep(&mut index, "c", 10), (b.clone(), vec![]), "b was used least");
        assert!(!index.knows("b"));
        assert_eq!(keep(&mut index, "a", 95), (a.clone(), vec![b]), "too long together");
        let (_, gone) = keep(&mut index, "d", 200);
        assert_eq!(gone.len(), 2, "longer than all may be, it goes itself");
        assert!(index.snapshots.is_empty());
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let mut index = Index::default();
        keep(&mut index, "a", 10);
        let read = Index::read(&index.to_json());
        assert_eq!(read.snapshots, index.snapshots);
        assert!(read.knows("a") && !index.to_json().contains("\"a\""), "names are hashed");
        assert!(Index::read("nonsense").snapshots.is_empty());
        let (a, b) = (names("http://a"), names("http://b"));
        assert!(is_ours(&a, &format!("{a}3.slot")) && !is_ours(&a, &format!("{b}3.slot")));
        assert!(!is_ours(&a, "mine.slot"));
    }
}
