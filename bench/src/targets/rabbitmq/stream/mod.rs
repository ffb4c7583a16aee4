//! RabbitMQ streams over their own protocol, which their documentation says is the
//! fastest way to them (<https://www.rabbitmq.com/docs/streams>): publishing with
//! confirms, which come when an event is with the operating system, and reading by
//! chunks with offsets that the server keeps.
//!
//! The protocol is spoken here, and not by a crate: the Rust client asks for command
//! versions, at which servers before 3.11 hang up, and hands what comes to a task
//! for each message.

mod connection;
mod protocol;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;

use self::{
    connection::{Connection, Receiver, Sender},
    protocol::{Came, Command, Key, MESSAGE_OVERHEAD},
};
use super::{Server, until_it_is_there, version};
use crate::load::{
    target::{Acked, Consumer, Message, Producer, Target},
    workload::Spec,
};

/// Chunks that the server sends ahead, as in its Java client.
const CREDIT: u16 = 10;
/// They are told apart by a byte.
const PUBLISHERS_OF_A_CONNECTION: usize = 256;
/// Events after which a reader tells how far it is.
const EVENTS_PER_OFFSET: usize = 1000;

/// A node with a stream for each topic.
pub(crate) struct Streams {
    server: Server,
    settings: String,
}

impl Streams {
    pub(crate) fn start(dir: tempfile::TempDir) -> anyhow::Result<Self> {
        let version = version().unwrap_or_default();
        Ok(Self {
            server: Server::start(dir, super::Protocol::Stream)?,
            settings: format!(
                "RabbitMQ {version}, stream of one node over the stream protocol, \
                 {CREDIT} chunks ahead, an offset kept every {EVENTS_PER_OFFSET} events"
            ),
        })
    }

    async fn connect(&self) -> anyhow::Result<Connection> {
        Connection::open(self.server.port).await
    }
}

#[async_trait]
impl Target for Streams {
    fn settings(&self) -> &str {
        &self.settings
    }

    fn pid(&self) -> Option<u32> {
        Some(self.server.node.pid())
    }

    async fn create(&self, topics: &[String], _: &Spec) -> anyhow::Result<()> {
        let mut connection = until_it_is_there(|| self.connect()).await?;
        for topic in topics {
            let no_arguments = 0;
            connection
                .request(Key::Create, |request| request.text(topic).u32(no_arguments))
                .await?;
        }
        Ok(())
    }

    async fn remove(&self, topics: &[String], _: &Spec) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        for topic in topics {
            connection
                .request(Key::Delete, |request| request.text(topic))
                .await?;
        }
        Ok(())
    }

    async fn restart(&self) -> anyhow::Result<Instant> {
        self.server.node.restart()
    }

    async fn producer(&self, topics: &[String], _: &Spec) -> anyhow::Result<Box<dyn Producer>> {
        let mut connections = Vec::new();
        for topics in topics.chunks(PUBLISHERS_OF_A_CONNECTION) {
            let Connection { sender, receiver } = until_it_is_there(async || {
                let mut connection = self.connect().await?;
                for (number, topic) in topics.iter().enumerate() {
                    connection
                        .request(Key::DeclarePublisher, |request| {
                            request.u8(number as u8).text("").text(topic)
                        })
                        .await?;
                }
                Ok(connection)
            })
            .await?;
            let unconfirmed = Arc::<Unconfirmed>::default();
            tokio::spawn(confirm(receiver, unconfirmed.clone()));
            connections.push(Publishing {
                sender,
                unconfirmed,
                last_number: 0,
            });
        }
        Ok(Box::new(Publisher { connections }))
    }

    async fn consumer(
        &self,
        topic: &str,
        group: usize,
        _: &Spec,
    ) -> anyhow::Result<Box<dyn Consumer>> {
        let Connection { sender, receiver } = until_it_is_there(async || {
            let mut connection = self.connect().await?;
            let (subscription, from_the_first, no_properties) = (0, 1, 0);
            connection
                .request(Key::Subscribe, |request| {
                    request
                        .u8(subscription)
                        .text(topic)
                        .u16(from_the_first)
                        .u16(CREDIT)
                        .u32(no_properties)
                })
                .await?;
            Ok(connection)
        })
        .await?;
        Ok(Box::new(Reader {
            topic: topic.to_owned(),
            group: format!("group-{group}"),
            sender,
            receiver,
            chunk_is_read: false,
            next: 0,
            kept: 0,
        }))
    }
}

/// Batches that wait for their confirms, in the order of their numbers.
#[derive(Default)]
struct Unconfirmed(Mutex<VecDeque<Batch>>);

struct Batch {
    /// After the last number of its messages.
    end: u64,
    /// Messages that are not confirmed.
    rest: usize,
    acked: Option<oneshot::Sender<()>>,
}

impl Unconfirmed {
    fn push(&self, batch: Batch) {
        let mut batches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        batches.push_back(batch);
    }

