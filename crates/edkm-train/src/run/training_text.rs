//! How much text a run trains on, and how often its steps go through it.

use std::fmt;

use serde::Serialize;

use edkm_llama::config::LlamaConfig;

use super::check::{check, check_positions};
use super::texts::{check_files, texts};
use super::{FinetuneSettings, KeptModel};
use crate::data::sampler::Reading;
use crate::data::TokenStream;
use crate::report::thousands;
use crate::{Tokenizer, TrainError};

/// The text of a run, without what is held out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TrainingText {
    /// Documents; the last one may be cut where text is held out.
    pub documents: usize,
    /// Tokens.
    pub tokens: usize,
    /// Those of them that count in the loss.
    pub counted: usize,
    /// The share of it that is read: what is left out are windows, or records, in which nothing counts.
    pub read_share: f64,
    /// Windows that are read of it, of `--seq` tokens each: records are packed into them whole, which leaves some room.
    pub windows: f64,
    /// How often all steps go through it: their windows over those of the text.
    pub epochs: f64,
}

impl TrainingText {
    /// Reads the text of a run, to learn how many steps go through it. Warnings are left to the run itself, which reads it again.
    ///
    /// # Errors
    /// Settings outside of their ranges; a tokenizer or a text that cannot be used, or one that comes through a pipe.
    pub fn read(settings: &FinetuneSettings) -> Result<Self, TrainError> {
        check_files(
            [&settings.data, &settings.validation],
            "a run of so many times through it (--epochs)",
        )?;
        // what depends on the steps is not known yet
        check(&FinetuneSettings {
            clustering: None,
            kept_model: KeptModel::Last,
            ..settings.clone()
        })?;
        check_positions(settings.sequence, &LlamaConfig::read(&settings.model_dir)?)?;
        let tokenizer = Tokenizer::from_dir(&settings.model_dir)?;
        let quiet = tracing::subscriber::NoSubscriber::default();
        let (training, _) = tracing::subscriber::with_default(quiet, || texts(settings, &tokenizer, &mut |_| Ok(())))?;
        Ok(Self::of(&training, settings))
    }

    /// The steps that go through it so often, the last one whole.
    ///
    /// # Errors
    /// A number that is not finite, or not above 0.
    pub fn steps(&self, settings: &FinetuneSettings, epochs: f64) -> Result<u64, TrainError> {
        check_epochs(epochs)?;
        Ok((epochs * self.windows / windows_a_step(settings)).ceil() as u64)
    }

    /// That of a run on `stream`.
    pub(super) fn of(stream: &TokenStream, settings: &FinetuneSettings) -> Self {
        let read = Reading::of(stream, settings.sequence, settings.seed);
        let text = Self {
            documents: stream.documents(),
            tokens: stream.len(),
            counted: stream.counted(),
            read_share: read.share,
            windows: read.windows,
            epochs: 0.0,
        };
        Self {
            epochs: text.times(settings, settings.steps),
            ..text
        }
    }

    /// That of a run that ends after so many steps.
    pub(super) fn of_steps(self, settings: &FinetuneSettings, steps: u64) -> Self {
        Self {
            epochs: self.times(settings, steps),
            ..self
        }
    }

    /// How often so many steps of a run go through it.
    fn times(&self, settings: &FinetuneSettings, steps: u64) -> f64 {
        let tokens = self.windows * settings.sequence as f64;
        steps as f64 * tokens_a_step(settings) / tokens.max(1.0)
    }

    /// A line for people, with the steps that go through it.
    pub fn line(&self, settings: &FinetuneSettings) -> String {
        format!(
            "training text: {self}; {} of {} tokens: {} times through it",
            count(settings.steps, "step"),
            thousands(tokens_a_step(settings) as u64),
            times(self.times(settings, settings.steps))
        )
    }
}

impl fmt::Display for TrainingText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let documents = count(self.documents as u64, "document");
        let tokens = count(self.tokens as u64, "token");
        match self.counted == self.tokens {
            true => write!(f, "{documents}, {tokens}"),
            false => write!(f, "{documents}, {tokens} ({} count)", thousands(self.counted as u64)),
        }
    }
}

/// Refuses what is no number of times through a text.
///
/// # Errors
/// A number that is not finite, or not above 0.
pub fn check_epochs(epochs: f64) -> Result<(), TrainError> {
    match epochs.is_finite() && epochs > 0.0 {
        true => Ok(()),
        false => Err(TrainError::Setting {
            setting: "number of times through the text, --epochs,",
            value: epochs.to_string(),
            expected: "a finite number above 0",
        }),
    }
}

/// Windows of a step.
fn windows_a_step(settings: &FinetuneSettings) -> f64 {
    settings.batch as f64 * settings.accumulate as f64
}

