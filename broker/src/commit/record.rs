//! What the payload of one frame says: the changes of one proposal, which happen
//! together or not at all.
//!
//! All integers are little endian.
//!
//! ```text
//! frame payload
//!   time_ms   u64   wall clock, milliseconds since 1970; never decreases
//!   flags     u8    bit 0: `producer` follows; others are 0
//!   producer  24 B  producer id u64, producer epoch u64, sequence u64
//!   count     u16   number of records
//!   records   each: kind u8, length u32, body
//!
//! append (kind 1)
//!   topic u64, partition u32, first offset u64, count u32, then `count` times:
//!     event length u32, note length u32, event, note
//! settle (kind 2)
//!   group u64, topic u64, partition u32, count u32, then `count` times:
//!     first offset u64, length u64
//! every other kind
//!   a protobuf message of this file
//! ```
//!
//! An event is the encoded `sluice.v1.Event` as its producer sent it. A note is
//! what the broker keeps beside an event (a dead letter's history); its format
//! belongs to whoever wrote it.
//!
//! Records hold numeric ids and never names to refer to things, and everything
//! that applying them needs, so that replay does not depend on configuration,
//! clock or order of arrival.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use sluice_proto::{GroupId, Offset, PartitionId, ProducerId, TopicId};

/// One proposal as it is in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Wall clock when it was sequenced, milliseconds since 1970.
    pub time_ms: u64,
    /// The producer's sequence that it took, if any.
    pub producer: Option<ProducerSequence>,
    /// What it changes.
    pub records: Vec<Record>,
}

/// A number in a producer session's sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProducerSequence {
    /// Whose.
    pub producer: ProducerId,
    /// Which session of it.
    pub epoch: u64,
    /// From 1.
    pub sequence: u64,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // Each variant is its type.
pub enum Record {
    Append(Append),
    Settle(Settle),
    AttemptFailed(AttemptFailed),
    LeaseNoted(LeaseNoted),
    TopicCreated(TopicCreated),
    TopicDeleted(TopicDeleted),
    GroupCreated(GroupCreated),
    GroupDeleted(GroupDeleted),
    ProducerOpened(ProducerOpened),
    EpochStarted(EpochStarted),
}

impl Record {
    /// Whether topics or groups come or go by it.
    #[must_use]
    pub fn changes_catalog(&self) -> bool {
        matches!(
            self,
            Self::TopicCreated(_)
                | Self::TopicDeleted(_)
                | Self::GroupCreated(_)
                | Self::GroupDeleted(_)
        )
    }
}

/// Events of one partition with consecutive offsets.
#[derive(Clone, Debug, PartialEq)]
pub struct Append {
    /// Their topic.
    pub topic: TopicId,
    /// Their partition.
    pub partition: PartitionId,
    /// Offset of the first one.
    pub first: Offset,
    /// The events, in order.
    pub events: Vec<NewEvent>,
}

/// An event to append, or as it was appended.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// The encoded event.
    pub event: Bytes,
    /// What the broker keeps beside it; mostly empty.
    pub note: Bytes,
}

/// Where a group reads: a partition of its topic, of its parking topic, or of
/// its dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionId,
}

/// Offsets that a group is done with, for whatever reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// The group.
    pub group: GroupId,
    /// Where.
    pub source: Source,
    /// Runs of offsets: first, and how many.
    pub runs: Vec<(Offset, u64)>,
}

/// An attempt ended without an ack. The next one is not made before this is
/// durable.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AttemptFailed {
    /// Group id.
    #[prost(uint64, tag = "1")]
    pub group: u64,
    /// Topic id.
    #[prost(uint64, tag = "2")]
    pub topic: u64,
    /// Partition.
    #[prost(uint32, tag = "3")]
    pub partition: u32,
    /// Offset.
    #[prost(uint64, tag = "4")]
    pub offset: u64,
    /// Number of the attempt that ended, from 1.
    #[prost(uint32, tag = "5")]
    pub attempt: u32,
    /// Wall clock before which there is no other attempt.
    #[prost(uint64, tag = "6")]
    pub not_before_ms: u64,
    /// How it ended: the value of `sluice.v1.AttemptEnd`.
    #[prost(uint32, tag = "7")]
    pub end: u32,
    /// Who made it.
    #[prost(string, tag = "8")]
    pub member: String,
    /// What the worker said.
    #[prost(string, tag = "9")]
    pub reason: String,
    /// Wall clock when it ended.
    #[prost(uint64, tag = "10")]
    pub ended_ms: u64,
}

