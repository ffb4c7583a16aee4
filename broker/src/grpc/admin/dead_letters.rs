//! Dead letters: listed and redriven.

use std::{ops::RangeInclusive, sync::Arc};

use sluice_proto::{Offset, PartitionId, event::EventRef, wire};

use super::page_size;
use crate::{
    commit::Topic,
    filter::Filter,
    group::{GroupHandle, Letters},
    grpc::{api::Api, authorize::Action, convert, filters, read::visible_end, refusal::Refusal},
};

const REDRIVE_MAX: usize = 1000;
/// Dead letters that one page looks at, in search of those that are wanted.
const LOOKED_AT_MAX: usize = 10_000;
/// Bytes of the events in one answer, of which one may be larger: well below
/// what gRPC libraries accept by default.
const LETTERS_BYTES_MAX: usize = 3 << 20;

impl Api {
    pub(in crate::grpc) async fn list_dead_letters(
        self: &Arc<Self>,
        request: wire::ListDeadLettersRequest,
    ) -> Result<wire::ListDeadLettersResponse, Refusal> {
        let handle = self.group(Action::Read, &request.topic, &request.group)?;
        let resolved = handle
            .resolved_dead_letters()
            .await
            .map_err(|_| Refusal::group_gone())?;
        let size = page_size(request.page_size)?;
        let topic = handle.group().dead_letters.clone();
        let end = visible_end(&topic, PartitionId(0));
        let (from, to) = match request.dead_letter_offset {
            Some(given) => {
                let offset = Offset(convert::count("dead_letter_offset", given)?);
                (offset, end.min(offset.next()))
            }
            None => (page_start(&request.page_token)?, end),
        };
        let wanted = Wanted::new(wire::DeadLetterMatch {
            filter: request.filter,
            reason_contains: request.reason_contains,
            min_attempts: request.min_attempts,
            max_attempts: request.max_attempts,
        })
        .await?;
        let mut open = resolved.unsettled(from, to);
        let mut dead_letters: Vec<wire::DeadLetter> = Vec::new();
        let (mut bytes, mut looked_at) = (0, 0);
        let next_page_token = loop {
            let Some(offset) = open.next() else {
                break String::new();
            };
            if dead_letters.len() == size || looked_at == LOOKED_AT_MAX {
                break offset.to_string();
            }
            looked_at += 1;
            let letter = self.dead_letter(&topic, offset).await?;
            let Some(letter) = letter.filter(|letter| wanted.matches(letter)) else {
                continue;
            };
            bytes += letter.event.len();
            if bytes > LETTERS_BYTES_MAX && !dead_letters.is_empty() {
                break offset.to_string();
            }
            dead_letters.push(letter);
        };
        Ok(wire::ListDeadLettersResponse {
            dead_letters,
            next_page_token,
        })
    }

    /// Those of a group's dead letters that match, if there is something to match.
    async fn matching(
        self: &Arc<Self>,
        handle: &GroupHandle,
        letters: Letters,
        matching: Option<wire::DeadLetterMatch>,
    ) -> Result<Letters, Refusal> {
        let Some(matching) = matching else {
            return Ok(letters);
        };
        if letters != Letters::All {
            let message = "it goes with all, not with dead_letter_offsets";
            return Err(Refusal::field("matching", message));
        }
        let wanted = Wanted::new(matching).await?;
        let resolved = handle.resolved_dead_letters().await;
        let resolved = resolved.map_err(|_| Refusal::group_gone())?;
        let topic = handle.group().dead_letters.clone();
        let end = visible_end(&topic, PartitionId(0));
        let mut found = Vec::new();
        for offset in resolved.unsettled(Offset(0), end) {
            let letter = self.dead_letter(&topic, offset).await?;
            if letter.is_some_and(|letter| wanted.matches(&letter)) {
                found.push(offset);
            }
        }
        Ok(Letters::Found(found))
    }

    async fn dead_letter(
        self: &Arc<Self>,
        topic: &Arc<Topic>,
        offset: Offset,
    ) -> Result<Option<wire::DeadLetter>, Refusal> {
        let (api, topic) = (self.clone(), topic.clone());
        let read = tokio::task::spawn_blocking(move || match topic.partition(PartitionId(0)) {
            Some(partition) => api.store.pick(partition, &[offset]),
            None => Ok(Vec::new()),
        });
        // Resolved in the meantime, it may be gone.
        let found = read.await.map_err(Refusal::internal)??;
        Ok(found.into_iter().next().map(|stored| wire::DeadLetter {
            dead_letter_offset: offset.0 as i64,
            history: convert::dead_letter_history(&stored),
            event: stored.event,
        }))
    }

