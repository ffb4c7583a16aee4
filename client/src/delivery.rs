//! An event that a consumer got, and what is to become of it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use sluice_proto::pb::{self, settlement::Action};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    consumer::{Command, Lease},
    error::Error,
    event::Event,
    progress::Progress,
};

/// An event to work on, under a lease that the consumer keeps alive by itself,
/// however long the work takes.
///
/// Dropped without having been settled, it is given back to be tried again at
/// once, which counts an attempt.
///
/// ```no_run
/// # async fn example(delivery: sluice_client::Delivery) -> Result<(), sluice_client::Error> {
/// println!("{} (attempt {})", delivery.event().id(), delivery.attempt());
/// delivery.ack().await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Delivery {
    event: Event,
    partition: i32,
    offset: i64,
    epoch: i64,
    attempt: i32,
    redrives: i32,
    append_time: Option<SystemTime>,
    acker: Acker,
}

impl Delivery {
    pub(crate) fn new(
        delivery: pb::Delivery,
        lease: Arc<Lease>,
        commands: mpsc::UnboundedSender<Command>,
    ) -> Self {
        Self {
            event: delivery.event.unwrap_or_default().into(),
            partition: delivery.partition,
            offset: delivery.offset,
            epoch: delivery.epoch,
            attempt: delivery.attempt,
            redrives: delivery.redrives,
            append_time: delivery.append_time.and_then(|time| time.try_into().ok()),
            acker: Acker {
                lease,
                commands,
                settled: false,
            },
        }
    }

    /// The event.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Its partition.
    #[must_use]
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// Its offset in it.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// Tells the offset from an earlier one with the same number, which a restart
    /// took away; 0 in topics whose acked events are never lost, and for an event
    /// that was redriven.
    #[must_use]
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> i32 {
        self.attempt
    }

    /// How often it was redriven from the dead letters.
    #[must_use]
    pub fn redrives(&self) -> i32 {
        self.redrives
    }

    /// When the broker stored it.
    #[must_use]
    pub fn append_time(&self) -> Option<SystemTime> {
        self.append_time
    }

    /// The lease.
    #[must_use]
    pub fn lease(&self) -> pb::LeaseToken {
        self.acker.lease.key.token()
    }

    /// Becomes cancelled when the lease is lost: somebody else works on the
    /// event, and what this worker does is not counted any more.
    #[must_use]
    pub fn lost(&self) -> CancellationToken {
        self.acker.lease.lost.clone()
    }

    /// Says how far the work is, until the event is settled.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.acker.progress()
    }

    /// The event, and what settles it.
    #[must_use]
    pub fn split(self) -> (Event, Acker) {
        (self.event, self.acker)
    }

    /// Done. Returns when that is durable.
    ///
    /// # Errors
    /// [`Error::is_lease_lost`] when the lease had been lost; the event comes,
    /// or came, to somebody else. After a reconnect it can also mean that this
    /// very ack had been taken before the connection broke.
    pub async fn ack(self) -> Result<(), Error> {
        self.acker.ack().await
    }

    /// Not done; to be tried again after `delay`, or by the group's policy.
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    pub async fn nack(self, delay: Option<Duration>, reason: &str) -> Result<(), Error> {
        self.acker.nack(delay, reason).await
    }

    /// Never to be tried again: to the dead letters.
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    pub async fn reject(self, reason: &str) -> Result<(), Error> {
        self.acker.reject(reason).await
    }
}

/// Settles one event.
#[derive(Debug)]
pub struct Acker {
    lease: Arc<Lease>,
    commands: mpsc::UnboundedSender<Command>,
    settled: bool,
}

/// The longest reason that a broker takes.
const REASON_BYTES_MAX: usize = 1024;

impl Acker {
    /// As [`Delivery::progress`].
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress::new(self.lease.clone(), self.commands.clone())
    }

    /// As [`Delivery::ack`].
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    pub async fn ack(self) -> Result<(), Error> {
        self.settle(Action::Ack(pb::Ack {})).await
    }

    /// As [`Delivery::nack`].
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    pub async fn nack(self, delay: Option<Duration>, reason: &str) -> Result<(), Error> {
        self.settle(nack(delay, reason)).await
    }

    /// As [`Delivery::reject`].
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    pub async fn reject(self, reason: &str) -> Result<(), Error> {
        let reason = shortened(reason, REASON_BYTES_MAX);
        self.settle(Action::Reject(pb::Reject { reason })).await
    }

    /// A commit is about to settle the lease. On its own connection it may pass a
    /// report, which then finds no lease: that is no loss.
    pub(crate) fn end_progress(&self) {
        self.lease.end();
    }

    /// The lease was settled by other means, a commit.
    pub(crate) fn settled_elsewhere(mut self) {
        let key = self.lease.key;
        let _ = self.give_up(Command::Forget { key });
    }

    async fn settle(mut self, action: Action) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        let closed = || Error::closed("the consumer");
        let command = Command::Settle {
            key: self.lease.key,
            action,
            done: Some(done),
        };
        self.give_up(command).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// The consumer's task does the rest.
    fn give_up(&mut self, rest: Command) -> Result<(), mpsc::error::SendError<Command>> {
        self.settled = true;
        self.lease.end();
        self.commands.send(rest)
    }
}

impl Drop for Acker {
    fn drop(&mut self) {
        if !self.settled {
            let _ = self.give_up(Command::Settle {
                key: self.lease.key,
                action: nack(Some(Duration::ZERO), "dropped by its handler"),
                done: None,
            });
        }
    }
}

fn nack(delay: Option<Duration>, reason: &str) -> Action {
    Action::Nack(pb::Nack {
        delay: delay.and_then(|delay| delay.try_into().ok()),
        reason: shortened(reason, REASON_BYTES_MAX),
    })
}

/// Cut to what the broker takes, at the end of a character.
pub(crate) fn shortened(text: &str, bytes_max: usize) -> String {
    text[..text.floor_char_boundary(bytes_max)].to_owned()
}
