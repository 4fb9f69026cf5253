//! Bytes a second of each layer on one core, over the kinds of tensor that a training step saves:
//! `cargo bench -p edkm-store`.

use std::fmt;
use std::sync::Arc;

use divan::counter::BytesCount;
use divan::{black_box, Bencher};
use edkm_store::{Backend, Codec, DType, PlaneCodec, Record, SharedBytes, Store};

fn main() {
    divan::main();
}

/// Bytes of every input: 512 tokens of 2048 features in `f32`, beyond the second-level cache. Short enough that on a machine
/// that is busy otherwise the fastest sample ran undisturbed.
const LEN: usize = 4 << 20;
/// Columns of an attention map: 2^3 centroids.
const CLUSTERS: usize = 8;

#[derive(Debug, Clone, Copy)]
enum Input {
    Bf16Weights,
    IndexLists,
    F32Activations,
    AttentionMaps,
    Zeros,
    Random,
}
use Input::*;

const INPUTS: [Input; 6] = [Bf16Weights, IndexLists, F32Activations, AttentionMaps, Zeros, Random];

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Pseudo-random numbers (splitmix64), the same in each run.
fn noise() -> impl Iterator<Item = u64> {
    (1u64..).map(|i| {
        let mut x = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    })
}

/// Nearly normal numbers of unit variance: sums of four uniform ones.
fn normal() -> impl Iterator<Item = f32> {
    noise().map(|x| {
        let sum: i64 = (0..4).map(|i| ((x >> (16 * i)) & 0xffff) as i64 - 0x8000).sum();
        sum as f32 / 0x8000 as f32 * 0.866
    })
}

fn bf16_weights() -> impl Iterator<Item = u16> {
    normal().map(|x| ((x * 0.02).to_bits() >> 16) as u16)
}

/// The row of an attention map for a weight with these bits: soft assignment to evenly spaced centroids.
fn attention_row(bits: u16) -> [f32; CLUSTERS] {
    let weight = f32::from_bits(u32::from(bits) << 16);
    let mut row = std::array::from_fn(|k| {
        let centroid = (k as f32 - 3.5) * 0.01;
        (-(weight - centroid).powi(2) / 2e-5).exp()
    });
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|a| *a /= sum.max(f32::MIN_POSITIVE));
    row
}

fn keys() -> Vec<u16> {
    bf16_weights().take(LEN / 4 / CLUSTERS).collect()
}

impl Input {
    fn record(self) -> Record {
        let (bytes, dtype, width): (Arc<dyn SharedBytes>, _, _) = match self {
            Bf16Weights => (
                Arc::new(bf16_weights().take(LEN / 2).collect::<Vec<_>>()),
                DType::Bf16,
                1,
            ),
            IndexLists => {
                let list = bf16_weights().take(LEN / 2).map(|bits| (bits >> 4) & 0x3ff);
                (Arc::new(list.collect::<Vec<_>>()), DType::U16, 1)
            }
            F32Activations => (Arc::new(normal().take(LEN / 4).collect::<Vec<_>>()), DType::F32, 1024),
            AttentionMaps => {
                let rows: Vec<f32> = keys().into_iter().flat_map(attention_row).collect();
                (Arc::new(rows), DType::F32, CLUSTERS)
            }
            Zeros => (Arc::new(vec![0f32; LEN / 4]), DType::F32, 1024),
            Random => (Arc::new(noise().take(LEN / 8).collect::<Vec<_>>()), DType::F32, 1024),
        };
        Record::new(bytes, dtype, [LEN / dtype.size() / width, width], "bench")
    }
}

/// The floor: reading the bytes once and writing them once.
#[divan::bench(args = [F32Activations])]
fn memcpy(bencher: Bencher, input: Input) {
    let record = input.record();
    let mut out = vec![0u8; LEN];
    bencher
        .counter(BytesCount::new(LEN))
        .bench_local(|| out.copy_from_slice(black_box(record.bytes.as_bytes())));
}

/// Saving a content that is stored already, in a value that was not seen before.
#[divan::bench(args = INPUTS)]
fn marshal_hit(bencher: Bencher, input: Input) {
    let (store, record) = (Store::marshaling(), input.record());
    let _stored = store.save(record.clone()).expect("saved");
    let mut twin = record.clone();
    twin.bytes = Arc::new(record.bytes.as_bytes().to_vec());
    bencher
        .counter(BytesCount::new(LEN))
        .with_inputs(|| fresh(&twin))
        .bench_local_values(|twin| store.save(twin));
}

