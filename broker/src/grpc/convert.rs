//! Between the API's types and the broker's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;
use prost_types::Timestamp;
use sluice_proto::{GroupName, TopicName, wire};

use super::{api::Api, refusal::Refusal};
use crate::{
    commit::{Appended, Committed, StoredEvent},
    filter::Counters,
    group::{self, DeadLetterNote, Delivery, Grant, IdleReason, LeaseToken},
};

pub(super) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: duration.as_secs() as i64,
        nanos: duration.subsec_nanos() as i32,
    }
}

pub(super) fn duration_ms(ms: u64) -> prost_types::Duration {
    duration(Duration::from_millis(ms))
}

/// Milliseconds of a duration that must lie between `min_ms` and `max_ms`.
pub(super) fn ms_of(
    field: &str,
    given: prost_types::Duration,
    min_ms: u64,
    max_ms: u64,
) -> Result<u64, Refusal> {
    let ms = Duration::try_from(given)
        .ok()
        .and_then(|duration| u64::try_from(duration.as_millis()).ok())
        .ok_or_else(|| Refusal::field(field, "it must not be negative"))?;
    if (min_ms..=max_ms).contains(&ms) {
        Ok(ms)
    } else {
        let limits = format!("{min_ms} ms to {max_ms} ms");
        Err(Refusal::limit(field, format!("{ms} ms"), limits))
    }
}

pub(super) fn time_ms(ms: u64) -> Timestamp {
    Timestamp {
        seconds: (ms / 1000) as i64,
        nanos: (ms % 1000 * 1_000_000) as i32,
    }
}

pub(super) fn time(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    time_ms(since.as_millis() as u64)
}

/// Milliseconds since 1970; times before are 1970.
pub(super) fn ms_of_time(field: &str, time: Timestamp) -> Result<u64, Refusal> {
    if !(0..1_000_000_000).contains(&time.nanos) {
        return Err(Refusal::field(
            field,
            "its nanos are outside 0 to 999,999,999",
        ));
    }
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    Ok(seconds
        .saturating_mul(1000)
        .saturating_add(time.nanos.unsigned_abs().div_ceil(1_000_000).into()))
}

/// A log's identity as digits.
pub(super) fn log_id(id: [u8; 16]) -> String {
    id.map(|byte| format!("{byte:02x}")).concat()
}

pub(super) fn topic_name(field: &str, name: &str) -> Result<TopicName, Refusal> {
    TopicName::new(name).map_err(|error| Refusal::bad_name(field, &error))
}

/// A topic that is to be read, which may be one of the broker's own.
pub(super) fn readable_topic_name(field: &str, name: &str) -> Result<TopicName, Refusal> {
    if name.starts_with('_') {
        return Ok(TopicName::from_stored(name));
    }
    topic_name(field, name)
}

pub(super) fn group_name(field: &str, name: &str) -> Result<GroupName, Refusal> {
    GroupName::new(name).map_err(|error| Refusal::bad_name(field, &error))
}

/// A count that the API has as a signed number.
pub(super) fn count(field: &str, given: i64) -> Result<u64, Refusal> {
    u64::try_from(given)
        .map_err(|_| Refusal::field(field, format!("it is {given}, and must not be negative")))
}

/// A count between 0 and `max`, where 0 means `default`.
pub(super) fn count_or(
    field: &str,
    given: i64,
    default: usize,
    max: usize,
) -> Result<usize, Refusal> {
    match count(field, given)? {
        0 => Ok(default),
        more if more > max as u64 => Err(Refusal::limit(field, more, max)),
        some => Ok(some as usize),
    }
}

pub(super) fn grant(path: &str, given: wire::Grant) -> Result<Grant, Refusal> {
    let max_events = count(&format!("{path}.max_events"), given.max_events)?;
    let max_bytes = count(&format!("{path}.max_bytes"), given.max_bytes)?;
    Ok(Grant {
        max_events,
        max_bytes: Some(max_bytes).filter(|bytes| *bytes > 0),
    })
}

pub(super) fn token(field: &str, given: Option<wire::LeaseToken>) -> Result<LeaseToken, Refusal> {
    let given = given.ok_or_else(|| Refusal::field(field, "it is required"))?;
    Ok(lease_token(given))
}

pub(super) fn lease_token(given: wire::LeaseToken) -> LeaseToken {
    // A negative number is no lease that was ever given.
    LeaseToken {
        epoch: given.epoch as u64,
        counter: given.counter as u64,
    }
}

pub(super) fn wire_token(token: LeaseToken) -> wire::LeaseToken {
    wire::LeaseToken {
        epoch: token.epoch as i64,
        counter: token.counter as i64,
    }
}

pub(super) fn delivery(delivery: Delivery) -> wire::Delivery {
    let Delivery { head, event, .. } = delivery;
    wire::Delivery {
        lease: Some(head.lease),
        event,
        partition: head.partition.0 as i32,
        offset: head.offset.0 as i64,
        append_time: Some(time_ms(head.append_time_ms)),
        attempt: head.attempt as i32,
        redrives: head.redrives as i32,
        epoch: head.epoch as i64,
    }
}

