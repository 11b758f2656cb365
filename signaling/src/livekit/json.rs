//! JSON as LiveKit's Twirp writes it: protobuf's own field names (`num_participants`), where protobuf's JSON mapping says
//! `numParticipants`. Reading takes both.

use serde_json::{Map, Value};

/// Fields whose value is a map with keys of the application's own, which stay as they are.
const MAPS: [&str; 3] = ["attributes", "tags", "labels"];

/// Turns the keys of protobuf's JSON mapping into field names.
pub fn field_names(value: Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(
            object
                .into_iter()
                .map(|(key, value)| {
                    let value = if MAPS.contains(&key.as_str()) { value } else { field_names(value) };
                    (snake_case(&key), value)
                })
                .collect::<Map<_, _>>(),
        ),
        Value::Array(values) => Value::Array(values.into_iter().map(field_names).collect()),
        value => value,
    }
}

fn snake_case(key: &str) -> String {
    let mut name = String::with_capacity(key.len() + 4);
    for letter in key.chars() {
        if letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn field_names_change_and_keys_of_the_application_do_not() {
        let mapped = field_names(json!({"numParticipants": 1, "list": [{"joinedAtMs": "5"}], "attributes": {"myKey": "aB"}}));
        assert_eq!(mapped, json!({"num_participants": 1, "list": [{"joined_at_ms": "5"}], "attributes": {"myKey": "aB"}}));
    }
}
