//! The weights of a model, used as they are stored.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use edkm_kernels::rotary;

use super::{dense::DenseMatrix, gpu, matrix::Matrix, InferenceProblem};
use crate::{
    checkpoint::{Access, Checkpoint, Dtype, FloatDtype, Weight},
    config::{LlamaConfig, CONFIG_FILE},
    names::{Kind, Parameter},
    rope, LlamaError,
};

/// Models with fewer parameters run on the calling thread: handing the work to another would take longer than doing it.
const SMALL_MODEL: u64 = 1 << 20;

/// A LLaMA for inference, on the CPU unless it is put elsewhere (`on_gpu`, with the feature `cuda`).
///
/// Memory: matrices that [`open`](Self::open) finds in a file are not copied, palettized or not: they stay in the map, whose
/// pages the operating system reads when they are first used and may drop again. Held beside it are norms and biases
/// (4 bytes a number), palettes (`2^bits x 8` bytes and more, each) and the rotary table (`4 x D` bytes for each position in
/// use). [`weight_bytes`](Self::weight_bytes) tells both parts.
///
/// A clone is the same model, in the same memory: sessions hold one each, and so may threads and whatever serves them.
#[derive(Clone)]
pub struct InferenceModel {
    pub(super) shared: Arc<Shared>,
    pub(super) place: Place,
}

/// What the clones of a model share.
pub(super) struct Shared {
    config: LlamaConfig,
    pub(super) embedding: Matrix,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: Vec<f32>,
    /// `None` if the embedding is used.
    head: Option<Matrix>,
    rotary: Mutex<Option<Arc<rotary::Table>>>,
    /// Kept as long as its map is in use: it holds the lock on the file.
    checkpoint: Option<Checkpoint>,
    small: bool,
}

/// Where a model is computed.
#[derive(Clone)]
pub(super) enum Place {
    Cpu,
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "for builds with GPUs"))]
    Gpu(Arc<gpu::Weights>),
}

/// A decoder layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) input_norm: Vec<f32>,
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    pub(super) output: Linear,
    pub(super) head_norms: Option<HeadNorms>,
    pub(super) post_attention_norm: Vec<f32>,
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

/// Norms of the heads of queries and keys, `[head_dim]` each.
#[derive(Debug)]
pub(super) struct HeadNorms {
    pub(super) query: Vec<f32>,
    pub(super) key: Vec<f32>,
}

/// y = x W^T + b.
#[derive(Debug)]
pub(super) struct Linear {
    pub(super) weight: Matrix,
    pub(super) bias: Option<Vec<f32>>,
}

impl Linear {
    /// `x` is `[tokens, inputs]`, `y` is `[tokens, outputs]` and overwritten.
    pub(super) fn apply(&self, x: &[f32], tokens: usize, y: &mut [f32]) {
        self.weight.apply(x, tokens, y);
        if let Some(bias) = &self.bias {
            for y in y.chunks_exact_mut(bias.len()) {
                y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
            }
        }
    }
}

/// Bytes of a model's weights, by where they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightBytes {
    /// In a mapped file, palettes of such matrices counted with them: brought in as they are used, and the first that the system drops when memory is short.
    pub mapped: usize,
    /// In memory of this process.
    pub owned: usize,
}

impl WeightBytes {
    /// Both.
    pub fn total(self) -> usize {
        self.mapped + self.owned
    }

    fn add(&mut self, matrix: &Matrix) {
        *(if matrix.is_mapped() {
            &mut self.mapped
        } else {
            &mut self.owned
        }) += matrix.size_bytes();
    }
}

/// A parameter in the form in which the model keeps it.
enum Part {
    Vector(Vec<f32>),
    Matrix(Matrix),
}

impl InferenceModel {
    /// Opens a model folder: one in Hugging Face layout, or one that this project wrote, with palettized weights.
    ///
    /// Nothing of the matrices is read here; the file is mapped, see [`Access::Map`] for what that asks of it.
    ///
    /// # Errors
    /// If `config.json` or the checkpoint is missing, damaged or not supported, or the two do not belong together.
    pub fn open(model_dir: impl AsRef<Path>) -> Result<Self, LlamaError> {
        Self::open_with(model_dir, Access::Map)
    }

