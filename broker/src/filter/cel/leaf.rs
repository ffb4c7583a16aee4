//! What is evaluated by the `cel` crate.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock},
};

use cel::{
    Context, Env, ExecutionError, Value,
    common::{
        ast::{Expr, IdedExpr, LiteralValue, operators as op},
        types::{CelBool, CelString},
        value::Val,
    },
    extensions,
};

use super::{
    meter,
    value::{EventVal, Made, PATH_MARK, Variables},
    wrappers,
};
use crate::filter::{
    EvaluationError, FilterError, Leaf, Subject, operand::DataPath, pattern::Pattern,
};

/// The functions and macros of filters: core CEL with the extensions for
/// strings, numbers and base64, and what counts steps.
pub(super) static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    for extension in [
        extensions::strings,
        extensions::math,
        extensions::encoders,
        wrappers::extension,
        meter::extension,
    ] {
        // Only a name that is taken is refused, and these are distinct; the
        // tests of this module would not run otherwise.
        let added = env.add_extension(extension);
        debug_assert_eq!(added, Ok(()));
    }
    Arc::new(env)
});

/// An expression that the crate evaluates, counting its steps.
#[derive(Clone, Debug)]
pub(super) struct CelLeaf {
    expression: Arc<IdedExpr>,
    /// It does more with the event than look at its fields.
    whole_event: bool,
    /// What it reads of the payload, in place of which the expression has marks.
    paths: Vec<DataPath>,
    patterns: Arc<[Pattern]>,
    text: Arc<str>,
}

impl CelLeaf {
    /// Prepares an expression for evaluation. `text` is how it is shown.
    pub(super) fn new(
        mut expression: IdedExpr,
        whole_event: bool,
        text: &str,
    ) -> Result<Self, FilterError> {
        let mut patterns = Vec::new();
        literal_patterns(&expression, &mut patterns)?;
        let mut paths = Vec::new();
        if !whole_event {
            mark_paths(&mut expression, &mut paths);
        }
        meter::build_in(&mut expression);
        Ok(Self {
            expression: Arc::new(expression),
            whole_event,
            paths,
            patterns: patterns.into(),
            text: text.into(),
        })
    }

    /// The expression as it is: nothing is counted, and no path is marked.
    #[cfg(test)]
    pub(super) fn plain(expression: IdedExpr, whole_event: bool) -> Self {
        Self {
            expression: Arc::new(expression),
            whole_event,
            paths: Vec::new(),
            patterns: Arc::new([]),
            text: "".into(),
        }
    }

    fn run(&self, subject: &Subject<'_>) -> Result<bool, EvaluationError> {
        let made = Made::new(&self.paths);
        let event = EventVal::new(subject, &self.paths, &made);
        let event: Box<dyn Val + '_> = if self.whole_event {
            Box::new(event.to_map()?)
        } else {
            Box::new(event)
        };
        let variables = Variables { event };
        let mut context = Context::with_env(ENV.clone());
        context.set_variable_resolver(&variables);
        let result = run(&self.expression, &context, |value| {
            match value.downcast_ref::<CelBool>() {
                Some(holds) => Ok(*holds.inner()),
                None => Err(EvaluationError::NotBool(type_name(value))),
            }
        });
        match meter::metered(subject.budget(), &self.patterns, result) {
            Some(result) => result,
            None => Err(EvaluationError::OverBudget),
        }
    }
}

/// Evaluates an expression when it is called, and looks at the value.
fn run<'a, T>(
    expression: &'a IdedExpr,
    context: &'a Context<'_, '_>,
    look: impl Fn(&dyn Val) -> Result<T, EvaluationError> + 'a,
) -> impl FnOnce() -> Result<T, EvaluationError> + 'a {
    move || {
        // The crate is not written against hostile input; a panic in it must
        // cost this evaluation and nothing else.
        let result = catch_unwind(AssertUnwindSafe(|| {
            match Value::resolve_val(expression, context) {
                Ok(value) => look(value.as_ref()),
                Err(error) => Err(readable(&error)),
            }
        }));
        result.unwrap_or(Err(EvaluationError::Panicked))
    }
}

/// Evaluates an expression without an event, for tests of the language.
#[cfg(test)]
pub(super) fn run_with(
    expression: &IdedExpr,
    context: &Context<'_, '_>,
) -> Result<Value, EvaluationError> {
    let budget = crate::filter::budget::Budget::default();
    let result = run(expression, context, |value| {
        Value::try_from(value).map_err(|error| EvaluationError::Cel(error.to_string()))
    });
    meter::metered(&budget, &[], result).unwrap_or(Err(EvaluationError::OverBudget))
}

fn type_name(value: &dyn Val) -> &'static str {
    const NAMES: [&str; 9] = [
        "int",
        "uint",
        "double",
        "string",
        "bytes",
        "list",
        "map",
        "null_type",
        "type",
    ];
    let name = value.get_type().name();
    NAMES
        .into_iter()
        .find(|known| *known == name)
        .unwrap_or("value")
}

/// The crate's error in words that a user knows, and of bounded length: some of
/// its errors print whole values.
fn readable(error: &ExecutionError) -> EvaluationError {
    const CHARS_MAX: usize = 200;
    match error {
        ExecutionError::NoSuchKey(name) => EvaluationError::Missing(name.as_str().into()),
        ExecutionError::FunctionError { function, message } if function == "data" => {
            EvaluationError::Data(message.as_str().into())
        }
        ExecutionError::ValuesNotComparable(..) | ExecutionError::UnsupportedKeyType(_) => {
            EvaluationError::Cel("values of these types cannot be compared".into())
        }
        ExecutionError::UnsupportedBinaryOperator(operator, ..) => {
            EvaluationError::Cel(format!("{operator} is not defined for these values"))
        }
        ExecutionError::Overflow(operator, ..) => {
            EvaluationError::Cel(format!("{operator} overflows"))
        }
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            EvaluationError::Cel("division by zero".into())
        }
        other => EvaluationError::Cel(other.to_string().chars().take(CHARS_MAX).collect()),
    }
}