/// A lease that has lasted long enough to be worth a wait for its holder after
/// a restart of the broker.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LeaseNoted {
    /// Group id.
    #[prost(uint64, tag = "1")]
    pub group: u64,
    /// Topic id.
    #[prost(uint64, tag = "2")]
    pub topic: u64,
    /// Partition.
    #[prost(uint32, tag = "3")]
    pub partition: u32,
    /// Offset.
    #[prost(uint64, tag = "4")]
    pub offset: u64,
    /// Log epoch of the lease's token.
    #[prost(uint64, tag = "5")]
    pub token_epoch: u64,
    /// Counter of the lease's token.
    #[prost(uint64, tag = "6")]
    pub token_counter: u64,
    /// Number of the attempt, from 1.
    #[prost(uint32, tag = "7")]
    pub attempt: u32,
    /// Who holds it.
    #[prost(string, tag = "8")]
    pub member: String,
    /// The event's key; empty for none.
    #[prost(bytes = "bytes", tag = "9")]
    pub key: Bytes,
    /// Bytes of the encoded event.
    #[prost(uint32, tag = "10")]
    pub size: u32,
}

/// A topic came to be.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TopicCreated {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub topic: u64,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// How many partitions it has.
    #[prost(uint32, tag = "3")]
    pub partitions: u32,
    /// Wall clock of its creation.
    #[prost(uint64, tag = "4")]
    pub created_ms: u64,
}

/// A topic and its events are gone.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TopicDeleted {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub topic: u64,
}

/// A group came to be. Its dead-letter and parking topics are created in the
/// same frame.
#[derive(Clone, PartialEq, Message)]
pub struct GroupCreated {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub group: u64,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Id of the topic that it reads.
    #[prost(uint64, tag = "3")]
    pub topic: u64,
    /// Id of the topic of its dead letters.
    #[prost(uint64, tag = "4")]
    pub dead_letters: u64,
    /// Id of the topic of what only it sees again.
    #[prost(uint64, tag = "5")]
    pub parking: u64,
    /// Where it begins, by partition.
    #[prost(uint64, repeated, tag = "6")]
    pub start: Vec<u64>,
    /// Wall clock of its creation.
    #[prost(uint64, tag = "7")]
    pub created_ms: u64,
    /// What it was asked to be.
    #[prost(message, required, tag = "8")]
    pub config: GroupConfig,
}

/// What a group was asked to be, with every default filled in.
#[derive(Clone, PartialEq, Message)]
pub struct GroupConfig {
    /// CEL; empty for every event.
    #[prost(string, tag = "1")]
    pub filter: String,
    /// Whether events of one key go one at a time.
    #[prost(bool, tag = "2")]
    pub ordered_by_key: bool,
    /// How long a silent member keeps its leases.
    #[prost(uint64, tag = "3")]
    pub lease_ms: u64,
    /// Attempts before an event is a dead letter.
    #[prost(uint32, tag = "4")]
    pub max_attempts: u32,
    /// Delay before the second attempt.
    #[prost(uint64, tag = "5")]
    pub initial_delay_ms: u64,
    /// Factor between delays.
    #[prost(double, tag = "6")]
    pub multiplier: f64,
    /// The longest delay.
    #[prost(uint64, tag = "7")]
    pub max_delay_ms: u64,
    /// Events under lease at once.
    #[prost(uint32, tag = "8")]
    pub max_in_flight: u32,
    /// Where it was asked to begin.
    #[prost(oneof = "GroupStart", tags = "9, 10, 11, 12")]
    pub start: Option<GroupStart>,
}

