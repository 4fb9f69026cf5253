//! A small model of every op.

use std::collections::BTreeMap;
use std::sync::Arc;

use dfdx::prelude::*;
use dfdx_edkm::ops::add::add;
use dfdx_edkm::ops::attention::{attention_of_segments, AttentionDims, Segments};
use dfdx_edkm::ops::cross_entropy::{cross_entropy, Targets};
use dfdx_edkm::ops::distillation::{distillation, Teacher};
use dfdx_edkm::ops::embedding::embedding;
use dfdx_edkm::ops::hidden_distance::{add_distances, hidden_distance};
use dfdx_edkm::ops::linear::linear;
use dfdx_edkm::ops::rms_norm::rms_norm;
use dfdx_edkm::ops::rotary::{rotary, RotaryDims};
use dfdx_edkm::ops::swiglu::swiglu;
use dfdx_edkm::ops::{Matrix, Vector};
use dfdx_edkm::{
    ChannelScale, Clustering, EdkmDevice, ParameterKind, ParameterVisitor, Parameters, ParametersByPart,
    SaveForBackward,
};
use edkm_cluster::Spec;
use edkm_kernels::rotary::Table;

use crate::random;

const VOCABULARY: usize = 50;
const HIDDEN: usize = 16;
const FEATURES: usize = 24;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = HIDDEN / HEADS;
const BATCH: usize = 2;
/// The second part: the feed-forward layer and what is behind it.
const SECOND: [&str; 4] = ["down", "gate", "head", "up"];

/// What the loss is made of.
#[derive(Clone, Copy)]
pub(crate) enum Loss {
    Text,
    Teacher,
}

/// One decoder layer between an embedding and a head.
pub(crate) struct Net<D: EdkmDevice> {
    device: D,
    seq: usize,
    /// Texts that share a sequence, if they do.
    pub(crate) segments: Option<Segments>,
    matrices: BTreeMap<&'static str, (Matrix<D>, Option<Clustering>)>,
    vectors: BTreeMap<&'static str, Vector<D>>,
    table: Arc<Table>,
}

impl<D: EdkmDevice> Net<D> {
    /// The same numbers on every device; every matrix is clustered as `spec` says, if it does.
    pub(crate) fn new(device: &D, seq: usize, spec: Option<Spec>, channel_scale: ChannelScale) -> Self {
        let shapes = [
            ("down", (HIDDEN, FEATURES)),
            ("embedding", (VOCABULARY, HIDDEN)),
            ("gate", (FEATURES, HIDDEN)),
            ("head", (VOCABULARY, HIDDEN)),
            ("key", (KV_HEADS * HEAD_DIM, HIDDEN)),
            ("output", (HIDDEN, HIDDEN)),
            ("query", (HIDDEN, HIDDEN)),
            ("up", (FEATURES, HIDDEN)),
            ("value", (KV_HEADS * HEAD_DIM, HIDDEN)),
        ];
        let matrices = shapes.iter().enumerate().map(|(seed, &(name, shape))| {
            // small enough that no softmax is saturated: rounding errors stay what they are
            let numbers = random(seed as u64, shape.0 * shape.1).iter().map(|x| 0.4 * x).collect();
            let matrix = device.tensor_from_host(numbers, shape).expect("memory");
            let clustering = spec.map(|spec| Clustering::new(spec).with_channel_scale(channel_scale));
            (name, (matrix, clustering))
        });
        let vectors = [("bias", HIDDEN), ("norm", HIDDEN)];
        let vectors = vectors.iter().enumerate().map(|(seed, &(name, len))| {
            let numbers = random(100 + seed as u64, len).iter().map(|x| x + 1.5).collect();
            (name, device.tensor_from_host(numbers, (len,)).expect("memory"))
        });
        let frequencies: Vec<f64> = (0..HEAD_DIM / 2).map(|i| 10f64.powi(-(i as i32))).collect();
        Net {
            device: device.clone(),
            seq,
            segments: None,
            matrices: matrices.collect(),
            vectors: vectors.collect(),
            table: Arc::new(Table::new(&frequencies, seq)),
        }
    }

    fn linear<T: SaveForBackward<D>>(
        &self,
        name: &str,
        x: Matrix<D, T>,
        bias: Option<&Vector<D>>,
    ) -> Result<Matrix<D, T>, D::Err> {
        let (weight, clustering) = &self.matrices[name];
        linear(x, weight, bias, clustering.as_ref())
    }

    fn turned<T: SaveForBackward<D>>(&self, x: Matrix<D, T>, heads: usize) -> Result<Matrix<D, T>, D::Err> {
        let dims = RotaryDims {
            table: self.table.clone(),
            heads,
            seq: self.seq,
        };
        rotary(x, dims)
    }

