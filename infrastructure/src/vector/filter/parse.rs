//! JSON to [`Filter`], with errors that name the place.

use serde_json::Value as Json;

use super::{Comparison, Filter, FilterError, MAX_DEPTH, MAX_NODES, MAX_VALUES, Test};
use crate::vector::Value;
use crate::vector::service::check_key;

/// Reads a whole filter.
pub fn filter(json: &Json) -> Result<Filter, FilterError> {
    Parser { nodes: 0 }.object(json, "$", 0)
}

struct Parser {
    nodes: usize,
}

fn error<T>(at: &str, what: impl Into<String>) -> Result<T, FilterError> {
    // A path is built of what the caller sent: its length has a limit of its own.
    Err(FilterError { at: at.chars().take(200).collect(), what: what.into() })
}

fn kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

impl Parser {
    fn count(&mut self, at: &str) -> Result<(), FilterError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES { error(at, format!("it has more than {MAX_NODES} conditions: split the question")) } else { Ok(()) }
    }

    fn object(&mut self, json: &Json, at: &str, depth: usize) -> Result<Filter, FilterError> {
        if depth > MAX_DEPTH {
            return error(at, format!("it is nested deeper than {MAX_DEPTH}"));
        }
        let Json::Object(map) = json else { return error(at, format!("{} stands where an object of conditions must", kind(json))) };
        let mut parts = Vec::with_capacity(map.len());
        for (key, value) in map {
            self.count(at)?;
            let at = format!("{at}.{key}");
            parts.push(match key.as_str() {
                "$and" => Filter::All(self.list(value, &at, depth)?),
                "$or" => Filter::Any(self.list(value, &at, depth)?),
                "$not" => Filter::Not(Box::new(self.object(value, &at, depth + 1)?)),
                operator if operator.starts_with('$') => {
                    return error(
                        &at,
                        format!("{operator:?} does not join conditions: $and, $or or $not do; other operators stand under a field"),
                    );
                }
                key => self.field(key, value, &at)?,
            });
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Filter::All(parts) })
    }

    fn list(&mut self, json: &Json, at: &str, depth: usize) -> Result<Vec<Filter>, FilterError> {
        match json {
            Json::Array(parts) if !parts.is_empty() => {
                parts.iter().enumerate().map(|(i, part)| self.object(part, &format!("{at}[{i}]"), depth + 1)).collect()
            }
            Json::Array(_) => error(at, "the list is empty: it takes at least one filter"),
            other => error(at, format!("{} stands where a list of filters must", kind(other))),
        }
    }

    fn field(&mut self, key: &str, json: &Json, at: &str) -> Result<Filter, FilterError> {
        check_key(key).or_else(|what| error(at, what))?;
        let Json::Object(tests) = json else { return Ok(field(key, Test::In(vec![value(json, at)?]))) };
        if tests.is_empty() {
            return error(at, "no operator: give a value, or one such as {\"$gt\": 1}");
        }
        let mut parts = Vec::with_capacity(tests.len());
        for (operator, operand) in tests {
            self.count(at)?;
            parts.push(test(key, operator, operand, &format!("{at}.{operator}"))?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Filter::All(parts) })
    }
}

fn field(key: &str, test: Test) -> Filter {
    Filter::Field { key: key.to_owned(), test }
}

fn test(key: &str, operator: &str, operand: &Json, at: &str) -> Result<Filter, FilterError> {
    let compare = |comparison| match operand.as_f64() {
        Some(number) if number.is_finite() => Ok(field(key, Test::Compare(comparison, number))),
        _ => error(at, format!("{operator} compares with a number, not with {}", kind(operand))),
    };
    let not = |filter| Filter::Not(Box::new(filter));
    match operator {
        "$eq" => Ok(field(key, Test::In(vec![value(operand, at)?]))),
        "$ne" => Ok(not(field(key, Test::In(vec![value(operand, at)?])))),
        "$in" => Ok(field(key, Test::In(values(operand, at)?))),
        "$nin" => Ok(not(field(key, Test::In(values(operand, at)?)))),
        "$gt" => compare(Comparison::Greater),
        "$gte" => compare(Comparison::GreaterOrSame),
        "$lt" => compare(Comparison::Less),
        "$lte" => compare(Comparison::LessOrSame),
        "$exists" => match operand {
            Json::Bool(true) => Ok(field(key, Test::Exists)),
            Json::Bool(false) => Ok(not(field(key, Test::Exists))),
            other => error(at, format!("$exists takes true or false, not {}", kind(other))),
        },
        _ => error(at, format!("{operator:?} is no operator: $eq $ne $gt $gte $lt $lte $in $nin $exists are")),
    }
}

fn value(json: &Json, at: &str) -> Result<Value, FilterError> {
    match json {
        Json::Bool(value) => Ok(Value::Bool(*value)),
        Json::String(text) if text.contains('\0') => error(at, "the text holds a NUL, which no record's does"),
        Json::String(text) => Ok(Value::Text(text.clone())),
        Json::Number(number) => match number.as_f64() {
            Some(number) if number.is_finite() => Ok(Value::Number(number)),
            _ => error(at, "the number is out of range"),
        },
        other => error(at, format!("{} stands where a text, a number or a boolean must", kind(other))),
    }
}