    /// [`open`](Self::open) with a choice between mapping the file and reading it into memory.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(model_dir: impl AsRef<Path>, access: Access) -> Result<Self, LlamaError> {
        let dir = model_dir.as_ref();
        let config = LlamaConfig::read(dir)?;
        let checkpoint = Checkpoint::open_with(dir, access)?;
        checkpoint.verify(&config)?;
        let read = Shared::new(config, |parameter| read_part(&checkpoint, parameter))?;
        Ok(Self::on_cpu(Shared {
            checkpoint: Some(checkpoint),
            ..read
        }))
    }

    /// A model of weights that `weight` gives, asked once for each parameter of the configuration.
    ///
    /// # Errors
    /// Those of `weight`; a configuration that is not valid; a weight of another shape, or a palettized vector.
    pub fn from_parts(
        config: LlamaConfig,
        mut weight: impl FnMut(&Parameter) -> Result<Weight, LlamaError>,
    ) -> Result<Self, LlamaError> {
        config.validate(Path::new(CONFIG_FILE))?;
        Shared::new(config, |parameter| part(parameter, weight(parameter)?)).map(Self::on_cpu)
    }

    fn on_cpu(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
            place: Place::Cpu,
        }
    }

    /// The configuration.
    pub fn config(&self) -> &LlamaConfig {
        &self.shared.config
    }

    /// The longest context, in tokens.
    pub fn context_limit(&self) -> usize {
        self.shared.config.context_limit()
    }

    /// Bytes of the weights as they are stored, and where they are.
    pub fn weight_bytes(&self) -> WeightBytes {
        let mut bytes = WeightBytes::default();
        bytes.owned += self.shared.norm.len() * 4;
        bytes.add(&self.shared.embedding);
        self.shared.head.iter().for_each(|head| bytes.add(head));
        for layer in &self.shared.layers {
            let of_heads = layer.head_norms.as_ref();
            let of_heads = of_heads.map_or(0, |norms| norms.query.len() + norms.key.len());
            bytes.owned += (layer.input_norm.len() + layer.post_attention_norm.len() + of_heads) * 4;
            for linear in layer.linears() {
                bytes.add(&linear.weight);
                bytes.owned += linear.bias.as_ref().map_or(0, |bias| bias.len() * 4);
            }
        }
        bytes
    }

    /// The output projection, if it is not the embedding.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "for a GPU"))]
    pub(super) fn untied_head(&self) -> Option<&Matrix> {
        self.shared.head.as_ref()
    }

    /// The matrix that turns hidden states into logits, `[vocabulary, hidden]`.
    pub(super) fn head(&self) -> &Matrix {
        self.shared.head.as_ref().unwrap_or(&self.shared.embedding)
    }

    /// Runs `work` where the kernels' calls to the thread pool are cheap: on one of its threads, unless the model is so
    /// small that the way there is not worth it.
    pub(super) fn in_pool<R: Send>(&self, tokens: usize, work: impl FnOnce() -> R + Send) -> R {
        if self.shared.small && tokens == 1 {
            work()
        } else {
            rayon::scope(|_| work())
        }
    }

    /// The rotary table for at least `positions` positions. It is made once and again only when it must grow.
    pub(super) fn rotary(&self, positions: usize) -> Arc<rotary::Table> {
        let known = || self.shared.rotary.lock().unwrap_or_else(PoisonError::into_inner);
        let is_enough = |table: &&Arc<rotary::Table>| table.positions() >= positions;
        if let Some(table) = known().as_ref().filter(is_enough) {
            return table.clone();
        }
        // Not under the lock: a thread of the pool that waits for its part of the table may take up other work, and ask here again.
        let made = Arc::new(rotary::Table::new(
            &rope::inverse_frequencies(&self.shared.config),
            positions.next_power_of_two().max(256),
        ));
        let mut known = known();
        match known.as_ref().filter(|table| table.positions() >= made.positions()) {
            Some(table) => table.clone(),
            None => known.insert(made).clone(),
        }
    }

    /// The error for a logit that is not finite: it names the weight at fault if there is one. Reads all dense weights.
    pub(super) fn explain_not_finite(&self, tokens: usize, value: f32) -> LlamaError {
        let path = self
            .shared
            .checkpoint
            .as_ref()
            .map_or_else(|| PathBuf::from("the model"), |checkpoint| checkpoint.path().to_owned());
        let dense = |kind: Kind, layer: usize, matrix: &Matrix| match matrix {
            Matrix::Dense(matrix) => matrix
                .first_not_finite()
                .map(|(index, value)| (kind.name(layer), index, value)),
            Matrix::Packed(_) => None,
        };
        let found = dense(Kind::EmbedTokens, 0, &self.shared.embedding)
            .or_else(|| {
                let mut layers = self.shared.layers.iter().enumerate();
                layers.find_map(|(i, layer)| {
                    let mut linears = LINEARS.iter().zip(layer.linears());
                    linears.find_map(|(&(kind, _), linear)| dense(kind, i, &linear.weight))
                })
            })
            .or_else(|| dense(Kind::Head, 0, self.shared.head.as_ref()?));
        match found {
            Some((name, index, value)) => LlamaError::NotFinite {
                path,
                name,
                index,
                value,
            },
            None => LlamaError::Inference(InferenceProblem::Logits { tokens, value }),
        }
    }
}

