//! Topics and groups.

use serde_json::json;
use sluice_proto::pb::{Extend, Nack, Settlement, settlement::Action};
use sluice_tests::{
    api::{Api, expect},
    broker::TestBroker,
    member::{Member, join},
};

use super::{assert_table, json, printed, refused};

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
fn what_a_definition_says_is_in_tables_and_json() {
    let broker = TestBroker::start();
    let url = broker.url();
    let made = json(url, &["topic", "create", "in", "--partitions", "2"]);
    assert_eq!(made, [json!({"topic": "in", "created": true})]);
    let create = ["group", "create", "in", "ocr", "--max-attempts", "3"];
    let more = ["--retry-delay", "250ms", "--retry-delay-max", "2m"];
    let create = [&create[..], &more, &["--max-in-flight", "7"]].concat();
    let made = json(url, &create);
    assert_eq!(
        made,
        [json!({"topic": "in", "group": "ocr", "created": true})]
    );
    assert_eq!(printed(url, &create, ""), "group ocr on in was there\n");
    let other = refused(url, &["group", "create", "in", "ocr"], "");
    assert!(other.contains("another configuration"), "{other}");
    let other = refused(url, &["topic", "create", "in", "--partitions", "3"], "");
    assert!(other.contains("exists with 2 partitions, not 3"), "{other}");

    let topic =
        json!({"topic": "in", "partitions": 2, "channel": "fsync", "events": 0, "groups": 1});
    assert_eq!(json(url, &["topic", "list"]), [topic]);
    let table = printed(url, &["topic", "list", "--internal"], "");
    assert_table(
        &table,
        &["topic", "partitions", "channel", "events", "groups", "ocr"],
    );
    let table = printed(url, &["topic", "describe", "in"], "");
    assert_table(&table, &["partitioner", "crc32", "ocr", "start", "end"]);

    let config = json!({
        "filter": "",
        "filters": [],
        "ordering": "key",
        "lease": "30s",
        "max_attempts": 3,
        "retry_delay": "250ms",
        "retry_multiplier": 2.0,
        "retry_delay_max": "2m",
        "retry_jitter": 0.5,
        "retry_order": "hold key",
        "max_in_flight": 7,
        "max_redrives": 10,
        "max_in_flight_per_member": 0,
        "processing_limit": null,
        "on_connection_loss": "deadline",
        "solo_wait": "10s",
        "backlog": {"policy": "ignore", "events": 0, "bytes": 0, "age": null},
        "output_topics": [],
    });
    let listed = &json(url, &["group", "list", "--topic", "in"])[0];
    assert_eq!(listed["config"], config);
    let described = &json(url, &["group", "describe", "in", "ocr"])[0];
    assert_eq!(described["config"], config);
    assert_eq!(described["idle"], "empty");
    assert_eq!(described["members"], json!([]));
    assert_eq!(described["partitions"][1]["lag"], 0);
    let table = printed(url, &["group", "describe", "in", "ocr"], "");
    let words = [
        "3 attempts, first after 250ms, times 2, at most 2m, jitter 0.5, hold key\n",
        "30s",
        "committed",
    ];
    assert_table(&table, &words);

    let gone = json(url, &["group", "delete", "in", "ocr"]);
    assert_eq!(
        gone,
        [json!({"topic": "in", "group": "ocr", "deleted": true})]
    );
    let gone = printed(url, &["topic", "delete", "in"], "");
    assert_eq!(gone, "topic in deleted\n");
}

/// The first of two groups reads from the beginning.
#[test]
fn a_group_begins_where_it_is_told() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in"], "");
    for _ in 0..3 {
        printed(url, &["publish", "in", "--type", "made"], "");
    }
    for (group, from, lag) in [
        ("all", "earliest", 3),
        ("new", "latest", 0),
        ("some", "1", 2),
        ("recent", "2001-01-01T00:00:00Z", 3),
    ] {
        printed(url, &["group", "create", "in", group, "--from", from], "");
        let of = &json(url, &["group", "lag", "in", group])[0];
        assert_eq!(of["lag"], lag, "{group}");
    }
}

