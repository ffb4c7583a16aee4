//! Frames and records as bytes; the format is in the module above.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::{
    Message,
    encoding::{decode_varint, encode_varint, encoded_len_varint},
};
use sluice_proto::{Offset, PartitionId, ProducerId, TopicId, batch::Span};

use super::{
    Append, AttemptFailed, CheckpointBegun, CheckpointChunk, CheckpointEnded, EpochStarted, Frame,
    GroupChanged, GroupCreated, GroupDeleted, LeaseNoted, NewEvent, NewEvents, ProducerOpened,
    ProducerSequence, Record, Relocated, RelocatedEvent, RetentionTime, Settle, TopicCreated,
    TopicDeleted, TopicUpdated, Trimmed,
    events::next_relocated,
    settle::{take_run, take_run_before},
};

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

pub(super) const FLAG_PRODUCER: u8 = 1;
pub(super) const APPEND: u8 = 1;
pub(super) const RELOCATED: u8 = 22;
/// As builds before wrote it, which is only read.
const SETTLE_BEFORE: u8 = 2;
const SETTLE: u8 = 27;
const CHECKPOINT_BEGUN: u8 = 23;
const CHECKPOINT_ENDED: u8 = 25;

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
                    Self::Settle(_) => SETTLE,
                    Self::Relocated(_) => RELOCATED,
                    $(Self::$name(_) => $kind,)*
                }
            }

            fn body_len(&self) -> usize {
                match self {
                    Self::Append(append) => append.body_len(),
                    Self::Settle(settle) => settle.body_len(),
                    Self::Relocated(relocated) => relocated.body_len(),
                    $(Self::$name(message) => message.encoded_len(),)*
                }
            }

            fn encode_body(&self, out: &mut BytesMut) {
                match self {
                    Self::Append(append) => append.encode_body(out),
                    Self::Settle(settle) => settle.encode_body(out),
                    Self::Relocated(relocated) => relocated.encode_body(out),
                    // A BytesMut grows, so there is always room.
                    $(Self::$name(message) => message.encode_raw(out),)*
                }
            }

            fn decode(kind: u8, body: Bytes) -> Result<Self, DecodeError> {
                match kind {
                    1 => Append::decode_body(body).map(Self::Append),
                    SETTLE => Settle::decode_body(body, take_run).map(Self::Settle),
                    SETTLE_BEFORE => Settle::decode_body(body, take_run_before).map(Self::Settle),
                    RELOCATED => Relocated::decode_body(body).map(Self::Relocated),
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
    20 => Trimmed,
    21 => TopicUpdated,
    23 => CheckpointBegun,
    24 => CheckpointChunk,
    25 => CheckpointEnded,
    26 => RetentionTime,
    30 => GroupChanged,
}

/// Bytes that one event takes in a frame besides itself and its note.
pub(crate) const EVENT_OVERHEAD: usize = 8;

impl Append {
    fn body_len(&self) -> usize {
        24 + EVENT_OVERHEAD * self.events.len() + self.events.bytes() as usize
    }

    fn encode_body(&self, out: &mut BytesMut) {
        out.put_u64_le(self.topic.0);
        out.put_u32_le(self.partition.0);
        out.put_u64_le(self.first.0);
        out.put_u32_le(self.events.len() as u32);
        for (event, note) in self.events.with_notes() {
            put_event(event, note, out);
        }
    }

    fn decode_body(mut body: Bytes) -> Result<Self, DecodeError> {
        let whole = body.clone();
        let input = &mut body;
        let topic = TopicId(take_u64(input)?);
        let partition = PartitionId(take_u32(input)?);
        let first = Offset(take_u64(input)?);
        let count = take_u32(input)? as usize;
        // Each event takes at least its two lengths, so that a wrong count
        // cannot ask for more memory than the frame has bytes.
        let room = count.min(input.len() / EVENT_OVERHEAD);
        let mut events = NewEvents::of(whole.clone(), room);
        for _ in 0..count {
            let length = take_u32(input)?;
            let note_len = take_u32(input)? as usize;
            let start = (whole.len() - input.len()) as u32;
            skip(input, length as usize)?;
            let note = match note_len {
                0 => Bytes::new(),
                _ => take(input, note_len)?,
            };
            events.push_part(Span { start, length }, note);
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

impl Relocated {
    /// Bytes that one event takes besides itself and its note, at most.
    pub(in crate::commit) const EVENT_OVERHEAD: usize = 20 + EVENT_OVERHEAD;

    /// For each event, how many offsets are missing before it, and by how much it
    /// is older than the range's last.
    fn differences(&self) -> impl Iterator<Item = (u64, u64, &NewEvent)> {
        let mut next = self.first.0;
        self.events.iter().map(move |of| {
            let missing = of.offset.0.wrapping_sub(next);
            next = of.offset.0.wrapping_add(1);
            (missing, self.time_ms.wrapping_sub(of.time_ms), &of.event)
        })
    }

    /// Bytes that it takes in a frame.
    #[must_use]
    pub fn record_len(&self) -> usize {
        5 + self.body_len()
    }

    fn body_len(&self) -> usize {
        let events: usize = self
            .differences()
            .map(|(missing, older, event)| {
                let varints = encoded_len_varint(missing) + encoded_len_varint(older);
                varints + EVENT_OVERHEAD + event.event.len() + event.note.len()
            })
            .sum();
        48 + events
    }

    fn encode_body(&self, out: &mut BytesMut) {
        out.put_u64_le(self.topic.0);
        out.put_u32_le(self.partition.0);
        out.put_u64_le(self.first.0);
        out.put_u64_le(self.end.0);
        out.put_u64_le(self.time_ms);
        out.put_u64_le(self.dropped_bytes);
        out.put_u32_le(self.events.len() as u32);
        for (missing, older, event) in self.differences() {
            encode_varint(missing, out);
            encode_varint(older, out);
            put_event(&event.event, &event.note, out);
        }
    }

    fn decode_body(mut body: Bytes) -> Result<Self, DecodeError> {
        let input = &mut body;
        let topic = TopicId(take_u64(input)?);
        let partition = PartitionId(take_u32(input)?);
        let first = Offset(take_u64(input)?);
        let range_end = Offset(take_u64(input)?);
        let time_ms = take_u64(input)?;
        let dropped_bytes = take_u64(input)?;
        let count = take_u32(input)? as usize;
        let mut events = Vec::with_capacity(count.min(input.len() / EVENT_OVERHEAD));
        let mut next = first;
        for _ in 0..count {
            let at = next_relocated(input, next, time_ms)?;
            next = Offset(at.offset.0.wrapping_add(1));
            events.push(RelocatedEvent {
                offset: at.offset,
                time_ms: at.time_ms,
                event: at.event,
            });
        }
        end(input)?;
        Ok(Self {
            topic,
            partition,
            first,
            end: range_end,
            time_ms,
            dropped_bytes,
            events,
        })
    }
}

/// Whether a frame is a piece of a checkpoint.
#[must_use]
pub fn is_checkpoint(payload: &[u8]) -> bool {
    const FIRST_KIND_AT: usize = 8 + 1 + 2;
    // Such a frame has one record and no producer.
    let no_producer = payload.get(8) == Some(&0);
    let kind = payload.get(FIRST_KIND_AT);
    no_producer && kind.is_some_and(|kind| (CHECKPOINT_BEGUN..=CHECKPOINT_ENDED).contains(kind))
}

fn put_event(event: &[u8], note: &[u8], out: &mut BytesMut) {
    out.put_u32_le(event.len() as u32);
    out.put_u32_le(note.len() as u32);
    out.put_slice(event);
    if !note.is_empty() {
        out.put_slice(note);
    }
}

pub(super) fn end(input: &Bytes) -> Result<(), DecodeError> {
    match input.len() {
        0 => Ok(()),
        more => Err(DecodeError::Trailing(more)),
    }
}

fn skip(input: &mut Bytes, length: usize) -> Result<(), DecodeError> {
    if input.len() < length {
        return Err(DecodeError::Short);
    }
    input.advance(length);
    Ok(())
}

pub(super) fn take(input: &mut Bytes, length: usize) -> Result<Bytes, DecodeError> {
    if input.len() < length {
        return Err(DecodeError::Short);
    }
    Ok(input.split_to(length))
}

pub(super) fn take_varint(input: &mut Bytes) -> Result<u64, DecodeError> {
    decode_varint(input).map_err(|_| DecodeError::Short)
}

pub(super) fn take_u8(input: &mut Bytes) -> Result<u8, DecodeError> {
    input.try_get_u8().map_err(|_| DecodeError::Short)
}

pub(super) fn take_u16(input: &mut Bytes) -> Result<u16, DecodeError> {
    input.try_get_u16_le().map_err(|_| DecodeError::Short)
}

pub(super) fn take_u32(input: &mut Bytes) -> Result<u32, DecodeError> {
    input.try_get_u32_le().map_err(|_| DecodeError::Short)
}

pub(super) fn take_u64(input: &mut Bytes) -> Result<u64, DecodeError> {
    input.try_get_u64_le().map_err(|_| DecodeError::Short)
}

#[cfg(test)]
mod tests {
    use sluice_proto::GroupId;

    use super::{
        super::{Source, events::events_at},
        *,
    };
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
                    events: NewEvents::from_iter([
                        NewEvent {
                            event: Bytes::from_static(b"one"),
                            note: Bytes::new(),
                        },
                        NewEvent {
                            event: Bytes::from_static(b"two"),
                            note: Bytes::from_static(b"why"),
                        },
                    ]),
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
                Record::Relocated(Relocated {
                    topic: TopicId(3),
                    partition: PartitionId(1),
                    first: Offset(40),
                    end: Offset(60),
                    time_ms: 1_763_000_000_001,
                    dropped_bytes: 7,
                    events: vec![RelocatedEvent {
                        offset: Offset(45),
                        time_ms: 1_763_000_000_000,
                        event: NewEvent {
                            event: Bytes::from_static(b"old"),
                            note: Bytes::from_static(b"n"),
                        },
                    }],
                }),
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

    #[test]
    fn events_are_found_by_partition_and_first_offset() {
        let mut out = BytesMut::new();
        sample().encode(&mut out);
        let payload = out.freeze();
        let source = Source {
            topic: TopicId(3),
            partition: PartitionId(1),
        };
        let found = |first| -> Option<Vec<(u64, u64, Bytes)>> {
            let events = events_at(&payload, source, Offset(first)).expect("it is whole")?;
            let events = events.map(|event| event.expect("it is whole"));
            Some(
                events
                    .map(|e| (e.offset.0, e.time_ms, e.event.event))
                    .collect(),
            )
        };
        let now = 1_764_000_000_000;
        let appended = vec![(100, now, "one".into()), (101, now, "two".into())];
        assert_eq!(found(100), Some(appended));
        let again = vec![(45, 1_763_000_000_000, "old".into())];
        assert_eq!(found(40), Some(again));
        assert_eq!(found(45), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let source = Source { topic: TopicId(0), partition: PartitionId(0) };
            let bytes = Bytes::from(bytes);
            if let Ok(Some(events)) = events_at(&bytes, source, Offset(0)) {
                for _ in events.take(1000) {}
            }
            let _ = Frame::decode(bytes);
        }

        #[test]
        fn no_changed_byte_makes_it_panic(at in 0_usize..240, to in any::<u8>()) {
            let mut out = BytesMut::new();
            sample().encode(&mut out);
            let at = at % out.len();
            out[at] = to;
            let _ = Frame::decode(out.freeze());
        }
    }
}
