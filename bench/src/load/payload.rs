//! Payloads that tell which event they are and when it was due.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::workload::Payload;

const STAMP_BYTES: usize = 16;

/// Makes payloads of one kind and size.
#[derive(Clone, Debug)]
pub(crate) struct Payloads {
    template: Bytes,
    origin: Instant,
}

impl Payloads {
    /// `origin` is the time from which stamps count.
    pub(crate) fn new(kind: Payload, bytes: usize, origin: Instant) -> Self {
        let template = match kind {
            Payload::Compressible => vec![0; bytes],
            Payload::Random => random(bytes),
            // The stamp stands before the object, where JSON has white space.
            Payload::Json => {
                let head = br#"{"confidence":0.73,"page":4,"note":""#;
                let mut text = vec![b' '; STAMP_BYTES.min(bytes)];
                text.extend_from_slice(head);
                text.resize(bytes.saturating_sub(2).max(text.len()), b'x');
                text.extend_from_slice(b"\"}");
                text
            }
        };
        Self {
            template: template.into(),
            origin,
        }
    }

    /// A payload that tells nothing, without a copy.
    pub(crate) fn plain(&self) -> Bytes {
        self.template.clone()
    }

    /// Event number `sequence`, due at `due`.
    pub(crate) fn stamped(&self, sequence: u64, due: Instant) -> Bytes {
        let mut payload = BytesMut::from(&self.template[..]);
        let nanos = due.saturating_duration_since(self.origin).as_nanos() as u64;
        payload[..8].copy_from_slice(&sequence.to_le_bytes());
        payload[8..STAMP_BYTES].copy_from_slice(&nanos.to_le_bytes());
        payload.freeze()
    }

    /// The number of a stamped event, and when it was due.
    pub(crate) fn read(&self, payload: &[u8]) -> Option<(u64, Instant)> {
        let (sequence, rest) = payload.split_first_chunk::<8>()?;
        let nanos = rest.first_chunk::<8>()?;
        let due = self.origin + Duration::from_nanos(u64::from_le_bytes(*nanos));
        Some((u64::from_le_bytes(*sequence), due))
    }
}

fn random(bytes: usize) -> Vec<u8> {
    // xorshift64: no pattern that a file system could compress well.
    let mut word = 0x2545_f491_4f6c_dd1d_u64;
    std::iter::repeat_with(|| {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word as u8
    })
    .take(bytes)
    .collect()
}
