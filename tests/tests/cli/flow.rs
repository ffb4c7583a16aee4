//! A chain of topics, drawn, with who is in the way.

use sluice_tests::broker::TestBroker;

use super::{assert_table, json, printed};

#[test]
fn a_chain_is_drawn_with_who_slows_whom() {
    let broker = TestBroker::start();
    let url = broker.url();
    for topic in ["pages", "texts"] {
        printed(url, &["topic", "create", topic], "");
    }
    let limit = ["--backlog-policy", "throttle", "--backlog-events", "2"];
    let create = |args: &[&str]| printed(url, &[&["group", "create"], args, &limit].concat(), "");
    create(&["texts", "nlp"]);
    create(&["pages", "ocr", "--output", "texts", "--output", "pages"]);
    for _ in 0..2 {
        printed(url, &["publish", "texts", "--type", "made"], "");
        printed(url, &["publish", "pages", "--type", "made"], "");
    }
    let drawn = printed(url, &["flow", "--over", "10ms"], "");
    let expected = [
        "pages  0/s in, credit 0 %, FULL by ocr",
        "└─ ocr  0/s done, 2 to do (throttle at 2 events), 0 in flight, 0 members, credit 0, FULL, nobody works for it, held back by texts",
        "   ├┄> pages (above)",
        "   └─> texts  0/s in, credit 0 %, FULL by nlp",
        "       └─ nlp  0/s done, 2 to do (throttle at 2 events), 0 in flight, 0 members, credit 0, FULL, nobody works for it",
        "",
        "ocr on pages slows down: nobody yet",
        "nlp on texts slows down: ocr on pages",
    ];
    assert_eq!(drawn.lines().collect::<Vec<_>>(), expected, "{drawn}");
    let flow = &json(url, &["flow", "pages", "--over", "10ms"])[0];
    assert_eq!(flow["groups"][0]["outputs"][1]["holds_back"], true);
    assert_eq!(flow["groups"][0]["outputs"][0]["exempt"], true);
    assert_eq!(flow["topics"][1]["appended"], 2);

    let status = printed(url, &["status"], "");
    let words = [
        "topics that take nothing",
        "group nlp has 2 of 2 events, and nobody works",
    ];
    assert_table(&status, &words);
    let described = printed(url, &["group", "describe", "texts", "nlp"], "");
    assert_table(
        &described,
        &["2 events, throttle at 2 events, FULL, nobody works for it"],
    );

    // Another limit, and it is not in the way any more.
    let more = [
        "group",
        "update",
        "texts",
        "nlp",
        "--backlog-policy",
        "ignore",
    ];
    printed(url, &more, "");
    let drawn = printed(url, &["flow", "texts", "--over", "10ms"], "");
    assert_table(&drawn, &["texts  0/s in\n", "2 to do (no limit)"]);
}
