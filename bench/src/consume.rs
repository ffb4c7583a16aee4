//! Members of a group at full speed: each on a connection of its own, with an
//! ack for every event.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context;
use sluice_proto::wire::{
    self, consume_request::Message as In, consume_response::Message as Out,
    settlement::Action as Settle,
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use crate::publish::connect;

/// Events that a member may have at once.
const WINDOW: i64 = 4000;
/// Nothing that the bench measures takes so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who works off what.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) addr: SocketAddr,
    pub(crate) topic: String,
    pub(crate) group: String,
    pub(crate) members: usize,
    /// Events to be acked in all.
    pub(crate) events: u64,
    /// The server has more events than these.
    pub(crate) endless: bool,
    /// Every so manieth delivery is nacked when it comes for the first time.
    pub(crate) nack_every: Option<u64>,
}

/// What was worked off.
#[derive(Clone, Debug)]
pub(crate) struct Consumed {
    /// From the first delivery of any member to the last ack.
    pub(crate) time: Duration,
    /// Acked events in all.
    pub(crate) acked: u64,
    /// The same of each member.
    pub(crate) by_member: Vec<u64>,
    pub(crate) nacked: u64,
}

impl Consumed {
    /// The busiest member's share over the idlest one's.
    pub(crate) fn spread(&self) -> f64 {
        let max = self.by_member.iter().max().copied().unwrap_or(0);
        let min = self.by_member.iter().min().copied().unwrap_or(0);
        max as f64 / min as f64
    }
}

/// What a member tells of its progress.
enum Progress {
    FirstDelivery(Instant),
    /// So many more are acked, and that is durable.
    Acked(usize, u64),
    Nacked(u64),
}

/// Works the events off.
pub(crate) async fn run(load: &Load) -> anyhow::Result<Consumed> {
    let (progress, mut reports) = mpsc::channel(1024);
    let mut members = JoinSet::new();
    for member in 0..load.members {
        members.spawn(one_member(load.clone(), member, progress.clone()));
    }
    drop(progress);
    let mut by_member = vec![0; load.members];
    let (mut first, mut acked, mut nacked) = (None::<Instant>, 0, 0);
    let work = async {
        while acked < load.events {
            tokio::select! {
                report = reports.recv() => match report {
                    Some(Progress::FirstDelivery(at)) => {
                        first = Some(first.map_or(at, |first| first.min(at)));
                    }
                    Some(Progress::Acked(member, count)) => {
                        acked += count;
                        by_member[member] += count;
                    }
                    Some(Progress::Nacked(count)) => nacked += count,
                    None => anyhow::bail!("the members ended after {acked} events"),
                },
                Some(ended) = members.join_next() => ended??,
            }
        }
        Ok(Instant::now())
    };
    let last = tokio::time::timeout(PATIENCE, work).await;
    let last = last.with_context(|| format!("not done after {PATIENCE:?}"))??;
    // Too many acks mean that an event was acked twice.
    anyhow::ensure!(
        acked == load.events || load.endless,
        "{acked} acks for {} events",
        load.events
    );
    members.shutdown().await;
    Ok(Consumed {
        time: last.saturating_duration_since(first.context("nothing was delivered")?),
        acked,
        by_member,
        nacked,
    })
}

