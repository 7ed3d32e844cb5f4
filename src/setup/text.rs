//! Owns what is alike in all files: line ends, the byte order mark, and the difference of two versions. It must not
//! know what the files mean.

use std::path::Path;

use similar::{ChangeTag, TextDiff};

/// Unchanged lines that are shown around a changed one.
const AROUND: usize = 2;
const MARK: char = '\u{feff}';

/// Edits a text without its byte order mark and with plain line ends, and gives both back to every line that stays;
/// new lines end as most do.
pub fn edited(text: &str, edit: &dyn Fn(&str) -> Result<String, String>) -> Result<String, String> {
    let (mark, body) = text.strip_prefix(MARK).map_or(("", text), |body| ("\u{feff}", body));
    let plain = body.replace("\r\n", "\n");
    let new = edit(&plain)?;
    if new == plain {
        return Ok(text.to_owned());
    }
    let ends = body.matches("\r\n").count();
    let end = if ends * 2 > body.matches('\n').count() { "\r\n" } else { "\n" };
    let old: Vec<&str> = body.split_inclusive('\n').collect();
    let mut out = mark.to_owned();
    for change in TextDiff::from_lines(&plain, &new).iter_all_changes() {
        match (change.tag(), change.old_index().and_then(|index| old.get(index))) {
            (ChangeTag::Delete, _) => {}
            (ChangeTag::Equal, Some(line)) => out.push_str(line),
            _ => match change.value().strip_suffix('\n') {
                Some(line) => out.extend([line, end]),
                None => out.push_str(change.value()),
            },
        }
    }
    Ok(out)
}

/// What changes in a file, in the form of `diff -u`. Secrets of lines that are not ours are left out.
pub fn difference(path: &Path, before: Option<&str>, after: &str) -> String {
    let diff = TextDiff::from_lines(before.unwrap_or(""), after);
    let old = if before.is_some() { path.display().to_string() } else { "/dev/null".to_owned() };
    let mut out = format!("--- {old}\n+++ {}\n", path.display());
    for hunk in diff.unified_diff().context_radius(AROUND).iter_hunks() {
        out.push_str(&format!("{}\n", hunk.header()));
        for change in hunk.iter_changes() {
            let line = change.value().trim_end_matches(['\n', '\r']);
            let shown =
                if change.tag() == ChangeTag::Insert { line.to_owned() } else { without_secret(line) };
            out.push_str(&format!("{}{shown}\n", change.tag()));
        }
    }
    out
}

/// A line of TOML or JSON whose key may be that of a secret, without its value.
fn without_secret(line: &str) -> String {
    let Some((key, _)) = line.split_once(['=', ':']) else { return line.to_owned() };
    let name = key.to_ascii_lowercase();
    let secret =
        ["key", "token", "secret", "password", "authorization"].iter().any(|word| name.contains(word));
    // the number of tokens, and the name of a variable, are no secrets
    let harmless = name.contains("limit") || name.contains("tokens") || name.contains("env_key");
    match secret && !harmless {
        true => format!("{} ...", line.get(..=key.len()).unwrap_or(key)),
        false => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds a line behind the first.
    fn second(text: &str) -> Result<String, String> {
        let (first, rest) = text.split_at(text.find('\n').map_or(text.len(), |end| end + 1));
        Ok(format!("{first}new\n{rest}"))
    }

    #[test]
    fn every_line_keeps_its_own_end() {
        for (text, want) in [
            ("a\nb\n", "a\nnew\nb\n"),
            ("a\r\nb\r\n", "a\r\nnew\r\nb\r\n"),
            ("a\r\nb\r\nc\n", "a\r\nnew\r\nb\r\nc\n"),
            ("a\r\nb\nc\nd", "a\r\nnew\nb\nc\nd"),
            ("\u{feff}a\r\nb", "\u{feff}a\r\nnew\r\nb"),
            ("", "new\n"),
        ] {
            assert_eq!(edited(text, &second).unwrap(), want, "{text:?}");
            assert_eq!(edited(text, &|text| Ok(text.to_owned())).unwrap(), text);
        }
    }

    #[test]
    fn a_difference_shows_no_secret_of_the_user() {
        let before =
            "x_api_key: \"sk-1\"\nenv_key = \"NAME\"\nmodel_auto_compact_token_limit = 9\napiKey = 'sk-2'\n";
        let after = before.replace("x_api_key: \"sk-1\"\n", "api_key = \"unused\"\n");
        let shown = difference(Path::new("/f"), Some(before), &after);
        assert!(shown.contains("\n-x_api_key: ...\n+api_key = \"unused\"\n"), "{shown}");
        let shown = difference(Path::new("/f"), Some(before), &format!("{before}a\n"));
        assert!(shown.contains("\n apiKey = ...\n+a\n"), "{shown}");
        assert!(shown.contains("= 9"), "{shown}");
        let shown = difference(Path::new("/f"), Some(before), &format!("b\n{before}"));
        assert!(shown.contains("\n env_key = \"NAME\"\n"), "{shown}");
        assert!(difference(Path::new("/f"), None, "a\n").starts_with("--- /dev/null\n+++ /f\n@@"));
    }
}
