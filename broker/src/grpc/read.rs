//! Read: a topic from a position, without a group.

use std::sync::Arc;

use sluice_proto::{Offset, PartitionId, event::EventRef, wire, wire::read_start::At};
use tokio::sync::mpsc;
use tonic::Status;

use super::{api::Api, authorize::Action, convert, events, filters, refusal::Refusal};
use crate::{
    commit::{Page, PageLimits, Topic},
    filter::{EvaluationError, Filter},
    group::turn_to_filter,
};

const PAGE: PageLimits = PageLimits {
    events: 1000,
    bytes: 512 << 10,
};

/// A read that is under way.
struct Reading {
    api: Arc<Api>,
    topic: Arc<Topic>,
    filter: Option<Filter>,
    cursors: Vec<Cursor>,
    follow: bool,
    /// Events that may still be sent; `None` for no bound.
    left: Option<u64>,
}

struct Cursor {
    partition: PartitionId,
    next: Offset,
    /// Where the partition ended when the call began.
    end: Offset,
}

type Responses = mpsc::Sender<Result<wire::ReadResponse, Status>>;

/// Checks a request, and starts to answer it.
pub(super) async fn start(
    api: Arc<Api>,
    request: wire::ReadRequest,
) -> Result<mpsc::Receiver<Result<wire::ReadResponse, Status>>, Refusal> {
    let topic = api.topic(Action::Read, &request.topic)?;
    let filter = filters::compile("filter", request.filter, request.filters).await?;
    let filter = filter.filter;
    let max_events = convert::count("max_events", request.max_events)?;
    let partitions = chosen_partitions(&topic, &request.partitions)?;
    let epoch = convert::count("start.epoch", request.start.map_or(0, |start| start.epoch))?;
    let start = request.start.and_then(|start| start.at);
    let mut cursors = Vec::with_capacity(partitions.len());
    for partition in partitions {
        if let Some(At::Offset(offset)) = start {
            let offset = convert::count("start.offset", offset)?;
            check_epoch(&api, &topic, partition, offset, epoch)?;
        }
        let next = start_offset(&api, &topic, partition, start, "start").await?;
        let end = visible_end(&topic, partition);
        cursors.push(Cursor {
            partition,
            next,
            end,
        });
    }
    // While one page is sent the next is read.
    let (responses, stream) = mpsc::channel(1);
    let reading = Reading {
        api,
        topic,
        filter,
        cursors,
        follow: request.follow,
        left: Some(max_events).filter(|max| *max > 0),
    };
    tokio::spawn(reading.run(responses));
    Ok(stream)
}

fn chosen_partitions(topic: &Topic, given: &[i32]) -> Result<Vec<PartitionId>, Refusal> {
    if given.is_empty() {
        let all = topic.partitions.iter();
        return Ok(all.map(|partition| partition.source.partition).collect());
    }
    let mut chosen = Vec::with_capacity(given.len().min(topic.partitions.len()));
    for (at, given) in given.iter().enumerate() {
        let field = format!("partitions[{at}]");
        let id = events::existing_partition(&field, topic, *given)?;
        if chosen.contains(&id) {
            return Err(Refusal::field(field, "the partition occurs before"));
        }
        chosen.push(id);
    }
    Ok(chosen)
}

pub(super) fn visible_end(topic: &Topic, partition: PartitionId) -> Offset {
    let of = topic.partition(partition);
    of.map_or(Offset(0), crate::commit::Partition::visible_end)
}

/// Refuses a position that was told before the topic lost events below it.
fn check_epoch(
    api: &Api,
    topic: &Topic,
    id: PartitionId,
    offset: u64,
    epoch: u64,
) -> Result<(), Refusal> {
    let Some(partition) = topic.partition(id) else {
        return Ok(());
    };
    if epoch == 0 || api.store.holds(partition, epoch, Offset(offset)) {
        return Ok(());
    }
    let there = partition.start_offset().0..partition.visible_end().0;
    let (given, now) = ((offset, epoch), (api.store.epoch(), there));
    Err(Refusal::position_lost("start.offset", given, now))
}

/// Where in a partition a start is. `field` is the request's field that has it.
pub(super) async fn start_offset(
    api: &Arc<Api>,
    topic: &Arc<Topic>,
    partition: PartitionId,
    start: Option<At>,
    field: &str,
) -> Result<Offset, Refusal> {
    let end = visible_end(topic, partition);
    let earliest = topic
        .partition(partition)
        .map_or(Offset(0), crate::commit::Partition::start_offset);
    match start {
        None | Some(At::Earliest(_)) => Ok(earliest),
        Some(At::Latest(_)) => Ok(end),
        Some(At::Offset(given)) => {
            let field = format!("{field}.offset");
            let offset = convert::count(&field, given)?;
            if offset > end.0 {
                return Err(Refusal::out_of_range(&field, offset, end.0));
            }
            Ok(Offset(offset).max(earliest))
        }
        Some(At::Time(time)) => {
            let time_ms = convert::ms_of_time(&format!("{field}.time"), time)?;
            let (api, topic) = (api.clone(), topic.clone());
            let found = tokio::task::spawn_blocking(move || match topic.partition(partition) {
                Some(partition) => api.store.offset_at_time(partition, time_ms),
                None => Ok(Offset(0)),
            });
            Ok(found.await.map_err(Refusal::internal)??)
        }
    }
}

