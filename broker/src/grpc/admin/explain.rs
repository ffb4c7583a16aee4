//! What a filter would do, and why an event reached a group or did not.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sluice_proto::{Offset, PartitionId, event::EventRef, wire};

use crate::{
    commit::{Page, PageLimits, StoredEvent, Topic},
    filter::{Counters, EvaluationError, Filter, TermExplanation, Verdict},
    group::{DeadLetterNote, EventStanding},
    grpc::{
        api::Api, authorize::Action, convert, events, filters, read::visible_end, refusal::Refusal,
    },
};

/// Events that a test tries unless it says how many, and at most.
const LAST_DEFAULT: usize = 10_000;
const LAST_MAX: usize = 100_000;
/// How long a test may take.
const TEST_MAX: Duration = Duration::from_secs(10);
/// Matches, and others, that a test shows.
const SAMPLES_MAX: usize = 10;
/// The newest dead letters among which an event is looked for.
const LETTERS_SEARCHED_MAX: u64 = 10_000;
const PAGE: PageLimits = PageLimits {
    events: 1000,
    bytes: 1 << 20,
};

impl Api {
    pub(in crate::grpc) async fn test_filter(
        self: &Arc<Self>,
        request: wire::TestFilterRequest,
    ) -> Result<wire::TestFilterResponse, Refusal> {
        let topic = self.topic(Action::Read, &request.topic)?;
        let last = convert::count_or("last", request.last, LAST_DEFAULT, LAST_MAX)?;
        let asked = filters::compile("filter", request.filter, request.filters).await?;
        let api = self.clone();
        let test = tokio::task::spawn_blocking(move || {
            let filter = asked.filter.unwrap_or_else(|| Filter::of(Vec::new()));
            Test::default().run(&api, &topic, last as u64, &filter)
        });
        test.await.map_err(Refusal::internal)?
    }

    pub(in crate::grpc) async fn explain_event(
        self: &Arc<Self>,
        request: wire::ExplainEventRequest,
    ) -> Result<wire::ExplainEventResponse, Refusal> {
        let handle = self.group(Action::Read, &request.topic, &request.group)?;
        // The handle has the group as it was when it started.
        let group = self.group_definition(Action::Read, &request.topic, &request.group)?;
        let partition = events::existing_partition("partition", &group.topic, request.partition)?;
        let offset = Offset(convert::count("offset", request.offset)?);
        let end = visible_end(&group.topic, partition);
        if offset >= end {
            return Err(Refusal::out_of_range("offset", offset.0, end.0));
        }
        let standing = handle.explain(partition, offset).await;
        let standing = standing.map_err(|_| Refusal::group_gone())?;
        let mut resolved = None;
        if standing == EventStanding::Settled {
            let window = handle.resolved_dead_letters().await;
            resolved = Some(window.map_err(|_| Refusal::group_gone())?);
        }

        let api = self.clone();
        let explained = tokio::task::spawn_blocking(move || {
            let config = &group.config;
            let filter = Filter::of_definition(&config.filter, &config.dialects)
                .map_err(|error| Refusal::bad_filter("filter", &error))?;
            let stored = api.event_at(&group.topic, partition, offset)?;
            if stored.is_none() && standing.is_parked() {
                // The group has it all the same.
                return Ok((response_of(&standing), None));
            }
            let Some(stored) = stored else {
                let gone = wire::ExplainEventResponse {
                    state: wire::EventState::Gone.into(),
                    detail: "the topic does not have it any more".into(),
                    ..Default::default()
                };
                return Ok((gone, None));
            };
            let (matches, terms) = judge(filter.as_ref(), &stored);
            let mut response = response_of(&standing);
            response.matches = matches;
            response.terms = terms.into_iter().map(wire_term).collect();
            let Some(resolved) = resolved else {
                return Ok((response, None));
            };
            let letters = visible_end(&group.dead_letters, PartitionId(0)).0;
            let mut redriven = None;
            let start = group.start.get(partition.0 as usize);
            if start.is_some_and(|start| offset < *start) {
                response.state = wire::EventState::BeforeStart.into();
                response.detail = "the group began after it".into();
            } else if !matches {
                response.state = wire::EventState::Filtered.into();
                response.detail = "the filter does not match it".into();
            } else if letters > 0 {
                redriven = api.newest_copy(&group.parking, partition, offset)?;
                let letter = api.newest_copy(&group.dead_letters, partition, offset)?;
                match letter {
                    Some(letter) if resolved.is_settled(letter) => {
                        response.detail = format!(
                            "it was a dead letter, and was purged, or was redriven and is done, \
                             or waits further back than the newest {LETTERS_SEARCHED_MAX}"
                        );
                    }
                    Some(letter) => {
                        response.state = wire::EventState::DeadLettered.into();
                        response.detail =
                            format!("it is in the dead letters at offset {}", letter.0);
                        response.dead_letter_offset = Some(letter.0 as i64);
                    }
                    None if letters > LETTERS_SEARCHED_MAX => {
                        response.detail = format!(
                            "it is done, or a dead letter older than the newest \
                             {LETTERS_SEARCHED_MAX}"
                        );
                    }
                    None => {}
                }
            }
            Ok::<_, Refusal>((response, redriven))
        });
        let (mut response, redriven) = explained.await.map_err(Refusal::internal)??;
        if let Some(at) = redriven {
            let standing = handle.explain_redriven(at).await;
            let standing = standing.map_err(|_| Refusal::group_gone())?;
            if standing != EventStanding::Settled {
                let of = response_of(&standing);
                response.detail = format!("it was redriven: {}", of.detail);
                response.state = of.state;
                response.attempt = of.attempt;
                response.member = of.member;
            }
        }
        Ok(response)
    }

