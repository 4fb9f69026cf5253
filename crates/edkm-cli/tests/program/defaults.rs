//! What the defaults come to: a run of the program without a setting that matters.

use crate::common::{edkm, json};

/// Sixty steps with the defaults come to 1.6059, 1.6043 and 1.6047 (seeds 0, 1, 2). One of them gone astray is worse: without the teacher 1.678, at a temperature that does not
/// fall 1.638, at a thirtieth of the rate 1.805, with the gradient of hard assignments 1.988; k-means without training 2.197.
#[test]
fn a_short_run_comes_as_far_as_its_defaults_bring_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = edkm();
    command.args(["finetune", "--steps", "60", "--eval-tokens", "10000", "--json", "--out"]);
    let figures = json(&command.arg(dir.path().join("out")).output().unwrap());
    let [before, after] = ["perplexity_before", "perplexity_after"].map(|key| figures[key].as_f64().unwrap());
    assert!((1.51..1.52).contains(&before), "{before}");
    assert!(after < 1.62, "{after}");
    assert!(figures["bits_per_weight"].as_f64().unwrap() < 3.07, "{figures}");
}
