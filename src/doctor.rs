//! Owns `rejoinder doctor`: what each upstream server is, what is wrong there, and what to do about it. It must
//! not change anything.

use std::fmt::Write;

use rejoinder_core::client::{CODEX, CODEX_MODELS, compact_at};
use serde_json::{Value, json};

use crate::config::Resolved;
use crate::telemetry::{Metrics, escaped};
use crate::upstream::{Model, Saves, ServerInfo, ServerStatus, Traits, Upstream};

/// Largest number of models that are listed one by one.
const SHOWN: usize = 8;

/// Probes every server once. Returns the report, for a person or as JSON, and whether all is well.
///
/// # Errors
/// When no probe can be set up.
pub fn run(resolved: &Resolved, as_json: bool) -> Result<(String, bool), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    let upstream = Upstream::new(resolved, &Metrics::new(resolved.config.metrics.names).routing)?;
    runtime.block_on(async {
        upstream.probe().await;
        upstream.read_saves().await;
    });
    let seen = upstream.seen();
    Ok(if as_json { report_as_json(&seen) } else { report(&seen) })
}

/// The text for a person, and whether all is well.
fn report(servers: &[ServerStatus]) -> (String, bool) {
    let mut text = String::new();
    let mut well = true;
    for server in servers {
        // writing to a String cannot fail
        let _ = writeln!(text, "upstream {}", escaped(&server.label));
        match (&server.ready, &server.facts) {
            (Ok(()), Some(facts)) => known(facts, &mut text),
            (Ok(()), None) => {}
            (Err(reason), _) => {
                let _ = writeln!(text, "  not ready: {}", escaped(reason));
            }
        }
        let advice = advice(server);
        well &= advice.is_empty();
        if advice.is_empty() {
            let _ = writeln!(text, "  all is well");
        }
        for advice in advice {
            let _ = writeln!(text, "  ! {}", escaped(&advice));
        }
    }
    (text, well)
}

/// What to do about this server; nothing if all is well.
fn advice(server: &ServerStatus) -> Vec<String> {
    match (&server.ready, &server.facts) {
        (Ok(()), Some(facts)) => advise(facts, server),
        (Ok(()), None) => Vec::new(),
        (Err(reason), _) => vec![absent(reason)],
    }
}

/// The same for a program: one object.
fn report_as_json(servers: &[ServerStatus]) -> (String, bool) {
    let one = |server: &ServerStatus| {
        let facts = server.ready.is_ok().then_some(server.facts.as_ref()).flatten();
        let model = |facts: &ServerInfo, model: &Model| {
            let traits = facts.traits_of(&model.id);
            json!({ "id": model.id, "context": traits.context, "tools": traits.tools, "images": traits.accepts_images,
                    "loaded": model.loaded })
        };
        let models =
            |facts: &ServerInfo| facts.models.iter().map(|known| model(facts, known)).collect::<Vec<_>>();
        json!({
            "upstream": server.label,
            "ready": server.ready.is_ok(),
            "reason": server.ready.as_ref().err(),
            "server": facts.map(|facts| facts.dialect.name),
            "version": facts.and_then(|facts| facts.version.as_deref()),
            "slots": facts.and_then(|facts| facts.slots),
            "models": facts.map(|facts| models(facts)),
            "advice": advice(server),
        })
    };
    let well = servers.iter().all(|server| advice(server).is_empty());
    let upstreams: Vec<Value> = servers.iter().map(one).collect();
    (format!("{:#}\n", json!({ "well": well, "upstreams": upstreams })), well)
}

