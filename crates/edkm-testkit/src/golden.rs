//! Folders of golden files, models and data that tests use where they exist.
//!
//! Each folder is named by an environment variable and has a default beside the workspace. They are not part of the project:
//! a test that needs one prints one line and passes when the folder is absent.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use crate::skipped;

/// A folder that tests read and the project does not contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folder {
    /// Golden vectors (`EDKM_GOLDEN`, default `../shared/golden` from the workspace root).
    Golden,
    /// Pretrained models (`EDKM_MODELS`, default `../shared/models`).
    Models,
    /// Text (`EDKM_DATA`, default `../shared/data`).
    Data,
}

impl Folder {
    /// The environment variable that names the folder.
    pub fn variable(self) -> &'static str {
        match self {
            Folder::Golden => "EDKM_GOLDEN",
            Folder::Models => "EDKM_MODELS",
            Folder::Data => "EDKM_DATA",
        }
    }

    /// Where the folder should be, whether it exists or not.
    pub fn path(self) -> PathBuf {
        let default = match self {
            Folder::Golden => "../shared/golden",
            Folder::Models => "../shared/models",
            Folder::Data => "../shared/data",
        };
        std::env::var_os(self.variable()).map_or_else(|| workspace_root().join(default), PathBuf::from)
    }

    /// The folder, or `None` after one printed line that says what was skipped and how to run it.
    pub fn locate(self) -> Option<PathBuf> {
        let path = self.path();
        if path.is_dir() {
            return Some(path);
        }
        skipped(format_args!(
            "no folder {} (name another with {})",
            path.display(),
            self.variable()
        ));
        None
    }

    /// A file or folder inside, or `None` after one printed line as [`locate`](Folder::locate) prints.
    pub fn locate_in(self, name: &str) -> Option<PathBuf> {
        let path = self.locate()?.join(name);
        if path.exists() {
            return Some(path);
        }
        skipped(format_args!(
            "no {} (name another folder with {})",
            path.display(),
            self.variable()
        ));
        None
    }
}

/// The folder of the workspace's root manifest.
pub fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.ancestors().skip(1).find(|dir| dir.join("Cargo.lock").is_file());
    root.unwrap_or(here).to_path_buf()
}

/// The golden files whose names begin with `prefix` and end with `.safetensors`, in order of name.
///
/// Empty, after one printed line, when there are none.
pub fn golden_files(prefix: &str) -> Vec<PathBuf> {
    let Some(folder) = Folder::Golden.locate() else {
        return Vec::new();
    };
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            name.starts_with(prefix) && name.ends_with(".safetensors")
        })
        .collect();
    files.sort();
    if files.is_empty() {
        skipped(format_args!("no {prefix}*.safetensors in {}", folder.display()));
    }
    files
}

/// One golden file in memory: string metadata and named tensors.
///
/// Its methods panic with the file and the name at fault: a golden file that cannot be read is a failed test.
pub struct Golden {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Golden {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let golden = Golden {
            path: path.to_path_buf(),
            bytes,
        };
        golden.tensors();
        golden
    }

    /// The file's name without its folder.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// A metadata entry, if it is there.
    pub fn metadata(&self, key: &str) -> Option<String> {
        let (_, header) = SafeTensors::read_metadata(&self.bytes).unwrap_or_else(|e| panic!("{}: {e}", self.name()));
        header.metadata().as_ref().and_then(|map| map.get(key).cloned())
    }

    /// A metadata entry as a number (or any other type that parses).
    pub fn metadata_as<T: std::str::FromStr>(&self, key: &str) -> T {
        let text = self
            .metadata(key)
            .unwrap_or_else(|| panic!("{}: no metadata `{key}`", self.name()));
        text.parse()
            .unwrap_or_else(|_| panic!("{}: metadata `{key}` is `{text}`", self.name()))
    }

    /// The names of all tensors, in order.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.tensors().names().iter().map(|name| name.to_string()).collect();
        names.sort();
        names
    }

    /// A tensor's shape.
    pub fn shape(&self, tensor: &str) -> Vec<usize> {
        self.view(tensor, None).0
    }

    /// A tensor of f32.
    pub fn f32s(&self, tensor: &str) -> Vec<f32> {
        numbers(&self.view(tensor, Some(Dtype::F32)).1, f32::from_le_bytes)
    }

    /// A tensor of f64.
    pub fn f64s(&self, tensor: &str) -> Vec<f64> {
        numbers(&self.view(tensor, Some(Dtype::F64)).1, f64::from_le_bytes)
    }

    /// A tensor of i64.
    pub fn i64s(&self, tensor: &str) -> Vec<i64> {
        numbers(&self.view(tensor, Some(Dtype::I64)).1, i64::from_le_bytes)
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap_or_else(|e| panic!("{}: {e}", self.name()))
    }

    fn view(&self, tensor: &str, dtype: Option<Dtype>) -> (Vec<usize>, Vec<u8>) {
        let tensors = self.tensors();
        let view = tensors
            .tensor(tensor)
            .unwrap_or_else(|e| panic!("{}: tensor `{tensor}`: {e}", self.name()));
        if let Some(dtype) = dtype {
            assert_eq!(view.dtype(), dtype, "{}: tensor `{tensor}`", self.name());
        }
        (view.shape().to_vec(), view.data().to_vec())
    }
}

fn numbers<T, const BYTES: usize>(bytes: &[u8], from: impl Fn([u8; BYTES]) -> T) -> Vec<T> {
    bytes
        .chunks_exact(BYTES)
        .map(|b| from(b.try_into().expect("chunks have this length")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_the_workspace_manifest() {
        let manifest = fs::read_to_string(workspace_root().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[workspace]"));
    }

    #[test]
    fn tensors_and_metadata_come_back() {
        use safetensors::tensor::{serialize, TensorView};
        let bytes: Vec<u8> = [1.5f64, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F64, vec![2, 1], &bytes).unwrap();
        let info = [("tau".to_string(), "0.25".to_string())].into_iter().collect();
        let file = serialize([("x", view)], Some(info)).unwrap();
        let path = std::env::temp_dir().join(format!("edkm-testkit-{}.safetensors", std::process::id()));
        fs::write(&path, file).unwrap();
        let golden = Golden::read(&path);
        fs::remove_file(&path).unwrap();
        assert_eq!(golden.f64s("x"), [1.5, -2.0]);
        assert_eq!(golden.shape("x"), [2, 1]);
        assert_eq!(golden.metadata_as::<f64>("tau"), 0.25);
        assert_eq!(golden.names(), ["x"]);
        assert_eq!(golden.metadata("none"), None);
    }
}