fn values(json: &Json, at: &str) -> Result<Vec<Value>, FilterError> {
    match json {
        Json::Array(values) if values.len() > MAX_VALUES => error(at, format!("{} values: at most {MAX_VALUES} are taken", values.len())),
        Json::Array(values) if !values.is_empty() => {
            values.iter().enumerate().map(|(i, json)| value(json, &format!("{at}[{i}]"))).collect()
        }
        Json::Array(_) => error(at, "the list is empty: it takes at least one value"),
        other => error(at, format!("{} stands where a list of values must", kind(other))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::vector::Metadata;

    fn record() -> Metadata {
        serde_json::from_value(json!({"lang": "en", "year": 2021, "draft": false, "weight": -1.5})).unwrap()
    }

    #[test]
    fn every_operator_means_what_it_says() {
        for (filter, fits) in [
            (json!({}), true),
            (json!({"lang": "en"}), true),
            (json!({"lang": {"$eq": "de"}}), false),
            (json!({"lang": {"$ne": "de"}}), true),
            (json!({"missing": {"$ne": "de"}}), true),
            (json!({"year": {"$gt": 2020, "$lte": 2021}}), true),
            (json!({"year": {"$gte": 2022}}), false),
            (json!({"year": {"$lt": 2022}}), true),
            (json!({"lang": {"$lt": 2022}}), false),
            (json!({"year": "2021"}), false),
            (json!({"draft": 0}), false),
            (json!({"lang": {"$in": ["de", "en"]}}), true),
            (json!({"lang": {"$nin": ["de", "en"]}}), false),
            (json!({"missing": {"$nin": ["de"]}}), true),
            (json!({"weight": {"$exists": true}, "missing": {"$exists": false}}), true),
            (json!({"$not": {"lang": {"$gt": 1}}}), true),
            (json!({"$or": [{"lang": "de"}, {"$and": [{"draft": false}, {"year": 2021}]}]}), true),
        ] {
            assert_eq!(super::filter(&filter).unwrap().fits(&record()), fits, "{filter}");
        }
    }

    #[test]
    fn errors_name_the_place() {
        let deep = (0..20).fold(json!({"a": 1}), |inner, _| json!({"$not": inner}));
        let wide = json!({"$or": vec![json!({"a": 1}); 300]});
        for (filter, at, what) in [
            (json!([]), "$", "a list stands where"),
            (json!({"$xor": []}), "$.$xor", "does not join"),
            (json!({"$or": []}), "$.$or", "empty"),
            (json!({"$or": [{"a": {"$like": 1}}]}), "$.$or[0].a.$like", "no operator"),
            (json!({"a": {"$gt": "x"}}), "$.a.$gt", "compares with a number, not with a text"),
            (json!({"a": null}), "$.a", "null stands where"),
            (json!({"a": {}}), "$.a", "no operator"),
            (json!({"a": {"$in": [1, []]}}), "$.a.$in[1]", "a list stands where"),
            (json!({"a": {"$in": vec![1; 1001]}}), "$.a.$in", "1001 values"),
            (json!({"a": {"$exists": 1}}), "$.a.$exists", "true or false"),
            (json!({"": 1}), "$.", "1 to 128 bytes"),
            (deep, "$.$not", "deeper than 8"),
            (wide, "$", "more than 256"),
        ] {
            let error = super::filter(&filter).unwrap_err();
            assert!(error.at.starts_with(at) && error.what.contains(what), "{filter}: {error}");
        }
        assert!(Filter::parse_text("{").unwrap_err().what.contains("not JSON"));
    }

    fn json_value() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<f64>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            "\\PC{0,8}".prop_map(Json::from)
        ];
        let key = prop_oneof!["[a-c]", "\\$(and|or|not|in|nin|gt|lte|exists|ne|eq)", "\\PC{0,4}"];
        leaf.prop_recursive(6, 64, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Json::from),
                prop::collection::vec((key.clone(), inner), 0..5).prop_map(|pairs| Json::Object(pairs.into_iter().collect()))
            ]
        })
    }

    fn good_filter() -> impl Strategy<Value = Json> {
        let scalar = prop_oneof![any::<bool>().prop_map(Json::from), (-3i32..3).prop_map(Json::from), "[xyz]".prop_map(Json::from)];
        let leaf = (
            "[a-d]",
            prop_oneof![
                (prop::sample::select(vec!["$eq", "$ne"]), scalar.clone()).prop_map(|(o, v)| json!({o: v})),
                (prop::sample::select(vec!["$in", "$nin"]), prop::collection::vec(scalar, 1..4)).prop_map(|(o, v)| json!({o: v})),
                (prop::sample::select(vec!["$gt", "$gte", "$lt", "$lte"]), -3i32..3).prop_map(|(o, v)| json!({o: v})),
                any::<bool>().prop_map(|there| json!({"$exists": there})),
            ],
        )
            .prop_map(|(key, test)| json!({key: test}));
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..3).prop_map(|parts| json!({"$and": parts})),
                prop::collection::vec(inner.clone(), 1..3).prop_map(|parts| json!({"$or": parts})),
                inner.prop_map(|part| json!({"$not": part})),
            ]
        })
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(json in json_value()) {
            if let Ok(filter) = super::filter(&json) {
                let _ = filter.fits(&record());
            }
        }

        #[test]
        fn not_is_the_opposite_of_every_filter(json in good_filter(), fields in prop::collection::btree_map("[a-d]", -3i32..3, 0..4)) {
            let metadata: Metadata = fields.into_iter().map(|(key, number)| (key, Value::Number(number.into()))).collect();
            let filter = super::filter(&json).unwrap();
            let not = super::filter(&json!({"$not": json.clone()})).unwrap();
            prop_assert_eq!(filter.fits(&metadata), !not.fits(&metadata));
            let both = super::filter(&json!({"$or": [json.clone(), {"$not": json}]})).unwrap();
            prop_assert!(both.fits(&metadata));
        }
    }
}
