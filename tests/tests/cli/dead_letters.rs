//! Lag and dead letters.

use serde_json::json;
use sluice_client::{Client, Consumer};
use sluice_tests::{
    api::{Api, expect},
    broker::TestBroker,
    member::{Member, join},
};

use super::{assert_table, column, json, printed, refused};

/// A broker whose group `ocr` on `in` has acked `good`, and rejected the rest.
async fn setting(ids: &[&str]) -> TestBroker {
    setting_with(ids, "no text on it").await
}

async fn setting_with(ids: &[&str], reason: &str) -> TestBroker {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in"], "");
    printed(url, &["group", "create", "in", "ocr"], "");
    for id in ids {
        printed(url, &["publish", "in", "--type", "made", "--id", id], "");
    }
    let lag = &json(url, &["group", "lag", "in", "ocr"])[0];
    assert_eq!(lag["lag"], ids.len());
    let mut consumer = consumer(url).await;
    for _ in ids {
        let delivery = consumer.next().await.unwrap().unwrap();
        match delivery.event().id() {
            "good" => delivery.ack().await.unwrap(),
            _ => delivery.reject(reason).await.unwrap(),
        }
    }
    consumer.leave().await;
    broker
}

async fn consumer(url: &str) -> Consumer {
    let client = Client::connect(url).await.unwrap();
    let consumer = client.consumer("in", "ocr").member("ocr-1");
    consumer.join().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_tells_how_far_groups_are() {
    let broker = setting(&["good", "bad"]).await;
    let url = broker.url();
    let all = json(url, &["group", "lag"]);
    assert_eq!(all.len(), 1);
    let (lag, letters) = (&all[0]["lag"], &all[0]["dead_letters"]);
    assert_eq!((lag, letters), (&json!(0), &json!(1)));
    assert_eq!(all[0]["idle"], "empty");
    assert_eq!(all[0]["partitions"][0]["committed_end"], 2);
    let table = printed(url, &["group", "lag", "in"], "");
    assert_table(&table, &["lag", "dead letters", "ocr", "empty"]);
    let table = printed(url, &["group", "lag", "in", "ocr"], "");
    assert_table(&table, &["partition", "committed", "in flight", "delayed"]);
}

/// Of two partitions, of which one has its event for longer.
#[test]
fn lag_is_in_bytes_and_age_too() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in", "--partitions", "2"], "");
    for group in ["ocr", "done"] {
        printed(url, &["group", "create", "in", group], "");
    }
    let publish = |key| printed(url, &["publish", "in", "--type", "made", "--key", key], "");
    assert_eq!(publish("a"), "published to in/1/0\n");
    // The other one may be too young to have an age in seconds.
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(publish("d"), "published to in/0/0\n");
    let seek = ["group", "seek", "in", "done", "--to", "latest", "--yes"];
    printed(url, &seek, "");

    let all = json(url, &["group", "lag", "in"]);
    let of = |group: &str| all.iter().find(|of| of["group"] == group).unwrap();
    let partitions = &of("ocr")["partitions"];
    let part = |at: usize, what: &str| partitions[at][what].as_i64().unwrap();
    let bytes = part(0, "lag_bytes") + part(1, "lag_bytes");
    assert!(bytes > 0, "{all:?}");
    assert_eq!(of("ocr")["lag_bytes"], bytes);
    let oldest = &of("ocr")["oldest_unsettled_time"];
    assert_eq!(oldest, &partitions[1]["oldest_unsettled_time"]);
    assert_ne!(oldest, "");
    assert_eq!(of("done")["lag_bytes"], 0);
    assert_eq!(of("done")["oldest_unsettled_time"], "");

    let seconds = |age: &str| -> u64 {
        let number = age.strip_suffix('s').and_then(|number| number.parse().ok());
        number.unwrap_or_else(|| panic!("{age:?} is no age"))
    };
    let table = printed(url, &["group", "lag"], "");
    // In order of name: done, ocr.
    assert_eq!(
        column(&table, "lag bytes"),
        ["0".to_owned(), bytes.to_string()]
    );
    let ages = column(&table, "lag age");
    assert_eq!(ages[0], "", "{table}");
    assert!(seconds(&ages[1]) >= 2, "{table}");
    let table = printed(url, &["group", "lag", "in", "ocr"], "");
    let ages = column(&table, "lag age");
    assert!(seconds(&ages[0]) < seconds(&ages[1]), "{table}");
    assert!(seconds(&ages[1]) >= 2, "{table}");
    assert_eq!(&column(&table, "oldest")[1], oldest.as_str().unwrap());
}

