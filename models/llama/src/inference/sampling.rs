//! Choosing a token from logits.

use std::num::NonZeroUsize;

use super::{random::SplitMix64, InferenceProblem};
use crate::LlamaError;

/// How tokens are chosen. The steps are taken in the order of the fields.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingOptions {
    /// Makes tokens that occur in the context less likely (Keskar et al., arXiv 1909.05858): their positive logits are divided
    /// by it and their negative ones multiplied. 1 changes nothing.
    pub repetition_penalty: f32,
    /// Divides the logits: below 1 likely tokens become likelier. 0 always takes the likeliest.
    pub temperature: f32,
    /// Leaves this many of the likeliest tokens; `None` leaves all.
    pub top_k: Option<NonZeroUsize>,
    /// Leaves the fewest of the likeliest tokens that have at least this probability together (Holtzman et al.,
    /// arXiv 1904.09751). 1 leaves all.
    pub top_p: f32,
    /// Leaves the tokens that have at least this share of the likeliest one's probability (arXiv 2407.01082). 0 leaves all.
    pub min_p: f32,
    /// Where the stream of random numbers begins.
    pub seed: u64,
}

impl Default for SamplingOptions {
    /// Temperature 0.8 and the likeliest tokens up to a probability of 0.95.
    fn default() -> Self {
        Self {
            repetition_penalty: 1.0,
            temperature: 0.8,
            top_k: None,
            top_p: 0.95,
            min_p: 0.0,
            seed: 0,
        }
    }
}

impl SamplingOptions {
    /// Always the likeliest token.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            ..Self::default()
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`InferenceProblem::Setting`] names the setting.
    pub fn validate(&self) -> Result<(), LlamaError> {
        let problem = |setting, value: f32, allowed| {
            let value = value.to_string();
            Err(LlamaError::Inference(InferenceProblem::Setting {
                setting,
                value,
                allowed,
            }))
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return problem("the temperature", self.temperature, "0 or greater");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return problem("top-p", self.top_p, "greater than 0 and at most 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return problem("min-p", self.min_p, "0 to 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return problem(
                "the repetition penalty",
                self.repetition_penalty,
                "greater than 0; 1 is none",
            );
        }
        Ok(())
    }
}

/// Chooses tokens; the same logits in the same order give the same tokens for a seed.
///
/// Memory: 24 bytes for each token of the vocabulary.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplingOptions,
    random: SplitMix64,
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
    seen: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    token: u32,
    logit: f32,
    /// Not normalised: that of the likeliest token is 1.
    probability: f64,
}

impl Candidate {
    /// Likelier ones first; of equal ones that with the smaller number, so that the order is one.
    fn compare(&self, other: &Self) -> std::cmp::Ordering {
        other.logit.total_cmp(&self.logit).then(self.token.cmp(&other.token))
    }
}

impl Sampler {
    /// A sampler at the beginning of its stream.
    ///
    /// # Errors
    /// Options out of their range.
    pub fn new(options: SamplingOptions) -> Result<Self, LlamaError> {
        options.validate()?;
        let random = SplitMix64::new(options.seed);
        Ok(Self {
            options,
            random,
            logits: Vec::new(),
            candidates: Vec::new(),
            seen: Vec::new(),
        })
    }

    /// Chooses the token that follows `context`, which only the repetition penalty looks at. Tokens beyond the logits are
    /// overlooked there. Logits that are NaN or infinite are never chosen.
    ///
    /// # Errors
    /// [`InferenceProblem::NoCandidate`] if no logit is finite.
    pub fn sample(&mut self, logits: &[f32], context: &[u32]) -> Result<u32, LlamaError> {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.penalize(context);
        self.candidates.clear();
        let finite = self.logits.iter().zip(0..).filter(|(logit, _)| logit.is_finite());
        self.candidates.extend(finite.map(|(&logit, token)| Candidate {
            token,
            logit,
            probability: 0.0,
        }));
        let best = self.candidates.iter().copied().min_by(Candidate::compare);
        let best = best.ok_or(LlamaError::Inference(InferenceProblem::NoCandidate {
            count: logits.len(),
        }))?;
        if self.options.temperature == 0.0 {
            return Ok(best.token);
        }
        self.keep_top_k();
        let temperature = f64::from(self.options.temperature);
        for candidate in &mut self.candidates {
            // Not above e^0 = 1, whatever the temperature.
            candidate.probability = ((f64::from(candidate.logit) - f64::from(best.logit)) / temperature).exp();
        }
        self.keep_top_p();
        // the likeliest token's is 1
        let least = f64::from(self.options.min_p);
        self.candidates.retain(|candidate| candidate.probability >= least);
        Ok(self.draw())
    }

    fn penalize(&mut self, context: &[u32]) {
        let penalty = self.options.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        // Once each, however often a token occurs.
        self.seen.clear();
        self.seen.extend_from_slice(context);
        self.seen.sort_unstable();
        self.seen.dedup();
        for &token in &self.seen {
            if let Some(logit) = self.logits.get_mut(token as usize) {
                *logit = if *logit > 0.0 {
                    *logit / penalty
                } else {
                    *logit * penalty
                };
            }
        }
    }

    fn keep_top_k(&mut self) {
        let Some(k) = self
            .options
            .top_k
            .map(NonZeroUsize::get)
            .filter(|&k| k < self.candidates.len())
        else {
            return;
        };
        self.candidates.select_nth_unstable_by(k - 1, Candidate::compare);
        self.candidates.truncate(k);
    }

    fn keep_top_p(&mut self) {
        let p = f64::from(self.options.top_p);
        if p >= 1.0 {
            return;
        }
        let total: f64 = self.candidates.iter().map(|candidate| candidate.probability).sum();
        // Those below (1 - p) / n have less than 1 - p together, so none of them is needed to reach p: they need no
        // sorting, and mostly they are nearly all.
        let least = (1.0 - p) * total / self.candidates.len() as f64;
        self.candidates.retain(|candidate| candidate.probability >= least);
        self.candidates.sort_unstable_by(Candidate::compare);
        let mut reached = 0.0;
        let needed = self.candidates.iter().position(|candidate| {
            reached += candidate.probability;
            reached >= p * total
        });
        self.candidates
            .truncate(needed.map_or(self.candidates.len(), |last| last + 1));
    }

    fn draw(&mut self) -> u32 {
        let total: f64 = self.candidates.iter().map(|candidate| candidate.probability).sum();
        let mut left = self.random.uniform() * total;
        for candidate in &self.candidates {
            left -= candidate.probability;
            if left < 0.0 {
                return candidate.token;
            }
        }
        // Reached by rounding alone.
        self.candidates
            .iter()
            .rev()
            .find(|candidate| candidate.probability > 0.0)
            .map_or(0, |last| last.token)
    }
}

#[cfg(test)]
mod tests;
