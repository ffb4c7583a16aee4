//! Workers that say how far they are: who looks at the group sees it, and nothing
//! waits for it.

use std::{sync::Arc, time::Duration};

use sluice_client::{
    Consumer, Delivery, Error, Event, Outputs, StageError,
    pb::{self, ErrorReason, settlement::Action},
};
use sluice_tests::api::{Api, expect};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Setting, event, patient};

async fn setting(ids: &[&str]) -> Setting {
    let setting = Setting::new().await;
    setting.topic("in").await;
    setting.topic("out").await;
    let patient = patient().lease(Duration::from_secs(60));
    setting.group("in", "workers", patient).await;
    let producer = setting.client.producer().await.unwrap();
    for id in ids {
        producer.publish("in", event(id)).await.unwrap();
    }
    setting
}

async fn join(setting: &Setting, concurrency: u32) -> Consumer {
    let consumer = setting.client.consumer("in", "workers").member("reader-1");
    consumer.concurrency(concurrency).join().await.unwrap()
}

async fn next(consumer: &mut Consumer) -> Delivery {
    let delivery = expect("a delivery", consumer.next()).await;
    delivery.expect("the consumer goes on").unwrap()
}

/// Who works on the only event under lease, and how far that is.
type Shown = (String, Option<i32>, String);

async fn shown(setting: &Setting) -> Vec<Shown> {
    let described = setting.describe("in", "workers").await;
    let in_flight = described.in_flight_events.into_iter();
    let shown = in_flight.map(|of| (of.member, of.progress_percent, of.progress_note));
    shown.collect()
}