/// The same bytes behind another address.
fn fresh(record: &Record) -> Record {
    struct Again(Arc<dyn SharedBytes>);
    impl SharedBytes for Again {
        fn as_bytes(&self) -> &[u8] {
            self.0.as_bytes()
        }
    }
    let mut again = record.clone();
    again.bytes = Arc::new(Again(record.bytes.clone()));
    again
}

/// The codec of the compress layer. What it leaves is written beside the times.
#[divan::bench_group(sample_count = 200)]
mod compress {
    use super::*;

    const SHRINKING: [Input; 5] = [Bf16Weights, IndexLists, F32Activations, AttentionMaps, Zeros];

    #[divan::bench(args = INPUTS)]
    fn pack(bencher: Bencher, input: Input) {
        encode(bencher, input, PlaneCodec::Adaptive);
    }

    #[divan::bench(args = INPUTS)]
    fn pack_lz4_alone(bencher: Bencher, input: Input) {
        encode(bencher, input, PlaneCodec::Lz4);
    }

    #[divan::bench(args = SHRINKING)]
    fn unpack(bencher: Bencher, input: Input) {
        decode(bencher, input, PlaneCodec::Adaptive);
    }

    #[divan::bench(args = SHRINKING)]
    fn unpack_lz4_alone(bencher: Bencher, input: Input) {
        decode(bencher, input, PlaneCodec::Lz4);
    }

    fn encode(bencher: Bencher, input: Input, codec: PlaneCodec) {
        let record = input.record();
        let (bytes, size) = (record.bytes.as_bytes(), record.dtype.size());
        let kept = codec.encode(bytes, size).map_or(LEN, |encoded| encoded.len());
        eprintln!("{codec:?} keeps {:.1}% of {input}", kept as f64 / LEN as f64 * 100.0);
        bencher
            .counter(BytesCount::new(LEN))
            .bench_local(|| codec.encode(black_box(bytes), size));
    }

    fn decode(bencher: Bencher, input: Input, codec: PlaneCodec) {
        let record = input.record();
        let size = record.dtype.size();
        let encoded = codec.encode(record.bytes.as_bytes(), size).expect("these shrink");
        let mut out = vec![0; LEN];
        bencher
            .counter(BytesCount::new(LEN))
            .bench_local(|| codec.decode(black_box(&encoded), size, &mut out));
    }
}

/// A save and a load through a whole store, by the store's description.
#[divan::bench(args = ["memory", "marshal", "marshal,compress", "marshal,uniquify", "bf16"])]
fn save_and_load_activations(bencher: Bencher, layers: &str) {
    round_trip(bencher, layers, F32Activations.record());
}

#[divan::bench(args = ["uniquify", "marshal,uniquify,compress"])]
fn save_and_load_attention_by_content(bencher: Bencher, layers: &str) {
    round_trip(bencher, layers, AttentionMaps.record());
}

#[divan::bench(args = ["uniquify", "marshal,uniquify,compress"])]
fn save_and_load_attention_by_key(bencher: Bencher, layers: &str) {
    round_trip(bencher, layers, AttentionMaps.record().with_keys(Arc::new(keys())));
}

fn round_trip(bencher: Bencher, layers: &str, record: Record) {
    let store = layers
        .parse::<edkm_store::StoreSpec>()
        .and_then(|spec| spec.build())
        .expect("a legal store");
    bencher
        .counter(BytesCount::new(LEN))
        .with_inputs(|| fresh(&record))
        .bench_local_values(|record| {
            let ticket = store.save(record).expect("saved");
            ticket.load().expect("loaded")
        });
}

/// Everything goes to a file and comes back, beside [`plain_file`], which does the same with nothing between.
#[divan::bench]
fn spill(bencher: Bencher) {
    let store = Store::builder()
        .spill(std::env::temp_dir(), 0)
        .build()
        .expect("a file can be made");
    let record = Random.record();
    bencher.counter(BytesCount::new(LEN)).bench_local(|| {
        let ticket = store.save(record.clone()).expect("saved");
        ticket.load().expect("loaded")
    });
}

#[divan::bench]
fn plain_file(bencher: Bencher) {
    use std::io::{Read, Seek, Write};
    let mut file = tempfile::tempfile().expect("a file can be made");
    let record = Random.record();
    bencher.counter(BytesCount::new(LEN)).bench_local(|| {
        let mut back = vec![0; LEN];
        file.rewind()
            .and_then(|()| file.write_all(record.bytes.as_bytes()))
            .expect("written");
        file.rewind().and_then(|()| file.read_exact(&mut back)).expect("read");
        back
    });
}
