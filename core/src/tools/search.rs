//! Owns the search functions backed by wrapper commands: what the model sees, the shell line that the client runs, and
//! recognising that line in later turns. It must not run anything.

use serde_json::{Map, Value, json};

use crate::client::is_shell_tool;
use crate::options::Wrappers;
use crate::wire::json::tree;

/// A search function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Search {
    /// `web_search{query}`
    Web,
    /// `open_page{url}`
    Page,
    /// `file_search{query, path, mode}`
    File,
}

impl Search {
    /// The function's name, description and parameters.
    pub fn function(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Search::Web => (
                "web_search",
                "Search the web. Returns titles, addresses and excerpts of the pages found.",
                r#"{"type":"object","properties":{"query":{"type":"string","description":"What to search for."}},"required":["query"]}"#,
            ),
            Search::Page => (
                "open_page",
                "Fetch one web page and return its text.",
                r#"{"type":"object","properties":{"url":{"type":"string","description":"Address of the page."}},"required":["url"]}"#,
            ),
            Search::File => (
                "file_search",
                "Search the files of the project. Returns matching lines with file and line number, or file names.",
                r#"{"type":"object","properties":{"query":{"type":"string","description":"A regular expression; in mode names, part of a file name."},"path":{"type":"string","description":"Folder or file to search in; the working folder by default."},"mode":{"type":"string","enum":["content","files","names"],"description":"content: matching lines (default). files: files with a match. names: files whose name matches."}},"required":["query"]}"#,
            ),
        }
    }

    /// The shell line for a call with these arguments; `None` if the main argument is missing.
    pub fn line(self, wrappers: &Wrappers, arguments: &Value) -> Option<String> {
        let text = |key: &str| arguments.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        // a leading dash would make it an option
        let word =
            |text: &str| quote(&if text.starts_with('-') { format!(" {text}") } else { text.to_owned() });
        Some(match self {
            Search::Web => {
                let query = text("query").or_else(|| arguments.as_str())?;
                format!("{} search {} --json", wrappers.web.as_deref()?, word(query))
            }
            Search::Page => format!("{} extract {}", wrappers.web.as_deref()?, word(text("url")?)),
            Search::File => {
                let query = text("query").or_else(|| arguments.as_str())?;
                let mode = text("mode").unwrap_or("content");
                let path = text("path").unwrap_or(".");
                let rg = wrappers.file.as_deref()?;
                match mode {
                    "names" => {
                        let glob = quote(&format!("*{}*", query.replace(['[', ']', '{', '}', '\\'], "?")));
                        format!("{rg} --files {GLOBS} --iglob {glob} -- {}", quote(path))
                    }
                    "files" => format!(
                        "{rg} --files-with-matches {LIMITS} {GLOBS} -- {} {}",
                        quote(query),
                        quote(path)
                    ),
                    _ => format!(
                        "{rg} --line-number --no-heading {LIMITS} {GLOBS} -- {} {}",
                        quote(query),
                        quote(path)
                    ),
                }
            }
        })
    }

    /// The call that `line` was made from; `None` if this proxy did not write the line.
    pub fn from_line(wrappers: &Wrappers, line: &str) -> Option<(Search, Value)> {
        let words = words(line)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (command, rest) = words.split_first()?;
        let candidate = match rest {
            ["search", query, "--json"] if Some(*command) == wrappers.web.as_deref() => (
                Search::Web,
                json!({ "query": query.strip_prefix(" -").map_or((*query).to_owned(), |q| format!("-{q}")) }),
            ),
            ["extract", url] if Some(*command) == wrappers.web.as_deref() => {
                (Search::Page, json!({ "url": url }))
            }
            _ if Some(*command) == wrappers.file.as_deref() => {
                let dashes = rest.iter().position(|word| *word == "--")?;
                let (options, operands) = rest.split_at(dashes);
                let mut call = Map::new();
                match (options.first()?, operands) {
                    (&"--files", [_, path]) => {
                        let glob = options.last()?;
                        let query = glob.strip_prefix('*')?.strip_suffix('*')?;
                        file_call(&mut call, query, path, "names");
                    }
                    (first, [_, query, path]) => {
                        let mode = if *first == "--files-with-matches" { "files" } else { "content" };
                        file_call(&mut call, query, path, mode);
                    }
                    _ => return None,
                }
                (Search::File, Value::Object(call))
            }
            _ => return None,
        };
        // the line may be the client's own and only look similar
        (candidate.0.line(wrappers, &candidate.1).as_deref() == Some(line)).then_some(candidate)
    }
}

/// Inserts the arguments of a `file_search` as a model would write them, without defaults.
fn file_call(call: &mut Map<String, Value>, query: &str, path: &str, mode: &str) {
    call.insert("query".into(), json!(query));
    if path != "." {
        call.insert("path".into(), json!(path));
    }
    if mode != "content" {
        call.insert("mode".into(), json!(mode));
    }
}

const LIMITS: &str = "--color never --smart-case --max-count 50 --max-columns 300 --max-filesize 2M";
const GLOBS: &str = "--glob '!.git' --glob '!node_modules' --glob '!target'";

/// Quotes text as one word for a POSIX shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\0', "").replace('\'', "'\\''"))
}

