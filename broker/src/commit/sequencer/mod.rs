//! The one owner of the log's writing end: gives offsets, checks sequences, and
//! makes what has gathered durable in one write.
//!
//! It runs on a thread of its own. While one block is on its way to the disk,
//! the next gathers in the queue; there is no timer.
//!
//! The state is changed when a proposal is sequenced, before it is durable;
//! whoever reads sees it only after. When a write fails, the state is ahead of
//! the log for good, which does no harm, as nothing is written any more.

mod catalog_changes;
mod volatile;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use sluice_proto::{Offset, PartitionId, ProducerId, TopicId};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::{
    catalog::{Catalog, Topic},
    checkpoint::Checkpoints,
    open::CommitConfig,
    producers::{Appended, Verdict},
    proposal::{
        AppendRequest, Changes, CommitError, Committed, OpenProducerError, ProducerSession,
        Proposal, Unavailable,
    },
    record::{
        Append, Channel, Frame, ProducerOpened, ProducerSequence, RECORDS_MAX, Record, Source,
    },
    state::State,
};
use crate::{
    log::{BlockBuilder, FRAME_BYTES_MAX, FrameSlot, Writer, Written},
    view::IndexEntry,
};

pub(super) use self::volatile::Volatile;
use self::volatile::VolatileAppend;

pub(super) struct Sequencer {
    pub(super) state: State,
    pub(super) volatile: Volatile,
    pub(super) writer: Writer,
    pub(super) queue: mpsc::Receiver<Proposal>,
    pub(super) catalog: watch::Sender<Arc<Catalog>>,
    pub(super) checkpoints: Checkpoints,
    pub(super) config: CommitConfig,
}

type DurableReply = Box<dyn FnOnce(Result<(), Unavailable>) + Send>;

/// What has been sequenced into one block and waits for it to be durable.
struct Pending {
    block: BlockBuilder,
    frames: Vec<PendingFrame>,
    /// Appends to memory topics that are shown with it.
    volatile: Vec<VolatileAppend>,
    /// Run once the block is durable, or with the reason why it is not.
    replies: Vec<DurableReply>,
}

/// Changes that have their offsets.
enum Sequenced {
    /// They are what they are when their block is durable.
    InBlock(Committed),
    /// They have nothing to do with the log.
    InMemory(Committed),
}

struct PendingFrame {
    slot: FrameSlot,
    appended: Vec<Appended>,
    /// Those of its records that change the catalog.
    catalog: Vec<Record>,
}

impl Pending {
    fn new(writer: &Writer) -> Self {
        Self {
            block: writer.block(),
            frames: Vec::new(),
            volatile: Vec::new(),
            replies: Vec::new(),
        }
    }
}

impl Sequencer {
    /// Runs until it is told to close, or nobody can propose any more.
    pub(super) fn run(mut self) {
        let mut closing = None;
        while closing.is_none()
            && let Some(first) = self.queue.blocking_recv()
        {
            closing = self.write_blocks(first);
        }
        self.queue.close();
        while let Ok(proposal) = self.queue.try_recv() {
            refuse(proposal, Unavailable::ShuttingDown);
        }
        self.close_log();
        if let Some(reply) = closing {
            let _ = reply.send(());
        }
    }

