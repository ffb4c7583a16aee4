//! What a broker takes of a producer.

use prost::Message;
use sluice_proto::{
    event::{EventError, EventLimits, EventRef},
    pb::{self, ErrorReason},
};
use tonic::Code;

use crate::{error::Error, event::Event};

/// Bytes of a batch, where the broker takes so many.
const BATCH_BYTES: usize = 256 << 10;
/// Events of a batch, where the broker takes so many.
const BATCH_EVENTS: usize = 4096;

/// Limits of events and batches. Sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublishLimits {
    event_bytes: usize,
    /// Of the events of a batch. A larger event goes alone.
    pub(crate) batch_bytes: usize,
    /// Events of a batch.
    pub(crate) batch_events: usize,
}

impl PublishLimits {
    /// The limits of a broker that says these.
    pub(crate) fn of(limits: &pb::Limits) -> Self {
        // Zero would be a broker that does not say.
        let said = |limit: i64| usize::try_from(limit).ok().filter(|limit| *limit > 0);
        let request_bytes = said(limits.request_bytes_max).unwrap_or(usize::MAX);
        let batch_events = said(limits.batch_events_max.into()).unwrap_or(usize::MAX);
        Self {
            event_bytes: said(limits.event_bytes_max).unwrap_or(usize::MAX),
            // A request frames each event in 2 bytes or more; the smallest event
            // has 9, so the frames never take as much as the events.
            batch_bytes: BATCH_BYTES.min(request_bytes / 2),
            batch_events: BATCH_EVENTS.min(batch_events),
        }
    }

    /// The event, if it is as the broker's rules want it. A batch is appended or
    /// refused as a whole, so one that breaks them must not get into any.
    ///
    /// # Errors
    /// What the broker would answer; the field is that of the event.
    pub(crate) fn checked(&self, event: Event) -> Result<Event, Error> {
        let mut event = event.into_message();
        let bytes = event.encoded_len();
        if bytes > self.event_bytes {
            let limit = self.event_bytes;
            return Err(refused(&EventError::TooLarge { bytes, limit }));
        }
        // The payload may be anything, and need not be copied to see that.
        let data = std::mem::take(&mut event.data);
        let context = event.encode_to_vec();
        event.data = data;
        let any_size = EventLimits {
            event_bytes_max: usize::MAX,
        };
        match EventRef::check(&context, any_size) {
            Ok(_) => Ok(event.into()),
            Err(error) => Err(refused(&error)),
        }
    }
}

fn refused(error: &EventError) -> Error {
    let reason = if error.is_limit() {
        ErrorReason::LimitExceeded
    } else {
        ErrorReason::InvalidField
    };
    Error::of_request(
        Code::InvalidArgument,
        reason,
        error.to_string(),
        error.field(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(
        event_bytes_max: i64,
        request_bytes_max: i64,
        batch_events_max: i32,
    ) -> PublishLimits {
        PublishLimits::of(&pb::Limits {
            event_bytes_max,
            request_bytes_max,
            batch_events_max,
            ..pb::Limits::default()
        })
    }

    #[test]
    fn batches_are_no_larger_than_the_broker_takes() {
        let usual = limits(1 << 20, 8 << 20, 10_000);
        assert_eq!(
            (usual.batch_bytes, usual.batch_events),
            (BATCH_BYTES, BATCH_EVENTS)
        );
        let tight = limits(1024, 65 << 10, 10);
        assert_eq!((tight.batch_bytes, tight.batch_events), (65 << 9, 10));
        let silent = limits(0, 0, 0);
        assert_eq!(
            (silent.batch_bytes, silent.batch_events),
            (BATCH_BYTES, BATCH_EVENTS)
        );
    }

    #[test]
    fn an_event_is_refused_by_the_brokers_rules_and_else_left_as_it_is() {
        let limits = limits(1000, 8 << 20, 10_000);
        let good = Event::new("/s", "t").text("payload");
        assert_eq!(limits.checked(good.clone()), Ok(good.clone()));
        for (bad, field, reason) in [
            (good.clone().with_id(""), "id", ErrorReason::InvalidField),
            (
                good.clone().attribute("Bad", "x"),
                "attributes",
                ErrorReason::InvalidField,
            ),
            (
                good.clone().with_id("i".repeat(5000)),
                "",
                ErrorReason::LimitExceeded,
            ),
            (good.text("x".repeat(1000)), "", ErrorReason::LimitExceeded),
        ] {
            let error = limits.checked(bad).expect_err(field);
            assert!(error.field().starts_with(field), "{error:?}");
            assert_eq!(error.reason(), reason, "{error:?}");
        }
    }
}
