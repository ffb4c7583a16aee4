//! `sluice-bench groups`: what working events off costs, with an ack for each,
//! beside a bare stream that carries the same deliveries and acks.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use clap::{Args, ValueEnum};
use sluice_proto::pb;

use crate::{
    api::broker::OwnBroker,
    consume::{self, Consumed, Load},
    load::engine::BACKLOG_AGE,
    preload,
    process::ServerProcess,
    report::{Figure, table},
};

const KEYS: usize = 1000;
/// So many times the events that are worked off are stored before them: nothing, and
/// much.
const STORED_TIMES: [u64; 2] = [0, 8];
/// Bytes of an event beside its data, and more than those.
const AROUND_EVENT: u64 = 128;

/// Settings of the run.
#[derive(Clone, Debug, Args)]
pub(crate) struct Groups {
    /// Rounds, of which the median is told.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Thousand events of 100 bytes that are worked off in one measurement; of
    /// 1 KiB it is a quarter.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    thousand_events: u32,
    /// Only these sizes of events, in bytes.
    #[arg(
        long,
        value_name = "BYTES",
        value_delimiter = ',',
        default_value = "100,1024"
    )]
    event_bytes: Vec<usize>,
    /// Only these orders, beside the bare stream.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "none,key")]
    order: Vec<Order>,
    /// Only these numbers of members.
    #[arg(
        long,
        value_name = "COUNT",
        value_delimiter = ',',
        default_value = "1,4,16"
    )]
    members: Vec<usize>,
    /// Leave out nacks, many groups, and memory.
    #[arg(long)]
    ways_only: bool,
    /// Groups of the measurement with many groups on one topic.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    groups: u32,
    /// Groups that have nothing to do, for the memory that each takes.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    idle_groups: u32,
    /// Where files are written [default: the system's folder for temporary
    /// files].
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

/// How events are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Order {
    #[value(skip)]
    Bare,
    None,
    Key,
}

impl Order {
    fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare stream",
            Self::None => "no order",
            Self::Key => "by key, 1,000 keys",
        }
    }
}

/// One way to work off events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    event_bytes: usize,
    order: Order,
    members: usize,
}

/// What it came to, by round.
#[derive(Default)]
struct Outcome {
    events_per_second: Vec<f64>,
    spread: Vec<f64>,
    server_cpu_per_million: Vec<f64>,
}

#[derive(Default)]
struct Results {
    ways: BTreeMap<Way, Outcome>,
    /// With every 100th event nacked once.
    nacks: Outcome,
    nacked: u64,
    /// Deliveries of many groups on one topic.
    many_groups: Outcome,
    /// At the end of a topic that keeps nothing else, and of one that keeps much.
    stored: [Outcome; 2],
    bytes_per_idle_group: Vec<f64>,
    bytes_per_event_in_flight: Vec<f64>,
}

/// Runs the suite and prints its tables.
pub(crate) async fn run(settings: Groups) -> anyhow::Result<()> {
    let mut results = Results::default();
    for round in 1..=settings.rounds {
        eprintln!("round {round} of {}", settings.rounds);
        settings.round(&mut results).await?;
    }
    if !settings.ways_only {
        settings.memory(&mut results).await?;
    }
    print!("{}", settings.report(&results));
    Ok(())
}

impl Groups {
    fn events(&self, event_bytes: usize) -> u64 {
        let events = u64::from(self.thousand_events) * 1000;
        if event_bytes > 100 {
            events / 4
        } else {
            events
        }
    }

    /// A broker that has in memory what is worked off of two topics, so that groups are
    /// measured and not the disk.
    fn broker(&self, event_bytes: usize) -> anyhow::Result<OwnBroker> {
        let topic = self.events(event_bytes) * (event_bytes as u64 + AROUND_EVENT);
        let limit = format!("tail_cache_bytes={}", 2 * topic + (64 << 20));
        OwnBroker::start_with(self.dir.as_deref(), &[&limit])
    }

