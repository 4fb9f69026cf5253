//! What is compared, and with how many bits.

use std::fmt;
use std::str::FromStr;

use edkm_cluster::{Bits, GradientMode};
use edkm_llama::config::LlamaConfig;
use edkm_palette::PaletteDType;

use crate::compress::gptq::Levels;
use crate::compress::Method;
use crate::run::ClusterSettings;

/// A way to compress a model, or to train it as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Contender {
    /// Palettes from the weights, with or without a look at text.
    WithoutTraining(Method),
    /// As `edkm finetune` does it.
    Training(Training),
}

/// Ways to train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Training {
    /// The defaults: differentiable k-means that learns from the model as it came and from the text.
    Dkm,
    /// The same on the text alone.
    DkmText,
    /// Hard assignment whose gradient is passed unchanged, in place of differentiable k-means.
    StraightThrough,
    /// The model as it is, on the text: what the others are to be measured against.
    Uncompressed,
}

impl Contender {
    /// All there are, in the order of their names' list.
    pub const ALL: [Self; 9] = [
        Self::WithoutTraining(Method::RoundToNearest),
        Self::WithoutTraining(Method::KMeans),
        Self::WithoutTraining(Method::WeightedKMeans),
        Self::WithoutTraining(Method::Gptq(Levels::KMeans)),
        Self::WithoutTraining(Method::Gptq(Levels::EvenlySpaced)),
        Self::Training(Training::Dkm),
        Self::Training(Training::DkmText),
        Self::Training(Training::StraightThrough),
        Self::Training(Training::Uncompressed),
    ];

    /// The name in commands, tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::WithoutTraining(method) => method.name(),
            Self::Training(Training::Dkm) => "dkm",
            Self::Training(Training::DkmText) => "dkm-text",
            Self::Training(Training::StraightThrough) => "straight-through",
            Self::Training(Training::Uncompressed) => "uncompressed",
        }
    }

    /// Whether the result has palettes.
    pub fn is_clustered(self) -> bool {
        self != Self::Training(Training::Uncompressed)
    }

    /// Whether the result depends on the text that is trained on or looked at.
    pub fn looks_at_text(self) -> bool {
        match self {
            Self::WithoutTraining(method) => method.needs_calibration(),
            Self::Training(_) => true,
        }
    }

    /// The settings of a run, from what all runs have in common.
    pub(super) fn clustering(
        self,
        common: &ClusterSettings,
        palette_dtype: Option<PaletteDType>,
        width: Width,
        (steps, learning_rate): (u64, Option<f64>),
        config: &LlamaConfig,
    ) -> ClusterSettings {
        let (bits, bits_budget) = match width {
            Width::Bits(bits) => (bits, None),
            Width::Budget(budget) => (common.bits, Some(budget)),
        };
        let settings = ClusterSettings {
            bits,
            bits_budget,
            gradient: match self {
                Self::Training(Training::StraightThrough) => GradientMode::StraightThrough,
                _ => common.gradient,
            },
            ..common.clone()
        };
        ClusterSettings {
            temperature: ClusterSettings::usual_temperature(settings.bits_a_weight(config), steps, learning_rate),
            ..settings.with_palette_dtype(palette_dtype)
        }
    }
}

impl FromStr for Contender {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let find = |contender: &Self| contender.name() == name;
        Self::ALL.into_iter().find(find).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no method `{name}`; there are {names}")
        })
    }
}

/// Bits of an index.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Width {
    /// The same in every layer.
    Bits(Bits),
    /// Chosen by layer, so many a weight with palettes counted.
    Budget(f64),
}

impl Width {
    /// The number as it was asked for.
    pub fn bits(self) -> f64 {
        match self {
            Self::Bits(bits) => bits.get().into(),
            Self::Budget(bits) => bits,
        }
    }

    /// Whether bits are chosen by layer.
    pub fn is_budget(self) -> bool {
        matches!(self, Self::Budget(_))
    }
}

impl FromStr for Width {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let refused = || format!("`{text}`: write bits as 3 (in every layer, 1 to 8) or as 2.7 (a budget)");
        match text.parse::<u8>() {
            Ok(bits) => Bits::new(bits).map(Self::Bits).map_err(|_| refused()),
            Err(_) => match text.parse::<f64>() {
                // 3.0 is 3: runs are told apart by the number
                Ok(bits) if bits.fract() == 0.0 && (1.0..=8.0).contains(&bits) => {
                    Bits::new(bits as u8).map(Self::Bits).map_err(|_| refused())
                }
                Ok(bits) if (1.0..=9.0).contains(&bits) => Ok(Self::Budget(bits)),
                _ => Err(refused()),
            },
        }
    }
}

impl fmt::Display for Width {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> LlamaConfig {
        let sizes = r#"{"model_type": "llama", "vocab_size": 16, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 8, "rms_norm_eps": 1e-5}"#;
        LlamaConfig::from_json("config.json".as_ref(), sizes).unwrap()
    }

    #[test]
    fn palettes_are_of_the_type_that_is_usual_for_the_width() {
        let common = ClusterSettings::new(Bits::new(3).unwrap(), 10);
        let dtype = |given, width: &str| {
            let contender = Contender::Training(Training::Dkm);
            contender
                .clustering(&common, given, width.parse().unwrap(), (10, None), &config())
                .palette_dtype
        };
        assert_eq!(dtype(None, "3"), PaletteDType::F32);
        assert_eq!(dtype(None, "2.7"), PaletteDType::F16);
        assert_eq!(dtype(Some(PaletteDType::F16), "2.7"), PaletteDType::F16);
    }

    #[test]
    fn names_are_read_again_and_widths_are_bits_or_a_budget() {
        for contender in Contender::ALL {
            assert_eq!(contender.name().parse(), Ok(contender));
        }
        assert!("qat".parse::<Contender>().unwrap_err().contains("dkm-text"));
        assert_eq!("3".parse(), Ok(Width::Bits(Bits::new(3).unwrap())));
        assert_eq!("3.0".parse(), Ok(Width::Bits(Bits::new(3).unwrap())));
        assert_eq!("2.7".parse(), Ok(Width::Budget(2.7)));
        for bad in ["0", "9", "", "three", "0.5", "NaN", "-1"] {
            assert!(bad.parse::<Width>().unwrap_err().contains("2.7"), "{bad}");
        }
    }
}
