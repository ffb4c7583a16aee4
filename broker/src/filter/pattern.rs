//! Regular expressions of filters: compiled once, in linear time, and bounded.

use regex::{Regex, RegexBuilder};

use super::{EvaluationError, budget::Budget};

/// Largest compiled regular expression, in bytes, as the `regex` crate counts.
const COMPILED_BYTES_MAX: usize = 1 << 20;
/// The bounds that are tried, so that its size is known.
const SIZES: [usize; 6] = [
    4 << 10,
    16 << 10,
    64 << 10,
    128 << 10,
    512 << 10,
    COMPILED_BYTES_MAX,
];

/// A compiled regular expression.
#[derive(Clone, Debug)]
pub struct Pattern {
    regex: Regex,
    /// An upper bound of its size, which with the text's length bounds the time
    /// that matching takes.
    size: usize,
}

impl Pattern {
    /// What compiling one costs at worst, in steps.
    pub(super) const COMPILE_STEPS: u64 = 20_000;

    /// Compiles a regular expression of the syntax of RE2.
    ///
    /// # Errors
    /// When it is none, or is too large; in one line.
    pub fn new(source: &str) -> Result<Self, String> {
        let mut error = None;
        for size in SIZES {
            match RegexBuilder::new(source).size_limit(size).build() {
                Ok(regex) => return Ok(Self { regex, size }),
                Err(regex::Error::CompiledTooBig(_)) => {
                    error = Some(format!(
                        "compiled, it takes more than {COMPILED_BYTES_MAX} bytes, the limit"
                    ));
                }
                Err(other) => {
                    // The last line says what is wrong; those before show where.
                    let text = other.to_string();
                    return Err(text.lines().last().unwrap_or_default().trim().to_owned());
                }
            }
        }
        Err(error.unwrap_or_default())
    }

    /// Its source.
    #[must_use]
    pub fn source(&self) -> &str {
        self.regex.as_str()
    }

    /// Whether it matches somewhere in the text.
    ///
    /// # Errors
    /// When the text is so long that this could take too much time.
    pub fn is_match(&self, text: &str, budget: &Budget) -> Result<bool, EvaluationError> {
        budget.spend(self.cost(text))?;
        Ok(self.is_match_unpaid(text))
    }

    /// As [`Pattern::is_match`], for one who has paid [`Pattern::cost`].
    pub(super) fn is_match_unpaid(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// What matching costs at worst: a step looks at 64 bytes of text in each of
    /// 16 places of the expression.
    pub(super) fn cost(&self, text: &str) -> u64 {
        const STEP: u64 = 64 * 1024;
        1 + text.len() as u64 * self.size as u64 / STEP
    }
}
