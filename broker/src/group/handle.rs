//! How others talk to a group.

use std::{sync::Arc, time::Duration};

use sluice_proto::{Offset, PartitionId};
use tokio::{
    sync::{
        Notify,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::Instant,
};

use super::{
    board::{EventId, LeaseError, LeaseToken, MemberId},
    buffered::{Buffer, Buffers},
    change::{ChangeError, ChangeRequest, Moved},
    command::{
        Command, Description, EventStanding, IdleReason, JoinError, Joined, Letters, Outgoing,
        PendingPull, Pulled, PurgeError, RedriveError, Redriven, Settlement, SettlementError,
        SettlementFailures, Thaw,
    },
    credit::{Grant, Shrinks},
    unread::Unread,
};
use crate::commit::{
    AckWindow, CommitError, Group, Unavailable,
    record::{GroupPosition, Settle, Source},
};

/// A group's address. Cheap to clone.
#[derive(Clone)]
pub struct GroupHandle {
    pub(super) group: Arc<Group>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) room: Arc<Notify>,
    pub(super) buffers: Buffers,
}

/// Messages that wait in a member's stream: a few of deliveries, and one of
/// lost leases.
const OUTGOING_LEN: usize = 4;

/// How a member comes in.
#[derive(Debug)]
pub struct JoinRequest {
    /// Its name.
    pub name: String,
    /// Its first grant.
    pub grant: Option<Grant>,
    /// Leases from an earlier stream.
    pub held: Vec<LeaseToken>,
    /// The largest message that it takes.
    pub message_bytes_max: usize,
}

/// What somebody without a stream asks for.
#[derive(Debug)]
pub struct PullRequest {
    /// Who.
    pub name: String,
    /// At most so many events.
    pub events_max: usize,
    /// At most so many bytes, of which one event may overshoot.
    pub bytes_max: usize,
    /// The largest message that it takes.
    pub message_bytes_max: usize,
    /// How long to wait for the first event.
    pub wait: Duration,
}

/// What a member's stream is to send.
#[derive(Debug)]
pub struct Inbox {
    messages: mpsc::Receiver<Outgoing>,
    buffer: Buffer,
    room: Arc<Notify>,
    commands: mpsc::Sender<Command>,
}

impl Inbox {
    /// The next message; `None` when the member is out.
    pub async fn next(&mut self) -> Option<Outgoing> {
        let message = self.messages.recv().await;
        if let Some(Outgoing::Deliveries(deliveries)) = &message {
            self.buffer.remove(deliveries.bytes());
        }
        // The group passes over a member whose channel is full.
        self.room.notify_one();
        message
    }
}

impl Drop for Inbox {
    /// What was not sent goes back to the group: its leases are nobody's work.
    fn drop(&mut self) {
        self.messages.close();
        let mut unsent = Vec::new();
        while let Ok(message) = self.messages.try_recv() {
            if let Outgoing::Deliveries(deliveries) = message {
                self.buffer.remove(deliveries.bytes());
                unsent.extend_from_slice(deliveries.tokens());
            }
        }
        if !unsent.is_empty() {
            send_later(&self.commands, Command::HandBack { tokens: unsent });
        }
    }
}

/// Sends a command from where nothing can be awaited: at once if there is room. When
/// the runtime has ended, so has the group.
pub(super) fn send_later(commands: &mpsc::Sender<Command>, command: Command) {
    let Err(TrySendError::Full(command)) = commands.try_send(command) else {
        return;
    };
    let commands = commands.clone();
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            let _ = commands.send(command).await;
        });
    }
}

/// A grant that is in line.
#[derive(Debug)]
pub struct Granting(oneshot::Receiver<Result<(), Shrinks>>);

impl Granting {
    /// Waits until the group has taken it.
    ///
    /// # Errors
    /// When it takes back credit, or the group is gone (outer).
    pub async fn taken(self) -> Result<Result<(), Shrinks>, GroupGone> {
        self.0.await.map_err(|_| GroupGone)
    }
}

/// The group is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the group does not exist any more")]
pub struct GroupGone;

