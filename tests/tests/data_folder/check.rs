//! `sluice check` and `sluice dump`.

use std::{fs, fs::OpenOptions, os::unix::fs::FileExt, path::Path};

use serde_json::Value;
use sluice_tests::{
    api::{Api, event},
    broker::TestBroker,
};

use super::{DAMAGED, VIEW_UNSOUND, copy, printed, sample::Sample, sluice, state_hash};

const FIRST: &str = "log/0000000000000000.seg";

fn checked(data: &Path) -> (Option<i32>, Value) {
    let output = sluice(&["check", "--json"], data);
    let json = serde_json::from_slice(&output.stdout).unwrap();
    (output.status.code(), json)
}

fn flip(path: &Path, byte: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut at = [0];
    file.read_exact_at(&mut at, byte).unwrap();
    file.write_all_at(&[at[0] ^ 1], byte).unwrap();
}

/// Every file of a folder with its bytes.
fn bytes(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(bytes(&path));
        } else {
            let read = fs::read(&path).unwrap();
            all.push((path, read));
        }
    }
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_what_is_sound_and_what_is_not_and_changes_nothing() {
    let sample = Sample::make().await;
    let data = sample.data();
    let before = bytes(&data);
    let (code, sound) = checked(&data);
    assert_eq!(code, Some(0), "{sound}");
    assert_eq!(sound["segments"], 2);
    // Published, a dead letter, and what was parked.
    let events = sound["events"].as_u64().unwrap();
    assert!(events > 100 + 12 + 3 + 1, "{sound}");
    assert_eq!(sound["damage_count"], 0);
    assert_eq!(sound["notes"], serde_json::json!([]));
    assert_eq!(sound["state"]["clean"], true);
    assert_eq!(sound["state"]["groups"], 1);
    assert_eq!(sound["view"]["is"], "agrees", "{sound}");
    assert!(sound["view"]["entries"].as_u64().unwrap() > 20, "{sound}");
    assert!(printed(&["check"], &data).contains("sound"));
    assert!(bytes(&data) == before, "nothing is changed");

    // Without its view it says the same.
    let folder = tempfile::tempdir().unwrap();
    let copied = folder.path().join("data");
    copy(&data, &copied);
    fs::remove_dir_all(copied.join("view")).unwrap();
    let (code, without) = checked(&copied);
    assert_eq!(
        (code, &without["view"]["is"]),
        (Some(0), &"to be built".into())
    );
    assert_eq!(without["state"], sound["state"]);

    // The view of another log.
    let other = TestBroker::start();
    Api::connect(other.url()).await.create_topic("t", 1).await;
    let other_data = other.data_dir();
    let mut other = other;
    assert!(other.stop().success());
    copy(&other_data.join("view"), &copied.join("view"));
    let (code, foreign) = checked(&copied);
    assert_eq!(
        (code, &foreign["view"]["is"]),
        (Some(VIEW_UNSOUND), &"unsound".into())
    );

    // A block that was durable.
    flip(&copied.join(FIRST), 4096 + 70);
    let (code, damaged) = checked(&copied);
    assert_eq!(
        (code, damaged["damage_count"].as_u64()),
        (Some(DAMAGED), Some(1))
    );
    let says = damaged["damage"][0].as_str().unwrap();
    assert!(says.contains("damaged from 0x1000 to 0x2000"), "{says}");
    assert!(damaged["frames"].as_u64() < sound["frames"].as_u64());
    let dumped = printed(&["dump"], &copied);
    assert!(dumped.contains("DAMAGE segment 0000000000000000.seg is damaged"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_in_use_is_not_checked_and_a_newer_format_is_refused() {
    let mut broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("t", 1).await;
    api.publish("t", vec![event("a")]).await.unwrap();
    let data = broker.data_dir();
    for words in [&["check"][..], &["dump"][..]] {
        let output = sluice(words, &data);
        assert_eq!(output.status.code(), Some(1));
        let says = String::from_utf8_lossy(&output.stderr);
        assert!(says.contains("is in use by another broker"), "{says}");
    }
    broker.kill();
    let hash = state_hash(&data);
    assert_eq!(hash.len(), 16);
    // What a kill leaves is sound.
    let (code, killed) = checked(&data);
    assert_eq!((code, &killed["state"]["clean"]), (Some(0), &false.into()));

    // The version is in bytes 8 to 12 of a segment.
    let segment = OpenOptions::new()
        .write(true)
        .open(data.join(FIRST))
        .unwrap();
    segment.write_all_at(&[9], 8).unwrap();
    let (_, says) = TestBroker::try_start_over(&data, &[]).expect_err("a start");
    assert!(says.contains("format version 9"), "{says}");
    assert!(says.contains("newer broker"), "{says}");
    let (code, newer) = checked(&data);
    assert_eq!(code, Some(DAMAGED));
    let says = newer["damage"][0].as_str().unwrap();
    assert!(says.contains("format version 9"), "{says}");

    let nowhere = sluice(&["check"], &data.join("nowhere"));
    assert_eq!(nowhere.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn dump_prints_blocks_and_frames_of_a_range() {
    let sample = Sample::make().await;
    let data = sample.data();
    let all = printed(&["dump"], &data);
    for what in [
        "segment 0000000000000000.seg 0x0..0x1000000 log ",
        "block 0x1000 data ",
        ": epoch-started",
        "topic-created TopicCreated { topic: 1, name: \"t\"",
        "append topic 1 partition 0 offsets 0..",
        "settle group ",
        "checkpoint-ended of 0x",
        " seal 0 bytes",
        " close 0 bytes",
    ] {
        assert!(all.contains(what), "no {what:?} in\n{all:.4000}");
    }
    let blocks = |text: &str| {
        text.lines()
            .filter(|line| line.starts_with("block "))
            .count()
    };
    let (_, json) = checked(&data);
    assert_eq!(blocks(&all) as u64, json["blocks"].as_u64().unwrap());
    let part = printed(&["dump", "--from", "0x2000", "--to", "16384"], &data);
    let expected: Vec<_> = all
        .lines()
        .skip_while(|line| !line.starts_with("block 0x2000 "))
        .take_while(|line| !line.starts_with("block 0x4000 "))
        .collect();
    let part: Vec<_> = part.lines().skip(1).collect();
    assert_eq!(part, expected);
}
