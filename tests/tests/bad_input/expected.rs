//! What a refusal has to say.

use sluice_tests::api::Refusal;
use tonic::Code;

/// A refusal as it should be.
pub(crate) struct Expected {
    code: Code,
    reason: &'static str,
    /// The whole path.
    field: Option<&'static str>,
    /// What the message names, such as a limit.
    names: Vec<String>,
}

pub(crate) fn invalid(field: &'static str) -> Expected {
    refused(Code::InvalidArgument, "INVALID_FIELD").at(field)
}

pub(crate) fn over_limit(field: &'static str, limit: impl ToString) -> Expected {
    refused(Code::InvalidArgument, "LIMIT_EXCEEDED")
        .at(field)
        .naming(limit)
}

pub(crate) fn refused(code: Code, reason: &'static str) -> Expected {
    Expected {
        code,
        reason,
        field: None,
        names: Vec::new(),
    }
}

impl Expected {
    pub(crate) fn at(self, field: &'static str) -> Self {
        // The message names the field, too, for those who read only that.
        let last = field.rsplit('.').next().unwrap().to_owned();
        Self {
            field: Some(field),
            ..self.naming(last)
        }
    }

    pub(crate) fn naming(mut self, what: impl ToString) -> Self {
        self.names.push(what.to_string());
        self
    }

    /// What is wrong with the refusal.
    pub(crate) fn differs(&self, refusal: &Refusal) -> Option<String> {
        let same = refusal.code == self.code
            && refusal.reason == self.reason
            && (self.field.is_none() || refusal.field.as_deref() == self.field)
            && self.names.iter().all(|name| refusal.message.contains(name));
        let Self {
            code,
            reason,
            field,
            names,
        } = self;
        let wanted = format!("{code:?} {reason}, field {field:?}, message with {names:?}");
        (!same).then(|| format!("wanted {wanted}, got {refusal:?}"))
    }
}
