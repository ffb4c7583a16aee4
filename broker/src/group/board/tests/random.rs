//! Random steps of a board without parking, against what must be true of it.

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// As many events arrive, with this key each; `None` is filtered out.
    Arrive(Vec<Option<u8>>),
    Lease,
    /// What is done with one of the leases, by number.
    Ack(usize),
    Nack(usize, u64),
    HandBack(usize),
    Refused(usize),
    Time(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        proptest::collection::vec(proptest::option::weighted(0.8, 0_u8..4), 0..6)
            .prop_map(Step::Arrive),
        Just(Step::Lease),
        Just(Step::Lease),
        (0_usize..8).prop_map(Step::Ack),
        (0_usize..8, 0_u64..3000).prop_map(|(lease, delay)| Step::Nack(lease, delay)),
        (0_usize..8).prop_map(Step::HandBack),
        (0_usize..8).prop_map(Step::Refused),
        (0_u64..1500).prop_map(Step::Time),
    ]
}

/// A board, and what is known of it from outside.
struct Run {
    board: Board,
    now: u64,
    next: u64,
    keys: BTreeMap<Offset, u8>,
    settled: BTreeSet<Offset>,
    leases: Vec<(EventId, LeaseToken)>,
    tokens: BTreeSet<LeaseToken>,
}

impl Run {
    fn new() -> Self {
        Self {
            board: board(),
            now: 0,
            next: 0,
            keys: BTreeMap::new(),
            settled: BTreeSet::new(),
            leases: Vec::new(),
            tokens: BTreeSet::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Arrive(events) => {
                let first = self.next;
                self.next += events.len() as u64;
                let mut matched = Vec::new();
                for (offset, key) in (first..).zip(events) {
                    match key {
                        // 0 is no key.
                        Some(0) => matched.push((offset, String::new())),
                        Some(key) => {
                            self.keys.insert(Offset(offset), key);
                            matched.push((offset, key.to_string()));
                        }
                        None => drop(self.settled.insert(Offset(offset))),
                    }
                }
                let matched = matched.iter().map(|(offset, key)| arrived(*offset, key));
                self.board.scanned(0, Offset(self.next), matched, self.now);
            }
            Step::Lease => self.lease(),
            Step::Ack(at) => {
                if let Some((event, token)) = self.take_lease(at) {
                    assert_eq!(self.board.freeze(token, self.now).unwrap().id, event);
                    assert_eq!(
                        self.board.freeze(token, self.now),
                        Err(LeaseError::Settling)
                    );
                    self.board.settled(event, self.now);
                    assert!(self.settled.insert(event.offset));
                }
            }
            Step::Nack(at, delay) => {
                if let Some((event, token)) = self.take_lease(at) {
                    self.board.freeze(token, self.now).unwrap();
                    self.fail(event, delay);
                }
            }
            Step::HandBack(at) => {
                if let Some((event, token)) = self.take_lease(at) {
                    self.board.hand_back(token);
                    assert_eq!(next_ready(&self.board), Some(event));
                }
            }
            Step::Refused(at) => {
                if !self.leases.is_empty() {
                    let (event, token) = self.leases[at % self.leases.len()];
                    self.board.freeze(token, self.now).unwrap();
                    self.board.thaw(event, self.now, |_| true);
                    assert!(self.board.leased(token).is_ok());
                }
            }
            Step::Time(passes) => {
                self.now += passes;
                self.board.wake_delayed(self.now);
                while let Some(token) = self.board.pop_expired(self.now) {
                    let at = self.leases.iter().position(|(_, t)| *t == token).unwrap();
                    let (event, _) = self.leases.remove(at);
                    assert_eq!(self.board.vanish(&[token])[0].id, event);
                    self.fail(event, 0);
                }
            }
        }
    }

    fn lease(&mut self) {
        // Every other one belongs to a stream.
        let holder = if self.tokens.len().is_multiple_of(2) {
            MEMBER
        } else {
            Holder::Unary("w".into())
        };
        if let Some(given) = self.board.lease(holder, self.now) {
            let (event, token) = (given.id, given.token);
            assert!(self.tokens.insert(token), "a token given twice");
            assert!(!self.settled.contains(&event.offset), "{event:?} again");
            self.leases.push((event, token));
        }
    }

    fn take_lease(&mut self, at: usize) -> Option<(EventId, LeaseToken)> {
        let at = at.checked_rem(self.leases.len())?;
        Some(self.leases.remove(at))
    }

    fn fail(&mut self, event: EventId, delay: u64) {
        let attempt = self.board.attempt(event);
        self.board
            .failed(event, failed(attempt, self.now + delay), self.now);
        assert_eq!(self.board.attempt(event), attempt + 1);
    }

    fn check(&self) {
        // One at a time of each key, and the first of those not settled.
        let mut leased_keys = BTreeSet::new();
        for (event, token) in &self.leases {
            assert_eq!(self.board.leased(*token).unwrap().0, *event);
            if let Some(key) = self.keys.get(&event.offset) {
                assert!(leased_keys.insert(*key), "key {key} twice");
                let earlier = self.keys.range(..event.offset).filter(|(_, k)| *k == key);
                for (offset, _) in earlier {
                    assert!(self.settled.contains(offset), "{event:?} before {offset}");
                }
            }
        }
        assert_eq!(self.board.in_flight(), self.leases.len());
        let unsettled = self.next - self.settled.len() as u64;
        assert_eq!(self.board.len() as u64, unsettled);
        let window = self.board.window(0);
        assert_eq!(window.unsettled_below(Offset(self.next)), unsettled);
        let places = self.leases.len() + self.board.ready() + self.board.queued();
        assert_eq!(places + self.board.delayed(), self.board.len());
    }

    /// Everything that is left can be worked off.
    fn finish(mut self) {
        while self.settled.len() < self.next as usize {
            self.step(Step::Time(4000));
            self.step(Step::Lease);
            let before = self.settled.len();
            self.step(Step::Ack(0));
            assert!(self.settled.len() > before, "nothing can be leased");
            self.check();
        }
        assert!(self.board.is_empty());
        assert_eq!(self.board.window(0).committed_end(), Offset(self.next));
    }
}

proptest! {
    /// Whatever happens: no event is lost or given to two, keys keep their
    /// order, and everything can be worked off in the end.
    #[test]
    fn no_event_is_lost_doubled_or_out_of_order(
        steps in proptest::collection::vec(step(), 0..80),
    ) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
            run.check();
        }
        run.finish();
    }
}