impl Shared {
    fn new(
        config: LlamaConfig,
        mut part: impl FnMut(&Parameter) -> Result<Part, LlamaError>,
    ) -> Result<Self, LlamaError> {
        let mut parts = Parts {
            config: &config,
            part: &mut part,
        };
        let embedding = parts.matrix(Kind::EmbedTokens, 0)?;
        let layers = (0..config.num_hidden_layers)
            .map(|i| parts.layer(i))
            .collect::<Result<_, _>>()?;
        let norm = parts.vector(Kind::FinalNorm, 0)?;
        let head = match Kind::Head.parameter(&config, 0) {
            Some(_) => Some(parts.matrix(Kind::Head, 0)?),
            None => None,
        };
        let small = config.parameter_count() < SMALL_MODEL;
        Ok(Self {
            config,
            embedding,
            layers,
            norm,
            head,
            rotary: Mutex::new(None),
            checkpoint: None,
            small,
        })
    }
}

/// The linear layers in the order of [`Layer::linears`], with their biases.
const LINEARS: [(Kind, Kind); 7] = [
    (Kind::Query, Kind::QueryBias),
    (Kind::Key, Kind::KeyBias),
    (Kind::Value, Kind::ValueBias),
    (Kind::Output, Kind::OutputBias),
    (Kind::Gate, Kind::GateBias),
    (Kind::Up, Kind::UpBias),
    (Kind::Down, Kind::DownBias),
];

impl Layer {
    fn linears(&self) -> [&Linear; 7] {
        [
            &self.query,
            &self.key,
            &self.value,
            &self.output,
            &self.gate,
            &self.up,
            &self.down,
        ]
    }
}

/// Gathers the parameters of a model.
struct Parts<'a> {
    config: &'a LlamaConfig,
    part: &'a mut dyn FnMut(&Parameter) -> Result<Part, LlamaError>,
}

