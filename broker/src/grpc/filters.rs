//! The filter of a request: CEL, or a list of filters in the dialects of the
//! CloudEvents Subscriptions API.

use std::collections::BTreeMap;

use sluice_proto::wire::{self, event_filter::Dialect as Wire};

use super::refusal::Refusal;
use crate::filter::{Dialect, DialectError, Filter, FilterError};

/// A filter as a request has it, checked, and as a group's definition keeps it.
#[derive(Debug)]
pub(super) struct AskedFilter {
    /// None when every event is asked for.
    pub(super) filter: Option<Filter>,
    pub(super) cel: String,
    /// A JSON array, or empty.
    pub(super) dialects: String,
}

/// Compiles the filter in `field`, or in the list of the same name with an `s`,
/// beside the runtime.
pub(super) async fn compile(
    field: &str,
    cel: String,
    filters: Vec<wire::EventFilter>,
) -> Result<AskedFilter, Refusal> {
    if !cel.is_empty() && !filters.is_empty() {
        let message = format!("{field} and {field}s are both given; only one may be");
        return Err(Refusal::field(format!("{field}s"), message));
    }
    let dialects = if filters.is_empty() {
        String::new()
    } else {
        let parse = |(at, filter)| dialect(filter, &format!("[{at}]"));
        let filters: Result<Vec<_>, _> = filters.into_iter().enumerate().map(parse).collect();
        let filters = filters.map_err(|error| Refusal::bad_filter(field, &error.into()))?;
        serde_json::to_string(&filters).map_err(Refusal::internal)?
    };
    let (source, json) = (cel.clone(), dialects.clone());
    let compiled = tokio::task::spawn_blocking(move || Filter::of_definition(&source, &json));
    let filter = compiled
        .await
        .map_err(Refusal::internal)?
        .map_err(|error: FilterError| Refusal::bad_filter(field, &error))?;
    Ok(AskedFilter {
        filter,
        cel,
        dialects,
    })
}

/// A group's filters as the API shows them.
pub(super) fn wire_filters(dialects: &str) -> Vec<wire::EventFilter> {
    // It was written by `compile`; an empty string is no JSON, and no filters.
    let filters: Vec<Dialect> = serde_json::from_str(dialects).unwrap_or_default();
    filters.into_iter().map(wire_filter).collect()
}

/// The depth is bounded by what the decoder of a request takes.
fn dialect(filter: wire::EventFilter, path: &str) -> Result<Dialect, DialectError> {
    let list = |name: &str, list: wire::FilterList| {
        let parse = |(at, filter)| dialect(filter, &format!("{path}.{name}[{at}]"));
        let parsed = list.filters.into_iter().enumerate().map(parse);
        parsed.collect::<Result<Vec<_>, _>>()
    };
    let attributes =
        |of: wire::AttributeFilter| of.attributes.into_iter().collect::<BTreeMap<_, _>>();
    Ok(match filter.dialect {
        Some(Wire::Exact(of)) => Dialect::Exact(attributes(of)),
        Some(Wire::Prefix(of)) => Dialect::Prefix(attributes(of)),
        Some(Wire::Suffix(of)) => Dialect::Suffix(attributes(of)),
        Some(Wire::All(of)) => Dialect::All(list("all", of)?),
        Some(Wire::Any(of)) => Dialect::Any(list("any", of)?),
        Some(Wire::Not(of)) => Dialect::Not(Box::new(dialect(*of, &format!("{path}.not"))?)),
        Some(Wire::Sql(source)) => Dialect::Sql(source),
        None => {
            return Err(DialectError {
                path: path.to_owned(),
                problem: "it has no dialect that this broker knows".into(),
            });
        }
    })
}

fn wire_filter(filter: Dialect) -> wire::EventFilter {
    let attributes = |of: BTreeMap<String, String>| wire::AttributeFilter {
        attributes: of.into_iter().collect(),
    };
    let list = |of: Vec<Dialect>| wire::FilterList {
        filters: of.into_iter().map(wire_filter).collect(),
    };
    let dialect = match filter {
        Dialect::Exact(of) => Wire::Exact(attributes(of)),
        Dialect::Prefix(of) => Wire::Prefix(attributes(of)),
        Dialect::Suffix(of) => Wire::Suffix(attributes(of)),
        Dialect::All(of) => Wire::All(list(of)),
        Dialect::Any(of) => Wire::Any(list(of)),
        Dialect::Not(of) => Wire::Not(Box::new(wire_filter(*of))),
        Dialect::Sql(source) => Wire::Sql(source),
    };
    wire::EventFilter {
        dialect: Some(dialect),
    }
}
