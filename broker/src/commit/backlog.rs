//! How much lies in a stretch of a partition, by its index.

use sluice_proto::Offset;

use super::{
    catalog::Partition,
    store::{ReadError, Store},
};

/// Index entries that are added up; beyond them their average counts.
const ENTRIES_MAX: usize = 4096;

/// What lies in a stretch of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// About its bytes in the log, what else its frames carry counted in.
    pub bytes: u64,
    /// When its first event was appended, milliseconds since 1970; 0 when it is
    /// empty.
    pub oldest_ms: u64,
}

impl Store {
    /// What lies from `from`, or from the partition's start if that is later, up to
    /// the visible end. May wait for the disk.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn backlog(&self, partition: &Partition, from: Offset) -> Result<Backlog, ReadError> {
        let end = partition.visible_end();
        let mut backlog = Backlog::default();
        let (mut next, mut seen) = (from, 0);
        let (mut bytes, mut events) = (0_u128, 0_u128);
        while next < end && seen < ENTRIES_MAX {
            next = next.max(partition.start_offset());
            let entries = match self.locate(partition, next) {
                // It went while it was looked for.
                Err(error) if error.may_have_moved() && partition.start_offset() > next => {
                    continue;
                }
                located => located?,
            };
            for entry in entries.iter().take(ENTRIES_MAX - seen) {
                if seen == 0 {
                    backlog.oldest_ms = entry.time_ms;
                }
                seen += 1;
                // Of the first frame, some events may lie below.
                let count = u128::from(entry.end().0 - next.0.max(entry.first.0));
                bytes += u128::from(entry.length) * count / u128::from(entry.count.max(1));
                events += count;
                next = entry.end();
            }
        }
        let all = u128::from(end.0.saturating_sub(from.0));
        let total = (bytes * all).checked_div(events).unwrap_or(0);
        backlog.bytes = u64::try_from(total).unwrap_or(u64::MAX);
        Ok(backlog)
    }
}
