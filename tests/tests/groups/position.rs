//! Settings, pause and position of a group that is at work.

use prost_types::Timestamp;
use sluice_proto::pb::{
    Ack, Earliest, GroupConfig, IdleReason, Latest, Ordering, PauseGroupRequest, PullRequest,
    ReadStart, ResumeGroupRequest, RetryPolicy, SeekGroupRequest, SeekGroupResponse,
    TrimTopicRequest, UpdateGroupRequest, UpdateGroupResponse, read_start::At, settlement::Action,
    trim_topic_request::Before,
};
use sluice_tests::{
    api::{Api, event, expect},
    broker::TestBroker,
    member::{self, Member, join},
};
use tonic::{Code, Status};

use crate::setting::{
    GROUP, TOPIC, ack, describe, id, ids, make, millis, publish, pull, settle, take,
};

fn unordered() -> GroupConfig {
    GroupConfig {
        ordering: Ordering::None.into(),
        ..GroupConfig::default()
    }
}

async fn seek(api: &Api, at: At, dry_run: bool) -> Result<SeekGroupResponse, Status> {
    let request = SeekGroupRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        to: Some(ReadStart {
            at: Some(at),
            epoch: 0,
        }),
        partition: None,
        dry_run,
    };
    Ok(api.admin.clone().seek_group(request).await?.into_inner())
}

async fn update(
    api: &Api,
    config: GroupConfig,
    paths: &[&str],
    filter_from: Option<At>,
) -> Result<UpdateGroupResponse, Status> {
    let request = UpdateGroupRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        config: Some(config),
        update_mask: Some(prost_types::FieldMask {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        }),
        filter_from: filter_from.map(|at| ReadStart {
            at: Some(at),
            epoch: 0,
        }),
    };
    Ok(api.admin.clone().update_group(request).await?.into_inner())
}

async fn pause(api: &Api) -> bool {
    let request = PauseGroupRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
    };
    let paused = api.admin.clone().pause_group(request).await.unwrap();
    paused.into_inner().changed
}

