//! What is stored under which key.
//!
//! A key is one byte that tells the kind, then its parts, big endian, so that
//! keys sort as their parts do; a value longer than one page is cut into chunks,
//! whose number follows as a `u16`.

use bytes::{Buf, BufMut};
use sluice_proto::{GroupId, Offset, PartitionId, ProducerId, TopicId};

use crate::{commit::record::Source, log::Position};

/// Names one piece of the broker's state. Sorts by kind in the order given here,
/// in which what is referred to comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntityKey {
    /// Epoch, last time, next id.
    Counters,
    /// A topic's definition.
    Topic(TopicId),
    /// A partition's next offset.
    Partition(TopicId, PartitionId),
    /// A group's definition.
    Group(GroupId),
    /// What a group has settled of a source.
    Window(GroupId, Source),
    /// Failed attempts of one event.
    Attempts(GroupId, Source, Offset),
    /// A lease of one event.
    Lease(GroupId, Source, Offset),
    /// A producer's session and results.
    Producer(ProducerId),
    /// Which events are in a segment of the log; not part of the state.
    Segment(Position),
}

impl EntityKey {
    /// The key as bytes, which sort as the keys do.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        let source = |out: &mut Vec<u8>, group: GroupId, source: Source| {
            out.put_u64(group.0);
            out.put_u64(source.topic.0);
            out.put_u32(source.partition.0);
        };
        match self {
            Self::Counters => out.put_u8(1),
            Self::Topic(id) => {
                out.put_u8(2);
                out.put_u64(id.0);
            }
            Self::Partition(topic, partition) => {
                out.put_u8(3);
                out.put_u64(topic.0);
                out.put_u32(partition.0);
            }
            Self::Group(id) => {
                out.put_u8(4);
                out.put_u64(id.0);
            }
            Self::Window(group, of) => {
                out.put_u8(5);
                source(&mut out, group, of);
            }
            Self::Attempts(group, of, offset) => {
                out.put_u8(6);
                source(&mut out, group, of);
                out.put_u64(offset.0);
            }
            Self::Lease(group, of, offset) => {
                out.put_u8(7);
                source(&mut out, group, of);
                out.put_u64(offset.0);
            }
            Self::Producer(id) => {
                out.put_u8(8);
                out.put_u64(id.0);
            }
            Self::Segment(base) => {
                out.put_u8(9);
                out.put_u64(base.0);
            }
        }
        out
    }

    /// The key, and what follows it; `None` when the bytes begin with no key.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<(Self, &[u8])> {
        fn u64(bytes: &mut &[u8]) -> Option<u64> {
            bytes.try_get_u64().ok()
        }
        fn partition(bytes: &mut &[u8]) -> Option<PartitionId> {
            bytes.try_get_u32().ok().map(PartitionId)
        }
        fn group_source(bytes: &mut &[u8]) -> Option<(GroupId, Source)> {
            let group = GroupId(u64(bytes)?);
            let topic = TopicId(u64(bytes)?);
            let partition = partition(bytes)?;
            Some((group, Source { topic, partition }))
        }
        let input = &mut bytes;
        let key = match input.try_get_u8().ok()? {
            1 => Self::Counters,
            2 => Self::Topic(TopicId(u64(input)?)),
            3 => Self::Partition(TopicId(u64(input)?), partition(input)?),
            4 => Self::Group(GroupId(u64(input)?)),
            5 => {
                let (group, source) = group_source(input)?;
                Self::Window(group, source)
            }
            6 => {
                let (group, source) = group_source(input)?;
                Self::Attempts(group, source, Offset(u64(input)?))
            }
            7 => {
                let (group, source) = group_source(input)?;
                Self::Lease(group, source, Offset(u64(input)?))
            }
            8 => Self::Producer(ProducerId(u64(input)?)),
            9 => Self::Segment(Position(u64(input)?)),
            _ => return None,
        };
        Some((key, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_key() -> impl Strategy<Value = EntityKey> {
        let group_source = || {
            (any::<u64>(), any::<u64>(), any::<u32>()).prop_map(|(g, t, p)| {
                let source = Source {
                    topic: TopicId(t),
                    partition: PartitionId(p),
                };
                (GroupId(g), source)
            })
        };
        prop_oneof![
            Just(EntityKey::Counters),
            any::<u64>().prop_map(|t| EntityKey::Topic(TopicId(t))),
            (any::<u64>(), any::<u32>())
                .prop_map(|(t, p)| EntityKey::Partition(TopicId(t), PartitionId(p))),
            any::<u64>().prop_map(|g| EntityKey::Group(GroupId(g))),
            group_source().prop_map(|(g, s)| EntityKey::Window(g, s)),
            (group_source(), any::<u64>()).prop_map(|((g, s), o)| EntityKey::Attempts(
                g,
                s,
                Offset(o)
            )),
            (group_source(), any::<u64>()).prop_map(|((g, s), o)| EntityKey::Lease(
                g,
                s,
                Offset(o)
            )),
            any::<u64>().prop_map(|p| EntityKey::Producer(ProducerId(p))),
            any::<u64>().prop_map(|p| EntityKey::Segment(Position(p))),
        ]
    }

    proptest! {
        #[test]
        fn keys_are_read_as_written_and_sort_as_their_parts(a in any_key(), b in any_key()) {
            let bytes = a.encode();
            prop_assert_eq!(EntityKey::decode(&bytes), Some((a, &[][..])));
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = EntityKey::decode(&bytes);
        }
    }
}
