//! Backups of brokers that run, and brokers on what was restored.

#![allow(clippy::unwrap_used)]

mod broken;
mod load;
mod restored;

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use sluice_proto::pb::{BackupProgress, DescribeBrokerRequest, DescribeBrokerResponse};
use sluice_tests::{
    api::{Api, expect},
    broker::{TestBroker, program},
};
use tokio::task::block_in_place;

/// Small segments, a state in the log all the time, and space that comes back at
/// once.
const ARGS: &[&str] = &[
    "--limit=segment_bytes=16793600",
    "--limit=checkpoint_bytes=65536",
    "--limit=log_checkpoint_bytes=131072",
    "--limit=retention_interval_ms=50",
    "--limit=spare_segments_max=1",
];

/// `sluice backup` of this broker, on its way.
fn begin_backup(broker: &TestBroker, to: &Path, bytes_per_second: u64) -> Child {
    let mut command = Command::new(program());
    command
        .args(["backup", "--json", "--broker", broker.url()])
        .args(["--bytes-per-second", &bytes_per_second.to_string()])
        .arg(to)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// A whole backup.
fn backup(broker: &TestBroker, to: &Path) {
    let output = ended(begin_backup(broker, to, 1 << 30));
    assert!(output.status.success(), "{output:?}");
}

fn ended(child: Child) -> Output {
    block_in_place(|| child.wait_with_output()).unwrap()
}

/// Runs `sluice` with these words on a folder.
fn on_folder(word: &str, folder: &Path) -> Output {
    let mut command = Command::new(program());
    block_in_place(|| command.arg(word).arg(folder).output()).unwrap()
}

/// The one line that a command which fails prints.
fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(errors.lines().count(), 1, "{errors}");
    errors.into_owned()
}

async fn describe(api: &Api) -> DescribeBrokerResponse {
    let mut admin = api.admin.clone();
    let described = admin.describe_broker(DescribeBrokerRequest {}).await;
    described.unwrap().into_inner()
}

/// Waits until the broker says that a backup is under way, or that none is.
async fn until_backup(api: &Api, wanted: impl Fn(Option<BackupProgress>) -> bool) {
    expect("the backup", async {
        while !wanted(describe(api).await.backup) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
