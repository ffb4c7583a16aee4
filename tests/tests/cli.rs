//! The command line against a running broker, as people and scripts use it.

#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use sluice_tests::broker::{TestBroker, program};

/// Runs `sluice` with these words and this input.
fn sluice(url: &str, words: &[&str], input: &str) -> Output {
    let mut child = Command::new(program())
        .args(words)
        .env("SLUICE_BROKER", url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
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
    let words = [words, &["--json"]].concat();
    let printed = printed(url, &words, "");
    let lines = printed.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

/// The one line that a command which fails prints.
fn refused(url: &str, words: &[&str], input: &str) -> String {
    let output = sluice(url, words, input);
    assert!(!output.status.success(), "{words:?} succeeds");
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(errors.lines().count(), 1, "{words:?}: {errors}");
    errors.trim_end().to_owned()
}

#[test]
fn topics_and_groups_are_made_listed_described_and_deleted() {
    let broker = TestBroker::start();
    let url = broker.url();
    let create = ["topic", "create", "uploads", "--partitions", "3"];
    assert_eq!(printed(url, &create, ""), "topic uploads created\n");
    assert_eq!(printed(url, &create, ""), "topic uploads was there\n");
    let filter = "event.type == \"image.ready\"";
    let group = ["group", "create", "uploads", "ocr", "--filter", filter];
    let group = [&group[..], &["--lease", "90s", "--ordering", "none"]].concat();
    assert_eq!(json(url, &group)[0]["created"], true);

    let topics = printed(url, &["topic", "list"], "");
    assert!(topics.contains("uploads"), "{topics}");
    assert!(!topics.contains("_dlq"), "{topics}");
    let described = &json(url, &["topic", "describe", "uploads"])[0];
    assert_eq!(described["partitions"].as_array().unwrap().len(), 3);
    let groups = printed(url, &["group", "list"], "");
    assert!(
        groups.contains("ocr") && groups.contains(filter),
        "{groups}"
    );
    let described = &json(url, &["group", "describe", "uploads", "ocr"])[0];
    assert_eq!(described["config"]["filter"], filter);
    assert_eq!(described["config"]["lease"], "90s");
    assert_eq!(described["config"]["ordering"], "none");

    let first = refused(url, &["topic", "delete", "uploads"], "");
    assert!(first.contains("\"ocr\"); delete them first"), "{first}");
    printed(url, &["group", "delete", "uploads", "ocr"], "");
    printed(url, &["topic", "delete", "uploads"], "");
    assert!(json(url, &["topic", "list"]).is_empty());
}

#[test]
fn events_go_in_from_flags_and_lines_and_come_out_as_cloudevents() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in"], "");
    let flags = [
        "publish", "in", "--type", "made", "--id", "1", "--key", "doc1",
    ];
    let flags = [&flags[..], &["--source", "/s", "--data", "{\"n\": 1}"]].concat();
    assert_eq!(printed(url, &flags, ""), "published to in/0/0\n");
    let lines = concat!(
        "{\"specversion\":\"1.0\",\"id\":\"2\",\"source\":\"/s\",\"type\":\"made\",\"data\":{\"n\":2}}\n",
        "\n",
        "{\"specversion\":\"1.0\",\"id\":\"3\",\"source\":\"/s\",\"type\":\"other\",\"tenant\":\"a\"}\n",
    );
    printed(url, &["publish", "in"], lines);
    let bare = ["publish", "in", "--type", "bare", "--stdin"];
    printed(url, &bare, "{\"n\": 4}\n\"text\"\n");

    let tail = ["tail", "in", "--from", "earliest", "--no-follow"];
    let all = json(url, &tail);
    let ids: Vec<_> = all.iter().map(|event| &event["id"]).collect();
    assert_eq!(ids.len(), 5);
    assert_eq!(ids[..3], ["1", "2", "3"]);
    assert_eq!(all[0]["partitionkey"], "doc1");
    assert_eq!(all[2]["tenant"], "a");
    assert_eq!(all[3]["data"]["n"], 4);
    assert_eq!(all[4]["data"], "text");
    let positions = json(url, &[&tail[..], &["--positions"]].concat());
    assert_eq!(positions[4]["offset"], 4);
    assert_eq!(positions[4]["event"], all[4]);

    // What comes out can go in.
    printed(url, &["topic", "create", "copy"], "");
    let lines = printed(url, &[&tail[..], &["--json"]].concat(), "");
    printed(url, &["publish", "copy"], &lines);
    let copy = ["tail", "copy", "--from", "earliest", "--no-follow"];
    assert_eq!(json(url, &copy), all);

    let some = [&tail[..], &["--filter", "event.data.n > 1"]].concat();
    assert_eq!(json(url, &some).len(), 2);
    let from = ["tail", "in", "--from", "3", "--no-follow"];
    assert_eq!(json(url, &from).len(), 2);
    let first = ["tail", "in", "--from", "earliest", "-n", "1"];
    let text = printed(url, &first, "");
    assert!(text.contains("0/0 made /s 1 key=doc1"), "{text}");
}

#[test]
fn tail_goes_on_with_new_events() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in"], "");
    printed(url, &["publish", "in", "--type", "old"], "");
    let mut tail = Command::new(program())
        .args(["tail", "in", "--from", "0", "--json"])
        .env("SLUICE_BROKER", url)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["type"], "old");
    printed(url, &["publish", "in", "--type", "new"], "");
    assert_eq!(next()["type"], "new");
    tail.kill().unwrap();
    tail.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_dead_letters_and_status_tell_how_things_are() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in"], "");
    printed(url, &["group", "create", "in", "ocr"], "");
    for id in ["good", "bad"] {
        printed(url, &["publish", "in", "--type", "made", "--id", id], "");
    }
    assert_eq!(json(url, &["group", "lag", "in", "ocr"])[0]["lag"], 2);
    let client = sluice_client::Client::connect(url).await.unwrap();
    let mut consumer = client.consumer("in", "ocr").join().await.unwrap();
    for _ in 0..2 {
        let delivery = consumer.next().await.unwrap().unwrap();
        match delivery.event().id() {
            "bad" => delivery.reject("no text on it").await.unwrap(),
            _ => delivery.ack().await.unwrap(),
        }
    }
    consumer.leave().await;
    let all = json(url, &["group", "lag"]);
    assert_eq!(
        (&all[0]["lag"], &all[0]["dead_letters"]),
        (&0.into(), &1.into())
    );
    let table = printed(url, &["group", "lag", "in"], "");
    assert!(table.contains("ocr") && table.contains("empty"), "{table}");

    let letters = printed(url, &["dlq", "list", "in", "ocr"], "");
    assert!(
        letters.contains("bad") && letters.contains("no text on it"),
        "{letters}"
    );
    let shown = printed(url, &["dlq", "show", "in", "ocr", "0"], "");
    assert!(shown.contains("no text on it"), "{shown}");
    printed(url, &["dlq", "redrive", "in", "ocr", "0"], "");
    assert!(json(url, &["dlq", "list", "in", "ocr"]).is_empty());
    let again = refused(url, &["dlq", "redrive", "in", "ocr", "0"], "");
    assert!(again.contains("sluice dlq list"), "{again}");

    let status = &json(url, &["status"])[0];
    assert_eq!(
        (&status["topics"], &status["groups"]),
        (&1.into(), &1.into())
    );
    let status = printed(url, &["status"], "");
    assert!(status.contains("nothing, a new log"), "{status}");
}

