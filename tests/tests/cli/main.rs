//! The command line against a running broker, as people and scripts use it.

#![allow(clippy::unwrap_used)]

mod dead_letters;
mod definitions;
mod errors;
mod filters;
mod flow;
mod publish;
mod status;
mod tail;

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use sluice_tests::broker::program;

/// `sluice` with these words, for the broker at `url`.
fn command(url: &str, words: &[&str]) -> Command {
    let mut command = Command::new(program());
    command
        .args(words)
        .env("SLUICE_BROKER", url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs `sluice` with these words and this input.
fn sluice(url: &str, words: &[&str], input: impl AsRef<[u8]>) -> Output {
    let mut child = command(url, words).spawn().unwrap();
    // It may end without having read everything.
    let _ = child.stdin.take().unwrap().write_all(input.as_ref());
    child.wait_with_output().unwrap()
}

/// What a command that succeeds prints.
fn printed(url: &str, words: &[&str], input: &str) -> String {
    let output = sluice(url, words, input);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {errors}");
    assert_eq!(errors, "", "{words:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The same, with `--json`, line by line.
fn json(url: &str, words: &[&str]) -> Vec<Value> {
    json_of(url, words, "")
}

/// The same, with input.
fn json_of(url: &str, words: &[&str], input: &str) -> Vec<Value> {
    let words = [words, &["--json"]].concat();
    let printed = printed(url, &words, input);
    let lines = printed.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

/// The one line that a command which fails prints.
fn refused(url: &str, words: &[&str], input: impl AsRef<[u8]>) -> String {
    let output = sluice(url, words, input);
    assert!(!output.status.success(), "{words:?} succeeds");
    the_one_line(&output)
}

fn the_one_line(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.starts_with("sluice: "), "{errors}");
    errors.trim_end().to_owned()
}

/// Every one of these words is in the table.
fn assert_table(table: &str, words: &[&str]) {
    for word in words {
        assert!(table.contains(word), "no {word} in\n{table}");
    }
}

/// The cells under one of a table's headings, each of which begins where it does.
fn column(table: &str, heading: &str) -> Vec<String> {
    let mut lines = table.lines();
    let head = format!("{}  ", lines.next().unwrap());
    let from = head.find(&format!(" {heading}  "));
    let from = from.unwrap_or_else(|| panic!("no column {heading} in\n{table}"));
    let cell = |line: &str| {
        let rest = line.get(from + 1..).unwrap_or_default();
        rest.split("  ").next().unwrap().trim().to_owned()
    };
    lines.map(cell).collect()
}
