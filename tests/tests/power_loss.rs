//! The power fails, again and again, while events are published and segments are
//! made and recycled: what was acked is there, once, where it was.
//!
//! `cargo test -p sluice-tests --features root,fault-points --test power_loss`, as
//! root: it mounts ext4 over a loop device and shuts it down as a power loss does.
//! Where that is not to be had it fails. `SLUICE_POWER_CYCLES` says how often the
//! power fails, `SLUICE_SEED` replays when.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{Rng, RngExt};
use sluice_proto::pb::{CreateTopicRequest, DescribeTopicRequest, Event, Retention, TopicConfig};
use sluice_tests::{
    api::{Api, event, expect},
    broker::TestBroker,
    mount::PowerCut,
    seed::seeded,
};
use tokio::task::{JoinSet, block_in_place};

/// How often the power fails, unless `SLUICE_POWER_CYCLES` says otherwise.
const CYCLES: usize = 4;
/// Room for segments of 16 MiB, of which the topics keep two or three.
const DISK_MIB: u64 = 320;
const ARGS: &[&str] = &[
    "--limit=segment_bytes=16793600",
    "--limit=checkpoint_bytes=1048576",
    "--limit=log_checkpoint_bytes=4194304",
    "--limit=retention_interval_ms=50",
    "--limit=spare_segments_max=2",
    "--limit=disk_reserve_bytes=0",
    "--limit=tail_cache_bytes=0",
];

/// What the broker has acked.
#[derive(Clone, Debug, Default)]
struct Acked(Arc<Mutex<AckedUntilCut>>);

#[derive(Debug, Default)]
struct AckedUntilCut {
    /// The ids, by topic and offset.
    ids: BTreeMap<(&'static str, i64), String>,
    /// What is acked now was written through the page cache after the power was cut:
    /// it says nothing, and on a real machine would not come. ext4 that is shut down
    /// answers some syncs of such writes with success although nothing was kept:
    /// those into blocks that were only allocated, whose mark as written it can no
    /// longer put into its journal. Of direct writes it tells the error.
    proves_nothing: bool,
}

/// A topic whose events all stay, and one that keeps a few of many large ones, so
/// that segments come and go.
const KEPT: &str = "kept";
const PASSING: &str = "passing";
const PASSING_BYTES: i64 = 24 << 20;
/// So many are less than that, and no more than what was under way goes besides.
const PASSING_EVENTS: i64 = 50;
const PASSING_EVENT_BYTES: usize = 400_000;

impl Acked {
    /// Publishes one event after the other until the broker is gone.
    async fn publish(self, api: Api, topic: &'static str, publisher: String, bytes: usize) {
        for number in 0.. {
            let id = format!("{publisher}-{number}");
            let event = Event {
                data_content_type: "application/octet-stream".to_owned(),
                data: vec![b'x'; bytes].into(),
                ..event(&id)
            };
            let Ok(ranges) = api.publish(topic, vec![event]).await else {
                return;
            };
            let mut acked = self.0.lock().unwrap();
            if acked.proves_nothing {
                return;
            }
            let before = acked.ids.insert((topic, ranges[0].first_offset), id);
            assert_eq!(before, None, "two events were acked at one place");
        }
    }

    /// What of it is not there, but for what its topic had not to keep.
    async fn lost(&self, api: &Api) -> Vec<String> {
        let mut lost = Vec::new();
        for topic in [KEPT, PASSING] {
            let there = match api.try_read_all(topic).await {
                Ok(there) => there,
                Err(status) => return vec![format!("{topic} cannot be read: {status}")],
            };
            let there: BTreeMap<i64, String> = there
                .into_iter()
                .map(|(event, place)| (place.offset, event.id))
                .collect();
            // Also while it is read events go.
            let start = start_offset(api, topic).await;
            let acked = self.0.lock().unwrap();
            let of_topic = || acked.ids.range((topic, 0)..=(topic, i64::MAX));
            for ((_, offset), id) in of_topic().filter(|((_, offset), _)| *offset >= start) {
                if there.get(offset) != Some(id) {
                    lost.push(format!("{id} at {topic}@{offset}"));
                }
            }
            let newest = of_topic().next_back().map_or(0, |((_, offset), _)| *offset);
            let may_go = match topic {
                KEPT => 0,
                _ => (newest - PASSING_EVENTS).max(0),
            };
            if start > may_go {
                lost.push(format!("{topic} begins at {start}, with {newest} acked"));
            }
            let distinct: BTreeSet<_> = there.values().collect();
            if distinct.len() < there.len() {
                lost.push(format!("{topic} has an event twice"));
            }
        }
        lost
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().ids.len()
    }

