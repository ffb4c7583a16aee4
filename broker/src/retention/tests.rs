//! The log with retention over small segments, against a model, with crashes
//! that lose the view.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, path::Path};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use sluice_proto::{Offset, PartitionId, TopicId, TopicName};
use tokio::runtime::Runtime;

use super::*;
use crate::{
    commit::{
        AppendRequest, CatalogChange, Changes, CommitConfig, Opened, PageLimits, Running,
        StoredEvent, TopicConfig, open,
        record::{NewEvent, Retention, Source},
        testing::{SEGMENT_BYTES, small_config},
    },
    view::{EntityKey, View},
};

fn retention_config() -> RetentionConfig {
    RetentionConfig {
        interval: Duration::from_secs(1),
        rewrite_below_percent: 60,
        rewrite_bytes_per_s: 1 << 30,
        compact_keys_max: 1000,
    }
}

/// A log that is open, whose retention goes by turns.
struct Under {
    runtime: Runtime,
    proposals: Proposals,
    store: Store,
    keeping: Keeping,
    running: Running,
}

impl Under {
    fn open(dir: &Path) -> Self {
        Self::open_with(dir, small_config())
    }

    fn open_with(dir: &Path, config: CommitConfig) -> Self {
        let Opened {
            proposals,
            store,
            reader,
            reclaimer,
            followed,
            retention_ms,
            running,
            ..
        } = open(dir, config).unwrap();
        let parts = Parts {
            proposals: proposals.clone(),
            store: store.clone(),
            reader,
            reclaimer,
            followed,
            clock: AgeClock::start(retention_ms),
        };
        Self {
            runtime: Runtime::new().unwrap(),
            proposals,
            store,
            keeping: Keeping::new(parts, retention_config(), Arc::default()),
            running,
        }
    }

    fn create(&self, name: &str, partitions: u32, retention: Retention) -> TopicId {
        let name = TopicName::new(name).unwrap();
        let change = CatalogChange::CreateTopic {
            name: name.clone(),
            config: Some(TopicConfig {
                partitions,
                ..TopicConfig::default()
            }),
            retention: Some(retention),
        };
        let changed = self.runtime.block_on(self.proposals.change_catalog(change));
        changed.unwrap();
        self.proposals.catalog().topic(&name).unwrap().id
    }

    fn append(&self, target: Source, events: Vec<Bytes>) -> Offset {
        let events = events.into_iter().map(|event| NewEvent {
            event,
            note: Bytes::from_static(b"note"),
        });
        let appends = vec![AppendRequest {
            target,
            events: events.collect(),
        }];
        let changes = Changes {
            appends,
            ..Changes::default()
        };
        let committed = self.runtime.block_on(self.proposals.commit(changes));
        committed.unwrap().appended[0].first
    }

    fn turn(&mut self) {
        self.keeping.turn().unwrap();
    }

