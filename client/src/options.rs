//! How topics and groups are to be.

use std::time::{Duration, SystemTime};

use sluice_proto::pb::{self, read_start::At};

/// How a group is to be; what is not said is as the broker's default.
///
/// ```
/// use sluice_client::GroupOptions;
/// use std::time::Duration;
/// let options = GroupOptions::default()
///     .filter("event.type == 'image.ready'")
///     .lease(Duration::from_secs(10))
///     .max_attempts(3);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupOptions(pub(crate) pb::GroupConfig);

impl GroupOptions {
    /// Only events for which this CEL expression is true.
    #[must_use]
    pub fn filter(mut self, filter: impl Into<String>) -> Self {
        self.0.filter = filter.into();
        self
    }

    /// Only events for which all of these are true, in the place of
    /// [`GroupOptions::filter`].
    #[must_use]
    pub fn filters(mut self, filters: impl IntoIterator<Item = pb::EventFilter>) -> Self {
        self.0.filters = filters.into_iter().collect();
        self
    }

    /// All events in parallel, also those of one key.
    #[must_use]
    pub fn unordered(mut self) -> Self {
        self.0.ordering = pb::Ordering::None.into();
        self
    }

    /// The events of a partition one at a time, in order.
    #[must_use]
    pub fn ordered_by_partition(mut self) -> Self {
        self.0.ordering = pb::Ordering::Partition.into();
        self
    }

    /// How long one attempt may take, however many heartbeats come.
    #[must_use]
    pub fn processing_limit(mut self, limit: Duration) -> Self {
        self.0.processing_limit = limit.try_into().ok();
        self
    }

    /// Events of a member whose connection is lost go to others at once, not at
    /// the deadline.
    #[must_use]
    pub fn lost_at_once(mut self) -> Self {
        self.0.on_connection_loss = pb::ConnectionLoss::AtOnce.into();
        self
    }

    /// How long an event that a vanished member had waits for one that holds
    /// nothing, before one is made idle for it.
    #[must_use]
    pub fn solo_wait(mut self, wait: Duration) -> Self {
        self.0.solo_wait = wait.try_into().ok();
        self
    }

    /// How long a silent member keeps its events.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.0.lease_duration = lease.try_into().ok();
        self
    }

    /// Attempts before an event becomes a dead letter.
    #[must_use]
    pub fn max_attempts(mut self, attempts: i32) -> Self {
        self.retry().max_attempts = attempts;
        self
    }

    /// The delay before the second attempt, and the longest one, each up to 24 h;
    /// in between they grow by [`GroupOptions::retry_multiplier`].
    #[must_use]
    pub fn retry_delay(mut self, first: Duration, longest: Duration) -> Self {
        let retry = self.retry();
        retry.initial_delay = first.try_into().ok();
        retry.max_delay = longest.try_into().ok();
        self
    }

    /// Each further delay is the one before times this, 1 to 10; 2 by default.
    #[must_use]
    pub fn retry_multiplier(mut self, factor: f64) -> Self {
        self.retry().multiplier = factor;
        self
    }

    /// The same delay before each further attempt.
    #[must_use]
    pub fn fixed_retry_delay(self, delay: Duration) -> Self {
        let mut options = self.retry_delay(delay, delay);
        options.retry().multiplier = 1.0;
        options
    }

    /// The share of each delay that is left to chance, 0 to 1.
    #[must_use]
    pub fn retry_jitter(mut self, share: f64) -> Self {
        self.retry().jitter = Some(share);
        self
    }

    /// Later events of a key go on while one waits for its next attempt.
    #[must_use]
    pub fn overtake(mut self) -> Self {
        self.retry().order = pb::RetryOrder::Overtake.into();
        self
    }

    fn retry(&mut self) -> &mut pb::RetryPolicy {
        self.0.retry.get_or_insert_default()
    }

    /// Begins after the last event that is there when the group is created.
    #[must_use]
    pub fn from_latest(self) -> Self {
        self.start(At::Latest(pb::Latest {}))
    }

    /// Begins at this offset in every partition; in one that ends before it, at its
    /// end.
    #[must_use]
    pub fn from_offset(self, offset: i64) -> Self {
        self.start(At::Offset(offset))
    }

    /// Begins at the first event that was stored at this time or later. The time is a
    /// setting of the group as any other: a group that is there with another one differs.
    #[must_use]
    pub fn from_time(self, time: SystemTime) -> Self {
        self.start(At::Time(time.into()))
    }

    /// Begins here; by default, at the earliest event.
    #[must_use]
    pub fn start(mut self, at: At) -> Self {
        let at = Some(at);
        self.0.start = Some(pb::ReadStart { at, epoch: 0 });
        self
    }

    /// How far the group may fall behind, and what happens then to those who
    /// publish to its topic. Default: as far as it does.
    #[must_use]
    pub fn backlog(mut self, limit: pb::BacklogLimit) -> Self {
        self.0.backlog = Some(limit);
        self
    }

    /// A topic to which the group's workers publish: the group is not fed while it
    /// is full.
    #[must_use]
    pub fn output(mut self, topic: impl Into<String>) -> Self {
        self.0.output_topics.push(topic.into());
        self
    }

    /// How often one event may be redriven from the dead letters, 1 to 1000; 10 by
    /// default.
    #[must_use]
    pub fn max_redrives(mut self, redrives: i32) -> Self {
        self.0.max_redrives = redrives;
        self
    }

    /// Events under lease of one member.
    #[must_use]
    pub fn max_in_flight_per_member(mut self, events: i32) -> Self {
        self.0.max_in_flight_per_member = events;
        self
    }

    /// Events under lease in the whole group.
    #[must_use]
    pub fn max_in_flight(mut self, events: i32) -> Self {
        self.0.max_in_flight = events;
        self
    }
}

/// How a topic is to be; what is not said is as the broker's default. A number
/// is that many partitions.
///
/// ```
/// use sluice_client::TopicOptions;
/// let four: TopicOptions = 4.into();
/// assert_eq!(four, TopicOptions::default().partitions(4));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopicOptions(pub(crate) pb::TopicConfig);

impl TopicOptions {
    /// How many partitions it gets, for good.
    #[must_use]
    pub fn partitions(mut self, partitions: i32) -> Self {
        self.0.partitions = partitions;
        self
    }

    /// How long events are kept; by default, for ever.
    #[must_use]
    pub fn retention(mut self, retention: pb::Retention) -> Self {
        self.0.retention = Some(retention);
        self
    }

    /// What an ack means and what survives, for good.
    #[must_use]
    pub fn channel(mut self, channel: pb::Channel) -> Self {
        self.0.channel = channel.into();
        self
    }
}

impl From<i32> for TopicOptions {
    fn from(partitions: i32) -> Self {
        Self::default().partitions(partitions)
    }
}

impl From<pb::TopicConfig> for TopicOptions {
    fn from(config: pb::TopicConfig) -> Self {
        Self(config)
    }
}

impl From<pb::GroupConfig> for GroupOptions {
    fn from(config: pb::GroupConfig) -> Self {
        Self(config)
    }
}
