//! Owns the files of clients: merged at once or not at all, with a backup, and restored byte for byte. It must not know
//! what is merged.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::text;
use crate::hex;

/// Beside the file: what it was.
const BACKUP: &str = "before-rejoinder";
/// Beside the file: what `--undo` has to know.
const RECORD: &str = "rejoinder-undo.json";
/// Links that are followed to a file.
const LINKS: usize = 40;

/// What became of a merge.
#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    /// All of it was there.
    Same,
    /// The file was written.
    Changed {
        /// Its text before, unless it was not there.
        before: Option<String>,
        /// Its text now.
        after: String,
        /// Where the text from before our first change is.
        backup: Option<PathBuf>,
    },
}

/// What became of an undo.
#[derive(Debug, PartialEq, Eq)]
pub enum Undone {
    /// The file is as it was.
    Restored,
    /// The file is removed: it was not there before.
    Removed,
    /// Nothing of ours is there.
    Nothing,
}

/// What `--undo` has to know.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Record {
    /// Name of the backup beside the file; none: there was no file.
    backup: Option<String>,
    /// Hashes of what was written over it.
    written: Vec<String>,
}

/// Merges into the file, which is made if it is not there. A file that has it all is not touched.
///
/// # Errors
/// Why it could not be read, merged or written.
pub fn merge(path: &Path, merge: &dyn Fn(&str) -> Result<String, String>) -> Result<Written, String> {
    let target = followed(path).map_err(|error| failed("read", path, &error))?;
    let before = read(&target)?;
    let shown = path.display();
    let after =
        text::edited(before.as_deref().unwrap_or(""), merge).map_err(|error| format!("{shown}: {error}"))?;
    if before.as_deref() == Some(after.as_str()) {
        return Ok(Written::Same);
    }
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).map_err(|error| failed("make", folder, &error))?;
    }
    let record = record_of(path)?.filter(|record| is_ours(record, before.as_deref()));
    let mut record = match record {
        Some(record) => record,
        None => Record { backup: backed_up(path, &target, before.is_some())?, written: Vec::new() },
    };
    record.written.push(hash(&after));
    // first, so that what is written can always be undone
    let json = serde_json::to_string(&record).map_err(|error| error.to_string())?;
    let record_file = beside(path, RECORD);
    replace(&record_file, json.as_bytes()).map_err(|error| failed("write", &record_file, &error))?;
    if read(&target)? != before {
        return Err(format!(
            "{shown} has just been changed by another program: nothing is written; try again"
        ));
    }
    replace(&target, after.as_bytes()).map_err(|error| failed("write", path, &error))?;
    let backup = record.backup.map(|name| path.with_file_name(name));
    Ok(Written::Changed { before, after, backup })
}

/// Restores the file to what it was before the first merge.
///
/// # Errors
/// Why that is not possible: something else has changed the file since.
pub fn undo(path: &Path) -> Result<Undone, String> {
    let Some(record) = record_of(path)? else { return Ok(Undone::Nothing) };
    let target = followed(path).map_err(|error| failed("read", path, &error))?;
    let now = read(&target)?;
    let backup = record.backup.as_deref().map(|name| path.with_file_name(name));
    let before = backup.as_deref().map(read).transpose()?.flatten();
    let shown = path.display();
    if record.backup.is_some() && before.is_none() {
        let gone = backup.unwrap_or_default();
        return Err(format!("{shown} cannot be restored: its backup {} is gone", gone.display()));
    }
    if now != before && !is_ours(&record, now.as_deref()) {
        let was = match &backup {
            Some(backup) => format!("what it was before is in {}", backup.display()),
            None => "it was not there before".to_owned(),
        };
        return Err(format!(
            "{shown} has changed since rejoinder wrote it, so it is left as it is. To go back by hand: {was}; what \
             rejoinder added has \"rejoinder\" in its name or points to it"
        ));
    }
    let undone = match &before {
        _ if now == before => Undone::Nothing,
        Some(text) => {
            replace(&target, text.as_bytes()).map_err(|error| failed("write", path, &error))?;
            Undone::Restored
        }
        None => {
            fs::remove_file(&target).map_err(|error| failed("remove", path, &error))?;
            Undone::Removed
        }
    };
    for file in [Some(beside(path, RECORD)), backup].into_iter().flatten() {
        fs::remove_file(&file).map_err(|error| failed("remove", &file, &error))?;
    }
    Ok(undone)
}

/// Whether the text is one that we wrote.
fn is_ours(record: &Record, text: Option<&str>) -> bool {
    text.is_some_and(|text| record.written.contains(&hash(text)))
}

fn record_of(path: &Path) -> Result<Option<Record>, String> {
    let file = beside(path, RECORD);
    let read = read(&file)?.map(|text| serde_json::from_str(&text));
    read.transpose().map_err(|error| format!("{} is not what rejoinder wrote: {error}", file.display()))
}

