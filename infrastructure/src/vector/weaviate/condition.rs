//! Filters as Weaviate has them: a `where` as REST takes it, and the same text as GraphQL takes it.
//!
//! Weaviate's properties have plain names and one type each, ours have any name and the type of each value. So each record has a list of
//! marks (a hash for each field and its type, and for each field and its value), which tells equality and existence; and each field that
//! ever held a number has a property of its own, for comparisons. Both are hashes: nothing of a caller's text stands in a query.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use crate::vector::filter::{Comparison, Filter, Test};
use crate::vector::{Metadata, Value};

/// The property with a record's marks.
pub const MARKS: &str = "al_marks";
/// The mark that each record has.
const EVERY: &str = "every";
/// A mark that none has.
const NONE: &str = "none";

fn hash(parts: &[&[u8]], bytes: usize) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize()[..bytes].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The property that holds a field's numbers.
pub fn number_of(key: &str) -> String {
    format!("al_n_{}", hash(&[key.as_bytes()], 16))
}

fn is_there(key: &str) -> String {
    hash(&[b"field", key.as_bytes()], 16)
}

fn is_number(key: &str) -> String {
    hash(&[b"number", key.as_bytes()], 16)
}

fn is(key: &str, value: &Value) -> String {
    match value {
        Value::Bool(value) => hash(&[b"b", key.as_bytes(), &[u8::from(*value)]], 16),
        // 0 and -0 are the same number.
        Value::Number(number) => hash(&[b"n", key.as_bytes(), &(number + 0.0).to_be_bytes()], 16),
        Value::Text(text) => hash(&[b"s", key.as_bytes(), text.as_bytes()], 16),
    }
}

/// What filters see of a record, beside its numbers.
pub fn marks(metadata: &Metadata) -> Vec<String> {
    let mut marks = vec![EVERY.to_owned()];
    for (key, value) in metadata {
        marks.push(is_there(key));
        marks.push(is(key, value));
        if matches!(value, Value::Number(_)) {
            marks.push(is_number(key));
        }
    }
    marks
}

/// The fields that a filter compares with numbers.
pub fn compared<'a>(filter: &'a Filter, into: &mut BTreeSet<&'a str>) {
    match filter {
        Filter::Not(part) => compared(part, into),
        Filter::All(parts) | Filter::Any(parts) => parts.iter().for_each(|part| compared(part, into)),
        Filter::Field { key, test: Test::Compare(..) } => _ = into.insert(key),
        Filter::Field { .. } => {}
    }
}

/// A filter as REST takes it. `numbers` are the properties that there are: to ask for another is an error to Weaviate.
pub fn condition(filter: &Filter, numbers: &BTreeSet<String>) -> Json {
    build(filter, false, numbers)
}

/// The filter, or its opposite: Weaviate cannot negate a comparison so that records without the number pass.
fn build(filter: &Filter, opposite: bool, numbers: &BTreeSet<String>) -> Json {
    let all = |parts: &[Filter]| parts.iter().map(|part| build(part, opposite, numbers)).collect();
    match filter {
        Filter::Not(part) => build(part, !opposite, numbers),
        Filter::All(parts) => join(if opposite { "Or" } else { "And" }, all(parts), !opposite),
        Filter::Any(parts) => join(if opposite { "And" } else { "Or" }, all(parts), opposite),
        Filter::Field { key, test } => field(key, test, opposite, numbers),
    }
}

fn field(key: &str, test: &Test, opposite: bool, numbers: &BTreeSet<String>) -> Json {
    match test {
        Test::Exists => marked(opposite, vec![is_there(key)]),
        Test::In(values) => marked(opposite, values.iter().map(|value| is(key, value)).collect()),
        Test::Compare(comparison, number) => {
            let property = number_of(key);
            if !numbers.contains(&property) {
                return marked(opposite, vec![NONE.to_owned()]);
            }
            let comparison = if opposite { comparison.opposite() } else { *comparison };
            let operator = match comparison {
                Comparison::Greater => "GreaterThan",
                Comparison::GreaterOrSame => "GreaterThanEqual",
                Comparison::Less => "LessThan",
                Comparison::LessOrSame => "LessThanEqual",
            };
            let compares = json!({"path": [property], "operator": operator, "valueNumber": number});
            if opposite { join("Or", vec![marked(true, vec![is_number(key)]), compares], false) } else { compares }
        }
    }
}

/// Whether a record has any of these marks, or none of them.
fn marked(opposite: bool, marks: Vec<String>) -> Json {
    let operator = if opposite { "ContainsNone" } else { "ContainsAny" };
    json!({"path": [MARKS], "operator": operator, "valueTextArray": marks})
}

/// Conditions in one; none at all is what `empty` says.
fn join(operator: &str, mut parts: Vec<Json>, empty: bool) -> Json {
    match parts.len() {
        0 => marked(false, vec![if empty { EVERY } else { NONE }.to_owned()]),
        1 => parts.remove(0),
        _ => json!({"operator": operator, "operands": parts}),
    }
}

/// The text of a condition in GraphQL: names and operators without quotes, lists of values under the name of one.
pub fn graphql(condition: &Json) -> String {
    match condition {
        Json::Object(fields) => {
            let field = |(name, value): (&String, &Json)| match (name.as_str(), value) {
                ("operator", Json::String(operator)) => format!("operator: {operator}"),
                ("valueTextArray", value) => format!("valueText: {}", graphql(value)),
                (name, value) => format!("{name}: {}", graphql(value)),
            };
            format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        Json::Array(values) => format!("[{}]", values.iter().map(graphql).collect::<Vec<_>>().join(", ")),
        plain => plain.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_callers_text_stands_in_a_query() {
        let filter = Filter::parse_text(r#"{"$or": [{"} evil {": {"$in": ["\"}}", 1]}}, {"n": {"$not_there": 1}}]}"#);
        assert!(filter.is_err());
        let filter = Filter::parse_text(r#"{"$or": [{"} evil {": {"$in": ["\"}}", 1]}}, {"$not": {"evil": {"$gt": 1.5}}}]}"#).unwrap();
        let text = graphql(&condition(&filter, &BTreeSet::from([number_of("evil")])));
        assert!(!text.contains("evil") && text.contains("operator: LessThanEqual") && text.contains("valueNumber: 1.5"), "{text}");
        let plain = |c: char| c.is_ascii_alphanumeric() || "{}[]:,.\"_ ".contains(c);
        assert!(text.chars().all(plain), "{text}");
    }

    #[test]
    fn a_comparison_with_a_number_that_no_record_has_asks_for_no_property() {
        let filter = Filter::parse_text(r#"{"n": {"$gt": 1}}"#).unwrap();
        assert!(!condition(&filter, &BTreeSet::new()).to_string().contains("al_n_"));
    }
}
