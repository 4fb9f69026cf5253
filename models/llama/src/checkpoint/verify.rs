//! Does a checkpoint hold the parameters that a configuration asks for?

use super::Checkpoint;
use crate::{
    config::LlamaConfig,
    error::MisshapenTensor,
    names::{self, Role},
    LlamaError,
};

impl Checkpoint {
    /// Compares names and shapes with the table of parameters; everything that is amiss is told in one error.
    ///
    /// Buffers that follow from the configuration (`rotary_emb.inv_freq`) are overlooked, and so is an output projection
    /// beside tied embeddings: the embedding is used for it.
    ///
    /// # Errors
    /// The one of which the first line speaks.
    pub fn verify(&self, config: &LlamaConfig) -> Result<(), LlamaError> {
        let mut missing = Vec::new();
        let mut misshapen = Vec::new();
        let mut unexpected: std::collections::BTreeSet<&str> = self.weight_names().collect();
        unexpected.retain(|name| !names::is_derived(name));
        if config.tie_word_embeddings {
            unexpected.remove(names::HEAD);
        }
        for parameter in names::parameters(config) {
            unexpected.remove(parameter.name.as_str());
            match self.weight_shape(&parameter.name) {
                None => missing.push(describe_missing(parameter.name, parameter.role)),
                Some(got) if got != parameter.shape => {
                    misshapen.push(MisshapenTensor {
                        name: parameter.name,
                        expected: parameter.shape,
                        got,
                    });
                }
                Some(_) => {}
            }
        }
        if missing.is_empty() && unexpected.is_empty() && misshapen.is_empty() {
            return Ok(());
        }
        let unexpected = unexpected.into_iter().map(str::to_owned).collect();
        Err(LlamaError::Parameters {
            path: self.path().to_owned(),
            missing,
            unexpected,
            misshapen,
        })
    }
}

fn describe_missing(name: String, role: Role) -> String {
    match role {
        // The most frequent cause: an old configuration of a tied model that does not say so.
        Role::Head => format!("{name} (if it is the embedding, set tie_word_embeddings to true)"),
        _ => name,
    }
}
