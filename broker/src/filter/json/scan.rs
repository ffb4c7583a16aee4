//! One pass over a JSON payload that checks it and finds paths in it.

use std::borrow::Cow;

use super::paths::{Found, Paths};

/// Deeper documents are left to `serde_json`.
const DEPTH_MAX: usize = 64;
/// Numbers with more digits, or exponents of more than two, may be out of the
/// range of a double, and are left to `serde_json`.
const DIGITS_MAX: usize = 200;

/// Finds the paths. `None` if the document is not valid, or has something in it
/// that needs a closer look: great depth, surrogates, huge numbers, escapes in a
/// key that may be wanted.
pub(super) fn find<'a>(json: &'a [u8], paths: &Paths) -> Option<Vec<Found<'a>>> {
    // Outside of strings everything is ASCII, so the whole must be UTF-8.
    std::str::from_utf8(json).ok()?;
    let mut scan = Scan {
        json,
        at: 0,
        paths,
        found: paths.none_found(),
    };
    scan.value(Some(Paths::ROOT), DEPTH_MAX)?;
    scan.space();
    (scan.at == json.len()).then_some(scan.found)
}

struct Scan<'a, 'p> {
    json: &'a [u8],
    at: usize,
    paths: &'p Paths,
    found: Vec<Found<'a>>,
}

impl Scan<'_, '_> {
    /// A value; `node` is the place of the paths that it is at.
    fn value(&mut self, node: Option<usize>, depth: usize) -> Option<()> {
        self.space();
        let start = self.at;
        let first = self.peek()?;
        if let Some(node) = node
            && self.paths.has_children(node)
        {
            self.paths.enter(node, first == b'{', &mut self.found);
        }
        match first {
            b'{' => self.object(node, depth.checked_sub(1)?)?,
            b'[' => self.array(depth.checked_sub(1)?)?,
            b'"' => self.string().map(drop)?,
            b't' => self.word(b"true")?,
            b'f' => self.word(b"false")?,
            b'n' => self.word(b"null")?,
            _ => self.number()?,
        }
        if let Some(slot) = node.and_then(|node| self.paths.slot(node)) {
            self.found[slot] = Found::At(Cow::Borrowed(&self.json[start..self.at]));
        }
        Some(())
    }

    fn object(&mut self, node: Option<usize>, depth: usize) -> Option<()> {
        let wanted = node.filter(|node| self.paths.has_children(*node));
        self.at += 1;
        self.space();
        if self.take(b'}') {
            return Some(());
        }
        loop {
            self.space();
            let start = self.at + 1;
            let escaped = self.string()?;
            let child = match wanted {
                Some(_) if escaped => return None,
                Some(node) => {
                    // UTF-8 as a whole, and cut at quotes.
                    let key = std::str::from_utf8(&self.json[start..self.at - 1]).ok()?;
                    self.paths.child(node, key)
                }
                None => None,
            };
            self.space();
            self.expect(b':')?;
            self.value(child, depth)?;
            self.space();
            if self.take(b'}') {
                return Some(());
            }
            self.expect(b',')?;
        }
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        self.at += 1;
        self.space();
        if self.take(b']') {
            return Some(());
        }
        loop {
            self.value(None, depth)?;
            self.space();
            if self.take(b']') {
                return Some(());
            }
            self.expect(b',')?;
        }
    }

    /// A string; says whether there are escapes in it.
    fn string(&mut self) -> Option<bool> {
        self.expect(b'"')?;
        let mut escaped = false;
        loop {
            self.plain_text();
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(escaped);
                }
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                0..0x20 => return None,
                _ => self.at += 1,
            }
        }
    }

    /// Goes on, eight bytes at a time, while there is no quote, no backslash and
    /// no control character.
    fn plain_text(&mut self) {
        const ONES: u64 = u64::from_le_bytes([1; 8]);
        const HIGH: u64 = ONES << 7;
        // The lowest byte that is marked is one that is less; those above it may
        // be marked without.
        let less = |word: u64, than: u64| word.wrapping_sub(ONES * than) & !word & HIGH;
        while let Some(eight) = self.json.get(self.at..).and_then(<[u8]>::first_chunk) {
            let word = u64::from_le_bytes(*eight);
            let stops = less(word, 0x20)
                | less(word ^ (ONES * u64::from(b'"')), 1)
                | less(word ^ (ONES * u64::from(b'\\')), 1);
            if stops != 0 {
                self.at += (stops.trailing_zeros() / 8) as usize;
                return;
            }
            self.at += 8;
        }
    }

    fn escape(&mut self) -> Option<()> {
        match self.json.get(self.at + 1)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 2,
            b'u' => {
                let digits = self.json.get(self.at + 2..self.at + 6)?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                // A surrogate needs its other half.
                if digits[0].eq_ignore_ascii_case(&b'd') && digits[1] >= b'8' {
                    return None;
                }
                self.at += 6;
            }
            _ => return None,
        }
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        self.take(b'-');
        let start = self.at;
        let leading_zero = self.peek()? == b'0';
        let digits = self.digits();
        if digits == 0 || digits > DIGITS_MAX || (leading_zero && self.at - start > 1) {
            return None;
        }
        if self.take(b'.') && self.digits() == 0 {
            return None;
        }
        if self.take(b'e') || self.take(b'E') {
            if !self.take(b'+') {
                self.take(b'-');
            }
            if !(1..=2).contains(&self.digits()) {
                return None;
            }
        }
        Some(())
    }

    /// How many digits follow.
    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.json.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        self.at - start
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        let ahead = self.json.get(self.at..self.at + word.len())?;
        (ahead == word).then(|| self.at += word.len())
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.json.get(self.at) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.take(byte).then_some(())
    }
}
