//! Turns what it can of an expression into a predicate of comparisons.

use std::sync::Arc;

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators as op};

use super::leaf::{CelLeaf, data_path, field_of, is_event, pattern, string_literal};
use crate::filter::{
    Comparison, FilterError, Predicate,
    operand::{Attribute, DataPath, Literal, Operand},
};

/// Lowers one term.
pub(super) struct Lowering<'t> {
    /// How what stays CEL is shown.
    pub(super) text: &'t str,
    pub(super) whole_event: bool,
}

impl Lowering<'_> {
    /// The predicate that is true, false or an error exactly where the
    /// expression is.
    pub(super) fn predicate(&self, expression: &IdedExpr) -> Result<Predicate, FilterError> {
        if let Some(lowered) = self.lower(expression)? {
            return Ok(lowered);
        }
        let leaf = CelLeaf::new(expression.clone(), self.whole_event, self.text)?;
        Ok(Predicate::Leaf(Arc::new(leaf)))
    }

    fn lower(&self, expression: &IdedExpr) -> Result<Option<Predicate>, FilterError> {
        Ok(match &expression.expr {
            Expr::Literal(LiteralValue::Boolean(value)) => {
                Some(Predicate::Constant(*value.inner()))
            }
            Expr::Call(call) => match &call.target {
                None => self.operator(call)?,
                Some(target) => match call.args.as_slice() {
                    [arg] => method(target, &call.func_name, arg)?,
                    _ => None,
                },
            }
            .or_else(|| operand(expression).map(Predicate::Truth)),
            Expr::Select(select) if select.test => has(&select.operand, &select.field),
            _ => operand(expression).map(Predicate::Truth),
        })
    }

    fn operator(&self, call: &CallExpr) -> Result<Option<Predicate>, FilterError> {
        let parts = || call.args.iter().map(|part| self.predicate(part));
        Ok(match (call.func_name.as_str(), call.args.as_slice()) {
            (op::LOGICAL_AND, _) => Some(Predicate::And(parts().collect::<Result<_, _>>()?)),
            (op::LOGICAL_OR, _) => Some(Predicate::Or(parts().collect::<Result<_, _>>()?)),
            (op::LOGICAL_NOT, [part]) => Some(Predicate::Not(Box::new(self.predicate(part)?))),
            (op::IN, [value, list]) => within(value, list),
            ("matches", [target, arg]) => method(target, "matches", arg)?,
            (name, [left, right]) => {
                comparison(name).and_then(|comparison| compare(left, comparison, right))
            }
            _ => None,
        })
    }
}

fn comparison(name: &str) -> Option<Comparison> {
    Some(match name {
        op::EQUALS => Comparison::Equal,
        op::NOT_EQUALS => Comparison::NotEqual,
        op::LESS => Comparison::Less,
        op::LESS_EQUALS => Comparison::LessOrEqual,
        op::GREATER => Comparison::Greater,
        op::GREATER_EQUALS => Comparison::GreaterOrEqual,
        _ => return None,
    })
}

fn compare(left: &IdedExpr, comparison: Comparison, right: &IdedExpr) -> Option<Predicate> {
    let (left, right) = (operand(left)?, operand(right)?);
    // Lists and maps of the payload may be equal; the crate compares them.
    let both_data = matches!((&left, &right), (Operand::Data(_), Operand::Data(_)));
    (!both_data).then_some(Predicate::Compare(left, comparison, right))
}

fn within(value: &IdedExpr, list: &IdedExpr) -> Option<Predicate> {
    let Expr::List(list) = &list.expr else {
        return None;
    };
    if !list.optional_indices.is_empty() {
        return None;
    }
    let literals: Option<Vec<Literal>> = list.elements.iter().map(literal).collect();
    Some(Predicate::In(operand(value)?, literals?.into()))
}

fn method(target: &IdedExpr, name: &str, arg: &IdedExpr) -> Result<Option<Predicate>, FilterError> {
    let (Some(target), Some(arg)) = (operand(target), string_literal(arg)) else {
        return Ok(None);
    };
    Ok(Some(match name {
        "startsWith" => Predicate::StartsWith(target, arg.into()),
        "endsWith" => Predicate::EndsWith(target, arg.into()),
        "contains" => Predicate::Contains(target, arg.into()),
        "matches" => Predicate::Matches(target, pattern(arg)?),
        _ => return Ok(None),
    }))
}

fn has(operand: &IdedExpr, field: &str) -> Option<Predicate> {
    let of = if is_event(operand) {
        match Attribute::named(field) {
            Some(attribute) => Operand::Attribute(attribute),
            None => Operand::Data(DataPath::new([])),
        }
    } else {
        let mut fields = data_path(operand)?;
        fields.push(field);
        Operand::Data(DataPath::new(fields))
    };
    Some(Predicate::Has(of))
}

fn operand(expression: &IdedExpr) -> Option<Operand> {
    if let Some(literal) = literal(expression) {
        return Some(Operand::Literal(literal));
    }
    if let Some(fields) = data_path(expression) {
        return Some(Operand::Data(DataPath::new(fields)));
    }
    let (of, name) = field_of(expression)?;
    let attribute = is_event(of).then(|| Attribute::named(name))??;
    Some(Operand::Attribute(attribute))
}

fn literal(expression: &IdedExpr) -> Option<Literal> {
    let Expr::Literal(literal) = &expression.expr else {
        return negated(expression);
    };
    Some(match literal {
        LiteralValue::Null => Literal::Null,
        LiteralValue::Boolean(b) => Literal::Bool(*b.inner()),
        LiteralValue::Int(i) => Literal::Int(*i.inner()),
        LiteralValue::UInt(u) => Literal::Uint(*u.inner()),
        LiteralValue::Double(d) => Literal::Double(*d.inner()),
        LiteralValue::String(s) => Literal::String(s.inner().into()),
        LiteralValue::Bytes(b) => Literal::Bytes(b.inner().into()),
    })
}

fn negated(expression: &IdedExpr) -> Option<Literal> {
    let Expr::Call(call) = &expression.expr else {
        return None;
    };
    match (call.func_name.as_str(), call.args.as_slice()) {
        (op::NEGATE, [positive]) => match &positive.expr {
            Expr::Literal(LiteralValue::Int(i)) => i.inner().checked_neg().map(Literal::Int),
            Expr::Literal(LiteralValue::Double(d)) => Some(Literal::Double(-d.inner())),
            _ => None,
        },
        _ => None,
    }
}
