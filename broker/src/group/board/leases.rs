//! What befalls leases: they are presented, extended, frozen, handed back, and
//! lost.

use super::{
    Board, Entry, EventId, Holder, Holding, Lease, LeaseError, LeaseToken, MemberId, Report, Seat,
    lease::Place,
};

/// An event whose holder has vanished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vanished {
    /// The event.
    pub id: EventId,
    /// How.
    pub loss: Loss,
}

/// How a holder vanished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It fell silent, or its connection was lost.
    Member {
        /// Who.
        holder: Holder,
        /// It had nothing else, so that this event may be the reason.
        alone: bool,
    },
    /// It did not come back after a restart of the broker.
    Restart {
        /// Its name.
        member: String,
    },
}

impl Board {
    /// The event and lease of a token.
    ///
    /// # Errors
    /// When it is not held.
    pub fn leased(&self, token: LeaseToken) -> Result<(EventId, &Lease), LeaseError> {
        let place = self.leases.get(token).ok_or(LeaseError::Lost)?;
        let (id, entry) = self.events.at(place).ok_or(LeaseError::Lost)?;
        match &entry.place {
            Place::Leased(lease) => Ok((*id, lease)),
            Place::Settling(_) => Err(LeaseError::Settling),
            _ => Err(LeaseError::Lost),
        }
    }

    /// The event that has this lease, whatever befalls it.
    fn event_of(&self, token: LeaseToken) -> Option<EventId> {
        let place = self.leases.get(token)?;
        self.events.at(place).map(|(id, _)| *id)
    }

    /// Gives a lease to the member that presents it. False when it is lost.
    pub fn present(&mut self, token: LeaseToken, member: MemberId, now_ms: u64) -> bool {
        let Some(id) = self.event_of(token) else {
            return false;
        };
        let holder = Holder::Member(member);
        match self.events.get_mut(&id).map(|entry| &mut entry.place) {
            Some(Place::Held(..)) => self.take_held(id, token, holder, now_ms),
            Some(Place::Leased(lease) | Place::Settling(lease)) => {
                self.holders.ended(lease);
                lease.holder = holder;
                self.holders.given(lease);
                self.stirs += 1;
            }
            _ => return false,
        }
        self.deadlines.remove(token);
        true
    }

    /// Lets a unary lease run anew, and keeps what its worker says.
    ///
    /// # Errors
    /// When it is not held.
    pub fn extend(
        &mut self,
        token: LeaseToken,
        report: Option<Report>,
        now_ms: u64,
    ) -> Result<(), LeaseError> {
        self.claim_held(token, now_ms);
        let (id, lease) = self.leased(token)?;
        let holder = lease.holder.clone();
        if let Holder::Unary(_) = holder {
            self.deadlines.set(token, now_ms + self.rules.lease_ms);
            self.holders.vanishing(&holder, false);
        }
        if let Some(report) = report
            && let Some(Place::Leased(lease)) = self.events.get_mut(&id).map(|e| &mut e.place)
        {
            lease.report = Some(Box::new(report));
        }
        Ok(())
    }

    /// Whoever uses a lease from before a restart, without a stream, has it.
    fn claim_held(&mut self, token: LeaseToken, now_ms: u64) {
        let id = self.event_of(token);
        let place = id.and_then(|id| self.events.get(&id)).map(|e| &e.place);
        if let (Some(id), Some(Place::Held(_, member))) = (id, place) {
            let holder = Holder::Unary(member.clone());
            self.take_held(id, token, holder, now_ms);
        }
    }

    fn take_held(&mut self, id: EventId, token: LeaseToken, holder: Holder, now_ms: u64) {
        let solo = self.events.get(&id).is_some_and(Entry::is_suspect);
        let lease = Lease {
            token,
            holder,
            since_ms: now_ms,
            solo,
            report: None,
            noted: true,
        };
        self.set_place(id, Place::Leased(lease));
        // It counts from the begin of the lease, as that of any other one does.
        if self.rules.processing_limit_ms > 0 {
            self.limits
                .set(token, now_ms + self.rules.processing_limit_ms);
        }
    }

    /// Gives an event back that was not worked on. It keeps its line and is next.
    pub fn hand_back(&mut self, token: LeaseToken) {
        if let Ok((id, _)) = self.leased(token)
            && let Some(slot) = self.leases.get(token)
        {
            if self.waits_behind_another(id, slot) {
                return;
            }
            self.set_place(id, Place::Ready);
            let is_suspect = self.is_suspect(id);
            self.queue_of(is_suspect).push_front(Seat { id, slot });
        }
    }

    /// Freezes a lease while its settlement is on its way.
    ///
    /// # Errors
    /// When it is not held, or frozen already.
    pub fn freeze(&mut self, token: LeaseToken, now_ms: u64) -> Result<Seat, LeaseError> {
        if self.held > 0 {
            self.claim_held(token, now_ms);
        }
        let slot = self.leases.get(token).ok_or(LeaseError::Lost)?;
        let (id, entry) = self.events.at_mut(slot).ok_or(LeaseError::Lost)?;
        let id = *id;
        if entry.place.token() != Some(token) {
            return Err(LeaseError::Lost);
        }
        entry.place.freeze()?;
        self.deadlines.remove(token);
        self.limits.remove(token);
        Ok(Seat { id, slot })
    }

