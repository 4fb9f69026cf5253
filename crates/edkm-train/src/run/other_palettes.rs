//! Whether a model that has palettes would get others.

use std::path::Path;

use dfdx_edkm::ChannelScale;
use edkm_llama::checkpoint::Checkpoint;
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::{palette_spec, ClusterPlan};
use edkm_llama::names::parameters;
use edkm_palette::{PaletteSpec, ScaleKind};

use super::ClusterSettings;
use crate::TrainError;

/// Parameters of a compressed model that a run would give other palettes than they have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherPalettes {
    /// The first of them.
    pub name: String,
    /// Its palettes in the model.
    pub there: String,
    /// Those that the run would make.
    pub here: String,
    /// How many there are beside it.
    pub more: usize,
}

/// What a model has of palettes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelPalettes {
    /// None: it is not compressed.
    None,
    /// Those that the run would make, but for the type of their numbers and for bits that are chosen for a budget.
    Alike,
    /// Others.
    Other(OtherPalettes),
}

impl ModelPalettes {
    /// Compares the palettes of the model in `model_dir` with those of `clustering`. Reads no weights.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn compare(model_dir: &Path, clustering: &ClusterSettings) -> Result<Self, TrainError> {
        let checkpoint = Checkpoint::open(model_dir)?;
        let Some(format) = checkpoint.format().filter(|format| format.tensors().len() > 0) else {
            return Ok(Self::None);
        };
        let config = LlamaConfig::read(model_dir)?;
        let mut first: Option<OtherPalettes> = None;
        for parameter in parameters(&config) {
            let there = format.get(&parameter.name);
            let there = there.map(|info| words(&info.spec, info.scale == ScaleKind::Row, clustering));
            let here = clustering.spec(&parameter).map(|spec| {
                let packed = palette_spec(&spec, clustering.palette_dtype_of(&parameter.name));
                words(
                    &packed,
                    clustering.channel_scale(&parameter) != ChannelScale::None,
                    clustering,
                )
            });
            if there == here {
                continue;
            }
            let or_none = |words: Option<String>| words.unwrap_or_else(|| "not clustered".to_owned());
            match &mut first {
                Some(first) => first.more += 1,
                None => {
                    first = Some(OtherPalettes {
                        name: parameter.name.clone(),
                        there: or_none(there),
                        here: or_none(here),
                        more: 0,
                    })
                }
            }
        }
        Ok(first.map_or(Self::Alike, Self::Other))
    }
}

/// A matrix's palettes; without bits, where those are chosen.
fn words(spec: &PaletteSpec, has_row_scales: bool, clustering: &ClusterSettings) -> String {
    let mut words = match clustering.bits_budget {
        None => super::count(spec.bits.into(), "bit"),
        Some(_) => "clustered".to_owned(),
    };
    if let Some(rows) = spec.group_rows {
        words += &format!(" in groups of {rows}");
    }
    if spec.vector > 1 {
        words += &format!(", vectors of {}", spec.vector);
    }
    if has_row_scales {
        words += ", a factor a channel";
    }
    words
}
