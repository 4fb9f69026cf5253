//! Text and numbers as they stand in the page.

use crate::memory::bytes_in_words;

/// Text that may come from anyone (tensor names, what a model wrote) made harmless in HTML text and attributes.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // Characters that HTML does not allow; tab and line ends it does.
            character if character.is_control() && !"\t\n\r".contains(character) => {
                safe.push(char::REPLACEMENT_CHARACTER)
            }
            character => safe.push(character),
        }
    }
    safe
}

/// Bytes in the unit that suits them, as everywhere: "1.25 MiB".
pub(super) fn bytes(count: u64) -> String {
    bytes_in_words(count).replace(' ', "\u{a0}")
}

/// A number in four digits, or in powers of ten where it is very small or large; a dash if it is not finite.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        "–".to_owned()
    } else if size != 0.0 && !(1e-3..1e6).contains(&size) {
        format!("{value:.2e}").replace('-', "−")
    } else {
        digits(value, 4).replace('-', "−")
    }
}

/// A part of a whole as a percentage.
pub(super) fn part(value: f64) -> String {
    match value.is_finite() {
        true => format!("{}\u{a0}%", digits(value * 100.0, 3)),
        false => "–".to_owned(),
    }
}

/// A ratio in words: "5.2 times".
pub(super) fn times(ratio: f64) -> String {
    match ratio {
        _ if !ratio.is_finite() => "–".to_owned(),
        _ if ratio >= 100.0 => format!("{} times", thousands(ratio.round() as u64)),
        _ => format!("{} times", digits(ratio, 2)),
    }
}

/// A count with separators: "12,345".
pub(crate) fn thousands(count: u64) -> String {
    let plain = count.to_string();
    let mut text = String::new();
    for (index, digit) in plain.chars().enumerate() {
        if index > 0 && (plain.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many significant digits, without zeros at the end of a fraction.
fn digits(value: f64, significant: i32) -> String {
    let before_point = if value == 0.0 {
        1
    } else {
        value.abs().log10().floor() as i32 + 1
    };
    let decimals = (significant - before_point).clamp(0, 9) as usize;
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_anyone_is_harmless() {
        assert_eq!(
            escape("<script>\"a\" & 'b'</script>\u{0}\n"),
            "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;&lt;/script&gt;\u{fffd}\n"
        );
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0, 999, 12_345, 1 << 30].map(bytes),
            ["0\u{a0}B", "999\u{a0}B", "12.06\u{a0}KiB", "1.00\u{a0}GiB"]
        );
        assert_eq!(
            [0.0, 2.83564, -0.5, 12345.6, 1.234e-5, f64::NAN, 3.0].map(short),
            ["0", "2.836", "−0.5", "12346", "1.23e−5", "–", "3"]
        );
        assert_eq!(
            [0.12345, 1.0, f64::INFINITY].map(part),
            ["12.3\u{a0}%", "100\u{a0}%", "–"]
        );
        assert_eq!([5.23, 1234.0, f64::NAN].map(times), ["5.2 times", "1,234 times", "–"]);
        assert_eq!(
            [0, 12, 123, 1234, 1_234_567].map(thousands),
            ["0", "12", "123", "1,234", "1,234,567"]
        );
    }
}