async fn resume(api: &Api) -> bool {
    let request = ResumeGroupRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
    };
    let resumed = api.admin.clone().resume_group(request).await.unwrap();
    resumed.into_inner().changed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seek_back_replays_fences_every_lease_and_survives_a_kill() {
    let mut broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    make(&api, unordered()).await;
    publish(&api, &["a", "b", "c", "d"]).await;
    let taken = take(&api, 3).await;
    ack(&api, &[&taken[0], &taken[1]]).await;

    let planned = seek(&api, At::Offset(1), true).await.unwrap();
    assert_eq!(planned.lease_count, 1);
    let planned = planned.moves[0];
    assert_eq!(
        (
            planned.offset,
            planned.replayed_count,
            planned.skipped_count
        ),
        (1, 1, 0)
    );
    // A plan changes nothing.
    assert_eq!(describe(&api).await.partitions[0].committed_end, 2);

    let done = seek(&api, At::Offset(1), false).await.unwrap();
    assert_eq!(done.moves[0], planned);
    let failures = settle(&api, &[&taken[2]], Action::Ack(Ack {})).await;
    assert_eq!(failures.len(), 1, "the lease of before is not fenced");
    let described = describe(&api).await;
    assert_eq!(described.partitions[0].committed_end, 1);
    assert_eq!(described.partitions[0].lag, 3);

    broker.restart();
    let api = Api::connect(broker.url()).await;
    let again = take(&api, 3).await;
    assert_eq!(ids(&again), ["b", "c", "d"]);
    assert!(again.iter().all(|delivery| delivery.attempt == 1));
    let tokens: Vec<_> = again.iter().map(|delivery| delivery.lease).collect();
    assert!(taken.iter().all(|before| !tokens.contains(&before.lease)));
    ack(&api, &again.iter().collect::<Vec<_>>()).await;
    assert_eq!(describe(&api).await.partitions[0].lag, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seek_forward_skips_and_no_lease_token_is_given_twice() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    make(&api, unordered()).await;
    publish(&api, &["a", "b", "c"]).await;
    let before = take(&api, 1).await;
    let done = seek(&api, At::Latest(Latest {}), false).await.unwrap();
    let moved = done.moves[0];
    assert_eq!(
        (moved.offset, moved.replayed_count, moved.skipped_count),
        (3, 0, 3)
    );
    assert_eq!(pull(&api, 1, 0).await.idle(), IdleReason::Empty);
    seek(&api, At::Earliest(Earliest {}), false).await.unwrap();
    let after = take(&api, 3).await;
    assert_eq!(ids(&after), ["a", "b", "c"]);
    assert!(
        after
            .iter()
            .all(|delivery| delivery.lease != before[0].lease)
    );
    let failures = settle(&api, &[&before[0]], Action::Ack(Ack {})).await;
    assert_eq!(failures.len(), 1);
    // By time: that of b, which is the later of the two by then.
    let time = after[1].append_time.unwrap();
    let done = seek(&api, At::Time(time), false).await.unwrap();
    assert!(done.moves[0].offset <= 1, "{done:?}");

    let one = SeekGroupRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        to: Some(ReadStart {
            at: Some(At::Offset(4)),
            epoch: 0,
        }),
        partition: Some(0),
        dry_run: false,
    };
    let refused = api.admin.clone().seek_group(one.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    let elsewhere = SeekGroupRequest {
        partition: Some(7),
        ..one
    };
    let refused = api.admin.clone().seek_group(elsewhere).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seek_tells_members_on_streams_which_leases_they_lose() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    make(&api, unordered()).await;
    publish(&api, &["a", "b", "c"]).await;
    let mut one = Member::join(&api, join(TOPIC, GROUP, 2)).await.unwrap();
    let mut had = Vec::new();
    for _ in 0..2 {
        had.push(one.delivery().await.unwrap());
    }
    let mut other = Member::join(&api, join(TOPIC, GROUP, 9)).await.unwrap();
    let others = other.delivery().await.unwrap();
    assert_eq!(id(&others), "c");

    let done = seek(&api, At::Offset(1), false).await.unwrap();
    assert_eq!(done.lease_count, 3);
    let leases: Vec<_> = had.iter().map(|delivery| delivery.lease.unwrap()).collect();
    let lost = expect("the leases to be lost", one.lost()).await;
    assert_eq!(lost.unwrap(), leases);
    let lost = expect("the other one to be lost", other.lost()).await;
    assert_eq!(lost.unwrap(), [others.lease.unwrap()]);
    let failures = one.settle(vec![member::ack(leases[0])]).await.unwrap();
    assert_eq!(failures.len(), 1, "what is lost settles nothing");

    // The streams go on: who has credit gets what is looked at again.
    for expected in ["b", "c"] {
        let delivery = expect("a replayed event", other.delivery()).await.unwrap();
        assert_eq!((id(&delivery), delivery.attempt), (expected, 1));
        let acked = other.settle(vec![member::ack(delivery.lease.unwrap())]);
        assert_eq!(acked.await.unwrap(), []);
    }
    assert_eq!(describe(&api).await.partitions[0].lag, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_begins_at_a_time_gets_what_was_appended_then_or_later() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic(TOPIC, 1).await;
    let append = async |id: &str| {
        let ranges = api.publish(TOPIC, vec![event(id)]).await.unwrap();
        ranges[0].append_time.unwrap()
    };
    let before = append("before").await;
    let later = |time: Timestamp, ms: i32| {
        let mut time = Timestamp {
            nanos: time.nanos + ms * 1_000_000,
            ..time
        };
        time.normalize();
        time
    };
    // Events of the next millisecond but one.
    let mut number = 0;
    let after = loop {
        let time = append(&format!("after-{number}")).await;
        if millis(Some(time)) > millis(Some(before)) + 1 {
            break time;
        }
        number += 1;
    };
    for (group, start, first) in [
        ("at-the-first", before, 0),
        ("between", later(before, 2), number + 1),
        ("at-the-last", after, number + 1),
        ("after-all", later(after, 1), number + 2),
    ] {
        let config = GroupConfig {
            start: Some(ReadStart {
                at: Some(At::Time(start)),
                epoch: 0,
            }),
            ..unordered()
        };
        api.create_group(TOPIC, group, config).await;
        let described = api.describe_group(TOPIC, group).await;
        let partition = &described.partitions[0];
        assert_eq!(partition.visible_end, number + 2);
        assert_eq!(partition.committed_end, first, "{group}");
    }
    let pull = PullRequest {
        topic: TOPIC.to_owned(),
        group: "between".to_owned(),
        max_events: 9,
        wait: Some(std::time::Duration::from_secs(30).try_into().unwrap()),
        ..PullRequest::default()
    };
    let pulled = api.broker.clone().pull(pull).await.unwrap().into_inner();
    assert_eq!(ids(&pulled.deliveries), [format!("after-{number}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_group_delivers_nothing_over_a_restart_and_lets_leases_finish() {
    let mut broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    make(&api, unordered()).await;
    publish(&api, &["a", "b"]).await;
    let taken = take(&api, 1).await;
    assert!(pause(&api).await);
    assert!(!pause(&api).await, "it was paused before");
    assert_eq!(pull(&api, 1, 0).await.idle(), IdleReason::Paused);
    ack(&api, &[&taken[0]]).await;

    broker.restart();
    let api = Api::connect(broker.url()).await;
    let described = describe(&api).await;
    assert!(described.paused);
    assert_eq!(described.idle(), IdleReason::Paused);
    assert_eq!(pull(&api, 1, 0).await.idle(), IdleReason::Paused);
    assert!(resume(&api).await);
    assert!(!resume(&api).await);
    assert_eq!(ids(&take(&api, 1).await), ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_change_one_by_one_and_leases_go_on() {
    let mut broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    make(&api, unordered()).await;
    publish(&api, &["a", "b"]).await;
    let taken = take(&api, 1).await;
    let asked = GroupConfig {
        max_in_flight: 1,
        retry: Some(RetryPolicy {
            max_attempts: 9,
            ..RetryPolicy::default()
        }),
        ..GroupConfig::default()
    };
    let paths = ["max_in_flight", "retry.max_attempts"];
    let config = update(&api, asked, &paths, None)
        .await
        .unwrap()
        .config
        .unwrap();
    assert_eq!(config.max_in_flight, 1);
    assert_eq!(config.ordering(), Ordering::None);
    let retry = config.retry.unwrap();
    assert_eq!((retry.max_attempts, retry.multiplier), (9, 2.0));
    // It counts at once, and the lease goes on.
    assert_eq!(pull(&api, 1, 0).await.idle(), IdleReason::InFlightCap);
    ack(&api, &[&taken[0]]).await;

    broker.restart();
    let api = Api::connect(broker.url()).await;
    assert_eq!(describe(&api).await.config.unwrap(), config);
    for (path, word) in [
        ("ordering", "ordering"),
        ("start", "start"),
        ("color", "color"),
    ] {
        let refused = update(&api, unordered(), &[path], None).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(word), "{}", refused.message());
    }
    let refused = update(&api, unordered(), &[], None).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_changes_from_now_on_or_from_a_place() {
    let mut broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    let filtered = |filter: &str| GroupConfig {
        filter: filter.to_owned(),
        ..unordered()
    };
    make(&api, filtered("event.id.startsWith(\"a\")")).await;
    publish(&api, &["a1", "b1"]).await;
    let taken = take(&api, 1).await;
    assert_eq!(id(&taken[0]), "a1");
    ack(&api, &[&taken[0]]).await;

    // From now on: what was skipped stays skipped.
    let b = filtered("event.id.startsWith(\"b\")");
    update(&api, b.clone(), &["filter"], None).await.unwrap();
    publish(&api, &["a2", "b2"]).await;
    let taken = take(&api, 1).await;
    assert_eq!(id(&taken[0]), "b2");
    ack(&api, &[&taken[0]]).await;
    assert_eq!(pull(&api, 1, 0).await.idle(), IdleReason::Empty);

    // From the beginning: what the filter before skipped comes too.
    let from = Some(At::Earliest(Earliest {}));
    let moves = update(&api, b, &["filter"], from).await.unwrap().moves;
    assert_eq!((moves[0].offset, moves[0].replayed_count), (0, 4));
    broker.restart();
    let api = Api::connect(broker.url()).await;
    let taken = take(&api, 2).await;
    assert_eq!(ids(&taken), ["b1", "b2"]);
    let bad = update(&api, filtered("event.id =="), &["filter"], None).await;
    assert_eq!(bad.unwrap_err().code(), Code::InvalidArgument);
}

/// An event on which somebody works holds the position below the topic's start.
#[tokio::test(flavor = "multi_thread")]
async fn lag_is_told_from_the_start_on_when_what_is_before_is_gone() {
    let limits = [
        "--limit",
        "checkpoint_bytes=4096",
        "--limit",
        "tail_cache_bytes=65536",
    ];
    let broker = TestBroker::start_with(&limits);
    let api = Api::connect(broker.url()).await;
    make(&api, unordered()).await;
    publish(&api, &["worked on"]).await;
    let first = take(&api, 1).await;
    for _ in 0..400 {
        publish(&api, &["passes"]).await;
    }
    let request = TrimTopicRequest {
        topic: TOPIC.to_owned(),
        partition: None,
        before: Some(Before::Offset(390)),
    };
    api.admin.clone().trim_topic(request).await.unwrap();
    // Checkpoints take what is gone out of the index.
    for _ in 0..40 {
        publish(&api, &["later"]).await;
        let partition = describe(&api).await.partitions[0];
        assert_eq!(partition.committed_end, 0);
        assert!(partition.lag_bytes > 0);
    }
    ack(&api, &[&first[0]]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_is_told_in_events_bytes_and_age() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    make(&api, unordered()).await;
    let nothing = describe(&api).await.partitions[0];
    assert_eq!((nothing.lag, nothing.lag_bytes), (0, 0));
    assert_eq!(nothing.oldest_unsettled_time, None);
    for at in 0..10 {
        let mut event = event(&format!("e{at}"));
        event.data = vec![7; 10_000].into();
        api.publish(TOPIC, vec![event]).await.unwrap();
    }
    let taken = take(&api, 2).await;
    ack(&api, &taken.iter().collect::<Vec<_>>()).await;
    let behind = describe(&api).await.partitions[0];
    assert_eq!(behind.lag, 8);
    assert!((80_000..90_000).contains(&behind.lag_bytes), "{behind:?}");
    let third = take(&api, 1).await;
    assert_eq!(behind.oldest_unsettled_time, third[0].append_time);
}
