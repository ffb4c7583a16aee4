//! A broker that stops for a while in the middle of a load, from outside: the
//! program, its server in a process of its own, and signals.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

const WORKLOAD: &str = r#"
name = "stall"
about = "single events at a fixed rate"
kind = "end-to-end"
event_bytes = 200
outstanding = 100000
rate = 200.0
groups = 1
members = 1
seconds = 6.0
warmup_seconds = 0.0
"#;
const SECONDS: f64 = 6.0;
const EVENTS: f64 = 200.0 * SECONDS;
const STALL: Duration = Duration::from_secs(2);

/// The process that a process has started as its broker, once it has.
fn broker_of(parent: u32) -> Pid {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        let tasks = fs::read_dir(format!("/proc/{parent}/task")).unwrap();
        let children = tasks.flat_map(|task| {
            let children = task.unwrap().path().join("children");
            let numbers = fs::read_to_string(children).unwrap_or_default();
            let numbers = numbers
                .split_whitespace()
                .map(|n| n.parse::<i32>().unwrap());
            numbers.collect::<Vec<_>>()
        });
        for child in children {
            let line = fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
            if line.split('\0').nth(1) == Some("broker") {
                return Pid::from_raw(child).unwrap();
            }
        }
        assert!(Instant::now() < give_up, "no broker is started");
        sleep(Duration::from_millis(5));
    }
}

/// The figures of the only round.
fn round(json: &Path) -> serde_json::Value {
    let results: serde_json::Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let cells = &results["workloads"][0]["variants"][0]["cells"];
    let mut cells = cells.as_array().unwrap().iter();
    let sluice = cells.find(|cell| cell["broker"] == "sluice");
    sluice.unwrap()["rounds"][0].clone()
}

#[test]
fn who_was_due_while_the_broker_stood_still_has_waited() {
    let dir = tempfile::tempdir().unwrap();
    let (workload, json) = (dir.path().join("stall.toml"), dir.path().join("json"));
    fs::write(&workload, WORKLOAD).unwrap();
    let mut bench = Command::new(env!("CARGO_BIN_EXE_sluice-bench"))
        .arg("run")
        .arg(&workload)
        .args(["--rounds", "1", "--json"])
        .arg(&json)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let broker = broker_of(bench.id());
    // Into the load, which lasts three times as long as the stall.
    sleep(Duration::from_secs(3));
    kill_process(broker, Signal::STOP).unwrap();
    sleep(STALL);
    kill_process(broker, Signal::CONT).unwrap();
    assert!(bench.wait().unwrap().success());

    let round = round(&json);
    let micros = |name: &str| round["delivery_micros"][name].as_f64().unwrap();
    // A third of the events was due in the two seconds, and each of them waited for
    // their end: a tenth of all for 1.4 s at least, and one in a hundred for
    // nearly all of it. A bench that waits for the broker before it sends the next
    // event would have one late event of 1,200.
    assert!(micros("p90") > 1.2e6, "{round}");
    assert!(micros("p99") > 1.8e6, "{round}");
    // That all have come, each once, is what the bench itself expects.
    let published = round["published_per_second"].as_f64().unwrap() * SECONDS;
    assert!((EVENTS / 2.0..=EVENTS).contains(&published), "{round}");
}
