//! Producer sessions over topics of each channel.

use sluice_proto::pb::{
    Channel, OpenProducerRequest, OpenProducerResponse, ProducerSequence, PublishRequest,
    PublishResponse,
};
use sluice_tests::api::{Refusal, event};

use crate::{
    buffered::{NEVER_SYNCED, cut_behind},
    place::{Place, ids},
};

impl Place {
    async fn session(&self) -> OpenProducerResponse {
        let request = OpenProducerRequest::default();
        let answer = self.api.broker.clone().open_producer(request).await;
        answer.unwrap().into_inner()
    }

    async fn publish_as(
        &self,
        session: &OpenProducerResponse,
        sequence: i64,
        topic: &str,
    ) -> Result<PublishResponse, Refusal> {
        let request = PublishRequest {
            topic: topic.to_owned(),
            events: vec![event(&sequence.to_string())],
            partition: None,
            producer: Some(ProducerSequence {
                producer_id: session.producer_id,
                producer_epoch: session.producer_epoch,
                sequence,
            }),
        };
        let answer = self.api.broker.clone().publish(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| Refusal::from(&status))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_of_a_memory_topic_count_once_until_the_broker_ends() {
    let mut place = Place::start(&[]).await;
    place.topic("m", Channel::Memory).await;
    place.topic("f", Channel::Fsync).await;
    let session = place.session().await;
    for sequence in 1..=100 {
        let first = place.publish_as(&session, sequence, "m").await.unwrap();
        let again = place.publish_as(&session, sequence, "m").await.unwrap();
        assert!(!first.duplicate && again.duplicate);
        assert_eq!(first.ranges, again.ranges);
    }
    // One sequence serves all topics.
    place.publish_as(&session, 101, "f").await.unwrap();
    let early = place.publish_as(&session, 166, "m").await.unwrap_err();
    assert_eq!(early.reason, "SEQUENCE_TOO_NEW");
    for sequence in 102..=300 {
        place.publish_as(&session, sequence, "m").await.unwrap();
    }

    place.kill_and_restart().await;
    // The log knows of 101 alone; the session goes on all the same.
    let known = place.publish_as(&session, 101, "f").await.unwrap();
    assert!(known.duplicate);
    place.publish_as(&session, 301, "m").await.unwrap();
    let again = place.publish_as(&session, 301, "m").await.unwrap();
    assert!(again.duplicate);
    let early = place.publish_as(&session, 366, "m").await.unwrap_err();
    assert_eq!(early.reason, "SEQUENCE_TOO_NEW");
    assert_eq!(ids(&place.read_from("m", 0, 0).await.unwrap()), ["301"]);
    assert_eq!(ids(&place.read_from("f", 0, 0).await.unwrap()), ["101"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_of_durable_topics_count_once_after_a_kill() {
    let mut place = Place::start(NEVER_SYNCED).await;
    let topics = ["f", "b"];
    place.topic("f", Channel::Fsync).await;
    place.topic("b", Channel::Buffered).await;
    let session = place.session().await;
    let mut first = Vec::new();
    for sequence in 1..=10 {
        let topic = topics[sequence as usize % 2];
        let published = place.publish_as(&session, sequence, topic).await.unwrap();
        assert!(!published.duplicate);
        first.push(published);
    }
    place.kill_and_restart().await;
    for sequence in 1..=10 {
        let topic = topics[sequence as usize % 2];
        let again = place.publish_as(&session, sequence, topic).await.unwrap();
        assert!(again.duplicate, "{sequence}");
        assert_eq!(again.ranges, first[sequence as usize - 1].ranges);
    }
    for topic in topics {
        assert_eq!(place.read_from(topic, 0, 0).await.unwrap().len(), 5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_that_a_power_cut_took_is_appended_again() {
    let mut place = Place::start(NEVER_SYNCED).await;
    place.topic("f", Channel::Fsync).await;
    place.topic("b", Channel::Buffered).await;
    let session = place.session().await;
    place.publish_as(&session, 1, "b").await.unwrap();
    place.publish("f", "the-anchor").await;
    for sequence in 2..=5 {
        place.publish_as(&session, sequence, "b").await.unwrap();
    }
    place.broker.kill();
    cut_behind(&place.broker.data_dir().join("log"), b"the-anchor");
    place.kill_and_restart().await;
    assert_eq!(ids(&place.read_from("b", 0, 0).await.unwrap()), ["1"]);
    for sequence in 1..=5 {
        let again = place.publish_as(&session, sequence, "b").await.unwrap();
        assert_eq!(again.duplicate, sequence == 1, "{sequence}");
    }
    let all = place.read_from("b", 0, 0).await.unwrap();
    assert_eq!(ids(&all), ["1", "2", "3", "4", "5"]);
}
