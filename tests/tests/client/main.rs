//! The Rust client against the real broker: what its documentation promises,
//! also when the connection or the broker goes away.

#![allow(clippy::unwrap_used)]

mod admin;
mod consumer;
mod credit;
mod examples;
mod producer;
mod progress;
mod read;
mod restarts;
mod stage;

use std::time::Duration;

use sluice_client::{Client, Event, GroupOptions, pb};
use sluice_tests::{broker::TestBroker, proxy::Proxy};

/// A broker, a way to it that can be cut, and a client on that way.
struct Setting {
    broker: TestBroker,
    proxy: Proxy,
    client: Client,
}

impl Setting {
    async fn new() -> Self {
        Self::with_limits(&[]).await
    }

    /// A broker with other limits, each as `NAME=VALUE`.
    async fn with_limits(limits: &[&str]) -> Self {
        let args: Vec<_> = limits.iter().flat_map(|limit| ["--limit", limit]).collect();
        let broker = TestBroker::start_with(&args);
        let proxy = Proxy::to(&broker).await;
        let client = Client::connect(&proxy.url()).await.unwrap();
        Self {
            broker,
            proxy,
            client,
        }
    }

    async fn topic(&self, topic: &str) {
        assert!(self.client.admin().create_topic(topic, 2).await.unwrap());
    }

    async fn group(&self, topic: &str, group: &str, options: GroupOptions) {
        let admin = self.client.admin();
        assert!(admin.create_group(topic, group, options).await.unwrap());
    }

    fn kill_and_restart(&mut self) {
        self.broker.restart();
        self.proxy.cut(&self.broker);
    }

    /// A client on another way, which is not cut.
    async fn other_client(&self) -> Client {
        Client::connect(self.broker.url()).await.unwrap()
    }

    async fn describe(&self, topic: &str, group: &str) -> pb::DescribeGroupResponse {
        let described = self.client.admin().describe_group(topic, group).await;
        described.unwrap()
    }
}

fn event(id: &str) -> Event {
    Event::new("/test", "test.made").with_id(id)
}

/// Retries at once. A lease runs out only under a worker that is gone.
fn patient() -> GroupOptions {
    GroupOptions::default().retry_delay(Duration::ZERO, Duration::ZERO)
}

/// As [`patient`], with leases that run out soon, for tests in which nothing
/// depends on how often they do.
fn quick() -> GroupOptions {
    patient().lease(Duration::from_millis(500))
}
