//! A message of deliveries to a member, encoded event by event as they are given.

use bytes::Bytes;
use sluice_proto::deliveries::{Deliveries, DeliveryHead};

use super::{
    board::LeaseToken,
    members::DELIVERY_OVERHEAD,
    payloads::{EventBytes, SHARING_BYTES_MAX},
};

/// An event on its way to whoever works on it.
#[derive(Clone, Debug)]
pub struct Delivery<E = Bytes> {
    /// The lease.
    pub token: LeaseToken,
    /// What else is said of it. Partition and offset are those of its first life, if it
    /// was redriven.
    pub head: DeliveryHead,
    /// The encoded event.
    pub event: E,
}

impl Delivery<EventBytes<'_>> {
    /// The same, for longer than what was read is there.
    pub(super) fn into_own(self) -> Delivery {
        Delivery {
            token: self.token,
            head: self.head,
            event: self.event.into_own(),
        }
    }
}

/// Deliveries for one member, which are sent together.
#[derive(Debug, Default)]
pub struct Message {
    tokens: Vec<LeaseToken>,
    encoded: Deliveries,
}

impl Message {
    /// Makes room for so many events more, which with what is around them take so many
    /// bytes.
    pub(super) fn reserve(&mut self, events: usize, bytes: usize) {
        self.tokens.reserve(events);
        // Large ones stay in memory of their own.
        let around = events * DELIVERY_OVERHEAD;
        let are_small = bytes - around <= events * SHARING_BYTES_MAX;
        self.encoded.reserve(if are_small { bytes } else { around });
    }

    pub(super) fn push(&mut self, delivery: Delivery<EventBytes<'_>>) {
        self.tokens.push(delivery.token);
        match delivery.event {
            EventBytes::Shared(event) => self.encoded.push(&delivery.head, event),
            EventBytes::Own(event) => self.encoded.push_apart(&delivery.head, event),
        }
    }

    /// The leases of its events, in order.
    pub(super) fn tokens(&self) -> &[LeaseToken] {
        &self.tokens
    }

    /// Bytes of memory that its events take while it waits.
    pub(super) fn bytes(&self) -> usize {
        self.encoded.bytes()
    }

    /// What is sent.
    #[must_use]
    pub fn into_wire(self) -> Deliveries {
        self.encoded
    }
}
