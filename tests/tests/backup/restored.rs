//! A backup under load, and a broker on it beside the one that goes on.

use std::{collections::HashMap, path::Path, time::Duration};

use sluice_proto::pb::{
    Channel, CreateTopicRequest, DeleteTopicRequest, Event, GroupConfig, LeaseToken,
    ListDeadLettersRequest, OpenProducerRequest, ProducerSequence, PublishRequest, PublishResponse,
    ReadRequest, ReadStart, Reject, Settlement, TopicConfig, read_start::At, settlement::Action,
};
use sluice_tests::{
    api::{Api, Refusal, event, expect},
    broker::TestBroker,
    history::Place,
    member::{Member, ack, join},
};
use tonic::Code;

use super::{
    ARGS, begin_backup, describe, ended,
    load::{Answered, Load},
    on_folder, until_backup,
};

/// Acked events before the backup begins.
const EVENTS_BEFORE: usize = 1500;

struct Session {
    id: i64,
    epoch: i64,
}

impl Session {
    async fn open(api: &Api, name: &str) -> Self {
        let name = name.to_owned();
        let mut broker = api.broker.clone();
        let opened = broker.open_producer(OpenProducerRequest { name }).await;
        let opened = opened.unwrap().into_inner();
        Self {
            id: opened.producer_id,
            epoch: opened.producer_epoch,
        }
    }

    async fn publish(&self, api: &Api, sequence: i64) -> Result<PublishResponse, Refusal> {
        let request = PublishRequest {
            topic: "s".to_owned(),
            events: vec![event(&format!("s{sequence}"))],
            partition: None,
            producer: Some(ProducerSequence {
                producer_id: self.id,
                producer_epoch: self.epoch,
                sequence,
            }),
        };
        let published = api.broker.clone().publish(request).await;
        let published = published.map_err(|status| Refusal::from(&status))?;
        Ok(published.into_inner())
    }
}

async fn make_topics(api: &Api) {
    for (topic, partitions, channel) in [
        ("t", 3, Channel::Fsync),
        ("b", 1, Channel::Buffered),
        ("s", 1, Channel::Fsync),
        ("gone", 1, Channel::Fsync),
        ("memory", 1, Channel::Memory),
    ] {
        let request = CreateTopicRequest {
            topic: topic.to_owned(),
            config: Some(TopicConfig {
                partitions,
                channel: channel.into(),
                ..TopicConfig::default()
            }),
        };
        api.admin.clone().create_topic(request).await.unwrap();
    }
    for (topic, group) in [("t", "w"), ("s", "g")] {
        let config = GroupConfig {
            // What a worker had as the backup was begun waits for it that long.
            lease_duration: Some(Duration::from_secs(2).try_into().unwrap()),
            ..GroupConfig::default()
        };
        api.create_group(topic, group, config).await;
    }
    api.publish("memory", vec![event("m")]).await.unwrap();
    // More than a segment, of which nothing stays.
    for n in 0..40 {
        let large = Event {
            data_content_type: "application/octet-stream".to_owned(),
            data: vec![n; 500_000].into(),
            ..event("gone")
        };
        api.publish("gone", vec![large]).await.unwrap();
    }
}

