//! The one owner of the log's writing end: gives offsets, checks sequences, and
//! makes what has gathered durable in one write.
//!
//! A few threads take turns at it (`turns.rs`): while one of them writes the block
//! that it has gathered, the next gathers another; there is no timer. What is
//! durable is published in the order of the log (`publisher.rs`).
//!
//! The state is changed when a proposal is sequenced, before it is durable;
//! whoever reads sees it only after. When a write fails, the state is ahead of
//! the log for good, which does no harm, as nothing is written any more.

mod at_once;
mod catalog_changes;
mod idle;
mod keep;
mod publisher;
mod turns;
mod volatile;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    task::{Poll, Waker},
};

use sluice_proto::{Offset, PartitionId, ProducerId, TopicId};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

pub(super) use self::{at_once::AtOnce, publisher::Publisher, turns::start, volatile::Volatile};
use self::{
    publisher::{PendingFrame, Reply, Waiting},
    turns::lock,
    volatile::VolatileAppend,
};
use super::{
    catalog::Catalog,
    checkpoint::Checkpoints,
    lagging::Published,
    lines,
    open::CommitConfig,
    producers::Verdict,
    proposal::{
        AppendRequest, Changes, CommitError, Committed, OpenProducerError, ProducerSession,
        Proposal, Unavailable,
    },
    record::{
        Append, Channel, Frame, ProducerOpened, ProducerSequence, RECORDS_MAX, Record, Source,
    },
    state::{Applied, State},
};
use crate::{
    log::{BlockBuilder, FRAME_BYTES_MAX, Prepared, When, Writer},
    wall_clock,
};

pub(super) struct Sequencer {
    pub(super) state: State,
    /// Shared with the publisher, which shows what waits for a block.
    pub(super) volatile: Arc<Mutex<Volatile>>,
    pub(super) catalog: watch::Receiver<Arc<Catalog>>,
    pub(super) writer: Writer,
    /// What lagging readers have to know of publishing.
    pub(super) published: Published,
    pub(super) waiting: lines::Waiting,
    /// Until the log is closed.
    pub(super) checkpoints: Option<Checkpoints>,
    pub(super) config: CommitConfig,
}

/// What has been sequenced into one block.
struct Pending {
    block: BlockBuilder,
    frames: Vec<PendingFrame>,
    /// Something in it is shown and answered only when it is durable; otherwise
    /// it is enough that it is written.
    durable: bool,
    /// Appends to memory topics that are shown with it.
    volatile: Vec<VolatileAppend>,
    /// Run once the block is durable, or with the reason why it is not.
    replies: Vec<Reply>,
}

/// Changes that have their offsets.
enum Sequenced {
    /// They are what they are when their block is durable.
    InBlock(Committed),
    /// They have nothing to do with the log.
    InMemory(Committed),
}

/// What whoever has the turn is to do.
enum Turn {
    Write(Prepared),
    /// Nothing is in line.
    Idle,
    /// The log is closed.
    Over,
}

/// What was in line.
enum Gathered {
    Block(Vec<Proposal>),
    Nothing,
    /// Nothing comes any more. Where to answer when the log is closed, if somebody
    /// asked for it.
    End(Option<oneshot::Sender<()>>),
}

impl Sequencer {
    /// Gathers what is in line into a block, which is then to be written. When
    /// nothing is in line, `waker` is woken when something is; also when there is
    /// more than goes into the block. When it is told to close, or nobody can
    /// propose any more, it closes the log.
    fn take_turn(&mut self, waker: &Waker, publisher: &Mutex<Publisher>) -> Turn {
        // None when another thread has closed the log.
        while self.checkpoints.is_some() {
            self.checkpoint_if_due(publisher);
            let proposals = match self.gather(waker) {
                Gathered::Block(proposals) => proposals,
                Gathered::Nothing => return Turn::Idle,
                Gathered::End(closing) => {
                    self.close_log(publisher);
                    closing.map(|reply| reply.send(()));
                    break;
                }
            };
            let bytes = proposals.iter().map(Proposal::frame_bytes).sum();
            let mut pending = Pending {
                block: self.writer.block(bytes),
                frames: Vec::new(),
                durable: false,
                volatile: Vec::new(),
                replies: Vec::new(),
            };
            fault_point!(BlockGathered);
            for proposal in proposals {
                self.sequence(proposal, &mut pending);
            }
            fault_point!(BlockSequenced);
            if let Some(prepared) = self.prepare(pending, publisher) {
                return Turn::Write(prepared);
            }
        }
        Turn::Over
    }

