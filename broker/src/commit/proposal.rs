//! What callers ask the sequencer to commit, and what it answers.

use std::sync::Arc;

use sluice_proto::{GroupId, GroupName, ProducerId, TopicId, TopicName};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::{
    catalog::Catalog,
    keep::{Keep, KeepReply, Keeper},
    lines::{Line, Lines},
    producers::{Appended, SequenceError},
    record::{
        AttemptFailed, Channel, EVENT_OVERHEAD, GroupConfig, GroupPosition, LeaseNoted, NewEvents,
        ProducerSequence, RECORDS_MAX, Retention, Settle, Source,
    },
    sequencer::AtOnce,
    state::GroupState,
};
use crate::log::{EndOfWaiting, FRAME_BYTES_MAX};

/// Events to append to one partition.
#[derive(Debug)]
pub struct AppendRequest {
    /// Where.
    pub target: Source,
    /// What, in order.
    pub events: NewEvents,
}

/// Changes that happen together or not at all.
#[derive(Debug, Default)]
pub struct Changes {
    /// The producer's sequence that this takes.
    pub producer: Option<ProducerSequence>,
    /// Events to append.
    pub appends: Vec<AppendRequest>,
    /// Offsets to settle.
    pub settles: Vec<Settle>,
    /// Attempts that failed.
    pub attempts: Vec<AttemptFailed>,
    /// Leases to note.
    pub leases: Vec<LeaseNoted>,
}

/// Changes that are durable, but for what memory topics have of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// What was appended, in the order of the request, to memory topics last.
    pub appended: Vec<Appended>,
    /// The producer's sequence had been applied before, with this result.
    pub duplicate: bool,
}

/// Why changes were not committed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// The topic or partition is gone.
    #[error("topic {0} does not exist any more")]
    TopicGone(TopicId),
    /// The group is gone.
    #[error("group {0} does not exist any more")]
    GroupGone(GroupId),
    /// The producer's sequence is refused.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// They do not fit one frame.
    #[error(
        "it takes {0} bytes in the log, the limit is {FRAME_BYTES_MAX}, in at most {RECORDS_MAX} changes"
    )]
    TooLarge(usize),
    /// The log is not to be had.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why nothing can be committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// A write to the log failed; whether it happened is unknown.
    #[error("the log has failed and takes no more writes: {0}")]
    LogFailed(Arc<str>),
    /// The broker is shutting down.
    #[error("the broker is shutting down")]
    ShuttingDown,
}

/// A group that is asked for.
#[derive(Debug)]
pub struct NewGroup {
    /// The name of its topic.
    pub topic: TopicName,
    /// Its name.
    pub name: GroupName,
    /// What it is to be.
    pub config: GroupConfig,
    /// One that is there may be as it is.
    pub or_as_it_is: bool,
    /// Where it begins, by partition; as many as the topic has.
    pub start: Vec<u64>,
}

/// What a topic is to be, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// How many partitions it has.
    pub partitions: u32,
    /// How its events are kept.
    pub channel: Channel,
}

impl TopicConfig {
    /// What is different in another one, for people.
    fn unlike(self, other: Self) -> String {
        if self.partitions == other.partitions {
            return format!("the channel {}, not {}", self.channel, other.channel);
        }
        format!("{} partitions, not {}", self.partitions, other.partitions)
    }
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            partitions: 1,
            channel: Channel::Fsync,
        }
    }
}

/// How a group is to change; what is not given stays.
#[derive(Clone, Debug, Default)]
pub struct GroupChange {
    /// What it was when whoever asks looked at it, and what it is to be. Refused
    /// when it is something else by now.
    pub config: Option<(GroupConfig, GroupConfig)>,
    /// Whether it is to be paused.
    pub paused: Option<bool>,
    /// Where it is to go on. If there is any, its leases are over.
    pub positions: Vec<GroupPosition>,
    /// Parked events that are over by it.
    pub settles: Option<Settle>,
}

/// A change to the catalog.
#[derive(Debug)]
pub enum CatalogChange {
    /// Makes a topic.
    CreateTopic {
        /// Its name.
        name: TopicName,
        /// What it is to be; `None` for the default, or as it is.
        config: Option<TopicConfig>,
        /// How long its events are kept; `None` for ever, or as long as they are.
        retention: Option<Retention>,
    },
    /// Keeps a topic's events otherwise.
    UpdateTopic {
        /// Its name.
        name: TopicName,
        /// How long its events are kept from now on.
        retention: Retention,
    },
    /// Deletes a topic.
    DeleteTopic {
        /// Its name.
        name: TopicName,
    },
    /// Makes a group.
    CreateGroup(Box<NewGroup>),
    /// Changes a group.
    ChangeGroup {
        /// Which.
        id: GroupId,
        /// How.
        change: Box<GroupChange>,
    },
    /// Deletes a group.
    DeleteGroup {
        /// The name of its topic.
        topic: TopicName,
        /// Its name.
        name: GroupName,
    },
}