    async fn round(&self, results: &mut Results) -> anyhow::Result<()> {
        for event_bytes in self.event_bytes.iter().copied() {
            let bare = ServerProcess::start(&["bare".as_ref()])?;
            for members in self.members.iter().copied() {
                let way = Way {
                    event_bytes,
                    order: Order::Bare,
                    members,
                };
                let load = self.load(bare.addr(), &event_bytes.to_string(), "", way);
                let outcome = results.ways.entry(way).or_default();
                measure(&bare, &load, outcome).await?;
            }
            drop(bare);

            let broker = self.broker(event_bytes)?;
            for order in self.order.iter().copied() {
                let (topic, keys) = match order {
                    Order::Key => ("keyed", KEYS),
                    Order::Bare | Order::None => ("plain", 0),
                };
                broker.create_topic(topic).await?;
                let count = self.events(event_bytes);
                preload(broker.process.addr(), topic, count, event_bytes, keys).await?;
                for members in self.members.iter().copied() {
                    let way = Way {
                        event_bytes,
                        order,
                        members,
                    };
                    let group = format!("members-{members}");
                    create_group(&broker, topic, &group, order).await?;
                    let load = self.load(broker.process.addr(), topic, &group, way);
                    let outcome = results.ways.entry(way).or_default();
                    measure(&broker.process, &load, outcome).await?;
                    delete_group(&broker, topic, &group).await?;
                }
            }
        }
        if self.ways_only {
            return Ok(());
        }
        self.nacks(results).await?;
        self.many_groups(results).await?;
        for (times, outcome) in STORED_TIMES.into_iter().zip(&mut results.stored) {
            self.behind_stored(times, outcome).await?;
        }
        Ok(())
    }

    fn load(&self, addr: SocketAddr, topic: &str, group: &str, way: Way) -> Load {
        Load {
            addr,
            topic: topic.to_owned(),
            group: group.to_owned(),
            members: way.members,
            events: self.events(way.event_bytes),
            endless: way.order == Order::Bare,
            nack_every: None,
        }
    }

    async fn nacks(&self, results: &mut Results) -> anyhow::Result<()> {
        let broker = self.broker(100)?;
        broker.create_topic("plain").await?;
        // As many as the goal names, with the default of the settings.
        let events = self.events(100) / 2;
        preload(broker.process.addr(), "plain", events, 100, 0).await?;
        create_group(&broker, "plain", "nacks", Order::None).await?;
        let load = Load {
            addr: broker.process.addr(),
            topic: "plain".into(),
            group: "nacks".into(),
            members: 4,
            events,
            endless: false,
            nack_every: Some(100),
        };
        let consumed = measure(&broker.process, &load, &mut results.nacks).await?;
        results.nacked = consumed.nacked;
        Ok(())
    }

    /// The same events as those of one member, behind so many times as many that are
    /// stored and before the group's start.
    async fn behind_stored(&self, times: u64, outcome: &mut Outcome) -> anyhow::Result<()> {
        let broker = OwnBroker::start(self.dir.as_deref())?;
        let (addr, topic, events) = (broker.process.addr(), "plain", self.events(100) / 4);
        broker.create_topic(topic).await?;
        preload::run(addr, topic, times * events, 100, 0).await?;
        let config = pb::GroupConfig {
            start: Some(pb::ReadStart {
                at: Some(pb::read_start::At::Latest(pb::Latest {})),
                ..pb::ReadStart::default()
            }),
            ..config(Order::None)
        };
        create_group_as(&broker, topic, "late", config).await?;
        preload(addr, topic, events, 100, 0).await?;
        let load = Load {
            addr,
            topic: topic.into(),
            group: "late".into(),
            members: 1,
            events,
            endless: false,
            nack_every: None,
        };
        measure(&broker.process, &load, outcome).await?;
        Ok(())
    }

