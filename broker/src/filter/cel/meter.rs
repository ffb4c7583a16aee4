//! Makes an expression count its steps.
//!
//! The crate's evaluator runs to its end, however long that takes. So before an
//! expression is ever evaluated, calls of hidden functions are built into it
//! (their names begin with `@`, which no source can say): every turn of a
//! comprehension counts a step and the size of what it copies, and so does
//! everything that copies, builds or walks values of unbounded size. When the
//! steps are used up these functions fail, which ends every loop at its next
//! turn. The failure may be absorbed by an `||` around it; therefore the
//! evaluation asks at the end whether it happened.
//!
//! Three kinds of functions can make much out of little and are bounded by
//! their input: those of `SHORT` work on texts of at most [`TEXT_BYTES_MAX`]
//! with arguments of at most [`ARGUMENT_BYTES_MAX`], and `matches` pays for the
//! product of text and expression.

use std::cell::RefCell;

use cel::{
    DeclarationError, Env, ExecutionError,
    common::{
        ast::{
            CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators as op,
        },
        types::{
            CelBool, CelBytes, CelDuration, CelInt, CelList, CelMap, CelOptional, CelString,
            CelTimestamp, DYN_TYPE,
        },
        value::{CowVal, Val},
    },
};

use crate::filter::{budget::Budget, pattern::Pattern};

/// Longest text that functions look at which may take long for their input.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// Longest further argument of such a function.
const ARGUMENT_BYTES_MAX: usize = 256;

const SHORT: [&str; 6] = [
    "indexOf",
    "lastIndexOf",
    "replace",
    "join",
    "format",
    "split",
];
/// Functions whose results are small.
const SMALL: [&str; 17] = [
    "size",
    "startsWith",
    "endsWith",
    "contains",
    "int",
    "uint",
    "double",
    "bool",
    "timestamp",
    "duration",
    "type",
    "hasValue",
    "charAt",
    "indexOf",
    "lastIndexOf",
    "matches",
    "dyn",
];
/// Names before a dot that are no values.
pub(super) const NAMESPACES: [&str; 4] = ["base64", "math", "optional", "strings"];

const TICK: &str = "@tick";
const WEIGH: &str = "@weigh";
const TEXT: &str = "@text";
const ARGUMENT: &str = "@argument";
const MATCHES: &str = "@matches";
const MILLISECONDS: &str = "@milliseconds";

// ------------------------------------------------------------- evaluation

/// The steps of the evaluation that this thread is in.
#[derive(Default)]
struct Meter {
    left: u64,
    overrun: bool,
    patterns: Vec<Pattern>,
}

thread_local! {
    static METER: RefCell<Meter> = RefCell::default();
}

/// Evaluates something that counts its steps. `None` if it overran.
pub(super) fn metered<T>(
    budget: &Budget,
    patterns: &[Pattern],
    evaluate: impl FnOnce() -> T,
) -> Option<T> {
    METER.with_borrow_mut(|meter| {
        meter.left = budget.left();
        meter.overrun = false;
        meter.patterns.clear();
        meter.patterns.extend_from_slice(patterns);
    });
    let result = evaluate();
    METER.with_borrow(|meter| {
        budget.set(meter.left);
        (!meter.overrun).then_some(result)
    })
}

fn spend(steps: u64) -> Result<(), ExecutionError> {
    METER.with_borrow_mut(|meter| {
        if meter.overrun || steps > meter.left {
            meter.overrun = true;
            meter.left = 0;
            return Err(ExecutionError::function_error("filter", "out of steps"));
        }
        meter.left -= steps;
        Ok(())
    })
}

fn left() -> u64 {
    METER.with_borrow(|meter| meter.left)
}

/// About how much work it is to copy or walk a value; stops counting at `max`.
fn weight(value: &dyn Val, max: u64) -> u64 {
    if let Some(text) = value.downcast_ref::<CelString>() {
        1 + text.len() as u64 / 64
    } else if let Some(bytes) = value.downcast_ref::<CelBytes>() {
        1 + bytes.inner().len() as u64 / 64
    } else if let Some(list) = value.downcast_ref::<CelList>() {
        sum(list.inner().iter().map(AsRef::as_ref), max)
    } else if let Some(map) = value.downcast_ref::<CelMap>() {
        let inner = map.inner();
        let keys = inner.keys().map(|key| key.inner());
        sum(keys.chain(inner.values().map(AsRef::as_ref)), max)
    } else if let Some(optional) = value.downcast_ref::<CelOptional>() {
        optional.inner().map_or(1, |inner| weight(inner, max))
    } else {
        1
    }
}

