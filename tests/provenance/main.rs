//! Signatures, claims, policies and their verification, on a small output that needs no training.

#[path = "../common/mod.rs"]
mod common;

mod claims;
mod commitments;
mod differences;
mod foreign;
mod harness;
mod kept;
mod keys;
mod mutation;
mod policies;
mod second;
mod signatures;