    /// What makes up the next block: at least one proposal, and of the others
    /// that are there as many as fit.
    fn gather(&mut self, waker: &Waker) -> Gathered {
        let mut gathered = Vec::new();
        let mut bytes = 0;
        loop {
            let proposal = match self.waiting.poll_take(waker) {
                Poll::Ready(Some(proposal)) => proposal,
                Poll::Ready(None) if gathered.is_empty() => return Gathered::End(None),
                Poll::Pending if gathered.is_empty() => return Gathered::Nothing,
                Poll::Ready(None) => {
                    waker.wake_by_ref();
                    break;
                }
                Poll::Pending => break,
            };
            if let Proposal::Close { reply } = proposal {
                if gathered.is_empty() {
                    return Gathered::End(Some(reply));
                }
                self.waiting.hold(Proposal::Close { reply });
                waker.wake_by_ref();
                break;
            }
            // What would make the block too large begins the next one.
            bytes += proposal.frame_bytes();
            if bytes > self.config.block_bytes && !gathered.is_empty() {
                self.waiting.hold(proposal);
                waker.wake_by_ref();
                break;
            }
            gathered.push(proposal);
        }
        Gathered::Block(gathered)
    }

    /// Gives what was sequenced its place in the log and in the line of what is
    /// to be published.
    fn prepare(&mut self, pending: Pending, publisher: &Mutex<Publisher>) -> Option<Prepared> {
        let Pending {
            block,
            frames,
            durable,
            volatile,
            replies,
        } = pending;
        // What is in line behind a block that must be durable waits for it, so that
        // this holds for an answer about something that came before as well.
        let when = if durable {
            When::Durable
        } else {
            When::Written
        };
        let mut waiting = Waiting {
            end: self.writer.end().position,
            when,
            block: None,
            volatile,
            replies,
        };
        let mut prepared = None;
        if !frames.is_empty() {
            // When it fails the publisher finds out why.
            prepared = self.writer.prepare(block, when).ok();
        }
        if let Some(prepared) = &prepared {
            waiting.end = prepared.placed().end();
            waiting.block = Some((prepared.placed(), frames));
        }
        let mut publisher = lock(publisher);
        publisher.push(waiting);
        // There may be nothing that it has to wait for.
        publisher.publish_ready();
        prepared
    }

    fn sequence(&mut self, proposal: Proposal, pending: &mut Pending) {
        if let Some(reason) = self.writer.failure() {
            refuse(proposal, Unavailable::LogFailed(reason));
            return;
        }
        match proposal {
            Proposal::Changes {
                changes,
                reply,
                room,
            } => match self.sequence_changes(changes, pending) {
                Ok(Sequenced::InMemory(committed)) => {
                    let _ = reply.send(Ok(committed));
                }
                Ok(Sequenced::InBlock(committed)) => {
                    answer_when_durable(reply, Ok(committed), Some(room), pending);
                }
                Err(error) => drop(reply.send(Err(error))),
            },
            Proposal::Catalog { change, reply } => {
                pending.durable = true;
                let result = self.sequence_catalog(change, pending);
                answer_when_durable(reply, result, None, pending);
            }
            Proposal::OpenProducer { name, reply } => {
                pending.durable = true;
                let result = self.sequence_open_producer(name, pending);
                answer_when_durable(reply, result, None, pending);
            }
            Proposal::Lookup {
                sequence, reply, ..
            } => {
                let result = self.look_up(sequence);
                answer_when_durable(reply, result, None, pending);
            }
            Proposal::Keep { change, reply } => self.sequence_keep(change, reply, pending),
            Proposal::Close { .. } => unreachable!("`gather` takes it"),
        }
    }

