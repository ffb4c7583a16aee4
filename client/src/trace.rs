//! W3C trace context (<https://www.w3.org/TR/trace-context/>): enough to hand a
//! trace on from an event to the events that come of it.

/// A `traceparent` of the same trace with a new span; of a new trace when
/// `parent` is none, or malformed.
pub(crate) fn child(parent: Option<&str>) -> String {
    let parts = parent.and_then(parse);
    let (trace, flags) = parts.unwrap_or_else(|| (format!("{:032x}", nonzero_u128()), "01".into()));
    format!("00-{trace}-{:016x}-{flags}", nonzero_u64())
}

/// Trace id and flags.
fn parse(traceparent: &str) -> Option<(String, String)> {
    let hex = |part: &str, length: usize| {
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        part.len() == length && part.bytes().all(lower)
    };
    let zero = |part: &str| part.bytes().all(|b| b == b'0');
    let mut parts = traceparent.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // A later version may have more parts; version 00 has not.
    let whole = version != "00" || parts.next().is_none();
    let valid = hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && !zero(trace)
        && hex(span, 16)
        && !zero(span)
        && hex(flags, 2)
        && whole;
    valid.then(|| (trace.to_owned(), flags.to_owned()))
}

fn nonzero_u64() -> u64 {
    rand::random::<u64>().max(1)
}

fn nonzero_u128() -> u128 {
    rand::random::<u128>().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_keeps_the_trace_and_has_a_span_of_its_own() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let child = child(Some(parent));
        assert_eq!(parse(&child), parse(parent));
        assert_ne!(child, parent);
        assert_eq!(child.len(), parent.len());
    }

    #[test]
    fn what_is_no_traceparent_begins_a_new_trace() {
        for bad in [
            "",
            "00-x",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
            assert!(parse(&child(Some(bad))).is_some());
        }
        assert!(parse(&child(None)).is_some());
    }
}
