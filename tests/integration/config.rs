//! Owns the tests of configuration and command line: where values come from, what is refused and in which words,
//! and what the built program prints and returns.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use figment::Figment;
use figment::providers::{Format, Toml};
use rejoinder::config::{Config, Flags, Problem, Resolved, ToolsConfig, load_from, redact_url};
use secrecy::ExposeSecret;
use tempfile::TempDir;

/// A folder with a configuration file.
struct Place {
    folder: TempDir,
    file: PathBuf,
}

impl Place {
    fn with(text: &str) -> Place {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("x.toml");
        std::fs::write(&file, text).unwrap();
        Place { folder, file }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn flags(&self) -> Flags {
        Flags { config: Some(self.file.clone()), ..Flags::default() }
    }

    fn load(&self, env: &[(&str, &str)]) -> Result<Resolved, Vec<Problem>> {
        load_from(&self.flags(), variables(env))
    }

    /// The problems as printed, without the folder.
    fn problems(&self, env: &[(&str, &str)]) -> Vec<String> {
        self.shown(self.load(env).map(|resolved| resolved.config).unwrap_err())
    }

    fn shown(&self, problems: Vec<Problem>) -> Vec<String> {
        let folder = format!("{}/", self.folder.path().display());
        problems.iter().map(|problem| problem.to_string().replace(&folder, "")).collect()
    }
}

fn variables(env: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    env.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn env(pairs: &[(&str, &str)]) -> Result<Resolved, Vec<Problem>> {
    load_from(&Flags::default(), variables(pairs))
}

fn only_problem(pairs: &[(&str, &str)]) -> String {
    let problems = env(pairs).map(|resolved| resolved.config).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems[0].to_string()
}

/// Runs the program in a folder of its own, with nothing of ours in its environment.
fn rejoinder(folder: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rejoinder"));
    command.current_dir(folder).args(args);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("REJOINDER_") {
            command.env_remove(name);
        }
    }
    command.envs(env.iter().copied()).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

// where values come from

#[test]
fn nothing_set_means_the_defaults() {
    let resolved = env(&[]).unwrap();
    assert_eq!(resolved.config, Config::default());
    assert!(resolved.servers[0].key.is_none());
    assert!(resolved.sources.values().all(|source| source == "default"), "{:?}", resolved.sources);
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let place =
        Place::with("heartbeat = '1s'\nlisten = '127.0.0.1:1'\nadmin = '127.0.0.1:2'\n[log]\nlevel = 'warn'");
    let flags =
        Flags { log_level: Some("trace".to_owned()), listen: Some("[::1]:0".to_owned()), ..place.flags() };
    let env = [
        ("REJOINDER_LISTEN", "127.0.0.1:3"),
        ("REJOINDER_ADMIN", "127.0.0.1:4"),
        ("REJOINDER_LOG__LEVEL", "error"),
    ];
    let Resolved { config, sources, .. } = load_from(&flags, variables(&env)).unwrap();
    assert_eq!(config.listen, "[::1]:0".parse().unwrap());
    assert_eq!(config.admin, "127.0.0.1:4".parse().unwrap());
    assert_eq!(config.heartbeat.as_secs(), 1);
    assert_eq!(config.log.level, "trace");
    let expected = [
        ("listen", "flag --listen"),
        ("admin", "env REJOINDER_ADMIN"),
        ("heartbeat", place.file.to_str().unwrap()),
        ("log.level", "flag --log-level"),
        ("log.format", "default"),
        ("upstream.url", "default"),
    ];
    for (key, source) in expected {
        assert_eq!(sources[key], source, "{key}");
    }
}

#[test]
fn variables_are_strings_whatever_they_look_like() {
    for model in ["12345", "true", "1.5", "[1, 2]", "{a=1}", "\"quoted\"", "0x10", " padded "] {
        let resolved = env(&[("REJOINDER_DEFAULT_MODEL", model)]).unwrap();
        assert_eq!(resolved.config.default_model.as_deref(), Some(model));
    }
}

#[test]
fn variables_reach_every_type() {
    let config = env(&[
        ("REJOINDER_MAX_BODY_BYTES", "4096"),
        ("REJOINDER_UPSTREAM__FORWARD_AUTHORIZATION", "false"),
        ("REJOINDER_UPSTREAM__DIALECT", "llama_server"),
        ("REJOINDER_UPSTREAM__IDLE_TIMEOUT", "2m 30s"),
        ("REJOINDER_LOG__FORMAT", "json"),
        ("REJOINDER_UPSTREAM", "http://gpu:8000/v1"),
    ])
    .unwrap()
    .config;
    let mut expected = Config { max_body_bytes: 4096, ..Config::default() };
    expected.upstream.forward_authorization = false;
    expected.upstream.dialect = rejoinder::config::DialectChoice::LlamaServer;
    expected.upstream.idle_timeout = std::time::Duration::from_secs(150);
    expected.upstream.url = Some("http://gpu:8000".to_owned());
    expected.log.format = rejoinder::config::LogFormat::Json;
    assert_eq!(config, expected);
}

#[test]
fn an_empty_variable_is_unset() {
    let names = ["REJOINDER_LISTEN", "REJOINDER_UPSTREAM", "REJOINDER_DEFAULT_MODEL", "REJOINDER_NONSENSE"];
    let resolved = env(&names.map(|name| (name, ""))).unwrap();
    assert_eq!(resolved.config, Config::default());
}

#[test]
fn upstream_is_a_url_or_a_table() {
    for text in [
        "upstream = 'http://gpu:8000'",
        "upstream.url = 'http://gpu:8000'",
        "[upstream]\nurl = 'http://gpu:8000'",
    ] {
        let resolved = Place::with(text).load(&[]).unwrap();
        assert_eq!(resolved.config.upstream.url.as_deref(), Some("http://gpu:8000"), "{text}");
    }
}

#[test]
fn several_servers_are_several_tables() {
    let place = Place::with(
        "[[upstream]]\nurl = 'http://a/v1'\nmodels = ['q', 'gpt-5=q']\nweight = 3\n\
         [[upstream]]\nurl = 'http://b'\nidle_timeout = '7s'\nextra_body = { top_k = 4, kwargs = { on = true } }",
    );
    let resolved = place.load(&[("REJOINDER_UPSTREAM__READY_TIMEOUT", "9s")]).unwrap();
    let [a, b] = &resolved.servers[..] else { panic!("{:?}", resolved.servers) };
    assert_eq!((a.config.url.as_deref(), a.config.weight), (Some("http://a"), 3));
    assert_eq!(a.config.models.as_deref().unwrap(), ["q", "gpt-5=q"]);
    assert_eq!((b.config.url.as_deref(), b.config.idle_timeout.as_secs()), (Some("http://b"), 7));
    let extra = serde_json::to_string(&b.config.extra_body).unwrap();
    assert_eq!(extra, r#"{"kwargs":{"on":true},"top_k":4}"#);
    // a variable is for all of them
    assert_eq!([a.config.ready_timeout.as_secs(), b.config.ready_timeout.as_secs()], [9, 9]);

    // what is printed is a file again, with the same servers
    let printed = place.write("again.toml", resolved.to_toml());
    let again = load_from(&Flags { config: Some(printed.into()), ..Flags::default() }, []).unwrap();
    let configs = |resolved: &Resolved| resolved.servers.iter().map(|s| s.config.clone()).collect::<Vec<_>>();
    assert_eq!(configs(&again), configs(&resolved));

    // a URL from a flag or a variable stands for all that the file has
    let one = place.load(&[("REJOINDER_UPSTREAM", "http://c")]).unwrap();
    assert_eq!(configs(&one).len(), 1);
    assert_eq!(one.servers[0].config.url.as_deref(), Some("http://c"));
}

#[test]
fn a_problem_of_one_of_several_servers_names_it() {
    let cases = [
        (
            "[[upstream]]\nurl = 'http://a'\n[[upstream]]\nurl = 'gpu'",
            "x.toml: upstream[1].url: expected a URL such as \"http://127.0.0.1:8080\" (relative URL without a base)",
        ),
        ("[[upstream]]\nweight = 2", "x.toml: upstream[0].url: must be set, as there are several"),
        (
            "[[upstream]]\nurl = 'http://a'\nweigth = 2",
            "x.toml: upstream[0].weigth: unknown key, did you mean upstream.weight?",
        ),
        (
            "[[upstream]]\nurl = 'http://a'\n[[upstream]]\nurl = 'http://a/v1'",
            "x.toml: upstream[1].url: names a server that is already listed above",
        ),
        (
            "[[upstream]]\nurl = 'http://127.0.0.1:8081'",
            "x.toml: upstream[0].url: points back at rejoinder's own listen address (127.0.0.1:8081)",
        ),
        ("upstream = ['http://a']", "x.toml: upstream[0]: expected a table, as in [[upstream]]"),
        (
            "[upstream]\nmodels = ['a', '=b']",
            "x.toml: upstream.models: \"=b\" is not a model name; expected a name, or name=the server's name for it",
        ),
        (
            "[upstream]\nextra_body = { stream = true }",
            "x.toml: upstream.extra_body: stream is written by rejoinder itself",
        ),
        ("[upstream]\nmax_in_flight = 0", "x.toml: upstream.max_in_flight: must be at least 1"),
    ];
    for (text, problem) in cases {
        assert_eq!(Place::with(text).problems(&[]), [problem], "{text}");
    }
}

#[test]
fn two_variables_for_one_key_must_agree() {
    let same = [("REJOINDER_UPSTREAM", "http://a"), ("REJOINDER_UPSTREAM__URL", "http://a")];
    assert!(env(&same).is_ok());
    let different = [("REJOINDER_UPSTREAM", "http://a"), ("REJOINDER_UPSTREAM__URL", "http://b")];
    assert_eq!(
        only_problem(&different),
        "REJOINDER_UPSTREAM__URL: upstream.url: REJOINDER_UPSTREAM sets the same key to another value"
    );
}

#[test]
fn variables_of_kubernetes_services_are_not_ours() {
    let resolved = env(&[
        ("REJOINDER_PORT", "tcp://10.0.0.1:8081"),
        ("REJOINDER_PORT_8081_TCP", "tcp://10.0.0.1:8081"),
        ("REJOINDER_PORT_8081_TCP_ADDR", "10.0.0.1"),
        ("REJOINDER_PORT_8081_TCP_PROTO", "tcp"),
        ("REJOINDER_SERVICE_HOST", "10.0.0.1"),
        ("REJOINDER_SERVICE_PORT", "8081"),
        ("REJOINDER_SERVICE_PORT_HTTP", "8081"),
    ]);
    assert_eq!(resolved.unwrap().config, Config::default());
    assert_eq!(only_problem(&[("REJOINDER_PORT", "8081")]), "REJOINDER_PORT: unknown variable");
}

// what is refused

#[test]
fn every_problem_is_reported_at_once() {
    let place = Place::with(
        r#"
listen = "localhost:8081"
default_model = 12345
reasoning = "sumary"
max_body_bytes = 10
commit_after = "0s"
heartbeat = 8
lisen = "x"
[upstream]
url = "gpu:8000"
api_key_file = ""
forward_authorization = "yes"
connect_timeout = "2 fortnights"
idle_timeout = "400days"
[log]
level = "verbose"
[servr]
port = 1
"#,
    );
    let flags = Flags { admin: Some("8082".to_owned()), ..place.flags() };
    let env = [
        ("REJOINDER_DRAIN_TIMEOUT", "30"),
        ("REJOINDER_UPSTREAM_URL", "x"),
        ("REJOINDER_MAX_BODY_BYTES", "1MB"),
    ];
    let problems =
        place.shown(load_from(&flags, variables(&env)).map(|resolved| resolved.config).unwrap_err());
    let mut expected = vec![
        r#"x.toml: listen: expected an IP address with a port such as "127.0.0.1:8081", found "localhost:8081""#,
        r#"x.toml: default_model: expected text in quotes, found 12345"#,
        r#"x.toml: reasoning: expected one of "summary", "text", "hidden", found "sumary""#,
        r#"x.toml: max_body_bytes: must be at least 1024 bytes"#,
        r#"x.toml: commit_after: must be longer than zero"#,
        r#"x.toml: heartbeat: expected a duration such as "30s", found 8"#,
        r#"x.toml: lisen: unknown key, did you mean listen?"#,
        r#"x.toml: upstream.url: expected a URL such as "http://127.0.0.1:8080"; it starts with neither http:// nor https://"#,
        r#"x.toml: upstream.api_key_file: must not be empty"#,
        r#"x.toml: upstream.forward_authorization: expected true or false, found "yes""#,
        r#"x.toml: upstream.connect_timeout: expected a duration such as "30s", found "2 fortnights""#,
        r#"x.toml: upstream.idle_timeout: must be at most 365days"#,
        r#"x.toml: log.level: expected a level such as "info" or a filter such as "info,rejoinder=debug", found "verbose""#,
        r#"x.toml: servr: unknown key"#,
        r#"REJOINDER_DRAIN_TIMEOUT: drain_timeout: expected a duration such as "30s", found "30""#,
        r#"REJOINDER_UPSTREAM_URL: unknown variable, did you mean REJOINDER_UPSTREAM__URL?"#,
        r#"REJOINDER_MAX_BODY_BYTES: max_body_bytes: expected a number of bytes such as 134217728, found "1MB""#,
        r#"--admin: admin: expected an IP address with a port such as "127.0.0.1:8081", found "8082""#,
    ];
    expected.sort_unstable();
    let mut problems: Vec<&str> = problems.iter().map(String::as_str).collect();
    problems.sort_unstable();
    assert_eq!(problems, expected);
}

#[test]
fn an_unknown_key_names_its_neighbour() {
    let cases = [
        ("url = 'http://a'", "x.toml: url: unknown key, did you mean upstream.url?"),
        (
            "[upstream]\napi_key = 's3cret'",
            "x.toml: upstream.api_key: unknown key, did you mean upstream.api_key_file?",
        ),
        ("[log]\nlevl = 'info'", "x.toml: log.levl: unknown key, did you mean log.level?"),
        ("zzz = 1", "x.toml: zzz: unknown key"),
        (
            "[listen]\nport = 1",
            "x.toml: listen: expected an IP address with a port such as \"127.0.0.1:8081\", found a table",
        ),
        ("log = 'debug'", "x.toml: log: expected a table, as in [log]"),
        ("upstream = 5", "x.toml: upstream.url: expected a URL such as \"http://127.0.0.1:8080\", found 5"),
    ];
    for (text, problem) in cases {
        assert_eq!(Place::with(text).problems(&[]), [problem], "{text}");
    }
    assert_eq!(
        only_problem(&[("REJOINDER_UPSTREAM__API_KEY", "s3cret")]),
        "REJOINDER_UPSTREAM__API_KEY: unknown variable, did you mean REJOINDER_UPSTREAM__API_KEY_FILE?"
    );
    assert_eq!(
        only_problem(&[("REJOINDER_listen", "127.0.0.1:1")]),
        "REJOINDER_listen: unknown variable, did you mean REJOINDER_LISTEN?"
    );
}

#[test]
fn a_file_that_is_not_toml_is_not_quoted() {
    let problems =
        Place::with("listen = '127.0.0.1:1'\n\nupstream = \"http://user:s3cret@gpu\nadmin = 1").problems(&[]);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("x.toml: line 3: "), "{problems:?}");
    assert!(!problems[0].contains("s3cret"), "{problems:?}");
}

#[test]
fn a_named_file_must_exist() {
    let place = Place::with("");
    let flags = Flags { config: Some(place.folder.path().join("absent.toml")), ..Flags::default() };
    let problems = place.shown(load_from(&flags, []).map(|resolved| resolved.config).unwrap_err());
    assert_eq!(
        problems,
        ["absent.toml: cannot read the configuration file: No such file or directory (os error 2)"]
    );
}

#[test]
fn listen_and_admin_must_differ() {
    let place = Place::with("listen = '127.0.0.1:9000'\nadmin = '127.0.0.1:9000'");
    assert_eq!(
        place.problems(&[]),
        ["x.toml: admin: listen (127.0.0.1:9000) and admin (127.0.0.1:9000) must differ"]
    );
    assert_eq!(
        only_problem(&[("REJOINDER_LISTEN", "0.0.0.0:8082")]),
        "REJOINDER_LISTEN: listen: listen (0.0.0.0:8082) and admin (127.0.0.1:8082) must differ"
    );
    assert!(env(&[("REJOINDER_LISTEN", "127.0.0.1:0"), ("REJOINDER_ADMIN", "127.0.0.1:0")]).is_ok());
}

#[test]
fn the_upstream_is_not_ourselves() {
    for url in ["http://localhost:8081/v1", "http://127.0.0.1:8081"] {
        assert_eq!(
            only_problem(&[("REJOINDER_UPSTREAM", url)]),
            "REJOINDER_UPSTREAM: upstream.url: points back at rejoinder's own listen address (127.0.0.1:8081)"
        );
    }
    assert!(env(&[("REJOINDER_UPSTREAM", "http://gpu:8081")]).is_ok());
}

#[test]
fn the_heartbeat_comes_before_in_progress() {
    assert_eq!(
        Place::with("in_progress_after = '8s'").problems(&[]),
        ["x.toml: in_progress_after: heartbeat (8s) must be shorter than in_progress_after (8s)"]
    );
}

// the upstream

#[test]
fn urls_are_normalised() {
    let cases = [
        ("http://gpu:8000", "http://gpu:8000"),
        ("http://gpu:8000/", "http://gpu:8000"),
        ("http://gpu:8000/v1", "http://gpu:8000"),
        ("http://gpu:8000/v1//", "http://gpu:8000"),
        ("HTTPS://GPU/llm/v1/", "https://gpu/llm"),
        (" http://[::1]:8000/v1 ", "http://[::1]:8000"),
        ("http://gpu/v1beta", "http://gpu/v1beta"),
        ("http://u:p@gpu/v1", "http://u:p@gpu"),
        ("http://v1", "http://v1"),
        ("http://v1/", "http://v1"),
    ];
    for (given, normal) in cases {
        let resolved = env(&[("REJOINDER_UPSTREAM", given)]).unwrap();
        assert_eq!(resolved.config.upstream.url.as_deref(), Some(normal), "{given}");
    }
}

#[test]
fn bad_urls_are_refused_and_never_repeated() {
    let cases = [
        ("http://u:s3cret@gpu/v1?key=s3cret", "must not have a query (?) or a fragment (#)"),
        ("http://gpu/#s3cret", "must not have a query (?) or a fragment (#)"),
        (
            "ftp://u:s3cret@gpu",
            "expected a URL such as \"http://127.0.0.1:8080\"; it starts with neither http:// nor https://",
        ),
        ("127.0.0.1:8080", "expected a URL such as \"http://127.0.0.1:8080\" (relative URL without a base)"),
        ("http://u:s3cret@", "expected a URL such as \"http://127.0.0.1:8080\" (empty host)"),
        ("http://gpu:99999", "expected a URL such as \"http://127.0.0.1:8080\" (invalid port number)"),
    ];
    for (url, message) in cases {
        assert_eq!(
            only_problem(&[("REJOINDER_UPSTREAM", url)]),
            format!("REJOINDER_UPSTREAM: upstream.url: {message}")
        );
    }
}

#[test]
fn who_may_call_and_what_is_open_are_lists_checked_entry_by_entry() {
    let file = r#"
allowed_hosts = ["llm.example", "*.lan", "[fd00::1]", "*"]
cors.origins = ["https://app.example:8443", "http://localhost:*", "chrome-extension://*", "null", "*"]
passthrough.paths = []
"#;
    let config = Place::with(file).load(&[]).unwrap().config;
    assert_eq!(config.allowed_hosts, ["llm.example", "*.lan", "[fd00::1]", "*"]);
    assert_eq!(config.cors.origins.len(), 5);
    assert_eq!(config.passthrough.paths, [""; 0]);
    let config = env(&[("REJOINDER_PASSTHROUGH__PATHS", "/v1/*, /slots")]).unwrap().config;
    assert_eq!(config.passthrough.paths, ["/v1/*", "/slots"]);
    for (name, bad) in [
        ("ALLOWED_HOSTS", "llm.example:8081"),
        ("ALLOWED_HOSTS", "https://llm.example"),
        ("ALLOWED_HOSTS", "llm.example/"),
        ("ALLOWED_HOSTS", "llm.example,a b"),
        ("CORS__ORIGINS", "app.example"),
        ("CORS__ORIGINS", "https://app.example/"),
        ("CORS__ORIGINS", "https://app.example/page"),
        ("CORS__ORIGINS", "https://user@app.example"),
        ("CORS__ORIGINS", "://app.example"),
        ("PASSTHROUGH__PATHS", "v1/*"),
        ("PASSTHROUGH__PATHS", "http://host/v1"),
    ] {
        let problem = only_problem(&[(&format!("REJOINDER_{name}"), bad)]);
        let entry = bad.rsplit(',').next().unwrap();
        assert!(problem.contains(&format!("{entry:?} is not a")), "{problem}");
    }
}

#[test]
fn redaction_hides_all_of_the_user() {
    assert_eq!(redact_url("http://gpu:8000/a@b"), "http://gpu:8000/a@b");
    assert_eq!(redact_url("http://u:p@ss@gpu:8000/v1"), "http://***@gpu:8000/v1");
    assert_eq!(redact_url("not a url"), "not a url");
}

#[test]
fn the_key_is_read_from_its_file() {
    let place = Place::with("");
    let path = place.write("key", "  s3cret\n");
    let resolved = place.load(&[("REJOINDER_UPSTREAM__API_KEY_FILE", &path)]).unwrap();
    assert_eq!(resolved.servers[0].key.as_ref().unwrap().expose_secret(), "s3cret");
    assert!(!format!("{resolved:?}").contains("s3cret"));
}

#[test]
fn a_bad_key_file_is_a_problem() {
    let place = Place::with("");
    let cases = [
        (place.write("empty", " \n"), "empty is empty"),
        (place.write("two", "s3cret\ns3cret2"), "two must hold one key and nothing else"),
        (place.write("control", "s3cret\u{1}"), "control must hold one key and nothing else"),
        (place.write("bytes", b"s3cret\xff"), "cannot read bytes: stream did not contain valid UTF-8"),
        ("/absent/key".to_owned(), "cannot read /absent/key: No such file or directory (os error 2)"),
    ];
    for (path, message) in cases {
        let expected = format!("REJOINDER_UPSTREAM__API_KEY_FILE: upstream.api_key_file: {message}");
        assert_eq!(place.problems(&[("REJOINDER_UPSTREAM__API_KEY_FILE", &path)]), [expected]);
    }
}

// config/rejoinder.toml

/// Each line `#key = value` without its `#`; explanations have a blank behind theirs.
fn reference_file() -> String {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/rejoinder.toml")).unwrap();
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(|line| uncommented(line) + "\n").collect()
}

fn leaves(document: serde_json::Value) -> BTreeMap<String, serde_json::Value> {
    let mut leaves = BTreeMap::new();
    for (name, value) in document.as_object().unwrap() {
        match value.as_object() {
            Some(table) => {
                leaves.extend(table.iter().map(|(key, value)| (format!("{name}.{key}"), value.clone())))
            }
            None => drop(leaves.insert(name.clone(), value.clone())),
        }
    }
    leaves
}

#[test]
fn the_reference_file_has_every_key_and_its_default() {
    let written: serde_json::Value = Figment::from(Toml::string(&reference_file())).extract().unwrap();
    let (written, defaults) = (leaves(written), leaves(serde_json::to_value(Config::default()).unwrap()));
    assert!(
        written.keys().eq(defaults.keys()),
        "{written:?}
{defaults:?}"
    );
    let mut config: Config = Figment::from(Toml::string(&reference_file())).extract().unwrap();
    // those have no default, what the file shows is an example
    config.default_model = None;
    config.upstream.reasoning_budget_tokens = None;
    config.upstream.reasoning_efforts = None;
    config.tools = ToolsConfig::default();
    config.upstream.url = None;
    config.traces.endpoint = None;
    config.upstream.api_key_file = None;
    config.upstream.models = None;
    config.upstream.max_in_flight = None;
    config.upstream.extra_body = None;
    config.upstream.slot_save_dir = None;
    config.keys_file = None;
    config.auth.keys_file = None;
    config.max_connections_per_address = None;
    (config.tls.certificate, config.tls.key, config.tls.client_ca) = (None, None, None);
    config.store.url = None;
    assert_eq!(config, Config::default());
}

#[test]
fn the_reference_file_loads_as_it_is() {
    let flags = Flags {
        config: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/config/rejoinder.toml").into()),
        ..Flags::default()
    };
    assert_eq!(load_from(&flags, []).unwrap().config, Config::default());
}

// the program

#[test]
fn check_config_says_ok_or_everything() {
    let place = Place::with("");
    let output = rejoinder(place.folder.path(), &["check-config"], &[]);
    assert_eq!((output.status.code(), stdout(&output), stderr(&output)), (Some(0), "ok\n", ""));

    place.write("rejoinder.toml", "heartbeat = 8");
    let output = rejoinder(place.folder.path(), &["check-config", "--listen", "x"], &[("REJOINDER_X", "1")]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(78), ""));
    let expected = "\
rejoinder.toml: heartbeat: expected a duration such as \"30s\", found 8
REJOINDER_X: unknown variable
--listen: listen: expected an IP address with a port such as \"127.0.0.1:8081\", found \"x\"
";
    assert_eq!(stderr(&output), expected);
}

#[test]
fn serve_refuses_a_bad_configuration_with_78() {
    let place = Place::with("");
    for args in [&["--config", "absent.toml"][..], &["serve", "--config", "absent.toml"]] {
        let output = rejoinder(place.folder.path(), args, &[]);
        assert_eq!(output.status.code(), Some(78));
        assert!(stderr(&output).starts_with("absent.toml: cannot read"), "{}", stderr(&output));
    }
}

#[test]
fn print_config_names_sources_and_hides_secrets() {
    let place = Place::with("upstream = 'http://user:s3cret@gpu:8000/v1'");
    let key = place.write("key", "sk-hidden");
    let args = ["print-config", "--config", "x.toml", "--log-level", "debug"];
    let env = [("REJOINDER_UPSTREAM__API_KEY_FILE", key.as_str()), ("REJOINDER_DEFAULT_MODEL", "a\"b\\c")];
    let output = rejoinder(place.folder.path(), &args, &env);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let printed = stdout(&output);
    for line in [
        "listen = \"127.0.0.1:8081\"  # default",
        "default_model = \"a\\\"b\\\\c\"  # env REJOINDER_DEFAULT_MODEL",
        "max_body_bytes = 134217728  # default",
        "[upstream]",
        "url = \"http://***@gpu:8000\"  # x.toml",
        "[log]",
        "level = \"debug\"  # flag --log-level",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line} is not in\n{printed}");
    }
    assert!(!printed.contains("s3cret") && !printed.contains("sk-hidden"), "{printed}");

