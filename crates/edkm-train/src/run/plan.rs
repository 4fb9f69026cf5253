//! What each parameter gets, before anything is done.

use std::path::Path;

use dfdx_edkm::{ChannelScale, EdkmDevice};
use edkm_cluster::Grouping;
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::{palette_spec, ClusterPlan, DynamicLlama};
use edkm_llama::names::parameters;
use edkm_llama::LlamaError;
use serde::Serialize;

use super::bits_budget::settle;
use super::check::check_positions;
use super::{ClusterSettings, Observer, Sizes, Stage};
use crate::compress::Calibration;
use crate::data::TokenStream;
use crate::{Tokenizer, TrainError};

/// A parameter and what is done with it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlannedLayer {
    /// The parameter.
    pub name: String,
    /// Its axes, outermost first.
    pub shape: Vec<usize>,
    /// How it is clustered; `None`: it stays as it is.
    pub palette: Option<PlannedPalette>,
}

/// How a parameter is clustered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlannedPalette {
    /// Bits of an index.
    pub bits: u8,
    /// Output channels that share a palette; `null`: all.
    pub group: Option<usize>,
    /// Weights that share an index.
    pub vector: usize,
    /// Type of the palette's numbers.
    pub dtype: String,
    /// Whether each row has a factor.
    pub row_scales: bool,
    /// Bytes in the file: packed indices with their padding, palettes, rows' factors.
    pub bytes: u64,
    /// Bits a weight, all of that counted.
    pub bits_per_weight: f64,
}

/// What each parameter of a model gets by `clustering`, in the order of the model.
///
/// # Errors
/// A pattern that matches nothing; a parameter whose rows do not divide into its vectors.
pub fn plan(config: &LlamaConfig, clustering: &ClusterSettings) -> Result<Vec<PlannedLayer>, TrainError> {
    clustering.rules.check(config)?;
    parameters(config)
        .map(|parameter| {
            let palette = match (clustering.spec(&parameter), parameter.shape.as_slice()) {
                (Some(spec), &[rows, cols]) => {
                    let packed = palette_spec(&spec, clustering.palette_dtype_of(&parameter.name));
                    let bytes = packed.size_bytes(rows, cols).map_err(|source| LlamaError::Palettize {
                        name: parameter.name.clone(),
                        source,
                    })? as u64;
                    let row_scales = clustering.channel_scale(&parameter);
                    let bytes = bytes + row_scales.bytes(rows) as u64;
                    Some(PlannedPalette {
                        bits: spec.bits.get(),
                        group: match spec.grouping {
                            Grouping::PerTensor => None,
                            Grouping::PerChannels(channels) => Some(channels.get()),
                        },
                        vector: spec.dim(),
                        dtype: packed.palette_dtype.to_string(),
                        row_scales: row_scales != ChannelScale::None,
                        bytes,
                        bits_per_weight: 8.0 * bytes as f64 / (rows * cols) as f64,
                    })
                }
                _ => None,
            };
            Ok(PlannedLayer {
                name: parameter.name,
                shape: parameter.shape,
                palette,
            })
        })
        .collect()
}

/// The text that bits are chosen on.
pub(super) struct PlanText<F> {
    pub(super) load: F,
    pub(super) sequence: usize,
    pub(super) windows: usize,
    pub(super) seed: u64,
}

/// The plan for a model's folder, bits chosen if they are to be; only then are model and text read.
pub(super) fn plan_folder<D: EdkmDevice, F: FnOnce(&Tokenizer) -> Result<TokenStream, TrainError>>(
    model_dir: &Path,
    clustering: &ClusterSettings,
    text: Option<PlanText<F>>,
    device: &D,
    observer: &mut impl Observer,
) -> Result<Vec<PlannedLayer>, TrainError> {
    let config = LlamaConfig::read(model_dir)?;
    if clustering.bits_budget.is_none() {
        return plan(&config, clustering);
    }
    let text = text.ok_or(TrainError::NoCalibration {
        method: "a bits budget",
    })?;
    observer.stage(Stage::LoadData);
    check_positions(text.sequence, &config)?;
    let tokenizer = Tokenizer::from_dir(model_dir)?;
    tokenizer.check_vocabulary(config.vocab_size)?;
    let stream = (text.load)(&tokenizer)?;
    let calibration = Calibration {
        stream: &stream,
        sequence: text.sequence,
        windows: text.windows,
        seed: text.seed,
    };
    observer.stage(Stage::LoadModel);
    let model: DynamicLlama<D> = DynamicLlama::open(model_dir, device)?;
    observer.go_on()?;
    let (clustering, _) = settle(&model, clustering, Some(&calibration), observer)?;
    plan(&config, &clustering)
}

/// Bits and weights of what is clustered by a plan.
pub fn planned_sizes(layers: &[PlannedLayer]) -> Sizes {
    layers.iter().fold(Sizes::default(), |sum, layer| match &layer.palette {
        None => sum,
        Some(palette) => Sizes {
            bits: sum.bits + 8.0 * palette.bytes as f64,
            weights: sum.weights + layer.shape.iter().product::<usize>() as f64,
        },
    })
}