fn sum<'b, 'v: 'b>(values: impl Iterator<Item = &'b (dyn Val + 'v)>, max: u64) -> u64 {
    let mut total = 1;
    for value in values {
        if total > max {
            break;
        }
        total += weight(value, max - total);
    }
    total
}

type Args<'b, 'v> = Vec<CowVal<'b, 'v>>;
type Answer<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;

fn only<'b, 'v>(mut args: Args<'b, 'v>) -> Answer<'b, 'v> {
    args.pop()
        .ok_or_else(|| ExecutionError::invalid_argument_count(1, 0))
}

fn yes<'b, 'v>() -> CowVal<'b, 'v> {
    CowVal::owned(CelBool::from(true))
}

/// Counts a step. True.
fn tick<'b, 'v>(_: Args<'b, 'v>) -> Answer<'b, 'v> {
    spend(1)?;
    Ok(yes())
}

/// Counts a step and the weight of the loop's variable. True.
fn tick_item<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    weigh(args)?;
    Ok(yes())
}

/// Counts the weight of a value, and gives it back.
fn weigh<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let value = only(args)?;
    spend(weight(value.as_ref(), left()))?;
    Ok(value)
}

/// As `weigh`, for a text on which a function may do much.
fn text<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let value = only(args)?;
    let bytes = weight(value.as_ref(), left()) * 64;
    if let Some(text) = value.downcast_ref::<CelString>() {
        bounded(text.len(), TEXT_BYTES_MAX)?;
    }
    spend(bytes / 8)?;
    Ok(value)
}

/// As `weigh`, for a further argument of such a function.
fn argument<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let value = only(args)?;
    if let Some(text) = value.downcast_ref::<CelString>() {
        bounded(text.len(), ARGUMENT_BYTES_MAX)?;
    }
    spend(weight(value.as_ref(), left()))?;
    Ok(value)
}

fn bounded(length: usize, limit: usize) -> Result<(), ExecutionError> {
    if length > limit {
        let message = format!("a text of {length} bytes is too long for it, the limit is {limit}");
        return Err(ExecutionError::function_error("filter", message));
    }
    Ok(())
}

fn matches<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [text, source] = args.as_slice() else {
        return Err(ExecutionError::invalid_argument_count(2, args.len()));
    };
    let (Some(text), Some(source)) = (
        text.downcast_ref::<CelString>(),
        source.downcast_ref::<CelString>(),
    ) else {
        let types = args.iter().map(|arg| arg.get_type().name().to_owned());
        return Err(ExecutionError::no_such_overload("matches", types.collect()));
    };
    let compiled = METER.with_borrow(|meter| {
        let mut known = meter.patterns.iter();
        known
            .find(|pattern| pattern.source() == source.inner())
            .cloned()
    });
    let pattern = match compiled {
        Some(pattern) => pattern,
        None => {
            // The work is paid for before it is done.
            spend(Pattern::COMPILE_STEPS)?;
            Pattern::new(source.inner())
                .map_err(|error| ExecutionError::function_error("matches", error))?
        }
    };
    spend(pattern.cost(text))?;
    Ok(CowVal::owned(CelBool::from(pattern.is_match_unpaid(text))))
}

fn milliseconds<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let value = only(args)?;
    let within_second = if let Some(duration) = value.downcast_ref::<CelDuration>() {
        i64::from(duration.inner().subsec_nanos()) / 1_000_000
    } else if let Some(time) = value.downcast_ref::<CelTimestamp>() {
        i64::from(time.inner().timestamp_subsec_millis())
    } else {
        let got = vec![value.get_type().name().to_owned()];
        return Err(ExecutionError::no_such_member_overload(
            "getMilliseconds",
            got,
        ));
    };
    Ok(CowVal::owned(CelInt::from(within_second)))
}

