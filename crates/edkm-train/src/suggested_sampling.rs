//! How text of a model is best sampled, as those who made it say.

use std::num::NonZeroUsize;
use std::path::Path;

use edkm_llama::inference::SamplingOptions;
use serde_json::Value;

use crate::config_file::ConfigFile;
use crate::TrainError;

/// What `generation_config.json` of a model folder says; `None` where it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SuggestedSampling {
    /// [`SamplingOptions::repetition_penalty`]
    pub repetition_penalty: Option<f32>,
    /// [`SamplingOptions::temperature`]
    pub temperature: Option<f32>,
    /// [`SamplingOptions::top_k`]
    pub top_k: Option<NonZeroUsize>,
    /// [`SamplingOptions::top_p`]
    pub top_p: Option<f32>,
    /// [`SamplingOptions::min_p`]
    pub min_p: Option<f32>,
}

impl SuggestedSampling {
    /// Reads it. As in transformers, what concerns the drawing of tokens counts where `do_sample` is true; what is not said there is left to who asks, where transformers has
    /// defaults of its own (a temperature of 1, the 50 likeliest tokens).
    ///
    /// # Errors
    /// A file that cannot be read, is no JSON object, or has something else than a number where one belongs, or one out of range: with file and key.
    pub fn of_folder(dir: &Path) -> Result<Self, TrainError> {
        let file = ConfigFile::read(dir, "generation_config.json")?;
        let number = |key: &str| match file.values.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number as f32)),
                None => Err(file.error(format!("{key} is {value}, not a number"))),
            },
        };
        let draws = file.values.get("do_sample") == Some(&Value::Bool(true));
        let of_drawing = |key: &str| if draws { number(key) } else { Ok(None) };
        let suggested = Self {
            repetition_penalty: number("repetition_penalty")?,
            temperature: of_drawing("temperature")?,
            top_k: of_drawing("top_k")?.and_then(|k| NonZeroUsize::new(k as usize)),
            top_p: of_drawing("top_p")?,
            min_p: of_drawing("min_p")?,
        };
        let filled = suggested.fill(SamplingOptions::default());
        filled.validate().map_err(|why| file.error(why.to_string()))?;
        Ok(suggested)
    }

    /// These settings, and those of `options` where nothing is said.
    pub fn fill(&self, options: SamplingOptions) -> SamplingOptions {
        SamplingOptions {
            repetition_penalty: self.repetition_penalty.unwrap_or(options.repetition_penalty),
            temperature: self.temperature.unwrap_or(options.temperature),
            top_k: self.top_k.or(options.top_k),
            top_p: self.top_p.unwrap_or(options.top_p),
            min_p: self.min_p.unwrap_or(options.min_p),
            seed: options.seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_folder_suggests_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            std::fs::write(dir.path().join("generation_config.json"), text).unwrap();
            SuggestedSampling::of_folder(dir.path())
        };
        // Qwen 3's
        let qwen = r#"{"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [1, 2]}"#;
        let suggested = read(qwen).unwrap();
        let want = SamplingOptions {
            temperature: 0.6,
            top_k: NonZeroUsize::new(20),
            top_p: 0.95,
            seed: 7,
            ..SamplingOptions::default()
        };
        let plain = SamplingOptions {
            seed: 7,
            ..SamplingOptions::default()
        };
        assert_eq!(suggested.fill(plain), want);
        // not drawn: the likeliest in transformers, here what is usual
        let greedy = read(r#"{"temperature": 0.6, "repetition_penalty": 1.5}"#).unwrap();
        assert_eq!((greedy.temperature, greedy.repetition_penalty), (None, Some(1.5)));
        for (text, part) in [
            (
                r#"{"do_sample": true, "temperature": "hot"}"#,
                "temperature is \"hot\", not a number",
            ),
            (r#"{"do_sample": true, "top_p": 2}"#, "top-p"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(
                error.contains("generation_config.json") && error.contains(part),
                "{error}"
            );
        }
        std::fs::remove_file(dir.path().join("generation_config.json")).unwrap();
        assert_eq!(
            SuggestedSampling::of_folder(dir.path()).unwrap(),
            SuggestedSampling::default()
        );
    }
}
