//! Consume: a member on a stream.
//!
//! Two halves. [`Incoming`] is a task that reads the client's messages and asks
//! the group. The response stream is polled by the transport; it takes answers
//! first and deliveries only when there is no answer, so that acks and
//! heartbeats never queue behind data, and a delivery is encoded only when the
//! connection has room for it.

use std::sync::Arc;

use futures_util::{
    Stream, StreamExt,
    stream::{self, FuturesUnordered},
};
use sluice_proto::{
    settlements::SettleBatchRef,
    wire::{self, consume_request::Message as In, consume_response::Message as Out},
};
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming};

use super::{
    api::Api,
    authorize::Action,
    calls::Calls,
    convert,
    pull::{member_name, message_bytes, renewal_ms},
    refusal::{Refusal, unread_message},
    settlements::wire_failures,
};
use crate::group::{GroupGone, GroupHandle, Inbox, JoinRequest, MemberId, Outgoing, Shrinks};

type Answer = Result<wire::ConsumeResponse, Status>;

/// Answers that may wait for the connection; then the client's messages wait.
const ANSWERS_MAX: usize = 64;
/// Settlement batches that may be on their way to the log.
const SETTLEMENTS_IN_FLIGHT_MAX: usize = 256;

/// Grants that the group has not answered yet; then the client's messages wait.
const GRANTS_IN_FLIGHT_MAX: usize = 16;

/// Starts a stream.
pub(super) fn start(
    api: Arc<Api>,
    calls: &Calls,
    requests: Streaming<wire::ConsumeRequest>,
) -> impl Stream<Item = Answer> + Send + use<> {
    let (answers, waiting) = mpsc::channel(ANSWERS_MAX);
    let (inbox, joined) = oneshot::channel();
    calls.run(async move {
        let mut incoming = Incoming {
            api,
            answers,
            member: None,
        };
        incoming.run(requests, inbox).await;
    });
    let responses = Responses {
        deliveries: Deliveries::NotYet(joined),
        answers: waiting,
    };
    stream::unfold(responses, |mut responses| async move {
        let next = responses.next().await?;
        Some((next, responses))
    })
}

/// The outgoing half.
struct Responses {
    // In this order: what was not sent goes back before the other half sees that the
    // client is gone, as nobody has begun to work on it.
    deliveries: Deliveries,
    answers: mpsc::Receiver<Answer>,
}

enum Deliveries {
    NotYet(oneshot::Receiver<Inbox>),
    From(Inbox),
    /// The member is out; what is left are answers.
    None,
}

impl Responses {
    async fn next(&mut self) -> Option<Answer> {
        loop {
            let message = match &mut self.deliveries {
                Deliveries::None => return self.answers.recv().await,
                Deliveries::NotYet(joined) => tokio::select! {
                    biased;
                    answer = self.answers.recv() => return answer,
                    inbox = joined => {
                        self.deliveries = inbox.map_or(Deliveries::None, Deliveries::From);
                        continue;
                    }
                },
                Deliveries::From(inbox) => tokio::select! {
                    biased;
                    answer = self.answers.recv() => return answer,
                    message = inbox.next() => message,
                },
            };
            let Some(message) = message else {
                self.deliveries = Deliveries::None;
                continue;
            };
            let message = match message {
                Outgoing::Deliveries(message) => Out::Deliveries(message.into_wire()),
                Outgoing::Gap {
                    partition,
                    first,
                    end,
                    count,
                } => Out::Gap(wire::Gap {
                    partition: partition.0 as i32,
                    first: first.0 as i64,
                    end: end.0 as i64,
                    event_count: count as i64,
                }),
                Outgoing::Drained { request_id, idle } => Out::Drained(wire::Drained {
                    request_id,
                    idle: convert::idle(idle).into(),
                }),
                Outgoing::LeasesLost(tokens) => Out::LeasesLost(wire::LeasesLost {
                    leases: tokens.into_iter().map(convert::wire_token).collect(),
                }),
            };
            return Some(Ok(response(message)));
        }
    }
}

