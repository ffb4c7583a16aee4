//! Pull and Settle: consuming without a stream.

use std::time::Duration;

use sluice_proto::wire;

use super::{api::Api, authorize::Action, convert, refusal::Refusal, settlements::wire_failures};
use crate::group::PullRequest;

const MEMBER_BYTES_MAX: usize = 256;
const WAIT_MS_MAX: u64 = 60_000;
const PULL_BYTES: usize = 1 << 20;
/// The default limit of most gRPC libraries.
const MESSAGE_BYTES_DEFAULT: usize = 4 << 20;
const MESSAGE_BYTES_MIN: usize = 64 << 10;
/// Left for what is around the deliveries of a message.
const MESSAGE_BYTES_RESERVED: usize = 1 << 10;

impl Api {
    pub(super) async fn pull(
        &self,
        request: wire::PullRequest,
    ) -> Result<wire::PullResponse, Refusal> {
        let group = self.group(Action::Consume, &request.topic, &request.group)?;
        let wait_ms = request
            .wait
            .map_or(Ok(0), |wait| convert::ms_of("wait", wait, 0, WAIT_MS_MAX))?;
        let pull = PullRequest {
            name: member_name("member", request.member)?,
            events_max: convert::count_or(
                "max_events",
                request.max_events.into(),
                1,
                self.limits.pull_events_max,
            )?,
            bytes_max: convert::count_or(
                "max_bytes",
                request.max_bytes,
                PULL_BYTES,
                isize::MAX as usize,
            )?,
            message_bytes_max: message_bytes("max_message_bytes", request.max_message_bytes)?
                // What the broker sends.
                .min(self.limits.request_bytes_max),
            wait: Duration::from_millis(wait_ms),
        };
        let pulled = tokio::select! {
            pulled = group.pull(pull) => pulled.map_err(|_| Refusal::group_gone())?,
            () = self.stopping.cancelled() => return Err(Refusal::shutting_down()),
        };
        Ok(wire::PullResponse {
            idle: convert::idle(pulled.idle).into(),
            lease_duration: Some(convert::duration_ms(pulled.lease_ms)),
            extend_interval: Some(convert::duration_ms(renewal_ms(pulled.lease_ms))),
            deliveries: pulled
                .deliveries
                .into_iter()
                .map(convert::delivery)
                .collect(),
        })
    }

    pub(super) async fn settle(
        &self,
        request: wire::SettleRequest,
    ) -> Result<wire::SettleResponse, Refusal> {
        let group = self.group(Action::Consume, &request.topic, &request.group)?;
        let batch = self.settlements(request.settlements)?;
        let failures = group
            .settle(None, batch.settlements)
            .await
            .map_err(|_| Refusal::group_gone())?;
        Ok(wire::SettleResponse {
            failures: wire_failures(&batch.leases, failures),
        })
    }
}

/// How often a lease is to be renewed, so that one renewal may be late or lost.
pub(super) fn renewal_ms(lease_ms: u64) -> u64 {
    (lease_ms / 3).max(1)
}

/// What the deliveries of one message may take, when its receiver accepts
/// `given` bytes.
pub(super) fn message_bytes(field: &str, given: i32) -> Result<usize, Refusal> {
    let given = match given {
        0 => MESSAGE_BYTES_DEFAULT,
        given => usize::try_from(given).unwrap_or(0),
    };
    if given < MESSAGE_BYTES_MIN {
        let message = format!("it must be at least {MESSAGE_BYTES_MIN}");
        return Err(Refusal::field(field, message));
    }
    Ok(given - MESSAGE_BYTES_RESERVED)
}

/// A member's name, made up when it is empty.
pub(super) fn member_name(field: &str, name: String) -> Result<String, Refusal> {
    if name.len() > MEMBER_BYTES_MAX {
        let given = format!("{} bytes long", name.len());
        return Err(Refusal::limit(field, given, MEMBER_BYTES_MAX));
    }
    if name.is_empty() {
        return Ok(format!("member-{:08x}", rand::random::<u32>()));
    }
    Ok(name)
}
