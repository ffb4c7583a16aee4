//! The task behind a consumer, on a stream that comes back by itself.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use sluice_proto::pb::{
    self, consume_request::Message as Out, consume_response::Message as In, settlement::Action,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Streaming};

use super::{Arrived, Command, ConsumerBuilder, Lease, LeaseKey, reports::Reports};
use crate::{error::Error, grants::Grants};

/// Bytes that a consumer allows the broker to have under way to it.
const MESSAGE_BYTES_MAX: i32 = 8 << 20;
/// Settlements in one message.
const BATCH_MAX: usize = 1000;

/// A settlement on its way.
struct Settling {
    key: LeaseKey,
    action: Action,
    done: Option<oneshot::Sender<Result<(), Error>>>,
}

/// A drain that has not come to its end.
struct Draining {
    done: oneshot::Sender<pb::IdleReason>,
    /// The request that asks for it on this stream; `None` when it is to be asked
    /// again.
    asked: Option<i64>,
}

/// The task behind a consumer.
pub(super) struct Worker {
    config: ConsumerBuilder,
    grants: Grants,
    /// Leases that are held.
    leases: HashMap<LeaseKey, Arc<Lease>>,
    /// Settlements that were not sent on this stream.
    waiting: Vec<Settling>,
    /// Settlements that were sent, by request.
    unanswered: BTreeMap<i64, Vec<Settling>>,
    /// What workers say of how far they are.
    reports: Reports,
    last_request: i64,
    /// Somebody waits until nothing is left.
    draining: Option<Draining>,
    commanded: mpsc::UnboundedReceiver<Command>,
    deliveries: mpsc::UnboundedSender<Result<Arrived, Error>>,
    leave: CancellationToken,
    joined: Option<oneshot::Sender<Result<(), Error>>>,
}

/// How a stream ended.
enum End {
    Left,
    Lost(Error),
    Fatal(Error),
}

type Requests = mpsc::Sender<pb::ConsumeRequest>;

impl Worker {
    /// `joined` learns how the first join went.
    pub(super) fn new(
        config: ConsumerBuilder,
        commanded: mpsc::UnboundedReceiver<Command>,
        deliveries: mpsc::UnboundedSender<Result<Arrived, Error>>,
        leave: CancellationToken,
        joined: oneshot::Sender<Result<(), Error>>,
    ) -> Self {
        let room = u64::from(config.concurrency) + u64::from(config.prefetch);
        Self {
            config,
            grants: Grants::new(room),
            leases: HashMap::new(),
            waiting: Vec::new(),
            unanswered: BTreeMap::new(),
            reports: Reports::new(Instant::now()),
            last_request: 0,
            draining: None,
            commanded,
            deliveries,
            leave,
            joined: Some(joined),
        }
    }

    /// Is a member until it leaves, or an error cannot pass.
    pub(super) async fn run(mut self) {
        let mut attempt = 0;
        loop {
            match self.stream(&mut attempt).await {
                End::Left => return,
                End::Lost(error) if self.leave.is_cancelled() => {
                    tracing::debug!(%error, "the connection was lost while leaving");
                    return;
                }
                // The first join tells its caller at once.
                End::Lost(error) if self.joined.is_none() => {
                    tracing::info!(
                        %error, topic = self.config.topic, group = self.config.group,
                        "consuming is interrupted; reconnecting"
                    );
                    let backoff = self.config.client.options().backoff;
                    tokio::select! {
                        () = backoff.wait(attempt) => {}
                        () = self.leave.cancelled() => return,
                    }
                    attempt = attempt.saturating_add(1);
                }
                End::Lost(error) | End::Fatal(error) => {
                    match self.joined.take() {
                        Some(joined) => drop(joined.send(Err(error))),
                        None => drop(self.deliveries.send(Err(error))),
                    }
                    return;
                }
            }
        }
    }

    async fn stream(&mut self, attempt: &mut u32) -> End {
        let (requests, mut responses, joined) = match self.join().await {
            Ok(joined) => joined,
            Err(error) if error.is_retryable() => return End::Lost(error),
            Err(error) => return End::Fatal(error),
        };
        *attempt = 0;
        for token in joined.lost {
            self.lose(token.into());
        }
        // What was sent and not answered may or may not have been taken; asking
        // again settles it either way.
        let unanswered = std::mem::take(&mut self.unanswered);
        self.waiting.extend(unanswered.into_values().flatten());
        self.reports.new_stream();
        let said_before = self.leases.values().filter(|lease| lease.say_again());
        said_before.for_each(|lease| self.reports.add(lease.key));
        self.drain_again();
        if let Some(first) = self.joined.take() {
            let _ = first.send(Ok(()));
        }
        let every = joined
            .heartbeat_interval
            .and_then(|interval| Duration::try_from(interval).ok())
            .unwrap_or(Duration::from_secs(10))
            .max(Duration::from_millis(1));
        let mut heartbeat = interval_at(Instant::now() + every, every);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let leave = self.leave.clone();
        loop {
            if let Err(error) = self.send_what_is_due(&requests).await {
                return End::Lost(error);
            }
            let next_reports = self.reports.next();
            tokio::select! {
                biased;
                response = responses.message() => match response {
                    Ok(Some(response)) => self.take_response(response),
                    Ok(None) => return End::Lost(Error::closed("the stream")),
                    Err(status) => {
                        let error = Error::from(status);
                        return if error.is_retryable() { End::Lost(error) } else { End::Fatal(error) };
                    }
                },
                Some(command) = self.commanded.recv() => {
                    self.take_command(command);
                    while let Ok(command) = self.commanded.try_recv() {
                        self.take_command(command);
                    }
                }
                _ = heartbeat.tick() => {
                    let grant = Some(self.grant());
                    let message = Out::Heartbeat(pb::Heartbeat { grant });
                    if let Err(error) = send(&requests, message).await {
                        return End::Lost(error);
                    }
                }
                // They go out when the loop begins anew.
                () = until(next_reports) => {}
                () = leave.cancelled() => return self.say_goodbye(&requests, responses).await,
            }
        }
    }

