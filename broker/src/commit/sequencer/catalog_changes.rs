//! Sequences changes of topics and groups.

use sluice_proto::{GroupId, GroupName, TopicId, TopicName};

use super::{Pending, Sequencer};
use crate::commit::{
    proposal::{CatalogChange, CatalogChanged, CatalogError, GroupChange, NewGroup, TopicConfig},
    record::{
        GroupChanged, GroupCreated, GroupDeleted, Record, Retention, TopicCreated, TopicDeleted,
        TopicUpdated,
    },
    state::GroupState,
};

impl Sequencer {
    pub(super) fn sequence_catalog(
        &mut self,
        change: CatalogChange,
        pending: &mut Pending,
    ) -> Result<CatalogChanged, CatalogError> {
        match change {
            CatalogChange::CreateTopic {
                name,
                config,
                retention,
            } => self.create_topic(&name, config, retention, pending),
            CatalogChange::UpdateTopic { name, retention } => {
                self.update_topic(&name, retention, pending)
            }
            CatalogChange::DeleteTopic { name } => self.delete_topic(&name, pending),
            CatalogChange::CreateGroup(group) => self.create_group(*group, pending),
            CatalogChange::ChangeGroup { id, change } => self.change_group(id, *change, pending),
            CatalogChange::DeleteGroup { topic, name } => self.delete_group(&topic, &name, pending),
        }
    }

    fn create_topic(
        &mut self,
        name: &TopicName,
        config: Option<TopicConfig>,
        retention: Option<Retention>,
        pending: &mut Pending,
    ) -> Result<CatalogChanged, CatalogError> {
        if let Some(topic) = self
            .state
            .topic_id(name)
            .and_then(|id| self.state.topic(id))
        {
            let existing = TopicConfig {
                partitions: topic.definition.partitions,
                channel: topic.definition.channel(),
            };
            let kept = topic.definition.retention.clone().unwrap_or_default();
            if retention.is_some_and(|asked| asked != kept) {
                return Err(CatalogError::RetentionDiffers(name.to_string()));
            }
            return match config {
                Some(requested) if requested != existing => Err(CatalogError::TopicDiffers {
                    name: name.to_string(),
                    existing,
                    requested,
                }),
                _ => Ok(CatalogChanged::TopicExisted),
            };
        }
        let count = self.state.topics().len();
        if count >= self.config.topics_max {
            return Err(CatalogError::TooMany {
                what: "topics",
                count,
                limit: self.config.topics_max,
            });
        }
        let id = self.state.next_id();
        let created = TopicCreated {
            retention,
            ..self.topic_record(id, name, config.unwrap_or_default())
        };
        let frame = self.frame(None, vec![Record::TopicCreated(created)]);
        self.add(&frame, pending);
        Ok(CatalogChanged::TopicCreated)
    }

    fn update_topic(
        &mut self,
        name: &TopicName,
        retention: Retention,
        pending: &mut Pending,
    ) -> Result<CatalogChanged, CatalogError> {
        let topic = self.known_topic(name)?.0;
        let updated = TopicUpdated { topic, retention };
        let frame = self.frame(None, vec![Record::TopicUpdated(updated)]);
        self.add(&frame, pending);
        Ok(CatalogChanged::TopicUpdated)
    }

    fn delete_topic(
        &mut self,
        name: &TopicName,
        pending: &mut Pending,
    ) -> Result<CatalogChanged, CatalogError> {
        let id = self.known_topic(name)?;
        let mut groups = self
            .state
            .groups()
            .filter(|(_, g)| g.definition.topic == id.0);
        if let Some((_, example)) = groups.next() {
            let example = example.definition.name.clone();
            return Err(CatalogError::TopicHasGroups {
                name: name.to_string(),
                groups: 1 + groups.count(),
                example,
            });
        }
        drop(groups);
        let deleted = TopicDeleted { topic: id.0 };
        let frame = self.frame(None, vec![Record::TopicDeleted(deleted)]);
        self.add(&frame, pending);
        Ok(CatalogChanged::TopicDeleted)
    }