pub(super) fn idle(reason: IdleReason) -> wire::IdleReason {
    match reason {
        IdleReason::Delivering => wire::IdleReason::Unspecified,
        IdleReason::Empty => wire::IdleReason::Empty,
        IdleReason::Filtered => wire::IdleReason::Filtered,
        IdleReason::NoCredit => wire::IdleReason::NoCredit,
        IdleReason::InFlightCap => wire::IdleReason::InFlightCap,
        IdleReason::KeyLocked => wire::IdleReason::KeyLocked,
        IdleReason::Delayed => wire::IdleReason::Delayed,
        IdleReason::RestartGrace => wire::IdleReason::RestartGrace,
        IdleReason::WindowFull => wire::IdleReason::WindowFull,
        IdleReason::Disabled => wire::IdleReason::Disabled,
        IdleReason::Paused => wire::IdleReason::Paused,
        IdleReason::TooLarge => wire::IdleReason::TooLarge,
        IdleReason::Suspect => wire::IdleReason::Suspect,
        IdleReason::DownstreamFull => wire::IdleReason::DownstreamFull,
    }
}

/// What a filter of these terms did.
pub(super) fn counters(counters: Counters, terms: Vec<String>) -> wire::FilterCounters {
    let dropped = |term: usize| counters.dropped.get(term).copied().unwrap_or(0);
    let term = |(at, term)| wire::TermCounter {
        term,
        dropped_count: dropped(at) as i64,
    };
    wire::FilterCounters {
        seen_count: counters.seen as i64,
        matched_count: counters.matched as i64,
        error_count: counters.errors as i64,
        terms: terms.into_iter().enumerate().map(term).collect(),
        last_error: counters.last_error.map(|failure| wire::FilterFailure {
            partition: failure.partition.0 as i32,
            offset: failure.offset.0 as i64,
            term: failure.term as i32,
            message: failure.message,
        }),
    }
}

/// What was appended, with the names of the topics.
pub(super) fn ranges(committed: &Committed, api: &Api) -> Vec<wire::AppendedRange> {
    let catalog = api.proposals.catalog();
    let name = |appended: &Appended| {
        let topic = catalog.topic_by_id(appended.topic);
        topic.map_or_else(String::new, |topic| topic.name.to_string())
    };
    let epoch = |appended: &Appended| {
        let topic = catalog.topic_by_id(appended.topic);
        let partition = topic.and_then(|topic| topic.partition(appended.partition));
        partition.and_then(|partition| api.store.epoch_of(partition, appended.first))
    };
    committed
        .appended
        .iter()
        .map(|appended| wire::AppendedRange {
            topic: name(appended),
            partition: appended.partition.0 as i32,
            first_offset: appended.first.0 as i64,
            count: appended.count as i32,
            append_time: Some(time_ms(appended.time_ms)),
            epoch: epoch(appended).unwrap_or(0) as i64,
        })
        .collect()
}

/// The history beside an event, if there is one.
pub(super) fn dead_letter_history(event: &StoredEvent) -> Option<wire::DeadLetterHistory> {
    if event.note.is_empty() {
        return None;
    }
    let note = DeadLetterNote::decode(event.note.clone()).ok()?;
    let attempts = note.attempts.into_iter().map(|failed| wire::FailedAttempt {
        attempt: failed.attempt as i32,
        ended_at: Some(time_ms(failed.ended_ms)),
        member: failed.member,
        end: failed.end as i32,
        reason: failed.reason,
        uncounted: failed.uncounted,
    });
    Some(wire::DeadLetterHistory {
        topic: note.topic,
        group: note.group,
        partition: note.partition as i32,
        offset: note.offset as i64,
        reason: note.reason,
        attempts: attempts.collect(),
        attempt_count: note.attempt_count as i32,
        dead_lettered_at: Some(time_ms(note.dead_lettered_ms)),
        redrives: note.redrives as i32,
    })
}

/// What is at `index` in a list of `settlements`.
pub(super) fn settlement(
    index: usize,
    given: wire::Settlement,
) -> Result<group::Settlement, Refusal> {
    use wire::settlement::Action;
    const DELAY_MS_MAX: u64 = 24 * 60 * 60 * 1000;
    let path = |field: &str| format!("settlements[{index}].{field}");
    // Cut, not refused: a long reason is most often the trace of an error, and
    // its settlement must not be lost for it.
    let reason = |mut reason: String| {
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        reason
    };
    let action = match given.action {
        Some(Action::Ack(_)) => group::SettlementAction::Ack,
        Some(Action::Nack(nack)) => group::SettlementAction::Nack {
            delay_ms: nack
                .delay
                .map(|delay| ms_of(&path("nack.delay"), delay, 0, DELAY_MS_MAX))
                .transpose()?,
            reason: reason(nack.reason),
        },
        Some(Action::Reject(reject)) => group::SettlementAction::Reject {
            reason: reason(reject.reason),
        },
        Some(Action::Extend(extend)) => group::SettlementAction::Extend(report(path, extend)?),
        None => return Err(Refusal::field(path("action"), "it is required")),
    };
    let Some(lease) = given.lease else {
        return Err(Refusal::field(path("lease"), "it is required"));
    };
    Ok(group::Settlement {
        token: lease_token(lease),
        action,
    })
}

fn report(
    path: impl Fn(&str) -> String,
    given: wire::Extend,
) -> Result<Option<group::Report>, Refusal> {
    if given.percent.is_none() && given.note.is_empty() {
        return Ok(None);
    }
    let percent = given.percent.map(|percent| match u8::try_from(percent) {
        Ok(percent @ 0..=100) => Ok(percent),
        _ => {
            let field = path("extend.percent");
            Err(Refusal::limit(field, percent, "0 to 100"))
        }
    });
    let mut note = given.note;
    note.truncate(note.floor_char_boundary(NOTE_BYTES_MAX));
    Ok(Some(group::Report {
        percent: percent.transpose()?,
        note,
    }))
}

/// Longest note of a report.
const NOTE_BYTES_MAX: usize = 256;

/// Longest reason of a nack or reject.
const REASON_BYTES_MAX: usize = 1024;