/// Of the group `g`: one event acked, one rejected.
async fn settle_two(api: &Api) {
    let events = ["acked", "rejected", "left"].map(event).to_vec();
    api.publish("s", events).await.unwrap();
    let mut member = Member::join(api, join("s", "g", 2)).await.unwrap();
    let mut leases = Vec::new();
    for _ in 0..2 {
        leases.push(member.delivery().await.unwrap().lease);
    }
    let rejected = Settlement {
        lease: leases[1],
        action: Some(Action::Reject(Reject {
            reason: "no text".to_owned(),
        })),
    };
    let settled = member.settle(vec![ack(leases[0].unwrap()), rejected]).await;
    assert!(settled.unwrap().is_empty());
    member.leave().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_has_all_that_was_acked_before_it_and_goes_its_own_way() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("copy");
    let broker = TestBroker::start_with(ARGS);
    let api = Api::connect(broker.url()).await;
    make_topics(&api).await;
    settle_two(&api).await;
    let session = Session::open(&api, "named").await;
    let first = session.publish(&api, 1).await.unwrap();
    let load = Load::start(&api);
    expect("events", async {
        while load.so_far().published.len() < EVENTS_BEFORE {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;

    let before = load.so_far();
    let mut copying = begin_backup(&broker, &dir, 24 << 20);
    until_backup(&api, |backup| backup.is_some()).await;
    // A segment that nobody needs any more, while it is copied.
    let topic = "gone".to_owned();
    let deletion = DeleteTopicRequest { topic };
    api.admin.clone().delete_topic(deletion).await.unwrap();
    assert!(copying.try_wait().unwrap().is_none(), "it is on its way");
    let copied = ended(copying);
    assert!(copied.status.success(), "{copied:?}");
    until_backup(&api, |backup| backup.is_none()).await;
    expect("the space of the deleted topic", async {
        while describe(&api).await.reclaimed_bytes == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let after = load.stop().await;
    assert!(after.published.len() > before.published.len());

    let check = on_folder("check", &dir);
    assert!(check.status.success(), "{check:?}");
    let mut copy = TestBroker::start_over(&dir, ARGS);
    assert!(!dir.join("BACKUP").exists(), "it is a broker's folder now");
    let of_copy = Api::connect(copy.url()).await;
    events_are_there(&api, &of_copy, &before).await;
    groups_are_where_they_were(&of_copy, &before).await;
    sessions_go_on(&api, &of_copy, &session, &first).await;
    nothing_is_taken_for_the_others(&api, &of_copy).await;

    // It is a log like any other from then on.
    let epoch = describe(&of_copy).await.log_epoch;
    assert!(copy.stop().success());
    assert!(on_folder("check", &dir).status.success());
    copy.restart();
    let of_copy = Api::connect(copy.url()).await;
    assert_eq!(describe(&of_copy).await.log_epoch, epoch + 1);
    acked_events_are_there(&of_copy, &before).await;
}

/// All that was acked before is at its place, and there is nothing that the first
/// broker does not have there.
async fn events_are_there(api: &Api, of_copy: &Api, before: &Answered) {
    for topic in ["t", "b"] {
        let original = by_place(api, topic).await;
        for (place, id) in &by_place(of_copy, topic).await {
            assert_eq!(
                original.get(place),
                Some(id),
                "{place:?} is of the copy alone"
            );
        }
    }
    acked_events_are_there(of_copy, before).await;
    assert!(of_copy.ids("memory").await.is_empty());
}

async fn acked_events_are_there(of_copy: &Api, before: &Answered) {
    for topic in ["t", "b"] {
        let has = by_place(of_copy, topic).await;
        let acked = before.published.iter();
        for (id, place) in acked.filter(|(_, place)| place.topic == topic) {
            assert_eq!(has.get(place), Some(id), "{place:?} is missing");
        }
    }
}

async fn by_place(api: &Api, topic: &str) -> HashMap<Place, String> {
    let all = api.read_all(topic).await.into_iter();
    all.map(|(event, place)| (place, event.id)).collect()
}

async fn groups_are_where_they_were(of_copy: &Api, before: &Answered) {
    let group = of_copy.describe_group("s", "g").await;
    assert_eq!(group.dead_letter_count, 1);
    let request = ListDeadLettersRequest {
        topic: "s".to_owned(),
        group: "g".to_owned(),
        ..ListDeadLettersRequest::default()
    };
    let letters = of_copy.admin.clone().list_dead_letters(request).await;
    let letters = letters.unwrap().into_inner().dead_letters;
    let letter = letters[0].event.as_ref().unwrap();
    assert_eq!(letter.id, "rejected");
    // What was settled does not come again.
    let mut member = Member::join(of_copy, join("t", "w", i64::MAX))
        .await
        .unwrap();
    let _heartbeats = member.heartbeats();
    let lag = of_copy.describe_group("t", "w").await;
    let lag: i64 = lag.partitions.iter().map(|partition| partition.lag).sum();
    for _ in 0..lag {
        let delivery = expect("what is not settled", member.delivery())
            .await
            .unwrap();
        let place = (delivery.partition, delivery.offset);
        assert!(!before.settled.contains(&place), "{place:?} comes again");
        member
            .settle(vec![ack(delivery.lease.unwrap())])
            .await
            .unwrap();
    }
}

async fn sessions_go_on(api: &Api, of_copy: &Api, session: &Session, first: &PublishResponse) {
    let again = session.publish(of_copy, 1).await.unwrap();
    assert!(again.duplicate);
    assert_eq!(again.ranges, first.ranges);
    assert!(!session.publish(of_copy, 2).await.unwrap().duplicate);
    // Those that are opened later are of one broker or of the other.
    let (fresh, of_the_copy) = (
        Session::open(api, "").await,
        Session::open(of_copy, "").await,
    );
    assert_ne!(fresh.id, of_the_copy.id);
    let refused = fresh.publish(of_copy, 1).await.unwrap_err();
    assert_eq!(refused.reason, "UNKNOWN_PRODUCER");
    let (fresh, of_the_copy) = (
        Session::open(api, "named").await,
        Session::open(of_copy, "named").await,
    );
    assert_eq!(fresh.id, of_the_copy.id);
    let refused = fresh.publish(of_copy, 1).await.unwrap_err();
    assert_eq!(refused.reason, "PRODUCER_FENCED");
}

async fn nothing_is_taken_for_the_others(api: &Api, of_copy: &Api) {
    let (original, copy) = (describe(api).await, describe(of_copy).await);
    assert_ne!(original.log_id, copy.log_id);
    assert!(copy.log_epoch > original.log_epoch + 1_000_000);
    // A lease that the first one gave afterwards.
    let lease = lease_of_left(api).await;
    let its_own = lease_of_left(of_copy).await;
    assert!(its_own.epoch > lease.epoch);
    let mut member = Member::join(of_copy, join("s", "g", 0)).await.unwrap();
    let failures = member.settle(vec![ack(lease)]).await.unwrap();
    let reason = Refusal::from(failures[0].error.as_ref().unwrap()).reason;
    assert_eq!(reason, "LEASE_LOST");
    // A position in a buffered topic beyond what was copied.
    let position = api.publish("b", vec![event("later")]).await.unwrap()[0].clone();
    while of_copy.publish("b", vec![event("other")]).await.unwrap()[0].first_offset
        <= position.first_offset
    {}
    let request = ReadRequest {
        topic: "b".to_owned(),
        start: Some(ReadStart {
            at: Some(At::Offset(position.first_offset + 1)),
            epoch: position.epoch,
        }),
        ..ReadRequest::default()
    };
    let refused = of_copy.broker.clone().read(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    assert_eq!(Refusal::from(&refused).reason, "POSITION_LOST");
}

/// A lease for the one event that is left in the group `g`.
async fn lease_of_left(api: &Api) -> LeaseToken {
    let mut member = Member::join(api, join("s", "g", 1)).await.unwrap();
    let delivery = expect("the event", member.delivery()).await.unwrap();
    delivery.lease.unwrap()
}

/// A folder as `cp -r` makes it.
pub(super) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