    /// One event, if it is still there. May take a while.
    fn event_at(
        &self,
        topic: &Topic,
        partition: PartitionId,
        offset: Offset,
    ) -> Result<Option<StoredEvent>, Refusal> {
        const ONE: PageLimits = PageLimits {
            events: 1,
            bytes: usize::MAX,
        };
        let page = match topic.partition(partition) {
            Some(of) => self.store.read(of, offset, ONE)?,
            None => Page::default(),
        };
        Ok(page.events.into_iter().find(|of| of.offset == offset))
    }

    /// The newest copy of an event among the dead letters, or among what is redriven, by
    /// its first place there. May take a while.
    fn newest_copy(
        &self,
        copies: &Topic,
        partition: PartitionId,
        offset: Offset,
    ) -> Result<Option<Offset>, Refusal> {
        let Some(letters) = copies.partition(PartitionId(0)) else {
            return Ok(None);
        };
        let end = letters.visible_end();
        let mut next = Offset(end.0.saturating_sub(LETTERS_SEARCHED_MAX));
        let mut found = None;
        while next < end {
            let page = self.store.read(letters, next, PAGE)?;
            if page.next <= next {
                break;
            }
            next = page.next;
            let of_event = page.events.into_iter().filter_map(|letter| {
                let note = <DeadLetterNote as prost::Message>::decode(letter.note).ok()?;
                let is_it = note.partition == partition.0 && note.offset == offset.0;
                match note.parked.filter(|_| is_it) {
                    None => is_it.then_some(letter.offset),
                    // It was redriven, and parked since.
                    Some(parked) if parked.home_topic == copies.id.0 => {
                        Some(Offset(parked.home_offset))
                    }
                    Some(_) => None,
                }
            });
            found = of_event.last().or(found);
        }
        Ok(found)
    }
}

/// What a test has found so far.
#[derive(Default)]
struct Test {
    counters: Counters,
    matched: Vec<wire::FilterSample>,
    dropped: Vec<wire::FilterSample>,
}

