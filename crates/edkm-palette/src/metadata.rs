//! The metadata of a safetensors file that holds palettized tensors.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::{PaletteError, PaletteSpec, PalettizedMatrix};

/// Version of the format that this crate writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// The key of the safetensors metadata. One key only: safetensors writes its keys in no fixed order, and a file should be the
/// same bytes each time.
pub const METADATA_KEY: &str = "edkm";

/// Whether a tensor has a factor for each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScaleKind {
    /// No factors.
    None,
    /// A bf16 or f32 for each row (output channel), in the entry `<name>.scale`.
    Row,
}

/// What the metadata says of one palettized tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorInfo {
    /// Rows and columns.
    pub shape: [usize; 2],
    /// How it is palettized.
    pub spec: PaletteSpec,
    /// Whether it has row scales.
    pub scale: ScaleKind,
}

/// The palettized tensors of a file.
///
/// In the file this is one string of JSON under the key [`METADATA_KEY`]:
/// `{"version":1,"tensors":{"<name>":{"shape":[r,c],"spec":{"bits":3,"group_rows":null,"vector":1,"palette_dtype":"f32"},"scale":"none"}}}`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FormatMetadata {
    tensors: BTreeMap<String, TensorInfo>,
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    tensors: &'a BTreeMap<String, TensorInfo>,
}

impl FormatMetadata {
    /// Of a file without palettized tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lists `matrix` under `name`; an earlier tensor of that name is replaced.
    pub fn insert(&mut self, name: &str, matrix: &PalettizedMatrix) {
        let scale = if matrix.row_scales().is_some() {
            ScaleKind::Row
        } else {
            ScaleKind::None
        };
        let info = TensorInfo {
            shape: [matrix.rows(), matrix.cols()],
            spec: *matrix.spec(),
            scale,
        };
        self.tensors.insert(name.to_owned(), info);
    }

    /// Names of the palettized tensors, sorted, with what is said of each.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// What is said of one tensor.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The metadata for `safetensors::serialize`. The same tensors give the same bytes.
    ///
    /// # Errors
    /// [`PaletteError::Metadata`] when the JSON cannot be made.
    pub fn to_map(&self) -> Result<HashMap<String, String>, PaletteError> {
        let written = Written {
            version: FORMAT_VERSION,
            tensors: &self.tensors,
        };
        let json = serde_json::to_string(&written).map_err(malformed)?;
        Ok(HashMap::from([(METADATA_KEY.to_owned(), json)]))
    }

    /// Reads the metadata of a safetensors file.
    ///
    /// # Errors
    /// [`PaletteError::NotPalettized`], [`PaletteError::Version`], [`PaletteError::Metadata`].
    pub fn from_map(map: &HashMap<String, String>) -> Result<Self, PaletteError> {
        let json = map
            .get(METADATA_KEY)
            .ok_or(PaletteError::NotPalettized { key: METADATA_KEY })?;
        // The version first: the rest of another version need not parse.
        let value: serde_json::Value = serde_json::from_str(json).map_err(malformed)?;
        match value.get("version") {
            Some(version) if version.as_u64() == Some(u64::from(FORMAT_VERSION)) => {}
            Some(version) => {
                return Err(PaletteError::Version {
                    version: version.to_string(),
                    supported: FORMAT_VERSION,
                })
            }
            None => {
                return Err(PaletteError::Metadata {
                    key: METADATA_KEY,
                    reason: "it has no `version`".to_owned(),
                })
            }
        }
        let tensors = value.get("tensors").ok_or_else(|| PaletteError::Metadata {
            key: METADATA_KEY,
            reason: "it has no `tensors`".to_owned(),
        })?;
        let tensors = BTreeMap::<String, TensorInfo>::deserialize(tensors).map_err(malformed)?;
        Ok(FormatMetadata { tensors })
    }
}

fn malformed(error: serde_json::Error) -> PaletteError {
    PaletteError::Metadata {
        key: METADATA_KEY,
        reason: error.to_string(),
    }
}
