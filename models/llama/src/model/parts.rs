//! The parts of a model whose gradients become whole one after the other in backward: the embedding, each layer, what is behind the layers.

use dfdx::prelude::*;
use dfdx_edkm::{EdkmDevice, ParameterKind, ParameterVisitor, Parameters, ParametersByPart, SaveForBackward};

use super::Llama;
use crate::config::LlamaConfig;
use crate::names::{layer_prefix, parameters, Kind, Parameter};

/// The embedding, which is the output projection too where that is tied.
const EMBEDDING: usize = 0;

const fn of_layer(index: usize) -> usize {
    index + 1
}

const fn behind_layers(layers: usize) -> usize {
    layers + 1
}

/// The part of a model of this configuration that a parameter belongs to, in the order of a forward pass.
fn part_of(config: &LlamaConfig, parameter: &Parameter) -> usize {
    match (parameter.layer, parameter.kind) {
        (Some(index), _) => of_layer(index),
        (None, Kind::EmbedTokens) => EMBEDDING,
        (None, _) => behind_layers(config.num_hidden_layers),
    }
}

/// The numbers in the largest part of a model.
pub fn largest_part(config: &LlamaConfig) -> u64 {
    let mut parts = vec![0u64; behind_layers(config.num_hidden_layers) + 1];
    for parameter in parameters(config) {
        let numbers = parameter.shape.iter().map(|&n| n as u64).product::<u64>();
        let part = &mut parts[part_of(config, &parameter)];
        *part = part.saturating_add(numbers);
    }
    parts.into_iter().max().unwrap_or(0)
}

/// `x` with the note on its tape that the parameters of a part are used from here on.
fn at<S: Shape, D: EdkmDevice, T: SaveForBackward<D>>(x: Tensor<S, f32, D, T>, part: usize) -> Tensor<S, f32, D, T> {
    let (x, mut tape) = x.split_tape();
    tape.begin_part(part);
    x.put_tape(tape)
}

impl<V: Dim, H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice> Llama<V, H, Q, K, F, D> {
    /// The tape on which the embedding is looked up.
    pub(super) fn at_embedding<T: SaveForBackward<D>>(&self, mut tape: T) -> T {
        tape.begin_part(EMBEDDING);
        tape
    }

    /// The input of a layer.
    pub(super) fn at_layer<S: Shape, T: SaveForBackward<D>>(
        &self,
        index: usize,
        x: Tensor<S, f32, D, T>,
    ) -> Tensor<S, f32, D, T> {
        at(x, of_layer(index))
    }

    /// The input of the last norm.
    pub(super) fn behind_layers<S: Shape, T: SaveForBackward<D>>(
        &self,
        x: Tensor<S, f32, D, T>,
    ) -> Tensor<S, f32, D, T> {
        at(x, behind_layers(self.layers.len()))
    }
}

impl<V: Dim, H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice> Parameters<D> for Llama<V, H, Q, K, F, D> {
    fn visit_parameters<P: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut P) -> Result<(), P::Error> {
        (0..self.parts()).try_for_each(|part| self.visit_part(part, prefix, visitor))
    }
}

impl<V: Dim, H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice> ParametersByPart<D> for Llama<V, H, Q, K, F, D> {
    fn parts(&self) -> usize {
        behind_layers(self.layers.len()) + 1
    }

    fn visit_part<P: ParameterVisitor<D>>(
        &mut self,
        part: usize,
        prefix: &str,
        visitor: &mut P,
    ) -> Result<(), P::Error> {
        let path = |kind: Kind| format!("{prefix}{}", kind.name(0));
        if part == EMBEDDING {
            let clustering = self.embed_clustering.as_ref();
            let kind = ParameterKind::Embedding { clustering };
            return visitor.visit(&path(Kind::EmbedTokens), kind, &mut self.embed_VH);
        }
        if let Some(layer) = self.layers.get_mut(part - of_layer(0)) {
            return layer.visit_parameters(&format!("{prefix}{}", layer_prefix(part - of_layer(0))), visitor);
        }
        if part > behind_layers(self.layers.len()) {
            return Ok(());
        }
        visitor.visit(&path(Kind::FinalNorm), ParameterKind::Vector, &mut self.norm.weight)?;
        if let Some(head) = &mut self.head {
            let clustering = head.clustering.as_ref();
            let kind = ParameterKind::Embedding { clustering };
            visitor.visit(&path(Kind::Head), kind, &mut head.weight)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dfdx::prelude::*;

    use super::*;
    use crate::config::tests::tiny;
    use crate::model::DynamicLlama;

    /// The names that are visited of each part, and the numbers of it.
    struct Names(Vec<String>, u64);

    impl ParameterVisitor<Cpu> for Names {
        type Error = std::convert::Infallible;

        fn visit<S: Shape>(
            &mut self,
            name: &str,
            _: ParameterKind<'_>,
            parameter: &mut Tensor<S, f32, Cpu>,
        ) -> Result<(), Self::Error> {
            self.0.push(name.to_owned());
            self.1 += parameter.shape().num_elements() as u64;
            Ok(())
        }
    }

    #[test]
    fn every_parameter_is_in_the_part_that_is_said() {
        for (tie_word_embeddings, query_key_norm) in [(false, false), (true, false), (true, true)] {
            let config = LlamaConfig {
                num_hidden_layers: 3,
                tie_word_embeddings,
                query_key_norm,
                ..tiny()
            };
            let mut zeros = |parameter: &Parameter| Ok(vec![0.0; parameter.shape.iter().product()]);
            let mut model = DynamicLlama::from_weights(&config, &Cpu::default(), &mut zeros).unwrap();
            let mut largest = 0;
            for part in 0..7 {
                let mut names = Names(Vec::new(), 0);
                model.visit_part(part, "", &mut names).unwrap();
                let said = parameters(&config).filter(|parameter| part_of(&config, parameter) == part);
                assert_eq!(names.0, said.map(|parameter| parameter.name).collect::<Vec<_>>());
                largest = largest.max(names.1);
            }
            assert_eq!(largest_part(&config), largest);
            let mut names = Names(Vec::new(), 0);
            model.visit_parameters("", &mut names).unwrap();
            assert_eq!(
                names.0,
                parameters(&config).map(|parameter| parameter.name).collect::<Vec<_>>()
            );
        }
    }
}