/// Where a group was asked to begin.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
#[allow(missing_docs)] // As in `sluice.v1.ReadStart`.
pub enum GroupStart {
    #[prost(bool, tag = "9")]
    Earliest(bool),
    #[prost(bool, tag = "10")]
    Latest(bool),
    #[prost(uint64, tag = "11")]
    Offset(u64),
    #[prost(uint64, tag = "12")]
    TimeMs(u64),
}

/// A group, its dead letters and its parked events are gone.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct GroupDeleted {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub group: u64,
}

/// A producer session was opened.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ProducerOpened {
    /// The producer's id.
    #[prost(uint64, tag = "1")]
    pub producer: u64,
    /// The session's epoch; what earlier ones send is refused from here on.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Its name; empty for none.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Producers forgotten to make room.
    #[prost(uint64, repeated, tag = "4")]
    pub forgotten: Vec<u64>,
}

/// The first frame of every epoch.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct EpochStarted {
    /// The epoch.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Version of the broker that started it.
    #[prost(string, tag = "2")]
    pub version: String,
}

/// A frame's payload is not one that this broker writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It ends too early, or a length in it points beyond its end.
    #[error("it is cut short")]
    Short,
    /// Bytes follow where it should end.
    #[error("it has {0} bytes too many")]
    Trailing(usize),
    /// A record of a kind that this version does not know.
    #[error("it has a record of the unknown kind {0}")]
    UnknownKind(u8),
    /// A flag that this version does not know.
    #[error("it has unknown flags {0:#04x}")]
    UnknownFlags(u8),
    /// A protobuf body does not decode.
    #[error("its record of kind {0} does not decode: {1}")]
    Body(u8, prost::DecodeError),
}

const FLAG_PRODUCER: u8 = 1;

impl Frame {
    /// Bytes that [`Frame::encode`] will write.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let producer = if self.producer.is_some() { 24 } else { 0 };
        let records: usize = self.records.iter().map(|r| 5 + r.body_len()).sum();
        8 + 1 + producer + 2 + records
    }

    /// Appends the payload to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.time_ms);
        match self.producer {
            None => out.put_u8(0),
            Some(p) => {
                out.put_u8(FLAG_PRODUCER);
                out.put_u64_le(p.producer.0);
                out.put_u64_le(p.epoch);
                out.put_u64_le(p.sequence);
            }
        }
        out.put_u16_le(self.records.len() as u16);
        for record in &self.records {
            out.put_u8(record.kind());
            out.put_u32_le(record.body_len() as u32);
            record.encode_body(out);
        }
    }

    /// Reads a payload. Events are slices of it, not copies.
    ///
    /// # Errors
    /// When the payload is not one that this version writes.
    pub fn decode(mut payload: Bytes) -> Result<Self, DecodeError> {
        let input = &mut payload;
        let time_ms = take_u64(input)?;
        let producer = match take_u8(input)? {
            0 => None,
            FLAG_PRODUCER => Some(ProducerSequence {
                producer: ProducerId(take_u64(input)?),
                epoch: take_u64(input)?,
                sequence: take_u64(input)?,
            }),
            other => return Err(DecodeError::UnknownFlags(other)),
        };
        let count = take_u16(input)?;
        let mut records = Vec::with_capacity(count.into());
        for _ in 0..count {
            let kind = take_u8(input)?;
            let length = take_u32(input)? as usize;
            records.push(Record::decode(kind, take(input, length)?)?);
        }
        if input.has_remaining() {
            return Err(DecodeError::Trailing(input.remaining()));
        }
        Ok(Self {
            time_ms,
            producer,
            records,
        })
    }
}

