//! Hostile bodies: every list, every object and every string of a request, wide, deep, long, repeated, named oddly and
//! escaped in every way. None ends the process, takes more memory than `3 * bytes + 16 MiB`, or time that grows faster
//! than it does; each is refused by the field or planned. One test alone in its process: nobody else allocates meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and shows what it measured"
)]

use std::borrow::Cow;
use std::hint::black_box;

use peak_alloc::PeakAlloc;
use rejoinder_core::dialect::{GENERIC, LLAMA_SERVER, VLLM};
use rejoinder_core::error::Error;
use rejoinder_core::ids::Ids;
use rejoinder_core::item_views::{input_id, listed};
use rejoinder_core::limits::Limits;
use rejoinder_core::options::{DeveloperMessages, FoundTools, PlanOptions, ThinkTags, Wrappers};
use rejoinder_core::request::parse::{Context, ConversationRequest, ParsedRequest, text};
use rejoinder_core::request::plan::plan;
use rejoinder_core::response::transcoder::{End, Transcoder};
use rejoinder_core::responses_profile::{self, ResponsesProfile};
use rejoinder_core::wire::request::elements;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const BODIES: usize = 20_000;
/// The stack of a thread on which bodies are read: a quarter of what the server's have.
const STACK: usize = 512 << 10;
const FREE: usize = 16 << 20;

/// Where `@` stands, a list is put.
const LISTS: &[&str] = &[
    r#"{"model":"m","input":@}"#,
    r#"{"model":"m","input":[{"role":"user","content":@}]}"#,
    r#"{"model":"m","input":[{"role":"system","content":@},{"role":"user","content":"x"}]}"#,
    r#"{"model":"m","input":[{"role":"user","content":"x"},{"role":"assistant","content":@}]}"#,
    r#"{"model":"m","input":[{"role":"assistant","content":[{"type":"output_text","text":"x","annotations":@}]}]}"#,
    r#"{"model":"m","input":[{"role":"assistant","content":[{"type":"output_text","text":"x","logprobs":@}]}]}"#,
    r#"{"model":"m","input":[{"type":"reasoning","summary":@},{"role":"user","content":"x"}]}"#,
    r#"{"model":"m","input":[{"type":"reasoning","content":@},{"role":"user","content":"x"}]}"#,
    r#"{"model":"m","input":[{"type":"function_call","call_id":"c","name":"f","arguments":@}]}"#,
    r#"{"model":"m","input":[{"type":"function_call_output","call_id":"c","output":@}]}"#,
    r#"{"model":"m","input":[{"type":"custom_tool_call_output","call_id":"c","output":@}]}"#,
    r#"{"model":"m","input":[{"type":"shell_call","call_id":"c","action":{"commands":@}}]}"#,
    r#"{"model":"m","input":[{"type":"shell_call_output","call_id":"c","output":@}]}"#,
    r#"{"model":"m","input":[{"type":"shell_call_output","call_id":"c","output":[{"stdout":"x","outcome":{"exit_code":@}}]}]}"#,
    r#"{"model":"m","input":[{"type":"local_shell_call","call_id":"c","action":{"type":"exec","command":@}}]}"#,
    r#"{"model":"m","input":[{"type":"apply_patch_call","call_id":"c","operation":{"type":"update_file","diff":@}}]}"#,
    r#"{"model":"m","input":[{"type":"tool_search_call","call_id":"c","arguments":{"query":@}}]}"#,
    r#"{"model":"m","input":[{"role":"user","content":"x"},{"type":"tool_search_output","call_id":"c","tools":@}]}"#,
    r#"{"model":"m","input":[{"role":"user","content":"x"},{"type":"tool_search_output","call_id":"c","tools":[{"type":"namespace","name":"n","tools":@}]}]}"#,
    r#"{"model":"m","input":[{"role":"user","content":"x"},{"type":"additional_tools","tools":@}]}"#,
    r#"{"model":"m","input":[{"role":"user","content":"x"},{"type":"additional_tools","tools":[{"type":"namespace","name":"n","tools":@}]}]}"#,
    r#"{"model":"m","input":[{"role":"user","content":"x"},{"type":"mcp_list_tools","tools":@}]}"#,
    r#"{"model":"m","input":[{"role":"user","content":"x"},{"type":"file_search_call","queries":@,"results":@}]}"#,
    r#"{"model":"m","input":[{"role":"user","content":"x"},{"type":"code_interpreter_call","outputs":@}]}"#,
    r#"{"model":"m","input":"x","tools":@}"#,
    r#"{"model":"m","input":"x","tools":[{"type":"namespace","name":"n","tools":@}]}"#,
    r#"{"model":"m","input":"x","tools":[{"type":"function","name":"f","parameters":{"type":"object","required":@}}]}"#,
    r#"{"model":"m","input":"x","tools":[{"type":"function","name":"shell","parameters":{"properties":{"command":{}},"required":@}}]}"#,
    r#"{"model":"m","input":"x","tools":[{"type":"file_search","vector_store_ids":@}]}"#,
    r#"{"model":"m","input":"x","tools":[{"type":"mcp","server_label":"s","allowed_tools":@}]}"#,
    r#"{"model":"m","input":"x","tools":[{"type":"function","name":"f1"}],"tool_choice":{"type":"allowed_tools","tools":@}}"#,
    r#"{"model":"m","input":"x","include":@}"#,
    r#"{"model":"m","input":"x","context_management":@}"#,
    r#"{"model":"m","input":"x","text":{"format":{"type":"json_schema","name":"n","schema":{"enum":@}}}}"#,
    r#"{"model":"m","input":"x","stop":@}"#,
    r#"{"model":"m","input":"x","chat_template_kwargs":{"a":@}}"#,
    r#"{"model":"m","input":"x","unknown":@}"#,
    r#"{"items":@}"#,
    r#"{"items":[{"role":"user","content":@}]}"#,
    r#"{"items":[{"role":"assistant","content":[{"type":"output_text","text":"x","annotations":@}]}]}"#,
    r#"{"items":[{"type":"function_call_output","call_id":"c","output":@}]}"#,
];

