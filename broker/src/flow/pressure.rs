//! What a group's backlog means for those who publish to its topic.
//!
//! The fill is the backlog as a share of its limit, the greatest of events, bytes
//! and age. Below the low mark nothing happens. From there to the high mark, the
//! limit itself, windows shrink in proportion. At the high mark the topic is
//! shut; it opens again at the reopening mark, somewhat below, so that it does
//! not open and shut with every single event.

/// The share of the limit at which producers' windows begin to shrink.
pub const LOW_MARK: f64 = 0.5;
/// At the limit itself nothing more is let in.
pub const HIGH_MARK: f64 = 1.0;
/// A topic that was shut opens at this share again.
pub const REOPEN_MARK: f64 = 0.9;
/// Windows that have shrunk are whole again at this share.
pub const RELAX_MARK: f64 = 0.45;

/// What a group has not settled: matched and not judged yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Events.
    pub events: u64,
    /// About their bytes.
    pub bytes: u64,
    /// How long ago the oldest was appended, in milliseconds.
    pub age_ms: u64,
}

/// How large a backlog may be; 0 is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BacklogLimit {
    /// Events.
    pub events: u64,
    /// Bytes.
    pub bytes: u64,
    /// Milliseconds.
    pub age_ms: u64,
}

impl BacklogLimit {
    /// How much of the limit the backlog is; 1 at the limit.
    #[must_use]
    pub fn fill(&self, backlog: Backlog) -> f64 {
        let share = |of: u64, limit: u64| match limit {
            0 => 0.0,
            limit => of as f64 / limit as f64,
        };
        share(backlog.events, self.events)
            .max(share(backlog.bytes, self.bytes))
            .max(share(backlog.age_ms, self.age_ms))
    }
}

/// How a group presses on its topic.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Pressure {
    /// Not at all.
    #[default]
    None,
    /// Windows are so much of what they are at most, between 0 and 1.
    Shrinks(f64),
    /// Nothing more is let in.
    Shut,
}

impl Pressure {
    /// What follows when the backlog is at `fill` now.
    #[must_use]
    pub fn at(self, fill: f64) -> Self {
        let left = (HIGH_MARK - fill) / (HIGH_MARK - LOW_MARK);
        match self {
            _ if fill >= HIGH_MARK => Self::Shut,
            Self::Shut if fill > REOPEN_MARK => Self::Shut,
            Self::None if fill <= LOW_MARK => Self::None,
            _ if fill <= RELAX_MARK => Self::None,
            _ => Self::Shrinks(left.clamp(0.0, 1.0)),
        }
    }

    /// The share of a window that is left.
    #[must_use]
    pub fn share(self) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Shrinks(share) => share,
            Self::Shut => 0.0,
        }
    }

    /// Whether nothing more is let in.
    #[must_use]
    pub fn is_shut(self) -> bool {
        self == Self::Shut
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_greatest_of_events_bytes_and_age_counts() {
        let limit = BacklogLimit {
            events: 100,
            bytes: 0,
            age_ms: 1000,
        };
        let backlog = |events, age_ms| Backlog {
            events,
            bytes: u64::MAX,
            age_ms,
        };
        assert_eq!(limit.fill(backlog(50, 100)), 0.5);
        assert_eq!(limit.fill(backlog(50, 2000)), 2.0);
        assert_eq!(BacklogLimit::default().fill(backlog(1, 1)), 0.0);
    }

    #[test]
    fn what_was_shut_opens_below_the_mark_at_which_it_shut() {
        let shut = Pressure::default().at(1.0);
        assert!(shut.is_shut());
        assert!(shut.at(0.95).is_shut());
        assert_eq!(shut.at(0.9).share(), 0.2 * 0.999_999_999_999_999_8);
        assert!(!shut.at(0.9).at(0.95).is_shut());
        // Shrinking ends below where it began.
        assert_eq!(Pressure::None.at(0.5), Pressure::None);
        assert_ne!(Pressure::None.at(0.6).at(0.48), Pressure::None);
        assert_eq!(Pressure::None.at(0.6).at(0.45), Pressure::None);
    }

    proptest! {
        /// More backlog is never a larger share, and the share never jumps but
        /// where it is shut and opened.
        #[test]
        fn the_share_shrinks_smoothly(fills in proptest::collection::vec(0.0..1.2_f64, 1..100)) {
            let mut pressure = Pressure::default();
            for fill in fills {
                let more = pressure.at(fill + 0.01);
                pressure = pressure.at(fill);
                prop_assert!(more.share() <= pressure.share());
                if !pressure.is_shut() && !more.is_shut() {
                    prop_assert!(pressure.share() - more.share() < 0.021);
                }
                prop_assert_eq!(pressure.is_shut() && fill < REOPEN_MARK, false);
                prop_assert!(fill < HIGH_MARK || pressure.is_shut());
            }
        }
    }
}