/// A change to the catalog that is durable.
#[derive(Debug)]
pub enum CatalogChanged {
    /// There is a new topic.
    TopicCreated,
    /// There was such a topic, with the same configuration.
    TopicExisted,
    /// The topic is kept as it was asked.
    TopicUpdated,
    /// The topic is gone.
    TopicDeleted,
    /// There is a new group, whose state begins like this.
    GroupCreated(Box<GroupState>),
    /// There was such a group, with the same configuration.
    GroupExisted,
    /// The group was changed, and stands like this now.
    GroupChanged(Box<GroupState>),
    /// The group is gone.
    GroupDeleted(GroupId),
}

/// Why the catalog was not changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CatalogError {
    /// There is no such topic.
    #[error("topic {0:?} does not exist")]
    UnknownTopic(String),
    /// There is no such group.
    #[error("group {group:?} does not exist on topic {topic:?}")]
    UnknownGroup {
        /// The topic.
        topic: String,
        /// The group.
        group: String,
    },
    /// There is a topic of that name with another configuration.
    #[error("topic {name:?} exists with {}", existing.unlike(*requested))]
    TopicDiffers {
        /// The topic.
        name: String,
        /// What it is.
        existing: TopicConfig,
        /// What was asked for.
        requested: TopicConfig,
    },
    /// There is a topic of that name that is kept otherwise.
    #[error("topic {0:?} exists with another retention; change it with UpdateTopic")]
    RetentionDiffers(String),
    /// There is a group of that name with another configuration.
    #[error("group {0:?} exists with another configuration")]
    GroupDiffers(String),
    /// The group is not there any more.
    #[error("group {0} does not exist any more")]
    GroupGone(GroupId),
    /// Somebody else has changed the group meanwhile.
    #[error("the group was changed by somebody else in the same moment")]
    GroupChanged,
    /// The topic has groups.
    #[error(
        "topic {name:?} is read by groups ({groups}, for example {example:?}); delete them first"
    )]
    TopicHasGroups {
        /// The topic.
        name: String,
        /// How many.
        groups: usize,
        /// One of them.
        example: String,
    },
    /// There are as many as there may be.
    #[error("there are {count} {what}, the limit is {limit}")]
    TooMany {
        /// "topics" or "groups".
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The log is not to be had.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why a producer session was not opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenProducerError {
    /// There are as many producers as there may be, and none is idle.
    #[error("there are {count} producers, the limit is {limit}, and none has been idle for long")]
    TooMany {
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The log is not to be had.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// A producer session that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerSession {
    /// The producer's id.
    pub producer: ProducerId,
    /// The session's epoch.
    pub epoch: u64,
}

type Reply<T, E> = oneshot::Sender<Result<T, E>>;

#[derive(Debug)]
pub(super) enum Proposal {
    Changes {
        changes: Changes,
        reply: Reply<Committed, CommitError>,
        /// Held until the reply, so that what waits here is bounded.
        room: OwnedSemaphorePermit,
    },
    Catalog {
        change: CatalogChange,
        reply: Reply<CatalogChanged, CatalogError>,
    },
    OpenProducer {
        name: String,
        reply: Reply<ProducerSession, OpenProducerError>,
    },
    /// What became of a sequence; answered in turn, after what came before.
    Lookup {
        sequence: ProducerSequence,
        line: Line,
        reply: Reply<Option<Committed>, CommitError>,
    },
    /// What keeping the log in bounds needs.
    Keep { change: Keep, reply: KeepReply },
    /// Write a last checkpoint, close the log, and answer everything that comes
    /// later with [`Unavailable::ShuttingDown`].
    Close { reply: oneshot::Sender<()> },
}

impl Proposal {
    /// Where it waits.
    pub(super) fn line(&self) -> Line {
        match self {
            Self::Changes { changes, .. } => Line::of(changes),
            Self::Lookup { line, .. } => *line,
            _ => Line::Intake,
        }
    }

    /// About the bytes that it takes in the log.
    pub(super) fn frame_bytes(&self) -> usize {
        match self {
            Self::Changes { changes, .. } => changes.frame_bytes(),
            // Names and a configuration.
            Self::Catalog { .. } | Self::OpenProducer { .. } => 8 << 10,
            Self::Keep { change, .. } => change.frame_bytes(),
            Self::Lookup { .. } | Self::Close { .. } => 0,
        }
    }
}

/// Where proposals go in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Proposals {
    pub(super) lines: Lines,
    pub(super) at_once: AtOnce,
    pub(super) catalog: watch::Receiver<Arc<Catalog>>,
    pub(super) end_of_waiting: EndOfWaiting,
}

impl Proposals {
    /// Commits changes; returns when they are durable. Waits while the queue is
    /// full.
    ///
    /// Once this has been polled, dropping it does not take the changes back.
    ///
    /// # Errors
    /// When they were refused, or the log failed (then their outcome is
    /// unknown).
    pub async fn commit(&self, changes: Changes) -> Result<Committed, CommitError> {
        self.submit(changes).await?.committed().await
    }

    /// Puts changes in line. Waits while the line is full. What is published one
    /// after the other is committed in that order, and so are settlements; but
    /// they, and commits with outputs, do not wait behind what is published.
    ///
    /// # Errors
    /// When they do not fit the log.
    pub async fn submit(&self, mut changes: Changes) -> Result<Submitted, CommitError> {
        let bytes = changes.frame_bytes();
        if bytes > FRAME_BYTES_MAX {
            return Err(CommitError::TooLarge(bytes));
        }
        if let Some(committed) = self.at_once.commit(&mut changes) {
            return Ok(Submitted::Done(committed));
        }
        let line = Line::of(&changes);
        let room = self.lines.room(line, bytes).await?;
        let (reply, answer) = oneshot::channel();
        let proposal = Proposal::Changes {
            changes,
            reply,
            room,
        };
        self.lines.put(line, proposal).await?;
        Ok(Submitted::InLine(answer))
    }

    /// What became of the sequence of something published: its result if it was
    /// applied. Whatever was published before is taken into account.
    ///
    /// # Errors
    /// When the sequence is not one of the current session.
    pub async fn look_up_published(
        &self,
        sequence: ProducerSequence,
    ) -> Result<Option<Committed>, CommitError> {
        self.look_up(sequence, Line::Intake).await
    }

    /// The same of a commit with inputs; commits and settlements that were
    /// proposed before are taken into account.
    ///
    /// # Errors
    /// As [`Proposals::look_up_published`].
    pub async fn look_up_commit(
        &self,
        sequence: ProducerSequence,
    ) -> Result<Option<Committed>, CommitError> {
        self.look_up(sequence, Line::Work).await
    }

    async fn look_up(
        &self,
        sequence: ProducerSequence,
        line: Line,
    ) -> Result<Option<Committed>, CommitError> {
        self.ask(line, |reply| Proposal::Lookup {
            sequence,
            line,
            reply,
        })
        .await
    }

    /// Changes the catalog; returns when the change is durable and in
    /// [`Proposals::catalog`].
    ///
    /// # Errors
    /// When the change does not fit what there is.
    pub async fn change_catalog(
        &self,
        change: CatalogChange,
    ) -> Result<CatalogChanged, CatalogError> {
        self.ask(Line::Intake, |reply| Proposal::Catalog { change, reply })
            .await
    }

    /// Opens a producer session, durably. An empty name gives one of its own.
    ///
    /// # Errors
    /// When there are too many.
    pub async fn open_producer(&self, name: String) -> Result<ProducerSession, OpenProducerError> {
        self.ask(Line::Intake, |reply| Proposal::OpenProducer { name, reply })
            .await
    }

    /// From now on the log does not wait for room on the disk: what needs it is
    /// answered "unknown". To be called before what is under way is waited for.
    pub fn wait_for_no_room(&self) {
        self.end_of_waiting.come();
    }

    /// Closes the log after all that was proposed before.
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        let close = Proposal::Close { reply };
        if self.lines.put(Line::Intake, close).await.is_ok() {
            let _ = closed.await;
        }
    }

    /// The topics and groups that there are now.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.borrow().clone()
    }

    /// Tells when topics or groups come or go.
    #[must_use]
    pub fn watch_catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.clone()
    }

    /// Where what keeps the log in bounds goes in. It does not keep the log open.
    #[must_use]
    pub fn keeper(&self) -> Keeper {
        Keeper::new(self.lines.weak_intake())
    }

    async fn ask<T, E: From<Unavailable>>(
        &self,
        line: Line,
        proposal: impl FnOnce(Reply<T, E>) -> Proposal,
    ) -> Result<T, E> {
        let (reply, answer) = oneshot::channel();
        self.lines.put(line, proposal(reply)).await?;
        // The sequencer drops a proposal unanswered only when it ends.
        answer.await.map_err(|_| Unavailable::ShuttingDown)?
    }
}

