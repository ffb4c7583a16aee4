//! What is wrong is said in one line, with what to do.

use sluice_tests::broker::TestBroker;

use super::{printed, refused, sluice, the_one_line};

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

/// Words that make no command, also in one line.
#[test]
fn wrong_words_are_refused_in_one_line() {
    let nowhere = "http://127.0.0.1:1";
    let cases: [(&[&str], &[&str]); 8] = [
        (&["frob"], &["frob", "--help"]),
        (&["topic", "create"], &["<TOPIC>", "--help"]),
        (&["topic", "list", "--frob"], &["--frob"]),
        (
            &["tail", "in", "--from", "noon"],
            &["noon", "earliest", "RFC 3339"],
        ),
        (
            &["group", "create", "in", "g", "--lease", "5"],
            &["--lease", "200ms"],
        ),
        (
            &["group", "create", "in", "g", "--ordering", "x"],
            &["key", "none"],
        ),
        (&["dlq", "redrive", "in", "g", "x"], &["OFFSETS"]),
        (&["serve", "--listen", "here"], &["--listen", "here"]),
    ];
    for (words, expected) in cases {
        let error = refused(nowhere, words, "");
        for word in expected {
            assert!(error.contains(word), "{words:?}: {error}");
        }
    }
}

#[test]
fn help_is_no_error() {
    for words in [
        &["--help"][..],
        &["group", "create", "--help"],
        &["--version"],
    ] {
        let output = sluice("", words, "");
        assert!(output.status.success(), "{words:?}");
        assert!(!output.stdout.is_empty(), "{words:?}");
    }
    // Asked for nothing, it says what there is.
    let output = sluice("", &["group"], "");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("lag"));
}

#[test]
fn a_broker_that_cannot_start_says_why_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    let data = folder.path().join("data");
    let serve = [
        "serve",
        "--log",
        "off",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
    ];
    let there = [&serve[..], &[data.to_str().unwrap()]].concat();
    let cases: [(Vec<&str>, &str); 3] = [
        ([&serve[..], &[file]].concat(), file),
        ([&there[..], &["--limit", "frobs=1"]].concat(), "frobs"),
        (
            [&there[..], &["--limit", "event_bytes_max=1"]].concat(),
            "1024",
        ),
    ];
    for (words, expected) in cases {
        let error = refused("", &words, "");
        assert!(error.contains(expected), "{words:?}: {error}");
    }
    let beyond = [
        "serve",
        "--listen",
        "0.0.0.0:0",
        "--data-dir",
        data.to_str().unwrap(),
    ];
    let error = refused("", &beyond, "");
    assert!(error.contains("--insecure-listen"), "{error}");
}

#[test]
fn wherever_there_is_no_broker_it_says_so() {
    for (url, expected) in [
        ("http://127.0.0.1:1", "`sluice serve`"),
        ("127.0.0.1:1", "`sluice serve`"),
        ("https://127.0.0.1:1", "http://127.0.0.1:7070"),
        ("no url", "http://127.0.0.1:7070"),
    ] {
        for words in [&["status"][..], &["topic", "list"], &["tail", "in"]] {
            let error = refused(url, words, "");
            assert!(error.contains(expected), "{error}");
        }
        let words = ["publish", "in", "--type", "t"];
        let error = the_one_line(&sluice(url, &words, ""));
        assert!(error.contains(expected), "{error}");
    }
}
