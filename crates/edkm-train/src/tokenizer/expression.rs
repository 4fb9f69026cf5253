//! Which regular expressions of a `tokenizer.json` are quick on any text.
//!
//! The tokenizer library hands an expression without look-around to an engine whose time is linear. The others backtrack, alternative by
//! alternative, and an expression from a stranger may be made to do that for hours. Published tokenizers need little of it, such as
//! `\s+(?!\S)`. So an alternative that backtracks may hold at most one repetition without an end (possessive ones do not count, they are
//! never tried again) and few choices beside it: from any place of a text it is then given up in a time that grows with the text's length.

use regex_syntax::ast::{parse::Parser, Ast, RepetitionKind, RepetitionRange};

/// Bytes of the longest expression. The longest of published tokenizers have some hundred.
const MOST_BYTES: usize = 4096;

/// Characters and classes of an expression with its counted repetitions written out.
const MOST_ELEMENTS: u64 = 2000;

/// Ways in which an alternative that backtracks may match from one place, apart from its repetition.
const MOST_WAYS: u64 = 64;

/// Says why an expression is not known to be quick on every text, if it is not.
pub(super) fn check(expression: &str) -> Result<(), String> {
    if expression.len() > MOST_BYTES {
        return Err(format!("it has {} bytes, more than {MOST_BYTES}", expression.len()));
    }
    let mut elements = 0u64;
    for alternative in alternatives(expression, 0)? {
        let parse = |text: &str| Parser::new().parse(text).map_err(|why| why.kind().to_string());
        let rest = parse(&alternative.rest)?;
        elements = elements.saturating_add(Cost::of(&rest).elements);
        if alternative.backtracks {
            let Cost { ways, endless, .. } = Cost::of(&rest);
            if endless.saturating_sub(alternative.possessive) > 1 || ways > MOST_WAYS {
                return Err("it backtracks through more than one repetition".to_owned());
            }
        }
        for around in &alternative.look_arounds {
            // with none of its own: the parser knows none
            let around = Cost::of(&parse(around)?);
            elements = elements.saturating_add(around.elements);
            if around.endless > 0 && Cost::of(&rest).endless > 0 {
                return Err("it repeats, and looks ahead through a repetition".to_owned());
            }
        }
    }
    match elements > MOST_ELEMENTS {
        true => Err(format!(
            "with repetitions written out it has more than {MOST_ELEMENTS} elements"
        )),
        false => Ok(()),
    }
}

/// An alternative, split into what the linear engine can read.
#[derive(Debug, Default, PartialEq)]
struct Alternative {
    /// Without look-around, and with possessive repetitions as greedy ones.
    rest: String,
    /// What it looks ahead or back for.
    look_arounds: Vec<String>,
    /// How many of its repetitions have no end and are possessive.
    possessive: u64,
    /// Whether the engine that backtracks runs it.
    backtracks: bool,
}

/// The alternatives of an expression, those of a group around all of it too.
fn alternatives(expression: &str, depth: usize) -> Result<Vec<Alternative>, String> {
    if depth > 20 {
        return Err("its groups are nested deeply".to_owned());
    }
    let mut found = Vec::new();
    for part in Scanner::new(expression).split()? {
        match within_group(part)? {
            Some(inner) => found.extend(alternatives(inner, depth + 1)?),
            None => found.push(Scanner::new(part).alternative()?),
        }
    }
    Ok(found)
}

/// What is inside the group that is all of `part`, if it is one.
fn within_group(part: &str) -> Result<Option<&str>, String> {
    let inside = match part.strip_prefix("(?:") {
        Some(inside) => inside,
        None => match part.strip_prefix('(') {
            Some(inside) if !inside.starts_with('?') => inside,
            _ => return Ok(None),
        },
    };
    let mut scanner = Scanner::new(inside);
    let length = scanner.group()?;
    Ok((length + 1 == inside.len()).then(|| &inside[..length]))
}

