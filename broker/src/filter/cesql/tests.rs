#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use prost::Message;
use sluice_proto::pb;

use super::*;

fn evaluate(source: &str) -> Evaluated {
    let event = pb::Event {
        id: "1".into(),
        source: "/scanner".into(),
        r#type: "image.ready".into(),
        attributes: [("five".to_owned(), "5".to_owned())].into(),
        ..Default::default()
    }
    .encode_to_vec();
    let event = EventRef::read(&event).unwrap();
    Expression::parse(source)
        .unwrap()
        .evaluate(&event, &Budget::default())
}

#[test]
fn what_the_kit_leaves_open_is_as_the_module_says() {
    let boolean = Value::Boolean;
    for (source, value, error) in [
        // One precedence, from left to right.
        ("TRUE OR FALSE AND FALSE", boolean(false), None),
        ("TRUE OR (FALSE AND FALSE)", boolean(true), None),
        ("FALSE AND missing OR TRUE", boolean(true), None),
        // A comparison binds weaker than NOT, and stronger than AND.
        ("NOT TRUE = FALSE", boolean(true), None),
        ("1 + 1 = 2 AND 2 * 2 + 1 = 5", boolean(true), None),
        (
            "'1' IN (missing, '1')",
            boolean(false),
            Some("missing attribute: missing"),
        ),
        (
            "LENGTH(missing) + 1",
            Value::Integer(0),
            Some("missing attribute: missing"),
        ),
        (
            "2147483647 + 1",
            Value::Integer(0),
            Some("math error: an integer overflows"),
        ),
        (
            "-2147483648 / -1",
            Value::Integer(0),
            Some("math error: an integer overflows"),
        ),
        ("-2147483648 % -1", Value::Integer(0), None),
        ("-7 % 2", Value::Integer(-1), None),
        ("7 -2", Value::Integer(5), None),
        ("FIVE = 5 AND five LIKE '_'", boolean(true), None),
        (r"'a\\' LIKE '%\\'", boolean(true), None),
        ("'it''s'", Value::String("it's".into()), None),
        (
            "substring('häuser', 2, 2)",
            Value::String("äu".into()),
            None,
        ),
        ("1 AND TRUE", boolean(true), None),
    ] {
        let is = evaluate(source);
        let first = is.errors.first().map(ToString::to_string);
        assert_eq!((is.value, first.as_deref()), (value, error), "{source}");
    }
}

#[test]
fn what_does_not_parse_says_where() {
    for (source, message) in [
        ("", "at byte 0: a value is missing here"),
        ("type =", "at byte 6: a value is missing here"),
        (
            "type = 'x' y",
            "at byte 11: the expression ends before this",
        ),
        (
            "(type = 'x'",
            "at byte 11: a closing bracket is missing here",
        ),
        (
            "type = 'x",
            "at byte 7: a string that begins here has no end",
        ),
        ("type NOT 'x'", "at byte 9: LIKE or IN is missing here"),
        (
            "type LIKE id",
            "at byte 10: the string that LIKE compares with is missing here",
        ),
        ("id IN ()", "at byte 7: a value is missing here"),
        (
            "a_b = 1",
            "at byte 0: the name of an attribute has letters and digits only",
        ),
        (
            "1 = 2147483648",
            "at byte 4: an integer is from -2147483648 to 2147483647",
        ),
        ("1 ; 2", "at byte 2: this character has no meaning here"),
    ] {
        let error = Expression::parse(source).unwrap_err().to_string();
        assert_eq!(error, message, "{source}");
    }
}

#[test]
fn size_and_depth_are_bounded() {
    let nested =
        |open: &str, close: &str, times| format!("{}1{}", open.repeat(times), close.repeat(times));
    for source in [
        nested("(", ")", 65),
        nested("NOT ", "", 65),
        nested("-", "", 65),
        nested("ABS(", ")", 65),
        nested("1 IN (", ")", 65),
        format!("1{}", " = 1".repeat(65)),
        format!("1{}", " + 1".repeat(1000)),
        nested("(", ")", 2000),
    ] {
        let error = Expression::parse(&source).unwrap_err();
        assert_eq!(error, ParseError::TooDeep, "{source:.20}");
    }
    let many = format!("TRUE{}", " AND 1=1".repeat(400));
    assert_eq!(Expression::parse(&many).unwrap_err(), ParseError::TooLarge);
    // A run of one operator is not deep.
    assert!(Expression::parse(&format!("TRUE{}", " AND 1=1".repeat(300))).is_ok());
}

#[test]
fn an_evaluation_that_takes_too_long_is_stopped() {
    let text = "a".repeat(1500);
    let source = format!("'{text}' LIKE '%{}b'", "a".repeat(700));
    let is = evaluate(&source);
    assert_eq!(is.errors.last().unwrap().kind, ErrorKind::OverBudget);
}

proptest! {
    #[test]
    fn like_agrees_with_a_plain_matcher(
        text in "[ab%_\\\\]{0,8}",
        pattern in "[ab%_\\\\]{0,8}",
    ) {
        let is = like::Pattern::new(&pattern).matches(&text, &Budget::default());
        let text: Vec<char> = text.chars().collect();
        let pattern: Vec<char> = pattern.chars().collect();
        prop_assert_eq!(is, plain_like(&text, &pattern));
    }

    #[test]
    fn no_source_makes_it_panic(tokens in proptest::collection::vec(
        prop::sample::select(vec![
            "id", "missing", "'a'", "\"1\"", "1", "-2147483648", "2147483647", "TRUE", "(", ")",
            ",", "=", "!=", "<", "+", "-", "*", "/", "%", "AND", "OR", "XOR", "NOT", "LIKE", "IN",
            "EXISTS", "INT(", "SUBSTRING(", "LEFT(", "CONCAT(", "UPPER(", "ABS(", "'%_'", "'", "é",
        ]),
        0..20,
    )) {
        let source = tokens.join(" ");
        if Expression::parse(&source).is_ok() {
            evaluate(&source);
        }
    }
}

fn plain_like(text: &[char], pattern: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['%', rest @ ..] => (0..=text.len()).any(|skip| plain_like(&text[skip..], rest)),
        ['\\', escaped @ ('%' | '_'), rest @ ..] => {
            text.first() == Some(escaped) && plain_like(&text[1..], rest)
        }
        ['_', rest @ ..] => !text.is_empty() && plain_like(&text[1..], rest),
        [plain, rest @ ..] => text.first() == Some(plain) && plain_like(&text[1..], rest),
    }
}
