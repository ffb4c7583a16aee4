//! Sequences what keeps the log in bounds.

use sluice_proto::{GroupId, Offset, TopicId};

use super::{Pending, Sequencer};
use crate::commit::{
    keep::{Keep, KeepReply, Kept, Trim, Unread},
    record::{Record, Relocated, RetentionTime, Source, Trimmed},
};

impl Sequencer {
    pub(super) fn sequence_keep(&mut self, change: Keep, reply: KeepReply, pending: &mut Pending) {
        let mut kept = Kept::Durable;
        let records = match change {
            Keep::Trim(trims) => self.trims(trims),
            Keep::Relocate(ranges) => self.relocations(ranges),
            Keep::Checkpoint(piece) => vec![*piece],
            Keep::Time(now_ms) => vec![Record::RetentionTime(RetentionTime { now_ms })],
            Keep::Save => {
                // Begun before the next block is gathered, also when this one is
                // empty.
                if let Some(checkpoints) = &mut self.checkpoints {
                    checkpoints.want();
                }
                Vec::new()
            }
            Keep::Unread(topics) => {
                kept = Kept::Unread(self.unread(&topics));
                Vec::new()
            }
        };
        if !records.is_empty() {
            pending.durable = true;
            let frame = self.frame(None, records);
            self.add(&frame, pending);
        }
        pending.replies.push(Box::new(move |durable| {
            let _ = reply.try_send(durable.map(|()| kept));
        }));
    }

    /// Those that change something, and nothing that is held.
    fn trims(&self, trims: Vec<Trim>) -> Vec<Record> {
        let mut records = Vec::new();
        for trim in trims {
            let Some(topic) = self.state.topic(trim.source.topic) else {
                continue;
            };
            let Some(partition) = topic.partitions.get(trim.source.partition.0 as usize) else {
                continue;
            };
            let start = trim.start.min(partition.next_offset);
            let retention = topic.definition.retention.as_ref();
            let holds = !trim.force && retention.is_some_and(|kept| kept.hold_unread);
            let held = holds
                && self
                    .unread(&[trim.source.topic])
                    .get(&trim.source)
                    .is_some_and(|(end, _)| *end < start);
            if start > partition.start_offset && !held {
                records.push(Record::Trimmed(Trimmed {
                    topic: trim.source.topic.0,
                    partition: trim.source.partition.0,
                    start: start.0,
                    bytes: trim.bytes,
                }));
            }
        }
        records
    }

    /// Those of partitions that are still there.
    fn relocations(&self, ranges: Vec<Relocated>) -> Vec<Record> {
        ranges
            .into_iter()
            .filter(|range| self.state.topic(range.topic).is_some())
            .map(Record::Relocated)
            .collect()
    }

    fn unread(&self, topics: &[TopicId]) -> Unread {
        let mut unread = Unread::new();
        for (id, group) in self.state.groups() {
            if !topics.contains(&TopicId(group.definition.topic)) {
                continue;
            }
            for (source, state) in &group.sources {
                if source.topic.0 == group.definition.topic {
                    least(&mut unread, *source, state.window.committed_end(), id);
                }
            }
        }
        unread
    }
}

fn least(unread: &mut Unread, source: Source, end: Offset, group: GroupId) {
    let known = unread.entry(source).or_insert((end, group));
    if end < known.0 {
        *known = (end, group);
    }
}
