//! The three lines in which proposals wait for the sequencer.
//!
//! ```text
//!  settlements  what carries no event: acks, attempts, leases      always first
//!  work         commits with outputs, dead letters, parked events  ┐ by turns,
//!  intake       what is published, and everything else             ┘ by bytes
//! ```
//!
//! Each has room of its own, so a settlement waits neither for room nor for its
//! turn behind events: it is in the next block that is gathered. A commit waits
//! for no more bytes of publishers than commits before it have. Within a line
//! proposals keep their order; whoever depends on what came before uses the same
//! line, or an earlier one.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::proposal::{Changes, Proposal, Unavailable};

/// One of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Settlements,
    Work,
    Intake,
}

impl Line {
    /// Where changes wait.
    pub(super) fn of(changes: &Changes) -> Self {
        let settles = !changes.settles.is_empty() || !changes.attempts.is_empty();
        match changes.appends.is_empty() {
            true => Self::Settlements,
            false if settles => Self::Work,
            false => Self::Intake,
        }
    }
}

/// Where proposals go in. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    settlements: Entrance,
    work: Entrance,
    intake: Entrance,
}

#[derive(Clone, Debug)]
struct Entrance {
    queue: mpsc::Sender<Proposal>,
    /// Bytes for which there is room.
    room: Arc<Semaphore>,
    bytes_max: usize,
}

/// Where the sequencer takes them out.
#[derive(Debug)]
pub(super) struct Waiting {
    settlements: mpsc::Receiver<Proposal>,
    work: mpsc::Receiver<Proposal>,
    intake: mpsc::Receiver<Proposal>,
    /// One that begins the next block.
    held: Option<Proposal>,
    /// Where to answer when all that is in line is taken out.
    closing: Option<oneshot::Sender<()>>,
    /// By how many bytes work is ahead of the intake since both waited.
    work_ahead: i64,
}

/// Lines with room for so many bytes and so many proposals in all.
pub(super) fn lines(bytes_max: usize, len_max: usize) -> (Lines, Waiting) {
    let line = |eighths: usize| {
        let (queue, waiting) = mpsc::channel((len_max * eighths / 8).max(1));
        let bytes_max = bytes_max / 8 * eighths;
        let room = Arc::new(Semaphore::new(bytes_max));
        let entrance = Entrance {
            queue,
            room,
            bytes_max,
        };
        (entrance, waiting)
    };
    let (settlements, settlements_wait) = line(1);
    let (work, work_waits) = line(1);
    let (intake, intake_waits) = line(6);
    let lines = Lines {
        settlements,
        work,
        intake,
    };
    let waiting = Waiting {
        settlements: settlements_wait,
        work: work_waits,
        intake: intake_waits,
        held: None,
        closing: None,
        work_ahead: 0,
    };
    (lines, waiting)
}

impl Lines {
    /// Waits for room for so many bytes.
    pub(super) async fn room(
        &self,
        line: Line,
        bytes: usize,
    ) -> Result<OwnedSemaphorePermit, Unavailable> {
        let entrance = self.entrance(line);
        // What is larger than all there is takes all of it.
        let permits = bytes.min(entrance.bytes_max) as u32;
        let room = entrance.room.clone().acquire_many_owned(permits).await;
        room.map_err(|_| Unavailable::ShuttingDown)
    }

    /// Puts a proposal in line; waits while the line is too long.
    pub(super) async fn put(&self, line: Line, proposal: Proposal) -> Result<(), Unavailable> {
        if line == Line::Settlements {
            fault_switch!(SettlementsStayOut, std::future::pending().await);
        }
        let sent = self.entrance(line).queue.send(proposal).await;
        sent.map_err(|_| Unavailable::ShuttingDown)
    }

    /// The end of the intake, which does not keep the lines open.
    pub(super) fn weak_intake(&self) -> mpsc::WeakSender<Proposal> {
        self.intake.queue.downgrade()
    }

