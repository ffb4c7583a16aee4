//! How errors become gRPC status: the one place where the broker's errors meet
//! the API's reasons.

use std::{ops::Range, time::Duration};

use sluice_proto::{
    NameError, Offset, PartitionId, TopicName,
    event::EventError,
    wire::{self, ErrorReason},
};
use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    commit::{CatalogError, CommitError, OpenProducerError, ReadError, SequenceError, Unavailable},
    filter::{EvaluationError, FilterError},
    flow::Full,
    group::{
        ChangeError, JoinError, LeaseError, PurgeError, RedriveError, SettlementError, Shrinks,
    },
    log,
    space::LowSpace,
};

/// The domain of every reason.
const DOMAIN: &str = "sluice";
const RETRY_SOON: Duration = Duration::from_millis(50);
const RETRY_WHEN_FREED: Duration = Duration::from_secs(1);
const RETRY_AFTER_RESTART: Duration = Duration::from_secs(1);

/// Why a request is refused, as it goes over the wire.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    code: Code,
    reason: ErrorReason,
    message: String,
    field: String,
    retry_after: Option<Duration>,
}

impl Refusal {
    fn new(code: Code, reason: ErrorReason, message: impl ToString) -> Self {
        Self {
            code,
            reason,
            message: message.to_string(),
            field: String::new(),
            retry_after: None,
        }
    }

    /// A message is none of its call, or of its stream.
    pub(super) fn unread(why: impl std::fmt::Display) -> Self {
        let message = format!("the request is no message of this call: {why}");
        Self::new(Code::InvalidArgument, ErrorReason::InvalidField, message)
    }

    /// A field of the request is malformed.
    pub(super) fn field(field: impl Into<String>, message: impl std::fmt::Display) -> Self {
        let field = field.into();
        let message = format!("{field}: {message}");
        Self::new(Code::InvalidArgument, ErrorReason::InvalidField, message).at(field)
    }

    /// A field of the request exceeds a limit.
    pub(super) fn limit(
        field: impl Into<String>,
        given: impl std::fmt::Display,
        limit: impl std::fmt::Display,
    ) -> Self {
        let field = field.into();
        let message = format!("{field} is {given}, the limit is {limit}");
        Self::new(Code::InvalidArgument, ErrorReason::LimitExceeded, message).at(field)
    }

    pub(super) fn unknown_topic(name: &str) -> Self {
        let message = format!("topic {name:?} does not exist");
        Self::new(Code::NotFound, ErrorReason::UnknownTopic, message).at("topic")
    }

    /// The log did not take a request in the time that it had.
    pub(super) fn overloaded() -> Self {
        let message = "the broker's queue for the log is full; nothing was appended";
        Self::new(Code::ResourceExhausted, ErrorReason::Overloaded, message).retry(RETRY_WHEN_FREED)
    }

    /// Requests that wait hold as much as they may.
    pub(super) fn too_much_waits(limit: usize) -> Self {
        let message = format!(
            "requests that wait to be let in hold as much as they may, the limit is {limit} \
             (publish_waiting_bytes); nothing was appended"
        );
        Self::new(Code::ResourceExhausted, ErrorReason::Overloaded, message).retry(RETRY_WHEN_FREED)
    }

    /// Each stream has a window, and there is none left.
    pub(super) fn too_many_publish_streams(limit: usize, bytes: usize) -> Self {
        let message = format!(
            "there are {limit} PublishStreams, for which the limit of {bytes} bytes \
             (publish_windows_bytes) has windows"
        );
        Self::new(Code::ResourceExhausted, ErrorReason::TooMany, message).retry(RETRY_WHEN_FREED)
    }

    /// A declared output does not exist.
    pub(super) fn unknown_output(field: &str, name: &str) -> Self {
        let message = format!("{field}: topic {name:?} does not exist");
        Self::new(Code::NotFound, ErrorReason::UnknownTopic, message).at(field)
    }

    /// The log cannot be read as a whole.
    pub(super) fn unreadable_log(error: log::OpenError) -> Self {
        match error {
            log::OpenError::Io(..) => Self::internal(error),
            _ => Self::new(Code::DataLoss, ErrorReason::Corrupt, error),
        }
    }

