//! Producer sessions and publish streams.

use sluice_proto::pb::{
    Event, OpenProducerRequest, ProducerSequence, PublishBatch, PublishOpen, PublishRequest,
    PublishStreamRequest, publish_stream_request::Message as PublishMessage,
    publish_stream_response::Message as PublishAnswer,
};
use sluice_tests::api::{Refusal, event, expect};
use tonic::{Code, Status};

use crate::{
    bench::Bench,
    expected::{invalid, refused},
    publish::publish,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_session_of_another_epoch_is_refused() {
    let mut bench = Bench::start().await;
    let mut broker = bench.api.broker.clone();
    let open = OpenProducerRequest {
        name: "p".to_owned(),
    };
    let old = broker.open_producer(open.clone()).await.unwrap();
    let old = old.into_inner();
    let sequenced = |producer_id, producer_epoch, sequence| PublishRequest {
        producer: Some(ProducerSequence {
            producer_id,
            producer_epoch,
            sequence,
        }),
        ..publish("t", vec![event("e1")])
    };
    let first = sequenced(old.producer_id, old.producer_epoch, 1);
    broker.publish(first.clone()).await.unwrap();
    bench.good.push("e1".to_owned());
    let new = broker.open_producer(open).await.unwrap().into_inner();
    assert_eq!(new.producer_id, old.producer_id);
    assert!(new.producer_epoch > old.producer_epoch);

    let session = |epoch, sequence| sequenced(new.producer_id, epoch, sequence);
    let fenced = || refused(Code::FailedPrecondition, "PRODUCER_FENCED");
    let too_new = i64::from(new.max_in_flight) + 2;
    let cases = [
        ("an older session", session(old.producer_epoch, 2), fenced()),
        ("an older session's retry", first, fenced()),
        (
            "a session that was never opened",
            sequenced(new.producer_id + 1000, 1, 1),
            refused(Code::FailedPrecondition, "UNKNOWN_PRODUCER"),
        ),
        (
            "a sequence that is far ahead",
            session(new.producer_epoch, too_new),
            refused(Code::FailedPrecondition, "SEQUENCE_TOO_NEW").naming(new.max_in_flight),
        ),
        (
            "a negative sequence",
            session(new.producer_epoch, -1),
            invalid("producer.sequence"),
        ),
        (
            "a negative epoch",
            session(-1, 1),
            invalid("producer.producer_epoch"),
        ),
        (
            "a negative producer",
            sequenced(-1, 1, 1),
            invalid("producer.producer_id"),
        ),
    ];
    for (case, request, expected) in cases {
        let answer = broker.publish(request).await;
        bench.check(case, answer, &expected).await;
    }
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_stream_says_no_to_a_batch_and_goes_on() {
    let mut bench = Bench::start().await;
    let open = PublishMessage::Open(PublishOpen::default());
    let batch = |request_id, topic: &str, events| {
        PublishMessage::Batch(PublishBatch {
            request_id,
            topic: topic.to_owned(),
            events,
            ..PublishBatch::default()
        })
    };
    let messages = [
        open.clone(),
        batch(1, "nowhere", vec![event("e")]),
        batch(2, "t", vec![Event::default()]),
        batch(3, "t", vec![event("good")]),
    ];
    let messages = messages.map(|message| PublishStreamRequest {
        message: Some(message),
    });
    let call = bench.api.broker.clone();
    let mut call = call;
    let answers = call.publish_stream(tokio_stream::iter(messages)).await;
    let mut answers = answers.unwrap().into_inner();
    let mut refusals = std::collections::BTreeMap::new();
    let mut acked = Vec::new();
    while let Some(answer) = expect("an answer", answers.message()).await.unwrap() {
        match answer.message {
            Some(PublishAnswer::Refused(refused)) => {
                let refusal = Refusal::from(refused.error.as_ref().unwrap());
                refusals.insert(refused.request_id, refusal);
            }
            Some(PublishAnswer::Ack(ack)) => acked.push(ack.request_id),
            _ => {}
        }
    }
    assert_eq!(acked, [3]);
    bench.good.push("good".to_owned());
    let unknown = refused(Code::NotFound, "UNKNOWN_TOPIC").naming("nowhere");
    let answer: Result<(), _> = Err(refusals.remove(&1).unwrap());
    bench.check("a batch to no topic", answer, &unknown).await;
    let answer: Result<(), _> = Err(refusals.remove(&2).unwrap());
    bench
        .check("an empty event", answer, &invalid("batch.events[0].id"))
        .await;

    let state = || refused(Code::FailedPrecondition, "STREAM_STATE").naming("open");
    let streams = [
        (
            "a batch before the open",
            vec![batch(1, "t", vec![event("e")])],
        ),
        ("a second open", vec![open.clone(), open]),
    ];
    for (case, messages) in streams {
        let messages = messages.into_iter().map(|message| PublishStreamRequest {
            message: Some(message),
        });
        let messages = tokio_stream::iter(messages.collect::<Vec<_>>());
        let answer = match call.publish_stream(messages).await {
            Ok(answers) => last(answers.into_inner()).await,
            Err(status) => Err(status),
        };
        bench.check(case, answer, &state()).await;
    }
    bench.finish().await;
}

async fn last<T>(mut stream: tonic::Streaming<T>) -> Result<(), Status> {
    expect("the end of the stream", async {
        while stream.message().await?.is_some() {}
        Ok(())
    })
    .await
}
