//! Data folders of brokers that are stopped: checked, dumped, damaged, copied.

#![allow(clippy::unwrap_used)]

mod check;
mod flips;
mod sample;
mod view;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use sluice_tests::broker::program;

/// What `sluice check` ends with when something is lost.
const DAMAGED: i32 = 3;
/// What it ends with when the next start has to build the view again.
const VIEW_UNSOUND: i32 = 4;

/// Runs `sluice` with these words on a data folder.
fn sluice(words: &[&str], data: &Path) -> Output {
    let mut command = Command::new(program());
    command.args(words).arg(data).output().unwrap()
}

/// What it prints when it ends well.
fn printed(words: &[&str], data: &Path) -> String {
    let output = sluice(words, data);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn state_hash(data: &Path) -> String {
    printed(&["check", "--state-hash"], data).trim().to_owned()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
