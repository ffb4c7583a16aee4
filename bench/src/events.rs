//! The events that the bench publishes.

use bytes::Bytes;
use prost::Message;
use sluice_proto::pb;

/// An encoded event whose payload is `bytes` long.
pub(crate) fn event(bytes: usize) -> Bytes {
    // No pattern that a file system could compress well.
    let mut word = 0x2545_f491_4f6c_dd1d_u64;
    let data: Vec<u8> = std::iter::repeat_with(|| {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word as u8
    })
    .take(bytes)
    .collect();
    let event = pb::Event {
        id: "bench".into(),
        source: "/sluice/bench".into(),
        r#type: "bench.load".into(),
        data: data.into(),
        ..pb::Event::default()
    };
    event.encode_to_vec().into()
}

/// Events of `event_bytes` each that make up a batch of about `batch_bytes`.
pub(crate) fn batch(batch_bytes: usize, event_bytes: usize) -> Vec<Bytes> {
    vec![event(event_bytes); (batch_bytes / event_bytes).max(1)]
}
