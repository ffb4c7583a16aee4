//! Every setting and limit of the broker, with its default, checked once at
//! start.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::{
    commit::{CommitConfig, LaggingLimits, PageLimits},
    flow::Intake,
    group::{BufferLimits, GroupLimits},
    log::{FRAME_BYTES_MAX, LogConfig, SEGMENT_BYTES_MIN, WriteChoice},
    retention::RetentionConfig,
};

/// How a broker runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether it may listen beyond loopback, where anybody who reaches the port
    /// may do anything.
    pub insecure_listen: bool,
    /// Where its data is; made if it is not there.
    pub data_dir: PathBuf,
    /// How the log is written. Default: direct where that is possible.
    pub log_writer: WriteChoice,
    /// Limits and sizes.
    pub limits: Limits,
}

macro_rules! limits {
    ($($(#[doc = $doc:literal])* $name:ident: $type:ty = $default:expr, $range:expr;)*) => {
        /// Limits and sizes, as they are named in the configuration file's
        /// `[limits]`. The range of each is checked by [`Config::validate`].
        #[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
        #[serde(default, deny_unknown_fields)]
        pub struct Limits {
            $($(#[doc = $doc])* pub $name: $type,)*
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Limits {
            fn check_ranges(&self) -> Result<(), ConfigError> {
                $(
                    let range = $range;
                    if !range.contains(&self.$name) {
                        return Err(ConfigError::OutOfRange {
                            key: stringify!($name),
                            value: self.$name.to_string(),
                            range: format!("{} to {}", range.start(), range.end()),
                        });
                    }
                )*
                Ok(())
            }
        }
    };
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Changes that may wait for the log, whatever their bytes.
const QUEUE_LEN: usize = 8192;

limits! {
    /// Bytes of an encoded event. Default 1 MiB.
    event_bytes_max: usize = MIB, KIB..=8 * MIB;
    /// Bytes of a request, or of one message of a stream. Default 8 MiB.
    request_bytes_max: usize = 8 * MIB, 64 * KIB..=15 * MIB;
    /// Events in one request or batch. Default 10,000.
    batch_events_max: usize = 10_000, 1..=100_000;
    /// Partitions of one topic. Default 1024.
    partitions_max: u32 = 1024, 1..=65_536;
    /// Topics, those of the broker's own counted in (two for each group).
    /// Default 30,000.
    topics_max: usize = 30_000, 1..=1_000_000;
    /// Groups. Default 10,000.
    groups_max: usize = 10_000, 1..=1_000_000;
    /// Members of one group. Default 1000.
    members_per_group_max: usize = 1000, 1..=100_000;
    /// Producers that are remembered. Default 10,000.
    producers_max: usize = 10_000, 1..=1_000_000;
    /// A producer that was idle for so long may be forgotten when there are too
    /// many. Default 1 hour.
    producer_idle_ms: u64 = 3_600_000, 0..=u64::MAX;
    /// Leases that a member may present when it joins. Default 10,000.
    leases_per_member_max: usize = 10_000, 1..=1_000_000;
    /// Settlements in one request. Default 10,000.
    settlements_max: usize = 10_000, 1..=100_000;
    /// Events of one pull. Default 1000.
    pull_events_max: usize = 1000, 1..=10_000;
    /// Bytes that one PublishStream may have under way. Default 4 MiB.
    publish_window_bytes: usize = 4 * MIB, 64 * KIB..=256 * MIB;
    /// How long a Publish without a deadline waits to be let in, and the longest
    /// that one with a deadline does. Default 30 seconds.
    publish_wait_ms: u64 = 30_000, 0..=3_600_000;
    /// Unsettled events that a group keeps track of. Default 100,000.
    window_events_max: usize = 100_000, 100..=10_000_000;
    /// Pieces in which what a group has settled of a partition may be before
    /// waiting events are parked. Default 10,000.
    window_ranges_max: usize = 10_000, 10..=1_000_000;
    /// An event that waits longer for its next attempt is parked. Default 1
    /// minute.
    park_after_ms: u64 = 60_000, 100..=86_400_000;
    /// Events that a group may have parked; further ones wait in its window.
    /// Default 100,000.
    parked_events_max: usize = 100_000, 0..=500_000;
    /// Bytes of events that wait in memory for delivery, per group. Default
    /// 4 MiB.
    group_payload_bytes_max: usize = 4 * MIB, 0..=1 << 30;
    /// Entries of the index by which groups find events whose type, source or
    /// subject their filters fix, all topics together, of 24 bytes each. Groups
    /// that are further behind look at each event. Default 262,144.
    filter_index_entries_max: usize = 262_144, 1024..=1 << 30;
    /// Size of a segment file of the log. Default 64 MiB.
    segment_bytes: u64 = 64 * MIB as u64, SEGMENT_BYTES_MIN.next_multiple_of(4096)..=16 << 30;
    /// Files of removed segments that are kept to be written again. Default 4.
    spare_segments_max: usize = 4, 0..=1024;
    /// Bytes that one block of the log gathers; a larger frame goes alone.
    /// Default 1 MiB.
    block_bytes: usize = MIB, 4 * KIB..=FRAME_BYTES_MAX;
    /// Blocks of the log that may be under way to the disk at a time. Default 2.
    blocks_in_flight_max: usize = 2, 1..=8;
    /// How fast the next segment is zeroed, ahead of need, once the open one is
    /// half full, or 2 MiB of the first one are; 0 for not at all. Default 128 MiB a
    /// second.
    ahead_bytes_per_second: u64 = 128 * MIB as u64, 0..=1 << 40;
    /// How long the log waits before it syncs what was only promised to be
    /// written. Default 10 ms.
    buffered_sync_ms: u64 = 10, 0..=60_000;
    /// Bytes of the log's newest blocks that are kept in memory. Default 64 MiB.
    tail_cache_bytes: usize = 64 * MIB, 0..=1 << 40;
    /// Pages that are read from the log's files at a time for readers that lag;
    /// the others wait in turn. Default 4.
    lagging_reads_max: usize = 4, 1..=64;
    /// Bytes per second that all readers that lag read from the log's files
    /// together while more than 1 MiB a second is published; 0 for no limit.
    /// Default 128 MiB.
    lagging_bytes_per_s: u64 = 128 * MIB as u64, 0..=1 << 40;
    /// Bytes of the log between two checkpoints of the view, which is also about
    /// how much a start after a kill reads again. Default 32 MiB.
    checkpoint_bytes: u64 = 32 * MIB as u64, 4096..=1 << 40;
    /// Bytes of the newest events that a memory topic keeps. Default 16 MiB.
    memory_topic_bytes: usize = 16 * MIB, 128 * KIB..=1 << 40;
    /// Bytes that all memory topics keep together. Default 64 MiB.
    memory_bytes: usize = 64 * MIB, 128 * KIB..=1 << 40;
    /// Bytes that are kept free on the disk: with less, publishing is refused, and
    /// settlements go on. At least 2 segments; 0 refuses nothing. Default 1 GiB.
    disk_reserve_bytes: u64 = 1 << 30, 0..=1 << 50;
    /// Bytes of the log between two checkpoints of the state in the log itself,
    /// at least; they take at most a tenth of what is written. What is older than
    /// the last one can be removed. Default 128 MiB.
    log_checkpoint_bytes: u64 = 128 * MIB as u64, 4096..=1 << 40;
    /// How often it is looked what topics do not keep any longer, and which
    /// segments are not needed any more. Default 5 seconds.
    retention_interval_ms: u64 = 5000, 10..=86_400_000;
    /// What is needed of a segment is written again, so that its space comes
    /// back, when it is less than so many percent of it; 0 for never. Default 25.
    rewrite_below_percent: u8 = 25, 0..=75;
    /// Bytes of events that are so written again per second. Default 32 MiB.
    rewrite_bytes_per_s: u64 = 32 * MIB as u64, 64 * KIB as u64..=1 << 40;
    /// Keys that the compaction of a partition keeps in memory; a partition with
    /// more is compacted as far as they reach. Default 1,000,000.
    compact_keys_max: usize = 1_000_000, 1..=1 << 30;
    /// Bytes of changes that may wait for the log. Default 64 MiB.
    commit_queue_bytes: usize = 64 * MIB, MIB..=1 << 32;
    /// Streams of one HTTP/2 connection. Default 1000.
    connection_streams_max: u32 = 1000, 1..=100_000;
    /// Connections at once; one more is closed as soon as it is made. Default
    /// 10,000.
    connections_max: usize = 10_000, 1..=1_000_000;
    /// Bytes of events that wait in one Consume stream for its reader; one event
    /// may exceed it. Default 1 MiB.
    stream_buffer_bytes: usize = MIB, 4 * KIB..=1 << 30;
    /// The same in all streams together. When they have as much, each takes one
    /// event at a time. Default 256 MiB.
    stream_buffers_bytes: usize = 256 * MIB, 4 * KIB..=1 << 40;
    /// Bytes that all PublishStreams together may have under way: with many of
    /// them, the window of each is smaller, down to 64 KiB. Default 256 MiB.
    publish_windows_bytes: usize = 256 * MIB, MIB..=1 << 40;
    /// Bytes of batches that all PublishStreams together have on the way to the log,
    /// those left out that wait for a full topic; one batch of each stream may exceed
    /// it. With more, streams are read by turns. Default 8 MiB.
    publish_reading_bytes: usize = 8 * MIB, 64 * KIB..=1 << 40;
    /// Bytes of Publish requests that wait for a full topic or a full queue; one
    /// more is refused. Default 64 MiB.
    publish_waiting_bytes: usize = 64 * MIB, MIB..=1 << 40;
    /// Bytes of a backup that are sent per second. Default 64 MiB.
    backup_bytes_per_s: u64 = 64 * MIB as u64, 64 * KIB as u64..=1 << 40;
    /// A backup whose client takes nothing for so long is broken off, because the
    /// space of what is still to be copied does not come back meanwhile. Default 1
    /// minute.
    backup_stall_ms: u64 = 60_000, 1000..=3_600_000;
    /// How long open calls may go on when the broker is told to stop. Default
    /// 5 seconds.
    drain_ms: u64 = 5000, 0..=600_000;
}

impl Limits {
    /// The line for the log as publishers see it: three quarters of it, so that
    /// settlements and commits never wait behind them for room.
    pub(crate) fn intake(&self) -> Intake {
        let bytes = self.commit_queue_bytes as u64;
        Intake::new(bytes / 4 * 3, QUEUE_LEN / 4 * 3)
    }
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A number is outside its range.
    #[error("limits.{key} is {value}; it must be {range}")]
    OutOfRange {
        /// Its name.
        key: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        range: String,
    },
    /// Two settings contradict each other.
    #[error("{0}")]
    Contradiction(String),
    /// The address is reachable from elsewhere.
    #[error(
        "{0} is reachable from other machines, and the broker has neither TLS nor \
         authentication yet; to listen there all the same, say --insecure-listen"
    )]
    NotLoopback(SocketAddr),
}

impl Config {
    /// A broker on a free loopback port, with every limit at its default.
    #[must_use]
    pub fn local(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            insecure_listen: false,
            data_dir: data_dir.into(),
            log_writer: WriteChoice::default(),
            limits: Limits::default(),
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// When one cannot be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !self.listen.ip().is_loopback() && !self.insecure_listen {
            return Err(ConfigError::NotLoopback(self.listen));
        }
        let limits = &self.limits;
        limits.check_ranges()?;
        if limits.event_bytes_max + 64 * KIB > limits.request_bytes_max {
            return Err(ConfigError::Contradiction(format!(
                "limits.request_bytes_max ({}) must exceed limits.event_bytes_max ({}) by 64 KiB",
                limits.request_bytes_max, limits.event_bytes_max
            )));
        }
        for (key, given) in [
            ("memory_topic_bytes", limits.memory_topic_bytes),
            ("memory_bytes", limits.memory_bytes),
        ] {
            // The newest event of a topic always has a place.
            if limits.event_bytes_max + 64 * KIB > given {
                return Err(ConfigError::Contradiction(format!(
                    "limits.{key} ({given}) must exceed limits.event_bytes_max ({}) by 64 KiB",
                    limits.event_bytes_max
                )));
            }
        }
        let reserve_min = 2 * limits.segment_bytes;
        if limits.disk_reserve_bytes != 0 && limits.disk_reserve_bytes < reserve_min {
            return Err(ConfigError::Contradiction(format!(
                "limits.disk_reserve_bytes ({}) must be 0 or at least twice \
                 limits.segment_bytes ({reserve_min})",
                limits.disk_reserve_bytes
            )));
        }
        if !limits.segment_bytes.is_multiple_of(4096) {
            return Err(ConfigError::Contradiction(format!(
                "limits.segment_bytes ({}) must be a multiple of 4096",
                limits.segment_bytes
            )));
        }
        Ok(())
    }

    pub(crate) fn commit(&self) -> CommitConfig {
        let limits = &self.limits;
        CommitConfig {
            log: LogConfig {
                segment_bytes: limits.segment_bytes,
                tail_cache_bytes: limits.tail_cache_bytes,
                write: self.log_writer,
                ahead_bytes_per_second: Some(limits.ahead_bytes_per_second)
                    .filter(|rate| *rate > 0),
                sync_delay: Some(Duration::from_millis(limits.buffered_sync_ms)),
                spares_max: limits.spare_segments_max,
                epoch_ahead: 0,
            },
            is_copy: false,
            block_bytes: limits.block_bytes,
            blocks_in_flight: limits.blocks_in_flight_max,
            checkpoint_bytes: limits.checkpoint_bytes,
            memory_topic_bytes: limits.memory_topic_bytes,
            memory_bytes: limits.memory_bytes,
            log_checkpoint_bytes: limits.log_checkpoint_bytes,
            lagging: LaggingLimits {
                reads_max: limits.lagging_reads_max,
                bytes_per_second: Some(limits.lagging_bytes_per_s).filter(|rate| *rate > 0),
            },
            queue_len: QUEUE_LEN,
            queue_bytes: limits.commit_queue_bytes,
            topics_max: limits.topics_max,
            groups_max: limits.groups_max,
            producers_max: limits.producers_max,
            producer_idle_ms: limits.producer_idle_ms,
        }
    }

    pub(crate) fn retention(&self) -> RetentionConfig {
        let limits = &self.limits;
        RetentionConfig {
            interval: Duration::from_millis(limits.retention_interval_ms),
            rewrite_below_percent: limits.rewrite_below_percent,
            rewrite_bytes_per_s: limits.rewrite_bytes_per_s,
            compact_keys_max: limits.compact_keys_max,
        }
    }

    pub(crate) fn group(&self) -> GroupLimits {
        let limits = &self.limits;
        GroupLimits {
            members_max: limits.members_per_group_max,
            window_events_max: limits.window_events_max,
            window_ranges_max: limits.window_ranges_max,
            park_after_ms: limits.park_after_ms,
            parked_events_max: limits.parked_events_max,
            payload_bytes_max: limits.group_payload_bytes_max,
            buffer: BufferLimits {
                stream_bytes: limits.stream_buffer_bytes,
                total_bytes: limits.stream_buffers_bytes,
            },
            commands_max: 1024,
            page: PageLimits {
                events: 2048,
                bytes: MIB,
            },
            postings_max: limits.filter_index_entries_max,
        }
    }

    pub(crate) fn drain(&self) -> Duration {
        Duration::from_millis(self.limits.drain_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_what_is_not_is_named() {
        let good = Config::local("data");
        assert_eq!(good.validate(), Ok(()));

        let mut small = good.clone();
        small.limits.segment_bytes = 4096;
        let error = small.validate().expect_err("too small").to_string();
        assert!(
            error.starts_with("limits.segment_bytes is 4096;"),
            "{error}"
        );

        let mut open = good.clone();
        open.listen = SocketAddr::from(([0, 0, 0, 0], 7070));
        assert!(matches!(open.validate(), Err(ConfigError::NotLoopback(_))));
        open.insecure_listen = true;
        assert_eq!(open.validate(), Ok(()));

        let mut tight = good;
        tight.limits.event_bytes_max = 8 << 20;
        assert!(matches!(
            tight.validate(),
            Err(ConfigError::Contradiction(_))
        ));
    }
}