    fn confirm(&self, numbers: &[u64]) {
        let mut batches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for number in numbers {
            let at = batches.partition_point(|batch| batch.end <= *number);
            let Some(batch) = batches.get_mut(at) else {
                continue;
            };
            batch.rest = batch.rest.saturating_sub(1);
            if batch.rest == 0
                && let Some(acked) = batch.acked.take()
            {
                // Whoever does not wait any more has ended its load.
                let _ = acked.send(());
            }
        }
        while batches.front().is_some_and(|batch| batch.rest == 0) {
            batches.pop_front();
        }
    }
}

/// Takes confirms until the connection ends, and with it all who wait.
async fn confirm(mut receiver: Receiver, unconfirmed: Arc<Unconfirmed>) {
    while let Ok(came) = receiver.next().await {
        if let Came::Confirmed(numbers) = came {
            unconfirmed.confirm(&numbers);
        }
    }
    let mut batches = unconfirmed.0.lock().unwrap_or_else(PoisonError::into_inner);
    batches.clear();
}

/// A producer, which has as many connections as its streams need.
struct Publisher {
    connections: Vec<Publishing>,
}

/// A connection on which events are published.
struct Publishing {
    sender: Sender,
    unconfirmed: Arc<Unconfirmed>,
    last_number: u64,
}

impl Publishing {
    /// As many of the messages as one command takes, at least one.
    fn command(&mut self, topic: u8, messages: &mut std::vec::IntoIter<Message>) -> Command {
        let mut room = self.sender.longest - 64;
        let fitting = messages.as_slice().iter().take_while(|message| {
            let size = message.payload.len() + MESSAGE_OVERHEAD;
            let fits = size <= room;
            room = room.saturating_sub(size);
            fits
        });
        let count = fitting.count().max(1);
        let mut command = Command::new(Key::Publish).u8(topic).u32(count as u32);
        for message in messages.by_ref().take(count) {
            self.last_number += 1;
            command = command.message(self.last_number, &message.payload);
        }
        command
    }

    async fn send(&mut self, topic: u8, batch: Vec<Message>) -> anyhow::Result<Acked> {
        let (acked, ack) = oneshot::channel();
        self.unconfirmed.push(Batch {
            end: self.last_number + batch.len() as u64 + 1,
            rest: batch.len(),
            acked: Some(acked),
        });
        let mut messages = batch.into_iter();
        while !messages.as_slice().is_empty() {
            let command = self.command(topic, &mut messages);
            self.sender.send(command).await?;
        }
        Ok(Box::pin(async move {
            ack.await.context("the connection ended before the confirm")
        }))
    }
}

#[async_trait]
impl Producer for Publisher {
    async fn send(&mut self, topic: usize, batch: Vec<Message>) -> anyhow::Result<Acked> {
        let connection = &mut self.connections[topic / PUBLISHERS_OF_A_CONNECTION];
        let publisher = (topic % PUBLISHERS_OF_A_CONNECTION) as u8;
        connection.send(publisher, batch).await
    }
}

struct Reader {
    topic: String,
    group: String,
    sender: Sender,
    receiver: Receiver,
    /// Whether a chunk was handed on, for which there is credit again.
    chunk_is_read: bool,
    /// The offset that comes next, and the one up to which the server knows.
    next: u64,
    kept: u64,
}

impl Reader {
    async fn keep_offset(&mut self) -> anyhow::Result<()> {
        if self.next > self.kept {
            let store = Command::new(Key::StoreOffset)
                .text(&self.group)
                .text(&self.topic)
                .u64(self.next - 1);
            self.sender.send(store).await?;
            self.kept = self.next;
        }
        Ok(())
    }
}

#[async_trait]
impl Consumer for Reader {
    async fn next(&mut self) -> anyhow::Result<Vec<Bytes>> {
        if self.next - self.kept >= EVENTS_PER_OFFSET as u64 {
            self.keep_offset().await?;
        }
        loop {
            if std::mem::take(&mut self.chunk_is_read) {
                let (subscription, chunks) = (0, 1);
                let credit = Command::new(Key::Credit).u8(subscription).u16(chunks);
                self.sender.send(credit).await?;
            }
            let Came::Chunk(first, payloads) = self.receiver.next().await? else {
                continue;
            };
            self.chunk_is_read = true;
            if !payloads.is_empty() {
                self.next = first + payloads.len() as u64;
                return Ok(payloads);
            }
        }
    }

    async fn finish(&mut self) -> anyhow::Result<()> {
        self.keep_offset().await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_acked_when_all_its_messages_are_confirmed_in_any_order() {
        let unconfirmed = Unconfirmed::default();
        let mut acks = Vec::new();
        for (end, rest) in [(4, 3), (5, 1), (7, 2)] {
            let (acked, ack) = oneshot::channel();
            acks.push(ack);
            unconfirmed.push(Batch {
                end,
                rest,
                acked: Some(acked),
            });
        }
        let mut acked = |numbers: &[u64]| {
            unconfirmed.confirm(numbers);
            let each = acks.iter_mut().map(|ack| ack.try_recv().is_ok());
            each.collect::<Vec<_>>()
        };
        assert_eq!(acked(&[1, 3]), [false; 3]);
        assert_eq!(acked(&[4]), [false, true, false]);
        assert_eq!(acked(&[2, 6]), [true, false, false]);
        assert_eq!(acked(&[5]), [false, false, true]);
        assert!(unconfirmed.0.lock().unwrap().is_empty());
    }
}
