//! Requests that wait for a server: keys take turns, priorities go first, a full queue makes room, and each key has its
//! servers. By the running binary.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::support::client_keys::Keys;
use crate::support::proxy::{Got, Proxy, until, upstream, upstream_listing, whole};

const ANSWER: &str = r#"{"choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}"#;
const ONE: (&str, &str) = ("REJOINDER_UPSTREAM__MAX_IN_FLIGHT", "1");

/// An upstream with two slots that answers one request for each permit, and the inputs that it got, in order.
struct Upstream {
    at: SocketAddr,
    go: Arc<Semaphore>,
    inputs: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    async fn new() -> Upstream {
        let go = Arc::new(Semaphore::new(0));
        let inputs: Arc<Mutex<Vec<String>>> = Arc::default();
        let (wait, seen) = (go.clone(), inputs.clone());
        let at = upstream(move |got: Got, mut stream: TcpStream| {
            let body: Value = serde_json::from_slice(&got.body).unwrap();
            seen.lock().unwrap().push(body["messages"][0]["content"].as_str().unwrap().to_owned());
            let wait = wait.clone();
            async move {
                wait.acquire().await.unwrap().forget();
                let _ = stream.write_all(&whole("200 OK", "application/json", ANSWER)).await;
            }
        })
        .await;
        Upstream { at, go, inputs }
    }

    fn inputs(&self) -> Vec<String> {
        self.inputs.lock().unwrap().clone()
    }

    fn args(&self) -> [String; 2] {
        ["--upstream".to_owned(), format!("http://{}", self.at)]
    }
}

fn ask(proxy: &Proxy, key: &str, input: &str) -> JoinHandle<(u16, Value)> {
    let request = proxy.post(json!({"model": "m", "input": input}).to_string()).bearer_auth(key);
    tokio::spawn(async move {
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
    })
}

/// Asks, and waits until so many wait for the server.
async fn queue(proxy: &Proxy, key: &str, input: &str, waiting: u64) -> JoinHandle<(u16, Value)> {
    let asked = ask(proxy, key, input);
    until(async || proxy.metric("rejoinder_waiting").await == waiting).await;
    asked
}

/// Two keys, the second with these arguments, and a proxy that gives the upstream one request at a time, of which the first
/// key has the first.
async fn one_runs(
    upstream: &Upstream,
    second: &[&str],
    env: &[(&str, &str)],
) -> (Keys, [String; 2], Proxy, JoinHandle<(u16, Value)>) {
    let keys = Keys::new();
    let both = [keys.add(&["anna"]), keys.add(&[&["ben"], second].concat())];
    let args = upstream.args();
    let proxy = keys.proxy_with(&[&args[0], &args[1]], &[&[ONE], env].concat()).await;
    let first = ask(&proxy, &both[0], "a0");
    until(async || upstream.inputs().len() == 1).await;
    (keys, both, proxy, first)
}

#[tokio::test]
async fn a_key_that_floods_waits_for_its_turn() {
    let upstream = Upstream::new().await;
    let (_keys, [anna, ben], proxy, first) = one_runs(&upstream, &[], &[]).await;
    let mut asked = vec![first];
    for n in 1..=4 {
        asked.push(queue(&proxy, &anna, &format!("a{n}"), n).await);
    }
    for n in 0..2 {
        asked.push(queue(&proxy, &ben, &format!("b{n}"), 5 + n).await);
    }
    upstream.go.add_permits(7);
    for asked in asked {
        assert_eq!(asked.await.unwrap().0, 200);
    }
    assert_eq!(upstream.inputs(), ["a0", "a1", "b0", "a2", "b1", "a3", "a4"]);
}

#[tokio::test]
async fn a_higher_priority_goes_before_all_that_wait() {
    let upstream = Upstream::new().await;
    let (_keys, [anna, ben], proxy, first) = one_runs(&upstream, &["--priority", "1"], &[]).await;
    let mut asked = vec![first];
    asked.push(queue(&proxy, &anna, "a1", 1).await);
    asked.push(queue(&proxy, &ben, "b0", 2).await);
    asked.push(queue(&proxy, &ben, "b1", 3).await);
    upstream.go.add_permits(4);
    for asked in asked {
        assert_eq!(asked.await.unwrap().0, 200);
    }
    assert_eq!(upstream.inputs(), ["a0", "b0", "b1", "a1"]);
}

