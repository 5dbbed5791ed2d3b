//! Damaged models, changed models, wrong sources: the answer is never yes, and never a crash.

use super::*;

#[test]
fn damaged_files_are_answered_not_crashed_on() {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let probe = |bytes: &[u8]| {
        let folder = fixtures();
        let decoded = digest(bytes, &folder);
        let stamp = stamp::read(bytes);
        let w = new(&NEW_W);
        let patched = patch_bytes(bytes, &Patch { tensors: BTreeMap::from([("W", &w)]), metadata: vec![] });
        (decoded.is_ok(), stamp.is_ok(), patched.is_ok())
    };
    let mut refused = 0;
    for name in ["dtypes", "nested", "functions", "constants", "external"] {
        let bytes = fs::read(fixtures().join(name).with_extension("onnx")).unwrap();
        for length in 0..bytes.len() {
            refused += usize::from(!probe(&bytes[..length]).0);
        }
        for _ in 0..2000 {
            let mut damaged = bytes.clone();
            for _ in 0..random.random_range(1..6) {
                let at = random.random_range(0..damaged.len());
                damaged[at] = random.random();
            }
            probe(&damaged);
        }
    }
    assert!(refused > 1000, "only {refused} cut files were refused");
}

/// What no digest covers, taken away.
fn covered(bytes: &[u8]) -> ModelProto {
    let mut model = ModelProto::decode(bytes).unwrap();
    model.ir_version = None;
    model.producer_name = None;
    model.producer_version = None;
    model.domain = None;
    model.model_version = None;
    model.doc_string = None;
    model.metadata_props.retain(|e| e.key().starts_with("dev.onnx-unlearn."));
    model.opset_import.iter_mut().for_each(|o| o.domain = o.domain.take().filter(|d| !d.is_empty()));
    let graph = model.graph.as_mut().unwrap();
    (graph.name, graph.doc_string) = (None, None);
    graph.value_info.clear();
    graph.metadata_props.clear();
    for node in &mut graph.node {
        (node.name, node.doc_string) = (None, None);
        node.metadata_props.clear();
        for attribute in &mut node.attribute {
            attribute.doc_string = None;
            if let Some(t) = &mut attribute.t {
                (t.name, t.doc_string) = (None, None);
            }
        }
    }
    for tensor in &mut graph.initializer {
        tensor.doc_string = None;
        tensor.metadata_props.clear();
    }
    for value in graph.input.iter_mut().chain(&mut graph.output) {
        value.doc_string = None;
        value.metadata_props.clear();
        let Some(TypeProto { value: Some(TypeProtoValue::Tensor(t)), denotation }) = &mut value.r#type else {
            continue;
        };
        *denotation = None;
        t.shape.iter_mut().flat_map(|s| &mut s.dim).for_each(|d| d.denotation = None);
    }
    model
}

#[test]
fn no_flipped_bit_is_answered_with_yes() {
    let run = Run::small();
    let model = run.stamped.model.clone();
    let layout = wire::layout(&model).unwrap();
    let mut payload: Vec<usize> = Vec::new();
    for tensor in &layout.tensors {
        if let Storage::Inline(ranges) = &tensor.storage {
            payload.extend(ranges.iter().flat_map(Clone::clone));
        }
    }
    assert_eq!(payload.len(), 9 * 4);
    let stamp = layout.metadata.iter().find(|m| m.key == STAMP_KEY).unwrap().span.clone();
    let expected = covered(&model);
    let (mut no, mut undecided) = (0, 0);
    for at in 0..model.len() {
        for bit in 0..8 {
            let mut damaged = model.clone();
            damaged[at] ^= 1 << bit;
            let verdict = run.with(&damaged);
            let case = || format!("bit {bit} of byte {at}: {verdict:#?}");
            if payload.contains(&at) {
                assert_eq!((verdict.answer, verdict.reason), (Answer::No, "digest.weights"), "{}", case());
            }
            match verdict.answer {
                Answer::Yes => {
                    assert!(!stamp.contains(&at), "{}", case());
                    assert_eq!(covered(&damaged), expected, "{}", case());
                }
                Answer::No => no += 1,
                Answer::Undecided => {
                    undecided += 1;
                    match verdict.reason {
                        "model.malformed" | "model.refused" | "model.duplicate_metadata_key" => {
                            assert!(digest(&damaged, Path::new("")).is_err(), "{}", case());
                        }
                        "stamp.malformed" => {
                            let metadata = wire::layout(&damaged).unwrap().metadata;
                            let value = &metadata.iter().find(|m| m.key == STAMP_KEY).unwrap().value;
                            assert!(serde_json::from_str::<serde_json::Value>(value).is_err(), "{}", case());
                        }
                        _ => panic!("{}", case()),
                    }
                }
            }
        }
    }
    assert!(no > 3000 && undecided > 1000, "{no} no, {undecided} undecided");
}