/// Copies the file to a name that is free; gives the name.
fn backed_up(path: &Path, target: &Path, is_there: bool) -> Result<Option<String>, String> {
    if !is_there {
        return Ok(None);
    }
    let mut n = 1;
    loop {
        let ending = if n == 1 { BACKUP.to_owned() } else { format!("{BACKUP}-{n}") };
        let backup = beside(path, &ending);
        if !backup.try_exists().unwrap_or(true) {
            // with its permissions
            fs::copy(target, &backup).map_err(|error| failed("write", &backup, &error))?;
            return Ok(backup.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
        n += 1;
    }
}

/// Writes a file that is there completely, or as it was. Its permissions stay; a new one is its owner's alone.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(folder)?;
    if let Ok(there) = fs::metadata(path) {
        file.as_file().set_permissions(there.permissions())?;
    }
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// The file that a path leads to: a link stays one.
fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        match fs::read_link(&path) {
            Ok(to) => path = path.parent().unwrap_or(Path::new("")).join(to),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many links"))
}

fn read(path: &Path) -> Result<Option<String>, String> {
    match fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(format!("{} is not UTF-8 text, so it is left as it is", path.display())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path, &error)),
    }
}

/// The file's path with one more ending.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{ending}"));
    path.with_file_name(name)
}

/// What tells one text from another.
pub fn hash(text: &str) -> String {
    hex::encode(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

fn failed(what: &str, path: &Path, error: &io::Error) -> String {
    format!("cannot {what} {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(text: &str) -> Result<String, String> {
        Ok(if text.contains("ours") { text.to_owned() } else { format!("{text}ours\n") })
    }

    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client").join("config.toml");
        (folder, path)
    }

    /// The names of what is beside the file, the file too.
    fn names(path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path.parent().unwrap()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_undo_restores_every_byte() {
        for text in ["", "a", "a\n", "a\r\nb\r\n", "\u{feff}# caf\u{e9}\r\nb", "a\nb\r\n\n\n"] {
            let (_folder, path) = place();
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            let written = merge(&path, &add).unwrap();
            assert!(
                matches!(&written, Written::Changed { before: Some(before), .. } if before == text),
                "{written:?}"
            );
            assert_ne!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(merge(&path, &add).unwrap(), Written::Same, "{text:?}");
            assert_eq!(undo(&path).unwrap(), Undone::Restored, "{text:?}");
            assert_eq!(fs::read(&path).unwrap(), text.as_bytes());
            assert_eq!(names(&path), ["config.toml"]);
            assert_eq!(undo(&path).unwrap(), Undone::Nothing);
        }
    }

    #[test]
    fn a_file_that_was_not_there_is_gone_again() {
        let (_folder, path) = place();
        assert!(matches!(merge(&path, &add).unwrap(), Written::Changed { before: None, backup: None, .. }));
        assert_eq!(undo(&path).unwrap(), Undone::Removed);
        assert_eq!(names(&path), [""; 0]);
    }

    #[test]
    fn the_backup_is_from_before_the_first_of_several_merges() {
        let (_folder, path) = place();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "a\n").unwrap();
        merge(&path, &add).unwrap();
        merge(&path, &|text| Ok(text.replace("ours", "ours, again"))).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nours, again\n");
        assert_eq!(undo(&path).unwrap(), Undone::Restored);
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\n");
    }

    #[test]
    fn what_another_program_wrote_since_is_not_undone() {
        let (_folder, path) = place();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "a\n").unwrap();
        merge(&path, &add).unwrap();
        fs::write(&path, "a\nours\ntheirs\n").unwrap();
        let error = undo(&path).unwrap_err();
        assert!(
            error.contains("has changed since") && error.contains("config.toml.before-rejoinder"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nours\ntheirs\n");
        assert_eq!(fs::read_to_string(beside(&path, BACKUP)).unwrap(), "a\n");
        // the next merge keeps that backup, and undoes to what it found
        merge(&path, &|text| Ok(format!("{text}more\n"))).unwrap();
        assert_eq!(undo(&path).unwrap(), Undone::Restored);
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nours\ntheirs\n");
        assert_eq!(names(&path), ["config.toml", "config.toml.before-rejoinder"]);
    }

    #[test]
    fn a_file_of_the_backups_name_is_kept() {
        let (_folder, path) = place();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "a\n").unwrap();
        fs::write(beside(&path, BACKUP), "older").unwrap();
        let Written::Changed { backup: Some(backup), .. } = merge(&path, &add).unwrap() else { panic!() };
        assert_eq!(backup, beside(&path, "before-rejoinder-2"));
        undo(&path).unwrap();
        assert_eq!(fs::read_to_string(beside(&path, BACKUP)).unwrap(), "older");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link_and_the_permissions_stay() {
        use std::os::unix::fs::{PermissionsExt, symlink};

        let (folder, path) = place();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let target = folder.path().join("dotfile");
        fs::write(&target, "a\n").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("../dotfile", &path).unwrap();
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
        merge(&path, &add).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "a\nours\n");
        assert_eq!((mode(&target), mode(&beside(&path, BACKUP))), (0o640, 0o640));
        undo(&path).unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
        assert_eq!((fs::read_to_string(&target).unwrap(), mode(&target)), ("a\n".to_owned(), 0o640));
    }

    #[test]
    fn what_cannot_be_merged_is_left_as_it_is() {
        let (_folder, path) = place();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"\xff").unwrap();
        assert!(merge(&path, &add).unwrap_err().contains("not UTF-8"));
        fs::write(&path, "a").unwrap();
        let error = merge(&path, &|_| Err("not valid TOML".to_owned())).unwrap_err();
        assert!(error.contains("config.toml: not valid TOML"), "{error}");
        assert_eq!(names(&path), ["config.toml"]);
    }
}
