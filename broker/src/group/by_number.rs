//! Maps and sets of numbers that the broker itself gives: offsets, tokens, members.
//!
//! Every delivery and every ack looks several of them up, and nobody outside
//! chooses them. So they go without a hash that withstands chosen keys. What
//! others choose, such as the keys of events and the names of workers, stays
//! with the standard one.

/// A map by numbers that the broker gives.
pub(super) type ByNumber<K, V> = foldhash::HashMap<K, V>;
/// A set of such numbers.
pub(super) type NumberSet<K> = foldhash::HashSet<K>;