/// Adds the hidden functions.
pub(super) fn extension(env: &mut Env) -> Result<(), DeclarationError> {
    let any = || vec![DYN_TYPE.to_owned()];
    env.add_overload(TICK, "@tick", vec![], tick)?;
    env.add_overload(TICK, "@tick_item", any(), tick_item)?;
    env.add_overload(WEIGH, "@weigh", any(), weigh)?;
    env.add_overload(TEXT, "@text", any(), text)?;
    env.add_overload(ARGUMENT, "@argument", any(), argument)?;
    let two = vec![DYN_TYPE.to_owned(), DYN_TYPE.to_owned()];
    env.add_overload(MATCHES, "@matches", two, matches)?;
    env.add_overload(MILLISECONDS, "@milliseconds", any(), milliseconds)?;
    Ok(())
}

// ------------------------------------------------------------ compilation

/// Builds the counting into an expression.
pub(super) fn build_in(expression: &mut IdedExpr) {
    match &mut expression.expr {
        Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) => {}
        Expr::Select(select) => build_in(&mut select.operand),
        Expr::List(list) => list.elements.iter_mut().for_each(part),
        Expr::Map(map) => map
            .entries
            .iter_mut()
            .for_each(|entry| of_entry(&mut entry.expr)),
        Expr::Struct(of) => of
            .entries
            .iter_mut()
            .for_each(|entry| of_entry(&mut entry.expr)),
        Expr::Comprehension(of) => comprehension(of),
        Expr::Call(_) => call(expression),
    }
}

fn of_entry(entry: &mut EntryExpr) {
    match entry {
        EntryExpr::StructField(field) => part(&mut field.value),
        EntryExpr::MapEntry(entry) => {
            part(&mut entry.key);
            part(&mut entry.value);
        }
    }
}

/// Something that is copied or walked.
fn part(expression: &mut IdedExpr) {
    build_in(expression);
    wrap(expression, WEIGH);
}

fn wrap(expression: &mut IdedExpr, function: &str) {
    if is_small(expression) {
        return;
    }
    let id = expression.id;
    let inner = std::mem::take(expression);
    *expression = called(id, function, vec![inner]);
}

fn called(id: u64, function: &str, args: Vec<IdedExpr>) -> IdedExpr {
    IdedExpr {
        id,
        expr: Expr::Call(CallExpr {
            func_name: function.into(),
            target: None,
            args,
        }),
    }
}

/// Whether its value is small, whatever the event.
fn is_small(expression: &IdedExpr) -> bool {
    match &expression.expr {
        Expr::Literal(_) => true,
        Expr::Call(call) => match call.func_name.as_str() {
            op::LOGICAL_AND
            | op::LOGICAL_OR
            | op::LOGICAL_NOT
            | op::EQUALS
            | op::NOT_EQUALS
            | op::LESS
            | op::LESS_EQUALS
            | op::GREATER
            | op::GREATER_EQUALS
            | op::IN
            | op::SUBSTRACT
            | op::MULTIPLY
            | op::DIVIDE
            | op::MODULO
            | op::NEGATE
            | WEIGH
            | MATCHES
            | MILLISECONDS => true,
            op::ADD => call.args.iter().any(is_number),
            name => SMALL.contains(&name) || name.starts_with("get"),
        },
        Expr::Select(select) => select.test,
        _ => false,
    }
}

fn is_number(expression: &IdedExpr) -> bool {
    matches!(
        &expression.expr,
        Expr::Literal(LiteralValue::Int(_) | LiteralValue::UInt(_) | LiteralValue::Double(_))
    )
}

