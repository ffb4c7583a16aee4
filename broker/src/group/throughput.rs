//! How much a member has got through lately.
//!
//! Pure: it is given the time.

/// What is told is what it gets through in so long …
const LATELY_MS: u64 = 3;
/// … on average of the last stretch of time of this length that is over: in a shorter
/// one many have no ack, or two messages' worth.
const STRETCH_MS: u64 = 20;

/// Acks of a member, by stretches of time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Throughput {
    /// Which stretch this is.
    stretch: u64,
    here: usize,
    /// In the stretch before.
    before: usize,
}

impl Throughput {
    /// It acks so many events.
    pub(super) fn acked(&mut self, events: usize, now_ms: u64) {
        let stretch = now_ms / STRETCH_MS;
        if stretch != self.stretch {
            self.before = self.in_stretch(stretch.saturating_sub(1));
            self.here = 0;
            self.stretch = stretch;
        }
        self.here += events;
    }

    fn in_stretch(&self, stretch: u64) -> usize {
        match self.stretch == stretch {
            true => self.here,
            false => 0,
        }
    }

    /// How many events it acks in [`LATELY_MS`].
    pub(super) fn lately(&self, now_ms: u64) -> usize {
        let stretch = now_ms / STRETCH_MS;
        let acked = match stretch == self.stretch {
            true => self.before,
            false => self.in_stretch(stretch.saturating_sub(1)),
        };
        acked * LATELY_MS as usize / STRETCH_MS as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_the_share_of_what_was_acked_in_the_last_whole_stretch() {
        let mut of = Throughput::default();
        of.acked(100, 100);
        of.acked(20, 119);
        assert_eq!(of.lately(119), 0, "it is not over");
        assert_eq!(
            [of.lately(120), of.lately(139), of.lately(140)],
            [18, 18, 0]
        );
        of.acked(40, 121);
        assert_eq!([of.lately(139), of.lately(140), of.lately(160)], [18, 6, 0]);
        of.acked(80, 179);
        assert_eq!([of.lately(179), of.lately(180)], [0, 12]);
    }
}