    pub(in crate::grpc) async fn redrive_dead_letters(
        self: &Arc<Self>,
        request: wire::RedriveDeadLettersRequest,
    ) -> Result<wire::RedriveDeadLettersResponse, Refusal> {
        let handle = self.group(Action::Administer, &request.topic, &request.group)?;
        let letters = chosen(request.all, request.dead_letter_offsets)?;
        let letters = self.matching(&handle, letters, request.matching).await?;
        let redriven = handle.redrive(letters, request.force).await?;
        Ok(wire::RedriveDeadLettersResponse {
            redriven_count: redriven.redriven as i64,
            capped_count: redriven.capped as i64,
        })
    }

    pub(in crate::grpc) async fn purge_dead_letters(
        self: &Arc<Self>,
        request: wire::PurgeDeadLettersRequest,
    ) -> Result<wire::PurgeDeadLettersResponse, Refusal> {
        let handle = self.group(Action::Administer, &request.topic, &request.group)?;
        let letters = chosen(request.all, request.dead_letter_offsets)?;
        let letters = self.matching(&handle, letters, request.matching).await?;
        let purged = handle.purge(letters).await?;
        tracing::info!(
            topic = request.topic,
            group = request.group,
            purged,
            "dead letters purged"
        );
        Ok(wire::PurgeDeadLettersResponse {
            purged_count: purged as i64,
        })
    }
}

/// What is asked of dead letters.
struct Wanted {
    filter: Option<Filter>,
    reason: String,
    attempts: RangeInclusive<i32>,
}

impl Wanted {
    async fn new(asked: wire::DeadLetterMatch) -> Result<Self, Refusal> {
        for (field, given) in [
            ("min_attempts", asked.min_attempts),
            ("max_attempts", asked.max_attempts),
        ] {
            convert::count(field, given.into())?;
        }
        let filter = filters::compile("filter", asked.filter, Vec::new()).await?;
        let most = match asked.max_attempts {
            0 => i32::MAX,
            most => most,
        };
        Ok(Self {
            filter: filter.filter,
            reason: asked.reason_contains,
            attempts: asked.min_attempts..=most,
        })
    }

    fn matches(&self, letter: &wire::DeadLetter) -> bool {
        let history = letter.history.as_ref();
        let reason = history.map_or("", |history| history.reason.as_str());
        let attempts = history.map_or(0, |history| history.attempt_count);
        reason.contains(&self.reason)
            && self.attempts.contains(&attempts)
            && self.filter.as_ref().is_none_or(|filter| {
                // What it cannot be judged by is no match.
                EventRef::read(&letter.event)
                    .is_ok_and(|event| filter.matches(&event).unwrap_or(false))
            })
    }
}

/// Which dead letters are meant.
fn chosen(all: bool, given: Vec<i64>) -> Result<Letters, Refusal> {
    match (all, given.is_empty()) {
        (true, true) => Ok(Letters::All),
        (true, false) => {
            let message = "give offsets or all, not both";
            Err(Refusal::field("dead_letter_offsets", message))
        }
        (false, true) => {
            let message = "it is empty; give offsets, or set all";
            Err(Refusal::field("dead_letter_offsets", message))
        }
        (false, false) => {
            if given.len() > REDRIVE_MAX {
                let length = format!("{} long", given.len());
                return Err(Refusal::limit("dead_letter_offsets", length, REDRIVE_MAX));
            }
            let offsets: Result<Vec<_>, _> = given
                .into_iter()
                .map(|offset| convert::count("dead_letter_offsets", offset).map(Offset))
                .collect();
            Ok(Letters::Named(offsets?))
        }
    }
}

fn page_start(token: &str) -> Result<Offset, Refusal> {
    if token.is_empty() {
        return Ok(Offset(0));
    }
    let offset = token.parse().map(Offset);
    offset.map_err(|_| Refusal::field("page_token", "it is not one that this list gave"))
}
