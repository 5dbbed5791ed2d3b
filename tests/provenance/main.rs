//! Signatures, claims, policies and their verification, on a small output that needs no training.

#[path = "../common/mod.rs"]
mod common;

mod claims;
mod commitments;
mod differences;
mod harness;
mod keys;
mod mutation;
mod policies;
mod signatures;