    /// Gathers what is there into blocks and makes them durable, one after the
    /// other. Returns where to answer when it was told to close.
    fn write_blocks(&mut self, first: Proposal) -> Option<oneshot::Sender<()>> {
        let mut pending = Pending::new(&self.writer);
        let mut next = Some(first);
        while let Some(proposal) = next {
            if let Proposal::Close { reply } = proposal {
                self.flush(pending);
                return Some(reply);
            }
            // What would make the block too large begins the next one.
            let gathered = pending.block.bytes() + proposal.frame_bytes();
            if gathered > self.config.block_bytes && !pending.block.is_empty() {
                self.flush(pending);
                pending = Pending::new(&self.writer);
            }
            self.sequence(proposal, &mut pending);
            next = self.queue.try_recv().ok();
        }
        self.flush(pending);
        None
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
                budget,
            } => match self.sequence_changes(changes, pending) {
                Ok(Sequenced::InMemory(committed)) => {
                    let _ = reply.send(Ok(committed));
                }
                Ok(Sequenced::InBlock(committed)) => {
                    answer_when_durable(reply, Ok(committed), Some(budget), pending);
                }
                Err(error) => drop(reply.send(Err(error))),
            },
            Proposal::Catalog { change, reply } => {
                let result = self.sequence_catalog(change, pending);
                answer_when_durable(reply, result, None, pending);
            }
            Proposal::OpenProducer { name, reply } => {
                let result = self.sequence_open_producer(name, pending);
                answer_when_durable(reply, result, None, pending);
            }
            Proposal::Lookup { sequence, reply } => {
                let result = self.look_up(sequence);
                answer_when_durable(reply, result, None, pending);
            }
            Proposal::Close { .. } => unreachable!("write_blocks takes it"),
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
            let frame = self.frame(changes.producer, records);
            let length = frame.encoded_len();
            if length > FRAME_BYTES_MAX || frame.records.len() > RECORDS_MAX {
                return Err(CommitError::TooLarge(length));
            }
            committed.appended = self.add(&frame, pending);
        }
        let waits = in_memory
            .iter()
            .any(|append| self.volatile.waits(append.target));
        let known_to_the_log = in_block && in_memory.is_empty();
        let in_block = in_block || waits;
        self.append_in_memory(in_memory, in_block, &mut committed, pending);
        if let Some(sequence) = changes.producer
            && !known_to_the_log
        {
            let result = committed.appended.clone();
            let now_ms = self.now_ms();
            let producers = &mut self.state.producers;
            producers.applied_in_memory(sequence, result, now_ms);
        }
        Ok(if in_block {
            Sequenced::InBlock(committed)
        } else {
            Sequenced::InMemory(committed)
        })
    }

    /// Appends to memory topics, readable at once or with the pending block.
    fn append_in_memory(
        &mut self,
        appends: Vec<AppendRequest>,
        with_block: bool,
        committed: &mut Committed,
        pending: &mut Pending,
    ) {
        let now_ms = self.now_ms();
        for append in appends {
            let append = self.volatile.append(&append, now_ms);
            committed.appended.push(append.appended);
            if with_block {
                self.volatile.hold(&append);
                pending.volatile.push(append);
            } else if let Some(topic) = self.volatile.show(append, &self.catalog.borrow()) {
                topic.notify();
            }
        }
    }

    fn is_memory(&self, topic: TopicId) -> bool {
        let topic = self.state.topic(topic);
        topic.is_some_and(|topic| topic.definition.channel() == Channel::Memory)
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
        let (producer, epoch) = self.state.producers.next_session(&name, fresh);
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
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_millis() as u64);
        now.max(self.state.time_ms)
    }

    fn frame(&self, producer: Option<ProducerSequence>, records: Vec<Record>) -> Frame {
        Frame {
            time_ms: self.now_ms(),
            producer,
            records,
        }
    }

    /// Adds a checked frame to the block and folds it into the state.
    fn add(&mut self, frame: &Frame, pending: &mut Pending) -> Vec<Appended> {
        let slot = pending
            .block
            .frame(frame.encoded_len(), |out| frame.encode(out));
        let appended = self
            .state
            .apply(frame)
            .expect("the frame was made to fit the state");
        pending.frames.push(PendingFrame {
            slot,
            appended: appended.clone(),
            catalog: frame
                .records
                .iter()
                .filter(|record| record.changes_catalog())
                .cloned()
                .collect(),
        });
        appended
    }

    fn flush(&mut self, pending: Pending) {
        let Pending {
            block,
            frames,
            volatile,
            replies,
        } = pending;
        let result = if frames.is_empty() {
            Ok(())
        } else {
            match self.writer.write(block) {
                Ok(written) => {
                    self.publish(&written, frames);
                    Ok(())
                }
                Err(error) => {
                    tracing::error!(%error, "the log has failed; publishing and delivery stop");
                    Err(Unavailable::LogFailed(error.to_string().into()))
                }
            }
        };
        if result.is_ok() {
            self.publish_volatile(volatile);
        }
        for reply in replies {
            reply(result.clone());
        }
        if result.is_ok() {
            let end = self.writer.end();
            self.checkpoints
                .after_block(end, &mut self.state, &self.catalog.borrow());
        }
    }

    /// Shows what is durable now to whoever reads.
    fn publish(&mut self, written: &Written, frames: Vec<PendingFrame>) {
        if frames.iter().any(|frame| !frame.catalog.is_empty()) {
            let mut catalog = Catalog::clone(&self.catalog.borrow());
            let mut deleted = Vec::new();
            for record in frames.iter().flat_map(|frame| &frame.catalog) {
                deleted.extend(catalog.apply(record));
            }
            self.catalog.send_replace(Arc::new(catalog));
            for topic in deleted {
                self.checkpoints.topic_deleted(topic.id);
                self.volatile.forget(topic.id);
                topic.notify();
            }
        }
        let catalog = self.catalog.borrow();
        let mut touched: Vec<&Arc<Topic>> = Vec::new();
        for frame in frames {
            let (position, length) = written.frame(frame.slot);
            for appended in frame.appended {
                // Deleted since, in the same block.
                let Some(topic) = catalog.topic_by_id(appended.topic) else {
                    continue;
                };
                let Some(partition) = topic.partition(appended.partition) else {
                    continue;
                };
                partition.publish(IndexEntry {
                    first: appended.first,
                    count: appended.count,
                    position,
                    length,
                    time_ms: appended.time_ms,
                });
                if !touched.iter().any(|t| t.id == topic.id) {
                    touched.push(topic);
                }
            }
        }
        for topic in touched {
            topic.notify();
        }
    }

    /// Shows what memory topics got together with what is durable now.
    fn publish_volatile(&mut self, appends: Vec<VolatileAppend>) {
        for append in appends {
            if let Some(topic) = self.volatile.show_held(append, &self.catalog.borrow()) {
                topic.notify();
            }
        }
    }

    /// Ends the log and the view in order, if the log has not failed.
    fn close_log(mut self) {
        if self.writer.failure().is_some() {
            return self.checkpoints.join();
        }
        match self.writer.close() {
            Ok(()) => {
                let end = self.writer.end();
                let catalog = self.catalog.borrow().clone();
                self.checkpoints.close(end, &mut self.state, &catalog);
            }
            Err(error) => {
                tracing::error!(%error, "the log could not be closed in order");
                self.checkpoints.join();
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
    budget: Option<OwnedSemaphorePermit>,
    pending: &mut Pending,
) {
    match result {
        Err(error) => {
            let _ = reply.send(Err(error));
        }
        Ok(value) => pending.replies.push(Box::new(move |durable| {
            let _ = reply.send(durable.map(|()| value).map_err(E::from));
            drop(budget);
        })),
    }
}

fn refuse(proposal: Proposal, reason: Unavailable) {
    match proposal {
        Proposal::Changes { reply, .. } => drop(reply.send(Err(reason.into()))),
        Proposal::Catalog { reply, .. } => drop(reply.send(Err(reason.into()))),
        Proposal::OpenProducer { reply, .. } => drop(reply.send(Err(reason.into()))),
        Proposal::Lookup { reply, .. } => drop(reply.send(Err(reason.into()))),
        Proposal::Close { reply } => drop(reply.send(())),
    }
}
