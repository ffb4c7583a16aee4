//! Members of a group at full speed: each on a connection of its own, with an
//! ack for every event.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use sluice_proto::wire::{self, settlement::Action as Settle};
use tokio::{sync::Notify, task::JoinSet};

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

/// How far the members are. They only count: to tell somebody of each batch would wake
/// another thread each time, and be measured with the rest.
struct Progress {
    events: u64,
    first: OnceLock<Instant>,
    /// When enough were acked, and how many then.
    last: OnceLock<(Instant, u64)>,
    acked: AtomicU64,
    by_member: Vec<AtomicU64>,
    nacked: AtomicU64,
    done: Notify,
}

impl Progress {
    fn new(load: &Load) -> Self {
        Self {
            events: load.events,
            first: OnceLock::new(),
            last: OnceLock::new(),
            acked: AtomicU64::new(0),
            by_member: (0..load.members).map(|_| AtomicU64::new(0)).collect(),
            nacked: AtomicU64::new(0),
            done: Notify::new(),
        }
    }

    /// So many more are acked by a member, and that is durable.
    fn acked(&self, member: usize, count: u64) {
        self.by_member[member].fetch_add(count, Relaxed);
        let before = self.acked.fetch_add(count, Relaxed);
        let now = before + count;
        if before < self.events && now >= self.events {
            self.last.get_or_init(|| (Instant::now(), now));
            self.done.notify_one();
        }
    }

    fn nacked(&self, count: u64) {
        self.nacked.fetch_add(count, Relaxed);
    }

    fn is_done(&self) -> bool {
        self.last.get().is_some()
    }

    fn consumed(&self) -> anyhow::Result<Consumed> {
        let first = self.first.get().context("nothing was delivered")?;
        let (last, acked) = self.last.get().context("not all events were acked")?;
        Ok(Consumed {
            time: last.saturating_duration_since(*first),
            acked: *acked,
            by_member: self.by_member.iter().map(|of| of.load(Relaxed)).collect(),
            nacked: self.nacked.load(Relaxed),
        })
    }
}

/// Works the events off.
pub(crate) async fn run(load: &Load) -> anyhow::Result<Consumed> {
    let progress = Arc::new(Progress::new(load));
    let mut members = JoinSet::new();
    for member in 0..load.members {
        members.spawn(one_member(load.clone(), member, progress.clone()));
    }
    let work = async {
        while !progress.is_done() {
            tokio::select! {
                () = progress.done.notified() => {}
                ended = members.join_next() => match ended {
                    Some(ended) => ended??,
                    None => anyhow::bail!("the members ended before all events were acked"),
                },
            }
        }
        Ok(())
    };
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.with_context(|| format!("not done after {PATIENCE:?}"))??;
    members.shutdown().await;
    let acked = progress.acked.load(Relaxed);
    // Too many acks mean that an event was acked twice.
    anyhow::ensure!(
        acked == load.events || load.endless,
        "{acked} acks for {} events",
        load.events
    );
    progress.consumed()
}

async fn one_member(load: Load, number: usize, progress: Arc<Progress>) -> anyhow::Result<()> {
    let name = format!("bench-{number}");
    let mut member = Member::join(load.addr, &load.topic, &load.group, &name, WINDOW).await?;
    let mut received = 0;
    let mut settlements = Vec::new();
    // Acks and nacks on their way, by the number of their batch.
    let mut on_their_way = HashMap::new();
    while let Some(came) = member.next().await? {
        match came {
            Came::Deliveries(deliveries) => {
                progress.first.get_or_init(Instant::now);
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
                // They are sent before the next deliveries are looked at.
                tokio::task::yield_now().await;
            }
            Came::Settled(batch) => {
                let (acks, nacks) = on_their_way
                    .remove(&batch)
                    .context("an answer to nothing")?;
                progress.nacked(nacks);
                progress.acked(number, acks);
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