fn response(message: Out) -> wire::ConsumeResponse {
    wire::ConsumeResponse {
        message: Some(message),
    }
}

fn granted(taken: Result<Result<(), Shrinks>, GroupGone>) -> Result<(), Status> {
    let taken = taken.map_err(|GroupGone| Refusal::group_gone())?;
    Ok(taken.map_err(|error| Refusal::shrinking("grant", error))?)
}

/// The incoming half.
struct Incoming {
    api: Arc<Api>,
    answers: mpsc::Sender<Answer>,
    member: Option<Member>,
}

struct Member {
    group: GroupHandle,
    id: MemberId,
}

/// How a stream ended.
enum End {
    /// The client said so.
    Left,
    /// The connection, or the client's half of it, is gone.
    Gone,
}

impl Incoming {
    async fn run(
        &mut self,
        requests: Streaming<wire::ConsumeRequest>,
        inbox: oneshot::Sender<Inbox>,
    ) {
        let result = self.serve(requests, inbox).await;
        if let Some(member) = self.member.take() {
            match result {
                Ok(End::Left) => member.group.leave(member.id).await,
                // Nobody is lost when it is the broker that goes: whoever works goes on
                // after its start.
                _ if self.api.stopping.is_cancelled() => {}
                _ => member.group.disconnected(member.id).await,
            }
        }
        if let Err(status) = result {
            let _ = self.answers.send(Err(status)).await;
        }
    }

    async fn serve(
        &mut self,
        mut requests: Streaming<wire::ConsumeRequest>,
        inbox: oneshot::Sender<Inbox>,
    ) -> Result<End, Status> {
        let (stopping, answers) = (self.api.stopping.clone(), self.answers.clone());
        let over = async || {
            tokio::select! {
                () = stopping.cancelled() => Err(Refusal::shutting_down().into()),
                () = answers.closed() => Ok(End::Gone),
            }
        };
        let first = tokio::select! {
            first = requests.message() => first.map_err(unread_message)?,
            over = over() => return over,
        };
        let Some(first) = first else {
            return Ok(End::Gone);
        };
        let Some(In::Join(join)) = first.message else {
            return Err(Refusal::stream_state("the first message must be `join`").into());
        };
        // To its end, also for a client that is gone: the group has to be told of
        // whoever is in it.
        let (group, id) = self.join(join, inbox).await?;
        tokio::select! {
            result = self.read(requests, group, id) => result,
            over = over() => over,
        }
    }

    async fn read(
        &self,
        mut requests: Streaming<wire::ConsumeRequest>,
        group: GroupHandle,
        id: MemberId,
    ) -> Result<End, Status> {
        let mut settling = FuturesUnordered::new();
        let mut granting = FuturesUnordered::new();
        loop {
            let takes_more =
                settling.len() < SETTLEMENTS_IN_FLIGHT_MAX && granting.len() < GRANTS_IN_FLIGHT_MAX;
            tokio::select! {
                biased;
                Some(settled) = settling.next() => self.answer(settled).await?,
                Some(taken) = granting.next() => granted(taken)?,
                request = requests.message(), if takes_more => {
                    let Some(request) = request.map_err(unread_message)? else {
                        // The client will say no more, but may want to hear what
                        // became of its settlements.
                        while let Some(settled) = settling.next().await {
                            self.answer(settled).await?;
                        }
                        return Ok(End::Gone);
                    };
                    match request.message {
                        Some(In::Settle(encoded)) => {
                            let batch = SettleBatchRef::read(&encoded).map_err(Refusal::unread)?;
                            settling.push(self.settle(&group, id, batch)?);
                        }
                        Some(In::Grant(grant)) => {
                            let grant = convert::grant("grant", grant)?;
                            let in_line = group.grant(id, grant).await;
                            let in_line = in_line.map_err(|GroupGone| Refusal::group_gone())?;
                            granting.push(in_line.taken());
                        }
                        Some(In::Heartbeat(heartbeat)) => {
                            self.heartbeat(&group, id, heartbeat).await?;
                        }
                        Some(In::Drain(drain)) => group.drain(id, drain.request_id).await,
                        Some(In::Leave(_)) => {
                            while let Some(settled) = settling.next().await {
                                self.answer(settled).await?;
                            }
                            return Ok(End::Left);
                        }
                        Some(In::Join(_)) => {
                            let message = "`join` was sent before; a stream joins once, first";
                            return Err(Refusal::stream_state(message).into());
                        }
                        // A kind of message from a later version.
                        None => {}
                    }
                }
            }
        }
    }