/// Each flag changes its setting, and only that.
#[test]
fn every_setting_that_can_change_has_a_flag() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in"], "");
    printed(url, &["group", "create", "in", "ocr"], "");
    let config = || json(url, &["group", "describe", "in", "ocr"])[0]["config"].clone();
    let prefix = json!([{"prefix": {"type": "image."}}]);
    let prefix_text = prefix.to_string();
    for (flag, value, setting, expected) in [
        ("--lease", "45s", "lease", json!("45s")),
        ("--max-attempts", "7", "max_attempts", json!(7)),
        ("--retry-delay", "3s", "retry_delay", json!("3s")),
        ("--retry-delay-max", "3m", "retry_delay_max", json!("3m")),
        ("--retry-multiplier", "1.5", "retry_multiplier", json!(1.5)),
        ("--retry-jitter", "0", "retry_jitter", json!(0.0)),
        ("--processing-limit", "2h", "processing_limit", json!("2h")),
        ("--processing-limit", "0s", "processing_limit", json!(null)),
        (
            "--on-connection-loss",
            "at-once",
            "on_connection_loss",
            json!("at once"),
        ),
        ("--solo-wait", "0s", "solo_wait", json!("0s")),
        (
            "--max-in-flight-per-member",
            "3",
            "max_in_flight_per_member",
            json!(3),
        ),
        ("--max-in-flight", "30", "max_in_flight", json!(30)),
        ("--max-redrives", "2", "max_redrives", json!(2)),
        ("--filter-json", &prefix_text, "filters", prefix.clone()),
        ("--filter", "false", "filter", json!("false")),
    ] {
        let mut before = config();
        assert_ne!(before[setting], expected, "{flag} changes nothing");
        printed(url, &["group", "update", "in", "ocr", flag, value], "");
        let mut after = config();
        assert_eq!(after[setting], expected, "{flag}");
        for config in [&mut before, &mut after] {
            // Either is the whole filter.
            for setting in [setting, "filter", "filters"] {
                config.as_object_mut().unwrap().remove(setting);
            }
        }
        assert_eq!(before, after, "{flag} changes something else");
    }
    let from = ["group", "update", "in", "ocr", "--filter-from", "earliest"];
    let alone = refused(url, &from, "");
    assert!(alone.contains("a new filter"), "{alone}");
}

#[test]
fn a_description_has_the_settings_in_it() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in"], "");
    printed(url, &["group", "create", "in", "plain"], "");
    let all = "--ordering key --lease 45s --on-connection-loss at-once --processing-limit 2h \
        --solo-wait 3s --max-attempts 7 --retry-delay 2s --retry-multiplier 1.5 \
        --retry-delay-max 3m --retry-jitter 0.25 --retry-order overtake \
        --max-in-flight 30 --max-in-flight-per-member 4 --max-redrives 2";
    let all: Vec<_> = all.split_whitespace().collect();
    printed(
        url,
        &[&["group", "create", "in", "all"], &all[..]].concat(),
        "",
    );
    printed(
        url,
        &["group", "create", "in", "unordered", "--ordering", "none"],
        "",
    );
    let settings = |group| -> Vec<_> {
        let described = printed(url, &["group", "describe", "in", group], "");
        let from_lease = described
            .lines()
            .skip_while(|line| !line.starts_with("lease"));
        let settings = from_lease.take_while(|line| !line.starts_with("backlog"));
        let field = |line: &str| {
            let (name, value) = line.split_once("  ").unwrap();
            format!("{name}: {}", value.trim_start())
        };
        settings.map(field).collect()
    };
    let expected = [
        "lease: 45s",
        "connection loss: at once",
        "processing limit: 2h",
        "solo wait: 3s",
        "retry: 7 attempts, first after 2s, times 1.5, at most 3m, jitter 0.25, overtake",
        "max in flight: 30, 4 per member",
        "max redrives: 2",
    ];
    assert_eq!(settings("all"), expected);
    let expected = [
        "lease: 30s",
        "connection loss: deadline",
        "solo wait: 10s",
        "retry: 5 attempts, first after 1s, times 2, at most 1m, jitter 0.5, hold key",
        "max in flight: 10000",
        "max redrives: 10",
    ];
    assert_eq!(settings("plain"), expected);
    let unordered = &settings("unordered")[3];
    assert!(unordered.ends_with("jitter 0.5"), "{unordered}");
}

