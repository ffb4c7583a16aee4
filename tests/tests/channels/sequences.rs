//! Producer sessions over memory topics.

use sluice_proto::pb::{
    Channel, OpenProducerRequest, OpenProducerResponse, ProducerSequence, PublishRequest,
    PublishResponse,
};
use sluice_tests::api::{Refusal, event};

use crate::place::{Place, ids};

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
