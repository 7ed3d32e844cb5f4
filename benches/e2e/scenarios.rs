//! What is done to a target, and the figures that it gives. It must not compare targets, nor print.

use std::cell::Cell;
use std::time::{Duration, Instant};

use rejoinder_core::dialect::LLAMA_SERVER;
use rejoinder_core::options::PlanOptions;
use rejoinder_core::request::plan::plan;
use serde_json::{Value, json};

use crate::checker;
use crate::client::{Answer, Client};
use crate::targets::{Speaks, Target};
use crate::upstream::{Kind, Script, Shared};

/// Names as in the table, with their values.
pub type Figures = Vec<(&'static str, f64)>;

/// What scenarios share.
pub struct Bench {
    pub seen: Shared,
    pub quick: bool,
    streams: Cell<u32>,
}

/// Every scenario and what it does.
pub const SCENARIOS: [(&str, &str); 8] = [
    ("S1", "one stream, a token each 2 ms"),
    ("S2", "64 streams of 500 tokens at full speed, one and 16 events to a write"),
    ("S3", "100 and 1,000 streams, a token each 20 ms"),
    ("S4", "short requests without a stream, 32 at once"),
    ("S5", "transcripts of 1 MB (400 items) and 8 MB (3,000 items)"),
    ("S6", "tool arguments of 20, 80 and 320 KB in pieces of 4 bytes"),
    ("S7", "200 turns by previous_response_id"),
    ("S8", "hang-ups, while tokens come and while none do"),
];

const MS_2: Duration = Duration::from_millis(2);
const MS_20: Duration = Duration::from_millis(20);

impl Bench {
    pub fn new(seen: Shared, quick: bool) -> Bench {
        Bench { seen, quick, streams: Cell::new(0) }
    }

    /// Runs a scenario once; `None` if the target has no part in it.
    pub async fn run(&self, scenario: &str, target: &Target) -> Result<Option<Figures>, String> {
        match scenario {
            "S1" => self.one_stream(target).await.map(Some),
            "S2" => self.full_speed(target).await.map(Some),
            "S3" => self.many_streams(target).await.map(Some),
            "S4" => self.short_requests(target).await.map(Some),
            "S5" => self.transcripts(target).await.map(Some),
            "S6" => self.arguments(target).await.map(Some),
            "S7" if target.speaks == Speaks::Responses => self.turns(target).await,
            "S7" => Ok(None),
            "S8" => self.hang_ups(target).await.map(Some),
            other => Err(format!("no scenario {other}")),
        }
    }

    /// A script with a stream number of its own.
    pub fn script(&self, kind: Kind, amount: usize, batch: usize, every: Duration) -> Script {
        let stream = self.streams.get();
        self.streams.set(stream + 1);
        Script { kind, stream, amount, batch, joined: batch > 1, every }
    }

    pub async fn client(&self, target: &Target) -> Result<Client, String> {
        let client = Client::connect(target.address, target.speaks, self.seen.clone()).await;
        client.map_err(|error| format!("{}: {error}", target.name))
    }

    async fn one_stream(&self, target: &Target) -> Result<Figures, String> {
        let mut client = self.client(target).await?;
        let mut firsts = Vec::new();
        for _ in 0..if self.quick { 10 } else { 50 } {
            let script = self.script(Kind::Text, 4, 1, MS_2);
            let answer = ask(&mut client, target, &script, false).await?;
            firsts.push(answer.first.unwrap_or_default().as_secs_f64() * 1e6);
        }
        let script = self.script(Kind::Text, if self.quick { 250 } else { 1000 }, 1, MS_2);
        let cpu = target.cpu();
        let answer = ask(&mut client, target, &script, true).await?;
        let cpu = target.cpu() - cpu;
        judge(target, &script, &answer)?;
        Ok(vec![
            ("S1 first delta, us", percentile(&mut firsts, 50.0)),
            ("S1 token latency p50, us", latency(&answer.latencies, 50.0)),
            ("S1 token latency p99, us", latency(&answer.latencies, 99.0)),
            ("S1 CPU per token, us", each(cpu, script.amount)),
        ])
    }

    async fn full_speed(&self, target: &Target) -> Result<Figures, String> {
        let mut figures = Vec::new();
        let more = if self.quick { 500 } else { 2000 };
        for (name, tokens, batch, joined) in [
            ("S2 CPU per token, 1 event a write, us", 500, 1, true),
            ("S2 CPU per token, 16 events a write, us", more, 16, true),
            ("S2 CPU per token, 16 events a write in 16 HTTP chunks, us", more, 16, false),
        ] {
            let script = Script { joined, ..self.script(Kind::Text, tokens, batch, Duration::ZERO) };
            let (cpu, _) = self.crowd(target, 64, script).await?;
            figures.push((name, each(cpu, 64 * tokens)));
        }
        Ok(figures)
    }

    async fn many_streams(&self, target: &Target) -> Result<Figures, String> {
        let tokens = if self.quick { 100 } else { 250 };
        let script = self.script(Kind::Text, tokens, 1, MS_20);
        let (cpu, _) = self.crowd(target, 100, script).await?;
        let mut figures = vec![
            ("idle memory, MB", target.idle as f64 / 1e6),
            ("S3 CPU per token, 100 streams, us", each(cpu, 100 * tokens)),
        ];
        let middle = async {
            tokio::time::sleep(Duration::from_secs(1) + MS_20 * (tokens as u32 / 2)).await;
            target.memory()
        };
        let (crowd, memory) = tokio::join!(self.crowd(target, 1000, script), middle);
        let (cpu, latencies) = crowd?;
        figures.extend([
            ("S3 CPU per token, 1,000 streams, us", each(cpu, 1000 * tokens)),
            ("S3 token latency p50, 1,000 streams, us", latency(&latencies, 50.0)),
            ("S3 token latency p99, 1,000 streams, us", latency(&latencies, 99.0)),
            ("S3 memory per stream beyond idle, KB", memory.saturating_sub(target.idle) as f64 / 1e6),
        ]);
        Ok(figures)
    }

    /// Streams side by side, a connection each; with a pause between tokens they begin a millisecond apart.
    pub async fn crowd(
        &self,
        target: &Target,
        streams: usize,
        script: Script,
    ) -> Result<(Duration, Vec<Duration>), String> {
        let cpu = target.cpu();
        let one = async |n: usize| {
            if !script.every.is_zero() {
                tokio::time::sleep(Duration::from_millis(n as u64)).await;
            }
            let script = Script { stream: self.script(Kind::Text, 0, 1, Duration::ZERO).stream, ..script };
            let mut client = self.client(target).await?;
            let answer = ask(&mut client, target, &script, n == 0).await?;
            self.seen.borrow_mut().sent.remove(&script.stream);
            Ok::<_, String>((script, answer))
        };
        let mut answers = Vec::with_capacity(streams);
        for answer in futures::future::join_all((0..streams).map(one)).await {
            answers.push(answer?);
        }
        let cpu = target.cpu() - cpu;
        let mut latencies = Vec::with_capacity(streams * script.amount);
        for (script, answer) in &answers {
            latencies.extend_from_slice(&answer.latencies);
            if !answer.body.is_empty() {
                judge(target, script, answer)?;
            }
        }
        Ok((cpu, latencies))
    }

    async fn short_requests(&self, target: &Target) -> Result<Figures, String> {
        let each_client = if self.quick { 20 } else { 200 };
        let mut clients = Vec::new();
        for _ in 0..32 {
            clients.push(self.client(target).await?);
        }
        // all ask for one model, as a server has one
        let script = self.script(Kind::Whole, 64, 1, Duration::ZERO);
        // connections are no part of it, nor is what a process does for the first time
        let mut cpu = Duration::ZERO;
        for _ in 0..2 {
            cpu = target.cpu();
            let asking = clients.iter_mut().map(|client| asks(client, target, &script, each_client));
            futures::future::join_all(asking).await.into_iter().collect::<Result<Vec<_>, _>>()?;
            cpu = target.cpu() - cpu;
        }
        Ok(vec![("S4 CPU per request, us", each(cpu, 32 * each_client))])
    }

    async fn transcripts(&self, target: &Target) -> Result<Figures, String> {
        let mut figures = Vec::new();
        for (name, megabytes, items) in
            [("S5 CPU per MB, 1 MB, ms", 1, 400), ("S5 CPU per MB, 8 MB, ms", 8, 3000)]
        {
            let script = self.script(Kind::Text, 4, 1, Duration::ZERO);
            let mut body = transcript(&script.model(), megabytes << 20, items).into_bytes();
            let size = body.len();
            if target.speaks == Speaks::Chat {
                let plan = plan(&body, &PlanOptions::new(&LLAMA_SERVER))
                    .map_err(|error| error.message.to_string())?;
                body = plan.body;
            }
            let mut client = self.client(target).await?;
            send(&mut client, target, &script, &body, false).await?;
            target.forget_peak();
            let cpu = target.cpu();
            let times = if self.quick { 2 } else { 5 };
            for _ in 0..times {
                send(&mut client, target, &script, &body, false).await?;
            }
            let cpu = (target.cpu() - cpu) / times;
            figures.push((name, cpu.as_secs_f64() * 1e3 / (size as f64 / 1e6)));
            // what a longer body left behind would count for a shorter one
            if megabytes == 8 {
                let peak = target.peak().saturating_sub(target.idle) as f64;
                figures.push(("S5 peak memory / body, 8 MB", peak / size as f64));
            }
        }
        if !self.quick {
            let script = self.script(Kind::Text, 4, 1, Duration::ZERO);
            let body = transcript(&script.model(), 64 << 20, 3000).into_bytes();
            if target.speaks == Speaks::Responses {
                send(&mut self.client(target).await?, target, &script, &body, false).await?;
            }
        }
        Ok(figures)
    }

    async fn arguments(&self, target: &Target) -> Result<Figures, String> {
        let mut client = self.client(target).await?;
        let mut took = Vec::new();
        let mut rise = 0.0;
        let mut cpu = Duration::ZERO;
        for kilobytes in [20, 80, 320] {
            let script = self.script(Kind::Arguments, kilobytes << 10, 1, Duration::ZERO);
            let before = target.memory();
            target.forget_peak();
            let (begun, used) = (Instant::now(), target.cpu());
            let answer = ask(&mut client, target, &script, true).await?;
            took.push(begun.elapsed().as_secs_f64());
            cpu = target.cpu() - used;
            rise = target.peak().saturating_sub(before) as f64 / script.amount as f64;
            judge(target, &script, &answer)?;
        }
        Ok(vec![
            ("S6 time, 320 KB / 80 KB", took[2] / took[1]),
            ("S6 CPU per delta, 320 KB, us", each(cpu, 80 << 10)),
            ("S6 memory / arguments, 320 KB", rise),
        ])
    }

    async fn turns(&self, target: &Target) -> Result<Option<Figures>, String> {
        let (turns, conversations) = if self.quick { (20, 2) } else { (200, 4) };
        let mut client = self.client(target).await?;
        let question = "Tell me more about the way of a packet. ".repeat(50);
        // a conversation keeps to its model
        let script = self.script(Kind::Whole, 64, 1, Duration::ZERO);
        let cpu = target.cpu();
        let sent = self.seen.borrow().body_bytes;
        let (mut memory, mut text) = (0, 0);
        // with the first one the process takes what long requests need while they run, once
        for conversation in 0..=conversations {
            if conversation == 1 {
                (memory, text) = (target.memory(), 0);
            }
            let mut previous: Option<String> = None;
            for _ in 0..turns {
                let body = json!({"model": script.model(), "input": question, "store": true,
                    "previous_response_id": previous});
                let answer = client.ask(body.to_string().as_bytes(), &script, true).await?;
                if answer.status == 400 && previous.is_some() {
                    return Ok(None);
                }
                let reply: Value = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
                previous = Some(reply["id"].as_str().ok_or_else(|| format!("no id in {reply}"))?.to_owned());
                text += question.len() + script.text().len();
            }
        }
        let sent = (self.seen.borrow().body_bytes - sent) as f64 / 1e6;
        let grown = target.memory().saturating_sub(memory) as f64;
        Ok(Some(vec![
            ("S7 CPU per MB sent upstream, ms", (target.cpu() - cpu).as_secs_f64() * 1e3 / sent),
            ("S7 store growth / text", grown / text as f64),
        ]))
    }

    async fn hang_ups(&self, target: &Target) -> Result<Figures, String> {
        let mut figures = Vec::new();
        for (name, amount, every, deltas) in [
            ("S8 upstream freed, tokens coming, ms", 500, MS_20, 5),
            ("S8 upstream freed, silence, ms", 2, Duration::from_secs(5), 1),
        ] {
            let mut longest = 0.0_f64;
            for _ in 0..10 {
                let script = self.script(Kind::Text, amount, 1, every);
                let body = request(target.speaks, &script);
                let left = self.client(target).await?.leave_after(body.as_bytes(), &script, deltas).await?;
                let freed = loop {
                    if let Some(gone) = self.seen.borrow_mut().gone.remove(&script.stream) {
                        break gone.saturating_duration_since(left);
                    }
                    if left.elapsed() > Duration::from_secs(10) {
                        return Err(format!("{}: the upstream was never freed", target.name));
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                };
                longest = longest.max(freed.as_secs_f64() * 1e3);
            }
            figures.push((name, longest));
        }
        Ok(figures)
    }
}

/// Short requests, one after the other.
async fn asks(client: &mut Client, target: &Target, script: &Script, count: usize) -> Result<(), String> {
    for n in 0..count {
        let answer = ask(client, target, script, n == 0).await?;
        if n == 0 && target.speaks == Speaks::Responses {
            let body: Value = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
            if body["output_text"] != script.text() {
                return Err(format!("{}: another text than the upstream's: {body}", target.name));
            }
        }
    }
    Ok(())
}

async fn ask(client: &mut Client, target: &Target, script: &Script, keep: bool) -> Result<Answer, String> {
    send(client, target, script, request(target.speaks, script).as_bytes(), keep).await
}

async fn send(
    client: &mut Client,
    target: &Target,
    script: &Script,
    body: &[u8],
    keep: bool,
) -> Result<Answer, String> {
    let answer = client.ask(body, script, keep).await.map_err(|error| format!("{}: {error}", target.name))?;
    match answer.wrong(target.speaks, script) {
        Some(wrong) => Err(format!("{}: {wrong}", target.name)),
        None => Ok(answer),
    }
}

fn request(speaks: Speaks, script: &Script) -> String {
    let (model, stream, text) = (script.model(), script.kind != Kind::Whole, "Say what a proxy does.");
    let parameters = json!({"type": "object", "properties": {"text": {"type": "string"}}});
    let mut request = match speaks {
        Speaks::Chat => json!({"model": model, "messages": [{"role": "user", "content": text}]}),
        // streams as agents send them: what a store keeps of one is no memory of the next
        Speaks::Responses => json!({"model": model, "input": text, "store": !stream}),
    };
    request["stream"] = stream.into();
    if stream && speaks == Speaks::Chat {
        request["stream_options"] = json!({"include_usage": true});
    }
    if script.kind == Kind::Arguments {
        let mut function = json!({"name": "write", "parameters": parameters});
        request["tools"] = match speaks {
            Speaks::Chat => json!([{"type": "function", "function": function}]),
            Speaks::Responses => {
                function["type"] = "function".into();
                json!([function])
            }
        };
    }
    request.to_string()
}

/// Rounds of reasoning, call and output, as an agent sends them back.
fn transcript(model: &str, bytes: usize, items: usize) -> String {
    let rounds = items / 3;
    let line = "src/server/mod.rs:102:    let \"runtime\" = Builder::new();\n";
    let output = line.repeat(bytes / rounds / line.len());
    let mut input = vec![json!({"role": "user", "content": "begin"})];
    for n in 0..rounds {
        let id = format!("call_{n}");
        input.push(
            json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": "why ".repeat(50)}]}),
        );
        let arguments = json!({"cmd": format!("sed -n {n},99p file")}).to_string();
        input.push(
            json!({"type": "function_call", "call_id": id, "name": "exec_command", "arguments": arguments}),
        );
        input.push(json!({"type": "function_call_output", "call_id": id, "output": output}));
    }
    json!({"model": model, "input": input, "stream": true, "store": false}).to_string()
}

/// Speed must not be bought with wrong events.
fn judge(target: &Target, script: &Script, answer: &Answer) -> Result<(), String> {
    if target.speaks == Speaks::Chat {
        return Ok(());
    }
    let text = std::str::from_utf8(&answer.body).map_err(|error| error.to_string())?;
    let mut violations = checker::check(text);
    violations.extend(checker::judge_async_openai(text));
    let (kind, want) = match script.kind {
        Kind::Arguments => ("response.function_call_arguments.delta", script.arguments()),
        _ => ("response.output_text.delta", script.text()),
    };
    let deltas =
        text.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
    let deltas: Vec<Value> = deltas.filter(|event| event["type"] == kind).collect();
    let told: String = deltas.iter().filter_map(|event| event["delta"].as_str()).collect();
    if told != want {
        violations.push("the deltas are not the upstream's text".to_owned());
    }
    let pieces = if script.kind == Kind::Arguments { want.len().div_ceil(4) } else { script.amount };
    if deltas.len() != pieces {
        violations.push(format!("{} deltas for {pieces} chunks", deltas.len()));
    }
    violations.truncate(5);
    if violations.is_empty() { Ok(()) } else { Err(format!("{}: wrong events: {violations:?}", target.name)) }
}

fn each(cpu: Duration, count: usize) -> f64 {
    cpu.as_secs_f64() * 1e6 / count as f64
}

fn latency(latencies: &[Duration], percent: f64) -> f64 {
    percentile(&mut latencies.iter().map(|latency| latency.as_secs_f64() * 1e6).collect::<Vec<_>>(), percent)
}

/// The value below which `percent` of them lie.
pub fn percentile(values: &mut [f64], percent: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 - 1.0) * percent / 100.0).round().max(0.0) as usize;
    values.get(at).copied().unwrap_or(f64::NAN)
}
