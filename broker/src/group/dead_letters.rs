//! Moves events to the group's dead letters, and back.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use sluice_proto::{Offset, PartitionId};
use tokio::sync::oneshot;

use super::{
    command::{Letters, PurgeError, RedriveError, Redriven, SettlementError},
    note::DeadLetterNote,
    scan::Feed,
    settle::DeadLetter,
    task::{Continuation, GroupTask},
};
use crate::commit::{
    ATTEMPTS_REMEMBERED, AppendRequest, Changes, Group, Partition, Proposals, Store, StoredEvent,
    record::{GroupConfig, NewEvent, NewEvents, Settle, Source},
};

/// How often an event may be redriven, unless the group says otherwise.
pub const MAX_REDRIVES: u32 = 10;

/// How often an event of the group may be redriven.
#[must_use]
pub fn max_redrives(config: &GroupConfig) -> u32 {
    match config.max_redrives {
        // Made before there was a bound.
        0 => MAX_REDRIVES,
        some => some,
    }
}

impl GroupTask {
    pub(super) fn dead_letter_move(&self, letter: &DeadLetter) -> DeadLetterMove {
        let mut attempts = self.board.history(letter.id).to_vec();
        attempts.push(letter.last.clone());
        let at = self.board.at(letter.id);
        DeadLetterMove {
            target: Source {
                topic: self.group.dead_letters.id,
                partition: PartitionId(0),
            },
            settle: Settle {
                group: self.group.id,
                source: self.board.source(at.source),
                runs: vec![(at.offset, 1)],
            },
            note: DeadLetterNote {
                topic: self.group.topic.name.to_string(),
                group: self.group.name.to_string(),
                partition: self.feeds[letter.id.source].id.0,
                offset: letter.id.offset.0,
                reason: letter.last.reason.clone(),
                attempt_count: letter.last.attempt,
                attempts,
                dead_lettered_ms: letter.last.ended_ms,
                redrives: 0,
                parked: None,
            },
        }
    }

    /// Those of the dead letters that are open.
    ///
    /// # Errors
    /// The first that is named and is not, or is being moved.
    fn open_letters(&self, letters: Letters) -> Result<Vec<Offset>, Offset> {
        let partition = self.group.dead_letters.partition(PartitionId(0));
        let end = partition.map_or(Offset(0), Partition::visible_end);
        let free = |offset: &Offset| !self.redriving.contains(offset);
        let open =
            |offset: &Offset| *offset < end && !self.resolved.is_settled(*offset) && free(offset);
        let mut offsets = match letters {
            Letters::All => {
                let all = self.resolved.unsettled(Offset(0), end);
                return Ok(all.filter(free).collect());
            }
            Letters::Found(mut offsets) => {
                offsets.retain(open);
                offsets
            }
            Letters::Named(offsets) => offsets,
        };
        offsets.sort_unstable();
        offsets.dedup();
        match offsets.iter().find(|offset| !open(offset)) {
            Some(unknown) => Err(*unknown),
            None => Ok(offsets),
        }
    }

    /// Gives dead letters up in one frame.
    pub(super) fn purge(
        &mut self,
        letters: Letters,
        reply: oneshot::Sender<Result<u64, PurgeError>>,
    ) {
        let chosen = match self.open_letters(letters) {
            Ok(chosen) => chosen,
            Err(unknown) => {
                let _ = reply.send(Err(PurgeError::Unknown(unknown)));
                return;
            }
        };
        self.redriving.extend(&chosen);
        let mut runs: Vec<(Offset, u64)> = Vec::new();
        for offset in &chosen {
            match runs.last_mut() {
                Some((first, length)) if first.0 + *length == offset.0 => *length += 1,
                _ => runs.push((*offset, 1)),
            }
        }
        let changes = Changes {
            settles: vec![Settle {
                group: self.group.id,
                source: Source {
                    topic: self.group.dead_letters.id,
                    partition: PartitionId(0),
                },
                runs,
            }],
            ..Changes::default()
        };
        let proposals = self.proposals.clone();
        self.jobs.push(Box::pin(async move {
            let result = match chosen.is_empty() {
                true => Ok(()),
                false => proposals.commit(changes).await.map(drop),
            };
            Box::new(move |task: &mut Self| {
                for offset in &chosen {
                    task.redriving.remove(offset);
                    if result.is_ok() {
                        task.resolved.settle(*offset);
                    }
                }
                if let Err(error) = &result {
                    task.disable_if_the_log_failed(error);
                }
                let purged = result.map(|()| chosen.len() as u64);
                let _ = reply.send(purged.map_err(PurgeError::from));
            }) as Continuation
        }));
    }