async fn one_member(
    load: Load,
    member: usize,
    progress: mpsc::Sender<Progress>,
) -> anyhow::Result<()> {
    let (requests, mut answers) = join(
        load.addr,
        &load.topic,
        &load.group,
        &format!("bench-{member}"),
        grant(0),
    )
    .await?;
    let (mut received, mut granted) = (0, WINDOW);
    let mut heard = false;
    // Acks on their way, by the number of their batch.
    let mut on_their_way = HashMap::new();
    let mut last_request_id = 0;
    while let Some(answer) = answers.message().await? {
        match answer.message {
            Some(Out::Deliveries(batch)) => {
                if !heard {
                    heard = true;
                    progress
                        .send(Progress::FirstDelivery(Instant::now()))
                        .await?;
                }
                let (mut acks, mut nacks) = (0, 0);
                let mut settlements = Vec::with_capacity(batch.deliveries.len());
                for delivery in batch.deliveries {
                    received += 1;
                    let nack = load
                        .nack_every
                        .is_some_and(|every| delivery.attempt == 1 && received % every as i64 == 0);
                    let action = if nack {
                        nacks += 1;
                        Settle::Nack(wire::Nack::default())
                    } else {
                        acks += 1;
                        Settle::Ack(wire::Ack {})
                    };
                    settlements.push(wire::Settlement {
                        lease: delivery.lease,
                        action: Some(action),
                    });
                }
                last_request_id += 1;
                on_their_way.insert(last_request_id, (acks, nacks));
                let settle = wire::SettleBatch {
                    request_id: last_request_id,
                    settlements,
                };
                requests.send(request(In::Settle(settle))).await?;
                if granted - received < WINDOW / 2 {
                    granted = received + WINDOW;
                    requests.send(request(In::Grant(grant(received)))).await?;
                }
            }
            Some(Out::Settled(settled)) => {
                anyhow::ensure!(settled.failures.is_empty(), "{:?}", settled.failures);
                let (acks, nacks) = on_their_way
                    .remove(&settled.request_id)
                    .context("an answer to nothing")?;
                progress.send(Progress::Acked(member, acks)).await?;
                if nacks > 0 {
                    progress.send(Progress::Nacked(nacks)).await?;
                }
            }
            Some(Out::LeasesLost(lost)) => anyhow::bail!("lost {} leases", lost.leases.len()),
            _ => {}
        }
    }
    Ok(())
}

/// Where a member sends, and what it gets.
pub(crate) type Stream = (
    mpsc::Sender<wire::ConsumeRequest>,
    tonic::Streaming<wire::ConsumeResponse>,
);

/// Joins a group.
pub(crate) async fn join(
    addr: SocketAddr,
    topic: &str,
    group: &str,
    member: &str,
    grant: wire::Grant,
) -> anyhow::Result<Stream> {
    let mut client =
        tonic::client::Grpc::new(connect(addr).await?).max_decoding_message_size(16 << 20);
    client.ready().await?;
    let (requests, stream) = mpsc::channel(256);
    let join = wire::Join {
        topic: topic.to_owned(),
        group: group.to_owned(),
        member: member.to_owned(),
        grant: Some(grant),
        ..wire::Join::default()
    };
    // Before the call, which is answered only when it has a first message.
    requests.send(request(In::Join(join))).await?;
    let path = PathAndQuery::from_static("/sluice.v1.BrokerService/Consume");
    let codec = ProstCodec::<wire::ConsumeRequest, wire::ConsumeResponse>::default();
    let response = client
        .streaming(
            tonic::Request::new(ReceiverStream::new(stream)),
            path,
            codec,
        )
        .await?;
    Ok((requests, response.into_inner()))
}

/// Credit for a full window beyond what was received.
fn grant(received: i64) -> wire::Grant {
    wire::Grant {
        max_events: received + WINDOW,
        max_bytes: 0,
    }
}

fn request(message: In) -> wire::ConsumeRequest {
    wire::ConsumeRequest {
        message: Some(message),
    }
}

/// A member that takes `events` and keeps them, for as long as this is there.
pub(crate) struct Holding {
    _requests: mpsc::Sender<wire::ConsumeRequest>,
    _answers: tonic::Streaming<wire::ConsumeResponse>,
}

/// Takes `events` of a group under lease, and settles none.
pub(crate) async fn hold(
    addr: SocketAddr,
    topic: &str,
    group: &str,
    events: u64,
) -> anyhow::Result<Holding> {
    let grant = wire::Grant {
        max_events: events as i64,
        max_bytes: 0,
    };
    let (requests, mut answers) = join(addr, topic, group, "bench", grant).await?;
    let mut received = 0;
    while received < events {
        let answer = tokio::time::timeout(PATIENCE, answers.message()).await??;
        let answer = answer.context("the stream ended")?;
        if let Some(Out::Deliveries(batch)) = answer.message {
            received += batch.deliveries.len() as u64;
        }
    }
    Ok(Holding {
        _requests: requests,
        _answers: answers,
    })
}