    pub(super) fn unknown_group(topic: &str, group: &str) -> Self {
        let message = format!("group {group:?} does not exist on topic {topic:?}");
        Self::new(Code::NotFound, ErrorReason::UnknownGroup, message).at("group")
    }

    pub(super) fn unknown_partition(field: &str, given: i32, partitions: usize) -> Self {
        let message = format!("{field} is {given}, and the topic has {partitions} partitions");
        Self::new(Code::NotFound, ErrorReason::UnknownPartition, message).at(field)
    }

    pub(super) fn out_of_range(field: &str, given: u64, end: u64) -> Self {
        let message = format!("{field} is {given}, and the partition ends at {end}");
        Self::new(Code::OutOfRange, ErrorReason::OffsetOutOfRange, message).at(field)
    }

    /// The position is of an epoch whose events are not all there any more.
    pub(super) fn position_lost(field: &str, given: (u64, u64), now: (u64, Range<u64>)) -> Self {
        let (offset, of_epoch) = given;
        let (epoch, there) = now;
        let message = format!(
            "{field} is {offset} of epoch {of_epoch}, whose events are lost; the partition now \
             has the offsets from {} up to {} of epoch {epoch}",
            there.start, there.end
        );
        Self::new(Code::OutOfRange, ErrorReason::PositionLost, message).at(field)
    }

    /// A Commit has an output that the log does not keep.
    pub(super) fn volatile_output(field: String, topic: &TopicName) -> Self {
        let message = format!(
            "{field}: {topic} is a memory topic, which loses its events when the broker ends; \
             say allow_volatile if that may be"
        );
        Self::new(Code::InvalidArgument, ErrorReason::VolatileOutput, message).at(field)
    }

    pub(super) fn stream_state(message: &str) -> Self {
        Self::new(Code::FailedPrecondition, ErrorReason::StreamState, message)
    }

    pub(super) fn not_authorized(message: impl ToString) -> Self {
        Self::new(Code::PermissionDenied, ErrorReason::NotAuthorized, message)
    }

    pub(super) fn shutting_down() -> Self {
        Unavailable::ShuttingDown.into()
    }

    pub(super) fn internal(message: impl ToString) -> Self {
        Self::new(Code::Internal, ErrorReason::Internal, message)
    }

    /// A reader's filter takes too much work for an event.
    pub(super) fn filter_overran(partition: PartitionId, at: Offset) -> Self {
        let message = format!(
            "filter: {} (partition {}, offset {})",
            EvaluationError::OverBudget,
            partition.0,
            at.0
        );
        Self::new(Code::ResourceExhausted, ErrorReason::InvalidFilter, message).at("filter")
    }

    /// A CEL filter is refused, or one of the filters of the list beside it,
    /// whose field has an `s` more.
    pub(super) fn bad_filter(field: &str, error: &FilterError) -> Self {
        let reason = ErrorReason::InvalidFilter;
        let field = match error {
            FilterError::Dialect(error) => &format!("{field}s{}", error.path),
            _ => field,
        };
        Self::new(Code::InvalidArgument, reason, format!("{field}: {error}")).at(field)
    }

    /// The event `events[index]`, below `path`, is refused.
    pub(super) fn bad_event(path: &str, index: usize, error: &EventError) -> Self {
        let reason = if error.is_limit() {
            ErrorReason::LimitExceeded
        } else {
            ErrorReason::InvalidField
        };
        let mut field = format!("{path}events[{index}]");
        if !error.field().is_empty() {
            field.push('.');
            field.push_str(error.field());
        }
        let message = format!("{path}events[{index}]: {error}");
        Self::new(Code::InvalidArgument, reason, message).at(field)
    }

    pub(super) fn bad_name(field: &str, error: &NameError) -> Self {
        let reason = match error {
            NameError::TooLong(_) => ErrorReason::LimitExceeded,
            _ => ErrorReason::InvalidField,
        };
        let message = format!("{field} {error}");
        Self::new(Code::InvalidArgument, reason, message).at(field)
    }

    fn at(mut self, field: impl Into<String>) -> Self {
        self.field = field.into();
        self
    }

