//! Dead letters: listed and redriven.

use std::sync::Arc;

use sluice_proto::{Offset, PartitionId, wire};

use super::{next_token, page_size};
use crate::{
    commit::{PageLimits, Topic},
    grpc::{api::Api, authorize::Action, convert, read::visible_end, refusal::Refusal},
};

const REDRIVE_MAX: usize = 1000;
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
        let open: Vec<Offset> = (from.0..to.0)
            .map(Offset)
            .filter(|offset| !resolved.is_settled(*offset))
            .take(size + 1)
            .collect();
        let more = open.len() > size;
        let page = &open[..open.len().min(size)];
        let mut next_page_token = next_token(more, page.last().map(|o| o.next().to_string()));
        let mut dead_letters: Vec<wire::DeadLetter> = Vec::with_capacity(page.len());
        let mut bytes = 0;
        for offset in page {
            let letter = self.dead_letter(&topic, *offset).await?;
            bytes += letter.as_ref().map_or(0, |letter| letter.event.len());
            if bytes > LETTERS_BYTES_MAX && !dead_letters.is_empty() {
                next_page_token = offset.to_string();
                break;
            }
            dead_letters.extend(letter);
        }
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
        const ONE: PageLimits = PageLimits {
            events: 1,
            bytes: usize::MAX,
        };
        let (api, topic) = (self.clone(), topic.clone());
        let read = tokio::task::spawn_blocking(move || match topic.partition(PartitionId(0)) {
            Some(partition) => api.store.read(partition, offset, ONE),
            None => Ok(crate::commit::Page::default()),
        });
        let page = read.await.map_err(Refusal::internal)??;
        Ok(page
            .events
            .into_iter()
            .next()
            .map(|stored| wire::DeadLetter {
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
        let given = request.dead_letter_offsets;
        let offsets = match (request.all, given.is_empty()) {
            (true, true) => None,
            (true, false) => {
                let message = "give offsets or all, not both";
                return Err(Refusal::field("dead_letter_offsets", message));
            }
            (false, true) => {
                let message = "it is empty; give offsets, or set all";
                return Err(Refusal::field("dead_letter_offsets", message));
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
                Some(offsets?)
            }
        };
        let redriven = handle.redrive(offsets).await?;
        Ok(wire::RedriveDeadLettersResponse {
            redriven_count: redriven as i64,
        })
    }
}

fn page_start(token: &str) -> Result<Offset, Refusal> {
    if token.is_empty() {
        return Ok(Offset(0));
    }
    let offset = token.parse().map(Offset);
    offset.map_err(|_| Refusal::field("page_token", "it is not one that this list gave"))
}
