//! The newest blocks in memory, for consumers at the head.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Position;

/// Blocks in order of position, the oldest leave first. A block counts with all
/// the memory it takes. Slices that readers hold keep a block alive beyond its
/// stay here.
#[derive(Debug)]
pub(super) struct TailCache {
    blocks: VecDeque<(Position, Cached)>,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Cached {
    block: Bytes,
    memory: usize,
}

impl TailCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            blocks: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Adds the next block, which takes `memory` bytes.
    pub(super) fn push(&mut self, position: Position, block: Bytes, memory: usize) {
        self.bytes += memory;
        self.blocks.push_back((position, Cached { block, memory }));
        while self.bytes > self.bytes_max
            && let Some((_, oldest)) = self.blocks.pop_front()
        {
            self.bytes -= oldest.memory;
        }
    }

    /// The bytes from `position` to the end of its block.
    pub(super) fn from(&self, position: Position) -> Option<Bytes> {
        let at = self.blocks.partition_point(|(start, _)| *start <= position);
        let (start, Cached { block, .. }) = self.blocks.get(at.checked_sub(1)?)?;
        let offset = usize::try_from(position.0 - start.0).ok()?;
        (offset < block.len()).then(|| block.slice(offset..))
    }

    /// The oldest position that it has.
    pub(super) fn start(&self) -> Option<Position> {
        self.blocks.front().map(|(position, _)| *position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_blocks_leave_when_it_is_full() {
        let mut cache = TailCache::new(10);
        for at in [0_u64, 4, 8, 12] {
            cache.push(Position(at), Bytes::from(vec![at as u8; 4]), 4);
        }
        assert_eq!(cache.start(), Some(Position(8)));
        assert_eq!(cache.from(Position(7)), None);
        assert_eq!(cache.from(Position(9)).as_deref(), Some(&[8; 3][..]));
        assert_eq!(cache.from(Position(15)).as_deref(), Some(&[12; 1][..]));
        assert_eq!(cache.from(Position(16)), None);
    }
}
