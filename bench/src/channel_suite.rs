//! What a topic's channel costs: the time to the ack and to a consumer, of each
//! channel of one broker, in turn.

use std::{ffi::OsStr, path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Args;
use sluice_proto::pb::{self, Channel, admin_service_client::AdminServiceClient};

use crate::{
    end_to_end::{Latencies, to_ack, to_delivery},
    events,
    process::ServerProcess,
    publish::connect,
    report::{Figure, quantile, table},
};

const CHANNELS: [(&str, Channel); 3] = [
    ("fsync", Channel::Fsync),
    ("buffered", Channel::Buffered),
    ("memory", Channel::Memory),
];
const GROUP: &str = "bench";

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Channels {
    /// Events per second.
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Bytes of an event.
    #[arg(long, default_value_t = 1024)]
    event_bytes: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// How often each is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Where the data is; a temporary folder if it is not given.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Of one channel, by round.
#[derive(Default)]
struct Times {
    ack: Quantiles,
    delivery: Quantiles,
}

#[derive(Default)]
struct Quantiles {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Quantiles {
    fn add(&mut self, times: &Latencies) {
        self.p50.push(quantile(&times.0, 0.5).as_secs_f64());
        self.p99.push(quantile(&times.0, 0.99).as_secs_f64());
    }

    fn show(self) -> [String; 2] {
        [self.p50, self.p99].map(|values| Figure::of(values).show(1e-6, 0))
    }
}

/// Measures and prints.
pub(crate) async fn run(what: Channels) -> anyhow::Result<()> {
    let rounds = what.rounds.max(1);
    let mut times = CHANNELS.map(|_| Times::default());
    for _ in 0..rounds {
        what.round(&mut times).await?;
    }
    println!(
        "{} events/s of {} bytes, median of {rounds} (min–max), µs\n",
        what.rate, what.event_bytes
    );
    let rows = CHANNELS.into_iter().zip(times).map(|((name, _), of)| {
        let mut row = vec![name.to_owned()];
        row.extend(of.ack.show());
        row.extend(of.delivery.show());
        row
    });
    let header = [
        "channel",
        "ack p50",
        "ack p99",
        "delivery p50",
        "delivery p99",
    ];
    print!("{}", table(&header, rows.collect()));
    Ok(())
}

impl Channels {
    async fn round(&self, times: &mut [Times]) -> anyhow::Result<()> {
        let dir = match &self.dir {
            Some(dir) => tempfile::tempdir_in(dir),
            None => tempfile::tempdir(),
        };
        let dir = dir.context("no temporary folder can be made")?;
        let args: [&OsStr; 2] = ["broker".as_ref(), dir.path().as_os_str()];
        let broker = ServerProcess::start(&args)?;
        let event = events::event(self.event_bytes);
        let time = Duration::from_secs(self.seconds);
        let mut admin = AdminServiceClient::new(connect(broker.addr).await?);
        for ((name, channel), times) in CHANNELS.into_iter().zip(times) {
            let [acks, deliveries] = ["acks", "deliveries"].map(|what| format!("{name}-{what}"));
            for topic in [&acks, &deliveries] {
                let config = pb::TopicConfig {
                    channel: channel.into(),
                    ..pb::TopicConfig::default()
                };
                let topic = topic.clone();
                let config = Some(config);
                let request = pb::CreateTopicRequest { topic, config };
                admin.create_topic(request).await?;
            }
            admin
                .create_group(pb::CreateGroupRequest {
                    topic: deliveries.clone(),
                    group: GROUP.to_owned(),
                    config: None,
                })
                .await?;
            let acked = to_ack(broker.addr, &acks, event.clone(), self.rate, time).await?;
            times.ack.add(&acked);
            let event = event.clone();
            let delivered =
                to_delivery(broker.addr, &deliveries, GROUP, event, self.rate, time).await?;
            times.delivery.add(&delivered);
        }
        Ok(())
    }
}
