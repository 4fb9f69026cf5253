use std::num::NonZeroUsize;

use edkm_palette::{PaletteSpec, PalettizedMatrix};
use rand_chacha::rand_core::RngCore;

use super::*;
use crate::metrics::StepMetrics;
use crate::random::generator;

fn step(step: u64) -> StepMetrics {
    let noise = generator(1, step).next_u32() as f64 / u32::MAX as f64;
    StepMetrics {
        step,
        loss: (step != 70).then(|| 1.1 + 2.0 * (-(step as f64) / 60.0).exp() + 0.25 * (noise - 0.5)),
        learning_rate: 1e-3,
        temperature: None,
        gradient_norm: Some(1.0),
        tokens: 2048,
        tokens_per_second: 1e4,
        saved_bytes: 1 << 20,
        rss_bytes: None,
        peak_rss_bytes: None,
        validation_perplexity: step
            .is_multiple_of(50)
            .then(|| 2.9 + 4.0 * (-(step as f64) / 80.0).exp()),
    }
}

/// Bell-shaped weights and the centroids of an even grid over them.
fn weights(name: &str, columns: usize, clusters: usize) -> WeightFigure {
    let mut random = generator(columns as u64, 0);
    let bell = |_| {
        (0..6)
            .map(|_| random.next_u32() as f32 / u32::MAX as f32 - 0.5)
            .sum::<f32>()
            * 0.05
    };
    let weights: Vec<f32> = (0..64 * columns).map(bell).collect();
    let nearest = |weight: &f32| ((weight / 0.3 * clusters as f32).floor() + 0.5) * 0.3 / clusters as f32;
    let clustered: Vec<f32> = weights.iter().map(nearest).collect();
    WeightFigure::clustered(name, &[64, columns], &weights, &clustered, 1)
}

/// A page with every part. `EDKM_REPORT=file cargo test -p edkm-train report` writes it where a browser can open it.
fn full() -> ReportData {
    let contender = |name: &str, role, bits_per_weight, size_bytes, perplexity| Contender {
        name: name.into(),
        role,
        bits_per_weight,
        size_bytes: Some(size_bytes),
        perplexity: Some(perplexity),
    };
    let layers = [
        ("self_attn.q_proj", 64),
        ("self_attn.k_proj", 32),
        ("mlp.gate_proj", 172),
        ("mlp.down_proj", 64),
    ];
    let mut figures: Vec<WeightFigure> = layers
        .iter()
        .map(|(name, columns)| weights(&format!("model.layers.0.{name}.weight"), *columns, 8))
        .collect();
    figures.push(weights("model.embed_tokens.weight", 300, 256));
    figures.push(WeightFigure::plain(
        "model.layers.0.input_layernorm.weight",
        &[64],
        &[1.0; 64],
    ));
    ReportData {
        title: "stories260k, 3 bits".into(),
        settings: vec![("steps".into(), "400".into()), ("learning rate".into(), "0.002".into())],
        notes: vec!["One step with a loss that was not finite was skipped (step 70).".into()],
        size: Some(BeforeAfter {
            before: 1_044_992,
            after: 186_300,
        }),
        perplexity: Some(BeforeAfter {
            before: 2.83564,
            after: 3.071,
        }),
        bits_per_weight: Some(3.02),
        steps: (0..400).map(step).collect(),
        comparison: vec![
            contender("original", ContenderRole::Original, Some(32.0), 1_044_992, 2.83564),
            contender(
                "rounding to nearest, 3 bits",
                ContenderRole::Baseline,
                Some(3.01),
                186_300,
                666.1,
            ),
            contender(
                "k-means, 3 bits, one palette a tensor",
                ContenderRole::Baseline,
                Some(3.02),
                186_300,
                9.587,
            ),
            contender("this run", ContenderRole::Result, Some(3.02), 186_300, 3.071),
        ],
        weights: figures,
        store: Some(StoreFigures {
            plain_dkm_bytes: Some(126_000_000),
            logical_bytes: 48_200_000,
            layers: [("marshal", 29_100_000), ("compress", 26_400_000)]
                .map(|(name, kept_bytes)| StoreLayerFigures {
                    name: name.into(),
                    logical_bytes: 48_200_000,
                    kept_bytes,
                    saves: 3_321,
                    hits: 2_210,
                    pack_seconds: 1.25,
                    unpack_seconds: 0.5,
                })
                .to_vec(),
        }),
        samples: vec![Sample {
            prompt: "Once upon a time, there was a <b>fox</b>".into(),
            texts: vec![
                (
                    "original".into(),
                    "who lived in the forest & had a \"red\" kite.\nOne day the kite was gone.".into(),
                ),
                ("3 bits".into(), "who lived in the forest and had a kite.".into()),
            ],
        }],
    }
}

