//! Judging alone, on one thread of this process: nanoseconds for an event.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message;
use serde_json::json;
use sluice_broker::filter::Filter;
use sluice_proto::{event::EventRef, pb};

use super::cases::{FILTER, event, type_of};

/// What was measured, by round.
#[derive(Default)]
pub(super) struct Alone {
    pub(super) in_place: Vec<f64>,
    pub(super) first_term_false: Vec<f64>,
    /// The crate with a context that is kept, and the payload read by serde_json.
    pub(super) plain: Vec<f64>,
    /// The same, with a context for each event.
    pub(super) plain_anew: Vec<f64>,
}

impl Alone {
    pub(super) fn measure(&mut self) -> anyhow::Result<()> {
        let encoded = event(&type_of(0, 1));
        let other = event("image.other");
        let filter = Filter::compile(FILTER)?;
        let judge = |encoded: &Bytes, expected| {
            let event = EventRef::read(encoded).expect("the bench has encoded it");
            assert_eq!(filter.matches(&event), Ok(expected));
        };
        self.in_place
            .push(nanos(|| judge(black_box(&encoded), true)));
        self.first_term_false
            .push(nanos(|| judge(black_box(&other), false)));

        let program = cel::Program::compile(FILTER)?;
        let context = cel::Context::default();
        let run = |context: &cel::Context<'_, '_>| {
            let mut context = context.new_inner_scope();
            let variable = plain_event(black_box(&encoded));
            context
                .add_variable("event", variable)
                .expect("JSON is a value");
            assert_eq!(program.execute(&context), Ok(cel::Value::Bool(true)));
        };
        self.plain.push(nanos(|| run(&context)));
        self.plain_anew
            .push(nanos(|| run(&cel::Context::default())));
        Ok(())
    }
}

/// An event as a program would hand it to the crate that knows nothing better.
fn plain_event(encoded: &Bytes) -> serde_json::Value {
    let event = pb::Event::decode(&encoded[..]).expect("the bench has encoded it");
    let data: serde_json::Value = serde_json::from_slice(&event.data).expect("it is JSON");
    json!({"id": event.id, "type": event.r#type, "source": event.source, "data": data})
}

/// The time of one call, of many.
fn nanos(mut call: impl FnMut()) -> f64 {
    const AT_LEAST: Duration = Duration::from_millis(200);
    let (started, mut calls) = (Instant::now(), 0_u32);
    while started.elapsed() < AT_LEAST {
        for _ in 0..100 {
            call();
        }
        calls += 100;
    }
    started.elapsed().as_nanos() as f64 / f64::from(calls)
}
