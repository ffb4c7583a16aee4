//! Numbers that mean something, as types of their own.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Place of an event in its partition. Contiguous from 0, never reused.
    Offset(u64)
}
number! {
    /// A partition of a topic, from 0.
    PartitionId(u32)
}
number! {
    /// A topic, for good: a topic created again under the same name is another.
    TopicId(u64)
}
number! {
    /// A consumer group, for good, as with [`TopicId`].
    GroupId(u64)
}
number! {
    /// A producer session's identity.
    ProducerId(u64)
}
number! {
    /// Raised at every start of a broker, durably, before anything is written.
    Epoch(u64)
}

impl Offset {
    /// The offset after this one.
    ///
    /// Cannot overflow in practice: at ten million events a second, 2^64 offsets
    /// last 58,000 years.
    #[must_use]
    pub fn next(self) -> Self {
        self + 1
    }
}

impl std::ops::Add<u64> for Offset {
    type Output = Self;

    fn add(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}
