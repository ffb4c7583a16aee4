//! How large and how deep an expression is. Evaluation recurses as deep as the
//! expression, and nested comprehensions multiply.

use std::collections::HashSet;

use cel::common::ast::{
    EntryExpr, Expr, IdedExpr,
    operators::{INDEX, OPT_INDEX, OPT_SELECT},
};

use super::{leaf::is_event, meter::NAMESPACES};

/// Deepest expression.
pub(super) const DEPTH_MAX: usize = 64;
/// Most nodes of an expression, after macros are expanded.
pub(super) const NODES_MAX: usize = 1000;
/// Comprehensions (all, exists, exists_one, map, filter) within each other.
pub(super) const COMPREHENSIONS_MAX: usize = 1;

/// Names that are types.
const TYPES: [&str; 11] = [
    "bool",
    "bytes",
    "double",
    "google",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "type",
    "uint",
];

/// A bound that the expression exceeds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// It is too deep.
    #[error("the filter is more than {DEPTH_MAX} levels deep, the limit")]
    TooDeep,
    /// It is too large.
    #[error("the filter has more than {NODES_MAX} nodes, the limit")]
    TooLarge,
    /// It nests comprehensions.
    #[error(
        "the filter nests all, exists, exists_one, map or filter more than \
         {COMPREHENSIONS_MAX} deep, the limit"
    )]
    NestedComprehensions,
}

/// What is known of an expression that is within the bounds.
#[derive(Debug, Default)]
pub(super) struct Shape {
    nodes: usize,
    /// It does more with the event than look at its fields.
    pub(super) whole_event: bool,
    pub(super) unknown_variable: Option<String>,
}

impl Shape {
    /// Checks an expression over `event` and these other variables.
    pub(super) fn of(expression: &IdedExpr, others: &[&str]) -> Result<Self, ShapeError> {
        let mut shape = Self::default();
        let mut bound = others.iter().map(|name| (*name).to_owned()).collect();
        shape.visit(expression, 1, 0, &mut bound)?;
        Ok(shape)
    }

    fn visit(
        &mut self,
        expression: &IdedExpr,
        depth: usize,
        comprehensions: usize,
        bound: &mut HashSet<String>,
    ) -> Result<(), ShapeError> {
        self.nodes += 1;
        if depth > DEPTH_MAX {
            return Err(ShapeError::TooDeep);
        }
        if self.nodes > NODES_MAX {
            return Err(ShapeError::TooLarge);
        }
        let below = depth + 1;
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => {}
            Expr::Ident(name) => {
                if bound.contains(name) || TYPES.contains(&name.as_str()) {
                } else if name == "event" {
                    self.whole_event = true;
                } else if self.unknown_variable.is_none() {
                    self.unknown_variable = Some(name.clone());
                }
            }
            Expr::Select(select) => match &select.operand.expr {
                Expr::Ident(name) if name == "event" && !bound.contains(name) => self.nodes += 1,
                _ => self.visit(&select.operand, below, comprehensions, bound)?,
            },
            Expr::Call(call) => {
                let mut args = call.args.as_slice();
                if let ([of, rest @ ..], INDEX | OPT_INDEX | OPT_SELECT) =
                    (args, call.func_name.as_str())
                    && is_event(of)
                    && !bound.contains("event")
                {
                    // A field of it, though by a computed name.
                    self.nodes += 1;
                    args = rest;
                }
                let target = call.target.as_deref();
                let target = target.filter(|target| {
                    !matches!(&target.expr, Expr::Ident(name) if NAMESPACES.contains(&name.as_str()))
                });
                for part in target.into_iter().chain(args) {
                    self.visit(part, below, comprehensions, bound)?;
                }
            }
            Expr::List(list) => {
                for element in &list.elements {
                    self.visit(element, below, comprehensions, bound)?;
                }
            }
            Expr::Map(map) => {
                for entry in &map.entries {
                    self.visit_entry(&entry.expr, below, comprehensions, bound)?;
                }
            }
            Expr::Struct(of) => {
                for entry in &of.entries {
                    self.visit_entry(&entry.expr, below, comprehensions, bound)?;
                }
            }
            Expr::Comprehension(of) => {
                if comprehensions == COMPREHENSIONS_MAX {
                    return Err(ShapeError::NestedComprehensions);
                }
                self.visit(&of.iter_range, below, comprehensions, bound)?;
                let names = [
                    Some(&of.iter_var),
                    Some(&of.accu_var),
                    of.iter_var2.as_ref(),
                ];
                let new: Vec<&String> = names
                    .into_iter()
                    .flatten()
                    .filter(|name| bound.insert((*name).clone()))
                    .collect();
                for part in [&of.accu_init, &of.loop_cond, &of.loop_step, &of.result] {
                    self.visit(part, below, comprehensions + 1, bound)?;
                }
                for name in new {
                    bound.remove(name);
                }
            }
        }
        Ok(())
    }

    fn visit_entry(
        &mut self,
        entry: &EntryExpr,
        depth: usize,
        comprehensions: usize,
        bound: &mut HashSet<String>,
    ) -> Result<(), ShapeError> {
        match entry {
            EntryExpr::StructField(field) => self.visit(&field.value, depth, comprehensions, bound),
            EntryExpr::MapEntry(entry) => {
                self.visit(&entry.key, depth, comprehensions, bound)?;
                self.visit(&entry.value, depth, comprehensions, bound)
            }
        }
    }
}
