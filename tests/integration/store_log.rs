//! What an outage of the shared store leaves in the log; its subscriber is that of the test's thread alone.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::redis::Server;
use crate::support::store::{ALICE, completed, config, keyring, up};
use rejoinder::store::Store;
use rejoinder::store::redis::{QueueLimits, RedisStore};

const TIMEOUT: Duration = Duration::from_secs(2);

/// Log lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn an_outage_is_two_lines_in_the_log_and_no_password() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut server = Server::start(&["--requirepass", "hunter2"]);
    let url = format!("redis://:hunter2@127.0.0.1:{}/0", server.port);
    let store = RedisStore::connect(&config(&url, TIMEOUT), keyring(), QueueLimits::default()).unwrap();
    store.put(ALICE, completed("resp_1", None)).await.unwrap();
    let mut errors = Vec::new();
    for _ in 0..2 {
        server.kill();
        for n in 0..20 {
            errors.push(store.put(ALICE, completed(&format!("resp_{n}"), None)).await.unwrap_err().0);
            errors.push(store.chain(ALICE, "unknown", 10).await.unwrap_err().0);
        }
        server.start_again();
        up(&store).await;
    }
    let wrong = format!("redis://:hunter3@127.0.0.1:{}/0", server.port);
    let refused = RedisStore::connect(&config(&wrong, TIMEOUT), keyring(), QueueLimits::default()).unwrap();
    errors.push(refused.turn(ALICE, "resp_1").await.unwrap_err().0);
    let bad =
        RedisStore::connect(&config("redis://:hunter2@host/x", TIMEOUT), keyring(), QueueLimits::default());
    errors.push(bad.map(drop).unwrap_err());
    let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert_eq!(log.matches("the store is away").count(), 3, "{log}");
    assert_eq!(log.matches("the store is back").count(), 2, "{log}");
    assert!(log.contains("redis://***@127.0.0.1"), "{log}");
    for text in errors.iter().chain([&log]) {
        assert!(!text.contains("hunter"), "{text}");
    }
}
