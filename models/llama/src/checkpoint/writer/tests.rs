use std::{borrow::Cow, fs, io};

use half::{bf16, f16};
use proptest::prelude::*;
use safetensors::{tensor::TensorView, SafeTensors};

use super::*;
use crate::checkpoint::{Access, Checkpoint, FloatDtype};

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A mixture of types whose order in the file is not that of their names.
fn mixed() -> Vec<(&'static str, Dtype, Vec<usize>, Vec<u8>)> {
    vec![
        ("z", Dtype::F32, vec![2], bytes_of(&[1.0, -2.0])),
        ("a", Dtype::U8, vec![3], vec![1, 2, 3]),
        ("m", Dtype::BF16, vec![1, 3], vec![0; 6]),
        ("b", Dtype::F16, vec![1], vec![0; 2]),
        ("i", Dtype::I64, vec![], vec![9; 8]),
        ("u", Dtype::U32, vec![2, 0], vec![]),
        ("é \"quoted\"\n", Dtype::U32, vec![1], vec![7; 4]),
    ]
}

fn entries<'a>(tensors: &'a [(&'static str, Dtype, Vec<usize>, Vec<u8>)]) -> Vec<TensorEntry<'a>> {
    tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| TensorEntry::bytes(*name, *dtype, &**shape, bytes))
        .collect()
}

#[test]
fn bytes_are_those_of_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let tensors = mixed();
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    // One entry: the reference writes several in no fixed order.
    let reference = safetensors::serialize(views, Some([("format".to_owned(), "pt".to_owned())].into())).unwrap();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let length = write_safetensors(&path, entries(&tensors), &metadata).unwrap();
    let written = fs::read(&path).unwrap();
    assert_eq!(written, reference);
    assert_eq!(length, written.len() as u64);
}

#[test]
fn order_of_entries_and_of_metadata_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let write = |reverse: bool| {
        let tensors = mixed();
        let mut entries = entries(&tensors);
        if reverse {
            entries.reverse();
        }
        let metadata = ["c", "a", "b"].map(|key| (key.to_owned(), key.repeat(2))).into();
        let path = dir.path().join("x");
        write_safetensors(&path, entries, &metadata).unwrap();
        fs::read(path).unwrap()
    };
    assert_eq!(write(false), write(true));
}

#[test]
fn every_tensor_is_aligned_to_its_type() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    write_safetensors(&path, entries(&mixed()), &BTreeMap::new()).unwrap();
    let content = fs::read(&path).unwrap();
    let read = SafeTensors::deserialize(&content).unwrap();
    for (name, view) in read.iter() {
        let offset = view.data().as_ptr() as usize - content.as_ptr() as usize;
        assert_eq!(offset % (view.dtype().bitsize() / 8), 0, "{name}");
    }
}

#[test]
fn weights_are_rounded_to_nearest_even() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    // Ties of both types, subnormals, the largest f16, and enough to need several chunks.
    let mut values = vec![
        1.0 + 1.0 / 2048.0,
        1.0 + 3.0 / 2048.0,
        1.0 + 1.0 / 256.0,
        65_504.0,
        65_519.0,
        6e-8,
        -0.0,
        1e-40,
    ];
    values.extend((0..300_000).map(|i| (i as f32 * 0.377).sin()));
    let shape = [values.len()];
    for (dtype, round) in [
        (FloatDtype::F32, (|v| v) as fn(f32) -> f32),
        (FloatDtype::F16, |v| f16::from_f32(v).to_f32()),
        (FloatDtype::Bf16, |v| bf16::from_f32(v).to_f32()),
    ] {
        write_safetensors(
            &path,
            vec![TensorEntry::values("w", shape, &values, dtype)],
            &BTreeMap::new(),
        )
        .unwrap();
        let read = Checkpoint::open_file(&path, Access::Read)
            .unwrap()
            .read_f32("w", &shape)
            .unwrap();
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(read), bits(values.iter().map(|&v| round(v)).collect()), "{dtype}");
    }
}

