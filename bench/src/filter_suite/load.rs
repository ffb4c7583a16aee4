//! One measurement: a broker, its groups, and events that go through it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use sluice_proto::pb::{self, admin_service_client::AdminServiceClient};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::cases::{Case, Stream, event, type_of};
use crate::api::{
    broker::OwnBroker,
    connect,
    member::{Came, Member, ack},
    publisher::Publisher,
};

const TOPIC: &str = "events";
/// Events of a batch, and batches under way.
const BATCH: usize = 800;
const IN_FLIGHT: usize = 8;
/// Events that a member may have at once.
const WINDOW: i64 = 4000;
/// Members on one connection.
const MEMBERS_PER_CONNECTION: usize = 64;
/// Nothing that is measured takes so long.
const PATIENCE: Duration = Duration::from_secs(120);

impl Case {
    /// Publishes so many events to a broker whose data is in `dir`, and waits until
    /// all that is wanted of them is acked.
    pub(super) async fn measure(&mut self, dir: Option<&Path>, events: u64) -> anyhow::Result<()> {
        let broker = OwnBroker::start(dir)?;
        let admin = broker.admin().await?;
        broker.create_topic(TOPIC).await?;
        let mut members = JoinSet::new();
        let mut connection = None;
        for (number, reader) in self.readers.iter().enumerate() {
            let group = format!("group-{number}");
            create_group(&admin, &group, &reader.filter).await?;
            let left = Arc::new(Left::new(reader.gets));
            for _ in 0..reader.members {
                if members.len().is_multiple_of(MEMBERS_PER_CONNECTION) {
                    connection = Some(connect(broker.process.addr()).await?);
                }
                let channel = connection.clone().context("the first one opens one")?;
                let member = Member::join_on(channel, TOPIC, &group, "bench", WINDOW).await?;
                members.spawn(take(member, left.clone()));
            }
        }
        let before = broker.process.usage()?;
        let started = Instant::now();
        let work = async {
            publish(&broker, events, self.stream).await?;
            while let Some(done) = members.join_next().await {
                done??;
            }
            anyhow::Ok(())
        };
        let done = tokio::time::timeout(PATIENCE, work).await;
        done.with_context(|| format!("{} is not done after {PATIENCE:?}", self.name))??;
        let (time, used) = (started.elapsed(), broker.process.usage()?.since(&before));
        let outcome = &mut self.outcome;
        outcome
            .events_per_second
            .push(events as f64 / time.as_secs_f64());
        outcome
            .server_cpu_per_million
            .push(used.cpu.as_secs_f64() * 1e6 / events as f64);
        Ok(())
    }
}

async fn publish(broker: &OwnBroker, events: u64, stream: Stream) -> anyhow::Result<()> {
    let types: Vec<Bytes> = (0..stream.types)
        .map(|number| event(&type_of(number, stream.types)))
        .collect();
    let other = event("image.other");
    let mut events = (0..events).map(|at| {
        let of = stream.type_at(at).map(|number| &types[number as usize]);
        of.unwrap_or(&other).clone()
    });
    let publisher = Publisher::open(broker.process.addr()).await?;
    let mut on_their_way = FuturesUnordered::new();
    loop {
        let batch: Vec<Bytes> = events.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            break;
        }
        on_their_way.push(publisher.send(TOPIC, batch).await?);
        if on_their_way.len() == IN_FLIGHT {
            on_their_way.next().await.transpose()?;
        }
    }
    while on_their_way.next().await.transpose()?.is_some() {}
    Ok(())
}

/// What the members of a group have not received yet.
struct Left {
    events: AtomicU64,
    /// It is nothing.
    done: CancellationToken,
}

impl Left {
    fn new(events: u64) -> Self {
        let done = CancellationToken::new();
        if events == 0 {
            done.cancel();
        }
        Self {
            events: events.into(),
            done,
        }
    }

    fn received(&self, events: u64) -> anyhow::Result<()> {
        let before = self.events.fetch_sub(events, Ordering::Relaxed);
        anyhow::ensure!(before >= events, "{} too many came", events - before);
        if before == events {
            self.done.cancel();
        }
        Ok(())
    }
}

/// Takes and acks what comes until nothing is left, and waits until the acks are
/// durable.
async fn take(mut member: Member, left: Arc<Left>) -> anyhow::Result<()> {
    let mut last = None;
    loop {
        let came = tokio::select! {
            came = member.next() => came?.context("the stream ended")?,
            () = left.done.cancelled(), if last.is_none() => return Ok(()),
        };
        match came {
            Came::Deliveries(deliveries) => {
                left.received(deliveries.len() as u64)?;
                let mut acks = deliveries.into_iter().map(|of| ack(of.lease)).collect();
                last = Some(member.settle(&mut acks).await?);
            }
            Came::Settled(number) => last = last.filter(|last| *last > number),
        }
    }
}

async fn create_group(
    admin: &AdminServiceClient<Channel>,
    group: &str,
    filter: &str,
) -> anyhow::Result<()> {
    let config = pb::GroupConfig {
        ordering: pb::Ordering::None.into(),
        filter: filter.to_owned(),
        max_in_flight: 100_000,
        ..pb::GroupConfig::default()
    };
    let request = pb::CreateGroupRequest {
        topic: TOPIC.into(),
        group: group.to_owned(),
        config: Some(config),
    };
    admin.clone().create_group(request).await?;
    Ok(())
}