/// Every element closed in order, attributes quoted: enough to catch a forgotten end tag.
fn check_well_formed(page: &str) {
    let mut open = Vec::new();
    let body = page.split_once("</style>").map_or(page, |(_, body)| body);
    for piece in body.split('<').skip(1) {
        let (tag, text) = piece
            .split_once('>')
            .unwrap_or_else(|| panic!("no end of tag: {piece}"));
        assert!(tag.matches('"').count().is_multiple_of(2), "{tag}");
        assert!(!text.contains('>'), "{piece}");
        let name = tag.split([' ', '\n']).next().unwrap();
        if let Some(closed) = name.strip_prefix('/') {
            if closed == "head" {
                continue;
            }
            if ["html"].contains(&closed) {
                continue;
            }
            assert_eq!(open.pop(), Some(closed), "in {piece}");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_full_page_is_whole_and_loads_nothing() {
    let page = render(&full());
    check_well_formed(&page);
    for forbidden in [
        "http:", "https:", "src=", "href=", "<script", "url(", "@import", "NaN", "inf",
    ] {
        assert!(!page.to_lowercase().contains(&forbidden.to_lowercase()), "{forbidden}");
    }
    for expected in [
        "Comparison",
        "Loss by step",
        "Validation perplexity",
        "Saved for the backward",
        "Samples",
        "Settings",
    ] {
        assert!(page.contains(expected), "{expected}");
    }
    assert!(page.contains("a &lt;b&gt;fox&lt;/b&gt;") && page.contains("forest &amp; had a &quot;red&quot;"));
    if let Some(path) = std::env::var_os("EDKM_REPORT") {
        write(Path::new(&path), &full()).unwrap();
    }
}

#[test]
fn parts_without_figures_are_left_out() {
    let page = render(&ReportData {
        title: "empty".into(),
        ..ReportData::default()
    });
    check_well_formed(&page);
    assert!(!page.contains("<section>") && !page.contains("<dl") && page.contains("<h1>empty</h1>"));
    let inspected = ReportData {
        weights: full().weights,
        ..ReportData::default()
    };
    let page = render(&inspected);
    check_well_formed(&page);
    assert!(page.contains("<h2>Weights</h2>") && !page.contains("Comparison"));
}

#[test]
fn hostile_figures_do_not_break_the_page() {
    let mut data = full();
    data.title = "</title><script>alert(1)</script>".into();
    data.perplexity = Some(BeforeAfter {
        before: f64::NAN,
        after: f64::INFINITY,
    });
    data.size = Some(BeforeAfter { before: 0, after: 0 });
    data.steps.iter_mut().for_each(|line| line.loss = Some(f64::NAN));
    data.comparison[0].perplexity = Some(f64::NAN);
    let values = [f32::NAN, f32::INFINITY, f32::MAX, f32::MIN, 0.0];
    data.weights = vec![
        WeightFigure::clustered("nan\"><script>", &[5], &values, &values, 1),
        WeightFigure::plain("empty", &[0], &[]),
        WeightFigure::plain("nothing finite", &[1], &[f32::NAN]),
    ];
    let page = render(&data);
    check_well_formed(&page);
    assert!(
        !page.contains("<script") && !page.contains("NaN") && !page.contains("inf"),
        "{page}"
    );
}

#[test]
fn a_long_run_of_a_large_model_stays_a_page() {
    let mut data = full();
    data.steps = (0..100_000).map(step).collect();
    data.weights = vec![data.weights[0].clone(); 224];
    // as rows have that are each divided by a factor of their own
    let distinct: Vec<f32> = (0..100_000).map(|i| i as f32).collect();
    data.weights.push(WeightFigure::clustered(
        "rows of their own",
        &[100_000],
        &distinct,
        &distinct,
        1,
    ));
    let page = render(&data);
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
}

#[test]
fn a_histogram_counts_every_finite_value() {
    let histogram = Histogram::of(&[-1.0, -0.99, 0.0, 0.99, 1.0, f32::NAN, f32::INFINITY], 4);
    assert_eq!(
        histogram,
        Histogram {
            low: -1.0,
            high: 1.0,
            counts: vec![2, 0, 1, 2]
        }
    );
    assert_eq!(Histogram::of(&[3.0; 7], 4).counts.iter().sum::<u64>(), 7);
    assert_eq!(Histogram::of(&[f32::MIN, f32::MAX], 2).counts, [1, 1]);
    assert_eq!(Histogram::of(&[], 4), Histogram::default());
}

#[test]
fn a_weight_figure_measures_what_it_shows() {
    let figure = WeightFigure::clustered("w", &[2, 2], &[0.0, 1.0, 2.0, 5.0], &[0.5, 0.5, 3.5, 3.5], 1);
    let centroids = [Centroid { value: 0.5, share: 0.5 }, Centroid { value: 3.5, share: 0.5 }];
    assert_eq!(figure.centroids, centroids);
    // ((0.5)^2 + (0.5)^2 + (1.5)^2 + (1.5)^2) / 4, exact in binary.
    assert_eq!(figure.mean_squared_error, Some(1.25));
    // Mean 2, squares 4 + 1 + 0 + 9.
    assert_eq!(figure.variance, 3.5);
    assert_eq!((figure.histogram.low, figure.histogram.high), (0.0, 5.0));
    assert_eq!(
        WeightFigure::from_centroids("w", &[2], &[0.5, 3.5], 1).mean_squared_error,
        None
    );
}

#[test]
fn the_figure_of_a_packed_matrix_is_that_of_its_numbers() {
    let weights: Vec<f32> = edkm_testkit::random(1, 12 * 8);
    for (group_rows, vector) in [(None, 1), (NonZeroUsize::new(5), 1), (NonZeroUsize::new(4), 2)] {
        let spec = PaletteSpec {
            group_rows,
            vector,
            ..PaletteSpec::new(2)
        };
        // two palettes have a number in common
        let mut palettes = edkm_testkit::random(2, spec.groups(12) * spec.palette_len());
        *palettes.last_mut().unwrap() = palettes[0];
        let indices: Vec<u8> = (0..12 * 8 / vector).map(|i| (i * i % 4) as u8).collect();
        for scales in [None, Some([0.5f32; 12])] {
            let scales = scales.as_ref().map(|scales| &scales[..]);
            let matrix = PalettizedMatrix::pack(12, 8, spec, &palettes, &indices, scales).unwrap();
            let numbers = matrix.dequantize();
            let want = WeightFigure::clustered("w", &[12, 8], &weights, &numbers, spec.groups(12));
            assert_eq!(WeightFigure::of_matrix("w", &matrix, Some(&weights)), want);
            let want = WeightFigure::from_centroids("w", &[12, 8], &numbers, spec.groups(12));
            assert_eq!(WeightFigure::of_matrix("w", &matrix, None), want);
        }
    }
}

#[test]
fn a_figure_of_many_centroids_stays_small() {
    for (count, ticks, most_bytes) in [
        (32, 0, 6 << 10),
        (33, 33, 3 << 10),
        (720, 720, 12 << 10),
        (721, 0, 3 << 10),
    ] {
        let clustered: Vec<f32> = (0..count).map(|value| value as f32 / 719.0).collect();
        let figure = WeightFigure::from_centroids("w", &[1, count], &clustered, 45);
        let mut page = String::new();
        super::weights::draw(&mut page, &figure).unwrap();
        let lines = page.matches("<line").count();
        assert_eq!(
            (lines, page.matches("v-14").count()),
            (if count == 32 { 32 } else { 0 }, ticks)
        );
        assert!(page.len() < most_bytes, "{count}: {} bytes", page.len());
        assert!(page.contains(&format!("{count} values, of 45 palettes")), "{page}");
    }
}
