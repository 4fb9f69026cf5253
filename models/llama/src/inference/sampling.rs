//! Choosing a token from logits.

use std::num::NonZeroUsize;

use rayon::prelude::*;

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
/// Memory: 12 bytes for each token of the vocabulary, and 24 for each that may be chosen; with top-k 24 for all of them.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplingOptions,
    random: SplitMix64,
    /// Those that the repetition penalty has changed.
    penalized: Vec<f32>,
    probabilities: Vec<f64>,
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

/// Logits that a thread takes at once: some 50 microseconds of exponentials.
const AT_ONCE: usize = 1 << 12;

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
            penalized: Vec::new(),
            probabilities: Vec::new(),
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
        let mut penalized = std::mem::take(&mut self.penalized);
        let changed = if self.options.repetition_penalty == 1.0 {
            logits
        } else {
            penalized.clear();
            penalized.extend_from_slice(logits);
            self.penalize(&mut penalized, context);
            &penalized
        };
        let chosen = self.choose(changed);
        self.penalized = penalized;
        chosen.ok_or(LlamaError::Inference(InferenceProblem::NoCandidate {
            count: logits.len(),
        }))
    }

    /// Chooses by logits that are final; `None` if none is finite.
    fn choose(&mut self, logits: &[f32]) -> Option<u32> {
        let best = likeliest(logits)?;
        if self.options.temperature == 0.0 {
            return Some(best as u32);
        }
        let best = logits[best];
        if self.options.top_k.is_some() {
            self.gather_top_k(logits, best);
        } else {
            self.gather(logits, best);
        }
        // the likeliest token's is 1
        let least = f64::from(self.options.min_p);
        self.candidates.retain(|candidate| candidate.probability >= least);
        Some(self.draw())
    }

    fn penalize(&mut self, logits: &mut [f32], context: &[u32]) {
        let penalty = self.options.repetition_penalty;
        // Once each, however often a token occurs.
        self.seen.clear();
        self.seen.extend_from_slice(context);
        self.seen.sort_unstable();
        self.seen.dedup();
        for &token in &self.seen {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = if *logit > 0.0 {
                    *logit / penalty
                } else {
                    *logit * penalty
                };
            }
        }
    }

    /// The probability of a logit, that of the best being 1.
    fn probability(temperature: f64, best: f32, logit: f32) -> f64 {
        // Not above e^0 = 1, whatever the temperature.
        ((f64::from(logit) - f64::from(best)) / temperature).exp()
    }

    /// Makes candidates of the tokens that top-p leaves. Most of a large vocabulary never is one.
    fn gather(&mut self, logits: &[f32], best: f32) {
        let temperature = f64::from(self.options.temperature);
        self.probabilities.resize(logits.len(), 0.0);
        let pairs = self.probabilities.par_iter_mut().zip(logits).with_min_len(AT_ONCE);
        pairs.for_each(|(probability, &logit)| {
            *probability = if logit.is_finite() {
                Self::probability(temperature, best, logit)
            } else {
                0.0
            };
        });
        let top_p = self.is_top_p().then(|| {
            let total: f64 = self.probabilities.iter().sum();
            let count = logits.iter().filter(|logit| logit.is_finite()).count();
            (total, self.least_of_top_p(total, count))
        });
        let least = top_p.map_or(f64::from(self.options.min_p), |(_, least)| least);
        let tokens = logits.iter().zip(&self.probabilities).zip(0..);
        // One of no probability is never drawn.
        let left = tokens.filter(|((_, &probability), _)| probability > 0.0 && probability >= least);
        self.candidates.clear();
        self.candidates
            .extend(left.map(|((&logit, &probability), token)| Candidate {
                token,
                logit,
                probability,
            }));
        if let Some((total, _)) = top_p {
            self.keep_top_p(total);
        }
    }

    /// Makes candidates of the tokens that top-k and top-p leave.
    fn gather_top_k(&mut self, logits: &[f32], best: f32) {
        let temperature = f64::from(self.options.temperature);
        let finite = logits.iter().zip(0..).filter(|(logit, _)| logit.is_finite());
        self.candidates.clear();
        self.candidates.extend(finite.map(|(&logit, token)| Candidate {
            token,
            logit,
            probability: 0.0,
        }));
        self.keep_top_k();
        for candidate in &mut self.candidates {
            candidate.probability = Self::probability(temperature, best, candidate.logit);
        }
        if self.is_top_p() {
            let total = self.candidates.iter().map(|candidate| candidate.probability).sum();
            let least = self.least_of_top_p(total, self.candidates.len());
            self.candidates.retain(|candidate| candidate.probability >= least);
            self.keep_top_p(total);
        }
    }

    fn is_top_p(&self) -> bool {
        self.options.top_p < 1.0
    }

    /// Of `count` tokens those below (1 - p) / n of the total have less than 1 - p together, so none of them is needed to reach p: they need no
    /// sorting, and mostly they are nearly all.
    fn least_of_top_p(&self, total: f64, count: usize) -> f64 {
        (1.0 - f64::from(self.options.top_p)) * total / count as f64
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

    /// Leaves the likeliest candidates that have top-p of the total together, likeliest first.
    fn keep_top_p(&mut self, total: f64) {
        let p = f64::from(self.options.top_p);
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

/// The number of the largest finite logit, the first of equals; 0 is above -0.
fn likeliest(logits: &[f32]) -> Option<usize> {
    // In the order of `f32::total_cmp`, as integers, which vector registers compare; what is not finite is below all.
    const NONE: i32 = i32::MIN;
    let key = |&logit: &f32| {
        let bits = logit.to_bits() as i32;
        if logit.is_finite() {
            bits ^ (((bits >> 31) as u32) >> 1) as i32
        } else {
            NONE
        }
    };
    let largest = logits.iter().map(key).max().filter(|&largest| largest != NONE)?;
    logits.iter().position(|logit| key(logit) == largest)
}

#[cfg(test)]
mod tests;