impl Test {
    fn run(
        mut self,
        api: &Api,
        topic: &Topic,
        last: u64,
        filter: &Filter,
    ) -> Result<wire::TestFilterResponse, Refusal> {
        let until = Instant::now() + TEST_MAX;
        let total: u64 = topic.partitions.iter().map(|of| of.visible_end().0).sum();
        let mut ended_early = false;
        'partitions: for of in &topic.partitions {
            let id = of.source.partition;
            let end = of.visible_end();
            // Neither of the factors is near 2^64, their product may be.
            let share = u128::from(end.0) * u128::from(last.min(total));
            let share = share.div_ceil(u128::from(total.max(1))) as u64;
            let mut next = Offset(end.0.saturating_sub(share));
            while next < end {
                let page = api.store.read(of, next, PAGE)?;
                if page.next <= next {
                    break;
                }
                next = page.next;
                for stored in page.events.into_iter().filter(|of| of.offset < end) {
                    self.count(filter, id, &stored);
                    if Instant::now() > until {
                        ended_early = true;
                        break 'partitions;
                    }
                }
            }
        }
        let terms = filter.terms().iter().map(|term| term.text().to_owned());
        Ok(wire::TestFilterResponse {
            counters: Some(convert::counters(self.counters, terms.collect())),
            matched: self.matched,
            dropped: self.dropped,
            ended_early,
        })
    }

    fn count(&mut self, filter: &Filter, partition: PartitionId, stored: &StoredEvent) {
        let verdict = match EventRef::read(&stored.event) {
            Ok(event) => filter.judge(&filter.subject(&event, 1)),
            Err(error) => Verdict::Failed {
                term: 0,
                error: EvaluationError::Data(error.to_string().into()),
            },
        };
        self.counters.count(partition, stored.offset, &verdict);
        let (samples, term, error) = match verdict {
            Verdict::Matched => (&mut self.matched, None, String::new()),
            Verdict::Dropped { term } => (&mut self.dropped, Some(term), String::new()),
            Verdict::Failed { term, error } => (&mut self.dropped, Some(term), error.to_string()),
        };
        if samples.len() < SAMPLES_MAX {
            samples.push(wire::FilterSample {
                partition: partition.0 as i32,
                offset: stored.offset.0 as i64,
                term: term.map(|term| term as i32),
                error,
            });
        }
    }
}

fn judge(filter: Option<&Filter>, stored: &StoredEvent) -> (bool, Vec<TermExplanation>) {
    let Some(filter) = filter else {
        return (true, Vec::new());
    };
    let Ok(event) = EventRef::read(&stored.event) else {
        return (false, Vec::new());
    };
    let matches = filter.judge(&filter.subject(&event, 1)) == Verdict::Matched;
    (matches, filter.explain(&filter.subject(&event, 1)))
}

fn response_of(standing: &EventStanding) -> wire::ExplainEventResponse {
    let (state, detail) = match standing {
        EventStanding::NotScanned => (
            wire::EventState::NotScanned,
            "the group has not come to it yet",
        ),
        EventStanding::Waiting { parked: true, .. } => (
            wire::EventState::Waiting,
            "it is parked until its key is free, or until its turn",
        ),
        EventStanding::Waiting { .. } => (
            wire::EventState::Waiting,
            "it waits for an event of its key, for credit or for its turn",
        ),
        EventStanding::Delayed { parked: true, .. } => (
            wire::EventState::Delayed,
            "it is parked until its next attempt",
        ),
        EventStanding::Delayed { .. } => {
            (wire::EventState::Delayed, "it waits for its next attempt")
        }
        EventStanding::Held { .. } => (
            wire::EventState::Held,
            "it is kept for a member from before a restart of the broker",
        ),
        EventStanding::InFlight { .. } => (wire::EventState::InFlight, "a member works on it"),
        EventStanding::Settled => (wire::EventState::Settled, "it is done"),
    };
    let (attempt, member) = match standing {
        EventStanding::NotScanned | EventStanding::Settled => (0, ""),
        EventStanding::Waiting { attempt, .. } | EventStanding::Delayed { attempt, .. } => {
            (*attempt, "")
        }
        EventStanding::Held { attempt, member } | EventStanding::InFlight { attempt, member } => {
            (*attempt, member.as_str())
        }
    };
    wire::ExplainEventResponse {
        state: state.into(),
        detail: detail.into(),
        attempt: attempt as i32,
        member: member.to_owned(),
        ..Default::default()
    }
}

fn wire_term(of: TermExplanation) -> wire::TermExplanation {
    let values = of.values.into_iter().map(|seen| wire::SeenValue {
        name: seen.name,
        value: seen.value,
    });
    wire::TermExplanation {
        term: of.term,
        values: values.collect(),
        error: of
            .holds
            .as_ref()
            .err()
            .map(ToString::to_string)
            .unwrap_or_default(),
        holds: of.holds.ok(),
    }
}
