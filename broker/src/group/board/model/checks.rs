//! What must hold after every step.

use super::*;

impl Run {
    /// Whether two events go in one line.
    pub(super) fn same_line(&self, a: EventId, b: EventId) -> bool {
        let (one, other) = (&self.events[&a], &self.events[&b]);
        match self.rules.ordering {
            _ if one.dropped || other.dropped => false,
            Ordering::None => false,
            Ordering::Key => one.key.is_some() && one.key == other.key,
            Ordering::Partition => a.source == b.source,
        }
    }

    /// Events of the same source, in order.
    pub(super) fn of_source(&self, source: usize) -> impl Iterator<Item = (EventId, &Event)> {
        let events = self.events.iter().map(|(id, event)| (*id, event));
        events.filter(move |(id, _)| id.source == source)
    }

    /// First deliveries of a line come in order.
    pub(super) fn check_first_delivery(&self, id: EventId) {
        for (later, other) in self.of_source(id.source) {
            let overtaken = later > id && self.same_line(id, later) && other.delivered;
            assert!(!overtaken, "{later:?} was delivered before {id:?}");
        }
    }

    /// Leases on the board, on what, and whose.
    fn leased(&self) -> impl Iterator<Item = (LeaseToken, &Given)> {
        let under_way = self.under_way.iter().map(|(token, of)| (*token, &of.given));
        let given = self.given.iter().map(|(token, given)| (*token, given));
        given.chain(under_way)
    }

    /// How many leases somebody has.
    pub(super) fn leases_of(&self, holder: &Holder) -> usize {
        let leased = self.leased().filter(|(_, given)| given.holder == *holder);
        let in_line = self.in_line.iter().filter(|of| of.holder == *holder);
        leased.count() + in_line.count()
    }

    pub(super) fn check(&mut self) {
        for at in self.board.take_unwanted() {
            self.payloads.remove(at);
        }
        let kept = self.board.events.values().filter(|of| of.kept.is_some());
        assert_eq!(self.payloads.len(), kept.count(), "in memory for nobody");
        self.check_leases();
        self.check_places();
        self.check_windows();
        self.check_followers();
        for (id, event) in self.on_board() {
            assert_eq!(self.board.attempt(id), event.counted + 1, "{id:?}");
            assert_eq!(self.board.is_suspect(id), event.suspect, "{id:?}");
            assert_eq!(self.board.at(id), self.lies(id), "{id:?}");
        }
    }

    /// What is given is where the board says, once, and in its line.
    fn check_leases(&self) {
        let mut leased = BTreeSet::new();
        for (token, given) in self.leased() {
            let id = given.id;
            assert!(leased.insert(id), "{id:?} has two leases");
            assert!(!self.events[&id].settled, "{id:?} is settled and leased");
            self.check_line(given);
            let Holding {
                leases: holding,
                vanishing,
                ..
            } = self.board.holding(&given.holder);
            assert_eq!(holding, self.leases_of(&given.holder), "what one holds");
            let is_vanishing = self.vanishing.contains(&given.holder);
            assert_eq!(vanishing, is_vanishing, "who is vanishing");
            let cap = self.rules.per_holder_max;
            assert!(cap == 0 || holding <= cap, "a member above its cap");
            if self.under_way.contains_key(&token) {
                assert_eq!(self.board.leased(token), Err(LeaseError::Settling));
                continue;
            }
            let (of, lease) = self.board.leased(token).expect("a live lease");
            assert_eq!((of, &lease.holder), (id, &given.holder));
            // It is noted with the lease.
            let key = self.key_of(id);
            assert_eq!(self.board.key(id), key.as_deref(), "the key of {id:?}");
            if self.events[&id].suspect {
                assert_eq!(holding, 1, "suspect {id:?} has neighbours");
                assert!(lease.solo, "suspect {id:?} does not count as one");
            }
        }
        for held in self.held.values() {
            assert!(leased.insert(held.id), "{:?} is held and leased", held.id);
        }
        assert_eq!(self.board.occupied(), leased.len() + self.in_line.len());
        let settling = self.under_way.len() + self.in_line.len();
        let settling = settling + self.failing.len() + self.moving.len();
        assert_eq!(self.board.settling(), settling, "what is on its way");
    }

