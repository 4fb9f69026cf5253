//! A store described in words, as a command line gives it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Bytes, LearnerGroup, PlaneCodec, Store, StoreError};

/// The layers of a store by name, separated by commas, in the order in which they act:
///
/// | word | layer |
/// |---|---|
/// | `memory` | none: everything is kept as it is |
/// | `marshal` | a content is stored once |
/// | `uniquify` | distinct rows and an index |
/// | `shard` | among learners; needs [`StoreSpec::build_for`] |
/// | `compress` | byte planes, each kept with lz4 or a Huffman code where that helps |
/// | `compress=lz4` | byte planes with lz4 alone |
/// | `spill=DIR:BUDGET` | above BUDGET to a file in DIR |
/// | `overlap=BOUND` | packing and fetching on a thread of their own |
/// | `bf16` | `f32` kept as bf16, **lossy** |
///
/// `overlap` and `bf16` are about the whole store and may stand anywhere. Amounts are written as in `2GiB`. The default is
/// `marshal`.
///
/// ```
/// use edkm_store::StoreSpec;
///
/// let spec: StoreSpec = "marshal,compress,spill=/tmp:2GiB".parse()?;
/// let store = spec.build()?;
/// assert_eq!(spec.to_string(), "marshal,compress,spill=/tmp:2GiB");
/// assert_eq!(spec.spill_budget().map(|budget| budget.to_string()).as_deref(), Some("2GiB"));
///
/// let error = "marshal,zip".parse::<StoreSpec>().unwrap_err();
/// assert!(error.to_string().contains("`zip`"));
/// # Ok::<(), edkm_store::StoreError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSpec {
    layers: Vec<LayerSpec>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum LayerSpec {
    Memory,
    Marshal,
    Uniquify,
    Shard,
    Compress(PlaneCodec),
    Spill { dir: PathBuf, budget: Bytes },
    Overlap(Bytes),
    Bf16,
}

impl Default for StoreSpec {
    fn default() -> Self {
        Self {
            layers: vec![LayerSpec::Marshal],
        }
    }
}

impl StoreSpec {
    /// Builds the store.
    ///
    /// # Errors
    /// Those of [`crate::StoreBuilder::build`], and [`StoreError::Spec`] when there is a `shard` layer.
    pub fn build(&self) -> Result<Store, StoreError> {
        self.build_with(None)
    }

    /// Builds the store of one learner of a group.
    ///
    /// # Errors
    /// Those of [`crate::StoreBuilder::build`].
    pub fn build_for(&self, group: impl LearnerGroup) -> Result<Store, StoreError> {
        self.build_with(Some(Arc::new(group)))
    }

    /// The bytes above which the store spills to disk, if it does.
    pub fn spill_budget(&self) -> Option<Bytes> {
        self.layers.iter().find_map(|layer| match layer {
            LayerSpec::Spill { budget, .. } => Some(*budget),
            _ => None,
        })
    }

    /// Whether what comes back is not what was given, to the last bit: with `bf16`.
    pub fn is_lossy(&self) -> bool {
        self.layers.contains(&LayerSpec::Bf16)
    }

    /// Whether there is a `shard` layer, so that [`StoreSpec::build_for`] is needed.
    pub fn shards(&self) -> bool {
        self.layers.contains(&LayerSpec::Shard)
    }

    fn build_with(&self, group: Option<Arc<dyn LearnerGroup>>) -> Result<Store, StoreError> {
        let mut builder = Store::builder();
        for layer in &self.layers {
            builder = match layer {
                LayerSpec::Memory => builder,
                LayerSpec::Marshal => builder.marshal(),
                LayerSpec::Uniquify => builder.uniquify(),
                LayerSpec::Shard => {
                    let group = group.clone().ok_or_else(|| {
                        error(
                            "shard",
                            "splits what several learners hold alike, and there is one: leave it out, or, in a program with several, \
                             build each learner's store with StoreSpec::build_for",
                        )
                    })?;
                    builder.shard(group)
                }
                LayerSpec::Compress(codec) => builder.compress(*codec),
                LayerSpec::Spill { dir, budget } => builder.spill(dir, *budget),
                LayerSpec::Overlap(bound) => builder.overlap(*bound),
                LayerSpec::Bf16 => builder.bf16_activations(),
            };
        }
        builder.build()
    }
}

impl FromStr for StoreSpec {
    type Err = StoreError;

    /// Reads the words. Their order is looked at when the store is built.
    fn from_str(text: &str) -> Result<Self, StoreError> {
        let mut layers: Vec<LayerSpec> = Vec::new();
        for item in text.split(',').map(str::trim) {
            let layer = item.parse()?;
            let is_overlap = |layer: &LayerSpec| matches!(layer, LayerSpec::Overlap(_));
            if is_overlap(&layer) && layers.iter().any(is_overlap) {
                return Err(error(item, "there is another overlap before it; say one bound"));
            }
            if layer == LayerSpec::Bf16 && layers.contains(&layer) {
                return Err(error(item, "is there twice: once is enough"));
            }
            layers.push(layer);
        }
        Ok(Self { layers })
    }
}

impl FromStr for LayerSpec {
    type Err = StoreError;