#[tokio::test]
async fn a_full_queue_has_room_for_another_key() {
    let upstream = Upstream::new().await;
    let most = ("REJOINDER_UPSTREAM__MAX_WAITING", "3");
    let (_keys, [anna, ben], proxy, first) = one_runs(&upstream, &[], &[most]).await;
    let second = queue(&proxy, &anna, "a1", 1).await;
    let third = queue(&proxy, &anna, "a2", 2).await;
    let fourth = queue(&proxy, &anna, "a3", 3).await;
    let (status, refused) = ask(&proxy, &anna, "a4").await.unwrap();
    assert_eq!((status, &refused["error"]["code"]), (429, &json!("rate_limit_exceeded")));
    let other = ask(&proxy, &ben, "b0");
    let (status, refused) = fourth.await.unwrap();
    assert_eq!((status, &refused["error"]["code"]), (429, &json!("rate_limit_exceeded")));
    upstream.go.add_permits(4);
    for asked in [first, second, third, other] {
        assert_eq!(asked.await.unwrap().0, 200);
    }
    assert_eq!(upstream.inputs(), ["a0", "a1", "b0", "a2"]);
}

#[tokio::test]
async fn with_keys_a_llama_server_is_given_as_many_requests_as_it_has_slots() {
    let upstream = Upstream::new().await;
    let keys = Keys::new();
    let key = keys.add(&["anna"]);
    let proxy = keys.proxy(upstream.at).await;
    let open = Proxy::start(upstream.at, &[], true).await;
    let asked: Vec<_> = (0..3).map(|n| ask(&proxy, &key, &format!("a{n}"))).collect();
    until(async || proxy.metric("rejoinder_waiting").await == 1 && upstream.inputs().len() == 2).await;
    // without keys the server queues by itself
    let others: Vec<_> = (0..3).map(|n| ask(&open, "any", &format!("b{n}"))).collect();
    until(async || upstream.inputs().len() == 5).await;
    upstream.go.add_permits(6);
    for asked in asked.into_iter().chain(others) {
        assert_eq!(asked.await.unwrap().0, 200);
    }
}

