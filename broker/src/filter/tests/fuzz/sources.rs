//! Sources of filters, from well typed to nonsense.

use rand::{RngExt, rngs::StdRng};

const WORDS: &[&str] = &[
    "event",
    ".data",
    ".a",
    ".b",
    ".list",
    "[0]",
    "['a']",
    ".type",
    ".subject",
    ".time",
    ".`x y`",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    " == ",
    " != ",
    " < ",
    " >= ",
    " && ",
    " || ",
    "!",
    "-",
    " + ",
    " * ",
    " / ",
    " % ",
    " ? ",
    " : ",
    ", ",
    " in ",
    "1",
    "0",
    "-1",
    "2u",
    "1.5",
    "1e308",
    "9223372036854775807",
    "'a'",
    "''",
    "b'\\xff'",
    "r'\\d+'",
    "\"\"\"q\"\"\"",
    "true",
    "false",
    "null",
    "has(",
    ".all(x, ",
    ".exists(x, ",
    ".exists_one(x, ",
    ".map(x, ",
    ".filter(x, ",
    "x",
    "x, ",
    ".matches(",
    ".contains(",
    ".replace(",
    ".split(",
    ".join(",
    ".format([",
    ".indexOf(",
    ".size()",
    "size(",
    "string(",
    "int(",
    "double(",
    "timestamp(",
    "duration(",
    "'1h'",
    "type(",
    "math.greatest(",
    "strings.quote(",
    "base64.encode(",
    "optional.of(",
    ".?a",
    ".orValue(",
    "event.data",
    "event.data.list",
    "event.data.text",
    "event.data.list.map(x, x)",
    "// c\n",
    ".getFullYear()",
    ".getMilliseconds()",
    "google.protobuf.BoolValue{value: true}",
    "é",
    "\\",
];

/// Whole expressions, of any type.
const ATOMS: &[&str] = &[
    "event.type",
    "event.subject",
    "event.key",
    "event.time",
    "event.attempt",
    "event.retries",
    "event.data",
    "event.data.a",
    "event.data.a.b",
    "event.data.list",
    "event.data.list[0]",
    "event.data.text",
    "event.data['x y']",
    "event[event.type]",
    "event",
    "1",
    "0",
    "-1",
    "2u",
    "1.5",
    "1e308",
    "9223372036854775807",
    "'a'",
    "''",
    "'(a|b)+'",
    "b'\\xff'",
    "true",
    "false",
    "null",
    "[]",
    "{}",
    "event.type == 'image.ready'",
    "event.data.text.contains('b')",
    "event.data.text.size() > 3",
    "has(event.subject)",
    "event.data.a > 1",
    "event.flag",
];

/// Pieces of any type put together: nearly all are filters, and most of those
/// end in an error.
fn expression(random: &mut StdRng, depth: usize) -> String {
    if depth == 0 {
        return ATOMS[random.random_range(0..ATOMS.len())].to_owned();
    }
    let mut inner = || expression(random, depth - 1);
    let (a, b, c) = (inner(), inner(), inner());
    match random.random_range(0..16) {
        0 => format!("({a}) && ({b})"),
        1 => format!("({a}) || ({b})"),
        2 => format!("{a} == {b}"),
        3 => format!("({a}) < ({b})"),
        4 => format!("event.data.list.all(x, x != {a})"),
        5 => format!("event.data.list.map(x, [x, {a}]).exists(x, x == {b})"),
        6 => format!("event.data.list.filter(x, size(x) > 3 || {a}) != []"),
        7 => format!("({a}).matches({b})"),
        8 => format!("({a}).replace({b}, {c})"),
        9 => format!("[{a}, {b}, {c}]"),
        10 => format!("{{'a': {a}, 'b': {b}}}"),
        11 => format!("({a}) + ({b})"),
        12 => format!("({a}) ? ({b}) : ({c})"),
        13 => format!("event.data.text.split({a}).join({b})"),
        14 => format!("string({a}) in [{b}, {c}]"),
        _ => format!("has(event.data.a) && {a}"),
    }
}