/// Tokens of a step. The product may be beyond all integers: whether such a step fits is asked elsewhere.
pub(super) fn tokens_a_step(settings: &FinetuneSettings) -> f64 {
    settings.sequence as f64 * windows_a_step(settings)
}

/// A number of things: `1 step`, `1,234 steps`.
pub fn count(number: u64, what: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {what}{ending}", thousands(number))
}

/// With two decimals, or two digits that say something.
pub(super) fn times(epochs: f64) -> String {
    let zeros = match epochs > 0.0 && epochs < 0.1 {
        true => (-epochs.log10()).floor() as usize,
        false => 0,
    };
    format!("{epochs:.0$}", 2 + zeros.min(20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::sampler::WindowSampler;
    use crate::run::DataSource;

    /// 400 steps of 2,048 tokens.
    fn settings() -> FinetuneSettings {
        let data = DataSource::Text(String::new());
        FinetuneSettings {
            sequence: 256,
            batch: 4,
            accumulate: 2,
            ..FinetuneSettings::new("model", data, None, 400, "out")
        }
    }

    #[test]
    fn the_line_has_all_numbers() {
        let settings = settings();
        let text = TrainingText {
            documents: 1234,
            tokens: 412_345,
            counted: 298_765,
            read_share: 1.0,
            windows: 412_345.0 / 256.0,
            epochs: 400.0 * 2048.0 / 412_345.0,
        };
        assert_eq!(
            text.line(&settings),
            "training text: 1,234 documents, 412,345 tokens (298,765 count); 400 steps of 2,048 tokens: 1.99 times through it"
        );
        let one = FinetuneSettings { steps: 1, ..settings };
        let mut stream = TokenStream::from_tokens(vec![0; 4096]);
        let text = TrainingText::of(&stream, &one);
        assert_eq!(
            text.line(&one),
            "training text: 1 document, 4,096 tokens; 1 step of 2,048 tokens: 0.50 times through it"
        );
        stream.truncate(0);
        assert_eq!(TrainingText::of(&stream, &one).documents, 0);
    }

    #[test]
    fn steps_go_through_the_text_as_often_as_asked() {
        let settings = settings();
        let steps = |tokens, epochs| {
            let text = TrainingText::of(&TokenStream::from_tokens(vec![0; tokens]), &settings);
            text.steps(&settings, epochs)
        };
        assert_eq!(steps(20_480, 1.0).unwrap(), 10);
        assert_eq!(steps(20_481, 1.0).unwrap(), 11);
        assert_eq!(steps(20_480, 0.01).unwrap(), 1);
        assert_eq!(steps(20_480, 2.5).unwrap(), 25);
        for epochs in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(steps(20_480, epochs).unwrap_err().to_string().contains("--epochs"));
        }
    }

    /// One record, whose windows as they lie the first time are all prompt.
    #[test]
    fn a_text_of_which_nothing_is_read_at_first_is_gone_through_all_the_same() {
        let settings = settings();
        let text = TrainingText {
            documents: 1,
            tokens: 104,
            counted: 6,
            read_share: 0.0,
            windows: 104.0 / 256.0,
            epochs: 0.0,
        };
        assert_eq!(text.steps(&settings, 100.0).unwrap(), 6);
        assert!((text.times(&settings, 6) - 6.0 * 2048.0 / 104.0).abs() < 1e-9);
    }

    /// Long prompts: most windows have nothing to learn and are never drawn.
    #[test]
    fn what_is_never_read_is_not_gone_through() {
        let settings = settings();
        let mut counted = vec![false; 100_000];
        for at in (0..counted.len()).step_by(1000) {
            counted[at..at + 20].fill(true);
        }
        let stream = TokenStream::of_records(vec![0; counted.len()], counted, 1000);
        let text = TrainingText::of(&stream, &settings);
        assert!((0.2..0.35).contains(&text.read_share), "{}", text.read_share);
        let steps = text.steps(&settings, 3.0).unwrap();
        let mut sampler = WindowSampler::new(&stream, settings.sequence, settings.seed).unwrap();
        for _ in 0..steps {
            sampler.next_batch(settings.batch * settings.accumulate);
        }
        let done = sampler.position().epoch as f64 + sampler.position().used as f64 / sampler.windows() as f64;
        assert!((done - 3.0).abs() < 0.2, "{done}");
        let all = FinetuneSettings { steps, ..settings };
        assert!((TrainingText::of(&stream, &all).epochs - 3.0).abs() < 0.1);
    }

    #[test]
    fn times_have_digits_that_say_something() {
        assert_eq!(
            [0.0, 0.0123, 0.1, 1.994, 250.0].map(times),
            ["0.00", "0.012", "0.10", "1.99", "250.00"]
        );
    }
}
