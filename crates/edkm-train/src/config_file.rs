//! The small JSON files beside a model's weights.

use std::path::Path;

use serde_json::{Map, Value};

use crate::files::read_capped;
use crate::TrainError;

/// The largest that is read.
const CONFIG_LIMIT: u64 = 8 << 20;

/// One of a folder's configuration files, and where it lies for messages.
pub(crate) struct ConfigFile<'d> {
    dir: &'d Path,
    name: &'static str,
    pub(crate) values: Map<String, Value>,
}

impl<'d> ConfigFile<'d> {
    /// The file in a folder; one that is absent has no keys.
    pub(crate) fn read(dir: &'d Path, name: &'static str) -> Result<Self, TrainError> {
        let mut file = Self {
            dir,
            name,
            values: Map::new(),
        };
        match read_capped(&dir.join(name), CONFIG_LIMIT) {
            Ok(bytes) => {
                file.values =
                    serde_json::from_slice(&bytes).map_err(|why| file.error(format!("not a JSON object: {why}")))?;
            }
            Err(TrainError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(other) => return Err(other),
        }
        Ok(file)
    }

    /// A token's number, or several, under `key`; none if the file does not say.
    pub(crate) fn numbers(&self, key: &str) -> Result<Vec<u32>, TrainError> {
        let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
        let numbers = match self.values.get(key) {
            None | Some(Value::Null) => Some(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(number).collect(),
            Some(single) => number(single).map(|number| vec![number]),
        };
        numbers.ok_or_else(|| self.error(format!("{key} is not a token number")))
    }

    pub(crate) fn error(&self, reason: String) -> TrainError {
        TrainError::Tokenizer {
            path: self.dir.join(self.name),
            reason,
        }
    }
}