    fn look_up(&self, sequence: ProducerSequence) -> Result<Option<Committed>, CommitError> {
        match self.state.producers.check(sequence)? {
            Verdict::Fresh => Ok(None),
            Verdict::Applied(result) => Ok(Some(Committed {
                appended: result.to_vec(),
                duplicate: true,
            })),
        }
    }

    fn sequence_changes(
        &mut self,
        changes: Changes,
        pending: &mut Pending,
    ) -> Result<Sequenced, CommitError> {
        if let Some(sequence) = changes.producer
            && let Some(committed) = self.look_up(sequence)?
        {
            return Ok(Sequenced::InBlock(committed));
        }
        for settle in &changes.settles {
            self.check_group(settle.group, settle.source)?;
        }
        for attempt in &changes.attempts {
            let source = source(attempt.topic, attempt.partition);
            self.check_group(sluice_proto::GroupId(attempt.group), source)?;
        }
        for lease in &changes.leases {
            let source = source(lease.topic, lease.partition);
            self.check_group(sluice_proto::GroupId(lease.group), source)?;
        }
        let mut records = Vec::new();
        let mut in_memory = Vec::new();
        // Where each partition goes on within this frame.
        let mut next: BTreeMap<Source, Offset> = BTreeMap::new();
        for append in changes.appends {
            let target = append.target;
            let gone = CommitError::TopicGone(target.topic);
            let topic = self.state.topic(target.topic);
            let partition = topic
                .and_then(|t| t.partitions.get(target.partition.0 as usize))
                .ok_or(gone)?;
            if self.is_memory(target.topic) {
                in_memory.push(append);
                continue;
            }
            let next = next.entry(target).or_insert(partition.next_offset);
            let first = *next;
            *next = first + append.events.len() as u64;
            records.push(Record::Append(Append {
                topic: target.topic,
                partition: target.partition,
                first,
                events: append.events,
            }));
        }
        // What a group does with events of a memory topic is as volatile as they
        // are: its task knows, and nobody else.
        let records_before = records.len();
        let asked = changes.settles.len() + changes.attempts.len() + changes.leases.len();
        let settles = changes.settles.into_iter();
        records.extend(
            settles
                .filter(|settle| !self.is_memory(settle.source.topic))
                .map(Record::Settle),
        );
        let attempts = changes.attempts.into_iter();
        records.extend(
            attempts
                .filter(|attempt| !self.is_memory(TopicId(attempt.topic)))
                .map(Record::AttemptFailed),
        );
        let leases = changes.leases.into_iter();
        records.extend(
            leases
                .filter(|lease| !self.is_memory(TopicId(lease.topic)))
                .map(Record::LeaseNoted),
        );
        let dropped = asked > records.len() - records_before;
        let mut committed = Committed {
            appended: Vec::new(),
            duplicate: false,
        };
        // What has no part in memory is in the log, also if it says nothing.
        let in_block = !records.is_empty() || (in_memory.is_empty() && !dropped);
        if in_block {
            pending.durable |=
                records.is_empty() || !records.iter().all(|record| self.is_buffered(record));
            let frame = self.frame(changes.producer, records);
            let length = frame.encoded_len();
            if length > FRAME_BYTES_MAX || frame.records.len() > RECORDS_MAX {
                return Err(CommitError::TooLarge(length));
            }
            committed.appended = self.add(&frame, pending).appended.clone();
            if !committed.appended.is_empty() {
                self.published.add(length);
            }
        }
        let waits = {
            let volatile = lock(&self.volatile);
            in_memory.iter().any(|append| volatile.waits(append.target))
        };
        let known_to_the_log = in_block && in_memory.is_empty();
        let in_block = in_block || waits;
        let with = in_block.then_some(&mut pending.volatile);
        self.append_in_memory(in_memory, with, &mut committed);
        if !known_to_the_log {
            self.note_in_memory(changes.producer, &committed);
        }
        Ok(if in_block {
            Sequenced::InBlock(committed)
        } else {
            Sequenced::InMemory(committed)
        })
    }