    async fn join(
        &mut self,
        join: wire::Join,
        inbox: oneshot::Sender<Inbox>,
    ) -> Result<(GroupHandle, MemberId), Status> {
        let group = self.api.group(Action::Consume, &join.topic, &join.group)?;
        let (count, limit) = (join.held.len(), self.api.limits.leases_per_member_max);
        if count > limit {
            return Err(Refusal::limit("join.held", format!("{count} long"), limit).into());
        }
        let message_bytes_max = message_bytes("join.max_message_bytes", join.max_message_bytes)?;
        let held: Result<Vec<_>, _> = join
            .held
            .into_iter()
            .map(|token| convert::token("join.held", Some(token)))
            .collect();
        let name = member_name("join.member", join.member)?;
        let request = JoinRequest {
            name: name.clone(),
            grant: join
                .grant
                .map(|grant| convert::grant("join.grant", grant))
                .transpose()?,
            held: held?,
            message_bytes_max,
        };
        let (joined, messages) = group.join(request).await.map_err(Refusal::from)?;
        self.member = Some(Member {
            group: group.clone(),
            id: joined.member,
        });
        self.answer(Out::Joined(wire::Joined {
            member: name,
            lease_duration: Some(convert::duration_ms(joined.lease_ms)),
            heartbeat_interval: Some(convert::duration_ms(renewal_ms(joined.lease_ms))),
            lost: joined.lost.into_iter().map(convert::wire_token).collect(),
        }))
        .await?;
        // After the answer, so that no delivery comes before it.
        let _ = inbox.send(messages);
        Ok((group, joined.member))
    }

    fn settle(
        &self,
        group: &GroupHandle,
        member: MemberId,
        batch: SettleBatchRef<'_>,
    ) -> Result<impl Future<Output = Out> + use<>, Status> {
        let request_id = batch.request_id;
        let checked = self.api.settlements(batch.settlements)?;
        let group = group.clone();
        Ok(async move {
            let failures = match group.settle(Some(member), checked.settlements).await {
                Ok(failures) => wire_failures(&checked.leases, failures),
                Err(_) => {
                    let gone = crate::group::SettlementError::GroupGone;
                    let all = (0..checked.leases.len()).map(|index| (index, gone.clone()));
                    wire_failures(&checked.leases, all.collect())
                }
            };
            Out::Settled(wire::Settled {
                request_id,
                failures,
            })
        })
    }

    async fn heartbeat(
        &self,
        group: &GroupHandle,
        member: MemberId,
        heartbeat: wire::Heartbeat,
    ) -> Result<(), Status> {
        let grant = heartbeat
            .grant
            .map(|grant| convert::grant("heartbeat.grant", grant))
            .transpose()?;
        let idle = group
            .heartbeat(member, grant)
            .await
            .map_err(|_| Refusal::group_gone())?
            .map_err(|error| Refusal::shrinking("heartbeat.grant", error))?;
        self.answer(Out::Heartbeat(wire::HeartbeatAck {
            idle: convert::idle(idle).into(),
        }))
        .await
    }

    async fn answer(&self, message: Out) -> Result<(), Status> {
        let sent = self.answers.send(Ok(response(message))).await;
        sent.map_err(|_| Status::cancelled("the client is gone"))
    }
}
