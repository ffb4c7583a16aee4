//! Settlements as bytes: runs of offsets by their differences.

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{encode_varint, encoded_len_varint};
use sluice_proto::{GroupId, Offset, PartitionId, TopicId};

use super::{
    Settle, Source,
    codec::{DecodeError, end, take_u32, take_u64, take_varint},
};

/// Bytes of a settlement before its runs.
const SETTLE_HEAD: usize = 24;

impl Settle {
    /// For each run, how many offsets lie between it and the one before, or 0, and its
    /// length. It is modulo 2^64, for runs that are not in order.
    fn gaps(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut end = 0_u64;
        self.runs.iter().map(move |(first, length)| {
            let gap = first.0.wrapping_sub(end);
            end = first.0.wrapping_add(*length);
            (gap, *length)
        })
    }

    /// An upper bound of the bytes that it takes in a frame.
    pub(in crate::commit) fn bytes_max(&self) -> usize {
        let (Some(first), Some(last)) = (self.runs.first(), self.runs.last()) else {
            return 5 + SETTLE_HEAD;
        };
        let mut pairs = self.runs.windows(2);
        if !pairs.all(|pair| pair[0].0.0.saturating_add(pair[0].1) <= pair[1].0.0) {
            return 5 + self.body_len();
        }
        // No gap and no run is longer than all of them together.
        let span = last.0.0.wrapping_add(last.1).wrapping_sub(first.0.0);
        let of_first = encoded_len_varint(first.0.0);
        5 + SETTLE_HEAD + of_first + 2 * self.runs.len() * encoded_len_varint(span)
    }

    pub(super) fn body_len(&self) -> usize {
        let varints = |(gap, length)| encoded_len_varint(gap) + encoded_len_varint(length);
        SETTLE_HEAD + self.gaps().map(varints).sum::<usize>()
    }

    pub(super) fn encode_body(&self, out: &mut BytesMut) {
        out.put_u64_le(self.group.0);
        out.put_u64_le(self.source.topic.0);
        out.put_u32_le(self.source.partition.0);
        out.put_u32_le(self.runs.len() as u32);
        for (gap, length) in self.gaps() {
            encode_varint(gap, out);
            encode_varint(length, out);
        }
    }

    pub(super) fn decode_body(mut body: Bytes, take_run: TakeRun) -> Result<Self, DecodeError> {
        let input = &mut body;
        let group = GroupId(take_u64(input)?);
        let source = Source {
            topic: TopicId(take_u64(input)?),
            partition: PartitionId(take_u32(input)?),
        };
        let count = take_u32(input)? as usize;
        // A run takes two bytes at least.
        let mut runs = Vec::with_capacity(count.min(input.len() / 2));
        let mut behind = 0;
        for _ in 0..count {
            let (first, length) = take_run(input, behind)?;
            behind = first.0.wrapping_add(length);
            runs.push((first, length));
        }
        end(input)?;
        Ok(Self {
            group,
            source,
            runs,
        })
    }
}

/// Takes the run that is next behind an offset.
pub(super) type TakeRun = fn(&mut Bytes, u64) -> Result<(Offset, u64), DecodeError>;

pub(super) fn take_run(input: &mut Bytes, behind: u64) -> Result<(Offset, u64), DecodeError> {
    let first = Offset(behind.wrapping_add(take_varint(input)?));
    Ok((first, take_varint(input)?))
}

pub(super) fn take_run_before(
    input: &mut Bytes,
    _behind: u64,
) -> Result<(Offset, u64), DecodeError> {
    Ok((Offset(take_u64(input)?), take_u64(input)?))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Frame, Record},
        *,
    };
    use proptest::prelude::*;

    fn settle(runs: Vec<(Offset, u64)>) -> Frame {
        let (topic, partition) = (TopicId(3), PartitionId(1));
        Frame {
            time_ms: 5,
            producer: None,
            records: vec![Record::Settle(Settle {
                group: GroupId(9),
                source: Source { topic, partition },
                runs,
            })],
        }
    }

    #[test]
    fn settlements_as_builds_before_wrote_them_are_read() {
        let mut out = BytesMut::new();
        out.put_u64_le(5);
        out.put_u8(0);
        out.put_u16_le(1);
        out.put_u8(2);
        out.put_u32_le(24 + 2 * 16);
        out.put_u64_le(9);
        out.put_u64_le(3);
        out.put_u32_le(1);
        out.put_u32_le(2);
        for number in [7, 1, 300, 20] {
            out.put_u64_le(number);
        }
        let runs = vec![(Offset(7), 1), (Offset(300), 20)];
        assert_eq!(Frame::decode(out.freeze()), Ok(settle(runs)));
    }

    proptest! {
        #[test]
        fn settlements_are_read_as_they_were_written_and_as_long_as_was_told(
            gaps in proptest::collection::vec((0_u64..100_000, 1_u64..300), 0..50),
            from in prop_oneof![0_u64..1000, any::<u64>()],
            in_order: bool,
        ) {
            let mut end = from.min(u64::MAX - 50 * 100_300);
            let mut runs: Vec<_> = gaps.into_iter().map(|(gap, length)| {
                let first = Offset(end + gap);
                end = first.0 + length;
                (first, length)
            }).collect();
            if !in_order {
                runs.extend_from_within(..runs.len() / 2);
                runs.sort_unstable_by_key(|(first, length)| (first.0 / 256, *length));
            }
            let frame = settle(runs);
            let mut out = BytesMut::new();
            frame.encode(&mut out);
            prop_assert_eq!(out.len(), frame.encoded_len());
            let [Record::Settle(settle)] = &frame.records[..] else { unreachable!() };
            prop_assert!(5 + settle.body_len() <= settle.bytes_max());
            prop_assert_eq!(Frame::decode(out.freeze()), Ok(frame));
        }
    }
}
