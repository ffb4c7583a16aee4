//! Folds in that a group was changed: its settings, whether it is paused, where
//! it stands.

use sluice_proto::{GroupId, Offset};

use super::{ApplyError, State, source_of};
use crate::{
    commit::{ack_window::AckWindow, record::GroupChanged},
    view::EntityKey,
};

impl State {
    pub(super) fn group_changed(&mut self, changed: &GroupChanged) -> Result<(), ApplyError> {
        let id = GroupId(changed.group);
        let group = self.groups.get_mut(&id).ok_or(ApplyError::NoGroup(id))?;
        let definition = &mut group.definition;
        if let Some(config) = &changed.config {
            definition.config = config.clone();
        }
        if let Some(paused) = changed.paused {
            definition.paused = paused;
        }
        self.dirty.insert(EntityKey::Group(id));
        if changed.positions.is_empty() {
            return Ok(());
        }
        let topic = definition.topic;
        for (source, state) in &mut group.sources {
            for offset in std::mem::take(&mut state.leases).into_keys() {
                self.dirty.insert(EntityKey::Lease(id, *source, offset));
            }
        }
        for position in &changed.positions {
            let source = source_of(topic, position.partition);
            let state = group
                .sources
                .get_mut(&source)
                .ok_or(ApplyError::NoGroup(id))?;
            state.window = AckWindow::new(Offset(position.offset));
            for offset in std::mem::take(&mut state.attempts).into_keys() {
                self.dirty.insert(EntityKey::Attempts(id, source, offset));
            }
            self.dirty.insert(EntityKey::Window(id, source));
        }
        Ok(())
    }
}
