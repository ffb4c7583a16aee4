//! Reads pages of the group's sources, and single events again whose turn has
//! come, so that something is ready when somebody has credit.

use std::collections::BTreeMap;

use sluice_proto::Offset;
use tokio::task;

use super::{
    Continuation, FETCHES_MAX, GroupTask, READ_AGAIN_AFTER, READY_EACH, READY_HIGH, READY_LOW,
    SKIPS_AFTER_MS, deliver::LOOKED_AT_MAX,
};
use crate::{
    commit::{ReadError, StoredEvent, record::Ordering},
    group::{
        board::EventId,
        pace::{self, Standing},
        scan::turn_to_filter,
    },
};

/// An event that is to be read.
#[derive(Clone, Copy)]
struct Wanted {
    /// Where it lies in its source.
    at: Offset,
    id: EventId,
}

/// Whether an event is among those, which are in order.
fn has(events: &[StoredEvent], offset: Offset) -> bool {
    let found = events.binary_search_by_key(&offset, |event| event.offset);
    found.is_ok()
}

impl GroupTask {
    /// Reads pages until enough is ready. True when it can go on at once.
    pub(super) fn read_ahead(&mut self) -> bool {
        self.read_pages(Self::goes_beside)
    }

    /// As [`Self::read_ahead`]; `goes_beside` says of a source whether its next page is
    /// another thread's, also if this one could read it.
    fn read_pages(&mut self, goes_beside: impl Fn(&Self, usize) -> bool) -> bool {
        const PAGES_PER_TURN: usize = 4;
        self.read_on_ms = None;
        if self.disabled.is_some() || self.changing.holds() {
            return false;
        }
        let (mut pages, mut passed) = (0, 0);
        while passed < self.feeds.len() {
            let source = self.scan_turn % self.feeds.len();
            if !self.wants_page(source) {
                self.scan_turn = source + 1;
                passed += 1;
                continue;
            }
            if pages == PAGES_PER_TURN {
                return true;
            }
            (pages, passed) = (pages + 1, 0);
            // A page of each in turn: one that always has more keeps nobody out.
            self.scan_turn = source + 1;
            let from = self.board.scan_next(source);
            let scanned = match goes_beside(self, source) {
                true => None,
                false => {
                    self.scanner.limits.events = self.room_for(source).min(self.page_events());
                    self.scanner.scan_now(&self.feeds[source], from)
                }
            };
            match scanned {
                Some(Ok(page)) => self.page_read(source, page),
                // There it is told, and not read again at once.
                Some(Err(_)) | None => {
                    let events = self.room_for(source).min(self.page_events_beside());
                    self.scanner.limits.events = events;
                    self.scan_beside(source, from);
                }
            }
        }
        false
    }

    /// Whether the members have so much to do that the next page is not waited for, and
    /// it is worth calling another thread: then this one goes on with what there is. One
    /// page at a time, as what it brings is not known before.
    fn goes_beside(&self, source: usize) -> bool {
        let from = self.board.scan_next(source);
        let page = self.readable_end(source).0.saturating_sub(from.0);
        let are_busy = self.board.ready() + self.board.in_flight() >= READY_LOW;
        self.pages_beside == 0
            && are_busy
            && page >= READY_LOW as u64
            && self.scanner.route.is_none()
    }

    pub(super) fn wants_page(&mut self, source: usize) -> bool {
        // While one is on its way, which may take long from files, others are read only
        // if there is little to give out.
        let waits = self.pages_beside > 0 && self.board.ready() >= READY_LOW;
        !self.scanning[source]
            && !waits
            && (self.board.ready() < self.ready_wanted() || self.scans_on())
            && self.has_room_for(source)
            && self.board.scan_next(source) < self.readable_end(source)
            && self.reads_on()
    }

    /// Whether the next page is due. Notes when it will be.
    fn reads_on(&mut self) -> bool {
        if self.config().ordering() != Ordering::Key || self.scans_on() {
            return true;
        }
        let due = self.pace.next_due(self.standing());
        let is_due = due <= self.clock.now_ms();
        self.read_on_ms = Some(due).filter(|_| !is_due);
        is_due
    }

    pub(super) fn standing(&self) -> Standing {
        Standing {
            in_line: self.board.queued(),
            at_work: self.board.in_flight(),
            settled: self.board.settled_count(),
        }
    }

    /// Events of a page, as many as are wanted.
    fn page_events(&self) -> usize {
        let wanted = match self.config().ordering() {
            Ordering::Key => pace::PAGE_EVENTS,
            Ordering::None | Ordering::Partition => self.ready_wanted(),
        };
        wanted.min(self.limits.page.events)
    }

