//! Writes a `sluice.v1.Deliveries` event by event.
//!
//! A broker sends one for every few events, so it is what most of its time goes to. The
//! generated code wants a structure for each event, with memory of its own, and goes
//! through all of them twice. Here an event is encoded when it is given, and large ones
//! are not copied before they go into the message.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, message, skip_field},
};

use crate::{Offset, PartitionId, wire};

/// What is said of an event in a `sluice.v1.Delivery`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryHead {
    /// Its lease.
    pub lease: wire::LeaseToken,
    /// Its partition.
    pub partition: PartitionId,
    /// Its place in it.
    pub offset: Offset,
    /// When it was appended, milliseconds since 1970.
    pub append_time_ms: u64,
    /// From 1.
    pub attempt: u32,
    /// How often it was redriven.
    pub redrives: u32,
    /// Tells its offset from an earlier one with the same number; 0 where there is none.
    pub epoch: u64,
}

/// A `sluice.v1.Deliveries`, as the generated code has it, and with it deliveries that
/// are encoded already. Two that are equal on the wire are equal here only if the same
/// of them is encoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Deliveries {
    /// Those that were read, or are encoded when the message is.
    pub deliveries: Vec<wire::Delivery>,
    encoded: Vec<u8>,
    /// Large events, each with its place in what is encoded.
    apart: Vec<(usize, Bytes)>,
    apart_bytes: usize,
}

/// Numbers of the fields.
mod field {
    pub(super) const DELIVERY: u32 = 1;
    pub(super) const LEASE: u32 = 1;
    pub(super) const EVENT: u32 = 2;
    pub(super) const PARTITION: u32 = 3;
    pub(super) const OFFSET: u32 = 4;
    pub(super) const APPEND_TIME: u32 = 5;
    pub(super) const ATTEMPT: u32 = 6;
    pub(super) const REDRIVES: u32 = 7;
    pub(super) const EPOCH: u32 = 8;
}

/// Bytes of a message that is all varints, and short.
struct Short<const MAX: usize> {
    bytes: [u8; MAX],
    length: usize,
}

impl<const MAX: usize> Short<MAX> {
    const fn new() -> Self {
        Self {
            bytes: [0; MAX],
            length: 0,
        }
    }

    fn byte(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    /// A field of that number; the default is left out.
    fn number(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.byte(tag(field, WireType::Varint));
            self.varint(value);
        }
    }

    fn message<const PART_MAX: usize>(&mut self, field: u32, part: &Short<PART_MAX>) {
        self.byte(tag(field, WireType::LengthDelimited));
        self.varint(part.length as u64);
        self.bytes[self.length..][..part.length].copy_from_slice(part.written());
        self.length += part.length;
    }

    fn written(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// A field's tag; all fields here have tags of one byte.
const fn tag(field: u32, wire_type: WireType) -> u8 {
    (field << 3) as u8 | wire_type as u8
}

impl DeliveryHead {
    /// Two varints of ten bytes, and their tags.
    const LEASE_MAX: usize = 22;
    const BEFORE_MAX: usize = Self::LEASE_MAX + 2;
    /// Five varints, and a message of two.
    const AFTER_MAX: usize = 5 * 11 + 24;

    fn before_event(&self) -> Short<{ Self::BEFORE_MAX }> {
        let mut lease = Short::<{ Self::LEASE_MAX }>::new();
        lease.number(1, self.lease.epoch as u64);
        lease.number(2, self.lease.counter as u64);
        let mut before = Short::new();
        before.message(field::LEASE, &lease);
        before
    }

    fn after_event(&self) -> Short<{ Self::AFTER_MAX }> {
        let mut time = Short::<22>::new();
        time.number(1, self.append_time_ms / 1000);
        time.number(2, self.append_time_ms % 1000 * 1_000_000);
        let mut after = Short::new();
        // These are int32; a number beyond would be read as a negative one.
        after.number(field::PARTITION, self.partition.0 as i32 as u64);
        after.number(field::OFFSET, self.offset.0);
        after.message(field::APPEND_TIME, &time);
        after.number(field::ATTEMPT, self.attempt as i32 as u64);
        after.number(field::REDRIVES, self.redrives as i32 as u64);
        after.number(field::EPOCH, self.epoch);
        after
    }
}

impl Deliveries {
    /// Makes room for so many bytes more.
    pub fn reserve(&mut self, bytes: usize) {
        self.encoded.reserve(bytes);
    }

    /// Adds an event, which is copied.
    pub fn push(&mut self, head: &DeliveryHead, event: &[u8]) {
        self.write(head, event.len(), |this| {
            this.encoded.extend_from_slice(event)
        });
    }

    /// Adds an event that is copied only when the message is encoded.
    pub fn push_apart(&mut self, head: &DeliveryHead, event: Bytes) {
        self.write(head, event.len(), |this| {
            this.apart_bytes += event.len();
            this.apart.push((this.encoded.len(), event));
        });
    }

    fn write(
        &mut self,
        head: &DeliveryHead,
        event_bytes: usize,
        write_event: impl FnOnce(&mut Self),
    ) {
        let (before, after) = (head.before_event(), head.after_event());
        // An empty event is left out, as every default is.
        let mut event_head = Short::<11>::new();
        if event_bytes > 0 {
            event_head.byte(tag(field::EVENT, WireType::LengthDelimited));
            event_head.varint(event_bytes as u64);
        }
        let length = before.length + event_head.length + event_bytes + after.length;
        let mut delivery_head = Short::<11>::new();
        delivery_head.byte(tag(field::DELIVERY, WireType::LengthDelimited));
        delivery_head.varint(length as u64);
        self.encoded.extend_from_slice(delivery_head.written());
        self.encoded.extend_from_slice(before.written());
        self.encoded.extend_from_slice(event_head.written());
        write_event(self);
        self.encoded.extend_from_slice(after.written());
    }

    /// Bytes of memory that what is encoded takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.encoded.capacity() + self.apart_bytes
    }
}

impl Message for Deliveries {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        message::encode_repeated(field::DELIVERY, &self.deliveries, buf);
        let mut from = 0;
        for (at, event) in &self.apart {
            buf.put_slice(&self.encoded[from..*at]);
            buf.put_slice(event);
            from = *at;
        }
        buf.put_slice(&self.encoded[from..]);
    }

