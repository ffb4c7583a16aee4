//! What every call has at hand.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use tokio_util::sync::CancellationToken;

use super::{
    admin::backup::Progress,
    authorize::{Action, Principal, Resource, authorize},
    convert,
    refusal::Refusal,
};
use crate::{
    commit::{Group, Proposals, Recovery, Store, Topic},
    config::Limits,
    flow::{Intake, Reading},
    group::{GroupHandle, Groups},
    log,
    retention::RetentionStatus,
    space::Space,
};

/// What the calls work on.
pub(crate) struct Api {
    pub(crate) proposals: Proposals,
    pub(crate) store: Store,
    pub(crate) log: log::Reader,
    pub(crate) groups: Groups,
    pub(crate) space: Space,
    pub(crate) limits: Limits,
    /// The line for the log, as publishers see it.
    pub(super) intake: Intake,
    /// What PublishStreams have on the way to the log.
    pub(super) reading: Reading,
    /// PublishStreams that are open.
    pub(super) publish_streams: Arc<AtomicUsize>,
    /// Bytes of Publish requests that wait to be let in.
    pub(super) waiting_bytes: Arc<AtomicUsize>,
    /// How far a backup is.
    pub(super) backup: Progress,
    pub(crate) info: BrokerInfo,
    /// Long streams end when it is cancelled.
    pub(crate) stopping: CancellationToken,
    /// Where the next batch without keys goes.
    pub(super) turn: AtomicU32,
}

/// What the broker says of itself.
pub(crate) struct BrokerInfo {
    pub(crate) recovery: Recovery,
    pub(crate) started: SystemTime,
    pub(crate) retention: Arc<Mutex<RetentionStatus>>,
}

impl Api {
    pub(crate) fn new(
        proposals: Proposals,
        store: Store,
        log: log::Reader,
        groups: Groups,
        space: Space,
        limits: Limits,
        info: BrokerInfo,
    ) -> Self {
        Self {
            proposals,
            store,
            log,
            groups,
            space,
            intake: limits.intake(),
            reading: Reading::new(limits.publish_reading_bytes as u64),
            publish_streams: Arc::default(),
            waiting_bytes: Arc::default(),
            limits,
            backup: Progress::default(),
            info,
            stopping: CancellationToken::new(),
            turn: AtomicU32::new(0),
        }
    }

    /// A topic to do something with that changes it.
    pub(super) fn topic(&self, action: Action, name: &str) -> Result<Arc<Topic>, Refusal> {
        authorize(Principal::Anonymous, action, Resource::Topic(name))?;
        let topic_name = match action {
            Action::Read | Action::Describe => convert::readable_topic_name("topic", name)?,
            _ => convert::topic_name("topic", name)?,
        };
        let catalog = self.proposals.catalog();
        let topic = catalog.topic(&topic_name).cloned();
        topic.ok_or_else(|| Refusal::unknown_topic(name))
    }

    /// A group, and where to find it.
    pub(super) fn group(
        &self,
        action: Action,
        topic: &str,
        group: &str,
    ) -> Result<GroupHandle, Refusal> {
        let definition = self.group_definition(action, topic, group)?;
        let handle = self.groups.get(definition.id);
        // Between its creation and its start, or its deletion and its end.
        handle.ok_or_else(|| Refusal::unknown_group(topic, group))
    }

    pub(super) fn group_definition(
        &self,
        action: Action,
        topic: &str,
        group: &str,
    ) -> Result<Arc<Group>, Refusal> {
        authorize(
            Principal::Anonymous,
            action,
            Resource::Group { topic, group },
        )?;
        let topic_name = convert::topic_name("topic", topic)?;
        let group_name = convert::group_name("group", group)?;
        let catalog = self.proposals.catalog();
        if catalog.topic(&topic_name).is_none() {
            return Err(Refusal::unknown_topic(topic));
        }
        let found = catalog.group(&topic_name, &group_name).cloned();
        found.ok_or_else(|| Refusal::unknown_group(topic, group))
    }

    pub(super) fn allow(&self, action: Action, resource: Resource<'_>) -> Result<(), Refusal> {
        authorize(Principal::Anonymous, action, resource)
    }

    /// Refuses what takes room for good while the disk has little.
    pub(super) fn room_to_grow(&self) -> Result<(), Refusal> {
        self.space.low().map_or(Ok(()), |low| Err(low.into()))
    }

    pub(super) fn next_turn(&self) -> u32 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}
