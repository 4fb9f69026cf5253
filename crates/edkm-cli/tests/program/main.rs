//! The program as its users meet it.

mod bad_data;
mod bad_input;
mod bench;
mod chat;
mod clustering;
mod common;
mod compare;
mod defaults;
mod dry_run;
mod ended;
mod eval;
mod eval_every;
mod export;
// its limits are those of a shell
#[cfg(target_os = "linux")]
mod hostile;
mod hub;
mod interrupts;
mod json_keys;
mod kept_palettes;
mod layers;
mod mishaps;
mod moved;
mod results;
mod resume;
mod teacher;
mod whole_path;
mod written_over;