/// Where `@` stands, the members of an object are put.
const OBJECTS: &[&str] = &[
    r#"{"model":"m","input":"x",@}"#,
    r#"{"model":"m","input":[{"role":"user","content":"x",@}]}"#,
    r#"{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"x",@}]}]}"#,
    r#"{"model":"m","input":[{"role":"user","content":[{"type":"input_audio","input_audio":{@}}]}]}"#,
    r#"{"model":"m","input":[{"role":"user","content":[{"type":"input_image","image_url":{"url":"u",@}}]}]}"#,
    r#"{"model":"m","input":[{"type":"function_call","call_id":"c","name":"f","arguments":{@}}]}"#,
    r#"{"model":"m","input":[{"type":"function_call_output","call_id":"c","output":{@}}]}"#,
    r#"{"model":"m","input":[{"type":"shell_call","call_id":"c","action":{@}}]}"#,
    r#"{"model":"m","input":[{"type":"local_shell_call","call_id":"c","action":{"env":{@}}}]}"#,
    r#"{"model":"m","input":[{"type":"apply_patch_call","call_id":"c","operation":{@}}]}"#,
    r#"{"model":"m","input":[{"type":"tool_search_call","call_id":"c","arguments":{@}}]}"#,
    r#"{"model":"m","input":[{"type":"shell_call_output","call_id":"c","output":[{"outcome":{@}}]}]}"#,
    r#"{"model":"m","input":"x","tools":[{"type":"function","name":"f",@}]}"#,
    r#"{"model":"m","input":"x","tools":[{"type":"function","name":"f","parameters":{"properties":{@}}}]}"#,
    r#"{"model":"m","input":"x","tools":[{"type":"function","name":"shell","parameters":{"properties":{"command":{},@}}}]}"#,
    r#"{"model":"m","input":"x","tools":[{"type":"custom","name":"f","format":{@}}]}"#,
    r#"{"model":"m","input":"x","tool_choice":{"type":"function","name":"f",@}}"#,
    r#"{"model":"m","input":"x","metadata":{@}}"#,
    r#"{"model":"m","input":"x","reasoning":{@}}"#,
    r#"{"model":"m","input":"x","text":{@}}"#,
    r#"{"model":"m","input":"x","text":{"format":{"type":"json_schema","name":"n","schema":{@}}}}"#,
    r#"{"model":"m","input":"x","conversation":{"id":"conv_1",@}}"#,
    r#"{"model":"m","input":"x","chat_template_kwargs":{@},"text":{"format":{"type":"json_object"}}}"#,
    r#"{"model":"m","input":"x","client_metadata":{@}}"#,
    r#"{"metadata":{@}}"#,
    r#"{"items":[{"role":"user","content":"x",@}]}"#,
];

