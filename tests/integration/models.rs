//! Owns the tests of what a server tells of its models: several models behind one server, and claims that nobody should
//! believe. Real processes and sockets; the servers are scripted.

use crate::support::proxy;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::proxy::{EVENTS, Proxy, STOP, text, whole};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

/// A server that knows these paths, each with its answer, and answers every chat; what it was asked for.
async fn knows(paths: Vec<(&'static str, String)>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let (paths, lines) = (Arc::new(paths), asked.clone());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (paths, lines) = (paths.clone(), lines.clone());
            tokio::spawn(async move {
                let Some((got, mut stream)) = proxy::read(stream).await else { return };
                let body = String::from_utf8_lossy(&got.body).into_owned();
                lines.lock().unwrap().push(format!("{} {body}", got.line));
                let path = got.line.split_once(' ').unwrap().1;
                let known = paths.iter().find(|(known, _)| *known == path);
                let answer = match known {
                    Some((_, body)) => whole("200 OK", "application/json", body),
                    None if path == "/v1/chat/completions" => {
                        [EVENTS, text("yes").as_bytes(), STOP.as_bytes()].concat()
                    }
                    None => whole("404 Not Found", "application/json", r#"{"detail":"Not Found"}"#),
                };
                let _ = stream.write_all(&answer).await;
            });
        }
    });
    (at, asked)
}

/// As llama-server b11549 tells it without `-m`.
async fn router() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let models = json!({"object": "list", "data": [
        {"id": "text", "aliases": ["small"], "status": {"value": "loaded", "args": []},
         "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
         "meta": {"n_ctx_train": 32768, "n_ctx": 16384}},
        {"id": "eyes", "status": {"value": "sleeping"}, "architecture": {"input_modalities": ["text", "image"]}},
        {"id": "cold", "status": {"value": "unloaded"}, "architecture": {"input_modalities": ["text"]}},
    ]});
    let of = |n_ctx: u64, template: &str, vision: bool| {
        let props = json!({"default_generation_settings": {"n_ctx": n_ctx}, "chat_template": template,
            "modalities": {"vision": vision}, "total_slots": 2, "chat_template_caps": {"supports_tool_calls": true}});
        props.to_string()
    };
    let strict = "{{ raise_exception('Conversation roles must alternate user/assistant') }}";
    knows(vec![
        (
            "/props",
            json!({"role": "router", "max_instances": 4, "model_alias": "llama-server", "model_path": "none",
                "default_generation_settings": {"params": {}, "n_ctx": 0}})
            .to_string(),
        ),
        ("/health", "{}".to_owned()),
        ("/v1/models", models.to_string()),
        ("/props?model=text&autoload=false", of(8192, strict, false)),
        ("/props?model=eyes&autoload=false", of(65536, "", true)),
    ])
    .await
}

async fn catalog(proxy: &Proxy) -> Vec<Value> {
    let list = reqwest::get(format!("{}/v1/models", proxy.base)).await.unwrap().text().await.unwrap();
    serde_json::from_str::<Value>(&list).unwrap()["models"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_router_tells_of_each_model_and_loads_none() {
    let (at, asked) = router().await;
    let proxy = Proxy::start(at, &[], true).await;
    let models = catalog(&proxy).await;
    let member = |key: &str| models.iter().map(|model| model[key].clone()).collect::<Vec<_>>();
    assert_eq!(member("slug"), ["text", "eyes", "cold"]);
    assert_eq!(member("context_window"), [json!(8192), json!(65536), Value::Null]);
    let sees = [json!(["text"]), json!(["text", "image"]), json!(["text"])];
    assert_eq!(member("input_modalities"), sees);
    // a template of one model decides for that one, an image reaches the one that sees
    for (model, messages, images) in [("text", 1, 0), ("small", 1, 0), ("eyes", 2, 1), ("cold", 2, 0)] {
        let body = json!({"model": model, "input": [
            {"role": "user", "content": "a"},
            {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]},
        ]});
        let answer = proxy.post(body.to_string()).send().await.unwrap().text().await.unwrap();
        assert!(answer.contains("yes"), "{answer}");
        let last = asked.lock().unwrap().iter().rfind(|line| line.starts_with("POST")).unwrap().clone();
        let chat: Value = serde_json::from_str(last.splitn(3, ' ').nth(2).unwrap()).unwrap();
        assert_eq!(chat["messages"].as_array().unwrap().len(), messages, "{model}: {chat}");
        assert_eq!(last.matches("base64,AAAA").count(), images, "{model}: {chat}");
        assert!(chat.get("id_slot").is_none(), "the slots are each model's own: {chat}");
    }
    let asked = asked.lock().unwrap();
    assert!(asked.iter().all(|line| !line.contains("model=cold")), "{asked:?}");
}

async fn doctor(at: SocketAddr) -> String {
    let doctor = tokio::process::Command::new(env!("CARGO_BIN_EXE_rejoinder"))
        .args(["doctor", "--upstream", &format!("http://{at}")])
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .output();
    let output = tokio::time::timeout(Duration::from_secs(20), doctor).await.unwrap().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_doctor_tells_of_each_model_what_is_known() {
    let text = doctor(router().await.0).await;
    for words in [
        "text (8192 tokens), eyes (65536 tokens), cold (context unknown, not loaded)",
        "! the context of cold is not known",
        "! text: a context of 8192 tokens is small",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[tokio::test]
async fn llama_swap_is_not_taken_for_ollama() {
    let models = json!({"data": [{"id": "a", "status": {"value": "loaded"}, "meta": {"n_ctx": 32768}},
        {"id": "b", "status": {"value": "unloaded"}}]});
    let version = r#"{"version":"v180","commit":"abc","build_date":"2026-10-01"}"#;
    let (at, _) = knows(vec![("/api/version", version.to_owned()), ("/v1/models", models.to_string())]).await;
    let text = doctor(at).await;
    for words in
        ["server: generic", "a (32768 tokens), b (context unknown, not loaded)", "context of b is not known"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[tokio::test]
async fn a_server_that_claims_too_much_is_not_believed() {
    let many: Vec<String> = (0..250_000).map(|n| format!("{{\"id\":\"{n}\"}}")).collect();
    let props = json!({"default_generation_settings": {"n_ctx": u64::MAX}, "total_slots": 4_000_000_000_u32,
        "chat_template": "x", "build_info": "b1\u{1b}[31m"});
    let (at, asked) = knows(vec![
        ("/props", props.to_string()),
        ("/health", "{}".to_owned()),
        ("/v1/models", format!("{{\"data\":[{}]}}", many.join(","))),
    ])
    .await;
    let proxy = Proxy::start(at, &[], true).await;
    let body = json!({"model": "m", "input": "x"}).to_string();
    let answer =
        tokio::time::timeout(Duration::from_secs(20), proxy.post(body).send()).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert!(asked.lock().unwrap().iter().all(|line| !line.contains("id_slot")));
    assert_eq!(catalog(&proxy).await.len(), 10_000);
    #[cfg(target_os = "linux")]
    {
        let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.child.id().unwrap())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().split(' ').next().unwrap().parse().unwrap();
        assert!(peak < 300_000, "{peak} KiB at the most");
    }
}
