//! Commit: acks and outputs in one frame.

use std::sync::Arc;

use sluice_proto::wire;

use super::{api::Api, authorize::Action, convert, events, refusal::Refusal};
use crate::{
    commit::{Changes, Committed, record::Channel},
    group::{FrozenInputs, GroupHandle, LeaseToken},
};

/// Most inputs, and most outputs, of one commit.
const PARTS_MAX: usize = 1000;

struct Input {
    group: GroupHandle,
    tokens: Vec<LeaseToken>,
}

impl Api {
    pub(super) async fn commit(
        self: &Arc<Self>,
        request: wire::CommitRequest,
    ) -> Result<wire::CommitResponse, Refusal> {
        for (field, count) in [
            ("inputs", request.inputs.len()),
            ("outputs", request.outputs.len()),
        ] {
            if count > PARTS_MAX {
                return Err(Refusal::limit(field, format!("{count} long"), PARTS_MAX));
            }
        }
        if request.inputs.is_empty() && request.outputs.is_empty() {
            return Err(Refusal::field("inputs", "there is nothing to commit"));
        }
        let producer = events::sequence(request.producer)?;
        let mut inputs = Vec::with_capacity(request.inputs.len());
        for (at, input) in request.inputs.into_iter().enumerate() {
            inputs.push(self.input(at, input, &inputs)?);
        }
        let mut appends = Vec::new();
        for (at, output) in request.outputs.into_iter().enumerate() {
            let path = format!("outputs[{at}].");
            let topic = self.topic(Action::Publish, &output.topic)?;
            if topic.channel == Channel::Memory && !request.allow_volatile {
                return Err(Refusal::volatile_output(
                    format!("{path}topic"),
                    &topic.name,
                ));
            }
            appends.extend(self.place_events(
                &path,
                &output.topic,
                output.events.into(),
                output.partition,
            )?);
        }
        let changes = Changes {
            producer,
            appends,
            ..Changes::default()
        };
        // On a task of its own, so that a caller who hangs up does not leave
        // leases frozen without an outcome.
        let api = self.clone();
        let work = tokio::spawn(async move { api.settle_and_append(inputs, changes).await });
        let committed = work.await.map_err(Refusal::internal)??;
        Ok(wire::CommitResponse {
            ranges: convert::ranges(&committed, self),
            duplicate: committed.duplicate,
        })
    }

    fn input(
        &self,
        at: usize,
        input: wire::CommitInput,
        before: &[Input],
    ) -> Result<Input, Refusal> {
        let path = format!("inputs[{at}]");
        let group = self.group(Action::Consume, &input.topic, &input.group)?;
        if before
            .iter()
            .any(|of| of.group.group().id == group.group().id)
        {
            let message = "an earlier input is of the same group; put all acks into one";
            return Err(Refusal::field(path, message));
        }
        if input.acks.is_empty() {
            return Err(Refusal::field(format!("{path}.acks"), "it is empty"));
        }
        let (count, limit) = (input.acks.len(), self.limits.settlements_max);
        if count > limit {
            let given = format!("{count} long");
            return Err(Refusal::limit(format!("{path}.acks"), given, limit));
        }
        let tokens: Result<Vec<_>, _> = input
            .acks
            .into_iter()
            .map(|token| convert::token(&format!("{path}.acks"), Some(token)))
            .collect();
        Ok(Input {
            group,
            tokens: tokens?,
        })
    }

    async fn settle_and_append(
        &self,
        inputs: Vec<Input>,
        mut changes: Changes,
    ) -> Result<Committed, Refusal> {
        let mut frozen: Vec<FrozenInputs> = Vec::with_capacity(inputs.len());
        for input in inputs {
            match input.group.freeze(input.tokens).await {
                Ok(of_group) => frozen.push(of_group),
                // Those that are frozen go on when they are dropped.
                Err(error) => return self.committed_before(changes.producer, error.into()).await,
            }
        }
        for of_group in &frozen {
            changes.settles.extend_from_slice(of_group.settles());
        }
        let passed = self.pass(&changes.appends);
        let result = self.proposals.commit(changes).await;
        drop(passed);
        let duplicate = matches!(&result, Ok(committed) if committed.duplicate);
        for of_group in frozen {
            if duplicate {
                // The sequence was used for something else: the leases were held
                // until now, so it was not this. They go on.
                drop(of_group);
            } else {
                of_group.finish(&result).await;
            }
        }
        Ok(result?)
    }
}