    /// Appends to memory topics: readable at once, or with the block that they go
    /// with.
    fn append_in_memory(
        &mut self,
        appends: Vec<AppendRequest>,
        mut with_block: Option<&mut Vec<VolatileAppend>>,
        committed: &mut Committed,
    ) {
        let now_ms = self.now_ms();
        let catalog = self.catalog.borrow().clone();
        let mut volatile = lock(&self.volatile);
        for append in appends {
            let append = volatile.append(&append, now_ms);
            committed.appended.push(append.appended);
            if let Some(with_block) = &mut with_block {
                volatile.hold(&append);
                with_block.push(append);
            } else if let Some(topic) = volatile.show(append, &catalog) {
                topic.notify();
            }
        }
    }

    /// Remembers a sequence's result that the log does not know.
    fn note_in_memory(&mut self, sequence: Option<ProducerSequence>, committed: &Committed) {
        if let Some(sequence) = sequence {
            let result = committed.appended.clone();
            let now_ms = self.now_ms();
            let producers = &mut self.state.producers;
            producers.applied_in_memory(sequence, result, now_ms);
        }
    }

    fn channel(&self, topic: TopicId) -> Option<Channel> {
        let topic = self.state.topic(topic);
        topic.map(|topic| topic.definition.channel())
    }

    fn is_memory(&self, topic: TopicId) -> bool {
        self.channel(topic) == Some(Channel::Memory)
    }

    /// Whether the record may be answered and shown before it is durable.
    fn is_buffered(&self, record: &Record) -> bool {
        let topic = match record {
            Record::Append(append) => append.topic,
            Record::Settle(settle) => settle.source.topic,
            Record::AttemptFailed(failed) => TopicId(failed.topic),
            Record::LeaseNoted(lease) => TopicId(lease.topic),
            _ => return false,
        };
        self.channel(topic) == Some(Channel::Buffered)
    }

    fn check_group(&self, group: sluice_proto::GroupId, source: Source) -> Result<(), CommitError> {
        let known = self
            .state
            .group(group)
            .is_some_and(|g| g.sources.contains_key(&source));
        if known {
            Ok(())
        } else {
            Err(CommitError::GroupGone(group))
        }
    }

    fn sequence_open_producer(
        &mut self,
        name: String,
        pending: &mut Pending,
    ) -> Result<ProducerSession, OpenProducerError> {
        let limit = self.config.producers_max;
        let fresh = ProducerId(self.state.next_id());
        let log_epoch = self.writer.epoch();
        let (producer, epoch) = self.state.producers.next_session(&name, fresh, log_epoch);
        let mut forgotten = Vec::new();
        if producer == fresh {
            let idle_since = self.now_ms().saturating_sub(self.config.producer_idle_ms);
            forgotten = self.state.producers.forgettable(limit, idle_since);
            let count = self.state.producers.len();
            if count - forgotten.len() >= limit {
                return Err(OpenProducerError::TooMany { count, limit });
            }
        }
        let opened = ProducerOpened {
            producer: producer.0,
            epoch,
            name,
            forgotten: forgotten.into_iter().map(|id| id.0).collect(),
        };
        let frame = self.frame(None, vec![Record::ProducerOpened(opened)]);
        self.add(&frame, pending);
        Ok(ProducerSession { producer, epoch })
    }

