//! Reads pages of the group's sources, and single events again whose turn has
//! come, so that something is ready when somebody has credit.

use sluice_proto::Offset;
use tokio::task;

use super::{Continuation, FETCHES_MAX, GroupTask, READ_AGAIN_AFTER, READY_LOW, SKIPS_AFTER_MS};
use crate::{
    commit::{ReadError, StoredEvent},
    group::{
        board::{Arrived, EventId},
        scan::Scanned,
    },
};

impl GroupTask {
    /// Reads pages until enough is ready. True when it can go on at once.
    pub(super) fn read_ahead(&mut self) -> bool {
        const PAGES_PER_TURN: usize = 4;
        if self.disabled.is_some() {
            return false;
        }
        let mut pages = 0;
        for _ in 0..self.feeds.len() {
            let source = self.scan_turn % self.feeds.len();
            self.scan_turn = source + 1;
            while self.wants_page(source) {
                if pages == PAGES_PER_TURN {
                    return true;
                }
                pages += 1;
                let from = self.board.scan_next(source);
                match self.scanner.scan_now(&self.feeds[source], from) {
                    Some(scanned) => self.scanned(source, scanned),
                    None => self.scan_beside(source, from),
                }
            }
        }
        false
    }

    fn wants_page(&self, source: usize) -> bool {
        !self.scanning[source]
            && self.board.ready() < READY_LOW
            && self.board.len() < self.limits.window_events_max
            && self.board.scan_next(source) < self.feeds[source].visible_end()
    }

    fn scan_beside(&mut self, source: usize, from: Offset) {
        self.scanning[source] = true;
        let scanner = self.scanner.clone();
        let feed = self.feeds[source].clone();
        self.jobs.push(Box::pin(async move {
            let scanned = task::spawn_blocking(move || scanner.scan(&feed, from)).await;
            if matches!(scanned, Ok(Err(_)) | Err(_)) {
                tokio::time::sleep(READ_AGAIN_AFTER).await;
            }
            Box::new(move |task: &mut Self| {
                task.scanning[source] = false;
                match scanned {
                    Ok(scanned) => task.scanned(source, scanned),
                    Err(error) => tracing::error!(%error, "a scan ended with a panic"),
                }
            }) as Continuation
        }));
    }

    fn scanned(&mut self, source: usize, scanned: Result<Scanned, ReadError>) {
        let scanned = match scanned {
            Ok(scanned) => scanned,
            Err(error) => {
                let source = self.board.source(source);
                tracing::error!(%error, ?source, group = %self.group.name, "cannot read");
                return;
            }
        };
        self.filtered += scanned.filtered;
        self.filter_errors += scanned.errors;
        if let Some(error) = scanned.last_error {
            self.last_filter_error = error.to_string();
        }
        let now = self.clock.now_ms();
        if scanned.filtered + scanned.errors > 0 && self.skips_due_ms.is_none() {
            self.skips_due_ms = Some(now + SKIPS_AFTER_MS);
        }
        let mut arrived = Vec::with_capacity(scanned.matched.len());
        let mut events = Vec::with_capacity(scanned.matched.len());
        for (event, key) in scanned.matched {
            arrived.push(Arrived {
                offset: event.offset,
                key,
                size: event.event.len() as u32,
            });
            events.push(event);
        }
        let new = self.board.scanned(source, scanned.next, arrived, now);
        let mut new = new.into_iter().peekable();
        for event in events {
            if new.peek().is_some_and(|id| id.offset == event.offset)
                && let Some(id) = new.next()
            {
                self.payloads.keep(id, event, false);
            }
        }
    }

    /// Reads an event again whose turn has come.
    pub(super) fn fetch(&mut self, id: EventId) {
        if self.fetching.len() >= FETCHES_MAX || !self.fetching.insert(id) {
            return;
        }
        let fetched = self.read_event(id);
        self.jobs.push(Box::pin(async move {
            let event = fetched.await;
            if event.is_err() {
                tokio::time::sleep(READ_AGAIN_AFTER).await;
            }
            Box::new(move |task: &mut Self| {
                task.fetching.remove(&id);
                match event {
                    Ok(event) => task.payloads.keep(id, event, true),
                    Err(error) => tracing::error!(%error, ?id, "cannot read an event again"),
                }
            }) as Continuation
        }));
    }

    pub(in crate::group) fn read_event(
        &self,
        id: EventId,
    ) -> impl Future<Output = Result<StoredEvent, String>> + use<> {
        let feed = self.feeds[id.source].clone();
        let store = self.scanner.store.clone();
        async move {
            let read = task::spawn_blocking(move || feed.fetch(&store, id.offset)).await;
            match read {
                Ok(Ok(Some(event))) => Ok(event),
                Ok(Ok(None)) => Err("it is not there any more".into()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        }
    }
}
