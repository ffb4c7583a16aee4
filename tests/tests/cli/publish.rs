//! Events in, from flags and from standard input.

use std::io::{BufRead, BufReader, Write};

use serde_json::{Value, json};
use sluice_tests::broker::TestBroker;

use super::{command, json, json_of, printed, sluice, the_one_line};

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

    let some = [&tail[..], &["--filter", "event.data.n > 1"]].concat();
    assert_eq!(json(url, &some).len(), 2);
    let from = ["tail", "in", "--from", "3", "--no-follow"];
    assert_eq!(json(url, &from).len(), 2);
    let first = ["tail", "in", "--from", "earliest", "-n", "1"];
    let text = printed(url, &first, "");
    assert!(text.contains("0/0 made /s 1 key=doc1"), "{text}");
}

#[test]
fn every_flag_gets_into_the_event() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in"], "");
    let words = [
        "publish", "in", "--type", "made", "--source", "/s", "--id", "1",
    ];
    let more = ["--subject", "page/4", "--key", "doc1", "--data", "<p/>"];
    let most = ["--content-type", "text/xml", "--attribute", "tenant=a"];
    let words = [&words[..], &more, &most, &["--attribute", "note=b=c"]].concat();
    let at = json(url, &words);
    assert_eq!(at, [json!({"topic": "in", "partition": 0, "offset": 0})]);
    let mut tailed = json(url, &["tail", "in", "--from", "0", "--no-follow"]);
    let event = tailed[0].as_object_mut().unwrap();
    assert!(
        event
            .remove("time")
            .unwrap()
            .as_str()
            .unwrap()
            .ends_with('Z')
    );
    let expected = json!({
        "specversion": "1.0",
        "id": "1",
        "source": "/s",
        "type": "made",
        "subject": "page/4",
        "partitionkey": "doc1",
        "datacontenttype": "text/xml",
        "data": "<p/>",
        "tenant": "a",
        "note": "b=c",
    });
    assert_eq!(Value::from(event.clone()), expected);
}

/// What one `tail` prints, another broker takes.
#[test]
fn events_that_were_tailed_can_be_published_again() {
    let broker = TestBroker::start();
    let url = broker.url();
    for topic in ["in", "out"] {
        printed(url, &["topic", "create", topic], "");
    }
    let lines = concat!(
        r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","time":"2026-01-02T03:04:05.678Z","n":5,"b":true,"data":{"x":[1,null]}}"#,
        "\n",
        r#"{"specversion":"1.0","id":"2","source":"/s","type":"t","datacontenttype":"image/png","data_base64":"AQID"}"#,
        "\n",
        r#"{"specversion":"1.0","id":"3","source":"/s","type":"t","datacontenttype":"text/plain","data":"größer","partitionkey":"k"}"#,
        // The last line may have no end.
    );
    let at = json_of(url, &["publish", "in"], lines);
    let offsets: Vec<_> = at.iter().map(|at| at["offset"].as_i64().unwrap()).collect();
    assert_eq!(offsets, [0, 1, 2]);
    let events = |topic| json(url, &["tail", topic, "--from", "earliest", "--no-follow"]);
    let tailed = events("in");
    let given: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for (tailed, given) in tailed.iter().zip(&given) {
        for (name, value) in given.as_object().unwrap() {
            assert_eq!(&tailed[name], value, "{name}");
        }
    }
    let again: Vec<_> = tailed.iter().map(Value::to_string).collect();
    let says = printed(url, &["publish", "out"], &again.join("\n"));
    assert_eq!(says, "3 events published to out\n");
    assert_eq!(events("out"), tailed);
}

#[test]
fn a_bad_line_is_named_and_the_lines_before_it_are_published() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in", "--partitions", "3"], "");
    let good = |count| "{\"n\":1}\n".repeat(count);
    let large = format!("\"{}\"", "x".repeat(2 << 20));
    let bad_lines: [(&[u8], &str); 4] = [
        (b"{bad", "it is no JSON"),
        (b"\xff\xfe", "utf-8"),
        (
            br#"{"specversion":"1.0","id":"1","source":"/s"}"#,
            "type is required",
        ),
        (large.as_bytes(), "the limit is 1048576"),
    ];
    let mut published = 0;
    for (bad, expected) in bad_lines {
        let input = [good(500).as_bytes(), bad, b"\n", good(3).as_bytes()].concat();
        let output = sluice(url, &["publish", "in", "--stdin", "--type", "t"], input);
        assert!(!output.status.success(), "{expected}");
        let error = the_one_line(&output);
        assert!(error.starts_with("sluice: line 501: "), "{error}");
        assert!(error.contains(expected), "{error}");
        let says = String::from_utf8(output.stdout).unwrap();
        assert_eq!(says, "500 events published to in\n");
        published += 500;
        assert_eq!(json(url, &["topic", "list"])[0]["events"], published);
    }
}

/// Whoever writes the lines waits for the answer to each.
#[test]
fn lines_are_published_and_told_as_they_come() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in"], "");
    let words = ["publish", "in", "--stdin", "--type", "t", "--json"];
    let mut publish = command(url, &words).spawn().unwrap();
    let mut stdin = publish.stdin.take().unwrap();
    let mut answers = BufReader::new(publish.stdout.take().unwrap()).lines();
    for offset in 0..3 {
        writeln!(stdin, "{{}}").unwrap();
        let answer: Value = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
        assert_eq!(answer["offset"], offset);
    }
    // It ends at a bad line, although there may be more to come.
    writeln!(stdin, "no").unwrap();
    let output = publish.wait_with_output().unwrap();
    assert!(the_one_line(&output).contains("line 4"));
    drop(stdin);
}
