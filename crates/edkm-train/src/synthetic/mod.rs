//! The text and the tokenizer of the embedded default model, made from nothing but a seed.
//!
//! A document is a little story with questions about it, or a quiz. A story draws its cast first (people, a toy, a place,
//! numbers) and tells one of some twenty-five plots with it, in words chosen at random; so names, pronouns, colours and sums agree
//! from the first sentence to the last answer, and a model has to remember them to predict the text well. That is what a
//! model loses first when its weights are rounded.

mod bpe;
mod grammar;
mod parse;
mod scene;

use rand_chacha::ChaCha8Rng;
use xxhash_rust::xxh3::xxh3_64;

pub use bpe::{special_tokens, train_tokenizer};
use grammar::{Grammar, Plot, Presence, EMBEDDED};
use scene::{pick, Scene};

use crate::data::alpaca::AlpacaRecord;
use crate::random::generator;

/// Which of two sets of documents: no document is in both, whatever the seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// To train on.
    Train,
    /// To measure perplexity on: one document in sixteen.
    Validation,
}

impl Split {
    /// Decided by the document itself, so that one which two seeds happen to make is in the same set both times.
    fn of(text: &str) -> Self {
        if xxh3_64(text.as_bytes()).is_multiple_of(16) {
            Self::Validation
        } else {
            Self::Train
        }
    }
}

/// At least `bytes` bytes of English text, in whole documents with a blank line between them (at most 4 KiB more).
///
/// The same arguments give the same text on every platform, at some tens of megabytes a second.
pub fn generate(split: Split, seed: u64, bytes: usize) -> String {
    let mut random = generator(seed, 0);
    let mut text = String::with_capacity(bytes + 4096);
    while text.len() < bytes {
        let document = Document::draw(&EMBEDDED, &mut random).text(&mut random);
        if Split::of(&document) == split {
            if !text.is_empty() {
                text.push_str("\n\n");
            }
            text.push_str(&document);
        }
    }
    text
}

/// Instructions and responses on the same stories: tell one, answer a question about one, answer a question of a quiz.
///
/// The same arguments give the same records on every platform.
pub fn instructions(split: Split, seed: u64, records: usize) -> Vec<AlpacaRecord> {
    // Not the stream of `generate`: a model may be trained on both.
    let mut random = generator(seed, 1);
    let mut found = Vec::with_capacity(records);
    while found.len() < records {
        let record = Document::draw(&EMBEDDED, &mut random).instruction(&mut random);
        if Split::of(&format!("{}\n{}\n{}", record.instruction, record.input, record.output)) == split {
            found.push(record);
        }
    }
    found
}

/// What was drawn for one document.
struct Document {
    /// What the story is about; empty for a quiz.
    title: String,
    story: String,
    /// Questions, each with its answer.
    questions: Vec<(String, String)>,
}

impl Document {
    fn draw(grammar: &Grammar, random: &mut ChaCha8Rng) -> Self {
        match pick(random, 8) {
            0 => Self::quiz(grammar, random),
            _ => Self::story(grammar, random),
        }
    }

    fn story(grammar: &Grammar, random: &mut ChaCha8Rng) -> Self {
        let scene = Scene::draw(grammar, random);
        let plot = &grammar.stories[pick(random, grammar.stories.len())];
        let mut story = String::new();
        for stage in &plot.stages {
            if stage.presence == Presence::Sometimes && pick(random, 2) == 0 {
                continue;
            }
            if !story.is_empty() {
                story.push(if pick(random, 4) == 0 { '\n' } else { ' ' });
            }
            story.push_str(&scene.tell(&stage.tellings[pick(random, stage.tellings.len())], random));
        }
        let first = pick(random, plot.questions.len());
        let questions = (0..pick(random, 4).min(plot.questions.len()))
            .map(|index| ask(plot, (first + index) % plot.questions.len(), &scene, random))
            .collect();
        Self {
            title: scene.tell(&plot.title, random),
            story,
            questions,
        }
    }

    fn quiz(grammar: &Grammar, random: &mut ChaCha8Rng) -> Self {
        let questions = (0..3 + pick(random, 4))
            .map(|_| {
                let plot = &grammar.quizzes[pick(random, grammar.quizzes.len())];
                let question = pick(random, plot.questions.len());
                ask(plot, question, &Scene::draw(grammar, random), random)
            })
            .collect();
        Self {
            title: String::new(),
            story: String::new(),
            questions,
        }
    }

    fn text(self, random: &mut ChaCha8Rng) -> String {
        let mut text = self.story;
        let (question, answer) = [("Question", "Answer"), ("Q", "A")][pick(random, 2)];
        for (asked, answered) in self.questions {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&format!("{question}: {asked}\n{answer}: {answered}"));
        }
        text
    }

    fn instruction(mut self, random: &mut ChaCha8Rng) -> AlpacaRecord {
        match self.questions.pop() {
            Some((instruction, output)) => AlpacaRecord {
                instruction,
                input: self.story,
                output,
            },
            None => {
                let asked = ["Tell a story about", "Write a short story about", "Tell me about"][pick(random, 3)];
                AlpacaRecord {
                    instruction: format!("{asked} {}.", self.title),
                    input: String::new(),
                    output: self.story,
                }
            }
        }
    }
}

fn ask(plot: &Plot, question: usize, scene: &Scene<'_>, random: &mut ChaCha8Rng) -> (String, String) {
    let question = &plot.questions[question];
    (
        scene.tell(&question.asked, random),
        scene.tell(&question.answer, random),
    )
}

#[cfg(test)]
mod tests;