    fn create_group(
        &mut self,
        group: NewGroup,
        pending: &mut Pending,
    ) -> Result<CatalogChanged, CatalogError> {
        let NewGroup {
            topic,
            name,
            config,
            or_as_it_is,
            start,
        } = group;
        let topic_id = self.known_topic(&topic)?;
        if let Some(id) = self.state.group_id(topic_id, &name) {
            let same = self
                .state
                .group(id)
                .is_some_and(|g| g.definition.config == config);
            return if same || or_as_it_is {
                Ok(CatalogChanged::GroupExisted)
            } else {
                Err(CatalogError::GroupDiffers(name.to_string()))
            };
        }
        // The topic may have been replaced since the caller looked at it.
        let partitions = self.state.topic(topic_id).map(|t| t.partitions.len());
        if partitions != Some(start.len()) {
            return Err(CatalogError::UnknownTopic(topic.to_string()));
        }
        let count = self.state.groups().len();
        if count >= self.config.groups_max {
            return Err(CatalogError::TooMany {
                what: "groups",
                count,
                limit: self.config.groups_max,
            });
        }
        let id = self.state.next_id();
        let (dead_letters, parking) = (id + 1, id + 2);
        // A memory topic begins anew at every start of the broker, and so does
        // the group: at 0, which all starts are in an empty topic.
        let replayed_start = if self.is_memory(topic_id) {
            vec![0; start.len()]
        } else {
            start.clone()
        };
        let created = GroupCreated {
            group: id,
            name: name.to_string(),
            topic: topic_id.0,
            dead_letters,
            parking,
            start: replayed_start,
            created_ms: self.now_ms(),
            config,
            paused: false,
        };
        let records = vec![
            Record::TopicCreated(self.topic_record(
                dead_letters,
                &TopicName::dead_letters(&topic, &name),
                TopicConfig::default(),
            )),
            Record::TopicCreated(self.topic_record(
                parking,
                &TopicName::parking(&topic, &name),
                TopicConfig::default(),
            )),
            Record::GroupCreated(created.clone()),
        ];
        let frame = self.frame(None, records);
        let state = GroupState::new(&GroupCreated { start, ..created });
        self.add(&frame, pending);
        Ok(CatalogChanged::GroupCreated(Box::new(state)))
    }

    fn change_group(
        &mut self,
        id: GroupId,
        change: GroupChange,
        pending: &mut Pending,
    ) -> Result<CatalogChanged, CatalogError> {
        let gone = || CatalogError::GroupGone(id);
        let group = self.state.group(id).ok_or_else(gone)?;
        let config = match change.config {
            Some((before, _)) if before != group.definition.config => {
                return Err(CatalogError::GroupChanged);
            }
            Some((_, after)) => Some(after),
            None => None,
        };
        let changed = GroupChanged {
            group: id.0,
            config,
            paused: change.paused,
            positions: change.positions,
        };
        let mut records = vec![Record::GroupChanged(changed)];
        records.extend(change.settles.map(Record::Settle));
        let frame = self.frame(None, records);
        self.add(&frame, pending);
        let state = self.state.group(id).ok_or_else(gone)?.clone();
        Ok(CatalogChanged::GroupChanged(Box::new(state)))
    }

    fn delete_group(
        &mut self,
        topic: &TopicName,
        name: &GroupName,
        pending: &mut Pending,
    ) -> Result<CatalogChanged, CatalogError> {
        let topic_id = self.known_topic(topic)?;
        let found = self
            .state
            .group_id(topic_id, name)
            .and_then(|id| Some((id, self.state.group(id)?)));
        let Some((id, group)) = found else {
            return Err(CatalogError::UnknownGroup {
                topic: topic.to_string(),
                group: name.to_string(),
            });
        };
        let own_topics = [
            TopicId(group.definition.dead_letters),
            TopicId(group.definition.parking),
        ];
        let deleted = GroupDeleted { group: id.0 };
        let mut records = vec![Record::GroupDeleted(deleted)];
        records
            .extend(own_topics.map(|topic| Record::TopicDeleted(TopicDeleted { topic: topic.0 })));
        let frame = self.frame(None, records);
        self.add(&frame, pending);
        Ok(CatalogChanged::GroupDeleted(id))
    }

    fn known_topic(&self, name: &TopicName) -> Result<TopicId, CatalogError> {
        self.state
            .topic_id(name)
            .ok_or_else(|| CatalogError::UnknownTopic(name.to_string()))
    }

    fn topic_record(&self, id: u64, name: &TopicName, config: TopicConfig) -> TopicCreated {
        TopicCreated {
            topic: id,
            name: name.to_string(),
            partitions: config.partitions,
            created_ms: self.now_ms(),
            channel: config.channel.into(),
            retention: None,
        }
    }
}