#[test]
fn what_cannot_be_stored_is_named_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let mut values = vec![0.0; 600_000];
    for (value, dtype) in [
        (f32::NAN, FloatDtype::F32),
        (f32::INFINITY, FloatDtype::Bf16),
        (f32::MAX, FloatDtype::Bf16),
        (65_520.0, FloatDtype::F16),
    ] {
        (values[500_000], values[599_999]) = (value, value);
        let entry = TensorEntry::values("w", [600_000], &values, dtype);
        let error = write_safetensors(&path, vec![entry], &BTreeMap::new()).unwrap_err();
        assert!(
            matches!(error, LlamaError::Unstorable { index: 500_000, .. }),
            "{error}"
        );
        assert!(error.to_string().contains(&format!("stored as {dtype}")), "{error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn contents_must_fit_their_shape() {
    let dir = tempfile::tempdir().unwrap();
    let write = |entries| write_safetensors(&dir.path().join("x"), entries, &BTreeMap::new()).unwrap_err();
    let entry = |shape: &[usize]| TensorEntry::bytes("a", Dtype::F32, shape, &[0u8; 8][..]);
    assert!(matches!(
        write(vec![entry(&[3])]),
        LlamaError::WrongLength {
            expected: 12,
            got: 8,
            ..
        }
    ));
    assert!(write(vec![entry(&[2]), entry(&[2])])
        .to_string()
        .contains("\"a\" occurs twice"));
    assert!(write(vec![entry(&[usize::MAX, 3])]).to_string().contains("overflows"));
    assert!(write(vec![entry(&[1; 9])]).to_string().contains("at most 8 axes"));
    let reserved = TensorEntry::bytes("__metadata__", Dtype::U8, [1], &[0u8][..]);
    assert!(matches!(write(vec![reserved]), LlamaError::Header { .. }));
    let later = TensorEntry::later("a", Dtype::U8, [1], || Ok(Cow::Owned(vec![0; 2])));
    assert!(matches!(
        write(vec![later]),
        LlamaError::WrongLength {
            expected: 1,
            got: 2,
            ..
        }
    ));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn contents_are_made_one_after_the_other() {
    use std::cell::Cell;
    let dir = tempfile::tempdir().unwrap();
    let alive = Cell::new(0);
    let make = |name: &str| {
        let alive = &alive;
        TensorEntry::later(name, Dtype::U8, [1], move || {
            alive.set(alive.get() + 1);
            Ok(Cow::Owned(vec![alive.get()]))
        })
    };
    let path = dir.path().join("x");
    write_safetensors(&path, ["c", "a", "b"].map(make).into(), &BTreeMap::new()).unwrap();
    let read = Checkpoint::open_file(&path, Access::Read).unwrap();
    let order = ["a", "b", "c"].map(|name| read.raw(name).unwrap().bytes.as_slice()[0]);
    assert_eq!(order, [1, 2, 3], "in the order of the file");
}

/// A device that is full after some bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.min(bytes.len()) {
            0 if !bytes.is_empty() => Err(io::ErrorKind::StorageFull.into()),
            n => {
                self.0 -= n;
                Ok(n)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_an_error_wherever_it_comes() {
    let tensors = mixed();
    let plan = || Plan::new(entries(&tensors), &BTreeMap::new()).unwrap();
    let length = plan().length as usize;
    for room in 0..length {
        let error = plan().write(&mut Full(room), Path::new("x")).unwrap_err();
        assert!(matches!(error, LlamaError::Io { .. }), "{error}");
    }
    plan().write(&mut Full(length), Path::new("x")).unwrap();
}

#[test]
fn shards_are_named_listed_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let content = [0u8; 40];
    let entry = |i: usize, size: usize| TensorEntry::bytes(format!("t{i}"), Dtype::U8, [size], &content[..size]);
    let entries = [10, 10, 10, 40, 5, 0]
        .into_iter()
        .enumerate()
        .map(|(i, size)| entry(i, size))
        .collect();
    let sharding = Sharding::Shards { max_bytes: 20 };
    let written = write_model(dir.path(), entries, &BTreeMap::new(), sharding).unwrap();
    let names: Vec<_> = written
        .files
        .iter()
        .map(|f| f.file_name().unwrap().to_str().unwrap())
        .collect();
    let shard = |i| format!("model-{i:05}-of-00004.safetensors");
    assert_eq!(names, [&*shard(1), &*shard(2), &*shard(3), &*shard(4), INDEX_FILE]);
    let sizes = written.files.iter().map(|f| fs::metadata(f).unwrap().len());
    assert_eq!(written.bytes, sizes.sum::<u64>());
    let index: serde_json::Value = serde_json::from_slice(&fs::read(dir.path().join(INDEX_FILE)).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], 75);
    for (tensor, i) in [("t0", 1), ("t1", 1), ("t2", 2), ("t3", 3), ("t4", 4), ("t5", 4)] {
        assert_eq!(index["weight_map"][tensor], shard(i), "{tensor}");
    }
    // The folder now holds a model; another one beside it would be ambiguous.
    let again = write_model(dir.path(), vec![entry(0, 1)], &BTreeMap::new(), Sharding::Single);
    assert!(matches!(again, Err(LlamaError::OutputExists { .. })));
}

#[test]
fn one_name_in_two_shards_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let entry = || TensorEntry::bytes("a", Dtype::U8, [1], &[0u8][..]);
    let sharding = Sharding::Shards { max_bytes: 1 };
    let error = write_model(dir.path(), vec![entry(), entry()], &BTreeMap::new(), sharding).unwrap_err();
    assert!(matches!(error, LlamaError::DuplicateTensor { name } if name == "a"));
    assert!(Checkpoint::open(dir.path()).is_err(), "no index, so no model");
}

proptest! {
    /// Any tensors come back as they were, by our reader and by the reference.
    #[test]
    fn what_is_written_is_read(
        tensors in prop::collection::btree_map("\\PC{1,12}", (0..4usize, prop::collection::vec(0..4usize, 0..4)), 0..8)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let tensors: Vec<_> = tensors.into_iter().map(|(name, (kind, shape))| {
            let dtype = [Dtype::F32, Dtype::BF16, Dtype::U8, Dtype::U32][kind];
            let size = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            let bytes: Vec<u8> = (0..size).map(|i| (i * 7 + name.len()) as u8).collect();
            (name, dtype, shape, bytes)
        }).collect();
        let entries = tensors.iter().map(|(name, dtype, shape, bytes)| TensorEntry::bytes(name, *dtype, &**shape, bytes));
        write_safetensors(&path, entries.collect(), &BTreeMap::new()).unwrap();
        let ours = Checkpoint::open_file(&path, Access::Map).unwrap();
        let content = fs::read(&path).unwrap();
        let reference = SafeTensors::deserialize(&content).unwrap();
        prop_assert_eq!(ours.names().count(), tensors.len());
        for (name, dtype, shape, bytes) in &tensors {
            let raw = ours.raw(name).unwrap();
            prop_assert_eq!((&raw.dtype, &raw.shape, raw.bytes.as_slice()), (dtype, shape, &bytes[..]));
            let view = reference.tensor(name).unwrap();
            prop_assert_eq!((view.dtype(), view.shape(), view.data()), (*dtype, &shape[..], &bytes[..]));
        }
    }
}