#[derive(Clone, Copy)]
enum Type {
    Bool,
    Number,
    Text,
    List,
}

fn one_of(random: &mut StdRng, texts: &[&str]) -> String {
    texts[random.random_range(0..texts.len())].to_owned()
}

/// An expression whose parts have the types that they should have, so that it
/// is evaluated to its end wherever the payload is as it should be.
fn typed(random: &mut StdRng, wanted: Type, depth: usize) -> String {
    if depth == 0 {
        return match wanted {
            Type::Bool => one_of(
                random,
                &[
                    "true",
                    "event.type == 'image.ready'",
                    "has(event.subject)",
                    "has(event.data.a.b)",
                    "'ab' in ['a', 'ab']",
                ],
            ),
            Type::Number => one_of(
                random,
                &[
                    "1",
                    "-9223372036854775808",
                    "event.attempt",
                    "size(event.data)",
                    "int(event.data.list[0][0])",
                    "event.data.text.size()",
                ],
            ),
            Type::Text => one_of(
                random,
                &[
                    "'ab'",
                    "event.type",
                    "event.data.text",
                    "event.key",
                    "'é%s'",
                ],
            ),
            Type::List => one_of(
                random,
                &[
                    "event.data.list",
                    "[1, 'a', 2.5]",
                    "event.data.list[0]",
                    "[]",
                ],
            ),
        };
    }
    let mut part = |wanted| typed(random, wanted, depth - 1);
    let (condition, number, text, list) = (
        part(Type::Bool),
        part(Type::Number),
        part(Type::Text),
        part(Type::List),
    );
    let which = random.random_range(0..8);
    match wanted {
        Type::Bool => {
            let other = typed(random, Type::Bool, depth - 1);
            match which {
                0 => format!("({condition}) && ({other})"),
                1 => format!("({condition}) || ({other})"),
                2 => format!("!({condition}) ? ({other}) : {number} > 0"),
                3 => format!("{number} >= size({text})"),
                4 => format!("{text}.matches('(a|b)+%?') == ({other})"),
                5 => format!("{list}.all(x, type(x) != int || {condition})"),
                6 => format!("{list}.exists_one(x, x == {text})"),
                _ => format!("{text}.startsWith({text}) != ({condition})"),
            }
        }
        Type::Number => match which {
            0 => format!("({number} % 7 + 1)"),
            1 => format!("(({condition}) ? {number} : size({list}))"),
            2 => format!("{text}.indexOf({text}.substring(0, 1))"),
            3 => format!("math.greatest({number}, size({text}))"),
            _ => format!("size({list})"),
        },
        Type::Text => match which {
            0 => format!("({text} + string({number}))"),
            1 => format!("{text}.replace('a', {text})"),
            2 => format!("{text}.split('').join('-')"),
            3 => format!("'%s|%d'.format([{text}, {number}])"),
            4 => format!("(({condition}) ? {text} : 'no')"),
            5 => format!("{text}.lowerAscii()"),
            _ => format!("{text}.reverse()"),
        },
        Type::List => match which {
            0 => format!("({list} + [{number}, {text}])"),
            1 => format!("{list}.map(x, [x, {number}])"),
            2 => format!("{list}.filter(x, {condition})"),
            3 => format!("{text}.split('b')"),
            _ => format!("[{text}, {number}, {condition}]"),
        },
    }
}

/// A filter, or what looks a little like one.
pub(super) fn any(random: &mut StdRng) -> String {
    let mut source = match random.random_range(0..10) {
        0 => {
            let words = random.random_range(1..30);
            (0..words)
                .map(|_| WORDS[random.random_range(0..WORDS.len())])
                .collect()
        }
        1..=3 => {
            let depth = random.random_range(1..4);
            expression(random, depth)
        }
        _ => {
            let depth = random.random_range(1..5);
            typed(random, Type::Bool, depth)
        }
    };
    if random.random_bool(0.1) {
        let times = random.random_range(2..200);
        source = source.repeat(times);
    }
    source
}