/// Where `@` stands, the inside of a string is put.
const STRINGS: &[&str] = &[
    r#"{"model":"@","input":"x"}"#,
    r#"{"model":"m","input":"@"}"#,
    r#"{"model":"m","input":"x","instructions":"@"}"#,
    r#"{"model":"m","input":"x","user":"@"}"#,
    r#"{"model":"m","input":"x","prompt_cache_key":"@","safety_identifier":"@"}"#,
    r#"{"model":"m","input":"x","previous_response_id":"@"}"#,
    r#"{"model":"m","input":"x","conversation":"@"}"#,
    r#"{"model":"m","input":"x","truncation":"@"}"#,
    r#"{"model":"m","input":"x","metadata":{"@":"v"}}"#,
    r#"{"model":"m","input":"x","metadata":{"k":"@"}}"#,
    r#"{"model":"m","input":"x","@":1}"#,
    r#"{"model":"m","input":"x","include":["@"]}"#,
    r#"{"model":"m","input":"x","reasoning":{"effort":"@"}}"#,
    r#"{"model":"m","input":"x","text":{"verbosity":"@"}}"#,
    r#"{"model":"m","input":"x","text":{"format":{"type":"@"}}}"#,
    r#"{"model":"m","input":"x","text":{"format":{"type":"json_schema","name":"@","schema":{}}}}"#,
    r#"{"model":"m","input":"x","tool_choice":"@"}"#,
    r#"{"model":"m","input":"x","tool_choice":{"type":"@"}}"#,
    r#"{"model":"m","input":"x","tool_choice":{"type":"function","name":"@"}}"#,
    r#"{"model":"m","input":"x","tools":[{"type":"@"}]}"#,
    r#"{"model":"m","input":"x","tools":[{"type":"function","name":"@"}]}"#,
    r#"{"model":"m","input":"x","tools":[{"type":"function","name":"f","description":"@"}]}"#,
    r#"{"model":"m","input":"x","tools":[{"type":"custom","name":"f","description":"@","format":{"type":"grammar","syntax":"lark","definition":"@"}}]}"#,
    r#"{"model":"m","input":"x","tools":[{"type":"namespace","name":"@","tools":[{"type":"function","name":"f"}]}]}"#,
    r#"{"model":"m","input":[{"role":"@","content":"x"}]}"#,
    r#"{"model":"m","input":[{"type":"@"}]}"#,
    r#"{"model":"m","input":[{"id":"@"}]}"#,
    r#"{"model":"m","input":[{"role":"user","content":"@"}]}"#,
    r#"{"model":"m","input":[{"role":"developer","content":[{"type":"input_text","text":"@"},{"type":"input_text","text":"x"}]},{"role":"user","content":"x"}]}"#,
    r#"{"model":"m","input":[{"role":"user","content":[{"type":"@"}]}]}"#,
    r#"{"model":"m","input":[{"role":"user","content":[{"type":"input_image","image_url":"@","detail":"@"}]}]}"#,
    r#"{"model":"m","input":[{"role":"user","content":[{"type":"input_file","filename":"@","file_data":"x"}]}]}"#,
    r#"{"model":"m","input":[{"role":"user","content":[{"type":"input_file","file_data":"@"}]}]}"#,
    r#"{"model":"m","input":[{"role":"user","content":[{"type":"input_file","file_url":"@","file_id":"@"}]}]}"#,
    r#"{"model":"m","input":[{"role":"assistant","content":[{"type":"output_text","text":"@"},{"type":"refusal","refusal":"@"}]},{"role":"user","content":"x"}]}"#,
    r#"{"model":"m","input":[{"type":"reasoning","summary":[],"encrypted_content":"@"},{"role":"user","content":"x"}]}"#,
    r#"{"model":"m","input":[{"type":"compaction","encrypted_content":"@"},{"role":"user","content":"x"}]}"#,
    r#"{"model":"m","input":[{"type":"function_call","call_id":"@","name":"f","arguments":"{}"}]}"#,
    r#"{"model":"m","input":[{"type":"function_call","call_id":"c","name":"@","namespace":"@","arguments":"{}"}]}"#,
    r#"{"model":"m","input":[{"type":"function_call","call_id":"c","name":"f","arguments":"@"}]}"#,
    r#"{"model":"m","input":[{"type":"function_call","call_id":"c","name":"f","arguments":"{\"a\":\"@\"}"}]}"#,
    r#"{"model":"m","input":[{"type":"custom_tool_call","call_id":"c","name":"f","input":"@"}]}"#,
    r#"{"model":"m","input":[{"type":"function_call_output","call_id":"@","output":"@"}]}"#,
    r#"{"model":"m","input":[{"type":"shell_call_output","call_id":"c","output":[{"stdout":"@","stderr":"@"}]}]}"#,
    r#"{"model":"m","input":[{"type":"local_shell_call","call_id":"c","action":{"command":["bash","-lc","@"]}}]}"#,
    r#"{"model":"m","input":[{"role":"user","content":"x"},{"type":"tool_search_output","call_id":"c","tools":[{"type":"function","name":"@","description":"@"}]}]}"#,
    r#"{"metadata":{"k":"@"}}"#,
    r#"{"items":[{"role":"user","content":"@"}]}"#,
    r#"{"items":[{"type":"function_call","call_id":"c","name":"f","arguments":"@"}]}"#,
];

