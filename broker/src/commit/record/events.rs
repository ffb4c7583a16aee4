//! The events of a frame, where they lie.

use bytes::{Buf, Bytes};
use sluice_proto::{Offset, PartitionId, TopicId};

use super::{
    NewEvent, Source,
    codec::{
        APPEND, DecodeError, FLAG_PRODUCER, RELOCATED, take, take_u8, take_u16, take_u32, take_u64,
        take_varint,
    },
};

/// An event with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct EventAt {
    /// Its offset.
    pub offset: Offset,
    /// When it was appended, milliseconds since 1970.
    pub time_ms: u64,
    /// The event.
    pub event: NewEvent,
}

/// The events of one record, in order.
#[derive(Clone, Debug)]
pub struct EventsAt {
    body: Bytes,
    layout: Layout,
    /// The lowest offset that the next one can have.
    next: Offset,
    left: u32,
}

#[derive(Clone, Copy, Debug)]
enum Layout {
    /// Without a gap, all of one time.
    Appended { time_ms: u64 },
    /// Each with what is missing before it, and how much older it is than this.
    Relocated { last_ms: u64 },
}

/// The events that a frame appends to one partition from offset `first` on, or
/// holds again for a range that begins there, in order, without decoding the
/// rest of it. `None` when the frame has no such record.
///
/// # Errors
/// When the payload is not one that this version writes.
pub fn events_at(
    payload: &Bytes,
    source: Source,
    first: Offset,
) -> Result<Option<EventsAt>, DecodeError> {
    let mut payload = payload.clone();
    let input = &mut payload;
    let frame_ms = take_u64(input)?;
    if take_u8(input)? & FLAG_PRODUCER != 0 {
        take(input, 24)?;
    }
    let count = take_u16(input)?;
    for _ in 0..count {
        let kind = take_u8(input)?;
        let length = take_u32(input)? as usize;
        let mut body = take(input, length)?;
        if kind != APPEND && kind != RELOCATED {
            continue;
        }
        let topic = TopicId(take_u64(&mut body)?);
        let partition = PartitionId(take_u32(&mut body)?);
        let this_first = Offset(take_u64(&mut body)?);
        if (Source { topic, partition }) != source || this_first != first {
            continue;
        }
        let mut layout = Layout::Appended { time_ms: frame_ms };
        if kind == RELOCATED {
            // Where the range ends, then its time and what it dropped.
            take(&mut body, 8)?;
            let last_ms = take_u64(&mut body)?;
            take(&mut body, 8)?;
            layout = Layout::Relocated { last_ms };
        }
        let left = take_u32(&mut body)?;
        return Ok(Some(EventsAt {
            body,
            layout,
            next: first,
            left,
        }));
    }
    Ok(None)
}

impl EventsAt {
    /// Passes over events below `offset`, as far as that takes no look at each. The
    /// next event may still be one below.
    ///
    /// # Errors
    /// When the payload is not one that this version writes.
    pub fn skip_towards(&mut self, offset: Offset) -> Result<(), DecodeError> {
        if let Layout::Relocated { .. } = self.layout {
            return Ok(());
        }
        let mut rest = &self.body[..];
        while self.next < offset && self.left > 0 {
            let event = rest.try_get_u32_le().map_err(|_| DecodeError::Short)?;
            let note = rest.try_get_u32_le().map_err(|_| DecodeError::Short)?;
            let both = event as usize + note as usize;
            rest = rest.get(both..).ok_or(DecodeError::Short)?;
            self.next = Offset(self.next.0.wrapping_add(1));
            self.left -= 1;
        }
        let passed = self.body.len() - rest.len();
        self.body.advance(passed);
        Ok(())
    }
}

impl Iterator for EventsAt {
    type Item = Result<EventAt, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let body = &mut self.body;
        let event = match self.layout {
            Layout::Relocated { last_ms } => next_relocated(body, self.next, last_ms),
            Layout::Appended { time_ms } => next_event(body).map(|event| EventAt {
                offset: self.next,
                time_ms,
                event,
            }),
        };
        match &event {
            Ok(event) => self.next = Offset(event.offset.0.wrapping_add(1)),
            // What follows cannot be found.
            Err(_) => self.left = 0,
        }
        Some(event)
    }
}

/// An event of a range that was written again, `from` on or later.
pub(super) fn next_relocated(
    input: &mut Bytes,
    from: Offset,
    last_ms: u64,
) -> Result<EventAt, DecodeError> {
    Ok(EventAt {
        offset: Offset(from.0.wrapping_add(take_varint(input)?)),
        time_ms: last_ms.wrapping_sub(take_varint(input)?),
        event: next_event(input)?,
    })
}

pub(super) fn next_event(input: &mut Bytes) -> Result<NewEvent, DecodeError> {
    let event_len = take_u32(input)? as usize;
    let note_len = take_u32(input)? as usize;
    let event = take(input, event_len)?;
    let note = take(input, note_len)?;
    Ok(NewEvent { event, note })
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::commit::record::{Append, Frame, Record, Relocated, RelocatedEvent};

    const SOURCE: Source = Source {
        topic: TopicId(3),
        partition: PartitionId(1),
    };

    fn frame(missing: Option<&[u64]>, events: &[Vec<u8>]) -> Bytes {
        let first = Offset(100);
        let record = match missing {
            None => Record::Append(Append {
                topic: SOURCE.topic,
                partition: SOURCE.partition,
                first,
                events: events
                    .iter()
                    .map(|event| NewEvent {
                        event: event.clone().into(),
                        note: event[..event.len() / 2].to_vec().into(),
                    })
                    .collect(),
            }),
            Some(missing) => {
                let mut next = first;
                let events = events.iter().zip(missing).map(|(event, missing)| {
                    let offset = next + *missing;
                    next = offset.next();
                    RelocatedEvent {
                        offset,
                        time_ms: 7,
                        event: NewEvent {
                            event: event.clone().into(),
                            note: Bytes::new(),
                        },
                    }
                });
                let events: Vec<_> = events.collect();
                Record::Relocated(Relocated {
                    topic: SOURCE.topic,
                    partition: SOURCE.partition,
                    first,
                    end: next,
                    time_ms: 9,
                    dropped_bytes: 0,
                    events,
                })
            }
        };
        let frame = Frame {
            time_ms: 1_764_000_000_000,
            producer: None,
            records: vec![record],
        };
        let mut out = BytesMut::new();
        frame.encode(&mut out);
        out.freeze()
    }

    proptest! {
        #[test]
        fn nothing_that_follows_is_passed_over(
            events in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..20),
            missing in proptest::option::of(proptest::collection::vec(0..3_u64, 20)),
            stops in proptest::collection::btree_set(95..140_u64, 0..6),
        ) {
            let payload = frame(missing.as_deref(), &events);
            let begin = || events_at(&payload, SOURCE, Offset(100)).expect("it is whole").expect("it is there");
            let all: Vec<EventAt> = begin().map(|event| event.expect("it is whole")).collect();
            prop_assert_eq!(all.len(), events.len());
            let mut skipping = begin();
            for stop in stops.into_iter().map(Offset) {
                skipping.skip_towards(stop).expect("it is whole");
                let rest: Vec<EventAt> = skipping.clone().map(|event| event.expect("it is whole")).collect();
                let follow = |of: &[EventAt]| {
                    of.iter().filter(|event| event.offset >= stop).cloned().collect::<Vec<_>>()
                };
                prop_assert_eq!(follow(&rest), follow(&all));
                if missing.is_none() {
                    prop_assert_eq!(rest, follow(&all));
                }
            }
        }
    }
}
