//! How much a consumer allows its broker to send.

/// Grants of one consumer: its handlers and the stated prefetch are the room
/// that there is; each event takes a place from its delivery until it is
/// settled.
#[derive(Debug)]
pub(crate) struct Grants {
    room: u64,
    outstanding: u64,
    /// Events that came on the current stream.
    received: u64,
    granted: u64,
    /// Nothing more is granted, on this stream or a later one.
    paused: bool,
}

impl Grants {
    pub(crate) fn new(room: u64) -> Self {
        Self {
            room,
            outstanding: 0,
            received: 0,
            granted: 0,
            paused: false,
        }
    }

    pub(crate) fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// A new stream begins, on which nothing is granted.
    pub(crate) fn new_stream(&mut self) {
        self.received = 0;
        self.granted = 0;
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    pub(crate) fn received(&mut self) {
        self.received += 1;
        self.outstanding += 1;
    }

    pub(crate) fn settled(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
    }

    /// The limit to grant: what came, and the places that are free. Never
    /// decreases within a stream.
    pub(crate) fn limit(&mut self) -> u64 {
        self.granted = self.granted.max(self.received + self.free());
        self.granted
    }

    /// Places for which something more may come.
    fn free(&self) -> u64 {
        if self.paused {
            return 0;
        }
        self.room.saturating_sub(self.outstanding)
    }

    /// Whether a grant would give a good part of the room anew.
    pub(crate) fn is_due(&self) -> bool {
        let limit = self.received + self.free();
        let new = limit.saturating_sub(self.granted);
        new > 0 && (new * 4 >= self.room || self.granted <= self.received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a broker that uses what it is granted: never more than the
        /// room is outstanding, limits never shrink, an empty consumer is never
        /// stuck, and one that is paused is sent no more than it had granted.
        #[test]
        fn no_more_comes_than_there_is_room(
            room in 1_u64..20,
            steps in proptest::collection::vec(0_u8..6, 0..300),
        ) {
            let mut grants = Grants::new(room);
            let (mut limit, mut sent, mut outstanding) = (0, 0, 0_u64);
            // What may still come of what was granted before a pause.
            let mut paused: Option<u64> = None;
            for step in steps {
                match step {
                    0 if sent < limit => {
                        sent += 1;
                        paused = paused.map(|left| left - 1);
                        outstanding += 1;
                        grants.received();
                    }
                    1 if outstanding > 0 => {
                        outstanding -= 1;
                        grants.settled();
                    }
                    2 => {
                        grants.new_stream();
                        (limit, sent) = (0, 0);
                        paused = paused.map(|_| 0);
                    }
                    4 => {
                        grants.set_paused(true);
                        paused.get_or_insert(limit - sent);
                    }
                    5 => {
                        grants.set_paused(false);
                        paused = None;
                    }
                    _ => {}
                }
                if grants.is_due() {
                    let new = grants.limit();
                    prop_assert!(new > limit);
                    limit = new;
                }
                prop_assert!(outstanding + (limit - sent) <= room);
                match paused {
                    // Nothing is granted anew, over reconnects as well.
                    Some(left) => prop_assert!(limit - sent <= left),
                    None => prop_assert!(outstanding > 0 || limit > sent, "stuck"),
                }
            }
        }
    }
}
