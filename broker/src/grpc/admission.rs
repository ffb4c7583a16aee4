//! Who may publish now: what waits at a topic's gate, and for how long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout_at};
use tonic::{codegen::http::HeaderMap, metadata::MetadataMap};

use super::{api::Api, refusal::Refusal};
use crate::{
    commit::{AppendRequest, Changes, Submitted},
    flow::{Entered, InLine, Load, Producer, window::WINDOW_BYTES_MIN},
};

impl Api {
    /// Waits until the topic of these events takes them, at most until `until`.
    /// They are all of one topic.
    pub(super) async fn enter(
        &self,
        who: Producer,
        appends: &[AppendRequest],
        until: Option<Instant>,
    ) -> Result<Option<Entered>, Refusal> {
        let topic = appends.first().map(|append| append.target.topic);
        let Some(gate) = topic.and_then(|topic| self.groups.flow().gate(topic)) else {
            return Ok(None);
        };
        let load = load(appends);
        Ok(Some(gate.enter(who, load, until).await?))
    }

    /// Counts events that are never refused for a backlog.
    pub(super) fn pass(&self, appends: &[AppendRequest]) -> Vec<Entered> {
        let flow = self.groups.flow();
        let of_each = appends.iter().filter_map(|append| {
            let gate = flow.gate(append.target.topic)?;
            Some(gate.pass(load(std::slice::from_ref(append))))
        });
        of_each.collect()
    }

    /// Puts a publisher's changes in line for the log, if there is room by `until`.
    /// What comes with it is held until they have an outcome.
    pub(super) async fn submit_by(
        &self,
        who: Producer,
        changes: Changes,
        until: Option<Instant>,
    ) -> Result<(InLine, Submitted), Refusal> {
        let bytes = changes.frame_bytes() as u64;
        let in_line = self.intake.enter(who, bytes, until).await;
        let in_line = in_line.ok_or_else(Refusal::overloaded)?;
        // There is room for it, unless settlements have taken that as well.
        let submit = self.proposals.submit(changes);
        let submitted = match until {
            // Given up before it is in line, nothing of it happens.
            Some(until) => timeout_at(until, submit)
                .await
                .map_err(|_| Refusal::overloaded())?,
            None => submit.await,
        };
        Ok((in_line, submitted?))
    }

    /// A request of so many bytes is about to wait, if there are not too many.
    pub(super) fn wait_with(&self, bytes: usize) -> Result<Counted, Refusal> {
        let counted = Counted::add(&self.waiting_bytes, bytes);
        let limit = self.limits.publish_waiting_bytes;
        if counted.after <= limit.max(bytes) {
            Ok(counted)
        } else {
            Err(Refusal::too_much_waits(limit))
        }
    }

    /// Another PublishStream begins, if there is a window for it.
    pub(super) fn open_publish_stream(&self) -> Result<Counted, Refusal> {
        let counted = Counted::add(&self.publish_streams, 1);
        let bytes = self.limits.publish_windows_bytes;
        let limit = bytes / WINDOW_BYTES_MIN as usize;
        if counted.after <= limit {
            Ok(counted)
        } else {
            Err(Refusal::too_many_publish_streams(limit, bytes))
        }
    }

    /// Until when a call may wait to be let in. A tenth of its time is left for
    /// the answer, so that the caller hears why it was not.
    pub(super) fn may_wait_until(&self, metadata: &MetadataMap) -> Instant {
        let longest = Duration::from_millis(self.limits.publish_wait_ms);
        let asked = deadline(metadata.as_ref());
        Instant::now() + asked.map_or(longest, |asked| longest.min(asked * 9 / 10))
    }
}

/// A part of a sum, for as long as it lives.
#[derive(Debug)]
pub(super) struct Counted {
    sum: Arc<AtomicUsize>,
    part: usize,
    /// The sum when this was added.
    after: usize,
}

impl Counted {
    pub(super) fn add(sum: &Arc<AtomicUsize>, part: usize) -> Self {
        let before = sum.fetch_add(part, Ordering::Relaxed);
        Self {
            sum: sum.clone(),
            part,
            after: before + part,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.sum.fetch_sub(self.part, Ordering::Relaxed);
    }
}

/// Bytes of events.
pub(super) fn bytes_of(appends: &[AppendRequest]) -> usize {
    load(appends).bytes as usize
}

fn load(appends: &[AppendRequest]) -> Load {
    appends.iter().fold(Load::default(), |sum, append| Load {
        events: sum.events + append.events.len() as u64,
        bytes: sum.bytes + append.events.bytes(),
    })
}

/// A time-out as gRPC has it: at most eight digits, and a unit.
/// How long a call may take, if its caller has said.
pub(super) fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?;
    grpc_timeout(value.to_str().ok()?)
}

fn grpc_timeout(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u32 = number.parse().ok().filter(|_| number.len() <= 8)?;
    let unit = match unit {
        "H" => Duration::from_secs(3600),
        "M" => Duration::from_secs(60),
        "S" => Duration::from_secs(1),
        "m" => Duration::from_millis(1),
        "u" => Duration::from_micros(1),
        "n" => Duration::from_nanos(1),
        _ => return None,
    };
    unit.checked_mul(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_outs_are_read_as_grpc_writes_them() {
        assert_eq!(grpc_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(grpc_timeout("3S"), Some(Duration::from_secs(3)));
        assert_eq!(
            grpc_timeout("99999999n"),
            Some(Duration::from_nanos(99_999_999))
        );
        for bad in ["", "S", "5", "5x", "-5S", "999999999S", "€"] {
            assert_eq!(grpc_timeout(bad), None, "{bad}");
        }
    }
}