#[test]
fn errors_are_one_line_that_says_what_to_do() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in"], "");
    let cases: [(&[&str], &str, &str); 9] = [
        (&["tail", "nowhere"], "", "sluice topic create"),
        (
            &["publish", "nowhere", "--type", "t"],
            "",
            "sluice topic list",
        ),
        (
            &["group", "describe", "in", "nobody"],
            "",
            "sluice group list",
        ),
        (&["topic", "create", "a/b"], "", "'/'"),
        (&["topic", "create", "_mine"], "", "belong to the broker"),
        (
            &["group", "create", "in", "g", "--filter", "event."],
            "",
            "line 1, column",
        ),
        (&["publish", "in"], "{\"id\": 1}\n", "line 1:"),
        (
            &["publish", "in"],
            "{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/s\",\"type\":\"t\"}\n{bad\n",
            "line 2:",
        ),
        (&["publish", "in", "--type", ""], "", "type"),
    ];
    for (words, input, expected) in cases {
        let error = refused(url, words, input);
        assert!(error.starts_with("sluice: "), "{error}");
        assert!(error.contains(expected), "{words:?}: {error}");
    }
    let nobody = refused("http://127.0.0.1:1", &["status"], "");
    assert!(nobody.contains("`sluice serve`"), "{nobody}");
}
