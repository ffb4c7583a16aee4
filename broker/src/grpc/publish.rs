//! OpenProducer and Publish.

use sluice_proto::wire;

use super::{
    api::Api,
    authorize::{Action, Resource},
    convert, events,
    refusal::Refusal,
};
use crate::commit::{Changes, SEQUENCES_REMEMBERED};

impl Api {
    pub(super) async fn open_producer(
        &self,
        request: wire::OpenProducerRequest,
    ) -> Result<wire::OpenProducerResponse, Refusal> {
        self.allow(Action::Publish, Resource::Broker)?;
        if !request.name.is_empty() {
            convert::topic_name("name", &request.name)?;
        }
        self.room_to_grow()?;
        let session = self.proposals.open_producer(request.name).await?;
        Ok(wire::OpenProducerResponse {
            producer_id: session.producer.0 as i64,
            producer_epoch: session.epoch as i64,
            max_in_flight: SEQUENCES_REMEMBERED as i32,
        })
    }

    pub(super) async fn publish(
        &self,
        request: wire::PublishRequest,
    ) -> Result<wire::PublishResponse, Refusal> {
        let producer = events::sequence(request.producer)?;
        let appends = self.place_events("", &request.topic, request.events, request.partition)?;
        let changes = Changes {
            producer,
            appends,
            ..Changes::default()
        };
        let committed = self.proposals.commit(changes).await?;
        Ok(wire::PublishResponse {
            ranges: convert::ranges(&committed, self),
            duplicate: committed.duplicate,
        })
    }
}
