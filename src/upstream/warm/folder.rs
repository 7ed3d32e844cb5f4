//! Owns the folder of a server's slot files, where it is ours to see: the index beside them, what a file begins with,
//! and what is removed. It must not know what a file is for.

use std::io::Read;
use std::path::PathBuf;

use super::index::{Index, hash, is_ours};

/// How much of a file is looked at. It begins with the tokens of its prompt: this is room for 250 000.
const BEGIN: u64 = 1 << 20;

/// The folder in which a server saves its slots, shared with it.
pub struct Folder {
    pub path: PathBuf,
    /// What the names of our files begin with.
    pub names: String,
}

impl Folder {
    /// Reads the index. Removes files of this proxy that it does not list, and entries whose files are gone.
    pub async fn open(&self) -> Index {
        let (folder, names, index) = (self.path.clone(), self.names.clone(), self.index());
        let read = move || {
            let text = std::fs::read_to_string(index).unwrap_or_default();
            let mut index = Index::read(&text);
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            let files = entries.filter_map(|entry| entry.file_name().into_string().ok());
            let files: Vec<String> = files.filter(|file| is_ours(&names, file)).collect();
            for file in files.iter().filter(|file| !index.has(file)) {
                let _ = std::fs::remove_file(folder.join(file));
            }
            index.retain(|listed| files.iter().any(|file| file == listed));
            index
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    /// Reads the index alone.
    pub async fn read(&self) -> Index {
        let index = self.index();
        let read = move || Index::read(&std::fs::read_to_string(index).unwrap_or_default());
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    /// Writes the index: whole, or not at all.
    pub async fn write(&self, json: String) {
        let index = self.index();
        let write = move || {
            let part = index.with_extension("part");
            std::fs::write(&part, json).and_then(|()| std::fs::rename(&part, index))
        };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
            let folder = self.path.display();
            tracing::warn!(%error, %folder, "the index of slot files cannot be written");
        }
    }

    /// The index, beside the files that it lists.
    fn index(&self) -> PathBuf {
        self.path.join(format!("{}index.json", self.names))
    }

    /// Hash of a file's length and beginning; `None` where it cannot be read.
    pub async fn content(&self, file: &str) -> Option<String> {
        let path = self.path.join(file);
        let read = move || {
            let file = std::fs::File::open(path).ok()?;
            let mut bytes = file.metadata().ok()?.len().to_le_bytes().to_vec();
            file.take(BEGIN).read_to_end(&mut bytes).ok()?;
            Some(hash(&bytes))
        };
        tokio::task::spawn_blocking(read).await.ok().flatten()
    }

    /// Removes a slot file; a failure is ignored.
    pub async fn remove(&self, file: &str) {
        let path = self.path.join(file);
        let _ = tokio::task::spawn_blocking(move || std::fs::remove_file(path)).await;
    }
}
