//! Dead letters: listed and redriven.

use std::sync::Arc;

use sluice_proto::{Offset, PartitionId, event::EventRef, wire};

use super::page_size;
use crate::{
    commit::Topic,
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
        let filter = filters::compile("filter", request.filter, Vec::new()).await?;
        let filter = filter.filter;
        let wanted = |letter: &wire::DeadLetter| {
            let history = letter.history.as_ref();
            let reason = history.map_or("", |history| history.reason.as_str());
            reason.contains(&request.reason_contains)
                && filter.as_ref().is_none_or(|filter| {
                    // What it cannot be judged by is no match.
                    EventRef::read(&letter.event)
                        .is_ok_and(|event| filter.matches(&event).unwrap_or(false))
                })
        };
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
            let Some(letter) = letter.filter(wanted) else {
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
        &self,
        request: wire::RedriveDeadLettersRequest,
    ) -> Result<wire::RedriveDeadLettersResponse, Refusal> {
        let handle = self.group(Action::Administer, &request.topic, &request.group)?;
        let offsets = chosen(request.all, request.dead_letter_offsets)?;
        let redriven = handle.redrive(offsets, request.force).await?;
        Ok(wire::RedriveDeadLettersResponse {
            redriven_count: redriven.redriven as i64,
            capped_count: redriven.capped as i64,
        })
    }

    pub(in crate::grpc) async fn purge_dead_letters(
        &self,
        request: wire::PurgeDeadLettersRequest,
    ) -> Result<wire::PurgeDeadLettersResponse, Refusal> {
        let handle = self.group(Action::Administer, &request.topic, &request.group)?;
        let offsets = chosen(request.all, request.dead_letter_offsets)?;
        let purged = handle.purge(offsets).await?;
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

/// Which dead letters are meant; `None` for all.
fn chosen(all: bool, given: Vec<i64>) -> Result<Option<Vec<Offset>>, Refusal> {
    match (all, given.is_empty()) {
        (true, true) => Ok(None),
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
            Ok(Some(offsets?))
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
