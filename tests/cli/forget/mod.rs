//! `forget`: what a run writes and says, what it is run on, and everything it refuses.

mod autotune;
mod batch;
mod batch_norm;
mod calibration;
mod classes;
mod data;
mod depth;
mod forms;
mod hardware;
pub mod heads;
mod inputs;
mod mask;
mod models;
pub mod multi_hot;
mod output;
pub mod page;
mod refused_data;
mod refused_flags;
mod refused_models;
mod settings;
mod types;
mod verdict;