/// Elements of lists; `#` is the element's number.
const ELEMENTS: &[&str] = &[
    "1",
    "-0.5e3",
    "null",
    "true",
    r#""""#,
    r#""x#""#,
    "{}",
    "[]",
    "[[[[[[[[]]]]]]]]",
    r#"{"a":{"a":{"a":{}}}}"#,
    r#"{"type":"x"}"#,
    r#"{"id":"msg_#"}"#,
    r#"{"type":"item_reference","id":"a"}"#,
    r#"{"role":"user","content":""}"#,
    r#"{"role":"user","content":"x#"}"#,
    r#"{"role":"user","content":["",""]}"#,
    r#"{"role":"user","content":[{"type":"input_text","text":"x"}]}"#,
    r#"{"role":"developer","content":"x"}"#,
    r#"{"role":"system","content":[]}"#,
    r#"{"role":"assistant","content":"x"}"#,
    r#"{"type":"reasoning","summary":[{"type":"summary_text","text":"x"}]}"#,
    r#"{"type":"function_call"}"#,
    r#"{"type":"function_call","name":"f"}"#,
    r#"{"type":"function_call","call_id":"c","name":"f"}"#,
    r#"{"type":"function_call","call_id":"c#","name":"f#","arguments":"{}"}"#,
    r#"{"type":"function_call","call_id":"c","name":"f","arguments":"\"\"\"\""}"#,
    r#"{"type":"function_call_output","call_id":"c","output":"x"}"#,
    r#"{"type":"function_call_output"}"#,
    r#"{"type":"custom_tool_call","name":"f","input":"\"\n"}"#,
    r#"{"type":"shell_call"}"#,
    r#"{"type":"shell_call","action":{"commands":["ls"]}}"#,
    r#"{"type":"local_shell_call"}"#,
    r#"{"type":"tool_search_output","tools":[{}]}"#,
    r#"{"type":"tool_search_output","tools":[{"type":"function","name":"g#"}]}"#,
    r#"{"type":"additional_tools","tools":[{"type":"custom","name":"h#"}]}"#,
    r#"{"type":"compaction","encrypted_content":"x"}"#,
    r#"{"type":"input_text","text":""}"#,
    r#"{"type":"input_text","text":"x"}"#,
    r#"{"type":"output_text","text":"x"}"#,
    r#"{"type":"input_image","image_url":"u"}"#,
    r#"{"type":"input_file","file_data":"eA=="}"#,
    r#"{"type":"input_audio","input_audio":{}}"#,
    r#"{"stdout":"","stderr":"x","outcome":{"exit_code":0}}"#,
    r#"{"type":"function","name":"f"}"#,
    r#"{"type":"function","name":"f#"}"#,
    r#"{"type":"function","name":"ä#","parameters":{"type":"object","properties":{"a":{"enum":[1,2,3]}}}}"#,
    r#"{"type":"custom","name":"c#","format":{"type":"grammar","syntax":"lark","definition":"x"}}"#,
    r#"{"type":"namespace","name":"n#","tools":[{"type":"function","name":"f"}]}"#,
    r#"{"type":"namespace","name":"n","tools":[{"type":"function","name":"f#"}]}"#,
    r#"{"type":"namespace","name":"n","tools":[]}"#,
    r#"{"type":"web_search"}"#,
    r#"{"type":"compaction","compact_threshold":1000}"#,
];

