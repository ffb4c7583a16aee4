//! A view that is gone or noise is built again, and the state is what it was.

use std::{fs, path::Path};

use rand::{Rng, RngExt};
use sluice_proto::pb::DescribeBrokerRequest;
use sluice_tests::{
    api::Api,
    broker::{TestBroker, program},
    seed::seeded,
};

use super::{
    copy,
    sample::{ARGS, Sample, look},
    state_hash,
};

/// How often the view is lost, in one way or the other.
const TIMES: usize = 20;

fn overwrite_with_noise(folder: &Path, random: &mut impl Rng) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            overwrite_with_noise(&path, random);
        } else {
            let mut noise = vec![0; path.metadata().unwrap().len() as usize];
            random.fill(&mut noise[..]);
            fs::write(&path, noise).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_is_gone_or_noise_is_built_again_with_the_same_state() {
    let mut random = seeded();
    let sample = Sample::make().await;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    copy(&sample.data(), &data);
    for time in 1..=TIMES {
        let view = data.join("view");
        if time % 2 == 0 {
            fs::remove_dir_all(&view).unwrap();
            assert_eq!(state_hash(&data), sample.hash, "from the log alone");
        } else {
            overwrite_with_noise(&view, &mut random);
        }
        let mut broker = TestBroker::start_over(&data, ARGS);
        let api = Api::connect(broker.url()).await;
        assert_eq!(look(&api).await.unwrap(), sample.seen, "time {time}");
        drop(api);
        if random.random() {
            broker.kill();
        } else {
            assert!(broker.stop().success());
        }
        assert!(broker.log().contains("view_rebuilt=true"));
        assert_eq!(state_hash(&data), sample.hash, "time {time}");
    }
    println!("lost and built again: {TIMES} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_below_the_checkpoint_is_named_when_the_view_is_built_again() {
    let sample = Sample::make().await;
    let data = sample.data();
    fs::remove_dir_all(data.join("view")).unwrap();
    let segments = fs::read_dir(data.join("log")).unwrap();
    let segments = segments.map(|entry| entry.unwrap().path());
    let first = segments.filter(|path| path.extension().is_some_and(|e| e == "seg"));
    let first = first.min().unwrap();
    let mut bytes = fs::read(&first).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&first, bytes).unwrap();

    let broker = TestBroker::start_over(&data, ARGS);
    assert!(broker.log().contains("damaged below its checkpoint"));
    let api = Api::connect(broker.url()).await;
    let mut admin = api.admin.clone();
    let status = admin.describe_broker(DescribeBrokerRequest {}).await;
    let recovery = status.unwrap().into_inner().recovery.unwrap();
    let [skipped] = recovery.skipped_damage[..] else {
        panic!("{recovery:?}");
    };
    assert!((1..=middle as i64).contains(&skipped.begin_position));
    assert!(skipped.end_position > middle as i64);
    let status = std::process::Command::new(program())
        .args(["status", "--broker", broker.url()])
        .output()
        .unwrap();
    let status = String::from_utf8_lossy(&status.stdout);
    assert!(status.contains("DAMAGED"), "{status}");
}