fn call(expression: &mut IdedExpr) {
    let Expr::Call(call) = &mut expression.expr else {
        return;
    };
    let name = call.func_name.clone();
    match name.as_str() {
        op::CONDITIONAL
        | op::LOGICAL_AND
        | op::LOGICAL_OR
        | op::LOGICAL_NOT
        | op::NOT_STRICTLY_FALSE
        | op::NEGATE
        | op::SUBSTRACT
        | op::MULTIPLY
        | op::DIVIDE
        | op::MODULO
        | op::INDEX => call.args.iter_mut().for_each(build_in),
        op::EQUALS
        | op::NOT_EQUALS
        | op::LESS
        | op::LESS_EQUALS
        | op::GREATER
        | op::GREATER_EQUALS => {
            // With a literal beside it, a value is looked at no further than that.
            let bounded = call.args.iter().any(is_small);
            let each = if bounded { build_in } else { part };
            call.args.iter_mut().for_each(each);
        }
        op::IN => {
            for (at, arg) in call.args.iter_mut().enumerate() {
                if at == 1 { part(arg) } else { build_in(arg) }
            }
        }
        op::ADD | op::OPT_INDEX | op::OPT_SELECT => {
            call.args.iter_mut().for_each(build_in);
            wrap(expression, WEIGH);
        }
        "matches" => {
            call.args
                .splice(0..0, call.target.take().map(|target| *target));
            call.args.iter_mut().for_each(build_in);
            call.func_name = MATCHES.into();
        }
        // The crate counts the whole duration, CEL what is beyond its seconds.
        "getMilliseconds" if call.args.is_empty() => {
            if let Some(target) = call.target.take() {
                call.args.push(*target);
                call.args.iter_mut().for_each(build_in);
                call.func_name = MILLISECONDS.into();
            }
        }
        short if SHORT.contains(&short) => {
            if let Some(target) = &mut call.target {
                build_in(target);
                wrap(target, TEXT);
            }
            for arg in &mut call.args {
                build_in(arg);
                wrap(arg, ARGUMENT);
            }
            wrap(expression, WEIGH);
        }
        _ => {
            if let Some(target) = &mut call.target
                && !is_namespace(target)
            {
                part(target);
            }
            call.args.iter_mut().for_each(part);
            wrap(expression, WEIGH);
        }
    }
}

/// Whether what is left of the dot may be the first part of a function's name.
fn is_namespace(target: &IdedExpr) -> bool {
    matches!(&target.expr, Expr::Ident(name) if NAMESPACES.contains(&name.as_str()))
}

/// `@tick(..) ? expression : otherwise`
fn after_tick(expression: &mut IdedExpr, item: Option<&str>, otherwise: Expr) {
    let id = expression.id;
    let inner = std::mem::take(expression);
    let item = item.map(|name| IdedExpr {
        id,
        expr: Expr::Ident(name.into()),
    });
    let tick = called(id, TICK, item.into_iter().collect());
    let otherwise = IdedExpr {
        id,
        expr: otherwise,
    };
    *expression = called(id, op::CONDITIONAL, vec![tick, inner, otherwise]);
}

fn comprehension(of: &mut ComprehensionExpr) {
    build_in(&mut of.iter_range);
    build_in(&mut of.accu_init);
    build_in(&mut of.loop_cond);
    build_in(&mut of.result);
    let no = || Expr::Literal(LiteralValue::Boolean(CelBool::from(false)));
    // The crate appends in place if the condition is a literal and the step has
    // the form that `map` and `filter` give it. That form is kept.
    let appends = matches!(of.loop_cond.expr, Expr::Literal(_));
    if !appends {
        after_tick(&mut of.loop_cond, None, no());
    }
    let item = of.iter_var.clone();
    let is_accumulator =
        |e: &IdedExpr| matches!(&e.expr, Expr::Ident(name) if *name == of.accu_var);
    match &mut of.loop_step.expr {
        Expr::Call(step)
            if matches!(step.func_name.as_str(), op::LOGICAL_AND | op::LOGICAL_OR)
                && step.args.len() == 2
                && is_accumulator(&step.args[0]) =>
        {
            build_in(&mut step.args[1]);
            after_tick(&mut step.args[1], Some(&item), no());
        }
        Expr::Call(step)
            if appends
                && step.func_name == op::CONDITIONAL
                && step.args.len() == 3
                && is_accumulator(&step.args[2]) =>
        {
            build_in(&mut step.args[0]);
            appended(&mut step.args[1]);
            after_tick(&mut step.args[0], Some(&item), no());
        }
        _ => {
            if appends {
                appended(&mut of.loop_step);
            } else {
                build_in(&mut of.loop_step);
            }
            let same = Expr::Ident(of.accu_var.clone());
            after_tick(&mut of.loop_step, Some(&item), same);
        }
    }
}

/// `accumulator + [element]`, which does not copy the accumulator.
fn appended(step: &mut IdedExpr) {
    match &mut step.expr {
        Expr::Call(call) if call.func_name == op::ADD => call.args.iter_mut().for_each(build_in),
        _ => build_in(step),
    }
}