/// What strings are made of.
const PIECES: &[&str] = &[
    "a",
    " ",
    r#"\""#,
    r"\\",
    r"\n",
    r"\u0001",
    r"\u0041",
    r"\ud83d\ude00",
    r"\ud83d",
    r"\ude00",
    "é",
    "😀",
    "QQ",
    r#"a line of \"text\" and more of it, as transcripts have them\n"#,
    "{\\\"a\\\":",
    "[",
    "data:text/plain;base64,QUJD",
    "AQEB",
    "Cgoi",
];

/// Those that grow most.
const DEAR: &[&str] = &[r#"\""#, r"\u0001", r"\ud83d\ude00", r"\ud83d", "AQEB", "a", r"\n"];

struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) as usize
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() % end
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }
}

/// `count` of them, separated by commas.
fn listed_out(element: &str, count: usize) -> String {
    (0..count).map(|n| element.replace('#', &n.to_string())).collect::<Vec<_>>().join(",")
}

/// One value in another, in lists, in objects or in both by turns.
fn nested(random: &mut Random, depth: usize) -> String {
    let (open, close) =
        [("[", "]"), (r#"{"a":"#, "}"), (r#"[{"type":"namespace","name":"n","tools":"#, "}]")]
            [random.below(3)];
    format!("{}1{}", open.repeat(depth), close.repeat(depth))
}

/// A body of about that size.
fn body(random: &mut Random, size: usize) -> String {
    match random.below(8) {
        0..3 => {
            let element = random.of(ELEMENTS);
            let list = listed_out(element, size / (element.len() + 1) + 1);
            random.of(LISTS).replace('@', &format!("[{list}]"))
        }
        3 => {
            let kinds: Vec<&str> = (0..4).map(|_| random.of(ELEMENTS)).collect();
            let mixed = kinds.join(",");
            let list = listed_out(&mixed, size / (mixed.len() + 1) + 1);
            random.of(LISTS).replace('@', &format!("[{list}]"))
        }
        4 => {
            let value = nested(random, size / 2 + 1);
            random.of(LISTS).replace('@', &value)
        }
        5 => {
            let name = ["\"k#\":", "\"k\":", "\"\\u006b#\":", "\"\":", "\"type\":"][random.below(5)];
            let member = format!("{name}{}", random.of(ELEMENTS));
            random.of(OBJECTS).replace('@', &listed_out(&member, size / (member.len() + 1) + 1))
        }
        _ => {
            let piece = random.of(PIECES);
            random.of(STRINGS).replace('@', &piece.repeat(size / piece.len() + 1))
        }
    }
}

/// Whole servers that a request may go to.
fn options(wrappers: &Wrappers) -> Vec<PlanOptions<'_>> {
    let native = |native: &'static ResponsesProfile| PlanOptions {
        native: Some(native),
        ..PlanOptions::new(&GENERIC)
    };
    vec![
        PlanOptions::new(&GENERIC),
        PlanOptions {
            wrappers: Some(wrappers),
            alternate_roles: true,
            accepts_images: false,
            developer_messages: DeveloperMessages::All,
            ..PlanOptions::new(&LLAMA_SERVER)
        },
        PlanOptions {
            found_tools: FoundTools::Described,
            developer_messages: DeveloperMessages::Keep,
            ..PlanOptions::new(&VLLM)
        },
        native(&responses_profile::VLLM),
        native(&responses_profile::FULL),
    ]
}

