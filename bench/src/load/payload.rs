//! Payloads that tell which event they are and when it was due.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::workload::Payload;

/// A number and a time in binary.
const STAMP_BYTES: usize = 16;
/// What stands in a JSON payload before the stamp, in hexadecimal digits, and
/// what stands between it and the label, of one to three digits and a quote.
const JSON_HEAD: &[u8] = br#"{"stamp":""#;
const JSON_STAMP: usize = 2 * STAMP_BYTES;
const JSON_LABEL: &[u8] = br#"","label":""#;
const LABEL_DIGITS: usize = 3;
const JSON_REST: &[u8] = br#","confidence":0.73,"page":4,"note":""#;
const JSON_END: &[u8] = br#""}"#;

/// Makes payloads of one kind and size.
#[derive(Clone, Debug)]
pub(crate) struct Payloads {
    kind: Payload,
    template: Bytes,
    origin: Instant,
}

impl Payload {
    /// The smallest payload that holds a stamp.
    pub(crate) fn stamp_bytes(self) -> usize {
        match self {
            Self::Random | Self::Compressible => STAMP_BYTES,
            Self::Json => json_template(0).len(),
        }
    }
}

impl Payloads {
    /// `origin` is the time from which stamps count.
    pub(crate) fn new(kind: Payload, bytes: usize, origin: Instant) -> Self {
        let template = match kind {
            Payload::Compressible => vec![0; bytes],
            Payload::Random => random(bytes),
            Payload::Json => json_template(bytes),
        };
        Self {
            kind,
            template: template.into(),
            origin,
        }
    }

    /// A payload that tells nothing, without a copy.
    pub(crate) fn plain(&self) -> Bytes {
        self.template.clone()
    }

    /// Event number `sequence`, due at `due`, with its label.
    pub(crate) fn stamped(&self, sequence: u64, due: Instant, label: Option<u64>) -> Bytes {
        let mut payload = BytesMut::from(&self.template[..]);
        let nanos = due.saturating_duration_since(self.origin).as_nanos() as u64;
        match self.kind {
            Payload::Random | Payload::Compressible => {
                payload[..8].copy_from_slice(&sequence.to_le_bytes());
                payload[8..STAMP_BYTES].copy_from_slice(&nanos.to_le_bytes());
            }
            Payload::Json => {
                let stamp = format!("{sequence:016x}{nanos:016x}");
                let at = JSON_HEAD.len();
                payload[at..at + JSON_STAMP].copy_from_slice(stamp.as_bytes());
                let at = at + JSON_STAMP + JSON_LABEL.len();
                // White space follows the quote where the label is shorter.
                let label = format!("{}\"", label.unwrap_or(0));
                payload[at..at + label.len()].copy_from_slice(label.as_bytes());
            }
        }
        payload.freeze()
    }

    /// The number of a stamped event, and when it was due.
    pub(crate) fn read(&self, payload: &[u8]) -> Option<(u64, Instant)> {
        let (sequence, nanos) = match self.kind {
            Payload::Random | Payload::Compressible => {
                let (sequence, rest) = payload.split_first_chunk::<8>()?;
                let nanos = rest.first_chunk::<8>()?;
                (u64::from_le_bytes(*sequence), u64::from_le_bytes(*nanos))
            }
            Payload::Json => {
                let stamp = payload.get(JSON_HEAD.len()..)?.get(..JSON_STAMP)?;
                let (sequence, nanos) = std::str::from_utf8(stamp).ok()?.split_at(STAMP_BYTES);
                let number = |digits| u64::from_str_radix(digits, 16).ok();
                (number(sequence)?, number(nanos)?)
            }
        };
        Some((sequence, self.origin + Duration::from_nanos(nanos)))
    }
}

/// An object of `bytes`, or of as many as it has at least.
fn json_template(bytes: usize) -> Vec<u8> {
    let zeros = [b'0'; JSON_STAMP];
    let label = [b'0', b'"', b' ', b' '];
    assert_eq!(label.len(), LABEL_DIGITS + 1, "a label and a quote");
    let mut text = [JSON_HEAD, &zeros, JSON_LABEL, &label, JSON_REST].concat();
    text.resize(bytes.saturating_sub(JSON_END.len()).max(text.len()), b'x');
    text.extend_from_slice(JSON_END);
    text
}

/// Bytes without a pattern that a file system could compress well.
pub(crate) fn random(bytes: usize) -> Vec<u8> {
    // xorshift64.
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_made() {
        let origin = Instant::now();
        let due = origin + Duration::from_nanos(123_456_789);
        for kind in [Payload::Random, Payload::Json, Payload::Compressible] {
            for bytes in [kind.stamp_bytes(), 300] {
                let payloads = Payloads::new(kind, bytes, origin);
                let payload = payloads.stamped(77, due, Some(3));
                assert_eq!(payload.len(), bytes, "{kind:?}");
                assert_eq!(payloads.read(&payload), Some((77, due)), "{kind:?}");
            }
        }
    }

    #[test]
    fn a_json_payload_is_json_and_has_its_label() {
        let origin = Instant::now();
        let payloads = Payloads::new(Payload::Json, 200, origin);
        for label in [0, 42, 999] {
            let payload = payloads.stamped(1, origin, Some(label));
            let json: serde_json::Value = serde_json::from_slice(&payload).unwrap();
            assert_eq!(json["label"], label.to_string());
        }
    }
}
