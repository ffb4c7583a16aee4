//! Splits a source into tokens. Keywords and names know no case.

use super::parser::ParseError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// Letters, digits and underscores, in lower case; not digits only.
    Name(String),
    /// Digits only.
    Integer(String),
    String(String),
    /// One of `( ) , = != <> < <= > >= + - * / %`.
    Sign(&'static str),
}

/// A token and the byte at which it begins.
pub(super) type Located = (usize, Token);

const SIGNS: [&str; 15] = [
    // Longer ones before their beginnings.
    "!=", "<>", "<=", ">=", "=", "<", ">", "(", ")", ",", "+", "-", "*", "/", "%",
];

pub(super) fn tokens(source: &str) -> Result<Vec<Located>, ParseError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = source[at..].chars().next() {
        let rest = &source[at..];
        if matches!(first, ' ' | '\t' | '\r' | '\n') {
            at += 1;
        } else if first == '\'' || first == '"' {
            let (string, length) = string(rest, first)
                .ok_or(ParseError::at(at, "a string that begins here has no end"))?;
            tokens.push((at, Token::String(string)));
            at += length;
        } else if first.is_ascii_alphanumeric() {
            let part_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let length = rest.find(|c| !part_of_name(c)).unwrap_or(rest.len());
            let name = &rest[..length];
            let token = if name.bytes().all(|b| b.is_ascii_digit()) {
                Token::Integer(name.to_owned())
            } else {
                Token::Name(name.to_ascii_lowercase())
            };
            tokens.push((at, token));
            at += length;
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            tokens.push((at, Token::Sign(sign)));
            at += sign.len();
        } else {
            return Err(ParseError::at(at, "this character has no meaning here"));
        }
    }
    Ok(tokens)
}

/// Reads a string literal; its value, and its length in the source. The quote
/// that delimits it stands in it after a backslash, or doubled.
fn string(source: &str, quote: char) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut characters = source.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        let next = characters.peek().map(|(_, next)| *next);
        if character == '\\' {
            let next = next?;
            characters.next();
            if next != quote {
                value.push('\\');
            }
            value.push(next);
        } else if character != quote {
            value.push(character);
        } else if next == Some(quote) {
            characters.next();
            value.push(quote);
        } else {
            return Some((value, at + 1));
        }
    }
    None
}