/// All that the server makes of a body before it asks anybody.
fn read(mut body: String, options: &PlanOptions<'_>, limits: &Limits) -> Result<(), Error> {
    // mended, in the place of what came
    if let Cow::Owned(mended) = text(body.as_bytes())? {
        body = mended;
    }
    let text = &*body;
    if body.starts_with("{\"items\"") || body.starts_with("{\"metadata\"") {
        let conversing = ConversationRequest::read(text, limits)?;
        for (n, item) in conversing.items.iter().enumerate() {
            black_box(listed(item, &input_id("resp_1", n, item), true));
        }
        return Ok(());
    }
    let draft = ParsedRequest::read(text, limits)?;
    let asks = draft.asks()?;
    let context = Context::default();
    let planned = draft.plan(options, &context);
    let stored = asks.store.then(|| draft.stored_input(&context, &[]));
    drop(draft);
    let planned = black_box(planned)?;
    drop(planned.body);
    // as lists show it
    if let Some(stored) = stored {
        let stored = stored.array();
        for (n, item) in elements(&stored).iter().enumerate().take(100) {
            black_box(listed(item, &input_id("resp_1", n, item), false));
        }
    }
    Ok(())
}

/// Time that this thread has run, in seconds; it does not count what other processes took. None but on Linux.
fn running() -> f64 {
    let counted = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    counted.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or_default() / 1e9
}

/// What was taken at most, over all bodies.
#[derive(Default)]
struct Worst {
    refused: usize,
    memory: (f64, String),
    time: (f64, String),
    wrong: Vec<String>,
}

impl Worst {
    fn tell(self, what: &str) {
        println!("{what}: {} refused\nmemory: {}\ntime: {}", self.refused, self.memory.1, self.time.1);
        assert!(
            self.wrong.is_empty(),
            "{} of {what}:\n{}",
            self.wrong.len(),
            self.wrong[..self.wrong.len().min(40)].join("\n")
        );
    }
}

fn judge(body: &str, options: &PlanOptions<'_>, worst: &mut Worst) {
    bounded(body.to_owned(), options, (&Limits::DEFAULT, FREE), worst);
}

/// Reads a body, which may take three times its bytes, and `free`.
fn bounded(mut body: String, options: &PlanOptions<'_>, (limits, free): (&Limits, usize), worst: &mut Worst) {
    body.shrink_to_fit();
    let length = body.len();
    let shown = format!("{} bytes: {}", body.len(), body.chars().take(160).collect::<String>());
    let begun = running();
    // the body itself is there
    let before = ALLOCATOR.current_usage() - body.capacity();
    ALLOCATOR.reset_peak_usage();
    if let Err(error) = read(body, options, limits) {
        assert!((400..500).contains(&error.status()), "{error} for {shown}");
        assert!(error.envelope().len() < 2000, "an answer as long as the request: {shown}");
        worst.refused += 1;
    }
    let memory = ALLOCATOR.peak_usage() - before;
    let time = running() - begun;
    let most = 3 * length + free;
    if memory > most {
        worst.wrong.push(format!("{memory} bytes of memory, {most} allowed, for {shown}"));
    }
    // without optimisation; what takes time by the square takes minutes at the largest sizes
    let longest = 3.0 + 2e-6 * length as f64;
    if time > longest {
        worst.wrong.push(format!("{time:.2} s for {shown}"));
    }
    let share = memory as f64 / most as f64;
    if share > worst.memory.0 {
        worst.memory = (share, format!("{memory} of {most} bytes for {shown}"));
    }
    if time / longest > worst.time.0 {
        worst.time = (time / longest, format!("{time:.3} of {longest:.3} s for {shown}"));
    }
}

