//! Makes an expression of tokens, by recursive descent. How deep and how large
//! it may become is bounded, so that neither parsing nor evaluating it can
//! exhaust a stack.
//!
//! From what binds weakest: `AND OR XOR`, comparisons, `+ -`, `* / %`,
//! `LIKE IN`, then the prefixes `NOT - EXISTS`.

use super::{
    ast::{Arithmetic, Compare, Logic, Node},
    cast::Value,
    functions::Function,
    lexer::{Located, Token, tokens},
    like::Pattern,
};

/// Deepest expression. A run of one logical operator is one level.
pub(super) const DEPTH_MAX: usize = 64;
/// Most operators, calls, attributes and literals.
pub(super) const NODES_MAX: usize = 1000;

/// Why a source is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::filter) enum ParseError {
    /// It is no CESQL.
    #[error("at byte {at}: {message}")]
    Syntax { at: usize, message: String },
    /// It is too deep.
    #[error("it is more than {DEPTH_MAX} levels deep, the limit")]
    TooDeep,
    /// It is too large.
    #[error("it has more than {NODES_MAX} nodes, the limit")]
    TooLarge,
}

impl ParseError {
    pub(super) fn at(at: usize, message: impl Into<String>) -> Self {
        Self::Syntax {
            at,
            message: message.into(),
        }
    }
}

pub(super) fn parse(source: &str) -> Result<Node, ParseError> {
    let mut parser = Parser {
        tokens: tokens(source)?,
        next: 0,
        end: source.len(),
        nodes: 0,
    };
    let (root, _) = parser.logic(1)?;
    match parser.tokens.get(parser.next) {
        None => Ok(root),
        Some((at, _)) => Err(ParseError::at(*at, "the expression ends before this")),
    }
}

struct Parser {
    tokens: Vec<Located>,
    next: usize,
    /// Length of the source.
    end: usize,
    nodes: usize,
}

/// A node and how many levels are below and including it.
type Deep = (Node, usize);