fn known(facts: &ServerInfo, text: &mut String) {
    let version =
        facts.version.as_deref().map(|version| format!(" {}", escaped(version))).unwrap_or_default();
    let _ = writeln!(text, "  server: {}{version}", facts.dialect.name);
    let shown = facts.models.iter().take(SHOWN);
    let names: Vec<String> = shown.map(|model| named(facts, model)).collect();
    let more = facts.models.len().saturating_sub(names.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let names = if names.is_empty() { "none".into() } else { escaped(&names.join(", ")) };
    let _ = writeln!(text, "  models: {names}{more}");
    if let Some(context) = facts.traits.context {
        let slots = facts.slots.map(|slots| format!(" for each of {slots} slots")).unwrap_or_default();
        let _ = writeln!(text, "  context: {context} tokens{slots}");
        let ([window, summary], limit) = (CODEX_MODELS.keys, compact_at(context));
        let _ = writeln!(text, "  for {}: {window} = {context}, {summary} = {limit}", CODEX.name);
    }
    let told = |told: Option<bool>| told.map_or("not told", |yes| if yes { "yes" } else { "no" });
    if !facts.router {
        let _ = writeln!(
            text,
            "  tools: {}, images: {}",
            told(facts.traits.tools),
            told(facts.traits.accepts_images)
        );
    }
    if let Some(path) = facts.dialect.count_tokens.map(|(path, _)| path) {
        let _ = writeln!(text, "  counts tokens at: {path}");
    }
}

/// A model's name, with what is known of it alone where there are several.
fn named(facts: &ServerInfo, model: &Model) -> String {
    if facts.models.len() == 1 && !facts.router {
        return model.id.clone();
    }
    let context =
        model.traits.context.map_or("context unknown".to_owned(), |context| format!("{context} tokens"));
    let loaded = if model.loaded == Some(false) { ", not loaded" } else { "" };
    format!("{} ({context}{loaded})", model.id)
}

fn advise(facts: &ServerInfo, server: &ServerStatus) -> Vec<String> {
    let mut advice = Vec::new();
    if facts.locked {
        advice.push(
            "it requires an API key: put it into a file and set upstream.api_key_file, or pass on the keys of clients \
             (upstream.forward_authorization)"
                .to_owned(),
        );
    } else if facts.models.is_empty() {
        advice.push("it lists no model: load one".to_owned());
    }
    advise_on_models(facts, &mut advice);
    if facts.dialect.slot_key.is_some() && facts.slots == Some(1) {
        advice.push(
            "it has one slot: a client's side requests (Codex asks for a title) push the conversation out of its \
             cache; start it with -np 2"
                .to_owned(),
        );
    }
    advise_on_settings(facts, server, &mut advice);
    advice
}

/// What keeps agents from working with its models.
fn advise_on_models(facts: &ServerInfo, advice: &mut Vec<String>) {
    // of every model that is listed, or of the one that is not
    let all: Vec<(&str, Traits)> = match facts.models.as_slice() {
        [] | [_] if !facts.router => vec![("", facts.traits)],
        models => models.iter().take(SHOWN).map(|model| (&*model.id, facts.traits_of(&model.id))).collect(),
    };
    let client = CODEX.name;
    let of = |name: &str| if name.is_empty() { String::new() } else { format!("{name}: ") };
    for (name, _) in all.iter().filter(|(_, traits)| traits.tools == Some(false)) {
        advice.push(format!(
            "{}its chat template does not support tools, so agents cannot work: start it with --jinja and a template that does",
            of(name)
        ));
    }
    let unknown: Vec<&str> =
        all.iter().filter(|(_, traits)| traits.context.is_none()).map(|(name, _)| *name).collect();
    if !unknown.is_empty() && !facts.locked && !facts.models.is_empty() {
        let names = unknown.join(", ");
        let of = if names.is_empty() { String::new() } else { format!(" of {names}") };
        let load = if facts.router { ", or load it" } else { "" };
        let ([window, summary], assumed) = (CODEX_MODELS.keys, CODEX_MODELS.assumed_context);
        advice.push(format!(
            "the context{of} is not known: {client} would take it for {assumed} tokens; set {window} and {summary} \
             there{load}"
        ));
    }
    let first = CODEX_MODELS.first_request;
    let small = all.iter().filter_map(|(name, traits)| Some((*name, traits.context?)));
    for (name, context) in small.filter(|(_, context)| *context < 2 * first) {
        advice.push(format!(
            "{}a context of {context} tokens is small, {client}'s first request takes about {first}: start it with more \
             (llama-server: -c is shared among the -np slots; vLLM: --max-model-len)",
            of(name)
        ));
    }
}

/// Keys of our own configuration that do not fit it.
fn advise_on_settings(facts: &ServerInfo, server: &ServerStatus, advice: &mut Vec<String>) {
    let any = facts.dialect.any_model && !facts.router;
    let unlisted = |own: &String| !facts.models.is_empty() && !facts.lists(own) && !any;
    for (name, own) in server.models.iter().flatten().filter(|(_, own)| unlisted(own)) {
        advice.push(format!("upstream.models has {name:?}, but it does not list {own:?}"));
    }
    if server.saves == Saves::Useless {
        advice.push(
            "saved slots are of no use to its model, which processes a restored prompt again (hybrid, recurrent and \
             sliding-window models do): set upstream.slot_save = false"
                .to_owned(),
        );
    }
    if server.saves != Saves::Off && facts.router {
        advice.push("it serves several models: upstream.slot_save has no effect there".to_owned());
    }
    if facts.dialect.name == "generic" {
        advice.push(
            "its kind is not recognised: if it is one of the known servers, set upstream.dialect".to_owned(),
        );
    }
}

fn absent(reason: &str) -> String {
    let advice = if reason.contains("refused") {
        "nothing listens there: start the server, or correct upstream.url"
    } else if reason.contains("certificate") {
        "its certificate is not trusted: add its issuer to the certificates of this machine, or set SSL_CERT_FILE"
    } else if reason.contains("no answer in time") {
        "it accepts connections and does not answer: it hangs, or is not an HTTP server"
    } else if reason.contains("answers 503") {
        "it is loading its model: wait, as requests will (upstream.ready_timeout)"
    } else {
        "correct upstream.url, or read the server's own log"
    };
    advice.to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use rejoinder_core::dialect::{LLAMA_SERVER, VLLM};

    fn seen(facts: ServerInfo) -> ServerStatus {
        ServerStatus {
            label: "http://gpu:8000".into(),
            ready: Ok(()),
            facts: Some(Arc::new(facts)),
            in_flight: 0,
            models: None,
            saves: Saves::Off,
        }
    }

    fn model(id: &str) -> Vec<Model> {
        vec![Model { id: id.into(), aliases: Vec::new(), traits: Traits::default(), loaded: None }]
    }

    #[test]
    fn a_good_server_needs_no_advice() {
        let facts = ServerInfo {
            models: model("q"),
            traits: Traits { context: Some(32768), tools: Some(true), ..Traits::default() },
            slots: Some(2),
            ..ServerInfo::of(&LLAMA_SERVER)
        };
        let (text, well) = report(&[seen(facts)]);
        assert!(well, "{text}");
        assert!(text.contains("32768 tokens for each of 2 slots") && text.contains("= 26214"), "{text}");
    }

    #[test]
    fn a_program_reads_what_a_person_does() {
        let facts = ServerInfo {
            models: model("q"),
            version: Some("b1".into()),
            traits: Traits { context: Some(32768), tools: Some(true), ..Traits::default() },
            slots: Some(2),
            ..ServerInfo::of(&LLAMA_SERVER)
        };
        let (text, well) = report_as_json(&[seen(facts)]);
        let told: Value = serde_json::from_str(&text).unwrap();
        let server = &told["upstreams"][0];
        assert!(well && told["well"] == true && server["ready"] == true, "{text}");
        assert_eq!(
            (&server["server"], &server["version"], &server["slots"]),
            (&json!("llama_server"), &json!("b1"), &json!(2))
        );
        assert_eq!(
            (&server["models"][0]["id"], &server["models"][0]["context"]),
            (&json!("q"), &json!(32768))
        );
        assert_eq!((&server["advice"], &server["reason"]), (&json!([]), &Value::Null));
    }

    #[test]
    fn what_a_server_says_of_itself_stays_on_its_line() {
        let facts = ServerInfo {
            models: model("q\n  all is well\u{1b}[2J"),
            version: Some("1\r\n  tools: yes".into()),
            traits: Traits { context: Some(32768), ..Traits::default() },
            ..ServerInfo::of(&VLLM)
        };
        let mut gone = seen(ServerInfo::default());
        gone.ready = Err("http://gpu:8000: \u{9b}1m\nupstream http://gpu:8000\n  all is well".into());
        let (text, _) = report(&[seen(facts), gone]);
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
        let well = text.lines().filter(|line| line.trim() == "all is well").count();
        assert_eq!(
            (well, text.lines().filter(|line| line.starts_with("upstream ")).count()),
            (1, 2),
            "{text}"
        );
        assert!(!text.lines().any(|line| line == "  tools: yes"), "{text}");
    }

    #[test]
    fn each_fault_has_its_advice() {
        let small = ServerInfo {
            models: model("q"),
            traits: Traits { context: Some(4096), tools: Some(false), ..Traits::default() },
            slots: Some(1),
            ..ServerInfo::of(&LLAMA_SERVER)
        };
        let locked = ServerInfo { locked: true, ..ServerInfo::of(&VLLM) };
        let mut wrong = seen(ServerInfo { models: model("q"), ..ServerInfo::of(&VLLM) });
        wrong.models = Some(vec![("a".into(), "b".into())]);
        let router = |loaded| {
            let mut models = model("q");
            models[0].loaded = Some(loaded);
            ServerInfo { models, router: true, ..ServerInfo::of(&LLAMA_SERVER) }
        };
        let mut gone = seen(ServerInfo::default());
        gone.ready = Err("http://gpu:8000: connection refused".into());
        for (server, words) in [
            (seen(small), &["4096 tokens", "-np 2", "--jinja"][..]),
            (seen(locked), &["api_key_file"]),
            (wrong, &["does not list \"b\""]),
            (
                seen(ServerInfo { models: model("q"), ..ServerInfo::of(&VLLM) }),
                &["the context is not known", "images: not told"],
            ),
            (
                seen(router(false)),
                &["q (context unknown, not loaded)", "the context of q is not known", "or load it"],
            ),
            (seen(ServerInfo { models: model("q"), ..ServerInfo::default() }), &["upstream.dialect"]),
            (gone, &["not ready", "start the server"]),
        ] {
            let (json, well) = report_as_json(std::slice::from_ref(&server));
            let told: Value = serde_json::from_str(&json).unwrap();
            let advice: Vec<&str> = told["upstreams"][0]["advice"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one.as_str().unwrap())
                .collect();
            assert!(!well && told["well"] == false && !advice.is_empty(), "{json}");
            let (text, well) = report(&[server]);
            assert!(!well, "{text}");
            for word in words {
                assert!(text.contains(word), "{word}: {text}");
            }
            for advice in advice {
                assert!(text.contains(&format!("  ! {}\n", escaped(advice))), "{advice}: {text}");
            }
        }
    }
}
