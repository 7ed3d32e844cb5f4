//! Owns what tests of stores share: records made on the spot, scopes, waiting for a store. It must not start a server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rejoinder::config::StoreConfig;
use rejoinder::keyring::Keyring;
use rejoinder::store::{Chain, Conversation, Id, Marks, Scope, Store, StoredItem, Turn, TurnState};
use rejoinder_core::{Input, Output, Usage};

pub const ALICE: Scope = Scope([1; 16]);
pub const BOB: Scope = Scope([2; 16]);

/// No condition takes longer to come true than this.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A completed turn.
pub fn turn(id: &str, parent: Option<&str>) -> Turn {
    Turn {
        id: id.into(),
        parent: parent.map(Id::from),
        created_at: 1_700_000_000,
        state: TurnState::Completed(1_700_000_009),
        input: Input::new(&format!(r#"[{{"role":"user","content":"asked in {id} \"\u00e9\" é"}}]"#)),
        output: Output::new(format!(r#"[{{"type":"message","content":"said in {id}"}}]"#), id),
        echo: r#""model":"m","tools":[]"#.into(),
        usage: Some(Usage { input: 9, cached: 8, written: 7, output: 6, reasoning: 5 }),
        background: false,
        marks: Marks::default(),
    }
}

pub fn in_state(id: &str, parent: Option<&str>, state: TurnState) -> Arc<Turn> {
    Arc::new(Turn { state, ..turn(id, parent) })
}

pub fn completed(id: &str, parent: Option<&str>) -> Arc<Turn> {
    Arc::new(turn(id, parent))
}

pub fn conversation(id: &str, metadata: &str) -> Conversation {
    Conversation { id: id.into(), created_at: 1_700_000_000, metadata: metadata.into() }
}

pub fn item(id: &str, text: &str) -> StoredItem {
    StoredItem { id: id.into(), json: format!(r#"{{"id":"{id}","text":"{text}"}}"#).into() }
}

/// The ids of a whole chain, or the other cases' names.
pub fn ids(chain: &Chain) -> Vec<String> {
    match chain {
        Chain::Whole(turns) => turns.iter().map(|turn| turn.id.to_string()).collect(),
        Chain::Broken => vec!["broken".to_owned()],
        Chain::TooLong => vec!["too long".to_owned()],
    }
}

pub fn config(url: &str, timeout: Duration) -> StoreConfig {
    StoreConfig { url: Some(url.to_owned()), timeout, ..StoreConfig::default() }
}

/// Waits until the condition holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn keyring() -> Arc<Keyring> {
    Arc::new(Keyring::generate().unwrap())
}

/// Waits until the store serves.
pub async fn up(store: &dyn Store) {
    until("the store is back", async || store.health().up).await;
    assert_eq!(store.health().waiting, 0, "up only when all is written");
}