const KEYWORDS: [&str; 9] = [
    "and", "or", "xor", "not", "like", "in", "exists", "true", "false",
];

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(_, token)| token)
    }

    fn at(&self) -> usize {
        self.tokens.get(self.next).map_or(self.end, |(at, _)| *at)
    }

    fn expected<T>(&self, what: &str) -> Result<T, ParseError> {
        Err(ParseError::at(self.at(), format!("{what} is missing here")))
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Sign(found)) if *found == sign);
        self.next += usize::from(found);
        found
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Name(found)) if found == word);
        self.next += usize::from(found);
        found
    }

    /// Takes the operator that is next, if it is in the table.
    fn take_one_of<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        let found = match self.peek()? {
            Token::Sign(sign) => table.iter().find(|(name, _)| name == sign),
            Token::Name(word) => table.iter().find(|(name, _)| name == word),
            _ => None,
        };
        let (_, operator) = found?;
        self.next += 1;
        Some(*operator)
    }

    /// Counts a node whose deepest part has so many levels.
    fn node(&mut self, node: Node, below: usize) -> Result<Deep, ParseError> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(ParseError::TooLarge);
        }
        if below >= DEPTH_MAX {
            return Err(ParseError::TooDeep);
        }
        Ok((node, below + 1))
    }

    fn logic(&mut self, depth: usize) -> Result<Deep, ParseError> {
        const OPERATORS: [(&str, Logic); 3] =
            [("and", Logic::And), ("or", Logic::Or), ("xor", Logic::Xor)];
        if depth > DEPTH_MAX {
            return Err(ParseError::TooDeep);
        }
        let (mut left, mut levels) = self.comparison(depth)?;
        while let Some(operator) = self.take_one_of(&OPERATORS) {
            let (right, right_levels) = self.comparison(depth)?;
            match &mut left {
                // Each is associative, so that a run of it is one node.
                Node::Logic(before, operands) if *before == operator => {
                    operands.push(right);
                    levels = levels.max(right_levels + 1);
                }
                _ => {
                    let both = Node::Logic(operator, vec![left, right]);
                    (left, levels) = self.node(both, levels.max(right_levels))?;
                }
            }
        }
        Ok((left, levels))
    }

    fn comparison(&mut self, depth: usize) -> Result<Deep, ParseError> {
        const OPERATORS: [(&str, Compare); 7] = [
            ("=", Compare::Equal),
            ("!=", Compare::NotEqual),
            ("<>", Compare::NotEqual),
            ("<", Compare::Less),
            ("<=", Compare::LessOrEqual),
            (">", Compare::Greater),
            (">=", Compare::GreaterOrEqual),
        ];
        let (mut left, mut levels) = self.sum(depth)?;
        while let Some(operator) = self.take_one_of(&OPERATORS) {
            let (right, right_levels) = self.sum(depth)?;
            let both = Node::Compare(operator, Box::new(left), Box::new(right));
            (left, levels) = self.node(both, levels.max(right_levels))?;
        }
        Ok((left, levels))
    }

    fn sum(&mut self, depth: usize) -> Result<Deep, ParseError> {
        const OPERATORS: [(&str, Arithmetic); 2] =
            [("+", Arithmetic::Add), ("-", Arithmetic::Subtract)];
        let (mut left, mut levels) = self.product(depth)?;
        while let Some(operator) = self.take_one_of(&OPERATORS) {
            let (right, right_levels) = self.product(depth)?;
            let both = Node::Arithmetic(operator, Box::new(left), Box::new(right));
            (left, levels) = self.node(both, levels.max(right_levels))?;
        }
        Ok((left, levels))
    }

    fn product(&mut self, depth: usize) -> Result<Deep, ParseError> {
        const OPERATORS: [(&str, Arithmetic); 3] = [
            ("*", Arithmetic::Multiply),
            ("/", Arithmetic::Divide),
            ("%", Arithmetic::Remainder),
        ];
        let (mut left, mut levels) = self.like_or_in(depth)?;
        while let Some(operator) = self.take_one_of(&OPERATORS) {
            let (right, right_levels) = self.like_or_in(depth)?;
            let both = Node::Arithmetic(operator, Box::new(left), Box::new(right));
            (left, levels) = self.node(both, levels.max(right_levels))?;
        }
        Ok((left, levels))
    }

    fn like_or_in(&mut self, depth: usize) -> Result<Deep, ParseError> {
        let (mut left, mut levels) = self.prefixed(depth)?;
        loop {
            let negated = self.take_word("not");
            let value = Box::new(left);
            if self.take_word("like") {
                let Some(Token::String(pattern)) = self.peek() else {
                    return self.expected("the string that LIKE compares with");
                };
                let pattern = Pattern::new(pattern);
                self.next += 1;
                let like = Node::Like {
                    value,
                    pattern,
                    negated,
                };
                (left, levels) = self.node(like, levels)?;
            } else if self.take_word("in") {
                if !self.take_sign("(") {
                    return self.expected("the set of IN, in brackets,");
                }
                let (set, set_levels) = self.list(depth + 1)?;
                let is_in = Node::In {
                    value,
                    set,
                    negated,
                };
                (left, levels) = self.node(is_in, levels.max(set_levels))?;
            } else if negated {
                return self.expected("LIKE or IN");
            } else {
                return Ok((*value, levels));
            }
        }
    }

    /// One or more expressions and the bracket behind them.
    fn list(&mut self, depth: usize) -> Result<(Vec<Node>, usize), ParseError> {
        let mut list = Vec::new();
        let mut levels = 0;
        loop {
            let (element, of_element) = self.logic(depth)?;
            list.push(element);
            levels = levels.max(of_element);
            if self.take_sign(")") {
                return Ok((list, levels));
            }
            if !self.take_sign(",") {
                return self.expected("a comma or a closing bracket");
            }
        }
    }

    fn prefixed(&mut self, depth: usize) -> Result<Deep, ParseError> {
        if depth > DEPTH_MAX {
            return Err(ParseError::TooDeep);
        }
        if self.take_word("not") {
            let (of, levels) = self.prefixed(depth + 1)?;
            return self.node(Node::Not(Box::new(of)), levels);
        }
        if self.take_word("exists") {
            let Some(Token::Name(name)) = self.peek() else {
                return self.expected("the name of an attribute");
            };
            let name = attribute_name(name, self.at())?;
            self.next += 1;
            return self.node(Node::Exists(name), 0);
        }
        if self.take_sign("-") {
            if let Some(Token::Integer(digits)) = self.peek() {
                // Together, because the smallest integer has no positive twin.
                let digits = format!("-{digits}");
                return self.integer(&digits);
            }
            let (of, levels) = self.prefixed(depth + 1)?;
            return self.node(Node::Negate(Box::new(of)), levels);
        }
        if self.take_sign("+") {
            return match self.peek() {
                Some(Token::Integer(digits)) => {
                    let digits = digits.clone();
                    self.integer(&digits)
                }
                _ => self.expected("an integer"),
            };
        }
        self.atom(depth)
    }

    fn integer(&mut self, digits: &str) -> Result<Deep, ParseError> {
        let Ok(integer) = digits.parse() else {
            let message = "an integer is from -2147483648 to 2147483647";
            return Err(ParseError::at(self.at(), message));
        };
        self.next += 1;
        self.node(Node::Literal(Value::Integer(integer)), 0)
    }

    fn atom(&mut self, depth: usize) -> Result<Deep, ParseError> {
        let at = self.at();
        match self.peek().cloned() {
            Some(Token::Integer(digits)) => self.integer(&digits),
            Some(Token::String(string)) => {
                self.next += 1;
                self.node(Node::Literal(Value::String(string)), 0)
            }
            Some(Token::Sign("(")) => {
                self.next += 1;
                let inner = self.logic(depth + 1)?;
                if !self.take_sign(")") {
                    return self.expected("a closing bracket");
                }
                Ok(inner)
            }
            Some(Token::Name(name)) => {
                self.next += 1;
                if name == "true" || name == "false" {
                    let literal = Value::Boolean(name == "true");
                    return self.node(Node::Literal(literal), 0);
                }
                if KEYWORDS.contains(&name.as_str()) {
                    return Err(ParseError::at(at, "a value is missing before this"));
                }
                if !self.take_sign("(") {
                    let name = attribute_name(&name, at)?;
                    return self.node(Node::Attribute(name), 0);
                }
                let (arguments, levels) = if self.take_sign(")") {
                    (Vec::new(), 0)
                } else {
                    self.list(depth + 1)?
                };
                let call = match Function::find(&name, arguments.len()) {
                    Some(function) => Node::Call(function, arguments),
                    None => Node::UnknownCall {
                        name: name.to_ascii_uppercase(),
                        arguments: arguments.len(),
                    },
                };
                self.node(call, levels)
            }
            _ => self.expected("a value"),
        }
    }
}

fn attribute_name(name: &str, at: usize) -> Result<String, ParseError> {
    if name.contains('_') {
        let message = "the name of an attribute has letters and digits only";
        return Err(ParseError::at(at, message));
    }
    Ok(name.to_owned())
}
