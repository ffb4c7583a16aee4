//! How large and how deep an expression is. Evaluation recurses as deep as the
//! expression, and nested comprehensions multiply.

use std::collections::HashSet;

use cel::common::ast::{EntryExpr, Expr, IdedExpr};

/// Deepest expression.
pub(super) const DEPTH_MAX: usize = 64;
/// Most nodes of an expression, after macros are expanded.
pub(super) const NODES_MAX: usize = 1000;
/// Comprehensions (all, exists, exists_one, map, filter) within each other.
pub(super) const COMPREHENSIONS_MAX: usize = 1;

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
    pub(super) reads_data: bool,
    pub(super) unknown_variable: Option<String>,
}

impl Shape {
    pub(super) fn of(expression: &IdedExpr) -> Result<Self, ShapeError> {
        let mut shape = Self::default();
        shape.visit(expression, 1, 0, &mut HashSet::new())?;
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
                if name == "event" {
                    // Used whole, or by a computed name.
                    self.reads_data = true;
                } else if !bound.contains(name) && self.unknown_variable.is_none() {
                    self.unknown_variable = Some(name.clone());
                }
            }
            Expr::Select(select) => match &select.operand.expr {
                Expr::Ident(name) if name == "event" => {
                    self.nodes += 1;
                    self.reads_data |= select.field == "data";
                }
                _ => self.visit(&select.operand, below, comprehensions, bound)?,
            },
            Expr::Call(call) => {
                for part in call.target.as_deref().into_iter().chain(&call.args) {
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
                let mut names = vec![of.iter_var.clone(), of.accu_var.clone()];
                names.extend(of.iter_var2.clone());
                // A name that shadows another stays bound outside, which only
                // makes an unknown one pass here and fail in evaluation.
                bound.extend(names);
                for part in [&of.accu_init, &of.loop_cond, &of.loop_step, &of.result] {
                    self.visit(part, below, comprehensions + 1, bound)?;
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
