//! What a message quotes of a data file, cut to what can be read at a glance.

/// The most characters of one quoted value.
const QUOTED: usize = 60;

/// The most characters of a message.
const WHOLE: usize = 500;

/// A message with each value that stands in it between `"` cut, and then the message itself. Quotes within a value are escaped, as `{:?}` writes them.
pub(super) fn message(text: &str) -> String {
    let mut short = String::new();
    // characters of the value so far, and whether a backslash stands before this one
    let mut value: Option<(usize, bool)> = None;
    for character in text.chars() {
        value = match (value, character) {
            (None, '"') => Some((0, false)),
            (Some((length, false)), '"') => {
                end(&mut short, length);
                short.push('"');
                short.push_str(&more(length, QUOTED));
                None
            }
            (Some((length, false)), '\\') => Some((length, true)),
            (Some((length, _)), _) => Some((length + 1, false)),
            (None, _) => None,
        };
        match value {
            Some((length, _)) if length > QUOTED => {}
            None if character == '"' => {}
            _ => short.push(character),
        }
    }
    if let Some((length, _)) = value {
        end(&mut short, length);
        short.push_str(&more(length, QUOTED));
    }
    let length = short.chars().count();
    match short.char_indices().nth(WHOLE) {
        None => short,
        Some((at, _)) => format!("{}...{}", &short[..at], more(length, WHOLE)),
    }
}

/// A text between quotes, cut.
pub(super) fn quoted(text: &str) -> String {
    message(&format!("{text:?}"))
}

fn end(short: &mut String, length: usize) {
    if length > QUOTED {
        short.push_str("...");
    }
}

fn more(length: usize, most: usize) -> String {
    match length.saturating_sub(most) {
        0 => String::new(),
        more => format!(" (and {more} more characters)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_cut_and_all_else_stays() {
        let long = "é\"".repeat(50);
        let short = message(&format!("invalid type: string {long:?}, expected \"a\" or \"\""));
        assert_eq!(
            short,
            format!(
                "invalid type: string \"{}...\" (and 40 more characters), expected \"a\" or \"\"",
                "é\\\"".repeat(30)
            )
        );
        assert_eq!(quoted(&"a".repeat(60)), format!("\"{}\"", "a".repeat(60)));
        assert_eq!(
            message(&format!("open: \"{}", "a".repeat(61))),
            format!("open: \"{}... (and 1 more characters)", "a".repeat(60))
        );
        assert_eq!(
            message(&"a".repeat(1500)),
            format!("{}... (and 1000 more characters)", "a".repeat(500))
        );
    }
}
