//! What a test says that cannot be made here.

use std::fmt::Display;
use std::io::Write;

/// Says in one line of standard error that a test was not made, or not whole, and why. The test harness keeps the output of tests that pass to itself, but not this
/// line: who reads that all have passed sees which were not made.
pub fn skipped(why: impl Display) {
    // nobody may be listening, which is no reason to fail
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}