    pub(super) fn redrive(
        &mut self,
        letters: Letters,
        force: bool,
        reply: oneshot::Sender<Result<Redriven, RedriveError>>,
    ) {
        let named = matches!(letters, Letters::Named(_));
        let chosen = match self.open_letters(letters) {
            Ok(chosen) => chosen,
            Err(unknown) => {
                let _ = reply.send(Err(RedriveError::Unknown(unknown)));
                return;
            }
        };
        self.redriving.extend(&chosen);
        fault_point!(RedriveChosen);
        let redrive = Redrive {
            group: self.group.clone(),
            store: self.scanner.store.clone(),
            proposals: self.proposals.clone(),
            redrives_max: if force {
                u32::MAX
            } else {
                max_redrives(self.config())
            },
        };
        self.jobs.push(Box::pin(async move {
            let mut done = Vec::new();
            let mut capped = 0;
            // What is named is moved when all of it can be.
            let mut result = match named {
                true => redrive.check(&chosen).await,
                false => Ok(()),
            };
            let movable = if result.is_ok() { &chosen[..] } else { &[] };
            for offset in movable {
                match redrive.one(*offset).await {
                    Ok(()) => done.push(*offset),
                    Err(RedriveError::TooOften(..)) if !named => capped += 1,
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            Box::new(move |task: &mut Self| {
                for offset in &chosen {
                    task.redriving.remove(offset);
                }
                for offset in &done {
                    task.resolved.settle(*offset);
                }
                if !done.is_empty() {
                    tracing::info!(
                        topic = task.group.topic.name.as_str(),
                        group = task.group.name.as_str(),
                        redriven = done.len(),
                        "dead letters redriven"
                    );
                }
                fault_point!(RedriveResolved);
                if let Err(RedriveError::Commit(error)) = &result {
                    task.disable_if_the_log_failed(error);
                }
                let redriven = done.len() as u64;
                let _ = reply.send(result.map(|()| Redriven { redriven, capped }));
                fault_point!(RedriveAnswered);
            }) as Continuation
        }));
    }
}

/// What moves one event to the dead letters, in one frame.
pub(super) struct DeadLetterMove {
    target: Source,
    settle: Settle,
    note: DeadLetterNote,
}

impl DeadLetterMove {
    pub(super) async fn commit(
        mut self,
        proposals: &Proposals,
        event: Option<StoredEvent>,
    ) -> Result<Moved, SettlementError> {
        let Some(event) = event else {
            let settles = vec![self.settle];
            let changes = Changes {
                settles,
                ..Changes::default()
            };
            proposals.commit(changes).await?;
            return Ok(Moved::Gone);
        };
        // What fails again after it was redriven or parked keeps its first place,
        // and what was tried before it was parked.
        if !event.note.is_empty()
            && let Ok(mut before) = DeadLetterNote::decode(event.note)
        {
            before.attempts.append(&mut self.note.attempts);
            self.note.attempts = before.attempts;
            self.note.partition = before.partition;
            self.note.offset = before.offset;
            self.note.redrives = before.redrives;
        }
        let surplus = self.note.attempts.len().saturating_sub(ATTEMPTS_REMEMBERED);
        self.note.attempts.drain(..surplus);
        let append = AppendRequest {
            target: self.target,
            events: NewEvents::from_iter([NewEvent {
                event: event.event,
                note: Bytes::from(self.note.encode_to_vec()),
            }]),
        };
        let changes = Changes {
            appends: vec![append],
            settles: vec![self.settle],
            ..Changes::default()
        };
        fault_point!(DeadLetterRead);
        proposals.commit(changes).await?;
        fault_point!(DeadLetterCommitted);
        Ok(Moved::Kept)
    }
}

/// What became of an event that was to be a dead letter.
pub(super) enum Moved {
    /// It is one.
    Kept,
    /// Its topic had dropped it before.
    Gone,
}

/// What moves dead letters back to their group, each in one frame.
struct Redrive {
    group: Arc<Group>,
    store: Store,
    proposals: Proposals,
    redrives_max: u32,
}

impl Redrive {
    /// Whether each of them can be redriven; the first that cannot says why.
    async fn check(&self, offsets: &[Offset]) -> Result<(), RedriveError> {
        for offset in offsets {
            self.read(*offset).await?;
        }
        Ok(())
    }

    /// A dead letter that may be redriven once more.
    async fn read(&self, offset: Offset) -> Result<(StoredEvent, DeadLetterNote), RedriveError> {
        let feed = Feed {
            topic: self.group.dead_letters.clone(),
            id: PartitionId(0),
            filtered: false,
        };
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || feed.fetch(&store, offset)).await;
        let event = match read {
            Ok(event) => event?.ok_or(RedriveError::Unknown(offset))?,
            // The runtime is shutting down.
            Err(_) => return Err(RedriveError::GroupGone),
        };
        let note = DeadLetterNote::decode(event.note.clone()).unwrap_or_default();
        if note.redrives >= self.redrives_max {
            return Err(RedriveError::TooOften(
                offset,
                note.redrives,
                self.redrives_max,
            ));
        }
        Ok((event, note))
    }

    async fn one(&self, offset: Offset) -> Result<(), RedriveError> {
        let (event, mut note) = self.read(offset).await?;
        note.redrives += 1;
        note.attempts.clear();
        note.attempt_count = 0;
        note.parked = None;
        let one_partition = |topic| Source {
            topic,
            partition: PartitionId(0),
        };
        let changes = Changes {
            appends: vec![AppendRequest {
                target: one_partition(self.group.parking.id),
                events: NewEvents::from_iter([NewEvent {
                    event: event.event,
                    note: Bytes::from(note.encode_to_vec()),
                }]),
            }],
            settles: vec![Settle {
                group: self.group.id,
                source: one_partition(self.group.dead_letters.id),
                runs: vec![(offset, 1)],
            }],
            ..Changes::default()
        };
        fault_point!(RedriveRead);
        self.proposals.commit(changes).await?;
        fault_point!(RedriveCommitted);
        Ok(())
    }
}
