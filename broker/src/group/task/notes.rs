//! Notes of leases in the log, so that a restart of the broker waits for those
//! who work, and for nobody else.

use std::{iter, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use prost::Message;
use tokio::time::timeout;

use super::{GroupTask, NOTE_AFTER_MS, NOTES_PER_TURN};
use crate::{
    commit::{Changes, record::LeaseNoted},
    group::{board::LeaseToken, command::Command},
};

/// Bytes of notes that one frame gathers.
const FRAME_BYTES: usize = 1 << 20;
/// How long the group's end waits for the last answers of the log, and then for those to
/// its last notes.
const LAST_ANSWERS_WAIT: Duration = Duration::from_secs(1);

impl GroupTask {
    /// Notes the leases that have lasted long enough.
    pub(super) fn note_leases(&mut self, now: u64) {
        self.note_outlasting(now.saturating_sub(NOTE_AFTER_MS - 1), NOTES_PER_TURN);
    }

    /// When the broker stops, all that are left are noted: whoever works goes on after
    /// its start, also one who has just begun.
    pub(super) async fn note_the_last(&mut self) {
        if !self.is_stopping() || self.log_failed {
            return;
        }
        // What was not sent when the streams were cut is nobody's work.
        while let Ok(command) = self.commands.try_recv() {
            if let Command::HandBack { .. } | Command::Leave { .. } = command {
                self.handle(command);
            }
        }
        while self.record_losses() {}
        // What is refused goes on. A log that fails now may never answer.
        let settled = async { while self.board.settling() > 0 && self.end_a_job().await {} };
        let _ = timeout(LAST_ANSWERS_WAIT, settled).await;
        // A position that moves ends all leases.
        if !self.changing.moves() {
            self.note_outlasting(u64::MAX, usize::MAX);
        }
        let noted = async { while self.quiet > 0 && self.end_a_job().await {} };
        if timeout(LAST_ANSWERS_WAIT, noted).await.is_err() {
            tracing::warn!(
                group = %self.group.name,
                "the log is too slow for the last notes of who is at work",
            );
        }
    }

    /// False when nothing is under way.
    async fn end_a_job(&mut self) -> bool {
        let Some(done) = self.jobs.next().await else {
            return false;
        };
        done(self);
        true
    }

    fn note_outlasting(&mut self, before_ms: u64, count: usize) {
        let outlasting = self.board.take_outlasting(before_ms, count);
        let leases: Vec<LeaseNoted> = outlasting
            .into_iter()
            .filter_map(|token| self.lease_note(token))
            .collect();
        self.commit_notes(leases);
    }

    /// Several frames, if they are large: names and keys are as long as whoever chose
    /// them would have it.
    pub(super) fn commit_notes(&mut self, notes: Vec<LeaseNoted>) {
        let mut notes = notes.into_iter().peekable();
        while notes.peek().is_some() {
            let mut bytes = 0;
            let leases = iter::from_fn(|| {
                let next = notes.next_if(|_| bytes < FRAME_BYTES)?;
                bytes += next.encoded_len();
                Some(next)
            });
            let changes = Changes {
                leases: leases.collect(),
                ..Changes::default()
            };
            self.commit_quietly(changes);
        }
    }

    fn lease_note(&self, token: LeaseToken) -> Option<LeaseNoted> {
        let (id, lease) = self.board.leased(token).ok()?;
        let size = self.board.size(id)?;
        let at = self.board.at(id);
        let source = self.board.source(at.source);
        let home = self.board.source(id.source);
        Some(LeaseNoted {
            group: self.group.id.0,
            topic: source.topic.0,
            partition: source.partition.0,
            offset: at.offset.0,
            token_epoch: token.epoch,
            token_counter: token.counter,
            attempt: self.board.attempt(id),
            member: self.holder_name(&lease.holder),
            key: self
                .board
                .key(id)
                .map(Bytes::copy_from_slice)
                .unwrap_or_default(),
            size,
            since_ms: self.clock.wall(lease.since_ms),
            ended: false,
            home_topic: if at == id { 0 } else { home.topic.0 },
            home_partition: home.partition.0,
            home_offset: id.offset.0,
            suspect: self.board.is_suspect(id),
        })
    }

    /// Gives events back that nobody has begun to work on, or will go on with.
    pub(in crate::group) fn hand_back(&mut self, tokens: &[LeaseToken]) {
        // Nobody is to be waited for after a restart.
        let leases: Vec<LeaseNoted> = tokens
            .iter()
            .filter(|token| {
                let lease = self.board.leased(**token);
                lease.is_ok_and(|(_, lease)| lease.noted)
            })
            .filter_map(|token| self.lease_note(*token))
            .map(|note| LeaseNoted {
                ended: true,
                ..note
            })
            .collect();
        self.commit_notes(leases);
        // Each goes to the front, so the last one first.
        for token in tokens.iter().rev() {
            self.board.hand_back(*token);
        }
    }
}