    async fn many_groups(&self, results: &mut Results) -> anyhow::Result<()> {
        let broker = self.broker(100)?;
        broker.create_topic("plain").await?;
        let events = (self.events(100) / u64::from(self.groups)).max(1000);
        preload(broker.process.addr(), "plain", events, 100, 0).await?;
        let before = broker.process.usage()?;
        let started = std::time::Instant::now();
        let mut groups = tokio::task::JoinSet::new();
        for group in 0..self.groups {
            let group = format!("group-{group}");
            create_group(&broker, "plain", &group, Order::None).await?;
            let load = Load {
                addr: broker.process.addr(),
                topic: "plain".into(),
                group,
                members: 1,
                events,
                endless: false,
                nack_every: None,
            };
            groups.spawn(async move { consume::run(&load).await });
        }
        while let Some(group) = groups.join_next().await {
            group??;
        }
        let deliveries = (events * u64::from(self.groups)) as f64;
        let cpu = broker.process.usage()?.cpu - before.cpu;
        let outcome = &mut results.many_groups;
        let rate = deliveries / started.elapsed().as_secs_f64();
        outcome.events_per_second.push(rate);
        let per_million = cpu.as_secs_f64() * 1e6 / deliveries;
        outcome.server_cpu_per_million.push(per_million);
        Ok(())
    }

    /// Memory of groups that have nothing to do, and of events under lease.
    async fn memory(&self, results: &mut Results) -> anyhow::Result<()> {
        let broker = OwnBroker::start(self.dir.as_deref())?;
        broker.create_topic("plain").await?;
        create_group(&broker, "plain", "first", Order::None).await?;
        let before = broker.process.memory()?;
        for group in 1..self.idle_groups {
            let group = format!("group-{group}");
            create_group(&broker, "plain", &group, Order::None).await?;
        }
        let grown = broker.process.memory()?.saturating_sub(before) as f64;
        let each = grown / f64::from(self.idle_groups.max(2) - 1);
        results.bytes_per_idle_group.push(each);

        let broker = OwnBroker::start(self.dir.as_deref())?;
        broker.create_topic("plain").await?;
        create_group(&broker, "plain", "holding", Order::None).await?;
        const HELD: u64 = 50_000;
        preload::run(broker.process.addr(), "plain", HELD, 100, 0).await?;
        let before = broker.process.memory()?;
        let member = consume::hold(broker.process.addr(), "plain", "holding", HELD).await?;
        let grown = broker.process.memory()?.saturating_sub(before) as f64;
        results.bytes_per_event_in_flight.push(grown / HELD as f64);
        drop(member);
        Ok(())
    }

