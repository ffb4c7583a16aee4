//! What keeping the log in bounds asks of the sequencer. For threads, not tasks:
//! every call here waits.

use std::{
    collections::BTreeMap,
    sync::mpsc::{self, RecvTimeoutError, SyncSender},
    time::Duration,
};

use sluice_proto::{GroupId, Offset, TopicId};

use super::{
    proposal::{Proposal, Unavailable},
    record::{Record, Relocated, Source},
};

/// Partitions that are to begin later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trim {
    /// Which partition.
    pub source: Source,
    /// The first offset that stays.
    pub start: Offset,
    /// About the bytes of the events that go.
    pub bytes: u64,
    /// Also when a group has not settled what goes and the topic holds that.
    pub force: bool,
}

/// Which group of those that have come least far in a partition, and how far.
pub type Unread = BTreeMap<Source, (Offset, GroupId)>;

#[derive(Debug)]
pub(super) enum Keep {
    /// In one frame.
    Trim(Vec<Trim>),
    /// In one frame.
    Relocate(Vec<Relocated>),
    /// A piece of a checkpoint.
    Checkpoint(Box<Record>),
    /// What is not settled of these topics.
    Unread(Vec<TopicId>),
    /// How far the time is by which events grow old.
    Time(u64),
    /// Begin a checkpoint.
    Save,
}

#[derive(Debug)]
pub(super) enum Kept {
    Durable,
    Unread(Unread),
}

pub(super) type KeepReply = SyncSender<Result<Kept, Unavailable>>;

impl Keep {
    /// About the bytes that it takes in the log.
    pub(super) fn frame_bytes(&self) -> usize {
        const HEAD: usize = 64;
        match self {
            Self::Trim(trims) => HEAD * (1 + trims.len()),
            Self::Relocate(ranges) => {
                let events = ranges.iter().flat_map(|range| &range.events);
                let bytes: usize = events
                    .map(|of| Relocated::EVENT_OVERHEAD + of.event.bytes() as usize)
                    .sum();
                HEAD * (1 + ranges.len()) + bytes
            }
            Self::Checkpoint(piece) => match &**piece {
                Record::CheckpointChunk(chunk) => HEAD + prost::Message::encoded_len(chunk),
                _ => HEAD,
            },
            Self::Time(_) => HEAD,
            Self::Unread(_) | Self::Save => 0,
        }
    }
}

/// Asks the sequencer for what keeps the log in bounds. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Keeper {
    queue: tokio::sync::mpsc::WeakSender<Proposal>,
}

impl Keeper {
    pub(super) fn new(queue: tokio::sync::mpsc::WeakSender<Proposal>) -> Self {
        Self { queue }
    }

    /// Lets partitions begin later, durably.
    ///
    /// # Errors
    /// When the log is not to be had.
    pub fn trim(&self, trims: Vec<Trim>) -> Result<(), Unavailable> {
        self.ask(Keep::Trim(trims)).map(drop)
    }

    /// Writes events again, durably. They fit a frame.
    ///
    /// # Errors
    /// When the log is not to be had.
    pub fn relocate(&self, ranges: Vec<Relocated>) -> Result<(), Unavailable> {
        self.ask(Keep::Relocate(ranges)).map(drop)
    }

    /// Writes a piece of a checkpoint, durably.
    pub(super) fn checkpoint(&self, piece: Record) -> Result<(), Unavailable> {
        self.ask(Keep::Checkpoint(Box::new(piece))).map(drop)
    }

    /// Notes how far the time is by which events grow old, durably.
    ///
    /// # Errors
    /// When the log is not to be had.
    pub fn retention_time(&self, now_ms: u64) -> Result<(), Unavailable> {
        self.ask(Keep::Time(now_ms)).map(drop)
    }

    /// Has a checkpoint written into the log, without waiting for it.
    ///
    /// # Errors
    /// When the log is not to be had.
    pub fn save(&self) -> Result<(), Unavailable> {
        self.ask(Keep::Save).map(drop)
    }

    /// How far the groups of these topics have come. A partition that no group
    /// reads is not among them.
    ///
    /// # Errors
    /// When the log is not to be had.
    pub fn unread(&self, topics: Vec<TopicId>) -> Result<Unread, Unavailable> {
        Ok(match self.ask(Keep::Unread(topics))? {
            Kept::Unread(unread) => unread,
            Kept::Durable => Unread::new(),
        })
    }

    fn ask(&self, change: Keep) -> Result<Kept, Unavailable> {
        const LOOK_AGAIN: Duration = Duration::from_millis(200);
        let queue = self.queue.upgrade().ok_or(Unavailable::ShuttingDown)?;
        let (reply, answer) = mpsc::sync_channel(1);
        queue
            .blocking_send(Proposal::Keep { change, reply })
            .map_err(|_| Unavailable::ShuttingDown)?;
        loop {
            match answer.recv_timeout(LOOK_AGAIN) {
                Ok(answer) => return answer,
                // What came while the queue was closed may lie there unseen.
                Err(RecvTimeoutError::Timeout) if !queue.is_closed() => {}
                Err(_) => return Err(Unavailable::ShuttingDown),
            }
        }
    }
}