/// What the description shows of the member `reader-1` and its only event.
async fn until_shown(setting: &Setting, percent: Option<i32>, note: &str) {
    let expected = vec![("reader-1".to_owned(), percent, note.to_owned())];
    let is_shown = async {
        while shown(setting).await != expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    expect(&format!("{expected:?} to be shown"), is_shown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stage_handler_says_last_is_shown_until_it_ends() {
    let setting = setting(&["e"]).await;
    let go_on = Arc::new(Notify::new());
    let told = go_on.clone();
    let stage = setting.client.stage("in", "workers").member("reader-1");
    let stage = stage
        .start(move |job| {
            let told = told.clone();
            async move {
                job.progress.report(40, "page 4 of 10")?;
                told.notified().await;
                // From another thread, as the work of a model does.
                let progress = job.progress.clone();
                let work = move || progress.report(70, "page 7 of 10");
                tokio::task::spawn_blocking(work).await??;
                told.notified().await;
                job.progress.report(None, "binding")?;
                told.notified().await;
                let output = Event::new("/stage", "test.done");
                Ok::<_, StageError>(Outputs::one("out", output))
            }
        })
        .await
        .unwrap();
    until_shown(&setting, Some(40), "page 4 of 10").await;
    go_on.notify_one();
    until_shown(&setting, Some(70), "page 7 of 10").await;
    go_on.notify_one();
    until_shown(&setting, None, "binding").await;
    go_on.notify_one();
    let api = Api::connect(setting.broker.url()).await;
    api.wait_until_caught_up("in", "workers").await;
    assert_eq!(shown(&setting).await, []);
    expect("the stage to stop", stage.stop()).await;
    assert_eq!(api.read_all("out").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_is_refused_as_the_broker_does_and_a_long_note_is_cut() {
    let setting = setting(&["e"]).await;
    let mut consumer = join(&setting, 1).await;
    let delivery = next(&mut consumer).await;
    let lease = delivery.lease();
    let (_, acker) = delivery.split();
    let progress = acker.progress();
    progress.report(100, &"é".repeat(200)).unwrap();
    until_shown(&setting, Some(100), &"é".repeat(128)).await;

    let here = progress.report(101, "too far").unwrap_err();
    let report = pb::Extend {
        percent: Some(101),
        note: "too far".into(),
    };
    let there = settle(&setting, lease, Action::Extend(report)).await;
    let there = Error::from(there.unwrap_err());
    assert_eq!(here.reason(), ErrorReason::LimitExceeded);
    assert_eq!(there.reason(), here.reason(), "{there}");
    assert_eq!(there.code(), here.code(), "{there}");
    assert!(there.field().ends_with(here.field()), "{there:?}");
    assert!(there.to_string().ends_with(&here.to_string()), "{there}");

    acker.ack().await.unwrap();
    let settled = progress.report(50, "").unwrap_err();
    assert!(settled.is_lease_lost(), "{settled}");
    consumer.leave().await;
    let left = progress.report(50, "").unwrap_err();
    assert!(!left.is_lease_lost(), "{left}");
}

/// As often as a thread can say something: acks and deliveries go on beside it, and
/// little of it is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_tight_loop_of_reports_holds_up_nothing_and_sends_little() {
    const NOTE: usize = 256;
    let ids: Vec<_> = (0..100).map(|at| at.to_string()).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let setting = setting(&ids).await;
    let mut consumer = join(&setting, 2).await;
    let talked_of = next(&mut consumer).await;
    let before = setting.proxy.asked_bytes();
    let enough = CancellationToken::new();
    // Also when this test fails.
    let _ends = enough.clone().drop_guard();
    let (progress, told) = (talked_of.progress(), enough.clone());
    let talking = tokio::task::spawn_blocking(move || {
        let mut said = 0_u64;
        while said < 100_000 || said < 500_000 && !told.is_cancelled() {
            let note = format!("{said:0NOTE$}");
            progress.report((said % 101) as u8, &note).unwrap();
            said += 1;
        }
        progress.report(99, "the last").unwrap();
        said
    });
    for _ in 1..ids.len() {
        let delivery = next(&mut consumer).await;
        expect("the ack", delivery.ack()).await.unwrap();
    }
    enough.cancel();
    let said = expect("the loop to end", talking).await.unwrap();
    until_shown(&setting, Some(99), "the last").await;
    expect("the ack", talked_of.ack()).await.unwrap();

    let sent = setting.proxy.asked_bytes() - before;
    let said = said * NOTE as u64;
    assert!(
        sent < said / 20,
        "{sent} bytes were sent for {said} that were said"
    );
    assert_eq!(shown(&setting).await, []);
    consumer.leave().await;
}

/// Not one report more, however long the broker takes.
#[tokio::test(flavor = "multi_thread")]
async fn reports_wait_for_the_answer_of_those_before() {
    let setting = setting(&["e"]).await;
    let mut consumer = join(&setting, 1).await;
    let delivery = next(&mut consumer).await;
    let progress = delivery.progress();
    progress.report(1, "answered").unwrap();
    let other = setting.other_client().await;
    let shows = async |note: &str| {
        let described = other.admin().describe_group("in", "workers").await;
        described.unwrap().in_flight_events[0].progress_note == note
    };
    let until = async |note: &str| {
        while !shows(note).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    expect("the first report", until("answered")).await;
    setting.proxy.mute(true);
    progress.report(2, "not answered").unwrap();
    expect("the second report", until("not answered")).await;
    progress.report(3, "waits").unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(shows("not answered").await, "the third did not wait");
    setting.proxy.mute(false);
    expect("the third report", until("waits")).await;
    delivery.ack().await.unwrap();
}

/// Nobody tells the consumer but the answer to what it says.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_of_a_lease_that_is_not_held_tells_of_its_loss() {
    let setting = setting(&["settled", "next"]).await;
    let mut consumer = join(&setting, 1).await;
    let delivery = next(&mut consumer).await;
    let ack = Action::Ack(pb::Ack {});
    let settled = settle(&setting, delivery.lease(), ack).await.unwrap();
    assert_eq!(settled.failures, []);
    assert!(!delivery.lost().is_cancelled());

    let progress = delivery.progress();
    progress.report(50, "half of it").unwrap();
    expect("the loss to be told", delivery.lost().cancelled()).await;
    let late = progress.report(51, "more of it").unwrap_err();
    assert!(late.is_lease_lost(), "{late}");
    // Its place is free.
    next(&mut consumer).await.ack().await.unwrap();
    let late = delivery.ack().await.unwrap_err();
    assert!(late.is_lease_lost(), "{late}");
}

/// A commit goes another way than reports, and may pass one, which then finds no lease.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_beside_a_commit_is_no_loss() {
    let setting = setting(&["first"]).await;
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let done = Arc::new(Notify::new());
    let told = done.clone();
    let stage = setting.client.stage("in", "workers");
    let stage = stage
        .start(move |job| {
            let told = told.clone();
            let begun = begun.clone();
            async move {
                if job.event.id() != "first" {
                    let _ = begun.send((job.progress, job.lost));
                    told.notified().await;
                }
                Ok::<_, StageError>(Outputs::none())
            }
        })
        .await
        .unwrap();
    // The stage has committed once, and can do so without asking for anything.
    let api = Api::connect(setting.broker.url()).await;
    api.wait_until_caught_up("in", "workers").await;
    let producer = setting.client.producer().await.unwrap();
    producer.publish("in", event("e")).await.unwrap();
    let begun = expect("the handler to begin", begins.recv()).await;
    let (progress, lost) = begun.unwrap();
    progress.report(50, "half of it").unwrap();
    // The stage does not learn that it has committed.
    setting.proxy.mute(true);
    done.notify_one();
    api.wait_until_caught_up("in", "workers").await;
    let late = progress.report(100, "all of it").unwrap_err();
    assert!(late.is_lease_lost(), "{late}");
    setting.proxy.mute(false);
    expect("the stage to stop", stage.stop()).await;
    assert!(!lost.is_cancelled());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_last_outlives_connections_and_brokers() {
    let mut setting = setting(&["e"]).await;
    let mut consumer = join(&setting, 1).await;
    let delivery = next(&mut consumer).await;
    let progress = delivery.progress();
    setting.proxy.close();
    progress.report(10, "said while away").unwrap();
    progress.report(20, "said while away, too").unwrap();
    setting.proxy.cut(&setting.broker);
    until_shown(&setting, Some(20), "said while away, too").await;
    // Long enough for the lease to be in the log.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    setting.kill_and_restart();
    until_shown(&setting, Some(20), "said while away, too").await;
    expect("the ack", delivery.ack()).await.unwrap();
}

/// Settles a lease of the group past the consumer that holds it.
async fn settle(
    setting: &Setting,
    lease: pb::LeaseToken,
    action: Action,
) -> Result<pb::SettleResponse, tonic::Status> {
    let mut api = Api::connect(setting.broker.url()).await;
    let settlement = pb::Settlement {
        lease: Some(lease),
        action: Some(action),
    };
    let request = pb::SettleRequest {
        topic: "in".into(),
        group: "workers".into(),
        settlements: vec![settlement],
    };
    Ok(api.broker.settle(request).await?.into_inner())
}
