//! Backups that are not whole, whatever the reason: nobody takes one for whole.

use std::{fs, path::Path, time::Duration};

use sluice_proto::pb::{BackupRequest, Event};
use sluice_tests::{
    api::{Api, Refusal, event, expect},
    broker::TestBroker,
};
use tempfile::TempDir;

use super::{
    ARGS, backup, begin_backup, ended, on_folder, refused, restored::copy_folder, until_backup,
};

const DAMAGED: i32 = 3;

async fn broker_with_events() -> (TestBroker, Api) {
    let broker = TestBroker::start_with(ARGS);
    let api = Api::connect(broker.url()).await;
    api.create_topic("t", 1).await;
    for n in 0..40 {
        let large = Event {
            data_content_type: "application/octet-stream".to_owned(),
            data: vec![n; 500_000].into(),
            ..event(&format!("e{n:02}"))
        };
        api.publish("t", vec![large]).await.unwrap();
    }
    (broker, api)
}

/// That no command takes it for a data folder.
fn is_refused_as_unfinished(dir: &Path) {
    for word in ["check", "dump"] {
        let error = refused(&on_folder(word, dir));
        assert!(error.contains("was not finished"), "{word}: {error}");
    }
    let (_, log) = TestBroker::try_start_over(dir, ARGS).unwrap_err();
    assert!(log.contains("was not finished"), "{log}");
}

/// Waits until there is something in the folder.
async fn until_it_has_begun(dir: &Path) {
    expect("files", async {
        while !dir.join("log").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_interrupted_is_refused_and_holds_nothing() {
    let folder = TempDir::new().unwrap();
    let (mut broker, api) = broker_with_events().await;
    let dir = folder.path().join("killed");
    let mut copying = begin_backup(&broker, &dir, 1 << 20);
    until_it_has_begun(&dir).await;
    // There is one at a time.
    let second = api.admin.clone().backup(BackupRequest::default()).await;
    assert_eq!(Refusal::from(&second.unwrap_err()).reason, "TOO_MANY");
    copying.kill().unwrap();
    ended(copying);
    is_refused_as_unfinished(&dir);
    until_backup(&api, |backup| backup.is_none()).await;

    // The broker ends in the middle.
    let dir = folder.path().join("broker-killed");
    let copying = begin_backup(&broker, &dir, 1 << 20);
    until_it_has_begun(&dir).await;
    broker.kill();
    let error = refused(&ended(copying));
    assert!(error.contains("the backup is broken off"), "{error}");
    is_refused_as_unfinished(&dir);

    broker.restart();
    let dir = folder.path().join("whole");
    backup(&broker, &dir);
    assert!(on_folder("check", &dir).status.success());
    // Not over something else.
    let error = refused(&ended(begin_backup(&broker, &dir, 1 << 20)));
    assert!(error.contains("is not empty"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_has_changed_or_is_not_copied_whole_is_found_out() {
    let folder = TempDir::new().unwrap();
    let (broker, api) = broker_with_events().await;
    let whole = folder.path().join("whole");
    backup(&broker, &whole);
    let segments: Vec<String> = fs::read_dir(whole.join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(segments.len() > 1, "{segments:?}");
    let first = segments.iter().min().unwrap();

    let changed = folder.path().join("changed");
    copy_folder(&whole, &changed);
    let file = changed.join("log").join(first);
    let mut bytes = fs::read(&file).unwrap();
    bytes[5_000_000] ^= 1;
    fs::write(&file, bytes).unwrap();
    let check = on_folder("check", &changed);
    assert_eq!(check.status.code(), Some(DAMAGED), "{check:?}");
    let told = String::from_utf8_lossy(&check.stdout);
    assert!(
        told.contains(&format!("log/{first} fails its checksum")),
        "{told}"
    );

    let partly = folder.path().join("partly");
    copy_folder(&whole, &partly);
    fs::remove_file(partly.join("log").join(first)).unwrap();
    let (_, log) = TestBroker::try_start_over(&partly, ARGS).unwrap_err();
    assert!(log.contains(&format!("log/{first} is missing")), "{log}");
    assert_eq!(on_folder("check", &partly).status.code(), Some(DAMAGED));

    // The same backup twice: two brokers, of which none is the other.
    let twice = folder.path().join("twice");
    copy_folder(&whole, &twice);
    let (one, other) = (
        TestBroker::start_over(&whole, ARGS),
        TestBroker::start_over(&twice, ARGS),
    );
    let (one, other) = (
        Api::connect(one.url()).await,
        Api::connect(other.url()).await,
    );
    assert_eq!(one.ids("t").await, api.ids("t").await);
    assert_eq!(other.ids("t").await, api.ids("t").await);
    let epochs = (
        super::describe(&one).await.log_epoch,
        super::describe(&other).await.log_epoch,
    );
    assert_ne!(epochs.0, epochs.1);
}
