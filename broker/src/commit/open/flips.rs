//! Bits that flip in a closed data folder, in great number, as it costs no process:
//! each is found, or does no harm. `tests/tests/data_folder/flips.rs` shows the same,
//! of some, with the real binary and a folder with something of everything.
//!
//! `SLUICE_FLIPS` says how many, `SLUICE_SEED` replays a run.

#![allow(clippy::unwrap_used)] // A failed step is a failed test.

use std::{
    collections::BTreeMap,
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use sluice_proto::{GroupName, Offset, PartitionId, TopicId, TopicName};
use tokio::runtime::Runtime;

use super::{CheckError, CommitConfig, OpenError, Opened, ViewFound, check, open};
use crate::{
    commit::{
        AppendRequest, CatalogChange, Changes, NewGroup, PageLimits, ReadError, StoredEvent,
        TopicConfig,
        record::{Channel, NewEvent, Settle, Source},
        testing::small_config,
    },
    log::{LogConfig, WriteChoice},
};

/// Flips, unless `SLUICE_FLIPS` says otherwise.
const FLIPS: usize = 100;
const SEGMENT: u64 = 128 << 10;
const PAGE: usize = 4096;
const PARTITIONS: u32 = 3;

/// How a flip was found, if it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    RefusedToStart,
    RefusedToRead,
    BuiltTheViewAgain,
    FoundByCheck,
    NoHarm,
}

fn config() -> CommitConfig {
    let small = small_config();
    CommitConfig {
        log: LogConfig {
            segment_bytes: SEGMENT,
            spares_max: 0,
            write: WriteChoice::Buffered,
            ..small.log
        },
        log_checkpoint_bytes: 32 << 10,
        ..small
    }
}

/// A data folder that is open.
struct Folder {
    runtime: Runtime,
    opened: Opened,
}

/// By partition, where it begins and what is in it.
type Seen = BTreeMap<Source, (Offset, Vec<Event>)>;

/// An event, with its place and time, and what is kept beside it.
type Event = (Offset, u64, Bytes, Bytes);

impl Folder {
    fn open(dir: &Path) -> Result<Self, OpenError> {
        Ok(Self {
            runtime: Runtime::new().unwrap(),
            opened: open(dir, config())?,
        })
    }

    fn create_topic(&self, name: &str, channel: Channel) -> TopicId {
        let name = TopicName::new(name).unwrap();
        let config = TopicConfig {
            partitions: PARTITIONS,
            channel,
        };
        self.change(CatalogChange::CreateTopic {
            name: name.clone(),
            config: Some(config),
            retention: None,
        });
        self.opened.proposals.catalog().topic(&name).unwrap().id
    }

    fn change(&self, change: CatalogChange) {
        let changed = self.opened.proposals.change_catalog(change);
        self.runtime.block_on(changed).unwrap();
    }

    fn commit(&self, changes: Changes) {
        let committed = self.opened.proposals.commit(changes);
        self.runtime.block_on(committed).unwrap();
    }

    /// Reads every event there is.
    fn look(&self) -> Result<Seen, ReadError> {
        let limits = PageLimits {
            events: 50,
            bytes: 1 << 20,
        };
        let mut seen = Seen::new();
        for topic in self.opened.proposals.catalog().topics() {
            for (at, partition) in topic.partitions.iter().enumerate() {
                let source = Source {
                    topic: topic.id,
                    partition: PartitionId(at as u32),
                };
                let mut next = partition.start_offset();
                let mut events = Vec::new();
                while next < partition.visible_end() {
                    let page = self.opened.store.read(partition, next, limits)?;
                    assert!(page.next > next);
                    next = page.next;
                    events.extend(page.events.into_iter().map(whole));
                }
                seen.insert(source, (partition.start_offset(), events));
            }
        }
        Ok(seen)
    }

    fn close(self) {
        self.runtime.block_on(self.opened.proposals.close());
        self.opened.running.join();
    }
}

fn whole(stored: StoredEvent) -> Event {
    let StoredEvent {
        offset,
        append_time_ms,
        event,
        note,
    } = stored;
    (offset, append_time_ms, event, note)
}