    fn retry(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// As an error about one message of a stream.
    pub(super) fn into_message(self) -> wire::Error {
        wire::Error {
            code: self.code as i32,
            reason: self.reason as i32,
            message: self.message,
            field: self.field,
            retry_after: self.retry_after.map(super::convert::duration),
        }
    }
}

/// tonic's own refusal of a message, before the broker has seen it, in the
/// API's terms. Anything else stays as it is.
pub(super) fn unread_message(status: Status) -> Status {
    let text = status.message();
    if !status.details().is_empty() {
        return status;
    }
    match status.code() {
        Code::OutOfRange if text.contains("length too large") => Refusal::new(
            Code::InvalidArgument,
            ErrorReason::LimitExceeded,
            format!("the request is larger than limits.request_bytes_max: {text}"),
        )
        .into(),
        Code::Internal if text.contains("decode") => Refusal::unread(text).into(),
        _ => status,
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let mut trailers = MetadataMap::new();
        let mut details = ErrorDetails::new();
        let name = refusal.reason.as_str_name();
        let name = name.strip_prefix("ERROR_REASON_").unwrap_or(name);
        details.set_error_info(name, DOMAIN, std::collections::HashMap::new());
        trailers.insert("sluice-reason", MetadataValue::from_static(name));
        if !refusal.field.is_empty() {
            // A path of ours; what a client sent in it need not be ASCII.
            if let Ok(field) = refusal.field.parse() {
                trailers.insert("sluice-field", field);
            }
            details.add_bad_request_violation(refusal.field, refusal.message.clone());
        }
        if let Some(after) = refusal.retry_after {
            details.set_retry_info(Some(after));
            let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            trailers.insert("grpc-retry-pushback-ms", after_ms.into());
        }
        Self::with_error_details_and_metadata(refusal.code, refusal.message, details, trailers)
    }
}

impl From<Unavailable> for Refusal {
    fn from(error: Unavailable) -> Self {
        match &error {
            Unavailable::LogFailed(_) => {
                Self::new(Code::Unavailable, ErrorReason::LogFailed, error)
            }
            Unavailable::ShuttingDown => {
                Self::new(Code::Unavailable, ErrorReason::ShuttingDown, error)
                    .retry(RETRY_AFTER_RESTART)
            }
        }
    }
}

impl From<LowSpace> for Refusal {
    fn from(low: LowSpace) -> Self {
        Self::new(Code::ResourceExhausted, ErrorReason::LowSpace, low).retry(RETRY_WHEN_FREED)
    }
}

impl From<log::Busy> for Refusal {
    fn from(_: log::Busy) -> Self {
        let message = "a backup is under way, and there is one at a time";
        Self::new(Code::ResourceExhausted, ErrorReason::TooMany, message)
    }
}

impl From<Full> for Refusal {
    fn from(full: Full) -> Self {
        Self::new(Code::ResourceExhausted, ErrorReason::BacklogFull, full).retry(RETRY_WHEN_FREED)
    }
}

impl From<SequenceError> for Refusal {
    fn from(error: SequenceError) -> Self {
        let (reason, field) = match error {
            SequenceError::UnknownProducer(_) => (ErrorReason::UnknownProducer, "producer_id"),
            SequenceError::WrongEpoch { .. } => (ErrorReason::ProducerFenced, "producer_epoch"),
            SequenceError::TooOld { .. } => (ErrorReason::SequenceTooOld, "sequence"),
            SequenceError::TooNew { .. } => (ErrorReason::SequenceTooNew, "sequence"),
        };
        Self::new(Code::FailedPrecondition, reason, error).at(format!("producer.{field}"))
    }
}

impl From<CommitError> for Refusal {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::TopicGone(_) => {
                Self::new(Code::NotFound, ErrorReason::UnknownTopic, error).at("topic")
            }
            CommitError::GroupGone(_) => {
                Self::new(Code::NotFound, ErrorReason::UnknownGroup, error).at("group")
            }
            CommitError::Sequence(error) => error.into(),
            CommitError::TooLarge(_) => {
                Self::new(Code::InvalidArgument, ErrorReason::LimitExceeded, error).at("events")
            }
            CommitError::Unavailable(error) => error.into(),
        }
    }
}

