//! A store for tensors saved for backward.