impl Leaf for CelLeaf {
    fn evaluate(&self, subject: &Subject<'_>) -> Result<bool, EvaluationError> {
        self.run(subject)
    }

    fn paths(&mut self, visit: &mut dyn FnMut(&mut DataPath)) {
        self.paths.iter_mut().for_each(visit);
    }

    fn boxed(&self) -> Box<dyn Leaf> {
        Box::new(self.clone())
    }
}

impl fmt::Display for CelLeaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The payload path that an expression is, with at least one field.
pub(super) fn data_path(expression: &IdedExpr) -> Option<Vec<&str>> {
    let mut fields = Vec::new();
    let mut at = expression;
    loop {
        let (operand, field) = field_of(at)?;
        if is_event(operand) {
            fields.reverse();
            return (field == "data").then_some(fields);
        }
        fields.push(field);
        at = operand;
    }
}

/// `operand.field`, or `operand["field"]`.
pub(super) fn field_of(expression: &IdedExpr) -> Option<(&IdedExpr, &str)> {
    match &expression.expr {
        Expr::Select(select) if !select.test => Some((&select.operand, &select.field)),
        Expr::Call(call) if call.func_name == op::INDEX && call.target.is_none() => {
            match call.args.as_slice() {
                [operand, index] => Some((operand, string_literal(index)?)),
                _ => None,
            }
        }
        _ => None,
    }
}

pub(super) fn is_event(expression: &IdedExpr) -> bool {
    matches!(&expression.expr, Expr::Ident(name) if name == "event")
}

pub(super) fn string_literal(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

/// Puts marks in the place of payload paths, so that what is read of the payload
/// is found in the one pass, and nothing else of it is built.
fn mark_paths(expression: &mut IdedExpr, paths: &mut Vec<DataPath>) {
    let fields = data_path(expression).filter(|fields| !fields.is_empty());
    if let Some(path) = fields.map(DataPath::new) {
        let known = paths.iter().position(|known| *known == path);
        let place = known.unwrap_or_else(|| {
            paths.push(path);
            paths.len() - 1
        });
        *expression = marked(expression.id, place);
        return;
    }
    children(expression, &mut |child, names| {
        // A loop's variable may be called "event", and be another thing.
        if !names.contains(&"event") {
            mark_paths(child, paths);
        }
    });
}

fn marked(id: u64, place: usize) -> IdedExpr {
    let node = |expr| IdedExpr { id, expr };
    let name = CelString::from(format!("{PATH_MARK}{place}"));
    node(Expr::Call(cel::common::ast::CallExpr {
        func_name: op::INDEX.into(),
        target: None,
        args: vec![
            node(Expr::Ident("event".into())),
            node(Expr::Literal(LiteralValue::String(name))),
        ],
    }))
}

/// Visits each direct part of an expression, with the names that it binds there.
fn children(expression: &mut IdedExpr, visit: &mut dyn FnMut(&mut IdedExpr, &[&str])) {
    use cel::common::ast::EntryExpr;
    let entry = |entry: &mut EntryExpr, visit: &mut dyn FnMut(&mut IdedExpr, &[&str])| match entry {
        EntryExpr::StructField(field) => visit(&mut field.value, &[]),
        EntryExpr::MapEntry(entry) => {
            visit(&mut entry.key, &[]);
            visit(&mut entry.value, &[]);
        }
    };
    match &mut expression.expr {
        Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) => {}
        Expr::Select(select) => visit(&mut select.operand, &[]),
        Expr::Call(call) => {
            for part in call.target.as_deref_mut().into_iter().chain(&mut call.args) {
                visit(part, &[]);
            }
        }
        Expr::List(list) => list.elements.iter_mut().for_each(|e| visit(e, &[])),
        Expr::Map(map) => map
            .entries
            .iter_mut()
            .for_each(|e| entry(&mut e.expr, visit)),
        Expr::Struct(of) => of
            .entries
            .iter_mut()
            .for_each(|e| entry(&mut e.expr, visit)),
        Expr::Comprehension(of) => {
            visit(&mut of.iter_range, &[]);
            visit(&mut of.accu_init, &[]);
            let mut names = vec![of.iter_var.as_str(), of.accu_var.as_str()];
            names.extend(of.iter_var2.as_deref());
            for part in [&mut of.loop_cond, &mut of.loop_step, &mut of.result] {
                visit(part, &names);
            }
        }
    }
}

/// Compiles the regular expressions that are written in an expression.
fn literal_patterns(expression: &IdedExpr, found: &mut Vec<Pattern>) -> Result<(), FilterError> {
    let mut result = Ok(());
    let mut walked = expression.clone();
    walk(&mut walked, &mut |expression| {
        if let Expr::Call(call) = &expression.expr
            && call.func_name == "matches"
            && let Some(source) = call.args.last().and_then(string_literal)
            && result.is_ok()
            && !found.iter().any(|known| known.source() == source)
        {
            match pattern(source) {
                Ok(pattern) => found.push(pattern),
                Err(error) => result = Err(error),
            }
        }
    });
    result
}

fn walk(expression: &mut IdedExpr, visit: &mut dyn FnMut(&IdedExpr)) {
    visit(expression);
    children(expression, &mut |child, _| walk(child, visit));
}

pub(super) fn pattern(source: &str) -> Result<Pattern, FilterError> {
    Pattern::new(source).map_err(|reason| FilterError::Pattern {
        pattern: source.into(),
        reason,
    })
}
