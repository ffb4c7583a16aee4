//! The gRPC API: the only folder that names tonic or the API's messages.
//!
//! Requests are checked here and turned into the broker's own types; errors
//! become status in [`refusal`]. One file per verb.

mod admin;
mod admission;
mod api;
mod authorize;
mod calls;
mod commit;
mod connections;
mod consume;
mod convert;
mod events;
mod filters;
mod publish;
mod publish_stream;
mod pull;
mod read;
mod refusal;
mod serve;
mod service;
mod settlements;

pub(crate) use self::{
    api::{Api, BrokerInfo},
    serve::serve,
};