/// Goes through an expression element by element. Escapes and classes are one element; groups are open and shut.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn left(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// The next character, escape, class or beginning of a group.
    fn next(&mut self) -> Result<Option<&'a str>, String> {
        let left = self.left();
        let Some(first) = left.chars().next() else {
            return Ok(None);
        };
        let length = match first {
            '\\' => 1 + left[1..].chars().next().map_or(0, char::len_utf8),
            '[' => class(left)?,
            '(' if left.starts_with("(?") => {
                let opens = left.find(['=', '!', ':', ')', '>', '<']).unwrap_or(left.len() - 1) + 1;
                if left[..opens].contains('x') {
                    return Err("it has comments".to_owned());
                }
                match left[..opens].ends_with('<') && left[opens..].starts_with(['=', '!']) {
                    true => opens + 1,
                    false => opens,
                }
            }
            _ => first.len_utf8(),
        };
        self.at += length;
        Ok(Some(&left[..length]))
    }

    /// Goes behind the end of the group that it is in; bytes of what was left of it.
    fn group(&mut self) -> Result<usize, String> {
        let (start, mut depth) = (self.at, 0usize);
        while let Some(element) = self.next()? {
            match element {
                ")" if depth == 0 => return Ok(self.at - 1 - start),
                ")" => depth -= 1,
                // flags alone are no group
                group if group.starts_with('(') && !group.ends_with(')') => depth += 1,
                _ => {}
            }
        }
        Err("a group has no end".to_owned())
    }

    /// What stands between the bars that are in no group.
    fn split(mut self) -> Result<Vec<&'a str>, String> {
        let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0usize);
        while let Some(element) = self.next()? {
            match element {
                "|" if depth == 0 => {
                    parts.push(&self.text[start..self.at - 1]);
                    start = self.at;
                }
                ")" => depth = depth.saturating_sub(1),
                group if group.starts_with('(') && !group.ends_with(')') => depth += 1,
                _ => {}
            }
        }
        parts.push(&self.text[start..]);
        Ok(parts)
    }

    fn alternative(mut self) -> Result<Alternative, String> {
        /// The repetition that ends here.
        #[derive(Clone, Copy, PartialEq)]
        enum Repetition {
            None,
            Counted,
            Endless,
        }
        let mut alternative = Alternative::default();
        let mut before = Repetition::None;
        while let Some(element) = self.next()? {
            let mut now = Repetition::None;
            match element {
                "(?=" | "(?!" | "(?<=" | "(?<!" => {
                    let start = self.at;
                    let length = self.group()?;
                    alternative
                        .look_arounds
                        .push(self.text[start..start + length].to_owned());
                    alternative.rest.push_str("(?:)");
                    alternative.backtracks = true;
                    continue;
                }
                "+" if before != Repetition::None => {
                    alternative.possessive += u64::from(before == Repetition::Endless);
                    alternative.backtracks = true;
                    before = Repetition::None;
                    continue;
                }
                // a lazy one
                "?" if before != Repetition::None => {}
                "?" => now = Repetition::Counted,
                "*" | "+" => now = Repetition::Endless,
                "{" => {
                    let count = self.left().find('}').map(|end| &self.left()[..end]);
                    let is_count = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b',');
                    if let Some(count) = count.filter(is_count) {
                        self.at += count.len() + 1;
                        alternative.rest.push_str(&format!("{{{count}}}"));
                        before = match count.ends_with(',') {
                            true => Repetition::Endless,
                            false => Repetition::Counted,
                        };
                        continue;
                    }
                }
                _ => {}
            }
            alternative.rest.push_str(element);
            before = now;
        }
        Ok(alternative)
    }
}

/// Bytes of the class that `text` begins with.
fn class(text: &str) -> Result<usize, String> {
    let (mut depth, mut first) = (0usize, true);
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => {
                characters.next();
                first = false;
            }
            '[' => {
                depth += 1;
                first = true;
            }
            '^' if first => {}
            // a class of it
            ']' if first => first = false,
            ']' => {
                depth -= 1;
                if depth == 0 {
                    return Ok(at + 1);
                }
            }
            _ => first = false,
        }
    }
    Err("a class has no end".to_owned())
}

/// What an expression costs an engine that backtracks.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// Characters and classes, counted repetitions written out.
    elements: u64,
    /// Ways in which it may match from one place, each repetition without an end being one.
    ways: u64,
    /// Repetitions without an end.
    endless: u64,
}

impl Cost {
    const ONE: Self = Self {
        elements: 1,
        ways: 1,
        endless: 0,
    };

