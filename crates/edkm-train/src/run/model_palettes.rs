//! What palettes a compressed model has: to keep them, or to tell that it would get others.

use std::collections::BTreeSet;
use std::path::Path;

use dfdx_edkm::ChannelScale;
use edkm_cluster::{Bits, Grouping, KeepZero, Spec, VectorLen};
use edkm_llama::checkpoint::Checkpoint;
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::{palette_spec, ClusterPlan};
use edkm_llama::names::{parameters, Role};
use edkm_palette::{FormatMetadata, PaletteDType, PaletteSpec, PalettizedMatrix, ScaleKind, TensorInfo};

use super::bits_budget::RULES;
use super::layers::is_matrix;
use super::{ClusterSettings, LayerRule, LayerRules};
use crate::TrainError;

/// The palettes of a compressed model, as its files describe them. Indices are not read.
#[derive(Debug, Clone)]
pub struct ModelPalettes {
    config: LlamaConfig,
    format: FormatMetadata,
    /// Matrices whose palettes all hold an exact zero, as those that keep zeros do.
    with_zeros: BTreeSet<String>,
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
        let mut with_zeros = BTreeSet::new();
        for (name, _) in format.tensors() {
            if has_zeros(&checkpoint.palettized(name)?) {
                with_zeros.insert(name.to_owned());
            }
        }
        let rules = model_dir.join(RULES);
        // a file of that name that says nothing of this model is no error of the model
        let made_with = rules.exists().then(|| LayerRules::read(&rules).ok()).flatten();
        Ok(Some(Self {
            config,
            format: format.clone(),
            with_zeros,
            made_with: made_with.map(LayerRules::with_dtypes_of_groups),
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
        let kinds: Vec<Kind> = linear.filter_map(|parameter| self.kind_of(&parameter.name)).collect();
        let alike = |kind: &Kind| kinds.iter().filter(|other| *other == kind).count();
        let usual = kinds.iter().copied().max_by_key(alike);
        let mut rules = vec![rule("model.layers.*", usual)?];
        for parameter in parameters(&self.config).filter(is_matrix) {
            let there = self.kind_of(&parameter.name);
            let otherwise = match parameter.role {
                Role::Linear => usual,
                _ => None,
            };
            if there != otherwise {
                rules.push(rule(&parameter.name, there)?);
            }
        }
        Ok(LayerRules(rules))
    }

    fn kind_of(&self, name: &str) -> Option<Kind> {
        let TensorInfo { spec, scale, .. } = *self.format.get(name)?;
        Some(Kind {
            spec,
            has_row_scales: scale == ScaleKind::Row,
            has_zeros: self.with_zeros.contains(name),
        })
    }

    /// They, in a few words: "3 bits", or, where matrices differ, "7 of 3 bits, 14 of 4 bits in groups of 8".
    pub fn in_words(&self) -> String {
        let mut counts: Vec<(Kind, usize)> = Vec::new();
        for kind in self.format.tensors().filter_map(|(name, _)| self.kind_of(name)) {
            match counts.iter_mut().find(|(other, _)| *other == kind) {
                Some((_, count)) => *count += 1,
                None => counts.push((kind, 1)),
            }
        }
        let words = |kind: &Kind| match kind.spec.palette_dtype {
            PaletteDType::F32 => kind.in_words(true),
            dtype => format!("{}, {dtype}", kind.in_words(true)),
        };
        match &counts[..] {
            [(kind, _)] => words(kind),
            _ => {
                let of = |(kind, count): &(Kind, usize)| format!("{count} of {}", words(kind));
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
            let kind = self.kind_of(&parameter.name);
            let there = kind.map(|kind| kind.in_words(has_bits));
            let here = clustering.spec(&parameter).map(|spec| {
                let here = Kind {
                    spec: palette_spec(&spec, clustering.palette_dtype_of(&parameter.name)),
                    has_row_scales: clustering.channel_scale(&parameter) != ChannelScale::None,
                    // what has no zeros can lose none
                    has_zeros: spec.keep_zero == KeepZero::Exact && kind.is_some_and(|kind| kind.has_zeros),
                };
                here.in_words(has_bits)
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
#[derive(Clone, Copy, PartialEq)]
struct Kind {
    spec: PaletteSpec,
    has_row_scales: bool,
    /// All of them have an exact zero.
    has_zeros: bool,
}

impl Kind {
    /// A matrix's palettes, their bits too if they are of interest.
    fn in_words(&self, has_bits: bool) -> String {
        let mut words = match has_bits {
            true => super::count(self.spec.bits.into(), "bit"),
            false => "clustered".to_owned(),
        };
        if let Some(rows) = self.spec.group_rows {
            words += &format!(" in groups of {rows}");
        }
        if self.spec.vector > 1 {
            words += &format!(", vectors of {}", self.spec.vector);
        }
        if self.has_row_scales {
            words += ", a factor a channel";
        }
        if self.has_zeros {
            words += ", zeros kept";
        }
        words
    }
}

/// Whether each palette of a matrix has an entry of zeros, as those that keep zeros do and others hardly ever.
fn has_zeros(matrix: &PalettizedMatrix) -> bool {
    let has_zero = |palette: usize| {
        let entries = matrix.palette(palette);
        entries
            .chunks(matrix.spec().vector)
            .any(|entry| entry.iter().all(|&number| number == 0.0))
    };
    // of bytes one is a zero by chance now and then, and near zero centroids are dense
    let by_chance = match matrix.spec().palette_dtype {
        PaletteDType::I8 => (3.0 * matrix.spec().clusters() as f64 / 256.0).powf(matrix.groups() as f64),
        _ => 0.0,
    };
    by_chance < 1e-3 && (0..matrix.groups()).all(has_zero)
}

/// The rule that makes such palettes, or none, of what has such a name.
fn rule(pattern: &str, kind: Option<Kind>) -> Result<LayerRule, TrainError> {
    let pattern = pattern.to_owned();
    let Some(Kind {
        spec,
        has_row_scales,
        has_zeros,
    }) = kind
    else {
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
        keep_zero: Some(has_zeros),
        per_channel_scale: Some(has_row_scales),
        ..LayerRule::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn palettes_that_keep_zeros_have_one_each() {
        let has = |dtype, vector, palettes: &[f32]| {
            let groups = palettes.len() / (2 * vector);
            let spec = PaletteSpec {
                bits: 1,
                group_rows: Some(1.try_into().unwrap()),
                vector,
                palette_dtype: dtype,
            };
            has_zeros(&PalettizedMatrix::pack(groups, vector, spec, palettes, &vec![1; groups], None).unwrap())
        };
        assert!(has(PaletteDType::F32, 1, &[0.0, 1.0]));
        assert!(has(PaletteDType::F16, 1, &[0.0, 1.0, -1.0, 0.0]));
        assert!(!has(PaletteDType::F32, 1, &[0.0, 1.0, -1.0, 2.0]));
        // a vector of zeros, not zeros in two of them
        assert!(has(PaletteDType::F32, 2, &[0.0, 0.0, 1.0, 2.0]));
        assert!(!has(PaletteDType::F32, 2, &[0.0, 1.0, 2.0, 0.0]));
        // bytes are zeros by chance
        assert!(!has(PaletteDType::I8, 1, &[0.0, 1.0]));
        assert!(has(PaletteDType::I8, 1, &[0.0, 1.0, 0.0, 2.0, 0.0, 3.0, 0.0, 4.0]));
    }
}