    async fn join(
        &mut self,
    ) -> Result<(Requests, Streaming<pb::ConsumeResponse>, pb::Joined), Error> {
        let (requests, outgoing) = mpsc::channel(64);
        self.grants.new_stream();
        let join = Out::Join(pb::Join {
            topic: self.config.topic.clone(),
            group: self.config.group.clone(),
            member: self.config.member.clone(),
            grant: Some(self.grant()),
            held: self.leases.keys().map(|key| key.token()).collect(),
            max_message_bytes: MESSAGE_BYTES_MAX,
        });
        send(&requests, join).await?;
        let mut api = self.config.client.consume_api();
        let mut responses = api
            .consume(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        loop {
            let response = responses.message().await?;
            let response = response.ok_or_else(|| Error::closed("the stream"))?;
            match response.message {
                Some(In::Joined(joined)) => return Ok((requests, responses, joined)),
                // A kind of message from a later version.
                None => {}
                Some(_) => {
                    let message = "the broker did not answer the join first";
                    return Err(Error::new(Code::Internal, message));
                }
            }
        }
    }

    fn grant(&mut self) -> pb::Grant {
        pb::Grant {
            max_events: self.grants.limit() as i64,
            // Bounded by the number of handlers.
            max_bytes: 0,
        }
    }

    async fn send_what_is_due(&mut self, requests: &Requests) -> Result<(), Error> {
        while !self.waiting.is_empty() {
            let rest = self.waiting.split_off(self.waiting.len().min(BATCH_MAX));
            let batch = std::mem::replace(&mut self.waiting, rest);
            self.last_request += 1;
            let request_id = self.last_request;
            let settlements = batch.iter().map(|settling| pb::Settlement {
                lease: Some(settling.key.token()),
                action: Some(settling.action.clone()),
            });
            let settlements = settlements.collect();
            self.unanswered.insert(request_id, batch);
            let message = Out::Settle(pb::SettleBatch {
                request_id,
                settlements,
            });
            send(requests, message).await?;
        }
        self.send_reports(requests).await?;
        if self.grants.is_due() {
            let grant = self.grant();
            send(requests, Out::Grant(grant)).await?;
            // There may have been too little credit.
            self.drain_again();
        }
        if let Some(draining) = &mut self.draining
            && draining.asked.is_none()
        {
            self.last_request += 1;
            draining.asked = Some(self.last_request);
            let request_id = self.last_request;
            send(requests, Out::Drain(pb::Drain { request_id })).await?;
        }
        Ok(())
    }

    async fn send_reports(&mut self, requests: &Requests) -> Result<(), Error> {
        let Some(at) = self.reports.next() else {
            return Ok(());
        };
        let now = Instant::now();
        if now < at {
            return Ok(());
        }
        let leases = self.reports.take(now);
        let said = leases.into_iter().filter_map(|key| {
            let report = self.leases.get(&key)?.sent()?;
            Some((key, report))
        });
        let said: Vec<_> = said.collect();
        for batch in said.chunks(BATCH_MAX) {
            self.last_request += 1;
            let request_id = self.last_request;
            let leases = batch.iter().map(|(key, _)| *key).collect();
            self.reports.sent(request_id, leases);
            let settlements = batch.iter().map(|(key, report)| pb::Settlement {
                lease: Some(key.token()),
                action: Some(Action::Extend(report.clone())),
            });
            let message = Out::Settle(pb::SettleBatch {
                request_id,
                settlements: settlements.collect(),
            });
            send(requests, message).await?;
        }
        Ok(())
    }

    fn drain_again(&mut self) {
        if let Some(draining) = &mut self.draining {
            draining.asked = None;
        }
    }

    fn take_drained(&mut self, drained: pb::Drained) {
        let is_it = |draining: &mut Draining| draining.asked == Some(drained.request_id);
        let more_comes = drained.idle() == pb::IdleReason::NoCredit && !self.grants.is_paused();
        // With the next grant, which asks again.
        if !more_comes && let Some(draining) = self.draining.take_if(is_it) {
            let _ = draining.done.send(drained.idle());
        }
    }

    fn take_response(&mut self, response: pb::ConsumeResponse) {
        match response.message {
            Some(In::Deliveries(deliveries)) => {
                for delivery in deliveries.deliveries {
                    self.deliver(delivery);
                }
            }
            Some(In::Settled(settled)) => self.take_settled(settled),
            Some(In::Drained(drained)) => self.take_drained(drained),
            Some(In::LeasesLost(lost)) => {
                for token in lost.leases {
                    self.lose(token.into());
                }
            }
            Some(In::Gap(gap)) => tracing::warn!(
                partition = gap.partition,
                first = gap.first,
                end = gap.end,
                count = gap.event_count,
                "events were dropped before the group had settled them"
            ),
            // Joined comes once; others are of later versions.
            Some(In::Joined(_) | In::Heartbeat(_)) | None => {}
        }
    }

    fn deliver(&mut self, delivery: pb::Delivery) {
        let key = LeaseKey::from(delivery.lease.unwrap_or_default());
        let lease = Arc::new(Lease::new(key));
        self.leases.insert(key, lease.clone());
        self.grants.received();
        let arrived = Arrived { delivery, lease };
        // When nobody reads any more, leaving gives it back.
        let _ = self.deliveries.send(Ok(arrived));
    }

    fn take_settled(&mut self, settled: pb::Settled) {
        let Some(batch) = self.unanswered.remove(&settled.request_id) else {
            self.take_reported(settled);
            return;
        };
        let mut failures: HashMap<i32, Error> = settled
            .failures
            .into_iter()
            .map(|failure| (failure.index, Error::from_message(failure.error)))
            .collect();
        for (index, settling) in (0..).zip(batch) {
            match failures.remove(&index) {
                None => {
                    self.forget(settling.key);
                    answer(settling.done, Ok(()));
                }
                // For example while another settlement of it is on its way.
                Some(error) if error.is_retryable() => self.waiting.push(settling),
                Some(error) => {
                    self.lose(settling.key);
                    answer(settling.done, Err(error));
                }
            }
        }
    }

    /// Reports that were not taken are not sent again.
    fn take_reported(&mut self, settled: pb::Settled) {
        let leases = self.reports.answered(settled.request_id);
        let leases = leases.unwrap_or_default();
        for failure in settled.failures {
            let error = Error::from_message(failure.error);
            let index = usize::try_from(failure.index).ok();
            let key = index.and_then(|index| leases.get(index)).copied();
            let held = key.and_then(|key| self.leases.get(&key));
            match held {
                // One that is being settled is answered for by its settlement.
                Some(lease) if error.is_lease_lost() && !lease.has_ended() => {
                    self.lose(lease.key);
                }
                _ => tracing::debug!(%error, "a report was not taken"),
            }
        }
    }

    fn take_command(&mut self, command: Command) {
        match command {
            Command::Settle { key, action, done } => {
                self.waiting.push(Settling { key, action, done })
            }
            Command::Forget { key } => self.forget(key),
            Command::Report { key } if self.leases.contains_key(&key) => self.reports.add(key),
            // It was lost, or has served.
            Command::Report { .. } => {}
            Command::Pause { paused } => self.grants.set_paused(paused),
            Command::Drain { done } => {
                let asked = None;
                self.draining = Some(Draining { done, asked });
            }
        }
    }

    /// The lease is somebody else's.
    fn lose(&mut self, key: LeaseKey) {
        if let Some(lease) = self.leases.remove(&key) {
            lease.lost.cancel();
            self.reports.remove(key);
            self.grants.settled();
        }
    }

    /// The lease has served.
    fn forget(&mut self, key: LeaseKey) {
        if self.leases.remove(&key).is_some() {
            self.reports.remove(key);
            self.grants.settled();
        }
    }

    /// Sends what was settled, and leaves; the broker ends the stream.
    async fn say_goodbye(
        &mut self,
        requests: &Requests,
        mut responses: Streaming<pb::ConsumeResponse>,
    ) -> End {
        while let Ok(command) = self.commanded.try_recv() {
            self.take_command(command);
        }
        let goodbye = async {
            self.send_what_is_due(requests).await?;
            send(requests, Out::Leave(pb::Leave {})).await
        };
        if let Err(error) = goodbye.await {
            return End::Lost(error);
        }
        loop {
            match responses.message().await {
                Ok(Some(response)) => {
                    if let Some(In::Settled(settled)) = response.message {
                        self.take_settled(settled);
                    }
                }
                Ok(None) => return End::Left,
                Err(status) => return End::Lost(status.into()),
            }
        }
    }
}

/// Never, without a time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn send(requests: &Requests, message: Out) -> Result<(), Error> {
    let request = pb::ConsumeRequest {
        message: Some(message),
    };
    let sent = requests.send(request).await;
    sent.map_err(|_| Error::closed("the stream"))
}

fn answer(done: Option<oneshot::Sender<Result<(), Error>>>, result: Result<(), Error>) {
    match (done, result) {
        (Some(done), result) => drop(done.send(result)),
        (None, Err(error)) => tracing::debug!(%error, "a dropped delivery was not given back"),
        (None, Ok(())) => {}
    }
}
