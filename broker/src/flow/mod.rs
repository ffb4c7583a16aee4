//! Flow control between topics: what a group that falls behind means for those
//! who publish to its topic, hop by hop up to the first producer.
//!
//! Pure: [`window`] is the credit of one producer's stream, [`pressure`] what a
//! backlog means for it, [`turns`] whose turn it is when there is room for some,
//! [`edges`] which declared outputs count. A [`gate`] is where they meet, one for
//! each topic that has a group with a limit; [`registry`] finds it. [`intake`] is the line for the log,
//! which all publishers share, and
//! [`reading`] what their streams may have on the way to it.

pub mod edges;
mod gate;
mod intake;
pub mod pressure;
mod reading;
mod registry;
pub mod turns;
pub mod window;

pub use self::{
    gate::{Entered, Full, Gate, Load, Measure, Producer, Report, Standing},
    intake::{InLine, Intake},
    pressure::{Backlog, BacklogLimit, Pressure},
    reading::{OnItsWay, Reading, Turn},
    registry::{Flow, Metering, Outputs, limit_of},
};