    pub(crate) fn hidden<T: SaveForBackward<D>>(&self, mut tape: T) -> Result<Matrix<D, T>, D::Err> {
        let ids: Arc<[u32]> = (0..(BATCH * self.seq) as u32)
            .map(|n| n * n % VOCABULARY as u32)
            .collect();
        let (table, clustering) = &self.matrices["embedding"];
        tape.begin_part(0);
        let (x, tape) = embedding(ids, table, clustering.as_ref(), tape)?.split_tape();
        let normed = rms_norm(x.clone().put_tape(tape), &self.vectors["norm"], 1e-5)?;
        let (normed, tape) = normed.split_tape();
        let query = self.linear("query", normed.clone().put_tape(tape), None)?;
        let (query, tape) = self.turned(query, HEADS)?.split_tape();
        let key = self.linear("key", normed.clone().put_tape(tape), None)?;
        let (key, tape) = self.turned(key, KV_HEADS)?.split_tape();
        let value = self.linear("value", normed.put_tape(tape), None)?;
        let dims = AttentionDims {
            batch: BATCH,
            seq: self.seq,
            heads: HEADS,
            kv_heads: KV_HEADS,
            head_dim: HEAD_DIM,
            scale: 0.5,
        };
        let attended = attention_of_segments(query.retaped(), key.retaped(), value, dims, self.segments.as_ref())?;
        let attended = self.linear("output", attended, Some(&self.vectors["bias"]))?;
        let (x, mut tape) = add(x.retaped(), attended)?.split_tape();
        tape.begin_part(1);
        let (gate, tape) = self.linear("gate", x.clone().put_tape(tape), None)?.split_tape();
        let up = self.linear("up", x.clone().put_tape(tape), None)?;
        let gated = swiglu(gate.retaped(), up)?;
        add(x.retaped(), self.linear("down", gated, None)?)
    }

    pub(crate) fn loss<T: SaveForBackward<D>>(&self, kind: Loss, tape: T) -> Result<Tensor<Rank0, f32, D, T>, D::Err> {
        let tokens = BATCH * self.seq;
        let targets = Targets {
            ids: (0..tokens as u32).map(|n| 7 * n % VOCABULARY as u32).collect(),
            weights: (0..tokens).map(|n| [1.0, 0.5, 0.0][n % 3]).collect(),
        };
        let (head, clustering) = &self.matrices["head"];
        let x = self.hidden(tape)?;
        match kind {
            Loss::Text => cross_entropy(x, head, clustering.as_ref(), targets),
            Loss::Teacher => {
                let other = |seed, shape: (usize, usize)| {
                    let numbers = random(seed, shape.0 * shape.1);
                    self.device.tensor_from_host(numbers, shape)
                };
                let teacher = Teacher {
                    hidden: other(200, (tokens, 8))?,
                    head: other(201, (VOCABULARY, 8))?,
                    temperature: 1.5,
                    share: 0.75,
                    fade: f32::INFINITY,
                };
                let (x, distance) = hidden_distance(x, other(202, (tokens, HIDDEN))?, 0.5)?;
                let taught = distillation(x, head, clustering.as_ref(), teacher, targets)?;
                add_distances(taught.loss, &[distance], 0.5 * taught.trust)
            }
        }
    }

    /// All gradients, by parameter.
    pub(crate) fn gradients(&mut self, mut gradients: Gradients<f32, D>) -> BTreeMap<String, Vec<f32>> {
        struct Collect<'a, D: EdkmDevice>(&'a mut Gradients<f32, D>, BTreeMap<String, Vec<f32>>);
        impl<D: EdkmDevice> ParameterVisitor<D> for Collect<'_, D> {
            type Error = std::convert::Infallible;
            fn visit<S: Shape>(
                &mut self,
                name: &str,
                _: ParameterKind<'_>,
                parameter: &mut Tensor<S, f32, D>,
            ) -> Result<(), Self::Error> {
                self.1.insert(name.to_owned(), crate::gradient(self.0, parameter));
                Ok(())
            }
        }
        let mut collect = Collect(&mut gradients, BTreeMap::new());
        let Ok(()) = self.visit_parameters("", &mut collect);
        collect.1
    }

    /// Calls the visitor for the parameters that `which` names.
    fn visit_named<V: ParameterVisitor<D>>(
        &mut self,
        which: impl Fn(&str) -> bool,
        prefix: &str,
        visitor: &mut V,
    ) -> Result<(), V::Error> {
        for (name, (matrix, clustering)) in self.matrices.iter_mut().filter(|(name, _)| which(name)) {
            let kind = ParameterKind::Linear {
                clustering: clustering.as_ref(),
            };
            visitor.visit(&format!("{prefix}{name}"), kind, matrix)?;
        }
        for (name, vector) in self.vectors.iter_mut().filter(|(name, _)| which(name)) {
            visitor.visit(&format!("{prefix}{name}"), ParameterKind::Vector, vector)?;
        }
        Ok(())
    }
}

impl<D: EdkmDevice> Parameters<D> for Net<D> {
    fn visit_parameters<V: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
        self.visit_named(|_| true, prefix, visitor)
    }
}

impl<D: EdkmDevice> ParametersByPart<D> for Net<D> {
    fn parts(&self) -> usize {
        2
    }

    fn visit_part<V: ParameterVisitor<D>>(
        &mut self,
        part: usize,
        prefix: &str,
        visitor: &mut V,
    ) -> Result<(), V::Error> {
        self.visit_named(|name| SECOND.contains(&name) == (part == 1), prefix, visitor)
    }
}
