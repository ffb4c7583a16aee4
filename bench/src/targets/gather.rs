//! Batches that wait while requests are under way, and go together in the next: as
//! clients do that are told not to linger.

use std::{future::Future, sync::Arc};

use anyhow::Context;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::load::target::Acked;

/// Batches that wait, beyond which whoever gives one waits as well.
const QUEUE: usize = 1024;

/// How much goes at a time.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Requests under way.
    pub(super) under_way: usize,
    /// Bytes of one request, unless a single batch has more.
    pub(super) bytes: usize,
}

/// Where batches of records are given to be sent.
pub(super) struct Gather<R> {
    queue: mpsc::Sender<Batch<R>>,
}

struct Batch<R> {
    records: Vec<R>,
    bytes: usize,
    acked: oneshot::Sender<anyhow::Result<()>>,
}

impl<R: Send + 'static> Gather<R> {
    /// Sends them by `request`, which is done when they are acked.
    pub(super) fn new<F>(limits: Limits, request: impl Fn(Vec<R>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(send_all(limits, waiting, request));
        Self { queue }
    }

    /// Gives a batch of so many bytes.
    pub(super) async fn send(&self, records: Vec<R>, bytes: usize) -> anyhow::Result<Acked> {
        let (acked, ack) = oneshot::channel();
        let batch = Batch {
            records,
            bytes,
            acked,
        };
        let sent = self.queue.send(batch).await;
        sent.ok().context("the producer has ended")?;
        Ok(Box::pin(async move {
            ack.await.context("the producer has ended")?
        }))
    }
}

async fn send_all<R, F>(
    limits: Limits,
    mut waiting: mpsc::Receiver<Batch<R>>,
    request: impl Fn(Vec<R>) -> F,
) where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let under_way = Arc::new(Semaphore::new(limits.under_way));
    let mut next = waiting.recv().await;
    while let Some(first) = next.take() {
        let Ok(permit) = under_way.clone().acquire_owned().await else {
            return;
        };
        let (mut records, mut bytes) = (first.records, first.bytes);
        let mut acks = vec![first.acked];
        while let Ok(more) = waiting.try_recv() {
            if bytes + more.bytes > limits.bytes {
                next = Some(more);
                break;
            }
            bytes += more.bytes;
            records.extend(more.records);
            acks.push(more.acked);
        }
        let done = request(records);
        tokio::spawn(async move {
            let result = done.await;
            drop(permit);
            for acked in acks {
                let result = match &result {
                    Ok(()) => Ok(()),
                    Err(error) => Err(anyhow::anyhow!("{error:#}")),
                };
                // Whoever does not wait any more has ended its load.
                let _ = acked.send(result);
            }
        });
        if next.is_none() {
            next = waiting.recv().await;
        }
    }
}
