//! Owns the folder of a server's slot files, where it is ours to see: the index beside them, what a file begins with,
//! and what is removed. It must not know what a file is for.

use std::io::Read;
use std::path::PathBuf;

use super::index::{Index, hash, is_ours};

/// The index, beside the files that it lists.
const INDEX: &str = "rejoinder-slots.json";
/// How much of a file is looked at. It begins with the tokens of its prompt: this is room for 250 000.
const BEGIN: u64 = 1 << 20;

/// The folder.
pub struct Folder(pub PathBuf);

impl Folder {
    /// Reads the index. Files of ours that it does not list, or not with that length, are removed.
    pub async fn open(&self) -> Index {
        let folder = self.0.clone();
        let read = move || {
            let mut index = std::fs::read_to_string(folder.join(INDEX))
                .map_or_else(|_| Index::default(), |text| Index::read(&text));
            let names = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            let names: Vec<String> = names
                .filter_map(|entry| entry.file_name().into_string().ok())
                .filter(|name| is_ours(name))
                .collect();
            for name in names.iter().filter(|name| !index.has(name)) {
                let _ = std::fs::remove_file(folder.join(name));
            }
            let gone: Vec<String> = index
                .files()
                .filter(|file| !names.iter().any(|name| name == file))
                .map(str::to_owned)
                .collect();
            for file in gone {
                index.forget(&file);
            }
            index
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    /// Writes the index: whole, or not at all.
    pub async fn write(&self, json: String) {
        let folder = self.0.clone();
        let write = move || {
            let part = folder.join(format!("{INDEX}.part"));
            std::fs::write(&part, json).and_then(|()| std::fs::rename(&part, folder.join(INDEX)))
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, folder = %self.0.display(), "the index of slot files cannot be written")
            }
            Err(_) => {}
        }
    }

    /// Hash of a file's length and beginning; `None` where it cannot be read.
    pub async fn content(&self, file: &str) -> Option<String> {
        let path = self.0.join(file);
        let read = move || {
            let file = std::fs::File::open(path).ok()?;
            let mut bytes = file.metadata().ok()?.len().to_le_bytes().to_vec();
            file.take(BEGIN).read_to_end(&mut bytes).ok()?;
            Some(hash(&bytes))
        };
        tokio::task::spawn_blocking(read).await.ok().flatten()
    }

    /// Removes a file.
    pub async fn remove(&self, file: &str) {
        let path = self.0.join(file);
        let _ = tokio::task::spawn_blocking(move || std::fs::remove_file(path)).await;
    }
}
