//! Owns the counting of instructions: this test program once more, under valgrind. It must not judge a count.

use std::process::Command;

/// What the ignored test `workload` of a module of this program costs with these variables set, the start of the program
/// included. `module`: its `module_path!()`.
pub fn instructions(module: &str, variables: &[(&str, &str)]) -> f64 {
    let (_, module) = module.split_once("::").unwrap();
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{module}::workload"), "--ignored", "--test-threads=1"])
        .envs(variables.iter().copied())
        .output();
    let output = output.expect("valgrind is needed (apt-get install valgrind)");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    let line = text.lines().find(|line| line.contains("Collected :")).unwrap();
    line.split_whitespace().last().unwrap().parse().unwrap()
}