    /// The settlement did not happen: the lease goes on. One whose holder is gone or
    /// silent, or has no stream, has another lease duration. `is_member` says of a member
    /// whether it is there and was heard of.
    pub fn thaw(&mut self, id: EventId, now_ms: u64, is_member: impl Fn(MemberId) -> bool) {
        let Some(Place::Settling(lease)) = self.events.get(&id).map(|entry| &entry.place) else {
            return;
        };
        let lease = lease.clone();
        let kept_by_heartbeats = match lease.holder {
            Holder::Unary(_) => false,
            Holder::Member(member) => is_member(member),
        };
        if !kept_by_heartbeats {
            self.deadlines
                .set(lease.token, now_ms + self.rules.lease_ms);
        }
        if self.rules.processing_limit_ms > 0 {
            let due_ms = lease.since_ms + self.rules.processing_limit_ms;
            self.limits.set(lease.token, due_ms);
        }
        // It may have been passed over when its time had come to be noted.
        if !lease.noted {
            self.keep_young(lease.since_ms, lease.token);
        }
        self.set_place(id, Place::Leased(lease));
    }

    /// Puts a lease among those that are to be noted, if it is not there.
    fn keep_young(&mut self, since_ms: u64, token: LeaseToken) {
        let at = self.young.partition_point(|(since, _)| *since < since_ms);
        let mut as_old = self.young.range(at..).take_while(|of| of.0 == since_ms);
        if !as_old.any(|of| of.1 == token) {
            self.young.insert(at, (since_ms, token));
        }
    }

    /// Ends leases whose holders have vanished. Their events are suspect from
    /// now on; it counts an attempt when the holder had nothing else.
    ///
    /// Tokens that are not held, or whose settlement is on its way, are left out.
    pub fn vanish(&mut self, tokens: &[LeaseToken]) -> Vec<Vanished> {
        // First all, so that neighbours that vanish together see each other.
        let mut vanished = Vec::with_capacity(tokens.len());
        for token in tokens {
            let Some(id) = self.event_of(*token) else {
                continue;
            };
            let loss = match self.events.get(&id).map(|entry| &entry.place) {
                Some(Place::Leased(lease)) => {
                    let holding = self.holders.of(&lease.holder);
                    Loss::Member {
                        holder: lease.holder.clone(),
                        alone: holding.leases == 1 && !holding.vanishing,
                    }
                }
                Some(Place::Held(_, member)) => Loss::Restart {
                    member: member.clone(),
                },
                _ => continue,
            };
            vanished.push(Vanished { id, loss });
        }
        for Vanished { id, loss } in &vanished {
            if let Loss::Member {
                holder,
                alone: false,
            } = loss
            {
                self.holders.vanishing(holder, true);
            }
            self.set_place(*id, Place::Failing);
        }
        vanished
    }

    /// Ends a lease whose attempt has taken too long. Returns the event and who
    /// had it.
    pub fn overdue(&mut self, token: LeaseToken) -> Option<(EventId, Holder)> {
        let id = self.event_of(token)?;
        let holder = match &self.events.get(&id)?.place {
            Place::Leased(lease) => lease.holder.clone(),
            Place::Held(_, member) => Holder::Unary(member.clone()),
            _ => return None,
        };
        self.set_place(id, Place::Failing);
        Some((id, holder))
    }

    /// The next token whose own deadline has passed.
    pub fn pop_expired(&mut self, now_ms: u64) -> Option<LeaseToken> {
        self.deadlines.pop_due(now_ms)
    }

    /// The next token whose attempt has taken too long.
    pub fn pop_overdue(&mut self, now_ms: u64) -> Option<LeaseToken> {
        self.limits.pop_due(now_ms)
    }

    /// When the next thing happens by itself.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        [
            self.delayed.next_due(),
            self.deadlines.next_due(),
            self.limits.next_due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What a holder has.
    #[must_use]
    pub fn holding(&self, holder: &Holder) -> Holding {
        self.holders.of(holder)
    }

    /// The member is heard of again: what is left of its leases goes on as long as it is.
    /// Walks over all events.
    pub fn keep_with(&mut self, member: MemberId) {
        for token in self.leases_of(member) {
            self.deadlines.remove(token);
        }
        self.holders.vanishing(&Holder::Member(member), false);
    }

    /// The leases of a member, in the order in which they were given. Walks over all
    /// events.
    #[must_use]
    pub fn leases_of(&self, member: MemberId) -> Vec<LeaseToken> {
        let mut leases: Vec<_> = self
            .events
            .values()
            .filter_map(|entry| match &entry.place {
                Place::Leased(lease) if lease.holder == Holder::Member(member) => Some(lease.token),
                _ => None,
            })
            .collect();
        leases.sort_unstable();
        leases
    }
}