macro_rules! protobuf_records {
    ($($kind:literal => $name:ident),* $(,)?) => {
        impl Record {
            fn kind(&self) -> u8 {
                match self {
                    Self::Append(_) => 1,
                    Self::Settle(_) => 2,
                    $(Self::$name(_) => $kind,)*
                }
            }

            fn body_len(&self) -> usize {
                match self {
                    Self::Append(append) => append.body_len(),
                    Self::Settle(settle) => 24 + settle.runs.len() * 16,
                    $(Self::$name(message) => message.encoded_len(),)*
                }
            }

            fn encode_body(&self, out: &mut BytesMut) {
                match self {
                    Self::Append(append) => append.encode_body(out),
                    Self::Settle(settle) => settle.encode_body(out),
                    // A BytesMut grows, so there is always room.
                    $(Self::$name(message) => message.encode_raw(out),)*
                }
            }

            fn decode(kind: u8, body: Bytes) -> Result<Self, DecodeError> {
                match kind {
                    1 => Append::decode_body(body).map(Self::Append),
                    2 => Settle::decode_body(body).map(Self::Settle),
                    $($kind => $name::decode(body)
                        .map(Self::$name)
                        .map_err(|error| DecodeError::Body(kind, error)),)*
                    other => Err(DecodeError::UnknownKind(other)),
                }
            }
        }
    };
}

// The numbers are the format; they never change meaning.
protobuf_records! {
    3 => AttemptFailed,
    4 => LeaseNoted,
    5 => TopicCreated,
    6 => TopicDeleted,
    7 => GroupCreated,
    8 => GroupDeleted,
    9 => ProducerOpened,
    10 => EpochStarted,
}

/// Bytes that one event takes in a frame besides itself and its note.
pub const EVENT_OVERHEAD: usize = 8;

impl Append {
    fn body_len(&self) -> usize {
        let events: usize = self
            .events
            .iter()
            .map(|e| EVENT_OVERHEAD + e.event.len() + e.note.len())
            .sum();
        24 + events
    }

    fn encode_body(&self, out: &mut BytesMut) {
        out.put_u64_le(self.topic.0);
        out.put_u32_le(self.partition.0);
        out.put_u64_le(self.first.0);
        out.put_u32_le(self.events.len() as u32);
        for event in &self.events {
            out.put_u32_le(event.event.len() as u32);
            out.put_u32_le(event.note.len() as u32);
            out.put_slice(&event.event);
            out.put_slice(&event.note);
        }
    }

    fn decode_body(mut body: Bytes) -> Result<Self, DecodeError> {
        let input = &mut body;
        let topic = TopicId(take_u64(input)?);
        let partition = PartitionId(take_u32(input)?);
        let first = Offset(take_u64(input)?);
        let count = take_u32(input)? as usize;
        // Each event takes at least its two lengths, so that a wrong count
        // cannot ask for more memory than the frame has bytes.
        let mut events = Vec::with_capacity(count.min(input.len() / EVENT_OVERHEAD));
        for _ in 0..count {
            events.push(next_event(input)?);
        }
        end(input)?;
        Ok(Self {
            topic,
            partition,
            first,
            events,
        })
    }
}

impl Settle {
    fn encode_body(&self, out: &mut BytesMut) {
        out.put_u64_le(self.group.0);
        out.put_u64_le(self.source.topic.0);
        out.put_u32_le(self.source.partition.0);
        out.put_u32_le(self.runs.len() as u32);
        for (first, length) in &self.runs {
            out.put_u64_le(first.0);
            out.put_u64_le(*length);
        }
    }

    fn decode_body(mut body: Bytes) -> Result<Self, DecodeError> {
        let input = &mut body;
        let group = GroupId(take_u64(input)?);
        let source = Source {
            topic: TopicId(take_u64(input)?),
            partition: PartitionId(take_u32(input)?),
        };
        let count = take_u32(input)? as usize;
        let mut runs = Vec::with_capacity(count.min(input.len() / 16));
        for _ in 0..count {
            runs.push((Offset(take_u64(input)?), take_u64(input)?));
        }
        end(input)?;
        Ok(Self {
            group,
            source,
            runs,
        })
    }
}

