//! Members of a group at full speed: each on a connection of its own, with an
//! ack for every event.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context;
use sluice_proto::wire::{self, settlement::Action as Settle};
use tokio::{sync::mpsc, task::JoinSet};

use crate::api::member::{self, Came, Member};

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
    number: usize,
    progress: mpsc::Sender<Progress>,
) -> anyhow::Result<()> {
    let name = format!("bench-{number}");
    let mut member = Member::join(load.addr, &load.topic, &load.group, &name, WINDOW).await?;
    let mut received = 0;
    let mut settlements = Vec::new();
    // Acks and nacks on their way, by the number of their batch.
    let mut on_their_way = HashMap::new();
    while let Some(came) = member.next().await? {
        match came {
            Came::Deliveries(deliveries) => {
                if received == 0 {
                    let first = Progress::FirstDelivery(Instant::now());
                    progress.send(first).await?;
                }
                let (mut acks, mut nacks) = (0, 0);
                for delivery in deliveries {
                    received += 1;
                    let nack = load
                        .nack_every
                        .is_some_and(|every| delivery.attempt == 1 && received % every == 0);
                    settlements.push(if nack {
                        nacks += 1;
                        wire::Settlement {
                            lease: delivery.lease,
                            action: Some(Settle::Nack(wire::Nack::default())),
                        }
                    } else {
                        acks += 1;
                        member::ack(delivery.lease)
                    });
                }
                let batch = member.settle(&mut settlements).await?;
                on_their_way.insert(batch, (acks, nacks));
            }
            Came::Settled(batch) => {
                let (acks, nacks) = on_their_way
                    .remove(&batch)
                    .context("an answer to nothing")?;
                progress.send(Progress::Acked(number, acks)).await?;
                if nacks > 0 {
                    progress.send(Progress::Nacked(nacks)).await?;
                }
            }
        }
    }
    Ok(())
}

/// Takes `events` of a group under lease, and settles none; they are kept for as
/// long as the member is there.
pub(crate) async fn hold(
    addr: SocketAddr,
    topic: &str,
    group: &str,
    events: u64,
) -> anyhow::Result<Member> {
    let mut member = Member::join(addr, topic, group, "bench", events as i64).await?;
    let mut received = 0;
    while received < events {
        let came = tokio::time::timeout(PATIENCE, member.next()).await??;
        if let Came::Deliveries(deliveries) = came.context("the stream ended")? {
            received += deliveries.len() as u64;
        }
    }
    Ok(member)
}
