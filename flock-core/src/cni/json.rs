//! Fields of a JSON object, with errors that name the field.

use serde_json::{Map, Value};

use super::error::{Code, Error};
use crate::excerpt;

/// A network configuration is a JSON object, nothing else.
pub(super) fn object(bytes: &[u8]) -> Result<Map<String, Value>, Error> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        let found = if bytes.trim_ascii().is_empty() { "is empty" } else { "is not valid JSON" };
        Error::new(
            Code::DECODING_FAILURE,
            format!("the network configuration {found}: {error}"),
            "the runtime passes the configuration on standard input; look for a mistake in the file in /etc/cni/net.d",
        )
    })?;
    match value {
        Value::Object(map) => Ok(map),
        other => Err(wrong_type("the network configuration", &other, "a JSON object")),
    }
}

/// The string at `key`; absent and null are the same.
pub(super) fn string<'a>(map: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, Error> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong_type(&format!("{key:?}"), other, "a string")),
    }
}

/// The object at `key`; absent and null are the same.
pub(super) fn map<'a>(
    map: &'a Map<String, Value>,
    key: &str,
) -> Result<Option<&'a Map<String, Value>>, Error> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(inner)) => Ok(Some(inner)),
        Some(other) => Err(wrong_type(&format!("{key:?}"), other, "an object")),
    }
}

/// The list at `key`; absent and null are the same.
pub(super) fn list<'a>(map: &'a Map<String, Value>, key: &str) -> Result<Option<&'a [Value]>, Error> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items)),
        Some(other) => Err(wrong_type(&format!("{key:?}"), other, "a list")),
    }
}

/// The whole number at `key`; absent and null are the same.
pub(super) fn number(map: &Map<String, Value>, key: &str, expected: &str) -> Result<Option<u64>, Error> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => match number.as_u64() {
            Some(number) => Ok(Some(number)),
            None => Err(wrong_value(&format!("{key:?}"), &number.to_string(), expected)),
        },
        Some(other) => Err(wrong_type(&format!("{key:?}"), other, expected)),
    }
}

/// What is there is of another type than it should be.
pub(super) fn wrong_type(what: &str, found: &Value, expected: &str) -> Error {
    Error::new(
        Code::DECODING_FAILURE,
        format!("{what} is {}, expected {expected}", shown(found)),
        "correct the network configuration",
    )
}

/// A value, cut to what people read.
pub(super) fn shown(value: &Value) -> String {
    let mut text = value.to_string();
    if let Some((cut, _)) = text.char_indices().nth(60) {
        text.truncate(cut);
        text.push('…');
    }
    // JSON leaves some control characters as they are.
    excerpt::line(&text).to_string()
}

/// What is there has the right type and a value that can't be used.
pub(super) fn wrong_value(what: &str, found: &str, expected: &str) -> Error {
    Error::new(
        Code::INVALID_CONFIG,
        format!("{what} is {found}, expected {expected}"),
        "correct the network configuration",
    )
}
