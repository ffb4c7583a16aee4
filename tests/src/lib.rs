//! What the behaviour tests in `tests/` share.
//!
//! They look at Sluice from outside: the real program as a child process, and
//! the API as it is in the `.proto` files. A helper here panics when what it
//! needs does not happen, because that is how a test fails.

pub mod api;
pub mod broker;
pub mod history;
pub mod member;
pub mod mount;
pub mod proxy;
pub mod raw;
pub mod seed;
pub mod task;
