//! LLaMA with clustered weights.