impl GroupHandle {
    /// The group's definition.
    #[must_use]
    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Joins as a member.
    ///
    /// # Errors
    /// When the group is full or gone.
    pub async fn join(&self, request: JoinRequest) -> Result<(Joined, Inbox), JoinError> {
        let (outgoing, messages) = mpsc::channel(OUTGOING_LEN);
        let buffer = self.buffers.stream();
        let of_member = buffer.clone();
        // There before it joins, so that what is sent to one that is given up
        // half-way goes back.
        let inbox = Inbox {
            messages,
            buffer,
            room: self.room.clone(),
            commands: self.commands.clone(),
        };
        let joined = self
            .ask(|reply| Command::Join {
                name: request.name,
                grant: request.grant,
                held: request.held,
                message_bytes_max: request.message_bytes_max,
                outgoing,
                buffer: of_member,
                reply,
            })
            .await
            .map_err(|GroupGone| JoinError::GroupGone)??;
        Ok((joined, inbox))
    }

    /// Raises what the member may be sent. Returns when that is in line, behind what
    /// was asked before.
    ///
    /// # Errors
    /// When the group is gone.
    pub async fn grant(&self, member: MemberId, grant: Grant) -> Result<Granting, GroupGone> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Grant {
            member,
            grant,
            reply,
        };
        let sent = self.commands.send(command).await;
        sent.map(|()| Granting(answer)).map_err(|_| GroupGone)
    }

    /// Keeps the member's leases. Says why it gets nothing.
    ///
    /// # Errors
    /// When the grant takes back credit, or the group is gone (outer).
    pub async fn heartbeat(
        &self,
        member: MemberId,
        grant: Option<Grant>,
    ) -> Result<Result<IdleReason, Shrinks>, GroupGone> {
        self.ask(|reply| Command::Heartbeat {
            member,
            grant,
            reply,
        })
        .await
    }

    /// Has the member told when nothing is left that it could be given.
    pub async fn drain(&self, member: MemberId, request_id: i64) {
        let drain = Command::Drain { member, request_id };
        let _ = self.commands.send(drain).await;
    }

    /// Ends the membership and hands all leases back.
    pub async fn leave(&self, member: MemberId) {
        let _ = self.commands.send(Command::Leave { member }).await;
    }

    /// The member's stream is gone; its leases run on.
    pub async fn disconnected(&self, member: MemberId) {
        let _ = self.commands.send(Command::Disconnected { member }).await;
    }

    /// Settles leases; returns those that failed, when the others are durable.
    ///
    /// # Errors
    /// When the group is gone.
    pub async fn settle(
        &self,
        member: Option<MemberId>,
        settlements: Vec<Settlement>,
    ) -> Result<Vec<(usize, SettlementError)>, GroupGone> {
        let failures: SettlementFailures = self
            .ask(|reply| Command::Settle {
                member,
                settlements,
                reply,
            })
            .await?;
        Ok(failures)
    }

    /// Takes events without a stream.
    ///
    /// # Errors
    /// When the group is gone.
    pub async fn pull(&self, request: PullRequest) -> Result<Pulled, GroupGone> {
        let until = Instant::now() + request.wait;
        let (reply, answer) = oneshot::channel();
        let unread = Unread::new(self.commands.clone(), answer);
        let pull = PendingPull {
            name: request.name,
            events_max: request.events_max,
            bytes_max: request.bytes_max,
            message_bytes_max: request.message_bytes_max,
            until,
            reply,
        };
        let sent = self.commands.send(Command::Pull { pull }).await;
        sent.map_err(|_| GroupGone)?;
        unread.read().await
    }

    /// Freezes leases for a commit.
    ///
    /// # Errors
    /// When one of them cannot be; none is frozen then.
    pub async fn freeze(&self, tokens: Vec<LeaseToken>) -> Result<FrozenInputs, LeaseError> {
        let frozen = self
            .ask(|reply| Command::Freeze { tokens, reply })
            .await
            .map_err(|GroupGone| LeaseError::Lost)??;
        Ok(FrozenInputs {
            commands: self.commands.clone(),
            events: frozen.events,
            settles: frozen.settles,
        })
    }

    /// How the group stands, with at most so many of the events under lease.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn describe(&self, in_flight_max: usize) -> Result<Description, GroupGone> {
        self.ask(|reply| Command::Describe {
            in_flight_max,
            reply,
        })
        .await
    }

    /// Changes the group, durably; returns when it goes on as it is to be.
    ///
    /// # Errors
    /// When somebody else has changed it meanwhile, or the log does not take it.
    pub async fn change(&self, request: ChangeRequest) -> Result<Moved, ChangeError> {
        self.ask(|reply| Command::Change {
            request: Box::new(request),
            reply,
        })
        .await
        .map_err(|GroupGone| ChangeError::GroupGone)?
    }

    /// What a move to these positions would mean now.
    ///
    /// # Errors
    /// When the group is gone.
    pub async fn plan_moves(&self, positions: Vec<GroupPosition>) -> Result<Moved, GroupGone> {
        self.ask(|reply| Command::PlanMoves { positions, reply })
            .await
    }

    /// Where an event of the topic stands.
    ///
    /// # Errors
    /// When the group is gone.
    pub async fn explain(
        &self,
        partition: PartitionId,
        offset: Offset,
    ) -> Result<EventStanding, GroupGone> {
        let topic = self.group.topic.id;
        self.explain_at(Source { topic, partition }, offset).await
    }

    /// Where an event stands that was redriven to this place in the group's parking
    /// partition.
    ///
    /// # Errors
    /// When the group is gone.
    pub async fn explain_redriven(&self, offset: Offset) -> Result<EventStanding, GroupGone> {
        let source = Source {
            topic: self.group.parking.id,
            partition: PartitionId(0),
        };
        self.explain_at(source, offset).await
    }

    async fn explain_at(&self, source: Source, offset: Offset) -> Result<EventStanding, GroupGone> {
        self.ask(|reply| Command::Explain {
            source,
            offset,
            reply,
        })
        .await
    }

    /// Which dead letters are redriven or purged.
    ///
    /// # Errors
    /// When the group is gone.
    pub async fn resolved_dead_letters(&self) -> Result<AckWindow, GroupGone> {
        self.ask(|reply| Command::ResolvedDeadLetters { reply })
            .await
    }

    /// Gives dead letters back to the group.
    ///
    /// # Errors
    /// When one that is named is not there, cannot be read, or was redriven too often, and
    /// none is redriven; when the log does not take one, or one of all that there are
    /// cannot be read, and those before it are.
    pub async fn redrive(&self, letters: Letters, force: bool) -> Result<Redriven, RedriveError> {
        self.ask(|reply| Command::Redrive {
            letters,
            force,
            reply,
        })
        .await
        .map_err(|GroupGone| RedriveError::GroupGone)?
    }

    /// Gives dead letters up, all of these or none. Returns how many.
    ///
    /// # Errors
    /// When one of them is not there, or the log does not take it.
    pub async fn purge(&self, letters: Letters) -> Result<u64, PurgeError> {
        self.ask(|reply| Command::Purge { letters, reply })
            .await
            .map_err(|GroupGone| PurgeError::GroupGone)?
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, GroupGone> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(command(reply)).await;
        sent.map_err(|_| GroupGone)?;
        answer.await.map_err(|_| GroupGone)
    }
}

/// Leases that are frozen until the commit that froze them has an outcome.
/// Dropped without one, they go on.
#[derive(Debug)]
pub struct FrozenInputs {
    commands: mpsc::Sender<Command>,
    events: Vec<EventId>,
    settles: Vec<Settle>,
}

impl FrozenInputs {
    /// What the commit writes to settle them.
    #[must_use]
    pub fn settles(&self) -> &[Settle] {
        &self.settles
    }

    /// Tells the group what became of the commit.
    pub async fn finish<T>(mut self, outcome: &Result<T, CommitError>) {
        let thaw = match outcome {
            Ok(_) => Thaw::Settled,
            Err(CommitError::Unavailable(Unavailable::LogFailed(_))) => Thaw::Unknown,
            Err(_) => Thaw::Unchanged,
        };
        let events = std::mem::take(&mut self.events);
        let _ = self.commands.send(Command::Thaw { events, thaw }).await;
    }
}

impl Drop for FrozenInputs {
    fn drop(&mut self) {
        let events = std::mem::take(&mut self.events);
        if events.is_empty() {
            return;
        }
        let thaw = Thaw::Unchanged;
        send_later(&self.commands, Command::Thaw { events, thaw });
    }
}
