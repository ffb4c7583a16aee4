//! Deliveries and acks over a bare stream, and no broker: what gRPC alone costs.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use sluice_proto::{
    Offset,
    deliveries::DeliveryHead,
    wire::{self, consume_request::Message as In, consume_response::Message as Out},
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::events;

/// Events of one message, as many as the broker sends at most.
const MESSAGE_EVENTS: i64 = 1000;
/// Bytes of one message, below what a client takes by default.
const MESSAGE_BYTES: usize = 3 << 20;

/// Serves one stream: the same event for as long as there is credit. How large it
/// is, the name of the topic says in bytes.
pub(crate) async fn serve(
    mut requests: Streaming<wire::ConsumeRequest>,
    answers: mpsc::Sender<Result<wire::ConsumeResponse, Status>>,
) -> Option<()> {
    let Some(In::Join(join)) = requests.message().await.ok()??.message else {
        return None;
    };
    let event = events::event(join.topic.parse().ok()?);
    let mut granted = join.grant?.max_events;
    let joined = wire::Joined {
        member: join.member,
        lease_duration: Duration::from_secs(30).try_into().ok(),
        heartbeat_interval: Duration::from_secs(10).try_into().ok(),
        lost: Vec::new(),
    };
    let mut next = Some(answer(Out::Joined(joined)));
    let mut sent = 0;
    loop {
        if next.is_none() && sent < granted {
            next = Some(deliveries(&event, &mut sent, granted));
        }
        tokio::select! {
            request = requests.message() => match request.ok()??.message {
                Some(In::Grant(grant)) => granted = grant.max_events,
                Some(In::Settle(settle)) => {
                    let settle = wire::SettleBatch::decode(settle).ok()?;
                    let settled = wire::Settled {
                        request_id: settle.request_id,
                        failures: Vec::new(),
                    };
                    answers.send(Ok(answer(Out::Settled(settled)))).await.ok()?;
                }
                _ => {}
            },
            permit = answers.reserve(), if next.is_some() => {
                if let Some(message) = next.take() {
                    permit.ok()?.send(Ok(message));
                }
            }
        }
    }
}

fn deliveries(event: &Bytes, sent: &mut i64, granted: i64) -> wire::ConsumeResponse {
    let fit = (MESSAGE_BYTES / (event.len() + 64)) as i64;
    let count = (granted - *sent).min(MESSAGE_EVENTS).min(fit);
    let mut deliveries = wire::Deliveries::default();
    deliveries.reserve(count as usize * (event.len() + 64));
    for offset in *sent..*sent + count {
        let head = DeliveryHead {
            lease: wire::LeaseToken {
                epoch: 1,
                counter: offset + 1,
            },
            offset: Offset(offset as u64),
            append_time_ms: 1_764_000_000_000,
            attempt: 1,
            ..DeliveryHead::default()
        };
        deliveries.push(&head, event);
    }
    *sent += count;
    answer(Out::Deliveries(deliveries))
}

fn answer(message: Out) -> wire::ConsumeResponse {
    wire::ConsumeResponse {
        message: Some(message),
    }
}