#[test]
fn lineage_is_checked_against_the_source_and_the_report() {
    let run = Run::small();
    let against = |source: &Path| verify(&run.model(), Some(source));
    run.report(&["W", "b"]);
    let verdict = against(&run.source());
    assert_eq!((verdict.answer, verdict.reason), (Answer::No, "lineage.declared_unchanged"));
    assert!(detail(&verdict, "lineage.declared").contains("\"b\""));
    run.report(&[]);
    let verdict = against(&run.source());
    assert_eq!((verdict.answer, verdict.reason), (Answer::No, "lineage.undeclared_change"));
    assert!(detail(&verdict, "lineage.declared").contains("\"W\""));
    let report = run.folder.path().join("out/unlearn-report.json");
    fs::write(&report, "{}").unwrap();
    let verdict = against(&run.source());
    assert_eq!((verdict.answer, verdict.reason), (Answer::Undecided, "report.malformed"));
    fs::remove_file(&report).unwrap();
    let verdict = against(&run.source());
    assert_eq!((verdict.answer, outcome(&verdict, "lineage.declared")), (Answer::Yes, Outcome::Skipped));
    assert!(detail(&verdict, "lineage.changes").contains("1 of 3 tensors differ from the source: \"W\""));
    let other = run.folder.path().join("other.onnx");
    let mut changed = small();
    changed.producer_name = text("someone");
    fs::write(&other, changed.encode_to_vec()).unwrap();
    let verdict = against(&other);
    assert_eq!((verdict.answer, verdict.reason), (Answer::No, "lineage.source_mismatch"));
    assert!(detail(&verdict, "lineage.source").contains("file is sha256:"));
    let verdict = against(&run.folder.path().join("none.onnx"));
    assert_eq!((verdict.answer, verdict.reason), (Answer::Undecided, "input.unreadable"));
    // A failed check outranks an undecided one.
    fs::write(run.model(), patched_keeping_metadata(&run.stamped.model)).unwrap();
    let verdict = against(&run.folder.path().join("none.onnx"));
    assert_eq!((verdict.answer, verdict.reason), (Answer::No, "digest.weights"));
}

#[test]
fn unreadable_models_are_undecided() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("m.onnx");
    let reason = || {
        let verdict = verify(&model, None);
        assert_eq!(verdict.answer, Answer::Undecided);
        assert!(detail(&verdict, "model").contains("m.onnx"));
        verdict.reason
    };
    assert_eq!(reason(), "input.unreadable");
    fs::write(&model, b"not a model").unwrap();
    assert_eq!(reason(), "model.malformed");
    fs::write(&model, b"").unwrap();
    assert_eq!(reason(), "model.refused");
    fs::copy(fixtures().join("external.onnx"), &model).unwrap();
    assert_eq!(reason(), "model.external_data");
}

#[test]
fn external_weights_are_stamped_and_checked_too() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    for name in ["external.onnx", "external.data"] {
        fs::copy(fixtures().join(name), folder.path().join(name)).unwrap();
    }
    let source = folder.path().join("external.onnx");
    // "a" shares its bytes with "d" in this fixture, so neither can be changed alone.
    let shared = finish(&source, &out, "a", &new(&[1.0; 4])).unwrap_err();
    assert!(shared.to_string().contains("shares bytes"), "{shared}");
    let mut model = ModelProto::decode(&fs::read(&source).unwrap()[..]).unwrap();
    model.graph.as_mut().unwrap().initializer.pop();
    fs::write(&source, model.encode_to_vec()).unwrap();
    let stamped = finish(&source, &out, "a", &new(&[1.0; 4])).unwrap();
    assert_eq!(stamped.changed, ["a"]);
    fs::write(out.join("m.onnx"), &stamped.model).unwrap();
    let verdict = verify(&out.join("m.onnx"), Some(&source));
    assert_eq!(verdict.answer, Answer::Yes, "{verdict:#?}");
    let mut data = fs::read(out.join("external.data")).unwrap();
    data[10] ^= 1;
    fs::write(out.join("external.data"), data).unwrap();
    assert_eq!(verify(&out.join("m.onnx"), None).reason, "digest.weights");
}