    /// Turns until what was written again is in the index.
    fn settle(&mut self) {
        for _ in 0..6 {
            self.turn();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn read_all(&self, source: Source) -> (Offset, Vec<StoredEvent>) {
        let catalog = self.proposals.catalog();
        let topic = catalog.topic_by_id(source.topic).unwrap();
        let partition = topic.partition(source.partition).unwrap();
        let limits = PageLimits {
            events: 50,
            bytes: 1 << 20,
        };
        let mut all = Vec::new();
        let mut next = Offset(0);
        while next < partition.visible_end() {
            let page = self.store.read(partition, next, limits).unwrap();
            assert!(page.next > next);
            next = page.next;
            all.extend(page.events);
        }
        (partition.start_offset(), all)
    }

    fn close(self) {
        drop(self.keeping);
        self.runtime.block_on(self.proposals.close());
        self.running.join();
    }
}

/// What was acked, by partition and offset.
type Model = BTreeMap<Source, Vec<Bytes>>;

fn check(under: &Under, model: &Model, what: &str) {
    for (source, events) in model {
        let (start, read) = under.read_all(*source);
        let expected = &events[start.0 as usize..];
        assert_eq!(
            read.len(),
            expected.len(),
            "{what}: {source:?} from {start}"
        );
        for (at, (stored, event)) in read.iter().zip(expected).enumerate() {
            assert_eq!(stored.offset.0, start.0 + at as u64, "{what}: {source:?}");
            assert_eq!(
                &stored.event, event,
                "{what}: {source:?} at {}",
                stored.offset
            );
            assert_eq!(&stored.note[..], b"note");
        }
    }
}

/// Copies what a crash would leave. A file that gets another name meanwhile, as
/// one does that becomes the next segment, has it begin again.
fn copy(from: &Path, to: &Path) {
    while let Err(error) = try_copy(from, to) {
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        fs::remove_dir_all(to).unwrap();
    }
}

fn try_copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let mut entries = fs::read_dir(from)?.collect::<io::Result<Vec<_>>>()?;
    // In order, so that it is what a crash leaves of a log that still grows.
    entries.sort_by_key(|entry| entry.file_name());
    for entry in entries {
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            try_copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn state_of(dir: &Path) -> BTreeMap<EntityKey, Vec<u8>> {
    let view = View::open(&dir.join("view")).unwrap();
    let mut all = BTreeMap::new();
    view.load::<crate::view::ViewError>(|key, value| {
        if !matches!(key, EntityKey::Segment(_)) {
            all.insert(key, value.to_vec());
        }
        Ok(())
    })
    .unwrap();
    all
}

fn log_bytes(dir: &Path) -> u64 {
    let files = fs::read_dir(dir.join("log")).unwrap();
    files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum()
}

/// Random appends to topics that are kept differently, turns of retention, and
/// crashes after which the log alone must do.
fn run(seed: u64, steps: usize) {
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("data");
    let mut under = Under::open(&dir);
    let kept = [
        ("forever", 1, Retention::default()),
        (
            "some",
            2,
            Retention {
                events: 200,
                ..Retention::default()
            },
        ),
        (
            "bytes",
            1,
            Retention {
                bytes: 30_000,
                ..Retention::default()
            },
        ),
    ];
    let mut sources = Vec::new();
    for (name, partitions, retention) in kept {
        let topic = under.create(name, partitions, retention);
        let partitions = (0..partitions).map(PartitionId);
        sources.extend(partitions.map(|partition| Source { topic, partition }));
    }
    let mut model: Model = sources.iter().map(|s| (*s, Vec::new())).collect();
    let mut crashes = 0;
    let mut highest_starts: BTreeMap<Source, Offset> = BTreeMap::new();
    for step in 0..steps {
        // What is kept for ever is rare, so that it is what is left of segments.
        let rare = random.random_ratio(1, 12);
        let source = if rare {
            sources[0]
        } else {
            *sources[1..].choose(&mut random).unwrap()
        };
        let count = random.random_range(1..20);
        let events: Vec<Bytes> = (0..count)
            .map(|_| {
                let mut bytes = vec![0; random.random_range(0..600)];
                random.fill(&mut bytes[..]);
                Bytes::from(bytes)
            })
            .collect();
        let of = model.get_mut(&source).unwrap();
        let first = under.append(source, events.clone());
        assert_eq!(first.0 as usize, of.len());
        of.extend(events);
        if random.random_ratio(1, 4) {
            under.turn();
        }
        if random.random_ratio(1, 60) {
            crashes += 1;
            let crashed = root.path().join(format!("crash-{step}"));
            copy(&dir.join("log"), &crashed.join("log"));
            let again = Under::open(&crashed);
            check(&again, &model, &format!("seed {seed}, crash at {step}"));
            again.close();
            fs::remove_dir_all(crashed).unwrap();
        }
        if random.random_ratio(1, 100) {
            under.close();
            under = Under::open(&dir);
        }
        for source in &sources {
            let start = under.read_start(*source);
            let before = highest_starts.insert(*source, start);
            assert!(
                before.is_none_or(|before| before <= start),
                "a start went back"
            );
        }
    }
    under.settle();
    check(&under, &model, &format!("seed {seed}, at the end"));
    let written = under.keeping.reader.durable_end().0;
    under.close();

    // The state is the same without the view.
    let without = root.path().join("without");
    copy(&dir.join("log"), &without.join("log"));
    let rebuilt = Under::open(&without);
    check(&rebuilt, &model, &format!("seed {seed}, rebuilt"));
    rebuilt.close();
    Under::open(&dir).close();
    assert_eq!(state_of(&dir), state_of(&without), "seed {seed}");

    println!(
        "{} bytes written, {} in the log, {crashes} crashes",
        written,
        log_bytes(&dir)
    );
    assert!(log_bytes(&dir) < written / 2, "space comes back");
}

impl Under {
    fn read_start(&self, source: Source) -> Offset {
        let catalog = self.proposals.catalog();
        let topic = catalog.topic_by_id(source.topic).unwrap();
        topic.partition(source.partition).unwrap().start_offset()
    }
}

#[test]
fn what_is_kept_survives_crashes_without_the_view_and_space_comes_back() {
    let runs = std::env::var("SLUICE_RETENTION_SEEDS").map_or(1, |n| n.parse().unwrap());
    let first = std::env::var("SLUICE_RETENTION_SEED").map_or(1, |n| n.parse().unwrap());
    for seed in first..first + runs {
        run(seed, 300);
    }
}

/// What a topic or a group is, only its segment says until a checkpoint is in the
/// log: it stays until then, whatever else was in it.
#[test]
fn no_segment_goes_before_the_log_says_without_it_what_the_state_is() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("data");
    // None comes by itself.
    let config = CommitConfig {
        log_checkpoint_bytes: 1 << 40,
        ..small_config()
    };
    let mut under = Under::open_with(&dir, config);
    let few = Retention {
        events: 10,
        ..Retention::default()
    };
    let source = Source {
        topic: under.create("few", 1, few),
        partition: PartitionId(0),
    };
    let mut model: Model = BTreeMap::from([(source, Vec::new())]);
    for turn in 0..200 {
        // Never idle, so that no checkpoint comes for that reason.
        let events = vec![Bytes::from(vec![turn as u8; 2000]); 10];
        under.append(source, events.clone());
        model.get_mut(&source).unwrap().extend(events);
        under.turn();
        let crashed = root.path().join(format!("crash-{turn}"));
        copy(&dir.join("log"), &crashed.join("log"));
        let again = Under::open(&crashed);
        check(&again, &model, &format!("crash after turn {turn}"));
        again.close();
        fs::remove_dir_all(crashed).unwrap();
        if under.keeping.status.lock().unwrap().reclaimed_bytes > 4 * SEGMENT_BYTES {
            under.close();
            return;
        }
    }
    panic!("no space has come back");
}
