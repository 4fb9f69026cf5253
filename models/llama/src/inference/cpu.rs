//! Forward passes on the CPU, from the weights as they lie in the file.
#![allow(non_snake_case)]

use std::sync::Arc;

use edkm_kernels::rotary;
use rayon::prelude::*;

use super::{
    cache::{KvCache, Span},
    executor::{Executor, Room, Target},
    forward::Workspace,
    likelihood::log_sum_exp,
    InferenceModel,
};
use crate::LlamaError;

/// Tokens of a prompt that run together. Larger batches use the weights more often for each time that they are read, but
/// past some hundreds arithmetic is the limit; the workspace grows with them.
const PROMPT: usize = 256;

/// Tokens of sequences that run together.
const ONE_PASS: usize = 512;

/// Logits held at once, 16 MiB, unless [`LEAST_ROWS`] are more.
const LOGITS: usize = 1 << 22;

/// Rows of logits that are computed together, if so many are asked for: the whole projection is unpacked for each time.
const LEAST_ROWS: usize = 128;

/// Rows that kernels multiply at once: a number of rows that it divides leaves none to go by themselves.
const ROWS: usize = 8;

/// A model on the CPU with its cache, and memory that is used from one pass to the next.
#[derive(Debug)]
pub(super) struct OnCpu {
    model: InferenceModel,
    batch: usize,
    cache: KvCache,
    rotary: Option<Arc<rotary::Table>>,
    workspace: Workspace,
    /// Hidden states of rows that are asked for.
    hidden: Vec<f32>,
    normed: Vec<f32>,
    logits: Vec<f32>,
}

impl OnCpu {
    pub(super) fn new(model: InferenceModel, room: Room) -> Self {
        let (batch, cache, rotary) = match room {
            Room::OnePass => (ONE_PASS, KvCache::for_one_pass(model.config(), 0), None),
            Room::Session { capacity, cache_type } => (
                PROMPT,
                KvCache::new(model.config(), capacity, cache_type),
                Some(model.rotary(capacity)),
            ),
        };
        Self {
            model,
            batch,
            cache,
            rotary,
            workspace: Workspace::default(),
            hidden: Vec::new(),
            normed: Vec::new(),
            logits: Vec::new(),
        }
    }

    fn last_row(&self) -> &[f32] {
        &self.workspace.x_NH[self.workspace.x_NH.len() - self.model.config().hidden_size..]
    }
}

impl Executor for OnCpu {
    fn batch(&self) -> usize {
        self.batch
    }

    fn forward(&mut self, tokens: &[u32], spans: &[Span]) -> Result<(), LlamaError> {
        let Self {
            model,
            cache,
            rotary,
            workspace,
            ..
        } = self;
        let positions = spans
            .iter()
            .map(|span| span.position() + span.tokens.len())
            .max()
            .unwrap_or(0);
        let rotary = match rotary {
            Some(table) if table.positions() >= positions => table,
            _ => rotary.insert(model.rotary(positions)),
        };
        model.in_pool(tokens.len(), || model.forward(tokens, spans, rotary, cache, workspace));
        Ok(())
    }

    fn last_logits(&mut self, logits: &mut [f32]) -> Result<(), LlamaError> {
        let mut normed = std::mem::take(&mut self.normed);
        let (model, last) = (&self.model, self.last_row());
        model.in_pool(self.workspace.tokens(model.config()), || {
            model.project(last, &mut normed, logits);
        });
        self.normed = normed;
        Ok(())
    }

    fn log_likelihoods(&mut self, targets: &[Target]) -> Result<Vec<f32>, LlamaError> {
        let (hidden_size, vocabulary) = (self.model.config().hidden_size, self.model.config().vocab_size);
        let most = (LOGITS / vocabulary).max(LEAST_ROWS) / ROWS * ROWS;
        let by_row: Vec<&[Target]> = targets.chunk_by(|a, b| a.row == b.row).collect();
        let mut likelihoods = Vec::with_capacity(targets.len());
        for rows in by_row.chunks(most) {
            let Self {
                model,
                workspace,
                hidden,
                normed,
                logits,
                ..
            } = self;
            hidden.clear();
            for row in rows {
                hidden.extend_from_slice(&workspace.x_NH[row[0].row * hidden_size..][..hidden_size]);
            }
            logits.resize(rows.len() * vocabulary, 0.0);
            let sums: Vec<f32> = model.in_pool(rows.len(), || {
                model.project(hidden, normed, logits);
                // Pieces of some ten microseconds, on any vocabulary.
                let at_once = ((1 << 14) / vocabulary).max(1);
                logits
                    .par_chunks_exact(vocabulary)
                    .with_min_len(at_once)
                    .map(log_sum_exp)
                    .collect()
            });
            for ((row, sum), logits) in rows.iter().zip(sums).zip(logits.chunks_exact(vocabulary)) {
                likelihoods.extend(row.iter().map(|target| logits[target.token as usize] - sum));
            }
        }
        Ok(likelihoods)
    }

    fn make_room(&mut self, positions: usize) -> Result<(), LlamaError> {
        if self.cache.capacity() < positions {
            self.cache = KvCache::for_one_pass(self.model.config(), positions);
        }
        Ok(())
    }

    fn give_back(&mut self) {
        self.workspace = Workspace::default();
    }

    fn cache_bytes(&self) -> usize {
        self.cache.size_bytes()
    }
}