/// Each partition says how many events became dead letters; how many are still there
/// is said once.
#[tokio::test(flavor = "multi_thread")]
async fn a_description_tells_dead_letters_that_are_open_from_those_that_were() {
    let broker = setting(&["good", "bad", "worse"]).await;
    let url = broker.url();
    printed(url, &["dlq", "purge", "in", "ocr", "0", "--yes"], "");
    let described = printed(url, &["group", "describe", "in", "ocr"], "");
    let open = described.lines().find(|line| line.contains("dead letters"));
    let open = open.and_then(|line| line.strip_prefix("open dead letters"));
    assert_eq!(open.map(str::trim), Some("1 in _dlq:in:ocr"), "{described}");
    let standings = described.split("\n\n").last().unwrap();
    assert_eq!(column(standings, "partition"), ["0", "all"]);
    assert_eq!(column(standings, "dead-lettered"), ["2", ""]);
}

/// A filter that is new counts anew, but not what was filtered since the start.
#[test]
fn what_was_filtered_is_told_of_all_partitions_since_the_start() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in", "--partitions", "2"], "");
    printed(
        url,
        &["group", "create", "in", "ocr", "--filter", "event.size < 4"],
        "",
    );
    for key in ["a", "d", "d"] {
        printed(url, &["publish", "in", "--type", "made", "--key", key], "");
    }
    let filtered = || {
        let described = printed(url, &["group", "describe", "in", "ocr"], "");
        column(described.split("\n\n").last().unwrap(), "filtered")
    };
    assert_eq!(filtered(), ["2", "1", "3"]);
    printed(
        url,
        &["group", "update", "in", "ocr", "--filter", "true"],
        "",
    );
    assert_eq!(filtered(), ["2", "1", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_and_shown() {
    let broker = setting(&["good", "bad"]).await;
    let url = broker.url();
    let table = printed(url, &["dlq", "list", "in", "ocr"], "");
    assert_table(&table, &["offset", "bad", "made", "in", "no text on it"]);
    assert!(!table.contains("good"), "{table}");
    let shown = printed(url, &["dlq", "show", "in", "ocr", "0"], "");
    assert_table(
        &shown,
        &["in/0/1", "no text on it", "ocr-1", "reject", "\"bad\""],
    );

    let listed = json(url, &["dlq", "list", "in", "ocr"]);
    assert_eq!(listed, json(url, &["dlq", "show", "in", "ocr", "0"]));
    let letter = &listed[0];
    for (name, value) in [
        ("dead_letter_offset", json!(0)),
        ("topic", json!("in")),
        ("group", json!("ocr")),
        ("partition", json!(0)),
        ("offset", json!(1)),
        ("reason", json!("no text on it")),
        ("attempt_count", json!(1)),
        ("redrives", json!(0)),
    ] {
        assert_eq!(letter[name], value, "{name}");
    }
    assert_eq!(letter["event"]["id"], "bad");
    assert_eq!(letter["attempts"][0]["member"], "ocr-1");
    assert_eq!(letter["attempts"][0]["end"], "reject");
    assert_eq!(letter["attempts"][0]["uncounted"], false);
}

/// A member that vanishes with two events has spoilt an attempt at neither.
#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_were_not_counted_are_marked() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in"], "");
    let group = [
        "group",
        "create",
        "in",
        "ocr",
        "--on-connection-loss",
        "at-once",
    ];
    printed(url, &group, "");
    for _ in 0..2 {
        printed(url, &["publish", "in", "--type", "made"], "");
    }
    let api = Api::connect(url).await;
    let mut vanishes = Member::join(&api, join("in", "ocr", 2)).await.unwrap();
    for _ in 0..2 {
        expect("an event", vanishes.delivery()).await.unwrap();
    }
    drop(vanishes);
    let mut consumer = consumer(url).await;
    let delivery = expect("it again", consumer.next()).await.unwrap().unwrap();
    delivery.reject("no text on it").await.unwrap();

    let letter = &json(url, &["dlq", "show", "in", "ocr", "0"])[0];
    let told = |of: &str| {
        (0..2)
            .map(|at| letter["attempts"][at][of].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(told("attempt"), [1, 1]);
    assert_eq!(told("end"), ["connection lost", "reject"]);
    assert_eq!(told("uncounted"), [true, false]);
    let shown = printed(url, &["dlq", "show", "in", "ocr", "0"], "");
    let attempts = shown
        .lines()
        .skip_while(|line| !line.starts_with(" attempt"));
    let attempts: Vec<_> = attempts.take(3).collect();
    let ends = column(&attempts.join("\n"), "how");
    assert_eq!(ends, ["connection lost, not counted", "reject"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_redriven_by_offset_or_all() {
    let broker = setting(&["a", "b", "c"]).await;
    let url = broker.url();
    let redrive = |more: &[&'static str]| [&["dlq", "redrive", "in", "ocr"], more].concat();
    let says = printed(url, &redrive(&["1"]), "");
    assert_eq!(says, "1 redriven to group ocr\n");
    let ids = || -> Vec<_> {
        let letters = json(url, &["dlq", "list", "in", "ocr"]);
        letters
            .iter()
            .map(|letter| letter["event"]["id"].clone())
            .collect()
    };
    assert_eq!(ids(), ["a", "c"]);
    let again = refused(url, &redrive(&["1"]), "");
    assert!(again.contains("sluice dlq list"), "{again}");
    let again = refused(url, &["dlq", "show", "in", "ocr", "1"], "");
    assert!(again.contains("sluice dlq list"), "{again}");
    let which = refused(url, &redrive(&[]), "");
    assert!(which.contains("--all"), "{which}");
    refused(url, &redrive(&["0", "--all"]), "");
    assert_eq!(
        json(url, &redrive(&["--all"])),
        [json!({"redriven": 2, "capped": 0})]
    );
    assert!(ids().is_empty());
    let mut consumer = consumer(url).await;
    for _ in 0..3 {
        let delivery = expect("a redriven event", consumer.next()).await;
        let delivery = delivery.unwrap().unwrap();
        assert_eq!((delivery.attempt(), delivery.redrives()), (1, 1));
        delivery.ack().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_with_dead_letters_is_in_the_brokers_log() {
    let broker = setting(&["a", "b", "c"]).await;
    let url = broker.url();
    printed(url, &["dlq", "redrive", "in", "ocr", "1", "2"], "");
    printed(url, &["dlq", "purge", "in", "ocr", "--all", "--yes"], "");
    let log = broker.log();
    for says in [
        "dead letters redriven topic=\"in\" group=\"ocr\" redriven=2",
        "dead letters purged topic=\"in\" group=\"ocr\" purged=1",
    ] {
        let line = log.lines().find(|line| line.contains(says));
        assert!(line.is_some_and(|line| line.contains("INFO")), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_found_by_event_and_reason_and_purged_for_good() {
    let mut broker = setting(&["a", "b", "c"]).await;
    let url = broker.url().to_owned();
    let found = |more: &[&'static str]| -> Vec<_> {
        let words = [&["dlq", "list", "in", "ocr"], more].concat();
        let letters = json(&url, &words);
        letters.iter().map(|l| l["event"]["id"].clone()).collect()
    };
    assert_eq!(found(&["--filter", "event.id != \"b\""]), ["a", "c"]);
    assert_eq!(found(&["--reason", "no text"]).len(), 3);
    assert!(found(&["--reason", "too large"]).is_empty());

    let purge = |more: &[&'static str]| [&["dlq", "purge", "in", "ocr"], more].concat();
    let asks = refused(&url, &purge(&["0"]), "");
    assert!(asks.contains("--yes"), "{asks}");
    // All of them or none.
    refused(&url, &purge(&["0", "9", "--yes"]), "");
    assert_eq!(found(&[]).len(), 3);
    assert_eq!(printed(&url, &purge(&["0", "--yes"]), ""), "1 purged\n");
    assert_eq!(found(&[]), ["b", "c"]);
    refused(&url, &purge(&["0", "--yes"]), "");
    assert_eq!(
        json(&url, &purge(&["--all", "--yes"])),
        [json!({"purged": 2})]
    );
    broker.restart();
    assert!(json(broker.url(), &["dlq", "list", "in", "ocr"]).is_empty());
}

/// `hard` has failed twice, `odd` was rejected at once.
#[tokio::test(flavor = "multi_thread")]
async fn those_that_match_are_listed_redriven_and_purged() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in"], "");
    let group = ["group", "create", "in", "ocr", "--max-attempts", "2"];
    printed(url, &group, "");
    let publish = || {
        for id in ["odd", "hard"] {
            printed(url, &["publish", "in", "--type", "made", "--id", id], "");
        }
    };
    let mut consumer = consumer(url).await;
    let mut fail = async |attempts: usize| {
        for _ in 0..attempts {
            let delivery = expect("an event", consumer.next()).await.unwrap().unwrap();
            match delivery.event().id() {
                "odd" => delivery.reject("an odd one").await.unwrap(),
                _ => {
                    let at_once = Some(std::time::Duration::ZERO);
                    delivery.nack(at_once, "too hard").await.unwrap();
                }
            }
        }
    };
    publish();
    fail(3).await;
    let found = |more: &[&'static str]| -> Vec<_> {
        let letters = json(url, &[&["dlq", "list", "in", "ocr"], more].concat());
        letters.iter().map(|l| l["event"]["id"].clone()).collect()
    };
    assert_eq!(found(&["--min-attempts", "2"]), ["hard"]);
    assert_eq!(found(&["--max-attempts", "1"]), ["odd"]);
    assert_eq!(found(&["--min-attempts", "1"]).len(), 2);
    let negative = refused(url, &["dlq", "list", "in", "ocr", "--min-attempts=-1"], "");
    assert!(negative.contains("min_attempts"), "{negative}");

    let redrive = |more: &[&'static str]| [&["dlq", "redrive", "in", "ocr"], more].concat();
    let which = refused(url, &redrive(&["--min-attempts", "2"]), "");
    assert!(which.contains("--all"), "{which}");
    let which = refused(url, &redrive(&["0", "--reason", "odd"]), "");
    assert!(which.contains("--all"), "{which}");
    let done = json(url, &redrive(&["--all", "--min-attempts", "2"]));
    assert_eq!(done, [json!({"redriven": 1, "capped": 0})]);
    fail(2).await;
    assert_eq!(found(&[]), ["odd", "hard"]);
    let none = json(url, &redrive(&["--all", "--reason", "no such"]));
    assert_eq!(none, [json!({"redriven": 0, "capped": 0})]);

    let purge = ["dlq", "purge", "in", "ocr", "--all", "--yes"];
    let odd = [&purge[..], &["--filter", "event.id == \"odd\""]].concat();
    assert_eq!(json(url, &odd), [json!({"purged": 1})]);
    assert_eq!(found(&[]), ["hard"]);
    let bad = [&purge[..], &["--filter", "event.id =="]].concat();
    refused(url, &bad, "");
    assert_eq!(found(&[]), ["hard"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_redriven_so_often_and_no_more() {
    let broker = setting(&["a"]).await;
    let url = broker.url();
    let update = ["group", "update", "in", "ocr", "--max-redrives", "1"];
    printed(url, &update, "");
    let mut consumer = consumer(url).await;
    printed(url, &["dlq", "redrive", "in", "ocr", "0"], "");
    let delivery = expect("a redriven event", consumer.next()).await;
    delivery.unwrap().unwrap().reject("again").await.unwrap();
    let capped = refused(url, &["dlq", "redrive", "in", "ocr", "1"], "");
    assert!(capped.contains("max_redrives is 1"), "{capped}");
    let all = json(url, &["dlq", "redrive", "in", "ocr", "--all"]);
    assert_eq!(all, [json!({"redriven": 0, "capped": 1})]);
    let forced = json(url, &["dlq", "redrive", "in", "ocr", "1", "--force"]);
    assert_eq!(forced, [json!({"redriven": 1, "capped": 0})]);
    let delivery = expect("a redriven event", consumer.next()).await;
    let delivery = delivery.unwrap().unwrap();
    assert_eq!(delivery.redrives(), 2);
    delivery.ack().await.unwrap();
}

#[test]
fn dead_letters_have_no_groups_and_so_no_dead_letters() {
    let broker = TestBroker::start();
    let url = broker.url();
    printed(url, &["topic", "create", "in"], "");
    printed(url, &["group", "create", "in", "ocr"], "");
    let group = ["group", "create", "_dlq:in:ocr", "again"];
    let why = refused(url, &group, "");
    assert!(why.contains("can only be read"), "{why}");
}

/// A reason may quote what was in a document.
#[tokio::test(flavor = "multi_thread")]
async fn no_terminal_obeys_a_reason() {
    let broker = setting_with(&["bad"], "\u{1b}[2Jone\ntwo").await;
    let url = broker.url();
    let table = printed(url, &["dlq", "list", "in", "ocr"], "");
    assert_eq!(table.lines().count(), 2, "{table:?}");
    assert!(!table.contains('\u{1b}'), "{table:?}");
    let shown = printed(url, &["dlq", "show", "in", "ocr", "0"], "");
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    assert_eq!(
        json(url, &["dlq", "list", "in", "ocr"])[0]["reason"],
        "\u{1b}[2Jone\ntwo"
    );
}
