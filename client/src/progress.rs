//! How far the work on an event is, as its worker says.

use std::sync::Arc;

use sluice_proto::pb::{self, ErrorReason};
use tokio::sync::mpsc;
use tonic::Code;

use crate::{
    consumer::{Command, Lease, LeaseEnded},
    delivery::shortened,
    error::Error,
};

/// The longest note that a broker keeps.
const NOTE_BYTES_MAX: usize = 256;
const PERCENT_MAX: u8 = 100;

/// Says how far the work on one event is, for those who look at the group
/// (`sluice group describe`, [`Admin::describe_group`](crate::Admin::describe_group)).
/// Cheap to clone, and usable from any thread.
///
/// It changes nothing for the event: leases are kept alive without it.
///
/// ```no_run
/// # async fn example(delivery: sluice_client::Delivery) -> Result<(), sluice_client::Error> {
/// let progress = delivery.progress();
/// for page in 1..=10 {
///     // … work …
///     // It fails when the lease is lost, and then the work is in vain.
///     progress.report(page * 10, &format!("page {page} of 10"))?;
/// }
/// delivery.ack().await
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Progress {
    lease: Arc<Lease>,
    commands: mpsc::UnboundedSender<Command>,
}

impl Progress {
    pub(crate) fn new(lease: Arc<Lease>, commands: mpsc::UnboundedSender<Command>) -> Self {
        Self { lease, commands }
    }

    /// So far it is: in percent, 0 to 100, and in words, of which the first 256 bytes
    /// are kept. It takes the place of what was said before; with neither percent nor
    /// words nothing is said.
    ///
    /// Returns at once, and may be called as often as one likes: the consumer sends
    /// the last report of each of its leases, all together at most ten times in a second
    /// and not before the broker has answered the reports before, and drops those that came
    /// between. While the broker cannot be reached the last one is kept; it is sent
    /// again to a broker that was restarted, which has forgotten it. What was not sent
    /// when the event is settled is dropped.
    ///
    /// # Errors
    /// Then nothing was said, and the work may go on unless the lease is lost.
    /// [`Error::is_lease_lost`] when the lease was lost or settled, as far as is known
    /// here: a loss that only the broker's answer tells is told by
    /// [`Delivery::lost`](crate::Delivery::lost), and to later calls.
    /// [`ErrorReason::LimitExceeded`] when the percent are above 100, as the broker
    /// would answer. Another when the consumer has ended.
    pub fn report(&self, percent: impl Into<Option<u8>>, note: &str) -> Result<(), Error> {
        let percent = percent.into();
        if let Some(percent) = percent.filter(|percent| *percent > PERCENT_MAX) {
            return Err(above_the_limit(percent));
        }
        let closed = || Error::closed("the consumer");
        // Later on, the task may know already that something is to be sent.
        if self.commands.is_closed() {
            return Err(closed());
        }
        if percent.is_none() && note.is_empty() {
            return Ok(());
        }
        let report = pb::Extend {
            percent: percent.map(i32::from),
            note: shortened(note, NOTE_BYTES_MAX),
        };
        let tell = self.lease.say(report).map_err(lost)?;
        if tell {
            let key = self.lease.key;
            let command = Command::Report { key };
            self.commands.send(command).map_err(|_| closed())?;
        }
        Ok(())
    }
}

fn above_the_limit(percent: u8) -> Error {
    let field = "extend.percent";
    let message = format!("{field} is {percent}, the limit is 0 to {PERCENT_MAX}");
    let reason = ErrorReason::LimitExceeded;
    Error::of_request(Code::InvalidArgument, reason, message, field)
}

fn lost(LeaseEnded: LeaseEnded) -> Error {
    let message =
        "the lease is not held any more: it ran out, passed to another member, or was settled";
    let reason = ErrorReason::LeaseLost;
    Error::of_request(Code::FailedPrecondition, reason, message.into(), "lease")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> (Progress, Arc<Lease>, mpsc::UnboundedReceiver<Command>) {
        let lease = Arc::new(Lease::new(pb::LeaseToken::default().into()));
        let (commands, commanded) = mpsc::unbounded_channel();
        (Progress::new(lease.clone(), commands), lease, commanded)
    }

    #[test]
    fn reports_that_are_not_sent_yet_are_one_command_and_the_last_of_them() {
        let (progress, lease, mut commanded) = progress();
        for at in 0..10_000_u32 {
            let percent = u8::try_from(at % 101).expect("it is at most 100");
            progress.report(percent, &format!("step {at}")).expect("ok");
        }
        assert_eq!(commanded.len(), 1);
        assert!(matches!(
            commanded.try_recv(),
            Ok(Command::Report { key }) if key == lease.key
        ));
        let last = lease.sent().expect("something was said");
        assert_eq!((last.percent, last.note.as_str()), (Some(0), "step 9999"));
    }

    #[test]
    fn percent_and_words_are_optional_and_nothing_says_nothing() {
        let (progress, lease, _commanded) = progress();
        progress.report(100, "").expect("it is taken");
        progress.report(None, "").expect("it is taken");
        let said = lease.sent().expect("something was said");
        assert_eq!((said.percent, said.note.as_str()), (Some(100), ""));
        progress.report(None, "loading the model").expect("taken");
        let said = lease.sent().expect("something was said");
        assert_eq!(
            (said.percent, said.note.as_str()),
            (None, "loading the model")
        );
    }

    #[test]
    fn a_long_note_is_cut_at_the_end_of_a_character() {
        let (progress, lease, _commanded) = progress();
        let long = format!("a{}", "é".repeat(200));
        progress.report(None, &long).expect("it is taken");
        let said = lease.sent().expect("something was said");
        assert_eq!(said.note, format!("a{}", "é".repeat(127)));
    }

    #[test]
    fn more_than_all_is_refused_as_the_broker_would_and_says_nothing() {
        let (progress, lease, mut commanded) = progress();
        let error = progress.report(101, "too far").expect_err("above 100");
        assert_eq!(error.code(), Code::InvalidArgument);
        assert_eq!(error.reason(), ErrorReason::LimitExceeded);
        assert_eq!(error.field(), "extend.percent");
        assert_eq!(lease.sent(), None);
        assert!(commanded.try_recv().is_err());
    }

    #[test]
    fn a_lease_that_ended_and_a_consumer_that_ended_are_told() {
        let (progress, lease, commanded) = progress();
        lease.lost.cancel();
        let error = progress.report(1, "").expect_err("it is lost");
        assert!(error.is_lease_lost(), "{error}");
        drop(commanded);
        let error = progress.report(2, "").expect_err("nobody would send it");
        assert!(!error.is_lease_lost(), "{error}");
    }
}
