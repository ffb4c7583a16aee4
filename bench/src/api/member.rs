//! A member of a group, with credit for a window of events.

use std::net::SocketAddr;

use prost::Message;
use sluice_proto::wire::{self, consume_response::Message as Out, settlement::Action as Settle};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use super::connect;

/// A member of a group.
pub(crate) struct Member {
    requests: mpsc::Sender<Request>,
    answers: tonic::Streaming<wire::ConsumeResponse>,
    /// Events that it may have at once.
    window: i64,
    received: i64,
    granted: i64,
    last_request_id: i64,
}

/// A `sluice.v1.ConsumeRequest`, of what is sent here: it has one of these.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, optional, tag = "1")]
    join: Option<wire::Join>,
    #[prost(message, optional, tag = "2")]
    grant: Option<wire::Grant>,
    #[prost(message, optional, tag = "3")]
    settle: Option<wire::SettleBatch>,
}

/// What comes to a member.
pub(crate) enum Came {
    Deliveries(Vec<wire::Delivery>),
    /// The settlements with this number are durable.
    Settled(i64),
}

impl Member {
    /// Joins a group on a connection of its own, and takes up to `window` events at once.
    pub(crate) async fn join(
        addr: SocketAddr,
        topic: &str,
        group: &str,
        name: &str,
        window: i64,
    ) -> anyhow::Result<Self> {
        Self::join_on(connect(addr).await?, topic, group, name, window).await
    }

    /// The same, on a connection that others may have too.
    pub(crate) async fn join_on(
        channel: Channel,
        topic: &str,
        group: &str,
        name: &str,
        window: i64,
    ) -> anyhow::Result<Self> {
        let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(16 << 20);
        client.ready().await?;
        let (requests, stream) = mpsc::channel(256);
        let join = wire::Join {
            topic: topic.to_owned(),
            group: group.to_owned(),
            member: name.to_owned(),
            grant: Some(grant(window)),
            ..wire::Join::default()
        };
        // Before the call, which is answered only when it has a first message.
        requests
            .send(Request {
                join: Some(join),
                ..Request::default()
            })
            .await?;
        let path = PathAndQuery::from_static("/sluice.v1.BrokerService/Consume");
        let codec = ProstCodec::<Request, wire::ConsumeResponse>::default();
        let stream = tonic::Request::new(ReceiverStream::new(stream));
        let answers = client.streaming(stream, path, codec).await?.into_inner();
        Ok(Self {
            requests,
            answers,
            window,
            received: 0,
            granted: window,
            last_request_id: 0,
        })
    }

    /// What comes next; `None` when the stream has ended. Settlements that were
    /// refused and leases that were lost are errors.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Came>> {
        while let Some(answer) = self.answers.message().await? {
            match answer.message {
                Some(Out::Deliveries(batch)) => {
                    self.received += batch.deliveries.len() as i64;
                    return Ok(Some(Came::Deliveries(batch.deliveries)));
                }
                Some(Out::Settled(settled)) => {
                    anyhow::ensure!(settled.failures.is_empty(), "{:?}", settled.failures);
                    return Ok(Some(Came::Settled(settled.request_id)));
                }
                Some(Out::LeasesLost(lost)) => {
                    anyhow::bail!("lost {} leases", lost.leases.len())
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Sends the settlements, takes them out of `settlements`, and returns their
    /// number; gives credit for as many events as are through. Nothing is half
    /// done when this is dropped before its end.
    pub(crate) async fn settle(
        &mut self,
        settlements: &mut Vec<wire::Settlement>,
    ) -> anyhow::Result<i64> {
        let permit = self.requests.reserve().await?;
        self.last_request_id += 1;
        let settle = wire::SettleBatch {
            request_id: self.last_request_id,
            settlements: std::mem::take(settlements),
        };
        permit.send(Request {
            settle: Some(settle),
            ..Request::default()
        });
        let number = self.last_request_id;
        if self.granted - self.received <= self.window / 2 {
            let max_events = self.received + self.window;
            let grant = Request {
                grant: Some(grant(max_events)),
                ..Request::default()
            };
            self.requests.send(grant).await?;
            self.granted = max_events;
        }
        Ok(number)
    }

    /// The number of the settlements that were sent last; 0 before the first.
    pub(crate) fn last_number(&self) -> i64 {
        self.last_request_id
    }
}

/// An ack of a delivery.
pub(crate) fn ack(lease: Option<wire::LeaseToken>) -> wire::Settlement {
    wire::Settlement {
        lease,
        action: Some(Settle::Ack(wire::Ack {})),
    }
}

fn grant(max_events: i64) -> wire::Grant {
    wire::Grant {
        max_events,
        max_bytes: 0,
    }
}
