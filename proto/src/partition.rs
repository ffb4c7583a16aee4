//! Which partition an event's key belongs to.

use crate::ids::PartitionId;

/// The partition of a key: CRC-32 (as in zlib and PNG) of its UTF-8 bytes,
/// modulo the number of partitions.
///
/// CRC-32 because every language's standard library or nearest package has it,
/// so that any client can know the partition. `DescribeTopic` calls this
/// partitioner "crc32".
#[must_use]
pub fn partition_of_key(key: &str, partitions: u32) -> PartitionId {
    PartitionId(crc32fast::hash(key.as_bytes()) % partitions.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values are Python's `zlib.crc32(key) % 16`: what a foreign client
    /// computes, and what a stored topic relies on, may never change.
    #[test]
    fn keys_keep_their_partitions_for_good() {
        for (key, partition) in [("", 0), ("doc123", 14), ("größe", 9), ("123456789", 6)] {
            assert_eq!(partition_of_key(key, 16), PartitionId(partition), "{key}");
        }
    }
}
