//! Stage: outputs and ack in one step, retries, a graceful stop.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use sluice_client::{
    Event, GroupOptions, Outputs, StageError, TopicOptions,
    pb::{Channel, ErrorReason},
};
use sluice_tests::api::expect;
use tokio_util::sync::CancellationToken;

use super::{Setting, event, patient, quick};

async fn setting(options: GroupOptions) -> Setting {
    let setting = Setting::new().await;
    setting.topic("in").await;
    setting.topic("out").await;
    setting.group("in", "stage", options).await;
    setting
}

/// How often each input's output is there.
async fn outputs(setting: &Setting) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let mut events = setting.client.read("out").events().await.unwrap();
    while let Some(output) = events.next().await {
        let output = output.unwrap().event;
        let cause = output.get("causationid").unwrap().to_owned();
        *counts.entry(cause).or_default() += 1;
    }
    counts
}

async fn until_settled(setting: &Setting) {
    let settled = async {
        loop {
            let described = setting.client.admin().describe_group("in", "stage").await;
            if described.is_ok_and(|group| group.partitions.iter().all(|p| p.lag == 0)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    expect("the stage to be done", settled).await;
}

fn output() -> Outputs {
    Outputs::one("out", Event::new("/stage", "test.done"))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_input_has_its_outputs_once_whatever_is_killed_or_cut() {
    // A slow machine may let leases run out, which is none of this test's business.
    let mut setting = setting(quick().max_attempts(100)).await;
    let stage = setting.client.stage("in", "stage").concurrency(8);
    let stage = stage
        .start(|_| async {
            tokio::time::sleep(Duration::from_millis(3)).await;
            Ok::<_, StageError>(output())
        })
        .await
        .unwrap();
    let producer = setting.client.producer().await.unwrap();
    for number in 0..600 {
        let event = event(&number.to_string());
        drop(producer.send("in", event).await.unwrap());
        if number % 60 == 30 {
            tokio::time::sleep(Duration::from_millis(30)).await;
            match number / 60 % 2 {
                0 => setting.kill_and_restart(),
                _ => setting.proxy.cut(&setting.broker),
            }
        }
    }
    expect("the inputs", producer.flush()).await;
    until_settled(&setting).await;
    expect("the stage to stop", stage.stop()).await;
    let counts = outputs(&setting).await;
    let wrong: Vec<_> = (0..600)
        .map(|number| number.to_string())
        .filter(|id| counts.get(id) != Some(&1))
        .collect();
    assert!(wrong.is_empty(), "not once: {wrong:?}");
    assert_eq!(counts.len(), 600);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_and_panics_are_tried_again_and_then_dead_letters_with_their_reason() {
    let setting = setting(patient()).await;
    let stage = setting
        .client
        .stage("in", "stage")
        .concurrency(4)
        .start(|job| async move {
            match (job.event.id(), job.attempt) {
                ("always", _) => Err(StageError::retry("no model is loaded")),
                ("rejected", _) => Err(StageError::reject("no image")),
                ("panics", 1) => panic!("out of bounds"),
                _ => Ok(output()),
            }
        })
        .await
        .unwrap();
    let producer = setting.client.producer().await.unwrap();
    for id in ["always", "rejected", "panics", "fine"] {
        producer.publish("in", event(id)).await.unwrap();
    }
    until_settled(&setting).await;
    stage.stop().await;
    let admin = setting.client.admin();
    let letters = admin.list_dead_letters("in", "stage").await.unwrap();
    let mut told: Vec<_> = letters
        .into_iter()
        .map(|letter| {
            let history = letter.history.unwrap();
            let id = letter.event.unwrap().id;
            (id, history.attempt_count, history.reason)
        })
        .collect();
    told.sort();
    let expected = [
        ("always".to_owned(), 5, "no model is loaded".to_owned()),
        ("rejected".to_owned(), 1, "no image".to_owned()),
    ];
    assert_eq!(told, expected);
    let once = ["fine", "panics"].map(|id| (id.to_owned(), 1));
    assert_eq!(outputs(&setting).await, BTreeMap::from(once));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_runs_as_many_handlers_as_it_may_and_stops_when_they_are_done() {
    let setting = setting(patient()).await;
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (release, released) = tokio::sync::watch::channel(false);
    let counters = (running.clone(), most.clone());
    let stage = setting
        .client
        .stage("in", "stage")
        .concurrency(3)
        .start(move |_| {
            let (running, most) = counters.clone();
            let mut released = released.clone();
            async move {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                let _ = released.wait_for(|released| *released).await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, StageError>(output())
            }
        })
        .await
        .unwrap();
    let producer = setting.client.producer().await.unwrap();
    for number in 0..10 {
        producer
            .publish("in", event(&number.to_string()))
            .await
            .unwrap();
    }
    let three = async {
        while running.load(Ordering::SeqCst) < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    expect("three handlers", three).await;
    let stopping = tokio::spawn(stage.stop());
    // Those that run may end, and no other begins.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!stopping.is_finished());
    release.send(true).unwrap();
    expect("the stage to stop", stopping).await.unwrap();
    assert_eq!(most.load(Ordering::SeqCst), 3);
    assert_eq!(outputs(&setting).await.len(), 3);
    let described = setting.describe("in", "stage").await;
    assert_eq!(described.partitions.iter().map(|p| p.lag).sum::<i64>(), 7);
    assert!(described.members.is_empty());
}

/// A worker that cannot reach the broker while its handler runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_was_away_too_long_drops_its_work() {
    let setting = setting(quick().max_attempts(100)).await;
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let away = setting.client.stage("in", "stage");
    let away = away
        .start(move |job| {
            // Goes when the handler's future does.
            let dropped = CancellationToken::new();
            let _ = begun.send(dropped.clone());
            let running = dropped.drop_guard();
            async move {
                job.lost.cancelled().await;
                // Would be a second output.
                std::future::pending::<()>().await;
                drop(running);
                Ok::<_, StageError>(output())
            }
        })
        .await
        .unwrap();
    let client = setting.other_client().await;
    let producer = client.producer().await.unwrap();
    producer.publish("in", event("e")).await.unwrap();
    let dropped = expect("the handler to begin", begins.recv()).await.unwrap();
    setting.proxy.close();
    let other = client.stage("in", "stage");
    let other = other.start(|_| async { Ok::<_, StageError>(output()) });
    let other = other.await.unwrap();
    let done = async {
        loop {
            let described = client.admin().describe_group("in", "stage").await.unwrap();
            if described.partitions.iter().all(|p| p.lag == 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    expect("the other stage to do it", done).await;
    setting.proxy.cut(&setting.broker);
    expect("the handler to be dropped", dropped.cancelled()).await;
    expect("both to stop", async {
        (away.stop().await, other.stop().await)
    })
    .await;
    assert_eq!(
        outputs(&setting).await,
        BTreeMap::from([("e".to_owned(), 1)])
    );
}

/// One of them cannot be published, so none is, and the reason is told.
#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_are_refused_fail_their_input_as_a_whole() {
    let setting = setting(patient().max_attempts(2)).await;
    let stage = setting.client.stage("in", "stage");
    let stage = stage
        .start(|job| async move {
            let fine = output();
            let event = Event::new("/stage", "test.done");
            let large = event.clone().bytes("image/png", vec![0; 1_000_000]);
            Ok::<_, StageError>(match job.event.id() {
                "nowhere" => fine.and("nowhere", event),
                "nameless" => fine.and("out", event.with_id("")),
                "too much" => (0..30).fold(fine, |all, _| all.and("out", large.clone())),
                _ => fine.and("in-again", event),
            })
        })
        .await
        .unwrap();
    setting.topic("in-again").await;
    let producer = setting.client.producer().await.unwrap();
    for id in ["nowhere", "nameless", "too much", "fine"] {
        producer.publish("in", event(id)).await.unwrap();
    }
    until_settled(&setting).await;
    expect("the stage to stop", stage.stop()).await;
    let admin = setting.client.admin();
    let letters = admin.list_dead_letters("in", "stage").await.unwrap();
    assert_eq!(letters.len(), 3);
    for letter in letters {
        let history = letter.history.unwrap();
        let id = letter.event.unwrap().id;
        let names = match id.as_str() {
            "nowhere" => "\"nowhere\" does not exist",
            "nameless" => "id is required",
            _ => "request_bytes_max",
        };
        assert_eq!(history.attempt_count, 2, "{id}");
        assert!(history.reason.contains(names), "{id}: {}", history.reason);
    }
    let once = BTreeMap::from([("fine".to_owned(), 1)]);
    assert_eq!(outputs(&setting).await, once);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_ends_when_its_group_is_deleted() {
    let setting = setting(patient()).await;
    let stage = setting.client.stage("in", "stage");
    let mut stage = stage
        .start(|_| async { Ok::<_, StageError>(output()) })
        .await
        .unwrap();
    let admin = setting.client.admin();
    admin.delete_group("in", "stage").await.unwrap();
    let ended = expect("the stage to end", stage.ended()).await.unwrap_err();
    assert_eq!(ended.reason(), ErrorReason::UnknownGroup, "{ended}");
    let again = setting.client.stage("in", "stage");
    let again = again.start(|_| async { Ok::<_, StageError>(output()) });
    assert_eq!(again.await.unwrap_err().reason(), ErrorReason::UnknownGroup);
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_to_a_memory_topic_must_be_allowed() {
    let setting = setting(patient().max_attempts(1)).await;
    let admin = setting.client.admin();
    let memory = TopicOptions::default().channel(Channel::Memory);
    admin.create_topic("volatile", memory).await.unwrap();
    let producer = setting.client.producer().await.unwrap();
    let volatile = || Outputs::one("volatile", Event::new("/stage", "test.done"));

    producer.publish("in", event("refused")).await.unwrap();
    let stage = setting.client.stage("in", "stage");
    let stage = stage.start(move |_| async move { Ok(volatile()) }).await;
    let stage = stage.unwrap();
    until_settled(&setting).await;
    stage.stop().await;
    let letters = admin.list_dead_letters("in", "stage").await.unwrap();
    let reason = &letters[0].history.as_ref().unwrap().reason;
    assert!(reason.contains("allow_volatile"), "{reason}");

    let stage = setting.client.stage("in", "stage").allow_volatile();
    let stage = stage.start(move |_| async move { Ok(volatile()) }).await;
    let stage = stage.unwrap();
    producer.publish("in", event("allowed")).await.unwrap();
    until_settled(&setting).await;
    stage.stop().await;
    let mut events = setting.client.read("volatile").events().await.unwrap();
    let output = events.next().await.unwrap().unwrap().event;
    assert_eq!(output.get("causationid"), Some("allowed"));
    assert!(events.next().await.is_none());
}