fn all_bodies() {
    answers();
    let wrappers = Wrappers { web: Some("tvly".to_owned()), file: Some("rg".to_owned()) };
    let options = options(&wrappers);
    let mut worst = Worst::default();
    let mut random = Random(0x5eed);
    for n in 0..BODIES {
        // most are small, some are not
        let size = match n % 500 {
            0 => 1 << 20,
            1..10 => 1 << (12 + random.below(5)),
            _ => 1 << random.below(11),
        };
        let body = body(&mut random, size);
        judge(&body, &options[n % options.len()], &mut worst);
    }
    worst.tell("bodies");
    // and every place with much of a few kinds, each kind in several places
    let mut worst = Worst::default();
    for (n, place) in LISTS.iter().enumerate() {
        for m in 0..5 {
            let element = ELEMENTS[(n * 5 + m) % ELEMENTS.len()];
            let list = listed_out(element, (400 << 10) / (element.len() + 1));
            judge(&place.replace('@', &format!("[{list}]")), &options[(n + m) % options.len()], &mut worst);
        }
    }
    // items are the dearest of all elements
    for (n, element) in ELEMENTS.iter().enumerate() {
        let list = listed_out(element, Limits::DEFAULT.items);
        judge(&LISTS[0].replace('@', &format!("[{list}]")), &options[n % options.len()], &mut worst);
    }
    worst.tell("lists");
    let mut worst = Worst::default();
    for (n, place) in STRINGS.iter().enumerate() {
        for m in 0..3 {
            let piece = PIECES[(n * 3 + m) % PIECES.len()];
            let body = place.replace('@', &piece.repeat((1 << 19) / piece.len()));
            judge(&body, &options[(n + m) % options.len()], &mut worst);
        }
    }
    worst.tell("strings");
    // long ones: what is free hides nothing of them. Scaled down, since a test build takes a second for some megabytes
    let mut worst = Worst::default();
    let small = Limits { rewritten_bytes: 64 << 10, ..Limits::DEFAULT };
    for (n, place) in STRINGS.iter().enumerate() {
        let place = place.replace("{\"model\":\"m\",", "{\"model\":\"m\",\"store\":false,");
        for (m, piece) in DEAR.iter().enumerate() {
            let body = place.replace('@', &piece.repeat((1 << 20) / piece.len()));
            bounded(body, &options[(n + m) % options.len()], (&small, 768 << 10), &mut worst);
        }
    }
    worst.tell("long strings");
    let mut worst = Worst::default();
    for (n, place) in STRINGS.iter().filter(|place| place.contains("_call\"")).enumerate() {
        let body = place.replace('@', &DEAR[0].repeat((20 << 20) / 2));
        bounded(body, &options[n % options.len()], (&Limits::DEFAULT, FREE), &mut worst);
    }
    worst.tell("long strings that are stored");
}

/// Wide lists in what a server answers.
fn answers() {
    let request = br#"{"model":"m","input":"x","stream":true}"#;
    for (native, place) in [
        (true, r#"{"type":"response.completed","response":{"status":"completed","output":@}}"#),
        (true, r#"{"type":"response.output_item.done","item":{"type":"message","content":@}}"#),
        (false, "@"),
        (false, r#"{"choices":@}"#),
        (false, r#"{"choices":[{"index":0,"delta":{"content":@}}]}"#),
        (false, r#"{"choices":[{"index":0,"delta":{"reasoning_content":@}}]}"#),
        (false, r#"{"choices":[{"index":0,"delta":{"tool_calls":@}}]}"#),
        (false, r#"{"choices":[{"index":0,"delta":{"content":"x","annotations":@}}]}"#),
        (false, r#"{"choices":[{"index":0,"delta":{"content":"x"},"logprobs":{"content":@}}]}"#),
    ] {
        for element in ["1", "{}"] {
            let data = place
                .replace('@', &format!("[{}]", vec![element; (8 << 20) / (element.len() + 1)].join(",")));
            let plan = plan(request, &PlanOptions::new(&GENERIC)).unwrap();
            let mut transcoder = Transcoder::new(plan.reply, Ids::new("seed"), 1);
            transcoder.set_server(
                native.then(|| ResponsesProfile::of("generic", "http://server")),
                ThinkTags::Off,
                false,
            );
            let before = ALLOCATOR.current_usage() - data.len();
            ALLOCATOR.reset_peak_usage();
            let mut out = Vec::new();
            transcoder.chunk(&data, 1, &mut out);
            transcoder.end(End::Eof, 1, &mut out);
            let (memory, most) = (ALLOCATOR.peak_usage() - before, 3 * data.len() + FREE);
            assert!(memory <= most, "{memory} bytes of memory, {most} allowed, for {place} of {element}");
        }
    }
}

#[test]
fn no_body_takes_more_than_it_may() {
    let reader = std::thread::Builder::new().stack_size(STACK).spawn(all_bodies).unwrap();
    reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
