//! What topics do not keep any longer, by their own settings.

use sluice_proto::{Offset, TopicId};

use crate::commit::{
    Catalog, Partition, ReadError, Store, Trim, Unread,
    record::{Channel, Retention, Source},
};

/// Index entries that are looked at in one partition in one go.
const ENTRIES_MAX: usize = 20_000;

/// A partition that a group holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which partition.
    pub source: Source,
    /// The group that has come least far.
    pub group: sluice_proto::GroupId,
    /// Events that would be gone if it did not hold them.
    pub events: u64,
}

/// Topics that keep what their groups have not settled.
pub(super) fn holding(catalog: &Catalog) -> Vec<TopicId> {
    catalog
        .topics()
        .filter(|topic| {
            let kept = topic.retention();
            kept.hold_unread && kept.is_bounded()
        })
        .map(|topic| topic.id)
        .collect()
}

/// What goes by `now_ms`, and what is held.
pub(super) fn due(
    catalog: &Catalog,
    store: &Store,
    unread: &Unread,
    now_ms: u64,
) -> (Vec<Trim>, Vec<Held>) {
    let (mut trims, mut held) = (Vec::new(), Vec::new());
    for topic in catalog.topics() {
        let retention = topic.retention();
        if !retention.is_bounded() || topic.channel == Channel::Memory {
            continue;
        }
        for partition in &topic.partitions {
            let cut = match beyond(store, partition, &retention, now_ms) {
                Ok(cut) => cut,
                Err(error) => {
                    tracing::warn!(%error, topic = %topic.name, "cannot tell what is too old");
                    continue;
                }
            };
            let mut start = cut;
            if retention.hold_unread
                && let Some((committed_end, group)) = unread.get(&partition.source)
                && *committed_end < cut
            {
                start = (*committed_end).max(partition.start_offset());
                held.push(Held {
                    source: partition.source,
                    group: *group,
                    events: cut.0 - start.0,
                });
            }
            if start > partition.start_offset() {
                trims.push(Trim {
                    source: partition.source,
                    start,
                    bytes: bytes_below(store, partition, start),
                    force: false,
                });
            }
        }
    }
    (trims, held)
}

/// Where the partition would begin if it kept what it must and no more.
fn beyond(
    store: &Store,
    partition: &Partition,
    retention: &Retention,
    now_ms: u64,
) -> Result<Offset, ReadError> {
    let (start, end) = (partition.start_offset(), partition.visible_end());
    let mut cut = start;
    if retention.events > 0 {
        cut = cut.max(Offset(end.0.saturating_sub(retention.events)));
    }
    let surplus = match retention.bytes {
        0 => 0,
        bytes => partition.bytes().saturating_sub(bytes),
    };
    let oldest_ms = match retention.age_ms {
        0 => 0,
        age_ms => now_ms.saturating_sub(age_ms),
    };
    if surplus == 0 && oldest_ms == 0 {
        return Ok(cut);
    }
    let mut dropped = 0;
    let mut at = start;
    let mut looked_at = 0;
    while at < end && looked_at < ENTRIES_MAX {
        for entry in store.locate(partition, at)? {
            let too_old = entry.time_ms < oldest_ms;
            let too_many = dropped < surplus;
            if !too_old && !too_many {
                return Ok(cut.max(at));
            }
            dropped += u64::from(entry.bytes);
            at = entry.end();
            looked_at += 1;
        }
    }
    Ok(cut.max(at.min(end)))
}

/// About the bytes of the partition's events below `start`.
pub(super) fn bytes_below(store: &Store, partition: &Partition, start: Offset) -> u64 {
    let mut bytes = 0;
    let mut at = partition.start_offset();
    let end = partition.visible_end().min(start);
    let mut looked_at = 0;
    while at < end && looked_at < ENTRIES_MAX {
        let Ok(entries) = store.locate(partition, at) else {
            break;
        };
        for entry in entries.iter().take_while(|entry| entry.first < end) {
            let part = entry.end().min(end).0 - entry.first.max(at).0;
            bytes += u64::from(entry.bytes) * part / u64::from(entry.count.max(1));
            at = entry.end();
            looked_at += 1;
        }
    }
    // What was not looked at counts as the rest does.
    let (left, rest) = (
        end.0.saturating_sub(at.0),
        partition.visible_end().0 - at.0.min(partition.visible_end().0),
    );
    let unseen = u128::from(partition.bytes().saturating_sub(bytes));
    bytes + (unseen * u128::from(left) / u128::from(rest.max(1))) as u64
}