/// Several segments, checkpoints in view and log, topics of two channels, and a group
/// that has settled in pieces.
fn fill(dir: &Path) -> Seen {
    let folder = Folder::open(dir).unwrap();
    let topics = [
        folder.create_topic("t", Channel::Fsync),
        folder.create_topic("b", Channel::Buffered),
    ];
    folder.change(CatalogChange::CreateGroup(Box::new(NewGroup {
        topic: TopicName::new("t").unwrap(),
        name: GroupName::new("g").unwrap(),
        config: Default::default(),
        or_as_it_is: false,
        start: vec![0; PARTITIONS as usize],
    })));
    let group = folder
        .opened
        .proposals
        .catalog()
        .groups()
        .next()
        .unwrap()
        .id;
    for n in 0..200_u32 {
        let source = Source {
            topic: topics[n as usize % 2],
            partition: PartitionId(n % PARTITIONS),
        };
        let events = (0..n % 4 + 1).map(|k| NewEvent {
            event: Bytes::from(vec![(n + k) as u8; 100 + 10 * n as usize]),
            note: Bytes::from(vec![n as u8; n as usize % 3]),
        });
        let mut changes = Changes::default();
        changes.appends.push(AppendRequest {
            target: source,
            events: events.collect(),
        });
        if n % 10 == 0 && n > 20 {
            changes.settles.push(Settle {
                group,
                source: Source {
                    topic: topics[0],
                    partition: PartitionId(n / 10 % PARTITIONS),
                },
                runs: vec![(Offset(u64::from(n) / 20), 1)],
            });
        }
        folder.commit(changes);
    }
    let seen = folder.look().unwrap();
    folder.close();
    seen
}

/// A bit of a file.
#[derive(Debug)]
struct Flip {
    file: PathBuf,
    byte: usize,
    bit: u8,
}

impl Flip {
    /// Mostly where there is something: most bytes are zeros.
    fn random(data: &Path, random: &mut StdRng) -> Self {
        let folder = if random.random_bool(0.5) {
            "log"
        } else {
            "view"
        };
        let entries = fs::read_dir(data.join(folder)).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.is_file() && path.metadata().unwrap().len() > 0);
        files.sort();
        let file = files.choose(random).unwrap().clone();
        let bytes = fs::read(&file).unwrap();
        let pages: Vec<usize> = (0..bytes.len())
            .step_by(PAGE)
            .filter(|at| bytes[*at..].iter().take(PAGE).any(|byte| *byte != 0))
            .collect();
        let page = pages.choose(random).filter(|_| random.random_bool(0.95));
        let byte = match page {
            // Half of them where blocks say what they are.
            Some(page) if random.random_bool(0.5) => page + random.random_range(0..128),
            Some(page) => page + random.random_range(0..PAGE),
            None => random.random_range(0..bytes.len()),
        };
        Self {
            byte: byte.min(bytes.len() - 1),
            bit: random.random_range(0..8),
            file,
        }
    }

    fn apply(&self) {
        let mut bytes = fs::read(&self.file).unwrap();
        bytes[self.byte] ^= 1 << self.bit;
        fs::write(&self.file, bytes).unwrap();
    }
}

fn outcome(data: &Path, expected: &Seen, hash: u64) -> Outcome {
    let folder = match Folder::open(data) {
        Ok(folder) => folder,
        Err(_) => return Outcome::RefusedToStart,
    };
    let rebuilt = folder.opened.recovery.view_rebuilt;
    let seen = folder.look();
    folder.close();
    match seen {
        Ok(seen) => assert_eq!(&seen, expected),
        Err(_) => return Outcome::RefusedToRead,
    }
    match check(data) {
        Ok(checked) if checked.damage_count > 0 => Outcome::FoundByCheck,
        Ok(checked) if matches!(checked.view, ViewFound::Unsound(_)) => Outcome::FoundByCheck,
        Ok(checked) => {
            assert_eq!(checked.state.unwrap().hash, hash);
            match rebuilt {
                true => Outcome::BuiltTheViewAgain,
                false => Outcome::NoHarm,
            }
        }
        Err(CheckError::Log(_)) => Outcome::FoundByCheck,
        Err(error) => panic!("{error}"),
    }
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

#[test]
fn a_flipped_bit_is_found_or_does_no_harm() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse().unwrap());
    let flips = number("SLUICE_FLIPS").unwrap_or(FLIPS);
    let seed = number("SLUICE_SEED").map_or_else(rand::random, |seed| seed as u64);
    println!("SLUICE_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let place = tempfile::tempdir().unwrap();
    let (sample, data) = (place.path().join("sample"), place.path().join("data"));
    let seen = fill(&sample);
    let hash = check(&sample).unwrap().state.unwrap().hash;
    let mut outcomes = BTreeMap::new();
    for _ in 0..flips {
        copy(&sample, &data);
        let flip = Flip::random(&data, &mut random);
        flip.apply();
        let found = catch_unwind(AssertUnwindSafe(|| outcome(&data, &seen, hash)));
        let found = found.unwrap_or_else(|_| panic!("{flip:?} of seed {seed}"));
        *outcomes.entry(found).or_insert(0) += 1;
        fs::remove_dir_all(&data).unwrap();
    }
    println!("{flips} flips: {outcomes:?}");
    // A few, as when a run is replayed, need not be worth anything.
    if flips >= FLIPS {
        let of = |outcome| outcomes.get(&outcome).copied().unwrap_or(0);
        assert!(of(Outcome::NoHarm) > 0 && of(Outcome::RefusedToRead) > 0);
        assert!(of(Outcome::BuiltTheViewAgain) + of(Outcome::FoundByCheck) > 0);
    }
}