impl From<CatalogError> for Refusal {
    fn from(error: CatalogError) -> Self {
        let (code, reason, field) = match &error {
            CatalogError::UnknownTopic(_) => (Code::NotFound, ErrorReason::UnknownTopic, "topic"),
            CatalogError::UnknownGroup { .. } => {
                (Code::NotFound, ErrorReason::UnknownGroup, "group")
            }
            CatalogError::TopicDiffers { .. } | CatalogError::RetentionDiffers(_) => {
                (Code::AlreadyExists, ErrorReason::TopicExists, "config")
            }
            CatalogError::GroupDiffers(_) => {
                (Code::AlreadyExists, ErrorReason::GroupExists, "config")
            }
            CatalogError::GroupGone(_) => (Code::NotFound, ErrorReason::UnknownGroup, "group"),
            CatalogError::GroupChanged => (Code::Aborted, ErrorReason::GroupChanged, "group"),
            CatalogError::TopicHasGroups { .. } => (
                Code::FailedPrecondition,
                ErrorReason::TopicHasGroups,
                "topic",
            ),
            CatalogError::TooMany { .. } => (Code::ResourceExhausted, ErrorReason::TooMany, ""),
            CatalogError::Unavailable(error) => return error.clone().into(),
        };
        Self::new(code, reason, error).at(field)
    }
}

impl From<OpenProducerError> for Refusal {
    fn from(error: OpenProducerError) -> Self {
        match error {
            OpenProducerError::TooMany { .. } => {
                Self::new(Code::ResourceExhausted, ErrorReason::TooMany, error)
            }
            OpenProducerError::Unavailable(error) => error.into(),
        }
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        tracing::error!(%error, "a read failed");
        match error {
            ReadError::Frame(..)
            | ReadError::Missing(..)
            | ReadError::Log(crate::log::ReadError::Damaged(_)) => {
                Self::new(Code::DataLoss, ErrorReason::Corrupt, error)
            }
            ReadError::Log(_) | ReadError::View(_) => Self::internal(error),
        }
    }
}

impl From<LeaseError> for Refusal {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::Lost => {
                Self::new(Code::FailedPrecondition, ErrorReason::LeaseLost, error).at("lease")
            }
            LeaseError::Settling => {
                Self::new(Code::Unavailable, ErrorReason::SettlementPending, error)
                    .at("lease")
                    .retry(RETRY_SOON)
            }
        }
    }
}

impl From<SettlementError> for Refusal {
    fn from(error: SettlementError) -> Self {
        match error {
            SettlementError::Lease(error) => error.into(),
            SettlementError::Commit(error) => error.into(),
            SettlementError::Read(_) => Self::internal(error),
            SettlementError::GroupGone => Self::group_gone(),
        }
    }
}

impl Refusal {
    /// The group's task has ended: it was deleted, or the broker is going.
    pub(super) fn group_gone() -> Self {
        let message = "the group was deleted, or the broker is shutting down";
        Self::new(Code::Unavailable, ErrorReason::ShuttingDown, message).retry(RETRY_AFTER_RESTART)
    }
}

impl From<JoinError> for Refusal {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::TooManyMembers(_) => {
                Self::new(Code::ResourceExhausted, ErrorReason::TooMany, error)
            }
            JoinError::GroupGone => Self::group_gone(),
        }
    }
}

impl From<ChangeError> for Refusal {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Catalog(error) => error.into(),
            ChangeError::GroupGone => Self::group_gone(),
        }
    }
}

impl From<RedriveError> for Refusal {
    fn from(error: RedriveError) -> Self {
        match error {
            RedriveError::Unknown(_) => {
                Self::new(Code::NotFound, ErrorReason::UnknownDeadLetter, error)
                    .at("dead_letter_offsets")
            }
            RedriveError::TooOften(..) => {
                Self::new(Code::FailedPrecondition, ErrorReason::RedriveLimit, error)
                    .at("dead_letter_offsets")
            }
            RedriveError::Read(error) => error.into(),
            RedriveError::Commit(error) => error.into(),
            RedriveError::GroupGone => Self::group_gone(),
        }
    }
}

impl From<PurgeError> for Refusal {
    fn from(error: PurgeError) -> Self {
        match error {
            PurgeError::Unknown(_) => {
                Self::new(Code::NotFound, ErrorReason::UnknownDeadLetter, error)
                    .at("dead_letter_offsets")
            }
            PurgeError::Commit(error) => error.into(),
            PurgeError::GroupGone => Self::group_gone(),
        }
    }
}

impl Refusal {
    /// A grant, at `path`, takes back credit.
    pub(super) fn shrinking(path: &str, error: Shrinks) -> Self {
        Self::field(format!("{path}.{}", error.field), error)
    }
}