impl Reading {
    async fn run(mut self, responses: Responses) {
        let stopping = self.api.stopping.clone();
        let result = tokio::select! {
            result = self.read(&responses) => result,
            () = stopping.cancelled() => Err(Refusal::shutting_down()),
            () = responses.closed() => return,
        };
        if let Err(refusal) = result {
            let _ = responses.send(Err(refusal.into())).await;
        }
    }

    async fn read(&mut self, responses: &Responses) -> Result<(), Refusal> {
        let mut changes = self.topic.changes();
        loop {
            let mut found_any = false;
            for at in 0..self.cursors.len() {
                let cursor = &self.cursors[at];
                let end = if self.follow {
                    visible_end(&self.topic, cursor.partition)
                } else {
                    cursor.end
                };
                if cursor.next >= end {
                    continue;
                }
                found_any = true;
                let response = self.page(at, end).await?;
                let sent = response.events.len() as u64;
                if sent > 0 && responses.send(Ok(response)).await.is_err() {
                    return Ok(());
                }
                if let Some(left) = &mut self.left {
                    *left -= sent;
                    if *left == 0 {
                        return Ok(());
                    }
                }
            }
            if !found_any {
                if !self.follow {
                    return Ok(());
                }
                let catalog = self.api.proposals.catalog();
                let gone = catalog.topic_by_id(self.topic.id).is_none();
                if gone || changes.changed().await.is_err() {
                    return Err(Refusal::unknown_topic(self.topic.name.as_str()));
                }
            }
        }
    }

    /// Reads and filters the next page of a cursor.
    async fn page(&mut self, at: usize, end: Offset) -> Result<wire::ReadResponse, Refusal> {
        let Cursor {
            partition, next, ..
        } = self.cursors[at];
        let page = PageOf {
            api: self.api.clone(),
            topic: self.topic.clone(),
            partition,
            from: next,
            end,
            filter: self.filter.clone(),
            left: self.left.unwrap_or(u64::MAX),
        };
        let (response, next) = match page.cached() {
            Some(found) => found?,
            None => page.beside().await?,
        };
        self.cursors[at].next = next;
        Ok(response)
    }
}

/// A page that is to be read.
struct PageOf {
    api: Arc<Api>,
    topic: Arc<Topic>,
    partition: PartitionId,
    from: Offset,
    /// It ends there, if not before.
    end: Offset,
    filter: Option<Filter>,
    /// Events that may still be sent.
    left: u64,
}

/// What a page holds for the reader, and where the next one begins.
type Found = Result<(wire::ReadResponse, Offset), Refusal>;

impl PageOf {
    /// Reads and filters it if that takes neither the disk nor much time.
    fn cached(&self) -> Option<Found> {
        let is_cheap = self.filter.as_ref().is_none_or(Filter::is_cheap);
        let of = self.topic.partition(self.partition).filter(|_| is_cheap)?;
        match self.api.store.read_cached(of, self.from, PAGE) {
            Ok(Some(page)) => Some(self.sift(page)),
            Ok(None) => None,
            // What is damaged in memory is looked for on the disk.
            Err(_) => None,
        }
    }

    /// Reads and filters it on a thread for that, when it is its turn.
    async fn beside(self) -> Found {
        let lagging = match self.topic.partition(self.partition) {
            Some(of) => Some(self.api.store.turn(of, self.from).await),
            None => None,
        };
        let turn = match self.filter {
            Some(_) => turn_to_filter().await,
            None => None,
        };
        let work = tokio::task::spawn_blocking(move || {
            let page = match self.topic.partition(self.partition) {
                Some(of) => self.api.store.read(of, self.from, PAGE)?,
                None => Page::default(),
            };
            self.sift(page)
        });
        let work = work.await;
        drop((turn, lagging));
        work.map_err(Refusal::internal)?
    }

    /// The events that match. What cannot be judged does not match, but a filter
    /// that takes too many steps ends the read at that event.
    fn sift(&self, page: Page) -> Found {
        let of = self.topic.partition(self.partition);
        let epoch_of = |offset| of.and_then(|of| self.api.store.epoch_of(of, offset));
        let mut events = Vec::new();
        let mut next = page.next.min(self.end);
        for stored in page.events {
            if stored.offset >= self.end || events.len() as u64 == self.left {
                next = stored.offset;
                break;
            }
            let judged = self.filter.as_ref().map_or(Ok(true), |filter| {
                let event = EventRef::read(&stored.event);
                event.map_or(Ok(false), |event| filter.matches(&event))
            });
            let matches = match judged {
                Ok(matches) => matches,
                Err(EvaluationError::OverBudget) if events.is_empty() => {
                    return Err(Refusal::filter_overran(self.partition, stored.offset));
                }
                // What was found before goes out first; the next page begins here.
                Err(EvaluationError::OverBudget) => {
                    next = stored.offset;
                    break;
                }
                Err(_) => false,
            };
            if matches {
                events.push(wire::ReadEvent {
                    partition: self.partition.0 as i32,
                    offset: stored.offset.0 as i64,
                    append_time: Some(convert::time_ms(stored.append_time_ms)),
                    dead_letter: convert::dead_letter_history(&stored),
                    event: stored.event,
                    epoch: epoch_of(stored.offset).unwrap_or(0) as i64,
                });
            }
        }
        Ok((wire::ReadResponse { events }, next))
    }
}
