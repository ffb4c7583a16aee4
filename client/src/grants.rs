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
}

impl Grants {
    pub(crate) fn new(room: u64) -> Self {
        Self {
            room,
            outstanding: 0,
            received: 0,
            granted: 0,
        }
    }

    /// A new stream begins, on which nothing is granted.
    pub(crate) fn new_stream(&mut self) {
        self.received = 0;
        self.granted = 0;
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
        let free = self.room.saturating_sub(self.outstanding);
        self.granted = self.granted.max(self.received + free);
        self.granted
    }

    /// Whether a grant would give a good part of the room anew.
    pub(crate) fn is_due(&self) -> bool {
        let free = self.room.saturating_sub(self.outstanding);
        let limit = self.received + free;
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
        /// room is outstanding, limits never shrink, and an empty consumer is
        /// never stuck.
        #[test]
        fn no_more_comes_than_there_is_room(
            room in 1_u64..20,
            steps in proptest::collection::vec(0_u8..4, 0..300),
        ) {
            let mut grants = Grants::new(room);
            let (mut limit, mut sent, mut outstanding) = (0, 0, 0_u64);
            for step in steps {
                match step {
                    0 if sent < limit => {
                        sent += 1;
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
                    }
                    _ => {}
                }
                if grants.is_due() {
                    let new = grants.limit();
                    prop_assert!(new > limit);
                    limit = new;
                }
                prop_assert!(outstanding + (limit - sent) <= room);
                prop_assert!(outstanding > 0 || limit > sent, "stuck");
            }
        }
    }
}
