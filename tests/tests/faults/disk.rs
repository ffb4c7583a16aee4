//! A disk that fails once: the Nth write or sync, N from 1 to 50, by turns in both ways
//! of writing; with `SLUICE_FAULTS_ALL=1` each in both. What was acked is there, nothing
//! is acked afterwards, and nothing tries again.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    sync::{Arc, Mutex},
};

use sluice_proto::pb::{
    Channel, CreateTopicRequest, DescribeBrokerRequest, GroupConfig, TopicConfig,
};
use sluice_tests::{
    api::{Api, Refusal, event, expect, is_unknown, places},
    broker::{TestBroker, program},
    history::Place,
    member::{Member, ack, join},
};
use tokio::{
    sync::Semaphore,
    task::{JoinSet, block_in_place},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const OPERATIONS: u32 = 50;
/// Brokers at a time.
const AT_ONCE: usize = 3;
const TOPICS: [(&str, Channel); 2] = [("t", Channel::Fsync), ("b", Channel::Buffered)];
/// More than it takes until the disk fails.
const EVENTS_MAX: usize = 300;

/// What became of the events that were published.
#[derive(Debug, Default)]
struct Published {
    acked: Vec<(String, Place)>,
    /// Of unknown outcome.
    unknown: BTreeSet<String>,
}

/// What the broker says of the operations of its disk: the number, which, and whether
/// it fails.
pub(super) fn operations(log: &str) -> Vec<(u32, String, bool)> {
    let lines = log.lines().filter_map(|line| {
        let (number, operation) = line.strip_prefix("fault disk ")?.split_once(' ')?;
        let name = operation.split(':').next()?.to_owned();
        Some((
            number.parse().ok()?,
            name,
            operation.ends_with(": it fails"),
        ))
    });
    lines.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failed_write_or_sync_ends_all_writing_and_no_reading() {
    block_in_place(sluice_tests::broker::program_with_fault_points);
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut runs = JoinSet::new();
    for number in 1..=OPERATIONS {
        // In buffered writing every other operation is a sync.
        let alternating = ["auto", "buffered"][number as usize / 2 % 2];
        for writer in ["auto", "buffered"] {
            if writer != alternating && std::env::var_os("SLUICE_FAULTS_ALL").is_none() {
                continue;
            }
            let permits = permits.clone();
            runs.spawn(async move {
                let _permit = permits.acquire_owned().await.unwrap();
                println!("{writer}: operation {number} fails");
                (writer, fail(writer, number).await)
            });
        }
    }
    let mut failed: BTreeMap<(&str, String), u32> = BTreeMap::new();
    while let Some(run) = runs.join_next().await {
        let (writer, operation) = run.expect("a run's panic is above, with its broker's log");
        *failed.entry((writer, operation)).or_default() += 1;
    }
    println!("failed: {failed:#?}");
    // So that no kind of operation is left out unseen.
    for which in [
        ("buffered", "write"),
        ("buffered", "sync"),
        ("auto", "sync-folder"),
    ] {
        assert!(
            failed.keys().any(|(w, o)| (*w, o.as_str()) == which),
            "no {which:?}"
        );
    }
}

/// Runs a broker whose operation of this number fails. Returns which that was.
async fn fail(writer: &str, number: u32) -> String {
    let args = [
        &format!("--log-writer={writer}"),
        "--limit=segment_bytes=16793600",
    ];
    let mut broker = block_in_place(|| TestBroker::start_with_fault_points(&args));
    let api = Api::connect(broker.url()).await;
    let published = Arc::new(Mutex::new(Published::default()));
    for (topic, channel) in TOPICS {
        let request = CreateTopicRequest {
            topic: topic.to_owned(),
            config: Some(TopicConfig {
                channel: channel.into(),
                ..TopicConfig::default()
            }),
        };
        api.admin.clone().create_topic(request).await.unwrap();
        assert!(publish(&api, topic, &format!("{topic}-first"), &published).await);
    }
    api.create_group("t", "g", GroupConfig::default()).await;

    broker.set_fault("SLUICE_FAULT_DISK", &number.to_string());
    if block_in_place(|| broker.try_restart()) {
        until_it_fails(&broker, &published).await;
    } else {
        assert!(broker.log().contains("os error 5"), "it says why");
    }
    let operations = operations(&broker.log());
    let at = operations.iter().position(|(.., fails)| *fails);
    let at = at.expect("an operation has failed");
    let later = &operations[at + 1..];
    for (number, operation, _) in later {
        let again = operations[at].1.starts_with("sync") && operation.starts_with("sync");
        assert!(!again, "operation {number} is a sync after one that failed");
    }
    // Of another block that was under way: its write, and its sync.
    assert!(later.len() <= 2, "{later:?} after the one that failed");

    broker.set_fault("SLUICE_FAULT_DISK", "");
    block_in_place(|| broker.restart());
    let published = Arc::into_inner(published).unwrap().into_inner().unwrap();
    let api = Api::connect(broker.url()).await;
    is_there(&api, &published).await;
    block_in_place(|| {
        assert!(broker.stop().success());
        let mut check = Command::new(program());
        let check = check.arg("check").arg(broker.data_dir()).output().unwrap();
        assert!(check.status.success(), "{check:?}");
    });
    operations[at].1.clone()
}

/// False when it is refused.
async fn publish(api: &Api, topic: &str, id: &str, published: &Mutex<Published>) -> bool {
    let events = [event(id)];
    match api.publish(topic, events.to_vec()).await {
        Ok(ranges) => {
            let place = places(&events, 1, &ranges).remove(0);
            published.lock().unwrap().acked.push((id.to_owned(), place));
            true
        }
        Err(status) => {
            assert!(is_unknown(&status), "{status:?}");
            published.lock().unwrap().unknown.insert(id.to_owned());
            false
        }
    }
}

async fn until_it_fails(broker: &TestBroker, published: &Arc<Mutex<Published>>) {
    let api = Api::connect(broker.url()).await;
    let mut publishers = JoinSet::new();
    for (name, topic) in [("one", "t"), ("two", "t"), ("three", "b")] {
        let (api, published) = (api.clone(), published.clone());
        publishers.spawn(async move {
            for n in 0..EVENTS_MAX {
                if !publish(&api, topic, &format!("{name}-{n}"), &published).await {
                    return;
                }
            }
            panic!("{EVENTS_MAX} events are acked");
        });
    }
    let worker = api.clone();
    let worker = tokio::spawn(async move {
        let mut member = Member::join(&worker, join("t", "g", 1_000_000)).await?;
        loop {
            let delivery = member.delivery().await?;
            member.settle(vec![ack(delivery.lease.unwrap())]).await?;
        }
        #[allow(unreachable_code)]
        Ok::<(), tonic::Status>(())
    });
    while let Some(publisher) = publishers.join_next().await {
        publisher.unwrap();
    }
    worker.abort();

    let mut admin = api.admin.clone();
    let status = admin.describe_broker(DescribeBrokerRequest {}).await;
    let failure = status.unwrap().into_inner().log_failure;
    assert!(failure.contains("os error 5"), "{failure:?}");
    expect("the health service to tell", async {
        let mut health = HealthClient::new(api.channel.clone());
        let service = "sluice.v1.BrokerService".to_owned();
        let serving = HealthCheckRequest { service };
        while health
            .check(serving.clone())
            .await
            .unwrap()
            .into_inner()
            .status
            == 1
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    for n in 0..5 {
        let id = format!("late-{n}");
        let refused = api.publish("t", vec![event(&id)]).await.unwrap_err();
        assert_eq!(Refusal::from(&refused).reason, "LOG_FAILED");
        published.lock().unwrap().unknown.insert(id);
    }
    // Reading goes on, of what was acked.
    for (topic, channel) in TOPICS {
        let read = api.read_all(topic).await;
        let read: BTreeSet<String> = read.into_iter().map(|(event, _)| event.id).collect();
        let published = published.lock().unwrap();
        if channel == Channel::Fsync {
            // Nobody sees what may not be durable.
            let unknown: Vec<_> = read.intersection(&published.unknown).collect();
            assert!(unknown.is_empty(), "{unknown:?} can be read");
        }
        for (id, _) in published
            .acked
            .iter()
            .filter(|(_, place)| place.topic == topic)
        {
            assert!(read.contains(id), "{id} cannot be read");
        }
    }
}

/// Every acked event of an fsync topic is at its place, and none is there twice.
/// Of a buffered topic, a sync that fails takes what was acked as written, at the end.
async fn is_there(api: &Api, published: &Published) {
    for (topic, channel) in TOPICS {
        let read = api.read_all(topic).await;
        let ids: BTreeSet<&String> = read.iter().map(|(event, _)| &event.id).collect();
        assert_eq!(ids.len(), read.len(), "an event is there twice");
        let by_place: BTreeMap<&Place, &String> = read
            .iter()
            .map(|(event, place)| (place, &event.id))
            .collect();
        let acked = published
            .acked
            .iter()
            .filter(|(_, place)| place.topic == topic);
        for (id, place) in acked {
            let found = by_place.get(place).copied();
            let may_be_lost = channel == Channel::Buffered && found.is_none();
            assert!(
                may_be_lost || found == Some(id),
                "{id} is not at {place:?}: {found:?}"
            );
        }
        for id in ids {
            let known = published.unknown.contains(id)
                || published.acked.iter().any(|(acked, _)| acked == id);
            assert!(known, "nobody has published {id}");
        }
    }
}