    fn prove_nothing(&self, from_now_on: bool) {
        self.0.lock().unwrap().proves_nothing = from_now_on;
    }
}

async fn start_offset(api: &Api, topic: &str) -> i64 {
    let request = DescribeTopicRequest {
        topic: topic.to_owned(),
    };
    let described = api.admin.clone().describe_topic(request).await.unwrap();
    described.into_inner().partitions[0].start_offset
}

/// Names of segments, and whether each is in a file that was one before.
type Segments = BTreeMap<String, bool>;

fn one_is_new(before: &Segments, now: &Segments) -> bool {
    now.keys().any(|name| !before.contains_key(name))
}

fn one_is_recycled(before: &Segments, now: &Segments) -> bool {
    let mut new = now.iter().filter(|(name, _)| !before.contains_key(*name));
    new.any(|(_, used)| *used)
}

fn segments(data: &Path) -> Segments {
    let mut segments = Segments::new();
    let Ok(entries) = fs::read_dir(data.join("log")) else {
        return segments;
    };
    for entry in entries.flatten() {
        let mut header = [0; 80];
        let read = File::open(entry.path()).and_then(|mut file| file.read_exact(&mut header));
        if read.is_ok() && header.starts_with(b"SLUICEsg") {
            // Flags, as in broker/src/log/mod.rs.
            let name = entry.file_name().to_string_lossy().into_owned();
            segments.insert(name, header[76] & 1 == 1);
        }
    }
    segments
}

struct Run {
    disk: PowerCut,
    acked: Acked,
    /// All segments that there were.
    segments: Segments,
    switches: Vec<&'static str>,
    cycle: usize,
}

impl Run {
    /// On an empty disk, with a broker that has faults.
    async fn start(writer: &str, faults: &[&'static str]) -> Self {
        let run = Self {
            disk: PowerCut::new(DISK_MIB),
            acked: Acked::default(),
            segments: Segments::new(),
            switches: [&["other_boot"], faults].concat(),
            cycle: 0,
        };
        let mut broker = run.broker(writer);
        let api = Api::connect(broker.url()).await;
        api.create_topic(KEPT, 1).await;
        let passing = CreateTopicRequest {
            topic: PASSING.to_owned(),
            config: Some(TopicConfig {
                partitions: 1,
                retention: Some(Retention {
                    max_bytes: PASSING_BYTES,
                    ..Retention::default()
                }),
                ..TopicConfig::default()
            }),
        };
        api.admin.clone().create_topic(passing).await.unwrap();
        drop(api);
        assert!(block_in_place(|| broker.stop()).success());
        // What the faulty broker has not synced is there all the same.
        rustix::fs::sync();
        run
    }

    fn broker(&self, writer: &str) -> TestBroker {
        self.try_broker(writer).unwrap()
    }

    fn try_broker(&self, writer: &str) -> Result<TestBroker, String> {
        let writer = format!("--log-writer={writer}");
        let args = [&[&writer[..]], ARGS].concat();
        let data = self.disk.path().join("data");
        let started =
            block_in_place(|| TestBroker::try_start_over_with_faults(&data, &args, &self.switches));
        started.map_err(|(status, says)| format!("{status}: {says}"))
    }

    /// Publishes until `enough`, which is given the segments there were before and
    /// those there are, and some time more; then the power fails. What was lost.
    async fn cycle(
        &mut self,
        writer: &str,
        enough: impl Fn(&Segments, &Segments) -> bool,
        random: &mut impl Rng,
    ) -> Vec<String> {
        self.cycle += 1;
        self.acked.prove_nothing(false);
        let data = self.disk.path().join("data");
        let mut broker = self.broker(writer);
        let mut publishers = JoinSet::new();
        for (number, (topic, bytes)) in [(KEPT, 300), (KEPT, 9000), (PASSING, PASSING_EVENT_BYTES)]
            .into_iter()
            .enumerate()
        {
            let api = Api::connect(broker.url()).await;
            let name = format!("{}-{number}", self.cycle);
            publishers.spawn(self.acked.clone().publish(api, topic, name, bytes));
        }
        let before = segments(&data);
        expect("segments that are enough", async {
            while !enough(&before, &segments(&data)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        let more = Duration::from_micros(random.random_range(0..200_000));
        tokio::time::sleep(more).await;
        self.segments.extend(segments(&data));

        self.acked.prove_nothing(writer == "buffered");
        self.disk.cut();
        block_in_place(|| broker.kill());
        while let Some(ended) = publishers.join_next().await {
            ended.unwrap();
        }
        drop(broker);
        block_in_place(|| self.disk.power_on());

        let broker = match self.try_broker(writer) {
            Ok(broker) => broker,
            Err(says) => return vec![format!("everything, as it does not start: {says}")],
        };
        self.segments.extend(segments(&data));
        let api = Api::connect(broker.url()).await;
        self.acked.lost(&api).await
    }
}

fn cycles() -> usize {
    match std::env::var("SLUICE_POWER_CYCLES") {
        Ok(cycles) => cycles.parse().expect("SLUICE_POWER_CYCLES is a number"),
        Err(_) => CYCLES,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acked_survives_the_loss_of_power() {
    let mut random = seeded();
    let cycles = cycles();
    let mut run = Run::start("auto", &[]).await;
    for cycle in 1..=cycles {
        let writer = ["direct", "buffered"][cycle % 2];
        let enough = if cycle < cycles {
            one_is_new
        } else {
            one_is_recycled
        };
        let lost = run.cycle(writer, enough, &mut random).await;
        assert!(lost.is_empty(), "cycle {cycle}: lost {lost:?}");
        println!("power lost {cycle} times: {} acked", run.acked.count());
    }
    let made = run.segments.len();
    let recycled = run.segments.values().filter(|used| **used).count();
    println!(
        "power lost {cycles} times, acked {}, lost 0, segments {made}, of them recycled {recycled}",
        run.acked.count()
    );
    assert!(made > cycles, "a segment was made before each");
    assert!(recycled > 0, "segments were recycled");
}

/// The test above would notice a broker that acks before it has synced.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_acks_before_it_has_synced_is_found_out() {
    let mut random = seeded();
    let mut run = Run::start("buffered", &["ack_before_sync"]).await;
    for cycle in 1..=CYCLES {
        let lost = run.cycle("buffered", one_is_new, &mut random).await;
        if let Some(first) = lost.first() {
            println!("cycle {cycle}: {} lost, first: {first}", lost.len());
            return;
        }
    }
    panic!("it has lost nothing");
}