#[tokio::test]
async fn a_key_reaches_its_upstreams_alone() {
    let answering = async |models| {
        let seen = Arc::new(Mutex::new(0));
        let count = seen.clone();
        let at = upstream_listing(models, move |_, mut stream: TcpStream| {
            *count.lock().unwrap() += 1;
            async move { drop(stream.write_all(&whole("200 OK", "application/json", ANSWER)).await) }
        })
        .await;
        (at, seen)
    };
    let (one, _) = answering(r#"{"object":"list","data":[{"id":"one","object":"model"}]}"#).await;
    let (two, seen) = answering(r#"{"object":"list","data":[{"id":"two","object":"model"}]}"#).await;
    let keys = Keys::new();
    let all = keys.add(&["anna"]);
    let some = keys.add(&["ben", "--allow-upstream", &one.to_string()]);
    let none = keys.add(&["carl", "--allow-upstream", "10.*"]);
    let file = keys.path().replace("clients.toml", "rejoinder.toml");
    std::fs::write(
        &file,
        format!("[[upstream]]\nurl = 'http://{one}'\n[[upstream]]\nurl = 'http://{two}'\n"),
    )
    .unwrap();
    let proxy = keys.proxy_with(&["--config", &file], &[]).await;
    for at in [one, two] {
        let up = format!("rejoinder_upstream_up{{upstream=\"http://{at}\"}}");
        until(async || proxy.metric(&up).await == 1).await;
    }
    let client = reqwest::Client::new();
    for (key, listed, statuses) in
        [(&all, json!(["one", "two"]), [200, 200]), (&some, json!(["one"]), [200, 404])]
    {
        let answer = client.get(format!("{}/v1/models", proxy.base)).bearer_auth(key).send().await.unwrap();
        let models: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        let ids: Vec<&Value> = models["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
        assert_eq!(json!(ids), listed);
        for (model, want) in ["one", "two"].into_iter().zip(statuses) {
            let request = proxy.post(json!({"model": model, "input": "hi"}).to_string()).bearer_auth(key);
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), want, "{model}");
            let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            if want == 404 {
                let error = &body["error"];
                assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")));
            }
        }
    }
    let pass = async |key: &str| {
        let request = client.post(format!("{}/v1/embeddings", proxy.base)).bearer_auth(key).body("{}");
        request.send().await.unwrap().status().as_u16()
    };
    let before = *seen.lock().unwrap();
    for _ in 0..4 {
        assert_eq!(pass(&some).await, 200);
    }
    assert_eq!(*seen.lock().unwrap(), before, "nothing is passed on to the other server");
    assert_eq!(pass(&none).await, 403);
}

/// Serves in 150 ms, as many at a time as are sent.
async fn steady() -> SocketAddr {
    upstream(|_, mut stream: TcpStream| async move {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let _ = stream.write_all(&whole("200 OK", "application/json", ANSWER)).await;
    })
    .await
}

/// Asks as that key, one request after the other, as long as `more`: the statuses, and the times that they took.
async fn ask_on(
    client: &reqwest::Client,
    proxy: &Proxy,
    key: &str,
    more: impl Fn(usize) -> bool,
) -> Vec<(u16, Duration)> {
    let mut answers = Vec::new();
    while more(answers.len()) {
        let begun = Instant::now();
        let request = client.post(format!("{}/v1/responses", proxy.base)).bearer_auth(key);
        let answer = request.body(r#"{"model":"m","input":"hi"}"#).send().await.unwrap();
        let status = answer.status().as_u16();
        answer.bytes().await.unwrap();
        answers.push((status, begun.elapsed()));
    }
    answers
}

/// The 95th percentile of the times that 40 requests of that key take.
async fn p95(client: &reqwest::Client, proxy: &Proxy, key: &str) -> Duration {
    let mut answers = ask_on(client, proxy, key, |asked| asked < 40).await;
    assert!(answers.iter().all(|(status, _)| *status == 200));
    answers.sort_by_key(|(_, time)| *time);
    answers[37].1
}

#[tokio::test]
#[ignore = "compares times, so nothing runs beside it"]
async fn a_key_at_its_limit_does_not_slow_another() {
    let keys = Keys::new();
    let quiet = keys.add(&["quiet"]);
    let floods = keys.add(&["floods", "--max-in-flight", "1"]);
    let env = [("REJOINDER_UPSTREAM__MAX_IN_FLIGHT", "2")];
    let at = steady().await;
    let proxy = keys.proxy_with(&["--upstream", &format!("http://{at}")], &env).await;
    let client = reqwest::Client::new();
    let alone = p95(&client, &proxy, &quiet).await;
    let stop = AtomicBool::new(false);
    let flood = || ask_on(&client, &proxy, &floods, |asked| asked < 20_000 && !stop.load(Ordering::Relaxed));
    let floods = futures::future::join_all((0..8).map(|_| flood()));
    let beside = async {
        let beside = p95(&client, &proxy, &quiet).await;
        stop.store(true, Ordering::Relaxed);
        beside
    };
    let (beside, answers) = tokio::join!(beside, floods);
    let statuses: Vec<u16> = answers.into_iter().flatten().map(|(status, _)| status).collect();
    let refused = statuses.iter().filter(|status| **status == 429).count();
    println!(
        "p95 of a quiet key: {alone:?} alone, {beside:?} beside {} requests, {refused} refused",
        statuses.len()
    );
    assert!(refused > 100 && statuses.contains(&200), "{refused} of {}", statuses.len());
    assert!(beside <= alone * 3 / 2, "{alone:?} alone, {beside:?} beside");
}
