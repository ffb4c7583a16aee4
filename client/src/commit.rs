//! Commits: acks and outputs in one step, safe to send again.

use std::sync::{Mutex, PoisonError};

use sluice_proto::pb::{self, ErrorReason};
use tokio::sync::{Mutex as AsyncMutex, Notify};

use crate::{client::Client, error::Error, sequence::Sequence};

/// A producer session for commits.
#[derive(Debug)]
pub(crate) struct Committer {
    client: Client,
    /// Outputs may go to memory topics.
    allow_volatile: bool,
    session: AsyncMutex<Option<std::sync::Arc<Session>>>,
}

#[derive(Debug)]
struct Session {
    producer_id: i64,
    producer_epoch: i64,
    sequence: Mutex<Sequence>,
    freed: Notify,
}

impl Committer {
    pub(crate) fn new(client: Client, allow_volatile: bool) -> Self {
        Self {
            client,
            allow_volatile,
            session: AsyncMutex::new(None),
        }
    }

    /// Commits once, however often it has to be sent.
    pub(crate) async fn commit(
        &self,
        inputs: Vec<pb::CommitInput>,
        outputs: Vec<pb::CommitOutput>,
    ) -> Result<pb::CommitResponse, Error> {
        let session = self.session().await?;
        let number = session.take().await;
        let request = pb::CommitRequest {
            inputs,
            outputs,
            producer: Some(pb::ProducerSequence {
                producer_id: session.producer_id,
                producer_epoch: session.producer_epoch,
                sequence: number as i64,
            }),
            allow_volatile: self.allow_volatile,
        };
        let api = self.client.publish_api();
        let result = self
            .client
            .retrying(|| {
                let mut api = api.clone();
                let request = request.clone();
                async move { Ok(api.commit(request).await?.into_inner()) }
            })
            .await;
        match &result {
            Err(error) if !error.is_retryable() => {
                session.free(number, Sequence::refused);
                if matches!(
                    error.reason(),
                    ErrorReason::UnknownProducer | ErrorReason::ProducerFenced
                ) {
                    *self.session.lock().await = None;
                }
            }
            _ => session.free(number, Sequence::done),
        }
        result
    }

    async fn session(&self) -> Result<std::sync::Arc<Session>, Error> {
        let mut session = self.session.lock().await;
        if let Some(open) = &*session {
            return Ok(open.clone());
        }
        let api = self.client.publish_api();
        let opened = self
            .client
            .retrying(|| {
                let mut api = api.clone();
                let request = pb::OpenProducerRequest::default();
                async move { Ok(api.open_producer(request).await?.into_inner()) }
            })
            .await?;
        let span = u64::try_from(opened.max_in_flight).unwrap_or(1);
        let open = std::sync::Arc::new(Session {
            producer_id: opened.producer_id,
            producer_epoch: opened.producer_epoch,
            sequence: Mutex::new(Sequence::new(span)),
            freed: Notify::new(),
        });
        *session = Some(open.clone());
        Ok(open)
    }
}

impl Session {
    async fn take(&self) -> u64 {
        loop {
            let freed = self.freed.notified();
            if let Some(number) = self.lock().take() {
                return number;
            }
            freed.await;
        }
    }

    fn free(&self, number: u64, how: fn(&mut Sequence, u64)) {
        how(&mut self.lock(), number);
        self.freed.notify_waiters();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sequence> {
        // Nothing that runs under this lock panics.
        self.sequence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
