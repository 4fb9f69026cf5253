use proptest::prelude::*;
use safetensors::SafeTensors;

use super::*;

/// A file with this header and this many bytes behind it.
fn parse(header: &str, data: u64) -> Result<Header, HeaderProblem> {
    Header::parse(header.as_bytes(), PREFIX + header.len() as u64 + data)
}

fn tensor(dtype: &str, shape: &str, start: u64, end: u64) -> String {
    format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
}

#[test]
fn a_valid_header_is_understood() {
    let (a, b) = (tensor("BF16", "[2,3]", 4, 16), tensor("U8", "[4]", 0, 4));
    let text = format!(
        r#"{{"__metadata__":{{"format":"pt"}},"a":{a},"b":{b},"none":{}}}  "#,
        tensor("F32", "[0]", 16, 16)
    );
    let header = parse(&text, 16).unwrap();
    let base = PREFIX + text.len() as u64;
    assert_eq!(header.metadata["format"], "pt");
    assert_eq!(
        header.tensors["a"],
        TensorInfo {
            dtype: Dtype::BF16,
            shape: vec![2, 3],
            range: base + 4..base + 16
        }
    );
    assert_eq!((header.tensors["a"].len(), header.tensors["a"].bytes()), (6, 12));
    assert!(header.tensors["none"].is_empty());
}

#[test]
fn lengths_are_checked_before_anything_is_allocated() {
    let check = |n: u64, length| checked_header_length(n.to_le_bytes(), length);
    assert_eq!(check(100, 108), Ok(100));
    assert!(matches!(
        check(101, 108),
        Err(HeaderProblem::Truncated {
            header: 101,
            length: 108
        })
    ));
    assert!(matches!(
        check(HEADER_LIMIT + 1, u64::MAX),
        Err(HeaderProblem::TooLarge { .. })
    ));
    assert!(matches!(check(u64::MAX, 108), Err(HeaderProblem::TooLarge { .. })));
}

