//! Owns the tests of saved slots that gain nothing: what is done when a restored prompt is read anew. The server is
//! scripted; `tests/clients/test_warm.py` has a real one.

use crate::support::proxy;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::proxy::{EVENTS, Proxy, text, until, whole};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

const TOKENS: u64 = 1000;

/// A llama-server with one slot that saves into that folder; `cached`: tokens of the cache that each answer tells of.
struct Scripted {
    at: SocketAddr,
    /// Saves and restores, in order.
    acts: Arc<Mutex<Vec<String>>>,
    cached: Arc<Mutex<Option<u64>>>,
}

impl Scripted {
    async fn new(folder: PathBuf) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (acts, cached) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(Mutex::new(Some(TOKENS))));
        let (seen, told) = (acts.clone(), cached.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (seen, told, folder) = (seen.clone(), told.clone(), folder.clone());
                tokio::spawn(async move {
                    let Some((got, mut stream)) = proxy::read(stream).await else { return };
                    let json = |value: Value| whole("200 OK", "application/json", &value.to_string());
                    let act = got.line.split_once("?action=").map(|(_, act)| act.to_owned());
                    let answer = match (got.line.as_str(), act) {
                        ("GET /props", _) => {
                            json(json!({"model_path": "m.gguf", "build_info": "b1", "chat_template": "",
                            "default_generation_settings": {"n_ctx": 32768}, "total_slots": 1}))
                        }
                        ("GET /health", _) => json(json!({})),
                        ("GET /v1/models", _) => json(json!({"data": [{"id": "m"}]})),
                        ("GET /slots", _) => json(json!([{"id": 0, "n_prompt_tokens": TOKENS}])),
                        (_, Some(act)) => {
                            let body: Value = serde_json::from_slice(&got.body).unwrap();
                            std::fs::write(folder.join(body["filename"].as_str().unwrap()), "state").unwrap();
                            seen.lock().unwrap().push(act);
                            json(
                                json!({"n_saved": TOKENS, "n_written": 5, "n_restored": TOKENS, "n_read": 5}),
                            )
                        }
                        _ => {
                            let details = told.lock().unwrap().map(|cached| json!({"cached_tokens": cached}));
                            let usage = json!({"prompt_tokens": TOKENS, "completion_tokens": 1,
                                "prompt_tokens_details": details});
                            let last = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                                "usage": details.is_some().then_some(usage)});
                            format!(
                                "{}{}data: {last}\n\ndata: [DONE]\n\n",
                                String::from_utf8_lossy(EVENTS),
                                text("yes")
                            )
                            .into_bytes()
                        }
                    };
                    let _ = stream.write_all(&answer).await;
                });
            }
        });
        Scripted { at, acts, cached }
    }

    fn count(&self, act: &str) -> usize {
        self.acts.lock().unwrap().iter().filter(|done| *done == act).count()
    }
}

async fn turn(proxy: &Proxy, conversation: &str, turns: usize, more: &Value) {
    let mut input = vec![json!({"role": "user", "content": conversation})];
    for _ in 1..turns {
        input.push(json!({"role": "assistant", "content": "yes"}));
        input.push(json!({"role": "user", "content": "and now?"}));
    }
    let mut body = json!({"model": "m", "input": input, "prompt_cache_key": conversation, "store": false});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = proxy.post(body.to_string()).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
}

/// Two conversations in turn on the one slot: what was saved and restored, and what came of it.
async fn run(cached: Option<u64>, more: Value) -> (Scripted, Proxy, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let server = Scripted::new(folder.path().to_owned()).await;
    let env = [
        ("REJOINDER_UPSTREAM__SLOT_SAVE", "true"),
        ("REJOINDER_UPSTREAM__SLOT_SAVE_DIR", folder.path().to_str().unwrap()),
        ("REJOINDER_UPSTREAM__SLOT_SAVE_AFTER", "1h"),
    ];
    let proxy = Proxy::start(server.at, &env, true).await;
    turn(&proxy, "a", 1, &more).await;
    turn(&proxy, "b", 1, &more).await;
    assert_eq!((server.count("save"), server.count("restore")), (1, 0), "a makes room for b");
    *server.cached.lock().unwrap() = cached;
    turn(&proxy, "a", 2, &more).await;
    assert_eq!((server.count("save"), server.count("restore")), (2, 1), "b makes room for a");
    (server, proxy, folder)
}

async fn doctor(server: &Scripted, folder: &tempfile::TempDir) -> String {
    let doctor = tokio::process::Command::new(env!("CARGO_BIN_EXE_rejoinder"))
        .args(["doctor", "--upstream", &format!("http://{}", server.at)])
        .env("REJOINDER_UPSTREAM__SLOT_SAVE", "true")
        .env("REJOINDER_UPSTREAM__SLOT_SAVE_DIR", folder.path())
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .output();
    let output = tokio::time::timeout(Duration::from_secs(20), doctor).await.unwrap().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_model_that_gains_nothing_is_no_longer_saved() {
    for cached in [0, 1, 120] {
        let (server, proxy, folder) = run(Some(cached), json!({})).await;
        let unused = "rejoinder_slot_restores_total{kind=\"unused\"}";
        until(async || proxy.metric(unused).await == 1).await;
        let slots = || {
            let names = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter(|name| name.to_str().unwrap().ends_with(".slot")).count()
        };
        until(async || slots() == 0).await;
        for (conversation, turns) in [("b", 2), ("a", 3), ("b", 3)] {
            turn(&proxy, conversation, turns, &json!({})).await;
        }
        assert_eq!((server.count("save"), server.count("restore")), (2, 1), "{cached} of {TOKENS}");
        assert!(doctor(&server, &folder).await.contains("saved slots are of no use to its model"));
    }
}

#[tokio::test]
async fn a_model_that_gains_is_saved_on_and_what_is_not_told_is_not_judged() {
    let quiet = json!({});
    let uncached = json!({"cache_prompt": false});
    for (cached, more, used) in [
        (Some(TOKENS), &quiet, 1),
        // a template that leaves out the reasoning of earlier turns keeps a part
        (Some(TOKENS / 4), &quiet, 1),
        (None, &quiet, 0),
        (Some(0), &uncached, 0),
    ] {
        let (server, proxy, folder) = run(cached, more.clone()).await;
        until(async || proxy.metric("rejoinder_slot_restores_total{kind=\"used\"}").await == used).await;
        turn(&proxy, "b", 2, more).await;
        assert_eq!((server.count("save"), server.count("restore")), (3, 2), "{cached:?} {more}");
        assert_eq!(proxy.metric("rejoinder_slot_restores_total{kind=\"unused\"}").await, 0);
        assert!(!doctor(&server, &folder).await.contains("of no use"));
    }
}