    // what it prints is a configuration file again
    place.write("again.toml", printed);
    let again = rejoinder(place.folder.path(), &["check-config", "--config", "again.toml"], &[]);
    assert_eq!((stderr(&again), again.status.code()), ("", Some(0)));
}

#[test]
fn print_config_says_what_is_not_set() {
    let output = rejoinder(Place::with("").folder.path(), &["print-config"], &[]);
    assert!(stdout(&output).contains("\n# default_model is not set  # default\n"), "{}", stdout(&output));
}

#[test]
fn flags_work_on_both_sides_of_the_command() {
    let place = Place::with("");
    for args in [&["--listen", "127.0.0.1:0", "print-config"][..], &["print-config", "--listen=127.0.0.1:0"]]
    {
        let output = rejoinder(place.folder.path(), args, &[]);
        assert!(
            stdout(&output).contains("listen = \"127.0.0.1:0\"  # flag --listen\n"),
            "{}",
            stdout(&output)
        );
    }
}

#[test]
fn usage_errors_are_64_and_help_is_no_error() {
    let place = Place::with("");
    for args in [&["--nonsense"][..], &["nonsense"], &["--listen"], &["serve", "extra"]] {
        let output = rejoinder(place.folder.path(), args, &[]);
        assert_eq!((output.status.code(), stdout(&output)), (Some(64), ""), "{args:?}");
        assert!(!stderr(&output).is_empty());
    }
    for args in [&["--help"][..], &["--version"], &["serve", "--help"]] {
        let output = rejoinder(place.folder.path(), args, &[]);
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""), "{args:?}");
    }
    let version = rejoinder(place.folder.path(), &["--version"], &[]);
    assert_eq!(stdout(&version), concat!("rejoinder ", env!("CARGO_PKG_VERSION"), "\n"));
}

