use super::*;
use proptest::prelude::*;

proptest! {
    /// Whatever grants arrive and whatever is offered: never more events
    /// than granted, never more bytes than granted but for one event, and
    /// what is left is used.
    #[test]
    fn no_more_is_sent_than_was_granted(
        steps in proptest::collection::vec((any::<bool>(), 0_u64..50, 0_u64..500), 0..200),
    ) {
        let mut credit = Credit::default();
        let (mut events, mut bytes) = (0_u64, 0_u64);
        let mut best = Grant { max_events: 0, max_bytes: Some(0) };
        for (is_grant, a, b) in steps {
            if is_grant {
                let grant = Grant { max_events: a, max_bytes: Some(b) };
                let grows = a >= best.max_events && b >= best.max_bytes.unwrap_or(0);
                prop_assert_eq!(credit.grant(grant).is_ok(), grows);
                if grows {
                    best = grant;
                }
            } else {
                let left = events < best.max_events && bytes < best.max_bytes.unwrap_or(0);
                prop_assert_eq!(credit.may_send(), left);
                if left {
                    let before = bytes;
                    credit.sent(b);
                    events += 1;
                    bytes += b;
                    prop_assert!(before < best.max_bytes.unwrap_or(0));
                }
                prop_assert!(events <= best.max_events);
            }
        }
    }
}

#[test]
fn a_bound_on_bytes_cannot_come_later() {
    let mut credit = Credit::default();
    let unbounded = Grant {
        max_events: 1,
        max_bytes: None,
    };
    credit.grant(unbounded).expect("the first");
    let bounded = Grant {
        max_events: 2,
        max_bytes: Some(9),
    };
    assert!(credit.grant(bounded).is_err());
    assert!(credit.may_send());
}

#[test]
fn an_event_larger_than_the_grant_moves_and_becomes_debt() {
    let mut credit = Credit::default();
    let grant = |max_bytes| Grant {
        max_events: 9,
        max_bytes: Some(max_bytes),
    };
    credit.grant(grant(10)).expect("grows");
    assert!(credit.may_send());
    credit.sent(100);
    assert_eq!(credit.remaining_bytes(), Some(-90));
    credit.grant(grant(100)).expect("grows");
    assert!(!credit.may_send());
    credit.grant(grant(101)).expect("grows");
    assert!(credit.may_send());
}

/// What a worker knows of its stream: it has room for so many events, and
/// grants what it has got and what is free.
struct Worker {
    room_events: u64,
    room_bytes: u64,
    got: Vec<u64>,
    held: Vec<u64>,
}

impl Worker {
    fn grant(&self) -> Grant {
        let bytes = |of: &[u64]| of.iter().sum::<u64>();
        Grant {
            max_events: self.got.len() as u64
                + self.room_events.saturating_sub(self.held.len() as u64),
            max_bytes: Some(bytes(&self.got) + self.room_bytes.saturating_sub(bytes(&self.held))),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Grant,
    /// The grant on its way at this place arrives, is lost, or comes twice.
    Arrive(usize),
    Lose(usize),
    Repeat(usize),
    Send,
    Settle(usize),
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Grant),
        3 => any::<usize>().prop_map(Step::Arrive),
        1 => any::<usize>().prop_map(Step::Lose),
        1 => any::<usize>().prop_map(Step::Repeat),
        4 => Just(Step::Send),
        2 => any::<usize>().prop_map(Step::Settle),
        1 => Just(Step::Reconnect),
    ]
}

/// A broker and a worker with a network between them that loses, repeats and
/// reorders grants, and over which they meet again and again.
struct Simulation {
    worker: Worker,
    credit: Credit,
    stream: u32,
    /// Grants on their way, each of a stream.
    under_way: Vec<(u32, Grant)>,
    /// The most that was granted on this stream, arrived or not.
    granted: Grant,
    events: std::collections::VecDeque<u64>,
    sent_events: u64,
    sent_bytes: u64,
}

impl Simulation {
    fn grant(&mut self) {
        let grant = self.worker.grant();
        self.granted.max_events = self.granted.max_events.max(grant.max_events);
        self.granted.max_bytes = self.granted.max_bytes.max(grant.max_bytes);
        self.under_way.push((self.stream, grant));
    }

    /// One of an earlier stream cannot arrive on this one.
    fn arrive(&mut self, (stream, grant): (u32, Grant)) {
        if stream == self.stream {
            let _ = self.credit.grant(grant);
        }
    }

    fn send(&mut self) -> Result<(), TestCaseError> {
        if !self.credit.may_send() {
            return Ok(());
        }
        let Some(bytes) = self.events.pop_front() else {
            return Ok(());
        };
        // Safety: below both limits before, so beyond them by one event at most.
        prop_assert!(self.sent_events < self.granted.max_events);
        prop_assert!(Some(self.sent_bytes) < self.granted.max_bytes);
        self.credit.sent(bytes);
        self.sent_events += 1;
        self.sent_bytes += bytes;
        self.worker.got.push(bytes);
        self.worker.held.push(bytes);
        Ok(())
    }

    fn reconnect(&mut self) {
        self.stream += 1;
        self.credit = Credit::default();
        self.granted = Grant {
            max_events: 0,
            max_bytes: Some(0),
        };
        (self.sent_events, self.sent_bytes) = (0, 0);
        self.worker.got.clear();
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        let at = |index: usize, len: usize| (len > 0).then(|| index % len);
        match step {
            Step::Grant => self.grant(),
            Step::Arrive(index) => {
                if let Some(at) = at(index, self.under_way.len()) {
                    let grant = self.under_way.swap_remove(at);
                    self.arrive(grant);
                }
            }
            Step::Lose(index) => {
                if let Some(at) = at(index, self.under_way.len()) {
                    self.under_way.swap_remove(at);
                }
            }
            Step::Repeat(index) => {
                if let Some(at) = at(index, self.under_way.len()) {
                    let again = self.under_way[at];
                    self.under_way.push(again);
                }
            }
            Step::Send => self.send()?,
            Step::Settle(index) => {
                if let Some(at) = at(index, self.worker.held.len()) {
                    self.worker.held.swap_remove(at);
                }
            }
            Step::Reconnect => self.reconnect(),
        }
        Ok(())
    }
}

proptest! {
    /// Safety and liveness over a network that does to grants what it likes:
    /// never more is sent than was granted and one event; and as soon as one
    /// grant gets through to a worker with free room, an event goes out, down to
    /// the last.
    #[test]
    fn grants_survive_loss_repetition_reordering_and_reconnects(
        room_events in 1_u64..20,
        room_bytes in 1_u64..300,
        sizes in proptest::collection::vec(1_u64..200, 1..60),
        steps in proptest::collection::vec(step(), 0..300),
    ) {
        let mut simulation = Simulation {
            worker: Worker { room_events, room_bytes, got: Vec::new(), held: Vec::new() },
            credit: Credit::default(),
            stream: 0,
            under_way: Vec::new(),
            granted: Grant { max_events: 0, max_bytes: Some(0) },
            events: sizes.into(),
            sent_events: 0,
            sent_bytes: 0,
        };
        for step in steps {
            simulation.take(step)?;
        }
        // The worker gets done, and the next heartbeat gets through.
        while !simulation.events.is_empty() {
            simulation.worker.held.clear();
            simulation.grant();
            let heartbeat = simulation.under_way.pop();
            if let Some(heartbeat) = heartbeat {
                simulation.arrive(heartbeat);
            }
            prop_assert!(simulation.credit.may_send(), "stuck");
            simulation.send()?;
        }
    }
}