/// The words of a line that [`Search::line`] may have written; `None` if it has shell syntax other than quotes.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(chars.next()?),
            c if c.is_ascii_alphanumeric() || "._-/+~".contains(c) => word.get_or_insert_default().push(c),
            _ => return None,
        }
    }
    words.extend(word);
    Some(words)
}

/// The form in which the client's shell tool takes a line.
#[derive(Debug, Clone, PartialEq)]
pub enum ShellForm {
    /// A string in the argument of this name.
    Line(String),
    /// An array of strings in the argument of this name.
    Vector(String),
}

/// The shell tool that the client declared, and its other required arguments.
#[derive(Debug, Clone, PartialEq)]
pub struct ShellTool {
    /// Position of the tool in the table.
    pub tool: usize,
    /// How a line is passed to it.
    pub form: ShellForm,
    /// Values for the other required arguments: Droid's `Execute` requires a summary and a risk level.
    pub others: Vec<(String, Value)>,
}

impl ShellTool {
    /// Recognises a shell tool by its name and parameters; `None` if the function is not one.
    pub fn from_function(tool: usize, name: &str, parameters: &str) -> Option<ShellTool> {
        if !is_shell_tool(name) {
            return None;
        }
        let schema = tree(parameters)?;
        let properties = schema.get("properties")?.as_object()?;
        let key = ["cmd", "command"].into_iter().find(|key| properties.contains_key(*key))?;
        let form = match properties.get(key).and_then(|p| p.get("type")).and_then(Value::as_str) {
            Some("array") => ShellForm::Vector(key.to_owned()),
            _ => ShellForm::Line(key.to_owned()),
        };
        let required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        let others = required
            .iter()
            .filter_map(Value::as_str)
            .filter(|name| *name != key)
            .map(|name| (name.to_owned(), filler(properties.get(name))))
            .collect();
        Some(ShellTool { tool, form, others })
    }

    /// The arguments for a call that runs `line`.
    pub fn arguments(&self, line: &str) -> Value {
        let mut arguments = Map::new();
        match &self.form {
            ShellForm::Line(key) => arguments.insert(key.clone(), json!(line)),
            ShellForm::Vector(key) => arguments.insert(key.clone(), json!(["bash", "-lc", line])),
        };
        arguments.extend(self.others.iter().cloned());
        Value::Object(arguments)
    }

    /// The shell line in a call's arguments.
    pub fn line_of(&self, arguments: &Value) -> Option<String> {
        match &self.form {
            ShellForm::Line(key) => arguments.get(key)?.as_str().map(str::to_owned),
            ShellForm::Vector(key) => vector_line(arguments.get(key)?),
        }
    }
}

/// The shell line in `["bash", "-lc", LINE]`.
pub fn vector_line(command: &Value) -> Option<String> {
    match command.as_array()?.as_slice() {
        [shell, flag, line] if shell == "bash" && flag == "-lc" => line.as_str().map(str::to_owned),
        _ => None,
    }
}

/// A value for a required argument other than the command. A search only reads, so the first of an enum is safe.
fn filler(schema: Option<&Value>) -> Value {
    let schema = schema.unwrap_or(&Value::Null);
    if let Some(first) = schema.get("enum").and_then(|values| values.get(0)) {
        return first.clone();
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("boolean") => json!(false),
        Some("number" | "integer") => json!(60),
        Some("array") => json!([]),
        Some("object") => json!({}),
        _ => json!("Run a search command"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrappers() -> Wrappers {
        Wrappers { web: Some("tvly".into()), file: Some("rg".into()) }
    }

    #[test]
    fn hostile_words_are_quoted() {
        for text in
            ["a b", "it's", "$(reboot)", "`x`", "a\nb", "--json", "-x", "\"q\"", "*", "\\", "' ; rm -rf / #"]
        {
            let line = Search::Web.line(&wrappers(), &json!({"query": text})).unwrap();
            let out = std::process::Command::new("sh")
                .args(["-c", &format!("printf '%s\\n' {line}")])
                .output()
                .unwrap();
            let want = if text.starts_with('-') { format!(" {text}") } else { text.to_owned() };
            assert_eq!(String::from_utf8(out.stdout).unwrap(), format!("tvly\nsearch\n{want}\n--json\n"));
        }
    }

    #[test]
    fn a_line_is_recognised_as_its_call() {
        for (search, arguments) in [
            (Search::Web, json!({"query": "rust's -- \"async\" $HOME"})),
            (Search::Web, json!({"query": "-v"})),
            (Search::Page, json!({"url": "https://x.org/a?b=c&d='e'"})),
            (Search::File, json!({"query": "fn \\w+\\(", "path": "src/a b"})),
            (Search::File, json!({"query": "x", "mode": "files"})),
            (Search::File, json!({"query": "main", "mode": "names"})),
        ] {
            let line = search.line(&wrappers(), &arguments).unwrap();
            assert_eq!(Search::from_line(&wrappers(), &line), Some((search, arguments)), "{line}");
        }
        for line in
            ["tvly search x --json", "tvly search 'a' --json; reboot", "rg foo", "ls", "tvly search 'a"]
        {
            assert_eq!(Search::from_line(&wrappers(), line), None, "{line}");
        }
    }
}
