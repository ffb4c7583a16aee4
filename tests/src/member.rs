//! A member of a group on a Consume stream, message by message, so that a test
//! decides what it sends and what it leaves out.

use std::collections::VecDeque;

use sluice_proto::pb::{
    Ack, CommitInput, CommitOutput, CommitRequest, ConsumeRequest, ConsumeResponse, Delivery,
    Event, Grant, Heartbeat, Join, Joined, LeaseToken, Leave, SettleBatch, Settlement,
    SettlementFailure, consume_request::Message as Request, consume_response::Message as Response,
    settlement::Action,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::api::{Api, expect};

/// Messages that may wait to be sent.
const OUTBOX: usize = 1024;

/// A joined member. Dropping it breaks its connection off without a `leave`.
#[derive(Debug)]
pub struct Member {
    outbox: mpsc::Sender<ConsumeRequest>,
    responses: Streaming<ConsumeResponse>,
    /// How the broker welcomed it.
    pub joined: Joined,
    deliveries: VecDeque<Delivery>,
    lost: Vec<LeaseToken>,
    last_request_id: i64,
}

/// Heartbeats of a member, until they are dropped.
#[derive(Debug)]
pub struct Heartbeats(JoinHandle<()>);

impl Drop for Heartbeats {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The join of a member with credit for so many events.
#[must_use]
pub fn join(topic: &str, group: &str, max_events: i64) -> Join {
    Join {
        topic: topic.to_owned(),
        group: group.to_owned(),
        grant: Some(Grant {
            max_events,
            max_bytes: 0,
        }),
        ..Join::default()
    }
}

/// An ack.
#[must_use]
pub fn ack(lease: LeaseToken) -> Settlement {
    Settlement {
        lease: Some(lease),
        action: Some(Action::Ack(Ack {})),
    }
}

/// The commit that acks one lease and publishes one event.
#[must_use]
pub fn commit(
    (topic, group): (&str, &str),
    lease: LeaseToken,
    to: &str,
    output: Event,
) -> CommitRequest {
    CommitRequest {
        inputs: vec![CommitInput {
            topic: topic.to_owned(),
            group: group.to_owned(),
            acks: vec![lease],
        }],
        outputs: vec![CommitOutput {
            topic: to.to_owned(),
            events: vec![output],
            partition: None,
        }],
        producer: None,
        allow_volatile: false,
    }
}

impl Member {
    /// Joins.
    ///
    /// # Errors
    /// When the broker refuses, or goes away.
    pub async fn join(api: &Api, join: Join) -> Result<Self, Status> {
        let (outbox, requests) = mpsc::channel(OUTBOX);
        let first = ConsumeRequest {
            message: Some(Request::Join(join)),
        };
        // Before the call, which is answered only when it has a first message.
        outbox.try_send(first).expect("the outbox is empty");
        let call = api.broker.clone();
        let mut call = call.max_decoding_message_size(64 << 20);
        let response = call.consume(ReceiverStream::new(requests)).await?;
        let mut responses = response.into_inner();
        let first = expect("the answer to a join", responses.message()).await?;
        let Some(Response::Joined(joined)) = first.and_then(|first| first.message) else {
            return Err(Status::internal("the first response is no `joined`"));
        };
        Ok(Self {
            outbox,
            responses,
            joined,
            deliveries: VecDeque::new(),
            lost: Vec::new(),
            last_request_id: 0,
        })
    }

    /// Sends any message. One that finds the stream at its end is dropped; the
    /// next receive tells why it ended.
    pub async fn send(&self, message: Request) {
        let message = Some(message);
        let _ = self.outbox.send(ConsumeRequest { message }).await;
    }

    /// The next message of the broker; `None` when it has ended the stream.
    ///
    /// # Errors
    /// How the broker ended the stream.
    pub async fn response(&mut self) -> Result<Option<Response>, Status> {
        let response = self.responses.message().await?;
        Ok(response.and_then(|response| response.message))
    }

    /// The next delivery.
    ///
    /// # Errors
    /// How the broker ended the stream.
    pub async fn delivery(&mut self) -> Result<Delivery, Status> {
        loop {
            if let Some(delivery) = self.deliveries.pop_front() {
                return Ok(delivery);
            }
            self.receive().await?;
        }
    }

    /// A delivery that has come already.
    pub fn delivery_at_hand(&mut self) -> Option<Delivery> {
        self.deliveries.pop_front()
    }

    /// The next notice of lost leases.
    ///
    /// # Errors
    /// How the broker ended the stream.
    pub async fn lost(&mut self) -> Result<Vec<LeaseToken>, Status> {
        while self.lost.is_empty() {
            self.receive().await?;
        }
        Ok(std::mem::take(&mut self.lost))
    }

    /// Settles, and waits for the answer.
    ///
    /// # Errors
    /// How the broker ended the stream.
    pub async fn settle(
        &mut self,
        settlements: Vec<Settlement>,
    ) -> Result<Vec<SettlementFailure>, Status> {
        self.last_request_id += 1;
        let request_id = self.last_request_id;
        self.send(Request::Settle(SettleBatch {
            request_id,
            settlements,
        }))
        .await;
        self.settled().await
    }

    /// Waits for the answer to what was settled last: again, after somebody gave up
    /// waiting.
    ///
    /// # Errors
    /// How the broker ended the stream.
    pub async fn settled(&mut self) -> Result<Vec<SettlementFailure>, Status> {
        loop {
            if let Some(Response::Settled(settled)) = self.receive().await? {
                let last = self.last_request_id;
                assert_eq!(settled.request_id, last, "answers come in order");
                return Ok(settled.failures);
            }
        }
    }

    /// Sends heartbeats as often as the broker asks for.
    #[must_use]
    pub fn heartbeats(&self) -> Heartbeats {
        let interval = self.joined.heartbeat_interval;
        let interval = interval.expect("`joined` has a heartbeat interval");
        let interval = interval.try_into().expect("the interval is positive");
        let outbox = self.outbox.clone();
        Heartbeats(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            loop {
                ticks.tick().await;
                let heartbeat = Request::Heartbeat(Heartbeat::default());
                let message = Some(heartbeat);
                if outbox.send(ConsumeRequest { message }).await.is_err() {
                    return;
                }
            }
        }))
    }

    /// Leaves, and waits for the end of the stream.
    ///
    /// # Errors
    /// When the broker ends it with an error.
    pub async fn leave(mut self) -> Result<(), Status> {
        self.send(Request::Leave(Leave {})).await;
        while self.response().await?.is_some() {}
        Ok(())
    }

    /// Takes one message of the broker. Deliveries and lost leases are kept;
    /// what else came is returned.
    async fn receive(&mut self) -> Result<Option<Response>, Status> {
        match expect("a response of the broker", self.response()).await? {
            Some(Response::Deliveries(deliveries)) => {
                self.deliveries.extend(deliveries.deliveries);
                Ok(None)
            }
            Some(Response::LeasesLost(lost)) => {
                self.lost.extend(lost.leases);
                Ok(None)
            }
            Some(other) => Ok(Some(other)),
            None => Err(Status::unavailable("the broker has ended the stream")),
        }
    }
}
