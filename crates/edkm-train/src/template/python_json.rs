//! JSON as Python's `json.dumps` writes it, which is what chat templates get of transformers' filter `tojson`.

use std::io::{Result, Write};

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// The most spaces of an indentation.
const DEEPEST: usize = 16;

/// The filter. Of what `json.dumps` takes besides: `indent`; `ensure_ascii` is false, as it is in transformers.
pub(super) fn tojson(value: &Value, arguments: Kwargs) -> std::result::Result<String, Error> {
    let indent: Option<usize> = arguments.get("indent")?;
    let _: Option<bool> = arguments.get("ensure_ascii")?;
    arguments.assert_all_used()?;
    let written = match indent {
        None => to_string(value, Spaced),
        Some(spaces) => to_string(
            value,
            PrettyFormatter::with_indent(&[b' '; DEEPEST][..spaces.min(DEEPEST)]),
        ),
    };
    written.map_err(|why| Error::new(ErrorKind::BadSerialization, why.to_string()))
}

fn to_string(value: &Value, formatter: impl Formatter) -> serde_json::Result<String> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// On one line, with a space behind commas and colons.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> Result<()> {
        to.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> Result<()> {
        to.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, to: &mut W) -> Result<()> {
        to.write_all(b": ")
    }
}
