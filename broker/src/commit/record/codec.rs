//! Frames and records as bytes; the format is in the module above.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use sluice_proto::{GroupId, Offset, PartitionId, ProducerId, TopicId};

use super::{
    Append, AttemptFailed, EpochStarted, Frame, GroupChanged, GroupCreated, GroupDeleted,
    LeaseNoted, NewEvent, ProducerOpened, ProducerSequence, Record, Settle, Source, TopicCreated,
    TopicDeleted,
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
    30 => GroupChanged,
}

/// Bytes that one event takes in a frame besides itself and its note.
pub(crate) const EVENT_OVERHEAD: usize = 8;

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