    /// Events of a page that another thread reads. To call it is dear, and what is read
    /// from files is read again for the next page when a frame goes on beyond.
    fn page_events_beside(&self) -> usize {
        match self.config().ordering() {
            Ordering::Key | Ordering::None if self.payloads.has_room_ahead() => {
                self.limits.page.events
            }
            _ => self.page_events(),
        }
    }

    /// How many events are to be ready.
    fn ready_wanted(&self) -> usize {
        match self.config().ordering() {
            _ if self.payloads.has_room_ahead() => {
                (READY_EACH * self.members.len()).clamp(READY_LOW, READY_HIGH)
            }
            // What takes the room is ready, and the next to go. More would be read again.
            Ordering::None if self.in_vain == 0 => LOOKED_AT_MAX,
            // It fits nobody, or is in line behind other events.
            _ => READY_LOW,
        }
    }

    /// Where a source ends for now.
    pub(in crate::group) fn readable_end(&self, source: usize) -> Offset {
        let from = self.board.scan_next(source);
        self.scanner.readable_end(&self.feeds[source], from)
    }

    /// Nothing wakes a group with a route for events that it does not want: before
    /// it says where it stands, it looks how far it gets without.
    pub(super) fn come_up(&mut self) {
        if self.scanner.route.is_some() {
            self.read_pages(|_, _| false);
        }
    }

    pub(super) fn has_room_for(&self, source: usize) -> bool {
        self.room_for(source) > 0
    }

    /// For how many more events of a source there is room.
    fn room_for(&self, source: usize) -> usize {
        let window_max = self.limits.window_events_max;
        if self.board.finds_from().is_some()
            || (source == self.board.parking_source() && self.board.are_returning())
        {
            return 0;
        }
        if self.config().ordering() != Ordering::Partition {
            return match window_max.saturating_sub(self.board.unparked()) {
                0 => 0,
                // Not one by one.
                room => room.max(pace::PAGE_EVENTS),
            };
        }
        // All of a partition waits for the first of it, and must leave room for
        // the others.
        let share = (window_max / self.feeds.len().max(1)).clamp(1, READY_LOW);
        match share.saturating_sub(self.board.unparked_of(source)) {
            // Not one by one.
            room if room < share.div_ceil(2) => 0,
            room => room,
        }
    }

    fn scan_beside(&mut self, source: usize, from: Offset) {
        self.scanning[source] = true;
        self.pages_beside += 1;
        let scanner = self.scanner.clone();
        let generation = self.generation;
        let feed = self.feeds[source].clone();
        self.jobs.push(Box::pin(async move {
            let lagging = feed.turn(&scanner.store, from).await;
            let turn = match scanner.filter {
                Some(_) => turn_to_filter().await,
                None => None,
            };
            let scanned = task::spawn_blocking(move || scanner.scan(&feed, from)).await;
            drop((turn, lagging));
            if matches!(scanned, Ok(Err(_)) | Err(_)) {
                tokio::time::sleep(READ_AGAIN_AFTER).await;
            }
            Box::new(move |task: &mut Self| {
                match scanned {
                    // The position was moved meanwhile, or the filter is another one.
                    Ok(_) if task.generation != generation => {}
                    Ok(Ok(page)) => return task.page_came(source, page),
                    Ok(Err(error)) => task.page_failed(source, &error),
                    Err(error) => tracing::error!(%error, "a scan ended with a panic"),
                }
                task.page_is_through(source);
            }) as Continuation
        }));
    }

    fn page_failed(&self, source: usize, error: &ReadError) {
        let source = self.board.source(source);
        tracing::error!(%error, ?source, group = %self.group.name, "cannot read");
    }

    /// Nothing is left of a page that was read beside the task.
    pub(super) fn page_is_through(&mut self, source: usize) {
        self.scanning[source] = false;
        self.pages_beside -= 1;
    }

