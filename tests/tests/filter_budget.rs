//! Filters that want to hurt: the broker stops them and says so.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use sluice_proto::pb::{Event, GroupConfig, IdleReason, PullRequest, ReadRequest};
use sluice_tests::{
    api::{Api, event, expect},
    broker::TestBroker,
};
use tonic::Code;

/// More steps than an evaluation may take, for the payload below.
const ENDLESS: &str = "event.data.map(x, event.data) == []";

fn with_list(id: &str, items: usize) -> Event {
    Event {
        data_content_type: "application/json".into(),
        data: format!("[{}0]", "1,".repeat(items)).into_bytes().into(),
        ..event(id)
    }
}

fn pull() -> PullRequest {
    PullRequest {
        topic: "in".into(),
        group: "endless".into(),
        ..PullRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_overruns_stops_its_group_with_the_reason_and_nothing_else() {
    let broker = TestBroker::start();
    let mut api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    let config = |filter: &str| GroupConfig {
        filter: filter.into(),
        ..GroupConfig::default()
    };
    let endless = format!("{ENDLESS} || size(event.data) < 9");
    api.create_group("in", "endless", config(&endless)).await;
    api.create_group("in", "other", config("size(event.data) > 0"))
        .await;
    let events = vec![with_list("a", 2), with_list("b", 20_000), with_list("c", 2)];
    api.publish("in", events).await.unwrap();

    expect("the group to be stopped", async {
        while api.describe_group("in", "endless").await.idle() != IdleReason::Disabled {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let described = api.describe_group("in", "endless").await;
    assert!(
        described.idle_detail.contains("steps"),
        "{}",
        described.idle_detail
    );
    assert!(
        described.idle_detail.contains("offset 1"),
        "{}",
        described.idle_detail
    );
    let nothing = api.broker.pull(pull()).await.unwrap().into_inner();
    assert!(nothing.deliveries.is_empty());

    // Others are not concerned.
    let mut got = Vec::new();
    expect("the other group's events", async {
        while got.len() < 3 {
            let request = PullRequest {
                group: "other".into(),
                max_events: 10,
                ..pull()
            };
            let pulled = api.broker.pull(request).await.unwrap().into_inner();
            got.extend(pulled.deliveries.into_iter().filter_map(|d| d.event));
        }
    })
    .await;
    let ids: Vec<&str> = got.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_whose_filter_overruns_gives_what_is_before_and_then_an_error() {
    let broker = TestBroker::start();
    let mut api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    let events = vec![with_list("a", 2), with_list("b", 20_000)];
    api.publish("in", events).await.unwrap();
    let request = ReadRequest {
        topic: "in".into(),
        filter: format!("{ENDLESS} || size(event.data) < 9"),
        ..ReadRequest::default()
    };
    let mut stream = api.broker.read(request).await.unwrap().into_inner();
    let page = stream.message().await.unwrap().unwrap();
    assert_eq!(page.events[0].event.as_ref().unwrap().id, "a");
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("offset 1"), "{status}");
}
