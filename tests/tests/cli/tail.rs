//! Events out.

use std::io::{BufRead, BufReader};

use serde_json::Value;
use sluice_tests::broker::TestBroker;

use super::{command, json, json_of, printed, the_one_line};

#[test]
fn tail_goes_on_with_new_events() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in"], "");
    printed(url, &["publish", "in", "--type", "old"], "");
    let mut tail = command(url, &["tail", "in", "--from", "0", "--json"]);
    let mut tail = tail.spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["type"], "old");
    printed(url, &["publish", "in", "--type", "new"], "");
    assert_eq!(next()["type"], "new");
    tail.kill().unwrap();
    tail.wait().unwrap();
}

#[test]
fn a_filter_a_partition_and_a_number_bound_what_is_printed() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in", "--partitions", "4"], "");
    let lines: Vec<_> = (0..20)
        .map(|n| {
            let key = n % 4;
            format!(
                r#"{{"specversion":"1.0","id":"{n}","source":"/s","type":"t","partitionkey":"k{key}","data":{{"n":{n}}}}}"#
            )
        })
        .collect();
    let at = json_of(url, &["publish", "in"], &lines.join("\n"));
    let partition = &at[0]["partition"];
    let tail = ["tail", "in", "--from", "earliest", "--no-follow"];
    let count = |more: &[&str]| json(url, &[&tail[..], more].concat()).len();
    assert_eq!(count(&[]), 20);
    assert_eq!(count(&["--filter", "event.data.n >= 15"]), 5);
    assert_eq!(count(&["--filter", "event.key == 'k1'", "-n", "3"]), 3);
    assert_eq!(count(&["--filter", "event.nothing == 1"]), 0);
    let there = at.iter().filter(|at| at["partition"] == *partition).count();
    assert_eq!(count(&["--partition", &partition.to_string()]), there);
}

/// No terminal obeys what is in an event, and one event is one line.
#[test]
fn an_event_for_people_is_one_line() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in"], "");
    let nasty = "\u{1b}[2Jone\ntwo\tthree";
    let words = ["publish", "in", "--type", "made", "--source", nasty];
    let words = [
        &words[..],
        &["--id", nasty, "--key", nasty, "--data", nasty],
    ]
    .concat();
    printed(url, &words, "");
    let text = printed(url, &["tail", "in", "--from", "0", "-n", "1"], "");
    assert_eq!(text.lines().count(), 1, "{text:?}");
    assert!(!text.trim_end().contains(char::is_control), "{text:?}");
    assert!(text.contains("one two three"), "{text:?}");
}

#[test]
fn following_ends_with_one_line_when_the_broker_stops() {
    let mut broker = TestBroker::start();
    let url = broker.url().to_owned();
    printed(&url, &["topic", "create", "in"], "");
    printed(&url, &["publish", "in", "--type", "made"], "");
    let mut tail = command(&url, &["tail", "in", "--from", "0"])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("made"));
    assert!(broker.stop().success());
    let output = tail.wait_with_output().unwrap();
    assert!(!output.status.success());
    let error = the_one_line(&output);
    assert!(
        error.contains("shutting down") || error.contains("SHUTTING_DOWN"),
        "{error}"
    );
}

/// As `sluice tail | head -1` does.
#[test]
fn a_reader_that_has_enough_is_no_error() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in"], "");
    let lines = "{}\n".repeat(2000);
    let publish = ["publish", "in", "--stdin", "--type", "made"];
    printed(url, &publish, &lines);
    let mut tail = command(url, &["tail", "in", "--from", "0", "--no-follow"]);
    let mut tail = tail.spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    drop(lines);
    let output = tail.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
