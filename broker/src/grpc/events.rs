//! Events on their way in: checked, and shared out over partitions.

use std::collections::BTreeMap;

use sluice_proto::{
    PartitionId, ProducerId,
    event::{EventLimits, EventRef},
    partition_of_key, wire,
};

use super::{api::Api, authorize::Action, refusal::Refusal};
use crate::commit::{
    AppendRequest, Committed, Topic,
    record::{Channel, NewEvents, ProducerSequence, Source},
};

impl Api {
    /// Checks events and says which partition each goes to. `path` is where the
    /// request has them.
    pub(super) fn place_events(
        &self,
        path: &str,
        topic: &str,
        events: NewEvents,
        partition: Option<i32>,
    ) -> Result<Vec<AppendRequest>, Refusal> {
        let topic = self.topic(Action::Publish, topic)?;
        if topic.channel != Channel::Memory {
            self.room_to_grow()?;
        }
        if events.is_empty() {
            return Err(Refusal::field(format!("{path}events"), "it is empty"));
        }
        let (count, limit) = (events.len(), self.limits.batch_events_max);
        if count > limit {
            let given = format!("{count} events");
            return Err(Refusal::limit(format!("{path}events"), given, limit));
        }
        let partitions = topic.partitions.len() as u32;
        let fixed = match partition {
            Some(given) => Some(existing_partition(
                &format!("{path}partition"),
                &topic,
                given,
            )?),
            None if partitions == 1 => Some(PartitionId(0)),
            None => None,
        };
        let limits = EventLimits {
            event_bytes_max: self.limits.event_bytes_max,
        };
        let keyless = PartitionId(self.next_turn() % partitions);
        // Of each event, where its key decides.
        let mut to = Vec::with_capacity(fixed.map_or(count, |_| 0));
        for (index, event) in events.events().enumerate() {
            let key = EventRef::check_for_key(event, limits)
                .map_err(|error| Refusal::bad_event(path, index, &error))?;
            if fixed.is_none() {
                let of_key = |key| partition_of_key(key, partitions);
                to.push(key.map_or(keyless, of_key));
            }
        }
        let placed = match fixed.or_else(|| all_the_same(&to)) {
            Some(partition) => BTreeMap::from([(partition, events)]),
            None => events.share_out(&to),
        };
        let appends = placed.into_iter().map(|(partition, events)| AppendRequest {
            target: Source {
                topic: topic.id,
                partition,
            },
            events,
        });
        Ok(appends.collect())
    }

    /// What is published is about to be refused, perhaps because it was applied
    /// before and only its answer was lost: then it is answered again. What is
    /// refused has not taken its number.
    pub(super) async fn published_before(
        &self,
        producer: Option<ProducerSequence>,
        refusal: Refusal,
    ) -> Result<Committed, Refusal> {
        match producer {
            Some(sequence) => self
                .proposals
                .look_up_published(sequence)
                .await?
                .ok_or(refusal),
            None => Err(refusal),
        }
    }

    /// The same of a commit with inputs.
    pub(super) async fn committed_before(
        &self,
        producer: Option<ProducerSequence>,
        refusal: Refusal,
    ) -> Result<Committed, Refusal> {
        match producer {
            Some(sequence) => self
                .proposals
                .look_up_commit(sequence)
                .await?
                .ok_or(refusal),
            None => Err(refusal),
        }
    }
}

fn all_the_same(to: &[PartitionId]) -> Option<PartitionId> {
    let (first, rest) = to.split_first()?;
    rest.iter().all(|other| other == first).then_some(*first)
}

/// A partition that the topic has.
pub(super) fn existing_partition(
    field: &str,
    topic: &Topic,
    given: i32,
) -> Result<PartitionId, Refusal> {
    let id = u32::try_from(given).ok().map(PartitionId);
    id.filter(|id| topic.partition(*id).is_some())
        .ok_or_else(|| Refusal::unknown_partition(field, given, topic.partitions.len()))
}

/// A request's place in its producer's sequence.
pub(super) fn sequence(
    given: Option<wire::ProducerSequence>,
) -> Result<Option<ProducerSequence>, Refusal> {
    let Some(given) = given else { return Ok(None) };
    producer_sequence(given.producer_id, given.producer_epoch, given.sequence).map(Some)
}

pub(super) fn producer_sequence(
    producer: i64,
    epoch: i64,
    sequence: i64,
) -> Result<ProducerSequence, Refusal> {
    let positive = |field: &str, given: i64| {
        u64::try_from(given)
            .ok()
            .filter(|given| *given > 0)
            .ok_or_else(|| {
                Refusal::field(
                    format!("producer.{field}"),
                    format!("it is {given}, and must be at least 1"),
                )
            })
    };
    Ok(ProducerSequence {
        producer: ProducerId(positive("producer_id", producer)?),
        epoch: positive("producer_epoch", epoch)?,
        sequence: positive("sequence", sequence)?,
    })
}