/// Changes that are in line, or committed already.
#[derive(Debug)]
pub enum Submitted {
    /// Their answer is to come.
    InLine(oneshot::Receiver<Result<Committed, CommitError>>),
    /// They were about memory topics, and nothing was before them.
    Done(Committed),
}

impl Submitted {
    /// Waits until the changes are durable. Dropping it does not take them back.
    ///
    /// # Errors
    /// As [`Proposals::commit`].
    pub async fn committed(self) -> Result<Committed, CommitError> {
        match self {
            Self::Done(committed) => Ok(committed),
            // The sequencer drops a proposal unanswered only when it ends.
            Self::InLine(answer) => answer.await.map_err(|_| Unavailable::ShuttingDown)?,
        }
    }
}

impl Changes {
    /// An upper bound of the bytes that they take in the log.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        const HEAD: usize = 64;
        let appends: usize = self
            .appends
            .iter()
            .map(|append| {
                let events = &append.events;
                HEAD + EVENT_OVERHEAD * events.len() + events.bytes() as usize
            })
            .sum();
        let settles: usize = self.settles.iter().map(Settle::bytes_max).sum();
        let attempts: usize = self
            .attempts
            .iter()
            .map(|a| 2 * HEAD + a.member.len() + a.reason.len())
            .sum();
        let leases: usize = self
            .leases
            .iter()
            .map(|l| 2 * HEAD + l.member.len() + l.key.len())
            .sum();
        HEAD + appends + settles + attempts + leases
    }
}
