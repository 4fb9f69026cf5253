//! One safetensors file: opened, its header checked, its tensors read by position.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use edkm_palette::SharedBytes;
use memmap2::Mmap;

use super::{
    header::{self, Header, HeaderProblem, TensorInfo, PREFIX},
    map::{self, Access},
};
use crate::{files, LlamaError};

#[derive(Debug)]
pub(super) struct TensorFile {
    path: PathBuf,
    file: File,
    length: u64,
    header: Header,
    access: Access,
    /// Made when the first tensor is asked for: a model that is converted is never mapped.
    map: OnceLock<Arc<Mmap>>,
}

impl TensorFile {
    /// Opens a file and checks its header. Allocates some multiple of the header, which is capped.
    pub(super) fn open(path: &Path, access: Access) -> Result<Self, LlamaError> {
        let (file, length) = files::open_regular(path)?;
        let fault = |problem| LlamaError::Header {
            path: path.to_owned(),
            problem,
        };
        let failed = |source| LlamaError::io("read", path, source);
        if length < PREFIX {
            return Err(fault(HeaderProblem::NoPrefix { length }));
        }
        let mut prefix = [0; PREFIX as usize];
        read_exact_at(&file, &mut prefix, 0).map_err(failed)?;
        let size = header::checked_header_length(prefix, length).map_err(fault)?;
        let mut bytes = vec![0; size as usize];
        read_exact_at(&file, &mut bytes, PREFIX).map_err(failed)?;
        let header = Header::parse(&bytes, length).map_err(fault)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            length,
            header,
            access,
            map: OnceLock::new(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The number of elements of a tensor that has the expected shape.
    pub(super) fn checked_len(&self, name: &str, info: &TensorInfo, expected: &[usize]) -> Result<usize, LlamaError> {
        if info.shape == expected {
            return Ok(info.len());
        }
        Err(LlamaError::Shape {
            path: self.path.clone(),
            name: name.to_owned(),
            expected: expected.to_vec(),
            got: info.shape.clone(),
        })
    }

    /// Fills `buffer` with the tensor's bytes from `offset` on. Works by position, so threads can share the file.
    pub(super) fn read(&self, name: &str, info: &TensorInfo, offset: u64, buffer: &mut [u8]) -> Result<(), LlamaError> {
        debug_assert!(offset + buffer.len() as u64 <= info.bytes());
        read_exact_at(&self.file, buffer, info.range.start + offset).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => {
                let length = self.file.metadata().map_or(0, |about| about.len());
                LlamaError::Shrunk {
                    path: self.path.clone(),
                    name: name.to_owned(),
                    needed: info.range.end,
                    length,
                }
            }
            _ => LlamaError::io("read", &self.path, source),
        })
    }

    /// The tensor's bytes, in place or copied, as the file was opened.
    pub(super) fn bytes(&self, name: &str, info: &TensorInfo) -> Result<SharedBytes, LlamaError> {
        let length = self
            .file
            .metadata()
            .map_err(|source| LlamaError::io("read", &self.path, source))?
            .len();
        let shrunk = || LlamaError::Shrunk {
            path: self.path.clone(),
            name: name.to_owned(),
            needed: info.range.end,
            length,
        };
        if length < info.range.end {
            return Err(shrunk());
        }
        match self.access {
            Access::Map => {
                let range = info.range.start as usize..info.range.end as usize;
                // Fails if the file was shorter when it was mapped.
                SharedBytes::new(self.map()?.clone(), range).map_err(|_| shrunk())
            }
            Access::Read => {
                let mut bytes = vec![0; info.bytes() as usize];
                self.read(name, info, 0, &mut bytes)?;
                let range = 0..bytes.len();
                SharedBytes::new(Arc::new(bytes), range).map_err(|_| shrunk())
            }
        }
    }

    fn map(&self) -> Result<&Arc<Mmap>, LlamaError> {
        if let Some(map) = self.map.get() {
            return Ok(map);
        }
        let map = map::map(&self.file).map_err(|source| LlamaError::io("map", &self.path, source))?;
        // Another thread may have been faster; then its map is used and this one goes.
        Ok(self.map.get_or_init(|| Arc::new(map)))
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buffer = &mut buffer[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