    fn entrance(&self, line: Line) -> &Entrance {
        match line {
            Line::Settlements => &self.settlements,
            Line::Work => &self.work,
            Line::Intake => &self.intake,
        }
    }
}

impl Waiting {
    /// Takes out whose turn it is. `None` when nobody can propose any more. When
    /// nobody waits, `waker` is woken when somebody does.
    pub(super) fn poll_take(&mut self, waker: &Waker) -> Poll<Option<Proposal>> {
        self.poll_next(&mut Context::from_waker(waker))
    }

    /// Takes out whose turn it is, if anybody waits.
    fn take(&mut self) -> Option<Proposal> {
        match self.poll_take(Waker::noop()) {
            Poll::Ready(next) => next,
            Poll::Pending => None,
        }
    }

    /// Whether nothing is in line.
    pub(super) fn is_empty(&self) -> bool {
        let none = self.held.is_none() && self.closing.is_none();
        none && self.settlements.is_empty() && self.work.is_empty() && self.intake.is_empty()
    }

    /// Gives one back, which comes before all but settlements.
    pub(super) fn hold(&mut self, proposal: Proposal) {
        self.held = Some(proposal);
    }

    /// All that is still in line, when nothing more is taken in.
    pub(super) fn rest(&mut self) -> impl Iterator<Item = Proposal> {
        self.close();
        std::iter::from_fn(|| self.take())
    }

    /// Takes nothing more in. What is there can be taken out.
    fn close(&mut self) {
        self.settlements.close();
        self.work.close();
        self.intake.close();
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Proposal>> {
        // Settlements keep their order, too.
        let is_settlement = |held: &mut Proposal| held.line() == Line::Settlements;
        if let Some(proposal) = self.held.take_if(is_settlement) {
            return Poll::Ready(Some(proposal));
        }
        let settlement = self.settlements.poll_recv(context);
        if let Poll::Ready(Some(proposal)) = settlement {
            return Poll::Ready(Some(proposal));
        }
        if let Some(proposal) = self.held.take() {
            return Poll::Ready(Some(proposal));
        }
        let data = if self.work_ahead > 0 {
            let intake = self.poll_intake(context);
            intake.or_else(|| self.poll_work(context))
        } else {
            let work = self.poll_work(context);
            work.or_else(|| self.poll_intake(context))
        };
        if let Some(proposal) = data {
            return Poll::Ready(Some(proposal));
        }
        // Whoever waits begins anew.
        self.work_ahead = 0;
        if let Some(reply) = self.closing.take() {
            return Poll::Ready(Some(Proposal::Close { reply }));
        }
        let ended = |line: &mpsc::Receiver<Proposal>| line.is_closed() && line.is_empty();
        match ended(&self.settlements) && ended(&self.work) && ended(&self.intake) {
            true => Poll::Ready(None),
            false => Poll::Pending,
        }
    }

    fn poll_work(&mut self, context: &mut Context<'_>) -> Option<Proposal> {
        match self.work.poll_recv(context) {
            Poll::Ready(Some(proposal)) => {
                self.work_ahead += proposal.frame_bytes() as i64;
                Some(proposal)
            }
            // It owes nothing to those who do not wait.
            Poll::Ready(None) | Poll::Pending => {
                self.work_ahead = self.work_ahead.max(0);
                None
            }
        }
    }

    fn poll_intake(&mut self, context: &mut Context<'_>) -> Option<Proposal> {
        if self.closing.is_some() {
            return None;
        }
        match self.intake.poll_recv(context) {
            Poll::Ready(Some(Proposal::Close { reply })) => {
                // What the other lines have comes before, and nothing after.
                self.close();
                self.closing = Some(reply);
                None
            }
            Poll::Ready(Some(proposal)) => {
                self.work_ahead -= proposal.frame_bytes() as i64;
                Some(proposal)
            }
            Poll::Ready(None) | Poll::Pending => {
                self.work_ahead = self.work_ahead.min(0);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
