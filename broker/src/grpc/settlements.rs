//! Settlements of one request: checked on their way in, and what became of those that
//! failed.

use prost::Message;
use sluice_proto::{settlements::SettlementRef, wire};

use super::{api::Api, convert, refusal::Refusal};
use crate::group::{LeaseToken, Settlement, SettlementAction, SettlementError};

/// Settlements of one request, and the leases that they are about.
pub(super) struct Settlements {
    pub(super) settlements: Vec<Settlement>,
    pub(super) leases: Vec<LeaseToken>,
}

/// A settlement as a request has it.
pub(super) trait Given {
    fn checked(self, index: usize) -> Result<Settlement, Refusal>;
}

impl Given for wire::Settlement {
    fn checked(self, index: usize) -> Result<Settlement, Refusal> {
        convert::settlement(index, self)
    }
}

impl Given for SettlementRef<'_> {
    fn checked(self, index: usize) -> Result<Settlement, Refusal> {
        match self {
            Self::Ack(lease) => Ok(Settlement {
                token: convert::lease_token(lease),
                action: SettlementAction::Ack,
            }),
            Self::Encoded(bytes) => wire::Settlement::decode(bytes)
                .map_err(Refusal::unread)?
                .checked(index),
        }
    }
}

impl Api {
    /// Checks the settlements of one request.
    pub(super) fn settlements<G: Given>(&self, given: Vec<G>) -> Result<Settlements, Refusal> {
        let (count, limit) = (given.len(), self.limits.settlements_max);
        if count > limit {
            let given = format!("{count} long");
            return Err(Refusal::limit("settlements", given, limit));
        }
        let mut checked = Settlements {
            settlements: Vec::with_capacity(count),
            leases: Vec::with_capacity(count),
        };
        for (index, given) in given.into_iter().enumerate() {
            let settlement = given.checked(index)?;
            checked.leases.push(settlement.token);
            checked.settlements.push(settlement);
        }
        Ok(checked)
    }
}

/// What failed of the settlements that are about these leases.
pub(super) fn wire_failures(
    leases: &[LeaseToken],
    failures: Vec<(usize, SettlementError)>,
) -> Vec<wire::SettlementFailure> {
    let failures = failures
        .into_iter()
        .map(|(index, error)| wire::SettlementFailure {
            index: index as i32,
            lease: leases.get(index).copied().map(convert::wire_token),
            error: Some(Refusal::from(error).into_message()),
        });
    failures.collect()
}