    fn of(ast: &Ast) -> Self {
        let sum = |asts: &[Ast], ways: fn(u64, u64) -> u64, none| {
            let start = Self {
                elements: 0,
                ways: none,
                endless: 0,
            };
            asts.iter().map(Self::of).fold(start, |sum, next| Self {
                elements: sum.elements.saturating_add(next.elements),
                ways: ways(sum.ways, next.ways),
                endless: sum.endless.saturating_add(next.endless),
            })
        };
        match ast {
            Ast::Concat(concat) => sum(&concat.asts, u64::saturating_mul, 1),
            Ast::Alternation(either) => sum(&either.asts, u64::saturating_add, 0),
            Ast::Group(group) => Self::of(&group.ast),
            Ast::Repetition(repetition) => {
                let (least, most) = match &repetition.op.kind {
                    RepetitionKind::ZeroOrOne => (0, Some(1)),
                    RepetitionKind::ZeroOrMore => (0, None),
                    RepetitionKind::OneOrMore => (1, None),
                    RepetitionKind::Range(RepetitionRange::Exactly(n)) => (*n, Some(*n)),
                    RepetitionKind::Range(RepetitionRange::AtLeast(n)) => (*n, None),
                    RepetitionKind::Range(RepetitionRange::Bounded(n, m)) => (*n, Some(*m)),
                };
                Self::of(&repetition.ast).repeated(least, most)
            }
            _ => Self::ONE,
        }
    }

    fn repeated(self, least: u32, most: Option<u32>) -> Self {
        let elements = |times: u32| self.elements.saturating_mul(times.max(1).into());
        match most {
            // more than one way through what is repeated is a power of it in all
            None => Self {
                elements: elements(least),
                ways: if self.ways > 1 { u64::MAX } else { 1 },
                endless: self.endless.saturating_mul(2).saturating_add(1),
            },
            Some(most) => Self {
                elements: elements(most),
                ways: (least..=most.min(1 << 12)).fold(0, |sum: u64, times| {
                    sum.saturating_add(self.ways.max(1).saturating_pow(times))
                }),
                endless: self.endless.saturating_mul(most.into()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_of_published_tokenizers_are_quick() {
        for expression in [
            // GPT-2, LLaMA 3, Qwen 2, DeepSeek V3, Mistral's Tekken, tiktoken's cl100k as it is now, Falcon, groups of three digits
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
            "[0-9][0-9][0-9]",
            r"\d{1,3}(?=(?:\d{3})*\b)",
            r"(?:\p{L}+|\s+(?!\S))",
            "[]a]+|[^]]|[[a-z]&&[^b]]",
            " ",
            "",
        ] {
            check(expression).unwrap_or_else(|why| panic!("{expression}: {why}"));
        }
    }

    #[test]
    fn expressions_that_may_take_long_are_refused() {
        for expression in [
            r"(a+)+(?!b)",
            r"(?:a|a)*(?=b)",
            r"(a*)*\1",
            r"(.+)\1",
            r"\s*\s*\s*(?!\S)",
            r"(?:a?){30}(?=b)",
            r"[\s\S]+(?=[\s\S]*z)",
            r"(?>a+)b",
            r"(?=(?=a)b)c",
            r"(?x) a # (?=",
            r"(?:(?:a{100}){100}){100}",
            r"a{5000}",
            r"(?:a++)+(?=b)b*",
            "[a",
            "(a",
            "a(?=b",
        ] {
            assert!(check(expression).is_err(), "{expression}");
        }
        assert!(check(&"a".repeat(5000)).is_err());
        assert!(check(&"(".repeat(2000)).is_err());
        assert!(check(&format!("{}{}", "(".repeat(2000), ")".repeat(2000))).is_err());
    }

    #[test]
    fn alternatives_are_split_where_no_group_is_open() {
        let found = alternatives(r"a(b|c)|[|]\||\s+(?!x|y)z++", 0).unwrap();
        let rests: Vec<&str> = found.iter().map(|a| a.rest.as_str()).collect();
        assert_eq!(rests, ["a(b|c)", r"[|]\|", r"\s+(?:)z+"]);
        assert_eq!(found[2].look_arounds, ["x|y"]);
        assert_eq!((found[2].possessive, found[2].backtracks), (1, true));
        assert!(!found[0].backtracks && !found[1].backtracks);
    }
}