#[test]
fn a_description_says_where_events_stand() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in", "--partitions", "2"], "");
    printed(url, &["group", "create", "in", "ocr"], "");
    printed(url, &["publish", "in", "--type", "made", "--key", "a"], "");
    let table = printed(url, &["group", "describe", "in", "ocr"], "");
    assert_table(
        &table,
        &["ready", "parked", "key locked", "all", "no credit"],
    );
    let described = &json(url, &["group", "describe", "in", "ocr"])[0];
    assert_eq!(described["counts"]["ready"], 1);
    assert_eq!(described["counts"]["parked"], 0);
    assert_eq!(described["in_flight"], json!([]));
    let partitions = described["partitions"].as_array().unwrap();
    let mut words: Vec<_> = partitions.iter().map(|p| p["idle"].clone()).collect();
    words.sort_by_key(ToString::to_string);
    assert_eq!(words, ["empty", "no credit"]);
    let refused = refused(
        url,
        &["group", "describe", "in", "ocr", "--in-flight", "1001"],
        "",
    );
    assert!(refused.contains("in_flight_max"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_description_says_who_works_on_what_and_how_far_it_is() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in"], "");
    printed(url, &["group", "create", "in", "ocr"], "");
    printed(url, &["publish", "in", "--type", "made"], "");
    let api = Api::connect(url).await;
    let mut join = join("in", "ocr", 2);
    join.member = "gpu-1".to_owned();
    let mut member = Member::join(&api, join).await.unwrap();
    let nack = Action::Nack(Nack {
        delay: Some(prost_types::Duration::default()),
        reason: String::new(),
    });
    let report = Action::Extend(Extend {
        percent: Some(40),
        note: "page 3 of 8".to_owned(),
    });
    for action in [nack, report] {
        let delivery = expect("the event", member.delivery()).await.unwrap();
        let settlement = Settlement {
            lease: delivery.lease,
            action: Some(action),
        };
        assert_eq!(member.settle(vec![settlement]).await.unwrap(), []);
    }

    let described = &json(url, &["group", "describe", "in", "ocr"])[0];
    let mut row = described["in_flight"][0].clone();
    // A time, which differs by a millisecond from call to call.
    let is_time = |since: &str| since.starts_with("20") && since.ends_with('Z');
    assert!(
        row["since"].take().as_str().is_some_and(is_time),
        "{described}"
    );
    let expected = json!({
        "partition": 0,
        "offset": 0,
        "redriven": false,
        "member": "gpu-1",
        "since": null,
        "attempt": 2,
        "progress_percent": 40,
        "progress_note": "page 3 of 8",
    });
    assert_eq!(row, expected);
    assert_eq!(described["in_flight"].as_array().unwrap().len(), 1);

    let table = printed(url, &["group", "describe", "in", "ocr"], "");
    let row = table.lines().find(|line| line.starts_with(" 0/0 "));
    let columns = row
        .unwrap_or_else(|| panic!("no row in\n{table}"))
        .split("  ");
    let mut columns: Vec<_> = columns.map(str::trim).filter(|c| !c.is_empty()).collect();
    assert!(columns.len() > 2 && is_time(columns.remove(2)), "{table}");
    let expected = ["0/0", "gpu-1", "2", "40 %", "page 3 of 8"];
    assert_eq!(columns, expected, "{table}");
}

#[test]
fn a_group_is_updated_sought_paused_and_resumed() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in"], "");
    printed(url, &["group", "create", "in", "ocr"], "");
    printed(url, &["publish", "in", "--type", "made", "--id", "a"], "");
    let update = ["group", "update", "in", "ocr", "--max-attempts", "7"];
    assert_eq!(printed(url, &update, ""), "group ocr on in updated\n");
    let described = &json(url, &["group", "describe", "in", "ocr"])[0];
    assert_eq!(described["config"]["max_attempts"], 7);
    assert_eq!(described["config"]["retry_delay"], "1s");
    let nothing = refused(url, &["group", "update", "in", "ocr"], "");
    assert!(nothing.contains("nothing is to change"), "{nothing}");

    let seek = ["group", "seek", "in", "ocr", "--to", "latest"];
    let plan = printed(url, &seek, "");
    assert_table(&plan, &["skipped", "nothing is changed yet; --yes does it"]);
    let done = &json(url, &[&seek[..], &["--yes"]].concat())[0];
    assert_eq!(done["done"], true);
    let moved = json!({"partition": 0, "offset": 1, "replayed": 0, "skipped": 1});
    assert_eq!(done["moves"], json!([moved]));

    assert_eq!(
        printed(url, &["group", "pause", "in", "ocr"], ""),
        "group ocr on in is paused\n"
    );
    let described = &json(url, &["group", "describe", "in", "ocr"])[0];
    assert_eq!(
        (&described["idle"], &described["paused"]),
        (&json!("paused"), &json!(true))
    );
    let resumed = printed(url, &["group", "resume", "in", "ocr"], "");
    assert_eq!(resumed, "group ocr on in is at work\n");
}