impl Parts<'_> {
    fn layer(&mut self, i: usize) -> Result<Layer, LlamaError> {
        let input_norm = self.vector(Kind::InputNorm, i)?;
        let post_attention_norm = self.vector(Kind::PostAttentionNorm, i)?;
        let mut linears = Vec::with_capacity(LINEARS.len());
        for (weight, bias) in LINEARS {
            let bias = match bias.parameter(self.config, i) {
                Some(_) => Some(self.vector(bias, i)?),
                None => None,
            };
            linears.push(Linear {
                weight: self.matrix(weight, i)?,
                bias,
            });
        }
        let linears: [Linear; LINEARS.len()] = linears.try_into().expect("as many as there are kinds");
        let [query, key, value, output, gate, up, down] = linears;
        let head_norms = match self.config.query_key_norm {
            true => Some(HeadNorms {
                query: self.vector(Kind::QueryNorm, i)?,
                key: self.vector(Kind::KeyNorm, i)?,
            }),
            false => None,
        };
        Ok(Layer {
            input_norm,
            query,
            key,
            value,
            output,
            head_norms,
            post_attention_norm,
            gate,
            up,
            down,
        })
    }

    fn matrix(&mut self, kind: Kind, layer: usize) -> Result<Matrix, LlamaError> {
        let parameter = self.parameter(kind, layer);
        match (self.part)(&parameter)? {
            Part::Matrix(matrix) => Ok(matrix),
            Part::Vector(vector) => Err(misshapen(&parameter, format!("{} numbers", vector.len()))),
        }
    }

    fn vector(&mut self, kind: Kind, layer: usize) -> Result<Vec<f32>, LlamaError> {
        let parameter = self.parameter(kind, layer);
        match (self.part)(&parameter)? {
            Part::Vector(vector) => Ok(vector),
            Part::Matrix(matrix) => Err(misshapen(
                &parameter,
                format!("shape {:?}", [matrix.rows(), matrix.cols()]),
            )),
        }
    }

    fn parameter(&self, kind: Kind, layer: usize) -> Parameter {
        kind.parameter(self.config, layer)
            .expect("asked for those that the configuration has")
    }
}

fn misshapen(parameter: &Parameter, got: String) -> LlamaError {
    let (name, expected) = (parameter.name.clone(), parameter.shape.clone());
    LlamaError::Inference(InferenceProblem::Part { name, expected, got })
}

/// A given weight, checked against the shape that the configuration says.
fn part(parameter: &Parameter, weight: Weight) -> Result<Part, LlamaError> {
    match (weight, &parameter.shape[..]) {
        (Weight::Dense(values), &[len]) if values.len() == len => Ok(Part::Vector(values)),
        (Weight::Dense(values), &[rows, cols]) => {
            let got = values.len();
            let matrix = DenseMatrix::owned(rows, cols, values);
            let matrix = matrix.ok_or_else(|| misshapen(parameter, format!("{got} numbers")))?;
            Ok(Part::Matrix(Matrix::Dense(matrix)))
        }
        (Weight::Palettized(packed), &[rows, cols]) if [packed.rows(), packed.cols()] == [rows, cols] => {
            Ok(Part::Matrix(Matrix::Packed(Box::new(packed))))
        }
        (Weight::Dense(values), _) => Err(misshapen(parameter, format!("{} numbers", values.len()))),
        (Weight::Palettized(packed), _) => Err(misshapen(
            parameter,
            format!("a palettized matrix of shape {:?}", [packed.rows(), packed.cols()]),
        )),
    }
}

/// A parameter as the checkpoint holds it; its shape was verified.
fn read_part(checkpoint: &Checkpoint, parameter: &Parameter) -> Result<Part, LlamaError> {
    let name = &parameter.name;
    let &[rows, cols] = &parameter.shape[..] else {
        return checkpoint.read_f32(name, &parameter.shape).map(Part::Vector);
    };
    if checkpoint.is_palettized(name) {
        return checkpoint
            .palettized(name)
            .map(|packed| Part::Matrix(Matrix::Packed(Box::new(packed))));
    }
    let raw = checkpoint.raw(name)?;
    let dtype = match raw.dtype {
        Dtype::F32 => FloatDtype::F32,
        Dtype::F16 => FloatDtype::F16,
        Dtype::BF16 => FloatDtype::Bf16,
        other => {
            return Err(LlamaError::Dtype {
                path: checkpoint.path().to_owned(),
                name: name.clone(),
                got: format!("{other:?}"),
                supported: "F32, F16 and BF16",
            })
        }
    };
    let matrix = DenseMatrix::shared(rows, cols, raw.bytes, dtype);
    matrix
        .map(|matrix| Part::Matrix(Matrix::Dense(matrix)))
        .ok_or_else(|| misshapen(parameter, "too few bytes".into()))
}

impl fmt::Debug for InferenceModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InferenceModel")
            .field("config", self.config())
            .field("weight_bytes", &self.weight_bytes())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
