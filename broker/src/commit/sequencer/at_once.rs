//! Small appends to memory topics, committed by whoever proposes them: to wake a
//! thread for one, and to be woken by it, would take longer than all that there is
//! to do.

use std::sync::{Arc, OnceLock, Weak};

use super::{Sequencer, lock, turns::Turns};
use crate::commit::{
    producers::Verdict,
    proposal::{Changes, Committed},
};

/// What is larger is copied by the sequencer's threads, while the proposer goes on.
const BYTES_MAX: usize = 16 << 10;

/// Where proposals come that may be committed at once. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(in crate::commit) struct AtOnce(Arc<OnceLock<Weak<Turns>>>);

impl AtOnce {
    /// The threads that commit everything else.
    pub(super) fn beside(&self, turns: &Arc<Turns>) {
        let first = self.0.set(Arc::downgrade(turns));
        debug_assert!(first.is_ok(), "a sequencer is started once");
    }

    /// Commits changes and takes their events; `None` when they are to go in line,
    /// and are as they were.
    pub(in crate::commit) fn commit(&self, changes: &mut Changes) -> Option<Committed> {
        let turns = self.0.get().and_then(Weak::upgrade)?;
        if changes.frame_bytes() > BYTES_MAX {
            return None;
        }
        // Somebody has the turn: then what is in line goes with it. After a panic
        // nothing is answered any more but what is in line.
        turns.sequencer.try_lock().ok()?.commit_at_once(changes)
    }
}

impl Sequencer {
    fn commit_at_once(&mut self, changes: &mut Changes) -> Option<Committed> {
        if !self.may_be_at_once(changes) {
            return None;
        }
        let appends = std::mem::take(&mut changes.appends);
        let mut committed = Committed {
            appended: Vec::with_capacity(appends.len()),
            duplicate: false,
        };
        self.append_in_memory(appends, None, &mut committed);
        self.note_in_memory(changes.producer, &committed);
        Some(committed)
    }

    /// Nothing comes before these changes, they are new, and all of them are about
    /// memory topics.
    fn may_be_at_once(&self, changes: &Changes) -> bool {
        let appends_only = changes.settles.is_empty()
            && changes.attempts.is_empty()
            && changes.leases.is_empty()
            && !changes.appends.is_empty();
        let is_open = self.checkpoints.is_some() && self.writer.failure().is_none();
        if !appends_only || !is_open || !self.waiting.is_empty() {
            return false;
        }
        if let Some(sequence) = changes.producer
            && !matches!(self.state.producers.check(sequence), Ok(Verdict::Fresh))
        {
            return false;
        }
        let volatile = lock(&self.volatile);
        changes.appends.iter().all(|append| {
            let target = append.target;
            let topic = self.state.topic(target.topic);
            let is_there =
                topic.is_some_and(|topic| (target.partition.0 as usize) < topic.partitions.len());
            is_there && self.is_memory(target.topic) && !volatile.waits(target)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;
    use futures_util::FutureExt;
    use sluice_proto::{Offset, PartitionId, TopicName};

    use super::*;
    use crate::commit::{
        AppendRequest, CatalogChange, Proposals, TopicConfig, open,
        proposal::Submitted,
        record::{Channel, NewEvent, NewEvents, Source},
        testing::small_config,
    };

    async fn memory_topic(proposals: &Proposals) -> Source {
        let name = TopicName::new("m").unwrap();
        let change = CatalogChange::CreateTopic {
            name: name.clone(),
            config: Some(TopicConfig {
                channel: Channel::Memory,
                ..TopicConfig::default()
            }),
            retention: None,
        };
        proposals.change_catalog(change).await.unwrap();
        Source {
            topic: proposals.catalog().topic(&name).unwrap().id,
            partition: PartitionId(0),
        }
    }

    fn append(target: Source) -> Changes {
        let event = NewEvent {
            event: Bytes::from_static(b"event"),
            note: Bytes::new(),
        };
        Changes {
            appends: vec![AppendRequest {
                target,
                events: NewEvents::from_iter([event]),
            }],
            ..Changes::default()
        }
    }

    #[tokio::test]
    async fn nothing_overtakes_what_is_in_line() {
        let dir = tempfile::tempdir().unwrap();
        let opened = open(dir.path(), small_config()).unwrap();
        let proposals = opened.proposals;
        let target = memory_topic(&proposals).await;
        let first = |committed: Committed| committed.appended[0].first;

        let turns = proposals.at_once.0.get().unwrap().upgrade().unwrap();
        let mut later = append(target);
        let in_line = {
            // As long as this is held nobody takes anything out of the line.
            let mut sequencer = turns.sequencer.lock().unwrap();
            let alone = sequencer.commit_at_once(&mut append(target));
            assert_eq!(alone.map(first), Some(Offset(0)), "nothing is in line");

            let submitted = proposals.submit(append(target)).now_or_never();
            let in_line = submitted.expect("there is room in the line").unwrap();
            assert!(matches!(in_line, Submitted::InLine(_)));
            assert_eq!(sequencer.commit_at_once(&mut later), None);
            in_line
        };
        assert_eq!(later.appends.len(), 1, "they are as they were");
        assert_eq!(in_line.committed().await.map(first).unwrap(), Offset(1));
        let later = proposals.commit(later).await;
        assert_eq!(later.map(first).unwrap(), Offset(2));

        drop(turns);
        proposals.close().await;
        opened.running.join();
    }
}
