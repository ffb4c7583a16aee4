//! Cuts a source at its top-level `&&`, so that each term is shown as it was
//! written.

/// The terms of a conjunction, without the spaces around them. One, if it is
/// none: an `||` or a condition `? :` binds looser than `&&`.
pub(super) fn conjunction(source: &str) -> Vec<&str> {
    let whole = strip_brackets(source.trim());
    let Some(cuts) = cuts(whole) else {
        return vec![whole];
    };
    let mut terms = Vec::new();
    let mut start = 0;
    for cut in cuts {
        terms.extend(conjunction(&whole[start..cut]));
        start = cut + 2;
    }
    if start == 0 {
        return vec![whole];
    }
    terms.extend(conjunction(&whole[start..]));
    terms
}

/// Takes brackets off that are around the whole.
fn strip_brackets(mut source: &str) -> &str {
    while let Some(inner) = source
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'))
    {
        // They belong together if nothing closes before the end.
        let mut lexer = Lexer::new(inner);
        let mut balanced = true;
        while lexer.next().is_some() {
            balanced &= lexer.depth >= 0;
        }
        if !balanced || lexer.depth != 0 {
            break;
        }
        source = inner.trim();
    }
    source
}

/// Where `&&` stand outside of brackets; `None` if it is no conjunction.
fn cuts(source: &str) -> Option<Vec<usize>> {
    let mut cuts = Vec::new();
    let mut lexer = Lexer::new(source);
    let mut before = (0, b' ');
    while let Some((at, byte)) = lexer.next() {
        if lexer.depth == 0 {
            let follows = before.0 + 1 == at && before.1 == byte;
            match byte {
                b'?' if !matches!(source.as_bytes().get(at.wrapping_sub(1)), Some(b'.')) => {
                    return None;
                }
                b'|' if follows => return None,
                b'&' if follows => cuts.push(at - 1),
                _ => {}
            }
        }
        before = (at, byte);
    }
    Some(cuts)
}

/// Gives the bytes that are neither in strings nor in comments.
struct Lexer<'a> {
    source: &'a [u8],
    at: usize,
    depth: i32,
    /// The letters before a quote, which may make it raw.
    word: usize,
}

impl<'a> Lexer<'a> {
    fn new(source: &'a str) -> Self {
        Self {
            source: source.as_bytes(),
            at: 0,
            depth: 0,
            word: 0,
        }
    }

    fn next(&mut self) -> Option<(usize, u8)> {
        loop {
            let at = self.at;
            let byte = *self.source.get(at)?;
            self.at += 1;
            match byte {
                b'"' | b'\'' => {
                    let raw = self.source[self.word.min(at)..at]
                        .iter()
                        .any(|letter| matches!(letter, b'r' | b'R'));
                    self.string(byte, raw);
                    self.word = self.at;
                    continue;
                }
                b'`' => {
                    while self.source.get(self.at).is_some_and(|byte| *byte != b'`') {
                        self.at += 1;
                    }
                    self.at += 1;
                    self.word = self.at;
                    continue;
                }
                b'/' if self.source.get(self.at) == Some(&b'/') => {
                    while self.source.get(self.at).is_some_and(|byte| *byte != b'\n') {
                        self.at += 1;
                    }
                    self.word = self.at;
                    continue;
                }
                b'(' | b'[' | b'{' => self.depth += 1,
                b')' | b']' | b'}' => self.depth -= 1,
                _ => {}
            }
            if !byte.is_ascii_alphanumeric() && byte != b'_' {
                self.word = self.at;
            }
            return Some((at, byte));
        }
    }

    /// Goes behind a string of which the first quote is read.
    fn string(&mut self, quote: u8, raw: bool) {
        let triple = self.source.get(self.at) == Some(&quote)
            && self.source.get(self.at + 1) == Some(&quote);
        let end: &[u8] = if triple { &[quote; 3] } else { &[quote] };
        self.at += if triple { 2 } else { 0 };
        while let Some(rest) = self.source.get(self.at..).filter(|rest| !rest.is_empty()) {
            if rest[0] == b'\\' && !raw {
                self.at += 2;
            } else if rest.starts_with(end) {
                self.at += end.len();
                return;
            } else {
                self.at += 1;
            }
        }
    }
}