    /// Reads events again whose turn has come and that are not in memory: those
    /// in the tail cache at once, the others beside the task.
    pub(super) fn fetch_missing(&mut self) {
        let room = self.payloads.room_for_needed();
        let mut room = room.saturating_sub(self.fetching_bytes);
        let mut wanted: BTreeMap<usize, Vec<Wanted>> = BTreeMap::new();
        let suspects = self.board.suspects().min(FETCHES_MAX);
        for (at, seat) in self.board.first_ready(FETCHES_MAX).enumerate() {
            let id = seat.id;
            if self.board.size_at_hand(seat).is_some() || self.fetching.contains(&id) {
                continue;
            }
            let size = self.size(id);
            // One always moves, however large it is.
            let first = wanted.is_empty() && self.fetching.is_empty();
            // Suspects come first.
            let could_be_taken = if at < suspects {
                self.suspect_could_be_taken(size)
            } else {
                self.could_be_taken(size)
            };
            if !could_be_taken || (size > room && !first) {
                continue;
            }
            room = room.saturating_sub(size);
            let at = self.board.at(id);
            let of_source = wanted.entry(at.source).or_default();
            of_source.push(Wanted { at: at.offset, id });
        }
        for (source, mut wanted) in wanted {
            wanted.sort_unstable_by_key(|of| of.at);
            let picked = self.pick_cached(source, &wanted);
            let missing = wanted.iter().filter(|of| !has(&picked, of.at)).copied();
            let missing: Vec<_> = missing.collect();
            self.keep_needed(&wanted, picked);
            if !missing.is_empty() {
                self.fetch(source, missing);
            }
        }
    }

    fn pick_cached(&self, source: usize, wanted: &[Wanted]) -> Vec<StoredEvent> {
        let offsets: Vec<Offset> = wanted.iter().map(|of| of.at).collect();
        let partition = self.feeds[source].partition();
        let picked = partition.map(|partition| self.scanner.store.pick_cached(partition, &offsets));
        // What is damaged in memory is looked for on the disk.
        picked.and_then(Result::ok).unwrap_or_default()
    }

    fn keep_needed(&mut self, wanted: &[Wanted], events: Vec<StoredEvent>) {
        for event in events {
            let of = wanted.binary_search_by_key(&event.offset, |of| of.at);
            // It may have left the board, or its place, while it was read.
            if let Ok(of) = of.map(|at| wanted[at])
                && self.board.size(of.id).is_some()
                && self.board.at(of.id).offset == of.at
            {
                let at = self.payloads.keep_needed(event);
                self.board.keep(of.id, at);
            }
        }
    }

    fn fetch(&mut self, source: usize, wanted: Vec<Wanted>) {
        self.fetching.extend(wanted.iter().map(|of| of.id));
        let bytes: usize = wanted.iter().map(|of| self.size(of.id)).sum();
        self.fetching_bytes += bytes;
        let feed = self.feeds[source].clone();
        let store = self.scanner.store.clone();
        self.jobs.push(Box::pin(async move {
            let offsets: Vec<Offset> = wanted.iter().map(|of| of.at).collect();
            let first = offsets.first().copied().unwrap_or_default();
            let turn = feed.turn(&store, first).await;
            let read = task::spawn_blocking(move || feed.pick(&store, &offsets)).await;
            drop(turn);
            if !matches!(read, Ok(Ok(_))) {
                tokio::time::sleep(READ_AGAIN_AFTER).await;
            }
            Box::new(move |task: &mut Self| {
                for of in &wanted {
                    task.fetching.remove(&of.id);
                }
                task.fetching_bytes -= bytes;
                // What is at hand now was passed over before.
                task.in_vain = 0;
                match read {
                    Ok(Ok(events)) => {
                        task.drop_missing(source, &wanted, &events);
                        task.keep_needed(&wanted, events);
                    }
                    Ok(Err(error)) => tracing::error!(%error, "cannot read events again"),
                    Err(error) => tracing::error!(%error, "a read ended with a panic"),
                }
            }) as Continuation
        }));
    }

    /// Of these events some were asked for and are gone: the topic dropped them
    /// while they waited here.
    fn drop_missing(&mut self, source: usize, asked: &[Wanted], read: &[StoredEvent]) {
        let moved = |of: &Wanted| {
            let at = self.board.at(of.id);
            (at.source, at.offset) != (source, of.at)
        };
        let missing: Vec<EventId> = asked
            .iter()
            .filter(|of| !has(read, of.at) && !moved(of))
            .map(|of| of.id)
            .collect();
        if !missing.is_empty() {
            let now = self.clock.now_ms();
            self.dropped += self.board.drop_ready(&missing, now);
            self.skips_due_ms.get_or_insert(now + SKIPS_AFTER_MS);
        }
    }

    /// Reads an event; `None` when it is gone.
    pub(in crate::group) fn read_event(
        &self,
        id: EventId,
    ) -> impl Future<Output = Result<Option<StoredEvent>, String>> + use<> {
        let at = self.board.at(id);
        let feed = self.feeds[at.source].clone();
        let store = self.scanner.store.clone();
        async move {
            let read = task::spawn_blocking(move || feed.fetch(&store, at.offset)).await;
            match read {
                Ok(Ok(event)) => Ok(event),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        }
    }
}
