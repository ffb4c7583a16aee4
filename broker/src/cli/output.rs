//! How results are printed: tables for people, JSON for scripts.

use std::{
    io::{self, Write},
    time::SystemTime,
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

/// A duration in the largest unit that is whole.
pub(super) fn duration(of: Option<prost_types::Duration>) -> String {
    let of = of
        .and_then(|of| std::time::Duration::try_from(of).ok())
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
pub(super) fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
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
        .map(std::time::Duration::from_millis)
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
}
