//! Names of topics and groups.

use std::{fmt, sync::Arc};

/// Longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 249;

/// Why a string is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty.
    #[error("must not be empty")]
    Empty,
    /// It is longer than [`NAME_BYTES_MAX`].
    #[error("is {0} bytes long, the limit is {NAME_BYTES_MAX}")]
    TooLong(usize),
    /// It begins with `_`.
    #[error("must not begin with \"_\", which is reserved for the broker")]
    Reserved,
    /// It has a character outside `[A-Za-z0-9._-]`, or begins with `.` or `-`.
    #[error(
        "has {0:?} at byte {1}; names are [A-Za-z0-9][A-Za-z0-9._-]*, \
         and \"/\" is reserved for namespaces"
    )]
    BadCharacter(char, usize),
}

fn check(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong(name.len()));
    }
    if name.starts_with('_') {
        return Err(NameError::Reserved);
    }
    for (at, c) in name.char_indices() {
        let allowed = c.is_ascii_alphanumeric() || (at > 0 && matches!(c, '.' | '_' | '-'));
        if !allowed {
            return Err(NameError::BadCharacter(c, at));
        }
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks a name that a user chose.
            ///
            /// # Errors
            /// When it is empty, too long, reserved, or has a character that
            /// names do not have.
            pub fn new(name: &str) -> Result<Self, NameError> {
                check(name)?;
                Ok(Self(name.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// The name of a topic.
    TopicName
}
name! {
    /// The name of a consumer group, unique within its topic.
    GroupName
}

impl TopicName {
    /// The topic of a group's dead letters: `_dlq:TOPIC:GROUP`.
    ///
    /// ":" is in no user's name, so two groups never share one.
    #[must_use]
    pub fn dead_letters(topic: &TopicName, group: &GroupName) -> Self {
        Self(format!("_dlq:{topic}:{group}").into())
    }

    /// The partition in which a group keeps events that only it is to see
    /// again: `_park:TOPIC:GROUP`.
    #[must_use]
    pub fn parking(topic: &TopicName, group: &GroupName) -> Self {
        Self(format!("_park:{topic}:{group}").into())
    }

    /// Whether the topic belongs to the broker.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.0.starts_with('_')
    }

    /// Takes a name that was checked when it was first used, for example one
    /// that is read back from the log.
    #[must_use]
    pub fn from_stored(name: &str) -> Self {
        Self(name.into())
    }
}

impl GroupName {
    /// As [`TopicName::from_stored`].
    #[must_use]
    pub fn from_stored(name: &str) -> Self {
        Self(name.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_character_by_character() {
        for good in ["a", "0", "doc.uploaded", "A-b_c.9", &"x".repeat(249)] {
            assert!(TopicName::new(good).is_ok(), "{good}");
        }
        for (bad, error) in [
            ("", NameError::Empty),
            ("_dlq", NameError::Reserved),
            (".a", NameError::BadCharacter('.', 0)),
            ("a/b", NameError::BadCharacter('/', 1)),
            ("a:b", NameError::BadCharacter(':', 1)),
            ("aä", NameError::BadCharacter('ä', 1)),
            (&"x".repeat(250), NameError::TooLong(250)),
        ] {
            assert_eq!(TopicName::new(bad), Err(error), "{bad}");
            assert!(GroupName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn dead_letter_topics_of_two_groups_differ() {
        let topic = |name| TopicName::new(name).expect("a good name");
        let group = |name| GroupName::new(name).expect("a good name");
        assert_ne!(
            TopicName::dead_letters(&topic("a.b"), &group("c")),
            TopicName::dead_letters(&topic("a"), &group("b.c")),
        );
    }
}
