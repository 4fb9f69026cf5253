//! What a `tokenizer.json` from a stranger may ask for: expressions that are quick, text that grows a little.

use serde::Serialize;
use serde_json::Value;

use super::expression;

/// Times the length of a text that replacements may make of it. Published tokenizers replace a space by a character of three bytes.
const MOST_GROWTH: f64 = 64.0;

/// Bytes of an expression that a message shows.
const SHOWN: usize = 80;

/// Says what in the tokenizer may take long or much memory on some text, if anything does.
pub(super) fn check(tokenizer: &tokenizers::Tokenizer) -> Result<(), String> {
    for part in [
        part(tokenizer.get_normalizer())?,
        part(tokenizer.get_pre_tokenizer())?,
        part(tokenizer.get_decoder())?,
    ] {
        let growth = growth(&part)?;
        if growth > MOST_GROWTH {
            return Err(format!(
                "its replacements may make {growth:.0} times its length of a text, more than {MOST_GROWTH}"
            ));
        }
    }
    Ok(())
}

fn part(part: Option<&impl Serialize>) -> Result<Value, String> {
    part.map_or(Ok(Value::Null), serde_json::to_value)
        .map_err(|why| why.to_string())
}

/// By how much the replacements of `part`, one after the other, lengthen a text at most. Looks at its expressions on the way.
fn growth(part: &Value) -> Result<f64, String> {
    let product = |parts: &mut dyn Iterator<Item = &Value>| parts.map(growth).product::<Result<f64, _>>();
    match part {
        Value::Array(parts) => product(&mut parts.iter()),
        Value::Object(fields) => {
            let text = |field: Option<&Value>| field.and_then(Value::as_str).map(str::to_owned);
            let content = text(fields.get("content"));
            let own = match fields.get("pattern") {
                None => 1.0,
                Some(pattern) => {
                    if let Some(of) = text(pattern.get("Regex")) {
                        expression::check(&of).map_err(|why| {
                            let shown: String = of.chars().take(SHOWN).collect();
                            format!("the expression {shown:?} is not known to be quick on every text: {why}")
                        })?;
                    }
                    // an expression may match a byte, or nothing before every one
                    let least = text(pattern.get("String")).map_or(0, |of| of.len());
                    match (content, least) {
                        (None, _) => 1.0,
                        (Some(content), 0) => 1.0 + content.len() as f64,
                        (Some(content), least) => (content.len() as f64 / least as f64).max(1.0),
                    }
                }
            };
            let prepended = text(fields.get("prepend")).map_or(0, |prepended| prepended.len());
            Ok(own * (1 + prepended / 4) as f64 * product(&mut fields.values())?)
        }
        _ => Ok(1.0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn growth_is_that_of_all_replacements_together() {
        let replace =
            |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
        let space = replace(json!({"String": " "}), "\u{2581}");
        assert_eq!(growth(&space).unwrap(), 3.0);
        assert_eq!(growth(&json!({"normalizers": [space, space]})).unwrap(), 9.0);
        assert_eq!(growth(&replace(json!({"Regex": "a*"}), "bb")).unwrap(), 3.0);
        assert_eq!(growth(&replace(json!({"String": "long"}), "l")).unwrap(), 1.0);
        assert_eq!(growth(&json!({"type": "Prepend", "prepend": "\u{2581}"})).unwrap(), 1.0);
        assert!(growth(&replace(json!({"Regex": "(a+)+(?!b)"}), "")).is_err());
    }
}
