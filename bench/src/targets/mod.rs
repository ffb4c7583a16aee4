//! The brokers on which a load can run.

pub(crate) mod address;
pub(crate) mod bare;
#[cfg(any(feature = "iggy", feature = "kafka"))]
mod gather;
#[cfg(feature = "iggy")]
mod iggy;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "kafka")]
mod nodelay;
#[cfg(any(feature = "iggy", feature = "kafka"))]
mod partitions;
#[cfg(any(
    feature = "iggy",
    feature = "kafka",
    feature = "nats",
    feature = "rabbitmq",
    feature = "redis"
))]
mod peer;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(feature = "redis")]
mod redis;
pub(crate) mod sluice;

use std::sync::Arc;

#[cfg(any(feature = "iggy", feature = "kafka"))]
use anyhow::Context;
use clap::ValueEnum;

use self::{address::Addresses, bare::Bare, sluice::Sluice};
#[cfg(feature = "rabbitmq")]
use crate::load::workload::Ack;
use crate::load::{
    target::{AckedWhen, Target},
    workload::{Channel, Kind, Spec},
};

/// Why a server that somebody else has started is not in a recovery.
#[cfg(any(feature = "iggy", feature = "kafka"))]
const NOT_TO_BE_KILLED: &str = "it was given by its address, and is not the bench's to kill";

/// Why one that syncs each request does not take part where every batch goes to many
/// partitions: in ten times the load's time it has acked less than twenty batches.
#[cfg(any(feature = "iggy", feature = "kafka"))]
const SMALL_REQUESTS: &str = "it syncs a small request for each partition that a batch goes to, \
                              and acks too few batches to tell a rate";

/// Other brokers, of which this build knows some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// Redis Streams.
    #[cfg(feature = "redis")]
    Redis,
    /// NATS JetStream.
    #[cfg(feature = "nats")]
    Nats,
    /// RabbitMQ: quorum queues, which sync before each ack, and streams, which do
    /// not.
    #[cfg(feature = "rabbitmq")]
    Rabbitmq,
    /// Kafka, which bench/kafka/get gets.
    #[cfg(feature = "kafka")]
    Kafka,
    /// Apache Iggy, whose server the variable SLUICE_BENCH_IGGY names.
    #[cfg(feature = "iggy")]
    Iggy,
}

impl Peer {
    /// All that this build knows and this machine has.
    pub(crate) fn installed() -> Vec<Self> {
        let all = Self::value_variants().iter().copied();
        all.filter(|peer| peer.is_installed()).collect()
    }

    /// Whether this machine has its server.
    pub(crate) fn is_installed(self) -> bool {
        match self {
            #[cfg(feature = "redis")]
            Self::Redis => peer::version(redis::PROGRAM).is_some(),
            #[cfg(feature = "nats")]
            Self::Nats => peer::version(nats::PROGRAM).is_some(),
            #[cfg(feature = "rabbitmq")]
            Self::Rabbitmq => rabbitmq::version().is_some(),
            #[cfg(feature = "kafka")]
            Self::Kafka => kafka::version().is_some(),
            #[cfg(feature = "iggy")]
            Self::Iggy => iggy::is_there(),
        }
    }

    /// It, as it is by default and with a sync before each ack.
    pub(crate) fn brokers(self) -> Vec<Broker> {
        match self {
            #[cfg(feature = "redis")]
            Self::Redis => vec![Broker::RedisSynced, Broker::Redis],
            #[cfg(feature = "nats")]
            Self::Nats if nats::can_sync_always() => vec![Broker::NatsSynced, Broker::Nats],
            #[cfg(feature = "nats")]
            Self::Nats => vec![Broker::Nats],
            #[cfg(feature = "rabbitmq")]
            Self::Rabbitmq => vec![Broker::RabbitmqQuorum, Broker::RabbitmqStream],
            #[cfg(feature = "kafka")]
            Self::Kafka => vec![Broker::KafkaSynced, Broker::Kafka],
            #[cfg(feature = "iggy")]
            Self::Iggy => vec![Broker::IggySynced, Broker::Iggy],
        }
    }
}

/// A broker and how it syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broker {
    /// This one, with the channel that a load says: nearly always fsync.
    Sluice,
    /// This one, with buffered topics.
    SluiceBuffered,
    /// This one, with memory topics.
    SluiceMemory,
    /// The same API, checksum and durable write, and no broker.
    Bare,
    #[cfg(feature = "redis")]
    RedisSynced,
    #[cfg(feature = "redis")]
    Redis,
    #[cfg(feature = "nats")]
    NatsSynced,
    #[cfg(feature = "nats")]
    Nats,
    #[cfg(feature = "rabbitmq")]
    RabbitmqQuorum,
    #[cfg(feature = "rabbitmq")]
    RabbitmqStream,
    #[cfg(feature = "kafka")]
    KafkaSynced,
    #[cfg(feature = "kafka")]
    Kafka,
    /// One that somebody else has started.
    #[cfg(feature = "kafka")]
    KafkaGiven,
    #[cfg(feature = "iggy")]
    IggySynced,
    #[cfg(feature = "iggy")]
    Iggy,
    /// One that somebody else has started.
    #[cfg(feature = "iggy")]
    IggyGiven,
}

