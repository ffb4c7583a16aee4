//! Reads an encoded `sluice.v1.SettleBatch` where it lies. Most settlements are acks, of
//! which nothing but the lease matters.

use crate::{
    fields::{Field, Fields, Malformed, Value},
    wire,
};

/// Settlements of one message, read in place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SettleBatchRef<'a> {
    /// Chosen by the client.
    pub request_id: i64,
    /// In order.
    pub settlements: Vec<SettlementRef<'a>>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SettlementRef<'a> {
    /// An ack of this lease.
    Ack(wire::LeaseToken),
    /// A `sluice.v1.Settlement` that says something else, or says it in another way.
    Encoded(&'a [u8]),
}

/// The bytes are no such message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is malformed at {0}")]
pub struct SettleBatchError(&'static str);

impl<'a> SettleBatchRef<'a> {
    /// Reads a batch. What is encoded in it is not looked at.
    ///
    /// # Errors
    /// When it is no well-formed batch.
    pub fn read(bytes: &'a [u8]) -> Result<Self, SettleBatchError> {
        let mut batch = Self::default();
        for field in Fields::new(bytes) {
            let Field { number, value } = field.map_err(|Malformed| SettleBatchError("settle"))?;
            match (number, value) {
                (1, Value::Varint(value)) => batch.request_id = value as i64,
                (2, Value::Bytes(settlement)) => batch.settlements.push(
                    ack(settlement).map_or(SettlementRef::Encoded(settlement), SettlementRef::Ack),
                ),
                (1, _) => return Err(SettleBatchError("settle.request_id")),
                (2, _) => return Err(SettleBatchError("settle.settlements")),
                _ => {}
            }
        }
        Ok(batch)
    }
}

/// The lease of an ack as nearly every client encodes it: a lease with its epoch and its
/// counter, and an ack that is empty.
fn ack(settlement: &[u8]) -> Option<wire::LeaseToken> {
    let [0x0a, length, rest @ ..] = settlement else {
        return None;
    };
    let (lease, [0x12, 0]) = rest.split_at_checked(usize::from(*length))? else {
        return None;
    };
    let mut fields = Fields::new(lease);
    let mut next = |number| match fields.next()?.ok()? {
        Field {
            number: found,
            value: Value::Varint(value),
        } if found == number => Some(value as i64),
        _ => None,
    };
    let token = wire::LeaseToken {
        epoch: next(1)?,
        counter: next(2)?,
    };
    fields.next().is_none().then_some(token)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::wire::{
        self,
        settlement::Action::{Ack, Extend, Nack},
    };

    /// The batch as the generated code has it.
    fn generated(batch: SettleBatchRef<'_>) -> Result<wire::SettleBatch, prost::DecodeError> {
        let settlement = |of| match of {
            SettlementRef::Ack(lease) => Ok(wire::Settlement {
                lease: Some(lease),
                action: Some(Ack(wire::Ack {})),
            }),
            SettlementRef::Encoded(bytes) => wire::Settlement::decode(bytes),
        };
        let settlements: Result<_, _> = batch.settlements.into_iter().map(settlement).collect();
        Ok(wire::SettleBatch {
            request_id: batch.request_id,
            settlements: settlements?,
        })
    }

    fn any_batch() -> impl Strategy<Value = wire::SettleBatch> {
        let number = || prop_oneof![0..3_i64, any::<i64>()];
        let lease = (number(), number());
        let lease = lease.prop_map(|(epoch, counter)| wire::LeaseToken { epoch, counter });
        let action = prop_oneof![
            3 => Just(Some(Ack(wire::Ack {}))),
            1 => Just(None),
            1 => "[a-z]{0,150}".prop_map(|reason| {
                Some(Nack(wire::Nack { reason, ..wire::Nack::default() }))
            }),
            1 => any::<Option<i32>>().prop_map(|percent| {
                Some(Extend(wire::Extend { percent, ..wire::Extend::default() }))
            }),
        ];
        let settlement = (proptest::option::weighted(0.9, lease), action);
        let settlement = settlement.prop_map(|(lease, action)| wire::Settlement { lease, action });
        (any::<i64>(), proptest::collection::vec(settlement, 0..20)).prop_map(
            |(request_id, settlements)| wire::SettleBatch {
                request_id,
                settlements,
            },
        )
    }

    proptest! {
        #[test]
        fn a_batch_is_what_the_generated_code_reads(batch in any_batch()) {
            let bytes = batch.encode_to_vec();
            let read = SettleBatchRef::read(&bytes).expect("it is well formed");
            prop_assert_eq!(generated(read), Ok(batch));
        }

        #[test]
        fn of_any_bytes_it_reads_what_the_generated_code_reads(
            batch in any_batch(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = batch.encode_to_vec();
            for (at, to) in changes.into_iter().filter(|_| !batch.settlements.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] = to;
            }
            // The generated code knows groups as well, which proto3 does not have.
            if let Ok(read) = SettleBatchRef::read(&bytes) {
                let decoded = wire::SettleBatch::decode(&bytes[..]);
                prop_assert_eq!(generated(read).ok(), decoded.ok());
            }
        }
    }

    #[test]
    fn acks_are_read_as_such_and_errors_name_the_field() {
        let lease = wire::LeaseToken {
            epoch: 3,
            counter: 70_000,
        };
        let batch = wire::SettleBatch {
            request_id: 1,
            settlements: vec![wire::Settlement {
                lease: Some(lease),
                action: Some(Ack(wire::Ack {})),
            }],
        };
        let bytes = batch.encode_to_vec();
        let read = SettleBatchRef::read(&bytes).expect("it is well formed");
        assert_eq!(read.settlements, [SettlementRef::Ack(lease)]);
        for (bytes, field) in [
            (&[0x08][..], "settle"),
            (&[0x0a, 0][..], "settle.request_id"),
            (&[0x10, 1][..], "settle.settlements"),
            (&[0x12, 2, 0][..], "settle"),
        ] {
            let error = SettleBatchError(field);
            assert_eq!(SettleBatchRef::read(bytes), Err(error), "{bytes:?}");
        }
    }
}
