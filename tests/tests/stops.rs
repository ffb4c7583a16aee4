//! A broker that is told to stop does, whoever is connected, and has lost
//! nothing.

#![allow(clippy::unwrap_used)]

use sluice_proto::pb::{
    DescribeBrokerRequest, GroupConfig, PublishOpen, PublishStreamRequest, ReadRequest,
    publish_stream_request::Message,
};
use sluice_tests::{
    api::{Api, Refusal, event, expect},
    broker::TestBroker,
    member::{Member, join},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// How a stream ends.
async fn end<T>(mut stream: Streaming<T>) -> Result<(), Status> {
    expect("the end of a stream", async {
        while stream.message().await?.is_some() {}
        Ok(())
    })
    .await
}

async fn stops(stop: impl FnOnce(&mut TestBroker)) {
    let mut broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("t", 2).await;
    api.create_group("t", "g", GroupConfig::default()).await;
    let ids: Vec<_> = (100..200).map(|number| format!("e{number}")).collect();
    for id in &ids {
        api.publish("t", vec![event(id)]).await.unwrap();
    }

    // One of each kind of stream, and a member with work in hand.
    let mut member = Member::join(&api, join("t", "g", 5)).await.unwrap();
    member.delivery().await.unwrap();
    let read = ReadRequest {
        topic: "t".to_owned(),
        follow: true,
        ..ReadRequest::default()
    };
    let read = api.broker.clone().read(read).await.unwrap().into_inner();
    let (outbox, requests) = mpsc::channel(1);
    let open = PublishStreamRequest {
        message: Some(Message::Open(PublishOpen::default())),
    };
    outbox.send(open).await.unwrap();
    let mut client = api.broker.clone();
    let publish = client.publish_stream(ReceiverStream::new(requests)).await;
    let publish = publish.unwrap().into_inner();
    let joined = tokio::spawn(async move {
        while member.response().await?.is_some() {}
        Ok(())
    });
    let ends = [
        ("read", tokio::spawn(end(read))),
        ("publish", tokio::spawn(end(publish))),
        ("consume", joined),
    ];

    tokio::task::block_in_place(|| stop(&mut broker));
    for (stream, ended) in ends {
        let ended: Result<(), Status> = expect(stream, ended).await.unwrap();
        let refusal = Refusal::from(&ended.unwrap_err());
        assert_eq!(refusal.code, Code::Unavailable, "{stream}: {refusal:?}");
        assert_eq!(refusal.reason, "SHUTTING_DOWN", "{stream}: {refusal:?}");
    }

    broker.restart();
    let api = Api::connect(broker.url()).await;
    assert_eq!(api.ids("t").await, ids);
    let mut admin = api.admin.clone();
    let description = admin.describe_broker(DescribeBrokerRequest {}).await;
    let recovery = description.unwrap().into_inner().recovery.unwrap();
    assert!(recovery.clean, "{recovery:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_in_order_with_streams_open() {
    stops(|broker| assert!(broker.stop().success())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigint_ends_it_in_order_with_streams_open() {
    stops(|broker| assert!(broker.interrupt().success())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_brokers_do_not_share_a_data_folder() {
    let broker = TestBroker::start();
    let says = tokio::task::block_in_place(|| broker.second_over_the_same_data());
    let folder = broker.data_dir();
    assert!(says.contains(&folder.display().to_string()), "{says}");
    let api = Api::connect(broker.url()).await;
    api.create_topic("t", 1).await;
    api.publish("t", vec![event("e")]).await.unwrap();
    assert_eq!(api.ids("t").await, ["e"]);
}