    /// The wall clock, never behind what the log has already.
    fn now_ms(&self) -> u64 {
        wall_clock::now_ms().max(self.state.time_ms)
    }

    fn frame(&self, producer: Option<ProducerSequence>, records: Vec<Record>) -> Frame {
        Frame {
            time_ms: self.now_ms(),
            producer,
            records,
        }
    }

    /// Adds a checked frame to the block and folds it into the state.
    fn add<'p>(&mut self, frame: &Frame, pending: &'p mut Pending) -> &'p Applied {
        let slot = pending
            .block
            .frame(frame.encoded_len(), |out| frame.encode(out));
        let applied = self
            .state
            .apply(frame)
            .expect("the frame was made to fit the state");
        let at = pending.frames.len();
        pending.frames.push(PendingFrame {
            slot,
            applied,
            catalog: frame
                .records
                .iter()
                .filter(|record| record.changes_catalog())
                .cloned()
                .collect(),
        });
        &pending.frames[at].applied
    }

    /// A checkpoint holds only what is durable. So what is under way, all of it on
    /// other threads, is waited for: once every `checkpoint_bytes` of log, for the
    /// time of one write.
    fn checkpoint_if_due(&mut self, publisher: &Mutex<Publisher>) {
        let end = self.writer.end();
        let Some(checkpoints) = &mut self.checkpoints else {
            return;
        };
        if !checkpoints.is_due(end) || self.writer.drain().is_err() {
            return;
        }
        let mut publisher = lock(publisher);
        publisher.publish_ready();
        checkpoints.topics_deleted(publisher.take_deleted_topics());
        checkpoints.collect(end, &mut self.state, &publisher.catalog());
    }

    /// Ends the log and the view in order, if the log has not failed.
    fn close_log(&mut self, publisher: &Mutex<Publisher>) {
        for proposal in self.waiting.rest() {
            refuse(proposal, Unavailable::ShuttingDown);
        }
        let Some(mut checkpoints) = self.checkpoints.take() else {
            return;
        };
        let drained = self.writer.drain();
        lock(publisher).publish_ready();
        match drained.and_then(|()| self.writer.close()) {
            Ok(()) => {
                let end = self.writer.end();
                let mut publisher = lock(publisher);
                checkpoints.topics_deleted(publisher.take_deleted_topics());
                checkpoints.close(end, &mut self.state, &publisher.catalog());
            }
            Err(error) => {
                tracing::error!(%error, "the log could not be closed in order");
                checkpoints.join();
            }
        }
    }
}

fn source(topic: u64, partition: u32) -> Source {
    Source {
        topic: TopicId(topic),
        partition: PartitionId(partition),
    }
}

/// Answers a refusal at once, and anything else when the block is durable: also
/// what appended nothing may rest on what this very block holds.
fn answer_when_durable<T: Send + 'static, E: From<Unavailable> + Send + 'static>(
    reply: oneshot::Sender<Result<T, E>>,
    result: Result<T, E>,
    room: Option<OwnedSemaphorePermit>,
    pending: &mut Pending,
) {
    match result {
        Err(error) => {
            let _ = reply.send(Err(error));
        }
        Ok(value) => pending.replies.push(Box::new(move |durable| {
            let _ = reply.send(durable.map(|()| value).map_err(E::from));
            drop(room);
        })),
    }
}

fn refuse(proposal: Proposal, reason: Unavailable) {
    match proposal {
        Proposal::Changes { reply, .. } => drop(reply.send(Err(reason.into()))),
        Proposal::Catalog { reply, .. } => drop(reply.send(Err(reason.into()))),
        Proposal::OpenProducer { reply, .. } => drop(reply.send(Err(reason.into()))),
        Proposal::Lookup { reply, .. } => drop(reply.send(Err(reason.into()))),
        Proposal::Keep { reply, .. } => drop(reply.try_send(Err(reason))),
        Proposal::Close { reply } => drop(reply.send(())),
    }
}