impl Broker {
    /// What needs no other server.
    pub(crate) fn own() -> Vec<Self> {
        vec![
            Self::Sluice,
            Self::SluiceBuffered,
            Self::SluiceMemory,
            Self::Bare,
        ]
    }

    pub(crate) fn is_own(self) -> bool {
        Self::own().contains(&self)
    }

    pub(crate) fn is_sluice(self) -> bool {
        self.is_own() && self != Self::Bare
    }

    /// Whether it gives a group only what its filter passes.
    pub(crate) fn filters(self) -> bool {
        self.is_own()
    }

    /// Whether there is no server of its own for each load: it would take longer than
    /// the loads, or somebody else has started the server.
    pub(crate) fn stays(self) -> bool {
        match self {
            #[cfg(feature = "rabbitmq")]
            Self::RabbitmqQuorum | Self::RabbitmqStream => true,
            #[cfg(feature = "kafka")]
            Self::KafkaSynced | Self::Kafka | Self::KafkaGiven => true,
            #[cfg(feature = "iggy")]
            Self::IggyGiven => true,
            #[allow(unreachable_patterns, reason = "there may be no others in a build")]
            _ => false,
        }
    }

    /// For tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sluice => "sluice",
            Self::SluiceBuffered => "sluice, buffered",
            Self::SluiceMemory => "sluice, memory",
            Self::Bare => "bare path",
            #[cfg(feature = "redis")]
            Self::RedisSynced => "redis, appendfsync always",
            #[cfg(feature = "redis")]
            Self::Redis => "redis, appendfsync everysec",
            #[cfg(feature = "nats")]
            Self::NatsSynced => "nats, sync always",
            #[cfg(feature = "nats")]
            Self::Nats => "nats",
            #[cfg(feature = "rabbitmq")]
            Self::RabbitmqQuorum => "rabbitmq, quorum queue",
            #[cfg(feature = "rabbitmq")]
            Self::RabbitmqStream => "rabbitmq, stream",
            #[cfg(feature = "kafka")]
            Self::KafkaSynced => "kafka, flush each",
            #[cfg(feature = "kafka")]
            Self::Kafka => "kafka",
            #[cfg(feature = "kafka")]
            Self::KafkaGiven => "kafka, by its address",
            #[cfg(feature = "iggy")]
            Self::IggySynced => "iggy, enforce_fsync",
            #[cfg(feature = "iggy")]
            Self::Iggy => "iggy",
            #[cfg(feature = "iggy")]
            Self::IggyGiven => "iggy, by its address",
        }
    }

    /// Where an event is when it is acked.
    pub(crate) fn acks_when(self) -> AckedWhen {
        match self {
            Self::Sluice | Self::Bare => AckedWhen::Synced,
            Self::SluiceBuffered => AckedWhen::Written,
            Self::SluiceMemory => AckedWhen::InMemory,
            #[cfg(feature = "redis")]
            Self::RedisSynced => AckedWhen::Synced,
            #[cfg(feature = "redis")]
            Self::Redis => AckedWhen::Written,
            #[cfg(feature = "nats")]
            Self::NatsSynced => AckedWhen::Synced,
            #[cfg(feature = "nats")]
            Self::Nats => AckedWhen::Written,
            #[cfg(feature = "rabbitmq")]
            Self::RabbitmqQuorum => AckedWhen::Synced,
            #[cfg(feature = "rabbitmq")]
            Self::RabbitmqStream => AckedWhen::Written,
            #[cfg(feature = "kafka")]
            Self::KafkaSynced => AckedWhen::Synced,
            #[cfg(feature = "kafka")]
            Self::Kafka | Self::KafkaGiven => AckedWhen::Written,
            #[cfg(feature = "iggy")]
            Self::IggySynced => AckedWhen::Synced,
            #[cfg(feature = "iggy")]
            Self::Iggy | Self::IggyGiven => AckedWhen::InMemory,
        }
    }

    /// Why a load cannot run on it, if so.
    pub(crate) fn lacks(self, spec: &Spec) -> Option<&'static str> {
        let waits = matches!(spec.kind, Kind::Drain | Kind::Recovery);
        match self {
            Self::Sluice => None,
            // A load that says its channel is about just that.
            Self::SluiceBuffered | Self::SluiceMemory if spec.channel != Channel::Fsync => {
                Some("the load says another channel")
            }
            Self::SluiceBuffered => None,
            Self::SluiceMemory if waits || (spec.kind.reads() && spec.rate == 0.0) => {
                Some("a memory topic keeps the newest events only, and none over a restart")
            }
            Self::SluiceMemory => None,
            Self::Bare => (spec.kind != Kind::Publish).then_some("nobody can read from it"),
            #[allow(unreachable_patterns, reason = "there may be no others in a build")]
            _ if spec.channel != Channel::Fsync => Some("it has no channels"),
            #[cfg(feature = "redis")]
            Self::RedisSynced | Self::Redis => None,
            #[cfg(feature = "nats")]
            Self::NatsSynced if waits => Some("to fill it takes too long"),
            #[cfg(feature = "nats")]
            Self::NatsSynced | Self::Nats => None,
            #[cfg(feature = "rabbitmq")]
            Self::RabbitmqQuorum if spec.partitions > 1 => Some("a queue has no partitions"),
            #[cfg(feature = "rabbitmq")]
            Self::RabbitmqQuorum => None,
            #[cfg(feature = "rabbitmq")]
            Self::RabbitmqStream if spec.partitions > 1 => Some("a stream has no partitions"),
            #[cfg(feature = "rabbitmq")]
            Self::RabbitmqStream if spec.members > 1 => {
                Some("members of one group cannot share a stream")
            }
            #[cfg(feature = "rabbitmq")]
            Self::RabbitmqStream => (spec.kind == Kind::Drain && spec.ack == Ack::Event)
                .then_some("it has no acks of single events"),
            #[cfg(feature = "kafka")]
            Self::KafkaGiven if spec.kind == Kind::Recovery => Some(NOT_TO_BE_KILLED),
            #[cfg(feature = "iggy")]
            Self::IggyGiven if spec.kind == Kind::Recovery => Some(NOT_TO_BE_KILLED),
            #[cfg(feature = "kafka")]
            Self::KafkaSynced if spec.partitions > 1 => Some(SMALL_REQUESTS),
            #[cfg(feature = "iggy")]
            Self::IggySynced if spec.partitions > 1 => Some(SMALL_REQUESTS),
            #[cfg(feature = "kafka")]
            Self::KafkaSynced | Self::Kafka | Self::KafkaGiven => partitions::lacks(spec),
            #[cfg(feature = "iggy")]
            Self::Iggy if spec.kind == Kind::Recovery => {
                Some("what it has acked is in its memory only")
            }
            #[cfg(feature = "iggy")]
            Self::IggySynced | Self::Iggy | Self::IggyGiven => partitions::lacks(spec),
        }
    }

    /// Starts it over a folder of its own, unless it runs at one of the addresses.
    pub(crate) fn start(
        self,
        dir: tempfile::TempDir,
        #[cfg_attr(
            not(any(feature = "iggy", feature = "kafka")),
            allow(unused_variables, reason = "there may be no others in a build")
        )]
        addresses: &Addresses,
    ) -> anyhow::Result<Arc<dyn Target>> {
        Ok(match self {
            Self::Sluice => Arc::new(Sluice::start(dir, None)?),
            Self::SluiceBuffered => Arc::new(Sluice::start(dir, Some(Channel::Buffered))?),
            Self::SluiceMemory => Arc::new(Sluice::start(dir, Some(Channel::Memory))?),
            Self::Bare => Arc::new(Bare::start(dir)?),
            #[cfg(feature = "redis")]
            Self::RedisSynced => Arc::new(redis::Redis::start(dir, true)?),
            #[cfg(feature = "redis")]
            Self::Redis => Arc::new(redis::Redis::start(dir, false)?),
            #[cfg(feature = "nats")]
            Self::NatsSynced => Arc::new(nats::Nats::start(dir, true)?),
            #[cfg(feature = "nats")]
            Self::Nats => Arc::new(nats::Nats::start(dir, false)?),
            #[cfg(feature = "rabbitmq")]
            Self::RabbitmqQuorum => Arc::new(rabbitmq::quorum::Quorum::start(dir)?),
            #[cfg(feature = "rabbitmq")]
            Self::RabbitmqStream => Arc::new(rabbitmq::stream::Streams::start(dir)?),
            #[cfg(feature = "kafka")]
            Self::KafkaSynced => Arc::new(kafka::Kafka::start(dir, true)?),
            #[cfg(feature = "kafka")]
            Self::Kafka => Arc::new(kafka::Kafka::start(dir, false)?),
            #[cfg(feature = "kafka")]
            Self::KafkaGiven => {
                let address = addresses.kafka.clone().context("Kafka has no address")?;
                Arc::new(kafka::Kafka::at(address))
            }
            #[cfg(feature = "iggy")]
            Self::IggySynced => Arc::new(iggy::Iggy::start(dir, true)?),
            #[cfg(feature = "iggy")]
            Self::Iggy => Arc::new(iggy::Iggy::start(dir, false)?),
            #[cfg(feature = "iggy")]
            Self::IggyGiven => {
                let address = addresses.iggy.clone().context("Iggy has no address")?;
                Arc::new(iggy::Iggy::at(address))
            }
        })
    }
}
