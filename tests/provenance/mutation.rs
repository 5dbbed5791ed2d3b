//! Every single bit of a signed output counts: the model, the report, the claims and the signature.

use crate::harness::{Output, source};
use onnx_unlearn::provenance::{
    oms::{CLAIMS, SIGNATURE},
    stamp::{MODEL, REPORT},
    verify::{Answer, Request, examine},
};
use rayon::prelude::*;
use std::fs;

#[test]
fn every_flipped_bit_is_noticed() {
    let output = Output::new();
    let names = [MODEL, REPORT, CLAIMS, SIGNATURE];
    let files = names.map(|name| fs::read(output.path(name)).expect("read"));
    let (public, source) = (output.public(), source());
    let request = Request { key: Some(&public), source: Some(&source), ..Request::default() };
    assert_eq!(output.asked(request).answer, Answer::Yes);
    for (at, name) in names.iter().enumerate() {
        // A folder for each thread, whose other files stay as they are.
        let copy = || {
            let folder = crate::common::temporary();
            for (name, bytes) in names.iter().zip(&files) {
                fs::write(folder.path().join(name), bytes).expect("written");
            }
            folder
        };
        let missed: Vec<(usize, u8)> = (0..files[at].len())
            .into_par_iter()
            .map_init(copy, |folder, byte| {
                let (path, model) = (folder.path().join(name), folder.path().join(MODEL));
                let mut bytes = files[at].clone();
                let missed = (0..8).filter(|bit| {
                    bytes[byte] ^= 1 << bit;
                    fs::write(&path, &bytes).expect("written");
                    bytes[byte] ^= 1 << bit;
                    examine(&model, request).verdict(&model).answer == Answer::Yes
                });
                let missed: Vec<_> = missed.map(|bit| (byte, bit)).collect();
                fs::write(&path, &bytes).expect("written");
                missed
            })
            .flatten()
            .collect();
        assert!(missed.is_empty(), "{name}: bits {missed:?} may be flipped unnoticed");
    }
}
