//! Scaling of the rotary embedding, in the two spellings that are in use.

use serde_json::{json, Map, Value};

use super::{
    parse::{Keys, Source},
    validate::MAX_POSITIONS,
    ConfigProblem,
};
use crate::LlamaError;

/// How the rotary embedding's frequencies are changed for contexts longer than those of the first training.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// All frequencies divided by one factor (Chen et al., arXiv 2306.15595).
    Linear {
        /// The divisor, at least 1.
        factor: f64,
    },
    /// Only the slow ones divided, as in Llama 3.1.
    Llama3 {
        /// The divisor of the slowest frequencies, at least 1.
        factor: f64,
        /// Below this many turns within the original context a frequency is divided by the whole factor.
        low_freq_factor: f64,
        /// Above this many turns it is left alone.
        high_freq_factor: f64,
        /// The original context, in tokens.
        original_max_position_embeddings: usize,
    },
}

/// The base that is used where a file gives none: that of the first LLaMA.
const DEFAULT_THETA: f64 = 10_000.0;

/// Takes `rope_theta` and the scaling out of the keys.
///
/// The old spelling is `rope_theta` beside `rope_scaling`; the newer one puts both into `rope_parameters`. A file may
/// have both for the sake of old readers; then they must agree.
pub(super) fn take(source: &Source<'_>, keys: &mut Keys) -> Result<(f64, RopeScaling), LlamaError> {
    let mut theta = source.take_number(keys, "rope_theta")?;
    let mut scaling = None;
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(mut inner) = source.take_object(keys, key)? else {
            continue;
        };
        let within = Source {
            path: source.path,
            within: Some(key),
        };
        if let Some(value) = within.take_number(&mut inner, "rope_theta")? {
            agree(&within, "rope_theta", theta, value)?;
            theta = Some(value);
        }
        let value = parse(&within, &mut inner)?;
        if let Some((name, value)) = inner.into_iter().find(|(name, value)| !is_neutral(name, value)) {
            return Err(within.unsupported(&name, &value, "the keys of rope_type default, linear and llama3"));
        }
        if scaling.is_some_and(|other| other != value) {
            let problem = ConfigProblem::Contradiction {
                got: format!("{value:?}"),
                other: "rope_scaling",
                relation: format!("says {scaling:?}; remove one of the two"),
            };
            return Err(source.error(key, problem));
        }
        scaling = Some(value);
    }
    Ok((theta.unwrap_or(DEFAULT_THETA), scaling.unwrap_or_default()))
}

fn agree(source: &Source<'_>, key: &str, other: Option<f64>, value: f64) -> Result<(), LlamaError> {
    match other {
        Some(other) if other != value => Err(source.error(
            key,
            ConfigProblem::Contradiction {
                got: value.to_string(),
                other: "rope_theta",
                relation: format!("is {other}; remove one of the two"),
            },
        )),
        _ => Ok(()),
    }
}

fn parse(source: &Source<'_>, keys: &mut Keys) -> Result<RopeScaling, LlamaError> {
    let old = keys.remove("type");
    let kind = keys.remove("rope_type").or(old).unwrap_or(Value::from("default"));
    let number = |keys: &mut Keys, key| source.number(keys, key);
    let scaling = match kind.as_str() {
        Some("default") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear {
            factor: number(keys, "factor")?,
        },
        Some("llama3") => RopeScaling::Llama3 {
            factor: number(keys, "factor")?,
            low_freq_factor: number(keys, "low_freq_factor")?,
            high_freq_factor: number(keys, "high_freq_factor")?,
            original_max_position_embeddings: source.size(keys, "original_max_position_embeddings")?,
        },
        _ => return Err(source.unsupported("rope_type", &kind, "default, linear, llama3")),
    };
    check(source, &scaling)?;
    Ok(scaling)
}

/// Refuses numbers with which the frequencies would not be finite, positive and ordered.
pub(super) fn check(source: &Source<'_>, scaling: &RopeScaling) -> Result<(), LlamaError> {
    let factor_of = |factor: f64| match factor {
        f if (1.0..=1e6).contains(&f) => Ok(()),
        f => Err(source.out_of_range("factor", f, "from 1 to 1000000")),
    };
    match *scaling {
        RopeScaling::None => Ok(()),
        RopeScaling::Linear { factor } => factor_of(factor),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: original,
        } => {
            factor_of(factor)?;
            if original == 0 || original as u64 > MAX_POSITIONS {
                return Err(source.out_of_range(
                    "original_max_position_embeddings",
                    original,
                    format!("from 1 to {MAX_POSITIONS}"),
                ));
            }
            if !(low > 0.0 && low.is_finite()) {
                return Err(source.out_of_range("low_freq_factor", low, "greater than 0"));
            }
            if !(high > low && high.is_finite()) {
                let allowed = format!("greater than low_freq_factor, {low}");
                return Err(source.out_of_range("high_freq_factor", high, allowed));
            }
            Ok(())
        }
    }
}

/// Keys beside those of the type that say nothing: the rest of the rotary part would be partial or scaled by them.
fn is_neutral(key: &str, value: &Value) -> bool {
    value.is_null()
        || match key {
            "partial_rotary_factor" | "attention_factor" => value.as_f64() == Some(1.0),
            // Left behind by configurations without scaling.
            "factor" | "original_max_position_embeddings" => true,
            _ => false,
        }
}

/// The old spelling, which every reader knows; `None` where there is nothing to say.
pub(super) fn to_json(scaling: &RopeScaling) -> Option<Map<String, Value>> {
    let value = match *scaling {
        RopeScaling::None => return None,
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
    };
    value.as_object().cloned()
}
