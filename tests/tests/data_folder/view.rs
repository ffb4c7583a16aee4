//! A view that is gone or noise is built again, and the state is what it was.

use std::{fs, path::Path};

use rand::{Rng, RngExt};
use sluice_tests::{api::Api, broker::TestBroker, seed::seeded};

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
