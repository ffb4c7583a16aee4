//! `sluice filter`, and filters of other commands in each language.

use serde_json::{Value, json};
use sluice_tests::broker::TestBroker;

use super::{assert_table, json, printed, refused};

/// Six events: two of each of three types, with ids 0 to 5, and a number as
/// payload; the last one has no JSON.
fn filled() -> TestBroker {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in"], "");
    for number in 0..6 {
        let kind = ["image.ready", "image.lost", "text.ready"][number % 3];
        let id = number.to_string();
        let data = if number == 5 {
            "{".to_owned()
        } else {
            format!("{{\"size\": {number}}}")
        };
        let publish = ["publish", "in", "--type", kind, "--id", &id];
        let publish = [&publish[..], &["--content-type", "application/json"]].concat();
        let publish = [&publish[..], &["--data", &data]].concat();
        printed(url, &publish, "");
    }
    broker
}

fn ids(events: &[Value]) -> Vec<&str> {
    let ids = events.iter().map(|event| event["id"].as_str());
    ids.map(Option::unwrap).collect()
}

#[test]
fn a_filter_is_tried_before_a_group_has_it() {
    let broker = filled();
    let url = broker.url();
    let filter = "event.data.size > 0 && event.type.endsWith('.ready')";
    let test = ["filter", "test", filter, "--topic", "in"];
    let tested = &json(url, &test)[0];
    let counters = &tested["counters"];
    let sums = ["seen", "matched", "errors"].map(|of| counters[of].as_i64().unwrap());
    assert_eq!(sums, [6, 2, 1]);
    let terms = counters["terms"].as_array().unwrap().iter();
    let dropped: Vec<_> = terms.map(|of| of["dropped"].as_i64().unwrap()).collect();
    assert_eq!(dropped, [1, 2]);
    assert_eq!(counters["terms"][0]["term"], "event.data.size > 0");
    assert_eq!(tested["counters"]["last_error"]["offset"], 5);
    assert_eq!(tested["ended_early"], false);
    let offsets = |of: &Value| {
        let samples = of.as_array().unwrap().iter();
        samples
            .map(|of| of["offset"].as_i64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(offsets(&tested["matched"]), [2, 3]);
    assert_eq!(offsets(&tested["dropped"]), [0, 1, 4, 5]);
    let table = printed(url, &test, "");
    assert_table(
        &table,
        &[
            "seen",
            "matched",
            "dropped",
            "errors",
            "event.data.size > 0",
            "0/2 0/3",
        ],
    );

    // The newest ones alone, and in the other languages.
    let last = &json(url, &[&test[..], &["--last", "2"]].concat())[0];
    assert_eq!(last["counters"]["seen"], 2);
    for other in [
        ["--cesql", "type LIKE 'image.%'"],
        ["--filter-json", r#"[{"prefix": {"type": "image."}}]"#],
        ["--filter-json", r#"{"prefix": {"type": "image."}}"#],
    ] {
        let words = [&["filter", "test", "--topic", "in"][..], &other].concat();
        let tested = &json(url, &words)[0];
        assert_eq!(tested["counters"]["matched"], 4, "{other:?}");
    }
}

#[test]
fn a_filter_that_is_none_is_refused_where_it_is_wrong() {
    let broker = filled();
    let url = broker.url();
    let test = |more: &[&str]| {
        let words = [&["filter", "test", "--topic", "in"][..], more].concat();
        refused(url, &words, "")
    };
    let error = test(&["event.type =="]);
    assert!(error.contains("filter"), "{error}");
    let error = test(&["other.type == 'x'"]);
    assert!(error.contains("the only variable is \"event\""), "{error}");
    let error = test(&[
        "--filter-json",
        r#"[{"exact": {"type": "x"}}, {"near": {}}]"#,
    ]);
    assert!(error.contains("--filter-json: [1]"), "{error}");
    let error = test(&["--cesql", "type LIKE"]);
    assert!(error.contains("sql"), "{error}");
    let error = test(&["true", "--last", "100001"]);
    assert!(
        error.contains("last") && error.contains("100000"),
        "{error}"
    );
}

#[test]
fn every_command_that_takes_a_filter_applies_it() {
    let broker = filled();
    let url = broker.url();
    let dialects = r#"[{"suffix": {"type": ".ready"}}, {"sql": "id <> '0'"}]"#;
    for (flag, filter) in [
        (
            "--filter",
            "event.type.endsWith('.ready') && event.id != '0'",
        ),
        ("--filter-json", dialects),
        ("--cesql", "type LIKE '%.ready' AND id <> '0'"),
    ] {
        let tail = [
            "tail",
            "in",
            "--from",
            "earliest",
            "--no-follow",
            flag,
            filter,
        ];
        assert_eq!(ids(&json(url, &tail)), ["2", "3", "5"], "{flag}");
        let group = flag.trim_start_matches("--");
        printed(url, &["group", "create", "in", group, flag, filter], "");
        let described = &json(url, &["group", "describe", "in", group])[0];
        let counters = &described["filter_counters"];
        assert_eq!(counters["seen"], 6, "{described}");
        assert_eq!(counters["matched"], 3, "{described}");
    }
    let listed = json(url, &["group", "list", "--topic", "in"]);
    let of_dialects = listed
        .iter()
        .find(|of| of["group"] == "filter-json")
        .unwrap();
    let given: Value = serde_json::from_str(dialects).unwrap();
    assert_eq!(of_dialects["config"]["filters"], given);
}

#[test]
fn why_an_event_did_not_come_is_told_term_by_term() {
    let broker = filled();
    let url = broker.url();
    let filter = "event.data.size < 4 && event.type == 'text.ready'";
    printed(url, &["group", "create", "in", "g", "--filter", filter], "");
    let why = |offset: u64| {
        let place = format!("in/0/{offset}");
        json(url, &["filter", "why", &place, "--group", "g"])[0].clone()
    };
    let of = why(4);
    assert_eq!(of["state"], "filtered");
    assert_eq!(of["matches"], false);
    assert_eq!(
        of["terms"],
        json!([
            {
                "term": "event.data.size < 4",
                "holds": false,
                "error": "",
                "values": [{"name": "event.data.size", "value": "4"}],
            },
            {
                "term": of["terms"][1]["term"],
                "holds": false,
                "error": "",
                "values": [{"name": "event.type", "value": "\"image.lost\""}],
            },
        ])
    );
    assert_eq!(why(2)["state"], "waiting");
    assert_eq!(why(2)["matches"], true);
    let broken = why(5);
    assert_eq!(broken["terms"][0]["holds"], Value::Null);
    assert_ne!(broken["terms"][0]["error"], "");
    let table = printed(url, &["filter", "why", "in/0/4", "--group", "g"], "");
    assert_table(
        &table,
        &["filtered", "does not match", "event.data.size = 4"],
    );
    let error = refused(url, &["filter", "why", "in/0/6", "--group", "g"], "");
    assert!(error.contains("offset"), "{error}");
    let output = super::sluice(url, &["filter", "why", "in/6", "--group", "g"], "");
    assert!(String::from_utf8_lossy(&output.stderr).contains("uploads/0/4711"));
}
