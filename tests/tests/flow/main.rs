//! Flow control, from outside: a slow stage slows down those before it, up to
//! the first producer, and says so.

#![allow(clippy::unwrap_used)]

mod backlog;
mod bounds;
mod chain;
mod load;
mod pipeline;
mod settings;

use std::time::Duration;

use sluice_proto::pb::{
    BacklogLimit, BacklogPolicy, Event, GroupConfig, Ordering, PublishRequest, PublishResponse,
};
use sluice_tests::api::{Api, event};
use tonic::{Request, Status};

/// A limit by events alone.
fn events_max(policy: BacklogPolicy, max_events: i64) -> BacklogLimit {
    BacklogLimit {
        policy: policy.into(),
        max_events,
        ..BacklogLimit::default()
    }
}

/// A group in which nothing waits for anything else, with this limit.
fn limited(backlog: BacklogLimit) -> GroupConfig {
    GroupConfig {
        ordering: Ordering::None.into(),
        backlog: Some(backlog),
        ..GroupConfig::default()
    }
}

fn events(count: usize) -> Vec<Event> {
    (0..count).map(|at| event(&at.to_string())).collect()
}

/// Publishes with a deadline.
async fn publish_within(
    api: &Api,
    topic: &str,
    events: Vec<Event>,
    deadline: Duration,
) -> Result<PublishResponse, Status> {
    let mut request = Request::new(PublishRequest {
        topic: topic.to_owned(),
        events,
        ..PublishRequest::default()
    });
    request.set_timeout(deadline);
    let response = api.broker.clone().publish(request).await?;
    Ok(response.into_inner())
}

/// What a group has not settled.
async fn lag(api: &Api, topic: &str, group: &str) -> i64 {
    let described = api.describe_group(topic, group).await;
    described.partitions.iter().map(|p| p.lag).sum()
}
