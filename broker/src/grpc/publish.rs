//! OpenProducer and Publish.

use std::net::SocketAddr;

use sluice_proto::{ProducerId, wire};
use tokio::time::Instant;
use tonic::Request;

use super::{
    admission::bytes_of,
    api::Api,
    authorize::{Action, Resource},
    convert, events,
    refusal::Refusal,
};
use crate::{
    commit::{AppendRequest, Changes, SEQUENCES_REMEMBERED, Submitted, record::ProducerSequence},
    flow::{Entered, InLine, Producer},
};

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
        request: Request<wire::PublishRequest>,
    ) -> Result<wire::PublishResponse, Refusal> {
        let until = self.may_wait_until(request.metadata());
        let connection = request.remote_addr();
        let request = request.into_inner();
        let producer = events::sequence(request.producer)?;
        let events = request.events.into();
        let appends = self.place_events("", &request.topic, events, request.partition)?;
        let who = producer_of(producer.map(|of| of.producer), connection);
        let committed = match self.append_by(who, producer, appends, until).await {
            Ok((_held, submitted)) => submitted.committed().await?,
            Err(refusal) => self.published_before(producer, refusal).await?,
        };
        Ok(wire::PublishResponse {
            ranges: convert::ranges(&committed, self),
            duplicate: committed.duplicate,
        })
    }

    /// Puts events in line for the log, when their topic takes them. What comes
    /// with it is held until they are readable.
    async fn append_by(
        &self,
        who: Producer,
        producer: Option<ProducerSequence>,
        appends: Vec<AppendRequest>,
        until: Instant,
    ) -> Result<((Option<Entered>, InLine), Submitted), Refusal> {
        let _waiting = self.wait_with(bytes_of(&appends))?;
        let entered = self.enter(who, &appends, Some(until)).await?;
        let changes = Changes {
            producer,
            appends,
            ..Changes::default()
        };
        let (in_line, submitted) = self.submit_by(who, changes, Some(until)).await?;
        Ok(((entered, in_line), submitted))
    }
}

/// Who publishes, for fairness between producers.
pub(super) fn producer_of(session: Option<ProducerId>, connection: Option<SocketAddr>) -> Producer {
    session.map_or(Producer::Connection(connection), Producer::Session)
}
