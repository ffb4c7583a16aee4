//! Consumers that join, grant everything and never read; and clients that come
//! and go.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use sluice_proto::pb;
use tonic::transport::Endpoint;

use super::{Findings, Flow};
use crate::{
    api::{broker::OwnBroker, member::Member},
    consume, preload,
    report::{Figure, markdown_table},
};

const TOPIC: &str = "in";
const STALLED: &str = "stalled";
const CONSUMERS: usize = 1000;
const ROUNDS: usize = 3;
/// What others do in one round.
const EVENTS: usize = 300_000;
const EVENT_BYTES: usize = 1024;
/// What those who never read are offered before it is measured again: more than
/// fits all buffers.
const OFFERED_BYTES: usize = 1200 << 20;
const OFFERED_EVENT_BYTES: usize = 16 << 10;
/// Clients that connect at the same time.
const CONNECTING: usize = 50;
/// How often clients come and go.
const TIMES: usize = 20;
/// As a client has it by default in most languages.
const WINDOW_BYTES: u32 = 64 << 10;

pub(super) async fn run(settings: &Flow) -> anyhow::Result<Findings> {
    let broker = OwnBroker::start(settings.dir.as_deref())?;
    broker.create_topic(TOPIC).await?;
    create_group(&broker, STALLED).await?;
    let consumers = settings.count(CONSUMERS).min(CONSUMERS);
    let events = settings.count(EVENTS) as u64;
    eprintln!("alone");
    let mut alone = others(&broker, "before", events).await?;

    eprintln!("beside {consumers} that never read");
    let before = broker.process.memory()?;
    let stalled = join(broker.process.addr(), consumers).await?;
    let connected = broker.process.memory()?;
    let offered = settings.count(OFFERED_BYTES / OFFERED_EVENT_BYTES) as u64;
    let addr = broker.process.addr();
    preload::run(addr, TOPIC, offered, OFFERED_EVENT_BYTES, 0).await?;
    let beside = others(&broker, "beside", events).await?;
    let full = broker.process.memory()?;
    drop(stalled);
    until_gone(&broker).await?;
    let left = broker.process.memory()?;
    eprintln!("alone again");
    alone.extend(others(&broker, "after", events).await?);

    drop(broker);
    let memory = come_and_go(settings, consumers).await?;
    Ok(report(
        consumers,
        &alone,
        &beside,
        [before, connected, full, left],
        &memory,
    ))
}

/// What a broker has of memory after each time that all clients have come and gone.
async fn come_and_go(settings: &Flow, clients: usize) -> anyhow::Result<Vec<u64>> {
    eprintln!("{clients} that come and go");
    let broker = OwnBroker::start(settings.dir.as_deref())?;
    broker.create_topic(TOPIC).await?;
    create_group(&broker, STALLED).await?;
    let mut memory = Vec::new();
    for _ in 0..settings.count(TIMES).min(TIMES) {
        drop(join(broker.process.addr(), clients).await?);
        until_gone(&broker).await?;
        memory.push(broker.process.memory()?);
    }
    Ok(memory)
}

/// Events a second that another group gets done while they are published, in each
/// of some rounds.
async fn others(broker: &OwnBroker, name: &str, events: u64) -> anyhow::Result<Vec<f64>> {
    let mut rates = Vec::new();
    for round in 0..ROUNDS {
        let group = format!("{name}-{round}");
        create_group(broker, &group).await?;
        let addr = broker.process.addr();
        let load = consume::Load {
            addr,
            topic: TOPIC.to_owned(),
            group: group.clone(),
            members: 2,
            events,
            endless: false,
            nack_every: None,
        };
        let began = Instant::now();
        let publish = preload::run(addr, TOPIC, events, EVENT_BYTES, 0);
        tokio::try_join!(publish, consume::run(&load))?;
        rates.push(events as f64 / began.elapsed().as_secs_f64());
        let request = pb::DeleteGroupRequest {
            topic: TOPIC.to_owned(),
            group,
        };
        broker.admin().await?.delete_group(request).await?;
    }
    Ok(rates)
}

