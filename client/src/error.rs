//! What a broker, or the way to it, answers when it does not do what was asked.

use std::{fmt, time::Duration};

use sluice_proto::pb::{self, ErrorReason};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    code: Code,
    reason: ErrorReason,
    message: String,
    field: String,
    retry_after: Option<Duration>,
}

impl Error {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: ErrorReason::Unspecified,
            message: message.into(),
            field: String::new(),
            retry_after: None,
        }
    }

    /// What the broker would answer, found before anything is sent.
    pub(crate) fn of_request(
        code: Code,
        reason: ErrorReason,
        message: String,
        field: &str,
    ) -> Self {
        Self {
            reason,
            field: field.to_owned(),
            ..Self::new(code, message)
        }
    }

    pub(crate) fn closed(what: &str) -> Self {
        Self::new(Code::Cancelled, format!("{what} was closed"))
    }

    pub(crate) fn from_message(error: Option<pb::Error>) -> Self {
        let error = error.unwrap_or_default();
        Self {
            code: Code::from_i32(error.code),
            reason: error.reason(),
            retry_after: error.retry_after.and_then(|after| after.try_into().ok()),
            message: error.message,
            field: error.field,
        }
    }

    /// The gRPC status code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// The broker's reason; `Unspecified` when the call did not reach one, or
    /// it is newer than this client.
    #[must_use]
    pub fn reason(&self) -> ErrorReason {
        self.reason
    }

    /// The path of the request's field at fault; empty if none is.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// How long to wait before trying again, if the broker says.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether the outcome is unknown, or the same call can succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.code {
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Aborted
            | Code::Unknown => true,
            Code::ResourceExhausted => self.retry_after.is_some(),
            _ => false,
        }
    }

    /// Whether the broker itself said no, for good.
    pub(crate) fn is_final(&self) -> bool {
        self.reason != ErrorReason::Unspecified && !self.is_retryable()
    }

    /// Whether the lease is not held any more: drop the work.
    #[must_use]
    pub fn is_lease_lost(&self) -> bool {
        self.reason == ErrorReason::LeaseLost
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.reason {
            ErrorReason::Unspecified => write!(f, " ({:?})", self.code),
            reason => {
                let name = reason.as_str_name();
                let name = name.strip_prefix("ERROR_REASON_").unwrap_or(name);
                write!(f, " ({name})")
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let reason = details
            .error_info()
            .filter(|info| info.domain == "sluice")
            .and_then(|info| ErrorReason::from_str_name(&format!("ERROR_REASON_{}", info.reason)))
            .unwrap_or_default();
        let field = details
            .bad_request()
            .and_then(|bad| bad.field_violations.first())
            .map(|violation| violation.field.clone())
            .unwrap_or_default();
        Self {
            code: status.code(),
            reason,
            message: status.message().to_owned(),
            field,
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
        }
    }
}