    fn merge_field(
        &mut self,
        number: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match number {
            field::DELIVERY => message::merge_repeated(wire_type, &mut self.deliveries, buf, ctx),
            _ => skip_field(wire_type, number, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        let read = message::encoded_len_repeated(field::DELIVERY, &self.deliveries);
        read + self.encoded.len() + self.apart_bytes
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), 0..300_u64, 0..=i64::MAX as u64]
    }

    prop_compose! {
        fn any_head()(
            lease in (number(), number()),
            partition in 0..=i32::MAX as u32,
            offset in number(),
            append_time_ms in prop_oneof![Just(0), 0..4_000_000_000_000_u64],
            attempt in 0..=i32::MAX as u32,
            redrives in 0..3_u32,
            epoch in number(),
        ) -> DeliveryHead {
            DeliveryHead {
                lease: wire::LeaseToken {
                    epoch: lease.0 as i64,
                    counter: lease.1 as i64,
                },
                partition: PartitionId(partition),
                offset: Offset(offset),
                append_time_ms,
                attempt,
                redrives,
                epoch,
            }
        }
    }

    fn generated(head: DeliveryHead, event: Bytes) -> wire::Delivery {
        wire::Delivery {
            lease: Some(head.lease),
            event,
            partition: head.partition.0 as i32,
            offset: head.offset.0 as i64,
            append_time: Some(prost_types::Timestamp {
                seconds: (head.append_time_ms / 1000) as i64,
                nanos: (head.append_time_ms % 1000 * 1_000_000) as i32,
            }),
            attempt: head.attempt as i32,
            redrives: head.redrives as i32,
            epoch: head.epoch as i64,
        }
    }

    proptest! {
        /// Each event written by itself, and all of them, byte for byte.
        #[test]
        fn it_writes_what_the_generated_code_writes(
            events in proptest::collection::vec(
                (any_head(), proptest::collection::vec(any::<u8>(), 0..300), any::<bool>()),
                0..20,
            ),
        ) {
            let (mut written, mut expected) = (Deliveries::default(), Deliveries::default());
            for (head, event, apart) in events {
                let event = Bytes::from(event);
                expected.deliveries.push(generated(head, event.clone()));
                match apart {
                    true => written.push_apart(&head, event),
                    false => written.push(&head, &event),
                }
            }
            let bytes = written.encode_to_vec();
            prop_assert_eq!(bytes.len(), written.encoded_len());
            prop_assert!(written.bytes() >= bytes.len());
            prop_assert_eq!(&bytes, &expected.encode_to_vec());
            prop_assert_eq!(Deliveries::decode(&bytes[..]), Ok(expected));
        }
    }

    #[test]
    fn the_largest_numbers_have_room() {
        let head = DeliveryHead {
            lease: wire::LeaseToken {
                epoch: -1,
                counter: -1,
            },
            partition: PartitionId(u32::MAX),
            offset: Offset(u64::MAX),
            append_time_ms: u64::MAX,
            attempt: u32::MAX,
            redrives: u32::MAX,
            epoch: u64::MAX,
        };
        let mut written = Deliveries::default();
        written.push(&head, b"event");
        let read = Deliveries::decode(&written.encode_to_vec()[..]);
        let read = read.map(|read| read.deliveries);
        assert_eq!(
            read,
            Ok(vec![generated(head, Bytes::from_static(b"event"))])
        );
    }
}
