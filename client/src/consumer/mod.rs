//! A member of a group.

mod lease;
mod reports;
mod worker;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::Stream;
use sluice_proto::pb::{self, settlement::Action};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::lease::{Lease, LeaseEnded, LeaseKey};
use self::worker::Worker;
use crate::{client::Client, delivery::Delivery, error::Error};

/// What deliveries ask of their consumer's task.
#[derive(Debug)]
pub(crate) enum Command {
    Settle {
        key: LeaseKey,
        action: Action,
        done: Option<oneshot::Sender<Result<(), Error>>>,
    },
    /// The lease was settled by a commit.
    Forget { key: LeaseKey },
    /// The lease's worker has said how far it is.
    Report { key: LeaseKey },
    /// Nothing more is wanted, or more again.
    Pause { paused: bool },
    /// Tell when nothing is left.
    Drain {
        done: oneshot::Sender<pb::IdleReason>,
    },
}

/// A delivery that nobody has seen yet. Dropping it does nothing: it goes back to
/// the group when the consumer leaves, and counts no attempt.
#[derive(Debug)]
struct Arrived {
    delivery: pb::Delivery,
    lease: Arc<Lease>,
}

/// Sets up a [`Consumer`].
#[derive(Clone, Debug)]
pub struct ConsumerBuilder {
    client: Client,
    topic: String,
    group: String,
    member: String,
    concurrency: u32,
    prefetch: u32,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client, topic: &str, group: &str) -> Self {
        Self {
            client,
            topic: topic.to_owned(),
            group: group.to_owned(),
            member: String::new(),
            concurrency: 1,
            prefetch: 0,
        }
    }

    /// The member's name, for people and histories. Default: made up by the
    /// broker.
    #[must_use]
    pub fn member(mut self, name: impl Into<String>) -> Self {
        self.member = name.into();
        self
    }

    /// How many events are worked on at once. Default 1.
    #[must_use]
    pub fn concurrency(mut self, handlers: u32) -> Self {
        self.concurrency = handlers.max(1);
        self
    }

    /// How many events may wait here for a free handler, beyond those being
    /// worked on. Default 0: an event is never kept from another member that
    /// could begin at once.
    #[must_use]
    pub fn prefetch(mut self, events: u32) -> Self {
        self.prefetch = events;
        self
    }

    /// Joins the group.
    ///
    /// # Errors
    /// When the broker does not take the member, for example because there is no
    /// such group.
    pub async fn join(self) -> Result<Consumer, Error> {
        let (commands, commanded) = mpsc::unbounded_channel();
        // Credit bounds what is in it.
        let (deliveries, delivered) = mpsc::unbounded_channel();
        let leave = CancellationToken::new();
        let (joined, first_join) = oneshot::channel();
        let worker = Worker::new(self, commanded, deliveries, leave.clone(), joined);
        let task = tokio::spawn(worker.run());
        first_join
            .await
            .map_err(|_| Error::closed("the consumer"))??;
        Ok(Consumer {
            delivered,
            commands,
            leave,
            task: Some(task),
        })
    }
}

/// A member of a group: a stream of [`Delivery`]s.
///
/// Heartbeats, credit and reconnecting happen by themselves; after a lost
/// connection it presents the leases of what is being worked on, and goes on
/// with it.
///
/// ```no_run
/// # async fn example(client: sluice_client::Client) -> Result<(), sluice_client::Error> {
/// let mut consumer = client.consumer("uploads", "thumbnails").concurrency(4).join().await?;
/// while let Some(delivery) = consumer.next().await {
///     let delivery = delivery?;
///     println!("{}", delivery.event().id());
///     delivery.ack().await?;
/// }
/// consumer.leave().await;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Consumer {
    delivered: mpsc::UnboundedReceiver<Result<Arrived, Error>>,
    commands: mpsc::UnboundedSender<Command>,
    leave: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Consumer {
    /// The next event. `None` after an error, which is final, or after leaving.
    pub async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        std::future::poll_fn(|context| self.poll_delivery(context)).await
    }

    fn poll_delivery(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Delivery, Error>>> {
        loop {
            return Poll::Ready(match ready!(self.delivered.poll_recv(context)) {
                // It ran out while it waited here; somebody else has it.
                Some(Ok(arrived)) if arrived.lease.lost.is_cancelled() => continue,
                Some(Ok(Arrived { delivery, lease })) => {
                    let commands = self.commands.clone();
                    Some(Ok(Delivery::new(delivery, lease, commands)))
                }
                Some(Err(error)) => Some(Err(error)),
                None => None,
            });
        }
    }

    /// Wants no more events, until [`Consumer::resume`], also after a lost
    /// connection. Credit is not taken back: what had been granted when the
    /// broker hears of it, at most the handlers and the prefetch, may still come.
    pub fn pause(&self) {
        let _ = self.commands.send(Command::Pause { paused: true });
    }

    /// Wants events again.
    pub fn resume(&self) {
        let _ = self.commands.send(Command::Pause { paused: false });
    }

    /// Waits until the broker has nothing left for this member, and says why:
    /// [`pb::IdleReason::Empty`] when all was delivered or filtered out. While
    /// more is there than handlers are free, it waits for them, so deliveries
    /// must be taken and settled meanwhile; a paused consumer does not wait. Those that came before it returns are
    /// with [`Consumer::next`].
    ///
    /// # Errors
    /// When the consumer has ended, or another drain was begun.
    pub fn drain(&self) -> impl Future<Output = Result<pb::IdleReason, Error>> + Send + use<> {
        let (done, drained) = oneshot::channel();
        let _ = self.commands.send(Command::Drain { done });
        async move { drained.await.map_err(|_| Error::closed("the drain")) }
    }

    /// Leaves the group: what was not settled goes back to it at once.
    pub async fn leave(mut self) {
        self.leave.cancel();
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

impl Stream for Consumer {
    type Item = Result<Delivery, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_delivery(context)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.leave.cancel();
    }
}
