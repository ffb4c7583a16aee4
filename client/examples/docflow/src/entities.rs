//! Finds dates, amounts, e-mail addresses, invoice numbers and IBANs in text.

use std::{collections::BTreeSet, sync::LazyLock};

use regex::{Captures, Regex};
use serde::{Deserialize, Serialize};

/// Something that a text speaks of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entity {
    /// What it is.
    pub kind: Kind,
    /// In one spelling: dates as 2026-11-24, amounts as EUR 1234.56, IBANs
    /// without spaces.
    pub value: String,
}

/// What can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // They are what they are called.
pub enum Kind {
    Date,
    Amount,
    Email,
    InvoiceNumber,
    Iban,
}

impl Kind {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Date => "date",
            Self::Amount => "amount",
            Self::Email => "email",
            Self::InvoiceNumber => "invoice_number",
            Self::Iban => "iban",
        }
    }
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the pattern is a constant, and a test uses it")
}

macro_rules! patterns {
    ($($name:ident = $pattern:expr;)*) => {
        $(static $name: LazyLock<Regex> = LazyLock::new(|| regex($pattern));)*
    };
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
patterns! {
    ISO_DATE = r"\b(\d{4})-(\d{2})-(\d{2})\b";
    DOTTED_DATE = r"\b(\d{1,2})\.\s?(\d{1,2})\.\s?(\d{4})\b";
    DAY_MONTH_DATE = r"(?i)\b(\d{1,2})\.?\s+([a-z]+)\s+(\d{4})\b";
    MONTH_DAY_DATE = r"(?i)\b([a-z]+)\s+(\d{1,2}),\s*(\d{4})\b";
    AMOUNT_AFTER = r"(EUR|USD|GBP|CHF|€|\$|£)\s?(\d[\d.,]*\d|\d)";
    AMOUNT_BEFORE = r"(\d[\d.,]*\d|\d)\s?(EUR|USD|GBP|CHF|€|£)";
    EMAIL = r"(?i)\b[a-z0-9._%+-]+@[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,}\b";
    INVOICE_NUMBER = r"(?i)\binvoice\s*(?:no\.?|number|#)\s*:?\s*([A-Z0-9][A-Z0-9/-]*\d)";
    IBAN = r"\b([A-Z]{2}\d{2}(?: ?[A-Z0-9]{1,4}){3,8})\b";
}

/// Everything that is found, each once, in order of kind and value.
#[must_use]
pub fn find(text: &str) -> Vec<Entity> {
    let mut found = BTreeSet::new();
    let mut add = |kind, value: Option<String>| {
        found.extend(value.map(|value| Entity { kind, value }));
    };
    for c in ISO_DATE.captures_iter(text) {
        add(Kind::Date, date(&c[1], &c[2], &c[3]));
    }
    for c in DOTTED_DATE.captures_iter(text) {
        add(Kind::Date, date(&c[3], &c[2], &c[1]));
    }
    for c in DAY_MONTH_DATE.captures_iter(text) {
        add(
            Kind::Date,
            month(&c[2]).and_then(|m| date(&c[3], &m, &c[1])),
        );
    }
    for c in MONTH_DAY_DATE.captures_iter(text) {
        add(
            Kind::Date,
            month(&c[1]).and_then(|m| date(&c[3], &m, &c[2])),
        );
    }
    for c in AMOUNT_AFTER.captures_iter(text) {
        add(Kind::Amount, amount(&c[1], &c[2]));
    }
    for c in AMOUNT_BEFORE.captures_iter(text) {
        // "EUR 5.00 EUR" is one amount with a currency too many.
        if !follows_currency(text, &c) {
            add(Kind::Amount, amount(&c[2], &c[1]));
        }
    }
    for m in EMAIL.find_iter(text) {
        add(Kind::Email, Some(m.as_str().to_lowercase()));
    }
    for c in INVOICE_NUMBER.captures_iter(text) {
        add(Kind::InvoiceNumber, Some(c[1].to_uppercase()));
    }
    for c in IBAN.captures_iter(text) {
        add(Kind::Iban, iban(&c[1]));
    }
    found.into_iter().collect()
}

fn follows_currency(text: &str, captures: &Captures<'_>) -> bool {
    let start = captures.get(0).map_or(0, |m| m.start());
    let before = text[..start].trim_end();
    ["EUR", "USD", "GBP", "CHF", "€", "$", "£"]
        .iter()
        .any(|currency| before.ends_with(currency))
}

fn month(name: &str) -> Option<String> {
    let name = name.to_lowercase();
    let long_enough = name.len() >= 3;
    let at = MONTHS.iter().position(|month| month.starts_with(&name))?;
    long_enough.then(|| (at + 1).to_string())
}

fn date(year: &str, month: &str, day: &str) -> Option<String> {
    let (year, month, day): (u32, u32, u32) =
        (year.parse().ok()?, month.parse().ok()?, day.parse().ok()?);
    let leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    ((1..=days).contains(&day) && (1900..2200).contains(&year))
        .then(|| format!("{year:04}-{month:02}-{day:02}"))
}

/// An amount: the last of "." and "," with two digits after it is the decimal
/// sign, all others group thousands.
fn amount(currency: &str, digits: &str) -> Option<String> {
    let currency = match currency {
        "€" => "EUR",
        "$" => "USD",
        "£" => "GBP",
        other => other,
    };
    let (whole, cents) = match digits.rfind(['.', ',']) {
        Some(at) if digits.len() - at == 3 => (&digits[..at], &digits[at + 1..]),
        _ => (digits, "00"),
    };
    let groups: Vec<&str> = whole.split(['.', ',']).collect();
    let grouped = groups.len() == 1
        || (groups[0].len() <= 3 && groups[1..].iter().all(|group| group.len() == 3));
    let whole: u64 = groups.concat().parse().ok()?;
    grouped.then(|| format!("{currency} {whole}.{cents}"))
}

/// The longest beginning of the text that is an IBAN with a right checksum
/// (ISO 13616, by ISO 7064 MOD 97-10).
fn iban(text: &str) -> Option<String> {
    let mut compact: String = text.chars().filter(|c| *c != ' ').collect();
    while compact.len() >= 15 {
        if compact.len() <= 34 && is_iban(&compact) {
            return Some(compact);
        }
        compact.pop();
    }
    None
}

fn is_iban(compact: &str) -> bool {
    let (head, tail) = compact.split_at(4);
    let mut remainder = 0_u32;
    for c in tail.chars().chain(head.chars()) {
        let Some(value) = c.to_digit(36) else {
            return false;
        };
        let shift = if value < 10 { 10 } else { 100 };
        remainder = (remainder * shift + value) % 97;
    }
    remainder == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(kind: Kind, text: &str) -> Vec<String> {
        let found = find(text).into_iter().filter(|entity| entity.kind == kind);
        found.map(|entity| entity.value).collect()
    }

    #[test]
    fn dates_in_every_spelling_are_one_date() {
        for text in [
            "2026-11-24",
            "on 24.11.2026.",
            "24. 11. 2026",
            "24 November 2026",
            "November 24, 2026",
            "24 nov 2026",
        ] {
            assert_eq!(values(Kind::Date, text), ["2026-11-24"], "{text}");
        }
        for text in [
            "31.02.2026",
            "2026-13-01",
            "24 foo 2026",
            "1.1.1",
            "29.02.2025",
        ] {
            assert!(values(Kind::Date, text).is_empty(), "{text}");
        }
    }

    #[test]
    fn amounts_have_one_spelling() {
        for (text, value) in [
            ("EUR 1,234.56", "EUR 1234.56"),
            ("1.234,56 €", "EUR 1234.56"),
            ("$99.00", "USD 99.00"),
            ("USD 5", "USD 5.00"),
            ("CHF 1.000.000,00", "CHF 1000000.00"),
            ("£ 7,000", "GBP 7000.00"),
        ] {
            assert_eq!(values(Kind::Amount, text), [value], "{text}");
        }
        for text in ["EUR 12,34,56", "24.11.2026", "99999999999999999999999 EUR"] {
            assert!(values(Kind::Amount, text).is_empty(), "{text}");
        }
    }

    #[test]
    fn ibans_need_their_checksum() {
        let good = "DE89 3704 0044 0532 0130 00";
        assert_eq!(values(Kind::Iban, good), ["DE89370400440532013000"]);
        let followed = "IBAN: GB82 WEST 1234 5698 7654 32 BIC X";
        assert_eq!(values(Kind::Iban, followed), ["GB82WEST12345698765432"]);
        assert!(values(Kind::Iban, "DE88 3704 0044 0532 0130 00").is_empty());
    }

    #[test]
    fn mails_and_invoice_numbers_are_found() {
        let text = "Invoice No. INV-2026-0042, questions to Billing@Example.com.";
        assert_eq!(values(Kind::Email, text), ["billing@example.com"]);
        assert_eq!(values(Kind::InvoiceNumber, text), ["INV-2026-0042"]);
        assert!(values(Kind::Email, "a@b, @c.de").is_empty());
    }

    proptest! {
        /// One wrong digit, or two neighbours that changed places, is never an
        /// IBAN.
        #[test]
        fn the_checksum_finds_every_single_slip(account in "[0-9]{18}", at in 0_usize..18, digit in 0_u8..10) {
            let check = (0..97)
                .find(|check| is_iban(&format!("DE{check:02}{account}")))
                .expect("one of them is right");
            let right = format!("DE{check:02}{account}");
            let mut wrong = right.clone().into_bytes();
            wrong[4 + at] = b'0' + digit;
            let wrong = String::from_utf8(wrong).expect("ASCII");
            prop_assert_eq!(is_iban(&wrong), wrong == right);
            if at < 17 {
                let mut swapped = right.clone().into_bytes();
                swapped.swap(4 + at, 5 + at);
                let swapped = String::from_utf8(swapped).expect("ASCII");
                prop_assert_eq!(is_iban(&swapped), swapped == right);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "(?s).{0,80}") {
            let _ = find(&text);
        }
    }
}
