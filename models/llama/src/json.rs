//! JSON from files that nobody vouches for: size capped, depth capped, duplicate keys refused.
//!
//! The depth is bounded by serde_json itself (128 levels). Duplicate keys are refused because programs disagree on which
//! of the two counts, so that what was checked by one may not be what another uses.

use std::{
    fmt,
    io::Read,
    path::{Path, PathBuf},
};

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::{error::shortened, files::open_regular, LlamaError};

/// Reads a text file of at most `limit` bytes.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String, LlamaError> {
    let (file, bytes) = open_regular(path)?;
    let too_large = |bytes| LlamaError::TooLarge {
        path: path.to_owned(),
        what: "text",
        bytes,
        limit,
    };
    if bytes > limit {
        return Err(too_large(bytes));
    }
    let mut text = Vec::new();
    // One byte more than allowed: a file that grows meanwhile is noticed too.
    file.take(limit + 1)
        .read_to_end(&mut text)
        .map_err(|source| LlamaError::io("read", path, source))?;
    if text.len() as u64 > limit {
        return Err(too_large(text.len() as u64));
    }
    String::from_utf8(text).map_err(|e| LlamaError::Json {
        path: path.to_owned(),
        detail: format!("not UTF-8 from byte {} on", e.utf8_error().valid_up_to()),
    })
}

/// Parses `text` as a `T`, naming `path` in the error.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, LlamaError> {
    serde_json::from_str(text).map_err(|e| LlamaError::Json {
        path: PathBuf::from(path),
        detail: shortened(e),
    })
}

/// Parses an object in which no key occurs twice, at any depth.
pub(crate) fn parse_object(path: &Path, text: &str) -> Result<Map<String, Value>, LlamaError> {
    match parse::<Strict>(path, text)?.0 {
        Value::Object(map) => Ok(map),
        other => Err(LlamaError::Json {
            path: path.to_owned(),
            detail: format!("expected an object, got {}", kind(&other)),
        }),
    }
}

/// What a JSON value is, for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The error for a key that occurs twice.
pub(crate) fn duplicate_key<E: Error>(key: &str) -> E {
    E::custom(format!("the key {key:?} occurs twice"))
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<Strict, E> {
        Ok(Strict(v.into()))
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<Strict, E> {
        Ok(Strict(v.into()))
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<Strict, E> {
        Ok(Strict(v.into()))
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<Strict, E> {
        Ok(Strict(v.into()))
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<Strict, E> {
        Ok(Strict(v.into()))
    }

    fn visit_string<E: Error>(self, v: String) -> Result<Strict, E> {
        Ok(Strict(v.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Strict, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            list.push(value);
        }
        Ok(Strict(list.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Strict, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(duplicate_key(&key));
            }
            let Strict(value) = entries.next_value()?;
            map.insert(key, value);
        }
        Ok(Strict(map.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Result<Map<String, Value>, LlamaError> {
        parse_object(Path::new("x.json"), text)
    }

    #[test]
    fn values_are_those_of_serde_json() {
        let text = r#"{"a": [1, -2, 0.5, null, true, "x", {"b": {}}], "c": 18446744073709551615}"#;
        assert_eq!(
            Value::Object(object(text).unwrap()),
            serde_json::from_str::<Value>(text).unwrap()
        );
    }

    #[test]
    fn duplicate_keys_are_refused_at_any_depth() {
        for text in [r#"{"a":1,"a":1}"#, r#"{"x":[{"a":1,"b":2,"a":3}]}"#] {
            let message = object(text).unwrap_err().to_string();
            assert!(
                message.contains("x.json") && message.contains("\"a\" occurs twice"),
                "{message}"
            );
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(object(&deep).unwrap_err().to_string().contains("recursion limit"));
    }

    #[test]
    fn other_roots_are_refused() {
        assert!(object("[1]")
            .unwrap_err()
            .to_string()
            .contains("expected an object, got a list"));
    }
}
