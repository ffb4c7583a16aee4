//! Medians with their spread, and tables.

use std::time::Duration;

use comfy_table::{Table, presets::NOTHING};

/// A figure from several rounds.
#[derive(Clone, Debug)]
pub(crate) struct Figure(Vec<f64>);

impl Figure {
    /// At least one value.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "a figure without a value");
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    pub(crate) fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }

    /// `median (min–max)` in the unit of `scale`.
    pub(crate) fn show(&self, scale: f64, decimals: usize) -> String {
        let [min, median, max] = [self.0[0], self.median(), self.0[self.0.len() - 1]]
            .map(|value| format!("{:.decimals$}", value / scale));
        format!("{median} ({min}–{max})")
    }
}

/// The value below which `part` of the sorted times lie.
pub(crate) fn quantile(sorted: &[Duration], part: f64) -> Duration {
    let at = (sorted.len() as f64 * part) as usize;
    sorted[at.min(sorted.len() - 1)]
}

/// A table for people and for result files.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    table.add_rows(rows);
    table
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}