#[test]
fn each_fault_of_a_tensor_is_told_with_its_name() {
    let one = |tensor: String, data| parse(&format!(r#"{{"a":{tensor}}}"#), data).unwrap_err();
    assert_eq!(
        one(tensor("F32", "[2]", 0, 4), 4),
        HeaderProblem::Size {
            name: "a".into(),
            expected: 8,
            got: 4
        }
    );
    assert_eq!(
        one(tensor("F32", "[1]", 4, 8), 8),
        HeaderProblem::Offsets {
            name: "a".into(),
            start: 4,
            end: 8,
            expected: 0
        }
    );
    assert!(matches!(one(tensor("F32", "[1]", 0, 4), 3), HeaderProblem::TensorTruncated { name, .. } if name == "a"));
    assert_eq!(one(tensor("F32", "[1]", 0, 4), 5), HeaderProblem::Trailing { extra: 1 });
    assert_eq!(
        one(tensor("F4", "[3]", 0, 1), 1),
        HeaderProblem::PartialByte { name: "a".into() }
    );
    let huge = format!("[{0},{0}]", u64::MAX / 2);
    assert!(matches!(one(tensor("U8", &huge, 0, 4), 4), HeaderProblem::Overflow { name, .. } if name == "a"));
    // The product is zero, but a reader that multiplies from the left overflows.
    let huge = format!("[{0},{0},0]", u64::MAX / 2);
    assert!(matches!(
        one(tensor("U8", &huge, 0, 0), 0),
        HeaderProblem::Overflow { .. }
    ));
    // The elements fit, their bits do not.
    let huge = format!("[{}]", u64::MAX / 4);
    assert!(matches!(
        one(tensor("F32", &huge, 0, 4), 4),
        HeaderProblem::Overflow { .. }
    ));
    let end = u64::MAX;
    assert!(matches!(one(tensor("U8", "[1]", 0, end), 1), HeaderProblem::Size { got, .. } if got == end));
}

#[test]
fn overlaps_gaps_and_reversals_are_refused() {
    for (first, second) in [((0, 4), (0, 4)), ((0, 4), (2, 6)), ((0, 4), (8, 12)), ((0, 4), (4, 0))] {
        let of = |(start, end)| tensor("F32", "[1]", start, end);
        let problem = parse(&format!(r#"{{"a":{},"b":{}}}"#, of(first), of(second)), 12).unwrap_err();
        assert!(matches!(problem, HeaderProblem::Offsets { .. }), "{problem}");
    }
}

#[test]
fn what_is_not_a_header_is_told_by_line_and_column() {
    let good = tensor("U8", "[1]", 0, 1);
    for (text, part) in [
        ("[]".into(), "an object of tensors"),
        ("{".into(), "EOF"),
        ("\u{1}".into(), "column 1"),
        (format!(r#"{{"a":{good},"a":{good}}}"#), "\"a\" occurs twice"),
        (r#"{"__metadata__":{"k":"1","k":"2"}}"#.into(), "\"k\" occurs twice"),
        (r#"{"__metadata__":{},"__metadata__":{}}"#.into(), "occurs twice"),
        (r#"{"__metadata__":{"k":1}}"#.into(), "expected a string"),
        (
            r#"{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#.into(),
            "\"dtype\" occurs twice",
        ),
        (
            r#"{"a":{"dtype":"U8","data_offsets":[0,1]}}"#.into(),
            "missing field `shape`",
        ),
        (
            format!(r#"{{"a":{}}}"#, tensor("U9", "[1]", 0, 1)),
            "\"U9\" is not known",
        ),
        (
            r#"{"a":{"dtype":{"U8":null},"shape":[1],"data_offsets":[0,1]}}"#.into(),
            "\"a\": invalid type",
        ),
        (
            format!(r#"{{"a":{}}}"#, tensor("U8", "[-1]", 0, 1)),
            "\"a\": invalid value: integer `-1`",
        ),
        (
            format!(r#"{{"a":{}}}"#, tensor("U8", "[1.0]", 0, 1)),
            "\"a\": invalid type: floating point",
        ),
        (
            format!(r#"{{"a":{}}}"#, tensor("U8", "[1,1,1,1,1,1,1,1,1]", 0, 1)),
            "at most 8 axes",
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}}"#.into(),
            "\"a\": invalid length 1",
        ),
        (format!(r#"{{"a":{}}}"#, "[".repeat(100_000)), "\"a\""),
        (
            format!(r#"{{"a":{{"x":{}}}}}"#, "[".repeat(100_000)),
            "\"a\": expected value",
        ),
    ] {
        let message = parse(&text, 1).unwrap_err().to_string();
        let shown = &text[..text.len().min(80)];
        assert!(message.contains(part), "{shown}: {message}");
        assert_eq!(message.matches("column").count(), 1, "{message}");
    }
    assert!(matches!(
        Header::parse(b"{\"\xff\":1}", 100),
        Err(HeaderProblem::Json { .. })
    ));
}

#[test]
fn the_number_of_tensors_is_bounded() {
    let text: Vec<String> = (0..100_001)
        .map(|i| format!(r#""{i}":{}"#, tensor("U8", "[0]", 0, 0)))
        .collect();
    let message = parse(&format!("{{{}}}", text.join(",")), 0).unwrap_err().to_string();
    assert!(message.contains("more than 100000 tensors"), "{message}");
}

/// A tensor as some program might describe it: mostly right, so that the checks behind the first are reached too.
fn described() -> impl Strategy<Value = (usize, &'static str, Vec<u64>, i64)> {
    let dtype = prop::sample::select(vec![
        "F32", "F16", "BF16", "U8", "I64", "F4", "F6_E2M3", "BOOL", "C64", "F33",
    ]);
    let axis = prop_oneof![8 => 0..5u64, 1 => Just(1 << 33), 1 => Just(u64::MAX)];
    let slip = prop_oneof![30 => Just(0i64), 1 => -3..4i64];
    (0..6usize, dtype, prop::collection::vec(axis, 0..4), slip)
}

proptest! {
    /// The reference implementation accepts everything that we accept, with the same tensors at the same places.
    /// It accepts more: keys that occur twice.
    #[test]
    fn agrees_with_the_reference(described in prop::collection::vec(described(), 0..5), tail in prop_oneof![9 => Just(0u64), 1 => 0..3u64]) {
        let mut entries = Vec::new();
        let (mut end, mut twice) = (0u64, false);
        let mut names = std::collections::BTreeSet::new();
        for (name, dtype, shape, slip) in described {
            let bits = match dtype { "F32" => 32, "F16" | "BF16" => 16, "I64" | "C64" => 64, "F4" => 4, "F6_E2M3" => 6, _ => 8 };
            let size = shape.iter().fold(bits, |n: u64, &axis| n.saturating_mul(axis)) / 8;
            let size = size.min(1000).saturating_add_signed(slip);
            let shape = format!("{shape:?}");
            entries.push(format!(r#""t{name}":{}"#, tensor(dtype, &shape, end, end + size)));
            end += size;
            twice |= !names.insert(name);
        }
        let header = format!("{{{}}}", entries.join(","));
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + (end + tail) as usize, 0);

        let ours = Header::parse(header.as_bytes(), file.len() as u64);
        match (ours, SafeTensors::read_metadata(&file)) {
            (Ok(ours), Ok((n, theirs))) => {
                prop_assert_eq!(ours.tensors.len(), theirs.tensors().len());
                for (name, info) in &ours.tensors {
                    let reference = theirs.info(name).unwrap();
                    prop_assert_eq!((&info.dtype, &info.shape), (&reference.dtype, &reference.shape));
                    let base = PREFIX + n as u64;
                    let (start, end) = (reference.data_offsets.0 as u64, reference.data_offsets.1 as u64);
                    prop_assert_eq!(info.range.clone(), base + start..base + end);
                }
            }
            (Err(_), Err(_)) => {}
            (Err(problem), Ok(_)) => prop_assert!(twice && matches!(problem, HeaderProblem::Json { .. }), "{}", problem),
            (Ok(_), Err(e)) => prop_assert!(false, "accepted what the reference refuses: {}\n{}", e, header),
        }
    }

    /// Whatever the bytes, there is an answer.
    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), length in any::<u64>()) {
        let _ = Header::parse(&bytes, length.max(PREFIX + bytes.len() as u64));
    }
}
