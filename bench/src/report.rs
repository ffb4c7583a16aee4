//! Medians with their spread, and tables.

use comfy_table::{
    Table, TableStyle,
    presets::{ASCII_MARKDOWN, NOTHING},
};

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

    /// `median (min–max)` in the unit of `scale`; only one number if there is
    /// only one.
    pub(crate) fn show(&self, scale: f64, decimals: usize) -> String {
        if let [only] = self.0[..] {
            return format!("{:.decimals$}", only / scale);
        }
        let [min, median, max] = [self.0[0], self.median(), self.0[self.0.len() - 1]]
            .map(|value| format!("{:.decimals$}", value / scale));
        format!("{median} ({min}–{max})")
    }
}

/// A table for people.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    lines(NOTHING, header, rows)
}

/// A table for people and for files of Markdown.
pub(crate) fn markdown_table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    lines(ASCII_MARKDOWN, header, rows)
}

fn lines(style: TableStyle, header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(style).set_header(header);
    table.add_rows(rows);
    table
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}
