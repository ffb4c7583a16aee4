//! Reads an encoded `sluice.v1.PublishBatch` where it lies: a piece of memory for each
//! of its events would cost more than all else that is done with a small one.

use crate::fields::{Field, Fields, Malformed, Value};

/// A batch of PublishStream, read in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchRef<'a> {
    /// Chosen by the client.
    pub request_id: i64,
    /// A topic's name, as it was given.
    pub topic: &'a str,
    /// Where its events are, in order.
    pub events: Vec<Span>,
    /// The partition that all of them go to, as it was given.
    pub partition: Option<i32>,
    /// A number in the producer's sequence; 0 for none.
    pub sequence: i64,
}

/// A part of a piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its first byte.
    pub start: u32,
    /// How many bytes it has.
    pub length: u32,
}

/// The bytes are no batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is malformed at {0}")]
pub struct BatchError(&'static str);

impl Span {
    /// That part of `of`.
    ///
    /// # Panics
    /// When `of` ends before it does.
    #[must_use]
    pub fn of(self, of: &[u8]) -> &[u8] {
        &of[self.start as usize..][..self.length as usize]
    }
}

impl<'a> BatchRef<'a> {
    /// Reads a batch. What its events are is not looked at.
    ///
    /// # Errors
    /// When it is no well-formed batch.
    pub fn read(bytes: &'a [u8]) -> Result<Self, BatchError> {
        // So that every place in it is a u32.
        u32::try_from(bytes.len()).map_err(|_| BatchError("batch"))?;
        let mut batch = Self::default();
        for field in Fields::new(bytes) {
            let Field { number, value } = field.map_err(|Malformed| BatchError("batch"))?;
            match (number, value) {
                (1, Value::Varint(value)) => batch.request_id = value as i64,
                (2, Value::Bytes(value)) => {
                    let text = std::str::from_utf8(value);
                    batch.topic = text.map_err(|_| BatchError("batch.topic"))?;
                }
                (3, Value::Bytes(event)) => batch.events.push(Span {
                    start: (event.as_ptr() as usize - bytes.as_ptr() as usize) as u32,
                    length: event.len() as u32,
                }),
                // As protobuf does: an int32 is the low half of the varint.
                (4, Value::Varint(value)) => batch.partition = Some(value as i32),
                (5, Value::Varint(value)) => batch.sequence = value as i64,
                (1..=5, _) => return Err(BatchError(name_of(number))),
                _ => {}
            }
        }
        Ok(batch)
    }
}

fn name_of(number: u32) -> &'static str {
    match number {
        1 => "batch.request_id",
        2 => "batch.topic",
        3 => "batch.events",
        4 => "batch.partition",
        _ => "batch.sequence",
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::wire;

    /// The batch as the generated code has it.
    fn generated(batch: &BatchRef<'_>, bytes: &[u8]) -> wire::PublishBatch {
        let event = |span: &Span| Bytes::copy_from_slice(span.of(bytes));
        wire::PublishBatch {
            request_id: batch.request_id,
            topic: batch.topic.to_owned(),
            events: batch.events.iter().map(event).collect(),
            partition: batch.partition,
            sequence: batch.sequence,
        }
    }

    fn any_batch() -> impl Strategy<Value = wire::PublishBatch> {
        let event = proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        let events = proptest::collection::vec(event, 0..20);
        let rest = (any::<i64>(), ".{0,20}", any::<Option<i32>>(), any::<i64>());
        (events, rest).prop_map(|(events, (request_id, topic, partition, sequence))| {
            wire::PublishBatch {
                request_id,
                topic,
                events,
                partition,
                sequence,
            }
        })
    }

    proptest! {
        #[test]
        fn a_batch_is_what_the_generated_code_reads(batch in any_batch()) {
            let bytes = batch.encode_to_vec();
            let read = BatchRef::read(&bytes).expect("it is well formed");
            prop_assert_eq!(generated(&read, &bytes), batch);
        }

        #[test]
        fn of_any_bytes_it_reads_what_the_generated_code_reads(
            batch in any_batch(),
            at in any::<prop::sample::Index>(),
            to in any::<u8>(),
            more in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut bytes = batch.encode_to_vec();
            bytes.extend(more);
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = to;
            }
            // The generated code knows groups as well, which proto3 does not have.
            if let Ok(read) = BatchRef::read(&bytes) {
                let decoded = wire::PublishBatch::decode(&bytes[..]).expect("both read it");
                prop_assert_eq!(generated(&read, &bytes), decoded);
            }
        }
    }

    #[test]
    fn an_error_names_the_field() {
        for (bytes, field) in [
            (&[0x08][..], "batch"),
            (&[0x0a, 0][..], "batch.request_id"),
            (&[0x12, 1, 0xff][..], "batch.topic"),
            (&[0x18, 1][..], "batch.events"),
            (&[0x1a, 2, 0][..], "batch"),
            (&[0x22, 0][..], "batch.partition"),
            (&[0x2d, 0, 0, 0, 0][..], "batch.sequence"),
        ] {
            assert_eq!(BatchRef::read(bytes), Err(BatchError(field)), "{bytes:?}");
        }
    }
}
