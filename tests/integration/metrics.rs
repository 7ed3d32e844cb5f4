//! What the running binary counts of responses and of the servers' work.

use std::sync::Arc;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::support::proxy::{EVENTS, Got, LISTED, Proxy, STREAM, text, until, upstream, upstream_listing};

const PROGRESS: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null}}],\
    \"prompt_progress\":{\"total\":100,\"cache\":30,\"processed\":40,\"time_ms\":5}}\n\n";
const END: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":100,\
    \"completion_tokens\":9,\"total_tokens\":109},\"timings\":{\"cache_n\":30,\"prompt_n\":70,\"prompt_ms\":500.0,\
    \"predicted_n\":9,\"predicted_ms\":250.0,\"draft_n\":8,\"draft_n_accepted\":6}}\n\ndata: [DONE]\n\n";

#[tokio::test]
async fn progress_and_timings_of_a_llama_server_are_metrics() {
    let go_on = Arc::new(Semaphore::new(0));
    let waits = go_on.clone();
    let at = upstream(move |_: Got, mut stream: TcpStream| {
        let waits = waits.clone();
        async move {
            let _ = stream.write_all(&[EVENTS, PROGRESS.as_bytes()].concat()).await;
            waits.acquire().await.unwrap().forget();
            let _ = stream.write_all([text("Hello"), END.to_owned()].concat().as_bytes()).await;
        }
    })
    .await;
    let proxy = Proxy::start(at, &[("REJOINDER_COMMIT_AFTER", "1ms")], true).await;
    let of = |name: &str, more: &str| format!("rejoinder_upstream_{name}{{upstream=\"http://{at}\"{more}}}");
    let pending = of("pending_prompt_tokens", "");
    let answer = proxy.post(STREAM).send().await.unwrap();
    until(async || proxy.metric(&pending).await == 60).await;
    go_on.add_permits(1);
    answer.text().await.unwrap();
    let count = async |name: &str, more: &str| {
        let text = reqwest::get(format!("{}/metrics", proxy.admin)).await.unwrap().text().await.unwrap();
        let name = of(name, more);
        let line = text.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse::<f64>().unwrap())
    };
    until(async || count("generated_tokens_total", "").await == 9.0).await;
    for (name, more, want) in [
        ("pending_prompt_tokens", "", 0.0),
        ("prompt_tokens_total", ",kind=\"processed\"", 70.0),
        ("prompt_tokens_total", ",kind=\"cached\"", 30.0),
        ("prompt_seconds_total", "", 0.5),
        ("generation_seconds_total", "", 0.25),
        ("draft_tokens_total", ",kind=\"accepted\"", 6.0),
        ("draft_tokens_total", ",kind=\"rejected\"", 2.0),
    ] {
        assert_eq!(count(name, more).await, want, "{name}{more}");
    }
}

const TWO: &str = r#"{"object":"list","data":[{"id":"m","object":"model"},{"id":"n","object":"model"}]}"#;

/// What a client makes up is no label.
#[tokio::test]
async fn the_label_of_a_model_is_a_name_that_a_server_lists() {
    let own = "rejoinder_first_token_seconds_count{model=\"M\"}";
    let conventions = "gen_ai_server_time_to_first_token_seconds_count{gen_ai_operation_name=\"chat\",\
                       gen_ai_provider_name=\"openai\",gen_ai_request_model=\"M\"}";
    for (listed, names, metric, want) in [
        // the only model there is answers them all
        (LISTED, "rejoinder", own, [("m", 3), ("other", 0)]),
        (TWO, "rejoinder", own, [("m", 1), ("other", 2)]),
        (TWO, "gen_ai", conventions, [("m", 1), ("other", 2)]),
    ] {
        let at = upstream_listing(listed, async |_: Got, mut stream: TcpStream| {
            let _ = stream.write_all(&[EVENTS, text("Hello").as_bytes(), END.as_bytes()].concat()).await;
        });
        let proxy = Proxy::start(at.await, &[("REJOINDER_METRICS__NAMES", names)], true).await;
        for model in ["m", "made-up", "gpt-5"] {
            let body = json!({"model": model, "input": "hi", "stream": true});
            proxy.post(body.to_string()).send().await.unwrap().text().await.unwrap();
        }
        for (model, count) in want {
            let metric = metric.replace('M', model);
            until(async || proxy.metric(&metric).await == count).await;
        }
        assert_eq!(proxy.metric("rejoinder_queue_seconds_count").await, 3, "each request was given a place");
    }
}
