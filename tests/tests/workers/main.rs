//! Workers that are processes of their own, and what befalls them.

#![allow(clippy::unwrap_used)]

mod chaos;
mod check;
mod coming_and_going;
mod crew;
mod poison;

use std::time::Duration;

use sluice_proto::pb::{DeadLetter, GroupConfig, ListDeadLettersRequest, Ordering, RetryPolicy};
use sluice_tests::{api::Api, broker::TestBroker};

fn ms(ms: u64) -> Option<prost_types::Duration> {
    Some(Duration::from_millis(ms).try_into().unwrap())
}

/// A group without order that tries again at once, five times.
fn config() -> GroupConfig {
    GroupConfig {
        ordering: Ordering::None.into(),
        retry: Some(RetryPolicy {
            max_attempts: 5,
            initial_delay: ms(0),
            ..RetryPolicy::default()
        }),
        solo_wait: ms(200),
        ..GroupConfig::default()
    }
}

/// A broker with the topics "in" and "out", and a group "workers" on "in".
async fn broker(partitions: i32, config: GroupConfig) -> (TestBroker, Api) {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", partitions).await;
    api.create_topic("out", 1).await;
    api.create_group("in", "workers", config).await;
    (broker, api)
}

async fn lag(api: &Api) -> i64 {
    let description = api.describe_group("in", "workers").await;
    description.partitions.iter().map(|p| p.lag).sum()
}

/// All dead letters of the group.
async fn dead_letters(api: &Api) -> Vec<DeadLetter> {
    let mut letters = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListDeadLettersRequest {
            topic: "in".to_owned(),
            group: "workers".to_owned(),
            page_size: 1000,
            page_token,
            ..ListDeadLettersRequest::default()
        };
        let page = api.admin.clone().list_dead_letters(request).await.unwrap();
        let page = page.into_inner();
        letters.extend(page.dead_letters);
        if page.next_page_token.is_empty() {
            return letters;
        }
        page_token = page.next_page_token;
    }
}
