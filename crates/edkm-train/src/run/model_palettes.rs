//! What palettes a compressed model has: to keep them, or to tell that it would get others.

use std::path::Path;

use dfdx_edkm::ChannelScale;
use edkm_cluster::{Bits, Grouping, Spec, VectorLen};
use edkm_llama::checkpoint::Checkpoint;
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::{palette_spec, ClusterPlan};
use edkm_llama::names::{parameters, Role};
use edkm_palette::{FormatMetadata, PaletteSpec, ScaleKind, TensorInfo};

use super::bits_budget::RULES;
use super::layers::is_matrix;
use super::{ClusterSettings, LayerRule, LayerRules};
use crate::TrainError;

/// The palettes of a compressed model, as its files describe them. Weights are not read.
#[derive(Debug, Clone)]
pub struct ModelPalettes {
    config: LlamaConfig,
    format: FormatMetadata,
    /// What it was made with, as far as that is kept beside it.
    made_with: Option<LayerRules>,
}

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

impl ModelPalettes {
    /// Those of the model in `model_dir`; `None` if it is not compressed.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn read(model_dir: &Path) -> Result<Option<Self>, TrainError> {
        let config = LlamaConfig::read(model_dir)?;
        let checkpoint = Checkpoint::open(model_dir)?;
        let Some(format) = checkpoint.format().filter(|format| format.tensors().len() > 0) else {
            return Ok(None);
        };
        let rules = model_dir.join(RULES);
        // a file of that name that says nothing of this model is no error of the model
        let made_with = rules.exists().then(|| LayerRules::read(&rules).ok()).flatten();
        Ok(Some(Self {
            config,
            format: format.clone(),
            made_with: made_with.map(LayerRules::with_bytes_for_groups),
        }))
    }

    /// Rules by which a run, without any other setting of palettes, makes the same ones: those that the model was made with if they lie beside it, as
    /// `layers.toml`, and else what its file says.
    ///
    /// # Errors
    /// Palettes that no rule describes.
    pub fn rules(&self) -> Result<LayerRules, TrainError> {
        let is_of_model = |rules: &&LayerRules| {
            let clustering = ClusterSettings {
                rules: (*rules).clone(),
                ..ClusterSettings::new(Spec::default().bits, 0)
            };
            rules.check(&self.config).is_ok() && self.others(&clustering).is_none()
        };
        match self.made_with.as_ref().filter(is_of_model) {
            Some(rules) => Ok(rules.clone()),
            None => self.described(),
        }
    }

    /// What most linear layers have, and by name what differs from it.
    fn described(&self) -> Result<LayerRules, TrainError> {
        let linear = parameters(&self.config).filter(|parameter| parameter.role == Role::Linear);
        let infos: Vec<&TensorInfo> = linear
            .filter_map(|parameter| self.format.get(&parameter.name))
            .collect();
        let alike = |info: &&TensorInfo| infos.iter().filter(|other| kind(other) == kind(info)).count();
        let usual = infos.iter().copied().max_by_key(alike);
        let mut rules = vec![rule("model.layers.*", usual)?];
        for parameter in parameters(&self.config).filter(is_matrix) {
            let there = self.format.get(&parameter.name);
            let otherwise = match parameter.role {
                Role::Linear => usual,
                _ => None,
            };
            if there.map(kind) != otherwise.map(kind) {
                rules.push(rule(&parameter.name, there)?);
            }
        }
        Ok(LayerRules(rules))
    }

    /// They, in a few words: "3 bits", or, where matrices differ, "7 of 3 bits, 14 of 4 bits in groups of 8".
    pub fn in_words(&self) -> String {
        let mut counts: Vec<(String, usize)> = Vec::new();
        for (_, info) in self.format.tensors() {
            let words = words(&info.spec, info.scale == ScaleKind::Row, true);
            match counts.iter_mut().find(|(other, _)| *other == words) {
                Some((_, count)) => *count += 1,
                None => counts.push((words, 1)),
            }
        }
        match &counts[..] {
            [(words, _)] => words.clone(),
            _ => {
                let of = |(words, count): &(String, usize)| format!("{count} of {words}");
                counts.iter().map(of).collect::<Vec<_>>().join(", ")
            }
        }
    }

    /// The first parameter that a run of such settings would give other palettes, if there is one. The type of a palette's numbers is not compared, nor bits
    /// that are chosen for a budget.
    pub fn others(&self, clustering: &ClusterSettings) -> Option<OtherPalettes> {
        let has_bits = clustering.bits_budget.is_none();
        let mut first: Option<OtherPalettes> = None;
        for parameter in parameters(&self.config) {
            let there = self.format.get(&parameter.name);
            let there = there.map(|info| words(&info.spec, info.scale == ScaleKind::Row, has_bits));
            let here = clustering.spec(&parameter).map(|spec| {
                let packed = palette_spec(&spec, clustering.palette_dtype_of(&parameter.name));
                let has_row_scales = clustering.channel_scale(&parameter) != ChannelScale::None;
                words(&packed, has_row_scales, has_bits)
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
        first
    }
}

/// What makes palettes alike.
fn kind(info: &TensorInfo) -> (PaletteSpec, ScaleKind) {
    (info.spec, info.scale)
}

/// The rule that makes such palettes, or none, of what has such a name.
fn rule(pattern: &str, info: Option<&TensorInfo>) -> Result<LayerRule, TrainError> {
    let pattern = pattern.to_owned();
    let Some(TensorInfo { spec, scale, .. }) = info else {
        return Ok(LayerRule {
            pattern,
            skip: Some(true),
            ..LayerRule::default()
        });
    };
    let cannot = |source| TrainError::Clustering { source };
    Ok(LayerRule {
        pattern,
        bits: Some(Bits::new(spec.bits).map_err(cannot)?),
        group: Some(spec.group_rows.map_or(Grouping::PerTensor, Grouping::PerChannels)),
        vector: Some(VectorLen::new(spec.vector).map_err(cannot)?),
        palette_dtype: Some(spec.palette_dtype),
        per_channel_scale: Some(*scale == ScaleKind::Row),
        ..LayerRule::default()
    })
}

/// A matrix's palettes, their bits too if they are of interest.
fn words(spec: &PaletteSpec, has_row_scales: bool, has_bits: bool) -> String {
    let mut words = match has_bits {
        true => super::count(spec.bits.into(), "bit"),
        false => "clustered".to_owned(),
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
