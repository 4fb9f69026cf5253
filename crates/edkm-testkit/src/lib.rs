//! Oracles and golden files for the project's own tests.