/// The events that a frame appends to one partition from offset `first` on,
/// without decoding the rest of it.
///
/// # Errors
/// When the payload is not one that this version writes.
pub fn events_at(
    payload: &Bytes,
    source: Source,
    first: Offset,
) -> Result<impl Iterator<Item = Result<NewEvent, DecodeError>> + use<>, DecodeError> {
    let mut payload = payload.clone();
    let input = &mut payload;
    take_u64(input)?;
    if take_u8(input)? & FLAG_PRODUCER != 0 {
        take(input, 24)?;
    }
    let count = take_u16(input)?;
    let mut found = (0, Bytes::new());
    for _ in 0..count {
        let kind = take_u8(input)?;
        let length = take_u32(input)? as usize;
        let mut body = take(input, length)?;
        if kind != 1 {
            continue;
        }
        let topic = TopicId(take_u64(&mut body)?);
        let partition = PartitionId(take_u32(&mut body)?);
        let this_first = Offset(take_u64(&mut body)?);
        let events = take_u32(&mut body)?;
        if (Source { topic, partition }) == source && this_first == first {
            found = (events, body);
            break;
        }
    }
    let (count, mut body) = found;
    Ok((0..count).map(move |_| next_event(&mut body)))
}

fn next_event(input: &mut Bytes) -> Result<NewEvent, DecodeError> {
    let event_len = take_u32(input)? as usize;
    let note_len = take_u32(input)? as usize;
    let event = take(input, event_len)?;
    let note = take(input, note_len)?;
    Ok(NewEvent { event, note })
}

fn end(input: &Bytes) -> Result<(), DecodeError> {
    match input.len() {
        0 => Ok(()),
        more => Err(DecodeError::Trailing(more)),
    }
}

fn take(input: &mut Bytes, length: usize) -> Result<Bytes, DecodeError> {
    if input.len() < length {
        return Err(DecodeError::Short);
    }
    Ok(input.split_to(length))
}

fn take_u8(input: &mut Bytes) -> Result<u8, DecodeError> {
    input.try_get_u8().map_err(|_| DecodeError::Short)
}

fn take_u16(input: &mut Bytes) -> Result<u16, DecodeError> {
    input.try_get_u16_le().map_err(|_| DecodeError::Short)
}

fn take_u32(input: &mut Bytes) -> Result<u32, DecodeError> {
    input.try_get_u32_le().map_err(|_| DecodeError::Short)
}

fn take_u64(input: &mut Bytes) -> Result<u64, DecodeError> {
    input.try_get_u64_le().map_err(|_| DecodeError::Short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Frame {
        Frame {
            time_ms: 1_764_000_000_000,
            producer: Some(ProducerSequence {
                producer: ProducerId(7),
                epoch: 2,
                sequence: 41,
            }),
            records: vec![
                Record::Append(Append {
                    topic: TopicId(3),
                    partition: PartitionId(1),
                    first: Offset(100),
                    events: vec![
                        NewEvent {
                            event: Bytes::from_static(b"one"),
                            note: Bytes::new(),
                        },
                        NewEvent {
                            event: Bytes::from_static(b"two"),
                            note: Bytes::from_static(b"why"),
                        },
                    ],
                }),
                Record::Settle(Settle {
                    group: GroupId(9),
                    source: Source {
                        topic: TopicId(3),
                        partition: PartitionId(0),
                    },
                    runs: vec![(Offset(5), 1), (Offset(8), 12)],
                }),
                Record::TopicDeleted(TopicDeleted { topic: 12 }),
            ],
        }
    }

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let frame = sample();
        let mut out = BytesMut::new();
        frame.encode(&mut out);
        assert_eq!(out.len(), frame.encoded_len());
        assert_eq!(Frame::decode(out.freeze()), Ok(frame));
    }

    #[test]
    fn a_frame_cut_anywhere_is_refused() {
        let mut out = BytesMut::new();
        sample().encode(&mut out);
        let whole = out.freeze();
        for length in 0..whole.len() {
            assert!(Frame::decode(whole.slice(..length)).is_err(), "{length}");
        }
        let mut longer = BytesMut::from(&whole[..]);
        longer.put_u8(0);
        assert_eq!(
            Frame::decode(longer.freeze()),
            Err(DecodeError::Trailing(1))
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Frame::decode(bytes.into());
        }

        #[test]
        fn no_changed_byte_makes_it_panic(at in 0_usize..140, to in any::<u8>()) {
            let mut out = BytesMut::new();
            sample().encode(&mut out);
            let at = at % out.len();
            out[at] = to;
            let _ = Frame::decode(out.freeze());
        }
    }
}
