//! Folds frames into state, catalog and index.

use std::collections::BTreeSet;

use bytes::Bytes;
use sluice_proto::TopicId;

use crate::{
    commit::{
        catalog::Catalog,
        checkpoint::{self, Identity},
        occupancy::Occupancy,
        record::{Frame, Source},
        state::{Placed, State},
    },
    log::{LogPoint, Position, ReplayedFrame, SegmentInfo},
    view::{Changes, Checkpoint, Digest, EntityKey, View, ViewError},
};

/// What replaying frames makes.
#[derive(Default)]
pub(super) struct Replay {
    pub(super) state: State,
    pub(super) catalog: Catalog,
    pub(super) occupancy: Occupancy,
    pub(super) deleted_topics: Vec<TopicId>,
    /// Partitions of which something was indexed that is older than the state.
    indexed: BTreeSet<Source>,
}

impl Replay {
    /// Goes on from a state.
    pub(super) fn from(state: State, occupancy: Occupancy) -> Self {
        Self {
            catalog: Catalog::of(&state),
            state,
            occupancy,
            ..Self::default()
        }
    }

    /// Folds one frame into state and catalog, and into the index of the head.
    pub(super) fn apply(&mut self, frame: &ReplayedFrame<'_>) -> Result<(), String> {
        let decoded = decode(frame)?;
        let applied = self.state.apply(&decoded).map_err(|e| e.to_string())?;
        for record in &decoded.records {
            let deleted = self.catalog.apply(record);
            self.deleted_topics.extend(deleted.map(|topic| topic.id));
        }
        for placed in &applied.placed {
            if let Some((_, partition)) = self.catalog.partition(placed.source) {
                partition.publish(placed, frame.position, frame.length);
            }
        }
        for kept in &applied.kept {
            if let Some((_, partition)) = self.catalog.partition(kept.source) {
                partition.keep(kept);
            }
        }
        Ok(())
    }

    /// Notes where the events are of a frame that the state has already.
    pub(super) fn index(&mut self, frame: &ReplayedFrame<'_>) -> Result<(), String> {
        let decoded = decode(frame)?;
        for record in &decoded.records {
            let Some(placed) = Placed::by(record, decoded.time_ms) else {
                continue;
            };
            let Some((_, partition)) = self.catalog.partition(placed.source) else {
                continue;
            };
            if placed.first + u64::from(placed.count) > partition.start_offset() {
                partition.index(&placed, frame.position, frame.length);
                self.indexed.insert(placed.source);
            }
        }
        Ok(())
    }

    /// Moves what was indexed to the view, with every entity of the state.
    pub(super) fn save_index(
        &mut self,
        view: &View,
        point: LogPoint,
        boot_id: [u8; 16],
        segments: &[SegmentInfo],
    ) -> Result<(), ViewError> {
        let mut changes = Changes {
            entities: Vec::new(),
            index: Vec::new(),
            relocated: Vec::new(),
            trimmed: Vec::new(),
            deleted_topics: Vec::new(),
            checkpoint: of_no_log(point, boot_id),
        };
        let partitions = std::mem::take(&mut self.indexed);
        checkpoint::collect_index(&partitions, Position(0), &self.catalog, &mut changes);
        checkpoint::write(&mut changes, view, &mut self.occupancy, segments)?;
        checkpoint::forget_below(&self.catalog, Position(u64::MAX));
        Ok(())
    }

    /// Puts every entity into a view that has none.
    pub(super) fn save_state(
        &self,
        view: &View,
        point: LogPoint,
        boot_id: [u8; 16],
    ) -> Result<(), ViewError> {
        let entities = self.state.entities().into_iter();
        view.write(&Changes {
            entities: entities.map(|(key, value)| (key, Some(value))).collect(),
            index: Vec::new(),
            relocated: Vec::new(),
            trimmed: Vec::new(),
            deleted_topics: Vec::new(),
            checkpoint: of_no_log(point, boot_id),
        })
    }

    /// Moves everything below `end` to the view.
    pub(super) fn checkpoint(
        &mut self,
        view: &View,
        identity: Identity,
        from: LogPoint,
        end: LogPoint,
        segments: &[SegmentInfo],
    ) -> Result<(), ViewError> {
        let deleted = std::mem::take(&mut self.deleted_topics);
        let mut changes =
            checkpoint::collect(identity, from, end, deleted, &mut self.state, &self.catalog);
        if identity.log_id != super::NO_LOG {
            changes.checkpoint.state_digest = self.mirror().digest();
        }
        checkpoint::write(&mut changes, view, &mut self.occupancy, segments)?;
        checkpoint::forget_below(&self.catalog, end.position);
        Ok(())
    }

    /// The entities of the state, to be put into the log.
    pub(super) fn mirror(&self) -> checkpoint::Mirror {
        let mut mirror = checkpoint::Mirror::default();
        for (key, value) in self.state.entities() {
            mirror.set(key, Some(&value));
        }
        mirror
    }

    /// Takes back the entities of a checkpoint.
    pub(super) fn load(
        entities: Vec<(EntityKey, Vec<u8>)>,
    ) -> Result<Self, crate::commit::state::LoadError> {
        let mut state = State::default();
        for (key, value) in entities {
            state.load(key, &value)?;
        }
        Ok(Self::from(state, Occupancy::default()))
    }
}

pub(super) fn decode(frame: &ReplayedFrame<'_>) -> Result<Frame, String> {
    let payload = Bytes::copy_from_slice(frame.payload);
    Frame::decode(payload).map_err(|error| error.to_string())
}

/// The checkpoint of a view that is being built: no log's, so nobody looks at it.
fn of_no_log(applied_end: LogPoint, boot_id: [u8; 16]) -> Checkpoint {
    Checkpoint {
        log_id: super::NO_LOG,
        applied_end,
        boot_id,
        closed: false,
        state_digest: Digest::default(),
    }
}