    fn report(&self, results: &Results) -> String {
        let rate = |way: &Way| {
            let rates = results.ways.get(way).map(|of| of.events_per_second.clone());
            rates.map_or(f64::NAN, |rates| Figure::of(rates).median())
        };
        let mut rows = Vec::new();
        for (way, outcome) in &results.ways {
            let bare = rate(&Way {
                order: Order::Bare,
                ..*way
            });
            let one = rate(&Way { members: 1, ..*way });
            rows.push(vec![
                format!("{} B, {}", way.event_bytes, way.order.name()),
                way.members.to_string(),
                Figure::of(outcome.events_per_second.clone()).show(1e3, 0),
                format!("{:.2}", rate(way) / bare),
                format!("{:.2}", rate(way) / one),
                Figure::of(outcome.spread.clone()).show(1.0, 2),
                Figure::of(outcome.server_cpu_per_million.clone()).show(1.0, 2),
            ]);
        }
        let ways = table(
            &[
                "an ack for each event",
                "members",
                "1,000 events/s",
                "of bare",
                "of 1 member",
                "busiest/idlest",
                "server CPU s/million",
            ],
            rows,
        );
        let settings = format!(
            "{} rounds, median (min–max); {} thousand events of 100 B, a quarter of 1 KiB, \
             which the broker has in memory.",
            self.rounds, self.thousand_events,
        );
        if self.ways_only {
            return format!("{settings}\n\n{ways}");
        }
        let row = |name: String, outcome: &Outcome| {
            vec![
                name,
                Figure::of(outcome.events_per_second.clone()).show(1e3, 0),
                Figure::of(outcome.server_cpu_per_million.clone()).show(1.0, 2),
            ]
        };
        let behind = |at: usize| {
            let stored = STORED_TIMES[at] * u64::from(self.thousand_events) / 4;
            let name = format!("one member, behind {stored} thousand stored events");
            row(name, &results.stored[at])
        };
        let others = table(
            &["100 B, no order", "1,000 events/s", "server CPU s/million"],
            vec![
                row(
                    format!("every 100th nacked once ({} nacks)", results.nacked),
                    &results.nacks,
                ),
                row(
                    format!("{} groups of one member on one topic", self.groups),
                    &results.many_groups,
                ),
                behind(0),
                behind(1),
            ],
        );
        format!(
            "{settings}\n\n\
             {ways}\n{others}\nmemory per idle group ({} groups): {:.0} bytes\n\
             memory per event under lease: {:.0} bytes\n",
            self.idle_groups,
            Figure::of(results.bytes_per_idle_group.clone()).median(),
            Figure::of(results.bytes_per_event_in_flight.clone()).median(),
        )
    }
}

/// Publishes what is to be worked off, and lets it lie.
async fn preload(
    addr: SocketAddr,
    topic: &str,
    count: u64,
    event_bytes: usize,
    keys: usize,
) -> anyhow::Result<()> {
    preload::run(addr, topic, count, event_bytes, keys).await?;
    tokio::time::sleep(BACKLOG_AGE).await;
    Ok(())
}

async fn measure(
    server: &ServerProcess,
    load: &Load,
    outcome: &mut Outcome,
) -> anyhow::Result<Consumed> {
    let before = server.usage()?;
    let consumed = consume::run(load).await?;
    let cpu = server.usage()?.cpu - before.cpu;
    let acked = consumed.acked as f64;
    let rate = acked / consumed.time.as_secs_f64();
    outcome.events_per_second.push(rate);
    outcome.spread.push(consumed.spread());
    let per_million = cpu.as_secs_f64() * 1e6 / acked;
    outcome.server_cpu_per_million.push(per_million);
    Ok(consumed)
}

async fn create_group(
    broker: &OwnBroker,
    topic: &str,
    group: &str,
    order: Order,
) -> anyhow::Result<()> {
    create_group_as(broker, topic, group, config(order)).await
}

fn config(order: Order) -> pb::GroupConfig {
    let ordering = match order {
        Order::Key => pb::Ordering::Key,
        Order::Bare | Order::None => pb::Ordering::None,
    };
    pb::GroupConfig {
        ordering: ordering.into(),
        max_in_flight: 100_000,
        retry: Some(pb::RetryPolicy {
            initial_delay: Some(prost_types::Duration::default()),
            ..pb::RetryPolicy::default()
        }),
        ..pb::GroupConfig::default()
    }
}

async fn create_group_as(
    broker: &OwnBroker,
    topic: &str,
    group: &str,
    config: pb::GroupConfig,
) -> anyhow::Result<()> {
    let request = pb::CreateGroupRequest {
        topic: topic.to_owned(),
        group: group.to_owned(),
        config: Some(config),
    };
    broker.admin().await?.create_group(request).await?;
    Ok(())
}

async fn delete_group(broker: &OwnBroker, topic: &str, group: &str) -> anyhow::Result<()> {
    let request = pb::DeleteGroupRequest {
        topic: topic.to_owned(),
        group: group.to_owned(),
    };
    broker.admin().await?.delete_group(request).await?;
    Ok(())
}
