//! One document's cast, drawn at random, and the telling of templates with it.

use rand_chacha::ChaCha8Rng;

use super::grammar::{Article, Case, Filler, Grammar, Number, Piece, Slot, Template};
use crate::random::below;

/// Who plays which role, which numbers occur, and the texts chosen once.
pub(super) struct Scene<'g> {
    grammar: &'g Grammar,
    /// For each role a row of its table.
    rows: Vec<usize>,
    larger: usize,
    smaller: usize,
    fixed: Vec<String>,
}

impl<'g> Scene<'g> {
    pub(super) fn draw(grammar: &'g Grammar, random: &mut ChaCha8Rng) -> Self {
        let mut rows: Vec<usize> = Vec::with_capacity(grammar.roles.len());
        for role in &grammar.roles {
            let candidates = grammar.tables[role.table].rows.len();
            // Two roles of one table are never played by the same row: there are more rows than roles (a test sees to it).
            let row = loop {
                let row = pick(random, candidates);
                let taken = rows
                    .iter()
                    .zip(&grammar.roles)
                    .any(|(&other, known)| known.table == role.table && other == row);
                if !taken {
                    break row;
                }
            };
            rows.push(row);
        }
        // Both numbers and their difference are at least two, so that "{n-m} apples" is always a plural.
        let larger = 4 + pick(random, 7);
        let smaller = 2 + pick(random, larger - 3);
        let mut scene = Self {
            grammar,
            rows,
            larger,
            smaller,
            fixed: Vec::new(),
        };
        for (_, template) in &grammar.fixed {
            let text = scene.tell(template, random);
            scene.fixed.push(text);
        }
        scene
    }

    /// The text of a template; choices in it are made anew each time.
    pub(super) fn tell(&self, template: &Template, random: &mut ChaCha8Rng) -> String {
        let mut text = String::new();
        self.tell_into(&mut text, template, random);
        text
    }

    fn tell_into(&self, text: &mut String, template: &Template, random: &mut ChaCha8Rng) {
        for piece in template {
            match piece {
                Piece::Text(literal) => text.push_str(literal),
                Piece::Slot(slot) => self.fill(text, slot),
                Piece::Choice(options) => self.tell_into(text, &options[pick(random, options.len())], random),
            }
        }
    }

    fn fill(&self, text: &mut String, slot: &Slot) {
        let word = match slot.filler {
            Filler::Column { role, column } => {
                self.grammar.tables[self.grammar.roles[role].table].rows[self.rows[role]][column]
            }
            Filler::Fixed(index) => &self.fixed[index],
            Filler::Number(number) => in_words(match number {
                Number::Larger => self.larger,
                Number::Smaller => self.smaller,
                Number::Sum => self.larger + self.smaller,
                Number::Difference => self.larger - self.smaller,
            }),
        };
        let start = text.len();
        if slot.article == Article::Indefinite {
            // "honest" is the one word of the tables whose first letter is silent.
            let vowel = word.starts_with(['a', 'e', 'i', 'o', 'u']) || word == "honest";
            text.push_str(if vowel { "an " } else { "a " });
        }
        text.push_str(word);
        if slot.case == Case::Capital {
            if let Some(first) = text.get_mut(start..start + 1) {
                first.make_ascii_uppercase();
            }
        }
    }
}

/// A number below `choices`, evenly.
pub(super) fn pick(random: &mut ChaCha8Rng, choices: usize) -> usize {
    below(random, choices as u64) as usize
}

fn in_words(number: usize) -> &'static str {
    const WORDS: [&str; 20] = [
        "no",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    WORDS.get(number).copied().unwrap_or("many")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::generator;
    use crate::synthetic::parse;

    fn told(templates: &'static str, seed: u64) -> String {
        let words = "table pet: name | sound\nowl | hoot\ncat | meow\ndog | woof\n\nrole a = pet\nrole b = pet\nlet fixed = [x|y]\n";
        let text: &'static str = Box::leak(format!("plot p\n- {templates}\n").into_boxed_str());
        let grammar = parse::grammar(&[words, text]).unwrap();
        let mut random = generator(seed, 0);
        let scene = Scene::draw(&grammar, &mut random);
        scene.tell(&grammar.stories[0].stages[0].tellings[0], &mut random)
    }

    #[test]
    fn one_row_plays_one_role_throughout() {
        for seed in 0..50 {
            let text = told("{a a}:{A}:{a.sound}:{b}:{fixed}{fixed}", seed);
            let [with_article, capital, sound, other, fixed] = text.split(':').collect::<Vec<_>>()[..] else {
                panic!("{text}")
            };
            let expected = [
                ("an owl", "Owl", "hoot"),
                ("a cat", "Cat", "meow"),
                ("a dog", "Dog", "woof"),
            ];
            assert!(expected.contains(&(with_article, capital, sound)), "{text}");
            assert!(
                !with_article.ends_with(other) && ["xx", "yy"].contains(&fixed),
                "{text}"
            );
        }
    }

    #[test]
    fn sums_are_right_and_plural() {
        let value = |word: &str| (0..20).find(|&number| in_words(number) == word).unwrap();
        for seed in 0..200 {
            let text = told("{n} {m} {n+m} {n-m}", seed);
            let [n, m, sum, difference] = text.split(' ').map(value).collect::<Vec<_>>()[..] else {
                panic!("{text}")
            };
            assert!(
                n + m == sum && m + difference == n && n >= 4 && m >= 2 && difference >= 2,
                "{text}"
            );
        }
    }
}
