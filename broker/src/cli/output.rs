//! How results are printed: tables for people, JSON for scripts.

use std::{
    io::{self, Write},
    time::{Duration, SystemTime},
};

use comfy_table::{Table, presets::NOTHING};
use serde_json::Value;

/// The text on one line, with nothing in it that a terminal obeys: what events
/// say is not to be trusted.
pub(super) fn plain(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// Prints a table.
///
/// # Errors
/// When standard output is closed.
pub(super) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| plain(&cell)));
    }
    // The last column would be filled up with spaces.
    let text = table.to_string();
    let lines = text.lines().map(|line| line.trim_end().to_owned() + "\n");
    io::stdout().write_all(lines.collect::<String>().as_bytes())
}

/// Prints names and values, one a line.
///
/// # Errors
/// When standard output is closed.
pub(super) fn fields(fields: &[(&str, String)]) -> io::Result<()> {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in fields {
        line(&format!("{name:width$}  {}", plain(value)))?;
    }
    Ok(())
}

/// Prints a JSON value on one line.
///
/// # Errors
/// When standard output is closed.
pub(super) fn json(value: &Value) -> io::Result<()> {
    line(&value.to_string())
}

/// Prints a line.
///
/// # Errors
/// When standard output is closed.
pub(super) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")
}

/// A point in time as RFC 3339, to the millisecond; empty for none.
pub(super) fn time(at: Option<SystemTime>) -> String {
    at.and_then(|at| jiff::Timestamp::try_from(at).ok())
        .map_or_else(String::new, |at| format!("{at:.3}"))
}

/// As [`time`], of the API's type.
pub(super) fn timestamp(at: Option<prost_types::Timestamp>) -> String {
    time(at.and_then(|at| SystemTime::try_from(at).ok()))
}

/// How long ago that was by this machine's clock, in whole hours, minutes or
/// seconds, whichever there is one of first; empty for none. What is still to come,
/// by a clock that is behind the broker's, is "0s".
pub(super) fn age(at: Option<prost_types::Timestamp>) -> String {
    let at = at.and_then(|at| SystemTime::try_from(at).ok());
    at.map_or_else(String::new, |at| {
        rounded(SystemTime::now().duration_since(at).unwrap_or_default())
    })
}

/// A duration without what is less than its largest unit.
fn rounded(of: Duration) -> String {
    let seconds = of.as_secs();
    let unit = match seconds {
        0..60 => 1,
        60..3600 => 60,
        _ => 3600,
    };
    let whole = Duration::from_secs(seconds - seconds % unit);
    duration(whole.try_into().ok())
}

/// A duration in the largest unit that is whole.
pub(super) fn duration(of: Option<prost_types::Duration>) -> String {
    let of = of
        .and_then(|of| Duration::try_from(of).ok())
        .unwrap_or_default();
    match of.as_millis() {
        ms if ms % 1000 != 0 => format!("{ms}ms"),
        ms if ms > 0 && ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms > 0 && ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms => format!("{}s", ms / 1000),
    }
}

/// A duration as in "200ms", "5s", "2m", "1h".
///
/// # Errors
/// When the text is none.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let at = text
        .find(|c: char| !c.is_ascii_digit())
        .ok_or_else(|| format!("{text:?} has no unit; write for example 200ms, 5s, 2m or 1h"))?;
    let (number, unit) = text.split_at(at);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?} does not begin with a whole number"))?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        other => return Err(format!("{other:?} is no unit; it is ms, s, m or h")),
    };
    number
        .checked_mul(ms)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is too long"))
}

/// The name of an enum's value without its prefix, in lower case.
pub(super) fn word(name: &str, prefix: &str) -> String {
    let word = name.strip_prefix(prefix).unwrap_or(name);
    word.to_lowercase().replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_they_are_written() {
        for text in ["200ms", "5s", "2m", "3h", "0s"] {
            let parsed = parse_duration(text).expect("valid");
            let again = duration(prost_types::Duration::try_from(parsed).ok());
            assert_eq!(again, text);
        }
        for bad in ["", "5", "s", "5 s", "5d", "99999999999999999999s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_age_is_told_in_its_largest_unit() {
        for (ms, text) in [
            (0, "0s"),
            (12_900, "12s"),
            (59_999, "59s"),
            (60_000, "1m"),
            (3_599_999, "59m"),
            (3_600_000, "1h"),
            (180_000_000, "50h"),
        ] {
            assert_eq!(rounded(Duration::from_millis(ms)), text);
        }
        assert_eq!(age(None), "");
        let to_come = SystemTime::now() + Duration::from_secs(60);
        assert_eq!(age(Some(to_come.into())), "0s");
    }
}
