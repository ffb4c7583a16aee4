//! The events that the bench publishes.

use bytes::Bytes;
use prost::Message;
use sluice_proto::pb;

use crate::load::payload;

/// An encoded event whose payload is `bytes` long.
pub(crate) fn event(bytes: usize) -> Bytes {
    let event = pb::Event {
        data: payload::random(bytes).into(),
        ..bare_event()
    };
    event.encode_to_vec().into()
}

/// An event without a payload.
pub(crate) fn bare_event() -> pb::Event {
    pb::Event {
        id: "bench".into(),
        source: "/sluice/bench".into(),
        r#type: "bench.load".into(),
        ..pb::Event::default()
    }
}
