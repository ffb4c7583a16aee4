//! What each channel of a topic promises. The README's table of channels cites
//! these tests by name; each of its cells has one:
//!
//! | | `fsync` | `buffered` | `memory` |
//! |---|---|---|---|
//! | delivered | `faults::disk` [1] | `buffered::a_power_cut_…` | `memory::memory_events_…` |
//! | ack of a publish | `faults::channels::an_ack_means_…` | the same | the same |
//! | … of a worker | the same | the same | the same |
//! | … of a sequence | `sequences::sequences_of_durable_topics_…` | the same, `sequences::a_sequence_…` | `sequences::sequences_of_a_memory_topic_…` |
//! | a killed process leaves | `fsync::what_an_fsync_topic_…` | `buffered::what_a_buffered_topic_…` | `memory_groups` |
//! | a killed machine leaves | `power_loss`, `log::tests::crashes` | `buffered::a_power_cut_…` | as a killed process |
//! | offsets and stored cursors | `fsync::what_an_fsync_topic_…` | `buffered`, both | `memory::a_killed_broker_…` |
//! | no room | `fsync::publishing_waits_…` | the same | `memory::a_full_memory_topic_…` |
//! | a Commit from it | `faults::channels::a_commit_is_…` | the same, `buffered::a_power_cut_…` | the same, `commits::outputs_of_…` |
//! | a Commit to it | `faults::channels::a_commit_is_…` | the same | the same, `commits::an_output_…`, `commits::offsets_…` |
//!
//! [1]: an event whose write or sync failed is neither read nor delivered.

#![allow(clippy::unwrap_used)]

mod buffered;
mod commits;
mod fsync;
mod memory;
mod memory_groups;
mod place;
mod sequences;
