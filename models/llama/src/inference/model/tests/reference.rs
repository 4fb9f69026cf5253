//! The forward pass by its definition, token by token in f64.

use std::collections::BTreeMap;

use crate::config::LlamaConfig;
use crate::inference::testing::{dense, seed_of};
use crate::names::{parameters, Kind};
use crate::rope;

/// The weights of [`dense_model`](crate::inference::testing::dense_model), by name.
pub(super) struct Reference {
    config: LlamaConfig,
    weights: BTreeMap<String, Vec<f64>>,
}

impl Reference {
    pub(super) fn new(config: &LlamaConfig) -> Self {
        let weight = |p: crate::names::Parameter| {
            let values = dense(&p, seed_of(&p)).into_iter().map(f64::from).collect();
            (p.name, values)
        };
        Self {
            config: config.clone(),
            weights: parameters(config).map(weight).collect(),
        }
    }

    fn get(&self, kind: Kind, layer: usize) -> &[f64] {
        &self.weights[&kind.name(layer)]
    }

    /// W x + b.
    fn linear(&self, weight: Kind, bias: Option<Kind>, layer: usize, x: &[f64]) -> Vec<f64> {
        let rows = self.get(weight, layer).chunks_exact(x.len());
        let mut y: Vec<f64> = rows.map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect();
        if let Some(bias) = bias.and_then(|bias| self.weights.get(&bias.name(layer))) {
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
        y
    }

    fn norm(&self, kind: Kind, layer: usize, x: &[f64]) -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (mean + self.config.rms_norm_eps).sqrt();
        x.iter()
            .zip(self.get(kind, layer))
            .map(|(x, weight)| x * scale * weight)
            .collect()
    }

    fn turn(&self, x: &mut [f64], position: usize) {
        let frequencies = rope::inverse_frequencies(&self.config);
        let half = frequencies.len();
        for head in x.chunks_exact_mut(2 * half) {
            for (j, frequency) in frequencies.iter().enumerate() {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                let (a, b) = (head[j], head[j + half]);
                (head[j], head[j + half]) = (a * cos - b * sin, b * cos + a * sin);
            }
        }
    }

    /// Logits behind every token, `[tokens, vocabulary]`.
    pub(super) fn logits(&self, tokens: &[u32]) -> Vec<f64> {
        let config = &self.config;
        let (hidden, dim) = (config.hidden_size, config.head_dim);
        let group = config.num_attention_heads / config.num_key_value_heads;
        // For each layer, the keys and values so far.
        let mut cache = vec![Vec::<(Vec<f64>, Vec<f64>)>::new(); config.num_hidden_layers];
        let mut logits = Vec::new();
        for (position, &token) in tokens.iter().enumerate() {
            let mut x = self.get(Kind::EmbedTokens, 0)[token as usize * hidden..][..hidden].to_vec();
            for (layer, cache) in cache.iter_mut().enumerate() {
                let normed = self.norm(Kind::InputNorm, layer, &x);
                let mut query = self.linear(Kind::Query, Some(Kind::QueryBias), layer, &normed);
                let mut key = self.linear(Kind::Key, Some(Kind::KeyBias), layer, &normed);
                let value = self.linear(Kind::Value, Some(Kind::ValueBias), layer, &normed);
                if config.query_key_norm {
                    query = query
                        .chunks_exact(dim)
                        .flat_map(|head| self.norm(Kind::QueryNorm, layer, head))
                        .collect();
                    key = key
                        .chunks_exact(dim)
                        .flat_map(|head| self.norm(Kind::KeyNorm, layer, head))
                        .collect();
                }
                self.turn(&mut query, position);
                self.turn(&mut key, position);
                cache.push((key, value));
                let mut attended = Vec::new();
                for (head, query) in query.chunks_exact(dim).enumerate() {
                    let own = (head / group) * dim..(head / group + 1) * dim;
                    let dot = |key: &[f64]| query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>();
                    let weights: Vec<f64> = cache
                        .iter()
                        .map(|(key, _)| (dot(&key[own.clone()]) / (dim as f64).sqrt()).exp())
                        .collect();
                    let sum: f64 = weights.iter().sum();
                    attended.extend(own.map(|d| {
                        weights
                            .iter()
                            .zip(cache.iter())
                            .map(|(p, (_, value))| p * value[d])
                            .sum::<f64>()
                            / sum
                    }));
                }
                let output = self.linear(Kind::Output, Some(Kind::OutputBias), layer, &attended);
                x.iter_mut().zip(output).for_each(|(x, y)| *x += y);
                let normed = self.norm(Kind::PostAttentionNorm, layer, &x);
                let gate = self.linear(Kind::Gate, Some(Kind::GateBias), layer, &normed);
                let up = self.linear(Kind::Up, Some(Kind::UpBias), layer, &normed);
                let active: Vec<f64> = gate.iter().zip(up).map(|(z, up)| z / (1.0 + (-z).exp()) * up).collect();
                let output = self.linear(Kind::Down, Some(Kind::DownBias), layer, &active);
                x.iter_mut().zip(output).for_each(|(x, y)| *x += y);
            }
            let normed = self.norm(Kind::FinalNorm, 0, &x);
            let head = if config.tie_word_embeddings {
                Kind::EmbedTokens
            } else {
                Kind::Head
            };
            logits.extend(self.linear(head, None, 0, &normed));
        }
        logits
    }
}