/// Answers one connection with these bytes; says what it was asked.
fn answer_once(bytes: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.extend(byte);
        }
        stream.write_all(bytes.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    (address, asked)
}

#[test]
fn healthcheck_asks_the_admin_address() {
    let place = Place::with("");
    let (address, asked) = answer_once("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let port = address.rsplit(':').next().unwrap();
    let output = rejoinder(place.folder.path(), &["healthcheck", "--admin", &format!("0.0.0.0:{port}")], &[]);
    assert_eq!((stderr(&output), stdout(&output), output.status.code()), ("", "ready\n", Some(0)));
    let request = asked.join().unwrap();
    assert!(request.starts_with("GET /readyz HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: {address}\r\n")), "{request}");
}

#[test]
fn healthcheck_says_why_not() {
    let place = Place::with("");
    for (answer, reason) in [
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", "answers 503 Service Unavailable"),
        ("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\n\r\n", "answers 302 Found"),
        ("SSH-2.0-OpenSSH_9.6\r\n", "invalid HTTP version parsed"),
        ("", "connection closed before message completed"),
    ] {
        let (address, asked) = answer_once(answer);
        let url = format!("http://{address}/readyz");
        let output = rejoinder(place.folder.path(), &["healthcheck", "--url", &url], &[]);
        assert_eq!((stdout(&output), output.status.code()), ("", Some(1)));
        assert!(stderr(&output).trim_end().ends_with(reason), "{}", stderr(&output));
        asked.join().unwrap();
    }
    for (args, reason) in [
        (&["--admin", "127.0.0.1:0"][..], "admin has port 0"),
        (&["--url", "ftp://gpu/readyz"], "not an http:// or https:// URL"),
        (&["--url", "nonsense"], "is not a URL"),
        (&["--admin", "nonsense"], "expected an IP address"),
    ] {
        let output = rejoinder(place.folder.path(), &[&["healthcheck"], args].concat(), &[]);
        assert_eq!((stdout(&output), output.status.code()), ("", Some(1)));
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
    }
}

#[test]
fn healthcheck_gives_up_on_silence() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/readyz", listener.local_addr().unwrap());
    let started = std::time::Instant::now();
    let output = rejoinder(Place::with("").folder.path(), &["healthcheck", "--url", &url], &[]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(started.elapsed().as_secs() < 10);
}
