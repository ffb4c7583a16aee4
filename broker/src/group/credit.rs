//! What a member may still be sent.
//!
//! A grant is a limit on the totals since the stream began, so a lost, repeated
//! or reordered grant does no harm. Events and bytes must both be left; one
//! event may overshoot the bytes, so that a large one always moves, and what it
//! overshoots by is missing from the next grant.

/// A limit on what a stream carries in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Events.
    pub max_events: u64,
    /// Bytes of encoded events; `None` for no bound.
    pub max_bytes: Option<u64>,
}

/// The credit of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    limit: Grant,
    sent_events: u64,
    sent_bytes: u64,
}

/// A grant that takes back what an earlier one gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{field} is {given}, below the {granted} that were granted before; credit cannot be taken back"
)]
pub struct Shrinks {
    /// "max_events" or "max_bytes".
    pub field: &'static str,
    given: u64,
    granted: Bound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bound(Option<u64>);

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(bound) => bound.fmt(f),
            None => f.write_str("unbounded ones"),
        }
    }
}

impl Credit {
    /// Takes a grant that came in order.
    ///
    /// # Errors
    /// When it is smaller than one before; nothing has changed then.
    pub fn grant(&mut self, grant: Grant) -> Result<(), Shrinks> {
        if grant.max_events < self.limit.max_events {
            return Err(Shrinks {
                field: "max_events",
                given: grant.max_events,
                granted: Bound(Some(self.limit.max_events)),
            });
        }
        if let Some(given) = grant.max_bytes
            && self.has_grant()
            && self.limit.max_bytes.is_none_or(|granted| given < granted)
        {
            return Err(Shrinks {
                field: "max_bytes",
                given,
                granted: Bound(self.limit.max_bytes),
            });
        }
        self.limit = grant;
        Ok(())
    }

    fn has_grant(&self) -> bool {
        self.limit != Grant::default()
    }

    /// Whether an event of any size may be sent.
    #[must_use]
    pub fn may_send(&self) -> bool {
        self.remaining_events() > 0 && self.remaining_bytes().is_none_or(|bytes| bytes > 0)
    }

    /// Counts an event that is sent.
    pub fn sent(&mut self, bytes: u64) {
        self.sent_events += 1;
        self.sent_bytes += bytes;
    }

    /// Events that may still be sent.
    #[must_use]
    pub fn remaining_events(&self) -> u64 {
        self.limit.max_events.saturating_sub(self.sent_events)
    }

    /// Bytes that may still be sent, negative after an overshoot; `None` for no
    /// bound.
    #[must_use]
    pub fn remaining_bytes(&self) -> Option<i64> {
        let max = i64::try_from(self.limit.max_bytes?).unwrap_or(i64::MAX);
        let sent = i64::try_from(self.sent_bytes).unwrap_or(i64::MAX);
        Some(max - sent)
    }
}

#[cfg(test)]
mod tests;