    fn from_str(item: &str) -> Result<Self, StoreError> {
        let amount = |text: &str| text.parse::<Bytes>().map_err(|wrong| error(item, &wrong.to_string()));
        let (name, value) = item
            .split_once('=')
            .map_or((item, None), |(name, value)| (name.trim(), Some(value.trim())));
        match (name, value) {
            ("memory", None) => Ok(Self::Memory),
            ("marshal", None) => Ok(Self::Marshal),
            ("uniquify", None) => Ok(Self::Uniquify),
            ("shard", None) => Ok(Self::Shard),
            ("compress", None) => Ok(Self::Compress(PlaneCodec::Adaptive)),
            ("compress", Some("lz4")) => Ok(Self::Compress(PlaneCodec::Lz4)),
            ("compress", Some(_)) => Err(error(
                item,
                "write compress or compress=lz4; other codecs are given in code",
            )),
            ("bf16", None) => Ok(Self::Bf16),
            ("overlap", Some(bound)) => Ok(Self::Overlap(amount(bound)?)),
            ("overlap", None) => Err(error(item, "say how much may be in flight, as in overlap=256MiB")),
            ("spill", value) => match value.and_then(|value| value.rsplit_once(':')) {
                Some((dir, budget)) if !dir.is_empty() => Ok(Self::Spill {
                    dir: dir.into(),
                    budget: amount(budget)?,
                }),
                _ => Err(error(
                    item,
                    "say where, and how much stays in memory, as in spill=/tmp:2GiB",
                )),
            },
            ("memory" | "marshal" | "uniquify" | "shard" | "bf16", Some(_)) => {
                Err(error(item, "takes no value: write the name alone"))
            }
            _ => Err(error(
                item,
                "no such layer; there are memory, marshal, uniquify, shard, compress, spill=DIR:BUDGET, overlap=BOUND \
                 and bf16, separated by commas",
            )),
        }
    }
}

fn error(item: &str, reason: &str) -> StoreError {
    StoreError::Spec {
        item: item.to_owned(),
        reason: reason.to_owned(),
    }
}

impl fmt::Display for StoreSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, layer) in self.layers.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{layer}")?;
        }
        Ok(())
    }
}

impl fmt::Display for LayerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Marshal => f.write_str("marshal"),
            Self::Uniquify => f.write_str("uniquify"),
            Self::Shard => f.write_str("shard"),
            Self::Compress(PlaneCodec::Adaptive) => f.write_str("compress"),
            Self::Compress(PlaneCodec::Lz4) => f.write_str("compress=lz4"),
            Self::Spill { dir, budget } => write!(f, "spill={}:{budget}", dir.display()),
            Self::Overlap(bound) => write!(f, "overlap={bound}"),
            Self::Bf16 => f.write_str("bf16"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{in_process_learners, DEFAULT_PATIENCE};

    #[test]
    fn what_is_written_reads_back() {
        for text in [
            "memory",
            "memory,bf16",
            "marshal",
            "marshal,uniquify,shard,compress,spill=/a dir:with colon:2GiB,overlap=64MiB,bf16",
            "spill=.:0",
        ] {
            let spec: StoreSpec = text.parse().expect(text);
            assert_eq!(spec.to_string(), text);
        }
        assert_eq!(StoreSpec::default().to_string(), "marshal");
        assert_eq!(
            "marshal, compress=lz4".parse::<StoreSpec>().expect("reads").to_string(),
            "marshal,compress=lz4"
        );
        assert_eq!(
            "compress = lz4, overlap = 64MiB"
                .parse::<StoreSpec>()
                .expect("reads")
                .to_string(),
            "compress=lz4,overlap=64MiB"
        );
    }

    #[test]
    fn errors_name_the_word_and_what_to_write() {
        for (text, item, hint) in [
            ("marshal,zip", "zip", "compress"),
            ("", "", "no such layer"),
            ("marshal,,compress", "", "no such layer"),
            ("marshal=2", "marshal=2", "takes no value"),
            ("compress=zstd", "compress=zstd", "lz4"),
            ("spill", "spill", "spill=/tmp:2GiB"),
            ("spill=/tmp", "spill=/tmp", "spill=/tmp:2GiB"),
            ("spill=:2GiB", "spill=:2GiB", "spill=/tmp:2GiB"),
            ("spill=/tmp:much", "spill=/tmp:much", "`much`"),
            ("overlap", "overlap", "overlap=256MiB"),
            ("overlap=x", "overlap=x", "`x`"),
            ("overlap=1MiB,marshal,overlap=2MiB", "overlap=2MiB", "another overlap"),
            ("bf16,marshal,bf16", "bf16", "twice"),
        ] {
            let error = text.parse::<StoreSpec>().expect_err(text).to_string();
            assert!(
                error.contains(&format!("`{item}`")) && error.contains(hint),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn shards_need_learners() {
        let spec: StoreSpec = "marshal,shard".parse().expect("reads");
        assert!(spec.shards());
        assert!(matches!(spec.build(), Err(StoreError::Spec { .. })));
        for learner in in_process_learners(2, DEFAULT_PATIENCE) {
            assert!(spec.build_for(learner).is_ok());
        }
    }

    #[test]
    fn layers_out_of_order_are_refused_with_the_reason() {
        for (text, layer, after) in [
            ("compress,uniquify", "uniquify", "compress"),
            ("marshal,marshal", "marshal", "marshal"),
            ("uniquify,marshal", "marshal", "uniquify"),
            ("compress,shard", "shard", "compress"),
            ("spill=.:0,compress", "compress", "spill"),
            ("spill=.:0,spill=.:0", "spill", "spill"),
            ("shard,uniquify", "uniquify", "shard"),
        ] {
            let spec: StoreSpec = text.parse().expect(text);
            let learner = in_process_learners(1, DEFAULT_PATIENCE).remove(0);
            match spec.build_for(learner) {
                Err(StoreError::Order { layer: l, after: a, .. }) => assert_eq!((l, a), (layer, after), "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