    /// What is under lease is the first of its line that may be.
    fn check_line(&self, given: &Given) {
        let id = given.id;
        let earlier = self.of_source(id.source).take_while(|(of, _)| *of < id);
        for (earlier, other) in earlier {
            if !self.same_line(id, earlier) || other.settled {
                continue;
            }
            // It has failed and let this one pass, or its ack is in line.
            let in_line = self.in_line.iter().any(|of| of.id == earlier);
            let passed = in_line || (self.rules.overtake && other.has_failed);
            assert!(passed, "{id:?} is under lease before {earlier:?}");
        }
        for (_, other) in self.leased().filter(|(_, of)| of.id != id) {
            // One whose failure was not recorded comes again with the one that passed it.
            let both_from_before = given.from_before && other.from_before;
            let same = self.same_line(id, other.id) && !both_from_before;
            assert!(!same, "{:?} and {id:?} at once", other.id);
        }
    }

    fn on_board(&self) -> impl Iterator<Item = (EventId, &Event)> {
        let events = self.events.iter().map(|(id, event)| (*id, event));
        events.filter(|(id, _)| self.board.events.get(id).is_some())
    }

    /// Nothing is lost, and nothing is there that is settled.
    fn check_places(&self) {
        let (mut there, mut returning, mut parked) = (0, 0, 0);
        for (id, event) in &self.events {
            let on_board = self.board.events.get(id).is_some();
            let returns = self.board.lot.returning.contains_key(id);
            assert!(!(on_board && returns), "{id:?} is in two places");
            there += usize::from(on_board);
            returning += usize::from(returns);
            let is_known = on_board || returns;
            parked += usize::from(is_known && event.parked_at.is_some());
            if event.settled {
                assert!(!is_known, "{id:?} is settled and there");
                continue;
            }
            let comes = match event.parked_at {
                Some(at) => self.board.finds_from().is_some_and(|next| next <= at),
                None => self.board.scan_next(id.source) <= id.offset,
            };
            assert!(is_known || comes, "{id:?} is lost");
        }
        assert_eq!(self.board.len(), there, "on the board for nobody");
        assert_eq!(self.board.lot.returning.len(), returning);
        let on_their_way = self.moving.iter().filter(|id| self.board.at(**id) == **id);
        assert_eq!(self.board.parked_events(), parked + on_their_way.count());
        let mut sum = Counts::default();
        for counts in self.board.counts() {
            sum += counts;
        }
        let all = sum.in_flight + sum.delayed + sum.parked + sum.held + sum.ready;
        let all = all + sum.suspect + sum.queued;
        assert_eq!(all, (there + returning) as u64, "{sum:?}");
    }

    /// What is behind a parked event that waits is to be parked as well.
    fn check_followers(&self) {
        for (id, entry) in self.board.events.iter() {
            let waits = matches!(entry.place, Place::Queued) && entry.parked_at().is_none();
            let line = entry
                .line
                .filter(|_| waits && self.rules.ordering == Ordering::Key);
            if line.is_some_and(|line| self.board.holder_is_parked(line)) {
                let follows = self.board.lot.followers.contains(id);
                assert!(follows, "{id:?} is behind a parked event and stays");
            }
        }
    }

    /// What is settled is so on the board and in the log, and nothing else.
    fn check_windows(&self) {
        let mut unsettled = vec![BTreeSet::new(); self.durable.len()];
        for (id, _) in self.events.iter().filter(|(_, event)| !event.settled) {
            let at = self.lies(*id);
            unsettled[at.source].insert(at.offset);
        }
        for (source, unsettled) in unsettled.iter().enumerate() {
            let window = self.board.window(source);
            assert_eq!(window, &self.durable[source].window);
            let end = match self.ends.get(source) {
                Some(end) => Offset(*end),
                None => Offset(self.parking.len() as u64),
            };
            let first = unsettled.first().copied().unwrap_or(end);
            assert_eq!(window.committed_end(), first, "source {source}");
            let of_window: BTreeSet<_> = window.unsettled(Offset(0), end).collect();
            assert_eq!(&of_window, unsettled, "source {source}");
        }
    }
}
