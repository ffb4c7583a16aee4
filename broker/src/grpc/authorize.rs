//! The one question that every call asks before it does anything. Until
//! authentication is configured, everybody may do everything; it is here so that
//! no call can be forgotten then.

use super::refusal::Refusal;

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub(super) enum Principal {
    /// Somebody who reached the port.
    Anonymous,
}

/// What they want to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    Publish,
    Consume,
    Read,
    Describe,
    Administer,
}

/// To what.
#[derive(Clone, Copy, Debug)]
pub(super) enum Resource<'a> {
    Broker,
    Topic(&'a str),
    Group { topic: &'a str, group: &'a str },
}

/// Whether they may.
///
/// # Errors
/// When they may not.
pub(super) fn authorize(
    principal: Principal,
    action: Action,
    resource: Resource<'_>,
) -> Result<(), Refusal> {
    let Principal::Anonymous = principal;
    // The broker's own topics can be read, and nothing else.
    let name = match resource {
        Resource::Broker => return Ok(()),
        Resource::Topic(topic) | Resource::Group { topic, .. } => topic,
    };
    match action {
        Action::Publish | Action::Administer | Action::Consume if name.starts_with('_') => {
            let group = match resource {
                Resource::Group { group, .. } => format!(", group {group:?}"),
                _ => String::new(),
            };
            Err(Refusal::not_authorized(format!(
                "topic {name:?}{group}: names that begin with \"_\" belong to the broker and can \
                 only be read"
            )))
        }
        _ => Ok(()),
    }
}
