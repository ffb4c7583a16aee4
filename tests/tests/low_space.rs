//! A disk that runs full: publishing is refused in time, everything else goes
//! on, and publishing too when there is room again, without a restart. When what is
//! reserved is used up as well, whatever needs room waits for it.
//!
//! `cargo test -p sluice-tests --features root --test low_space`, as root.

#![allow(clippy::unwrap_used)]

use std::{
    fs::{self, File},
    path::Path,
    time::Duration,
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use sluice_proto::pb::{
    CreateGroupRequest, CreateTopicRequest, DescribeBrokerRequest, Event, GroupConfig, Reject,
    Settlement, settlement::Action,
};
use sluice_tests::{
    api::{Api, Refusal, event, expect},
    broker::TestBroker,
    member::{Member, ack, join},
    mount::Mount,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

const MIB: u64 = 1 << 20;
const RESERVE: u64 = 48 * MIB;
/// How often the disk runs full.
const TIMES: usize = 20;

const ARGS: &[&str] = &[
    "--limit=segment_bytes=16793600",
    "--limit=disk_reserve_bytes=50331648",
    "--limit=spare_segments_max=0",
    "--limit=commit_queue_bytes=1048576",
    "--limit=tail_cache_bytes=0",
];

fn large(id: &str) -> Event {
    Event {
        data_content_type: "application/octet-stream".to_owned(),
        data: vec![b'x'; 512 << 10].into(),
        ..event(id)
    }
}

fn free_bytes(path: &Path) -> u64 {
    let stat = statvfs(path).unwrap();
    stat.f_bavail * stat.f_frsize
}

fn assert_low_space(status: &Status) {
    let refusal = Refusal::from(status);
    assert_eq!(refusal.code, Code::ResourceExhausted, "{refusal:?}");
    assert_eq!(refusal.reason, "LOW_SPACE", "{refusal:?}");
    let retry = status.get_details_retry_info().unwrap().retry_delay;
    assert!(retry.is_some_and(|after| !after.is_zero()));
}

struct Run {
    api: Api,
    member: Member,
    published: Vec<String>,
}

impl Run {
    async fn start(broker: &TestBroker) -> Self {
        let api = Api::connect(broker.url()).await;
        api.create_topic("t", 1).await;
        api.create_group("t", "g", GroupConfig::default()).await;
        let member = Member::join(&api, join("t", "g", 1_000_000)).await.unwrap();
        Self {
            api,
            member,
            published: Vec::new(),
        }
    }

    async fn publish(&mut self, make: fn(&str) -> Event) -> Result<(), Status> {
        let id = format!("e{:06}", self.published.len());
        self.api.publish("t", vec![make(&id)]).await?;
        self.published.push(id);
        Ok(())
    }

    /// Publishes until it is refused, as it should be.
    async fn publish_until_refused(&mut self, make: fn(&str) -> Event) {
        let refused = expect("publishing to be refused", async {
            loop {
                if let Err(status) = self.publish(make).await {
                    return status;
                }
            }
        });
        assert_low_space(&refused.await);
    }

    /// What has to go on although publishing does not.
    async fn the_rest_goes_on(&mut self) {
        assert_eq!(self.api.ids("t").await, self.published);
        let delivery = expect("a delivery", self.member.delivery()).await.unwrap();
        let settled = self.member.settle(vec![ack(delivery.lease.unwrap())]);
        let failures = expect("an ack", settled).await.unwrap();
        assert!(failures.is_empty(), "{failures:?}");
        let mut admin = self.api.admin.clone();
        let status = admin.describe_broker(DescribeBrokerRequest {}).await;
        let status = status.unwrap().into_inner();
        assert_eq!(status.log_failure, "");
        self.what_is_there_is_made_again_and_nothing_new().await;
        assert_ne!(status.low_space, "");
    }

    /// What was on its way to the full disk is answered, and so is what comes after.
    async fn the_rest_goes_on_with_room(&mut self) {
        let answer = expect("what waited for room", self.member.settled()).await;
        assert_eq!(answer.unwrap(), []);
        let delivery = expect("a delivery", self.member.delivery()).await.unwrap();
        let settled = self.member.settle(vec![ack(delivery.lease.unwrap())]);
        let failures = expect("an ack", settled).await.unwrap();
        assert!(failures.is_empty(), "{failures:?}");
    }

    /// A worker that makes sure of its topic and group at its start can start.
    async fn what_is_there_is_made_again_and_nothing_new(&self) {
        self.api.create_topic("t", 1).await;
        self.api
            .create_group("t", "g", GroupConfig::default())
            .await;
        let mut admin = self.api.admin.clone();
        let topic = CreateTopicRequest {
            topic: "new".to_owned(),
            ..CreateTopicRequest::default()
        };
        assert_low_space(&admin.create_topic(topic).await.unwrap_err());
        let group = CreateGroupRequest {
            topic: "t".to_owned(),
            group: "new".to_owned(),
            ..CreateGroupRequest::default()
        };
        assert_low_space(&admin.create_group(group).await.unwrap_err());
    }

    async fn publishing_resumes(&mut self) {
        expect("publishing to go on", async {
            while let Err(status) = self.publish(event).await {
                assert_low_space(&status);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

/// Takes room until so much is left.
fn fill(path: &Path, left: u64) {
    let ballast = File::create(path).unwrap();
    let length = free_bytes(path).checked_sub(left).unwrap();
    fallocate(&ballast, FallocateFlags::empty(), 0, length).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_publishing_and_heals() {
    let mount = Mount::tmpfs("size=320m");
    let broker = TestBroker::start_over(&mount.path().join("data"), ARGS);
    let mut run = Run::start(&broker).await;
    let ballast = mount.path().join("ballast");
    // Filled by the events themselves first.
    fill(&ballast, RESERVE + 60 * MIB);
    run.publish_until_refused(large).await;
    assert!(run.published.len() > 30, "{} events", run.published.len());
    run.the_rest_goes_on().await;
    for time in 1..=TIMES {
        fs::remove_file(&ballast).unwrap();
        run.publishing_resumes().await;
        fill(&ballast, RESERVE - 16 * MIB);
        run.publish_until_refused(event).await;
        run.the_rest_goes_on().await;
        println!("full and freed: {time} times");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_no_more_files_refuses_publishing_and_heals() {
    let mount = Mount::tmpfs("size=256m,nr_inodes=400");
    let broker = TestBroker::start_over(&mount.path().join("data"), ARGS);
    let mut run = Run::start(&broker).await;
    run.publishing_resumes().await;
    let files = mount.path().join("files");
    for time in 1..=TIMES {
        fs::create_dir(&files).unwrap();
        let made =
            (0..400).take_while(|number| File::create(files.join(format!("{number}"))).is_ok());
        assert!(made.count() < 400, "the file system counts its files");
        run.publish_until_refused(event).await;
        run.the_rest_goes_on().await;
        fs::remove_dir_all(&files).unwrap();
        run.publishing_resumes().await;
        println!("full and freed: {time} times");
    }
}

const NO_ROOM: &str = "there is no room for the log's next segment";

/// Rejects large events, each of which is written again as a dead letter, until the
/// reserve is used up and the log waits for room. Returns how many were rejected.
async fn use_up_the_reserve(broker: &TestBroker, run: &mut Run) -> usize {
    let waits_before = broker.log().matches(NO_ROOM).count();
    for rejected in 0.. {
        let delivery = expect("a delivery", run.member.delivery()).await.unwrap();
        let reject = Settlement {
            lease: delivery.lease,
            action: Some(Action::Reject(Reject {
                reason: "no".to_owned(),
            })),
        };
        let settled = run.member.settle(vec![reject]);
        let waits = async {
            while broker.log().matches(NO_ROOM).count() == waits_before {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            failures = expect("a rejection", settled) => {
                let failures = failures.unwrap();
                assert!(failures.is_empty(), "{failures:?}");
            }
            () = waits => return rejected,
        }
    }
    unreachable!("the disk has an end")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_room_waits_when_the_reserve_is_used_up_and_goes_on() {
    let mount = Mount::tmpfs("size=320m");
    let data = mount.path().join("data");
    let args = [ARGS, &["--limit=ahead_bytes_per_second=0"]].concat();
    let mut broker = TestBroker::start_over(&data, &args);
    let mut run = Run::start(&broker).await;
    for _ in 0..120 {
        run.publish(large).await.unwrap();
    }
    let ballast = mount.path().join("ballast");
    let mut rejected = 0;
    for heals in [true, false] {
        fill(&ballast, 4 * MIB);
        run.publish_until_refused(event).await;
        rejected += use_up_the_reserve(&broker, &mut run).await;
        // One is on its way.
        rejected += 1;
        let mut admin = run.api.admin.clone();
        let status = admin.describe_broker(DescribeBrokerRequest {}).await;
        let status = status.unwrap().into_inner();
        assert_eq!(status.log_failure, "");
        assert_ne!(status.low_space, "");
        assert_eq!(run.api.ids("t").await, run.published);
        if !heals {
            break;
        }
        fs::remove_file(&ballast).unwrap();
        run.publishing_resumes().await;
        run.the_rest_goes_on_with_room().await;
        let dead = run.api.describe_group("t", "g").await.dead_letter_count;
        assert_eq!(dead, rejected as i64);
    }
    // A broker that waits for room can be stopped, and loses nothing that was acked.
    assert!(tokio::task::block_in_place(|| broker.stop()).success());
    fs::remove_file(&ballast).unwrap();
    tokio::task::block_in_place(|| broker.restart());
    let api = Api::connect(broker.url()).await;
    assert_eq!(api.ids("t").await, run.published);
    let dead = api.describe_group("t", "g").await.dead_letter_count;
    // What was on its way had no answer.
    assert_eq!(dead, rejected as i64 - 1);
    api.publish("t", vec![event("after")]).await.unwrap();
}