/// A group that begins at the topic's end.
async fn create_group(broker: &OwnBroker, group: &str) -> anyhow::Result<()> {
    let request = pb::CreateGroupRequest {
        topic: TOPIC.to_owned(),
        group: group.to_owned(),
        config: Some(pb::GroupConfig {
            ordering: pb::Ordering::None.into(),
            max_in_flight: 100_000,
            start: Some(pb::ReadStart {
                at: Some(pb::read_start::At::Latest(pb::Latest {})),
                epoch: 0,
            }),
            on_connection_loss: pb::ConnectionLoss::AtOnce.into(),
            ..pb::GroupConfig::default()
        }),
    };
    broker.admin().await?.create_group(request).await?;
    Ok(())
}

/// Members, each on a connection of its own, that grant all there is.
async fn join(addr: SocketAddr, count: usize) -> anyhow::Result<Vec<Member>> {
    let members = stream::iter(0..count).map(|number| async move {
        let channel = Endpoint::from_shared(format!("http://{addr}"))?
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .connect()
            .await?;
        let name = format!("bench-{number}");
        Member::join_on(channel, TOPIC, STALLED, &name, i64::MAX / 2).await
    });
    members.buffer_unordered(CONNECTING).try_collect().await
}

/// Until the group has no member, and a moment longer.
async fn until_gone(broker: &OwnBroker) -> anyhow::Result<()> {
    let mut admin = broker.admin().await?;
    let gone = async {
        loop {
            let request = pb::DescribeGroupRequest {
                topic: TOPIC.to_owned(),
                group: STALLED.to_owned(),
                ..pb::DescribeGroupRequest::default()
            };
            let described = admin.describe_group(request).await?.into_inner();
            if described.members.is_empty() {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let gone = tokio::time::timeout(Duration::from_secs(60), gone).await;
    gone.context("members that have left are still there")??;
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(())
}

fn report(
    consumers: usize,
    alone: &[f64],
    beside: &[f64],
    [before, connected, full, left]: [u64; 4],
    memory: &[u64],
) -> Findings {
    let (alone, beside) = (Figure::of(alone.to_vec()), Figure::of(beside.to_vec()));
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let row = |name: String, value: String| vec![name, value];
    let rows = vec![
        row(
            "another group alone, 1,000 events/s".into(),
            alone.show(1e3, 0),
        ),
        row("the same beside them".into(), beside.show(1e3, 0)),
        row(
            "beside / alone".into(),
            format!("{:.2}", beside.median() / alone.median()),
        ),
        row("memory before they come".into(), mib(before)),
        row("when they are connected".into(), mib(connected)),
        row(
            "when nothing more goes in, and others have worked".into(),
            mib(full),
        ),
        row(
            "for each of them".into(),
            format!(
                "{} KiB",
                (full.saturating_sub(before) >> 10) / consumers as u64
            ),
        ),
        row("when they are gone".into(), mib(left)),
        row(
            format!(
                "{consumers} clients come and go {} times: after the first time",
                memory.len()
            ),
            mib(memory.first().copied().unwrap_or(0)),
        ),
        row(
            "after the last".into(),
            mib(memory.last().copied().unwrap_or(0)),
        ),
    ];
    Findings {
        text: format!(
            "# Consumers that never read\n\n\
             {consumers} consumers, each on a connection with a window of {} KiB, join one group, grant \
             everything, and never read. Another group of two members works off {EVENT_BYTES}-byte \
             events while they are published, in {ROUNDS} rounds before, beside and ({ROUNDS} more) after \
             them. Every limit is at its default.\n\n{}",
            WINDOW_BYTES >> 10,
            markdown_table(&["what", "seen"], rows),
        ),
        pictures: Vec::new(),
    }
}
