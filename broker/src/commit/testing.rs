//! What tests of the commit path, and of what is built on it, begin with.

use super::{CommitConfig, LaggingLimits};
use crate::log::{LogConfig, WriteChoice};

/// Size of a segment in [`small_config`].
pub(crate) const SEGMENT_BYTES: u64 = 64 << 10;

/// Everything small, so that a few events need several segments and checkpoints.
pub(crate) fn small_config() -> CommitConfig {
    CommitConfig {
        log: LogConfig {
            segment_bytes: SEGMENT_BYTES,
            tail_cache_bytes: 0,
            spares_max: 1,
            epoch_ahead: 0,
            write: WriteChoice::Auto,
            sync_delay: None,
            ahead_bytes_per_second: None,
        },
        blocks_in_flight: 2,
        is_copy: false,
        block_bytes: 64 << 10,
        checkpoint_bytes: 16 << 10,
        log_checkpoint_bytes: 64 << 10,
        lagging: LaggingLimits {
            reads_max: 4,
            bytes_per_second: None,
        },
        queue_len: 100,
        queue_bytes: 1 << 20,
        topics_max: 100,
        groups_max: 100,
        producers_max: 100,
        producer_idle_ms: 1000,
        memory_topic_bytes: 1 << 20,
        memory_bytes: 1 << 20,
    }
}
