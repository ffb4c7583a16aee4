//! The brokers on which a load can run.

#[cfg(feature = "nats")]
mod nats;
#[cfg(any(feature = "nats", feature = "redis"))]
mod peer;
#[cfg(feature = "redis")]
mod redis;
mod sluice;

use std::sync::Arc;

use clap::ValueEnum;

use self::sluice::Sluice;
use crate::load::target::Target;

/// A broker and how it syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Broker {
    /// This one, as it is by default: synced before each ack.
    Sluice,
    /// Redis Streams, synced before each answer.
    #[cfg(feature = "redis")]
    RedisSynced,
    /// Redis Streams, synced once a second.
    #[cfg(feature = "redis")]
    Redis,
    /// NATS JetStream, synced before each ack.
    #[cfg(feature = "nats")]
    NatsSynced,
    /// NATS JetStream, as it is by default.
    #[cfg(feature = "nats")]
    Nats,
}

impl Broker {
    /// Every broker that this build knows and this machine has.
    pub(crate) fn installed() -> Vec<Self> {
        let all = Self::value_variants().iter().copied();
        all.filter(|broker| broker.is_installed()).collect()
    }

    fn is_installed(self) -> bool {
        match self {
            Self::Sluice => true,
            #[cfg(feature = "redis")]
            Self::RedisSynced | Self::Redis => peer::version("redis-server").is_some(),
            #[cfg(feature = "nats")]
            Self::NatsSynced => nats::can_sync_always(),
            #[cfg(feature = "nats")]
            Self::Nats => peer::version("nats-server").is_some(),
        }
    }

    /// Starts it over a folder of its own.
    pub(crate) fn start(self, dir: tempfile::TempDir) -> anyhow::Result<Arc<dyn Target>> {
        Ok(match self {
            Self::Sluice => Arc::new(Sluice::start(dir)?),
            #[cfg(feature = "redis")]
            Self::RedisSynced => Arc::new(redis::Redis::start(dir, true)?),
            #[cfg(feature = "redis")]
            Self::Redis => Arc::new(redis::Redis::start(dir, false)?),
            #[cfg(feature = "nats")]
            Self::NatsSynced => Arc::new(nats::Nats::start(dir, true)?),
            #[cfg(feature = "nats")]
            Self::Nats => Arc::new(nats::Nats::start(dir, false)?),
        })
    }
}
