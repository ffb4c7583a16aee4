//! Bits that flip in a closed data folder: each is found, or does no harm.
//!
//! `SLUICE_FLIPS` says how many, `SLUICE_SEED` replays a run.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rand::{Rng, RngExt, seq::IndexedRandom};
use sluice_tests::{api::Api, broker::TestBroker, seed::seeded};
use tonic::Code;

use super::{
    DAMAGED, VIEW_UNSOUND, copy,
    sample::{ARGS, Sample, look},
    sluice,
};

/// Flips, unless `SLUICE_FLIPS` says otherwise.
const FLIPS: usize = 60;
const PAGE: usize = 4096;

/// How a flip was found, if it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    RefusedToStart,
    RefusedToRead,
    BuiltTheViewAgain,
    FoundByCheck,
    NoHarm,
}

/// A bit of a file.
#[derive(Debug)]
struct Flip {
    file: PathBuf,
    byte: usize,
    bit: u8,
}

impl Flip {
    /// Mostly where there is something: most of the log's bytes are zeros.
    fn random(data: &Path, random: &mut impl Rng) -> Self {
        let mut folders = vec![data.join("log")];
        folders.extend([data.join("view"), data.to_owned()]);
        let mut files = Vec::new();
        for folder in folders {
            let entries = fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path());
            files.extend(
                entries.filter(|path| path.metadata().unwrap().len() > 0 && path.is_file()),
            );
        }
        files.sort();
        let file = files.choose(random).unwrap().clone();
        let bytes = fs::read(&file).unwrap();
        let used: Vec<usize> = (0..bytes.len())
            .step_by(PAGE)
            .filter(|at| bytes[*at..].iter().take(PAGE).any(|byte| *byte != 0))
            .collect();
        let page = used
            .choose(random)
            .copied()
            .filter(|_| random.random_bool(0.95));
        let byte = match page {
            // Half of them where blocks say what they are.
            Some(page) if random.random_bool(0.5) => page + random.random_range(0..128),
            Some(page) => page + random.random_range(0..PAGE),
            None => random.random_range(0..bytes.len()),
        };
        Self {
            file,
            byte: byte.min(bytes.len() - 1),
            bit: random.random_range(0..8),
        }
    }

    fn apply(&self) {
        let file = OpenOptions::new().read(true).write(true).open(&self.file);
        let file = file.unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, self.byte as u64).unwrap();
        file.write_all_at(&[byte[0] ^ 1 << self.bit], self.byte as u64)
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_found_or_does_no_harm() {
    let flips = match std::env::var("SLUICE_FLIPS") {
        Ok(flips) => flips.parse().expect("SLUICE_FLIPS is a number"),
        Err(_) => FLIPS,
    };
    let mut random = seeded();
    let sample = Sample::make().await;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut outcomes = std::collections::BTreeMap::new();
    for number in 1..=flips {
        copy(&sample.data(), &data);
        let flip = Flip::random(&data, &mut random);
        flip.apply();
        let outcome = outcome(&sample, &data, &flip).await;
        *outcomes.entry(outcome).or_insert(0) += 1;
        fs::remove_dir_all(&data).unwrap();
        if number % 1000 == 0 {
            println!("{number} flips: {outcomes:?}");
        }
    }
    println!("{flips} flips: {outcomes:?}");
    // A few, as when a run is replayed, need not be worth anything.
    if flips >= FLIPS {
        let of = |outcome| outcomes.get(&outcome).copied().unwrap_or(0);
        assert!(of(Outcome::NoHarm) > 0);
        assert!(of(Outcome::BuiltTheViewAgain) > 0 && of(Outcome::FoundByCheck) > 0);
    }
}

async fn outcome(sample: &Sample, data: &Path, flip: &Flip) -> Outcome {
    let broker = tokio::task::block_in_place(|| TestBroker::try_start_over(data, ARGS));
    let mut broker = match broker {
        Ok(broker) => broker,
        Err((status, says)) => {
            assert!(!says.contains("panicked"), "{flip:?}: {says}");
            assert_eq!(status.code(), Some(1), "{flip:?}: {says}");
            return Outcome::RefusedToStart;
        }
    };
    let api = Api::connect(broker.url()).await;
    let seen = look(&api).await;
    drop(api);
    assert!(
        tokio::task::block_in_place(|| broker.stop()).success(),
        "{flip:?}"
    );
    let says = broker.log();
    assert!(!says.contains("panicked"), "{flip:?}: {says}");
    match seen {
        Ok(seen) => assert_eq!(seen, sample.seen, "{flip:?}"),
        Err(status) => {
            assert_eq!(status.code(), Code::DataLoss, "{flip:?}: {status:?}");
            return Outcome::RefusedToRead;
        }
    }
    let checked = sluice(&["check", "--state-hash"], data);
    match checked.status.code() {
        Some(0) => {
            let hash = String::from_utf8_lossy(&checked.stdout);
            assert_eq!(hash.trim(), sample.hash, "{flip:?}");
            if says.contains("view_rebuilt=true") {
                Outcome::BuiltTheViewAgain
            } else {
                Outcome::NoHarm
            }
        }
        Some(DAMAGED | VIEW_UNSOUND) => Outcome::FoundByCheck,
        other => panic!("{flip:?}: sluice check ends with {other:?}: {checked:?}"),
    }
}
