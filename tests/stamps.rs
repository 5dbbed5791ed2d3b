//! Digest, stamp and verify: published vectors, an independent implementation, every refusal, every flipped bit.

#![allow(clippy::unwrap_used)] // A failed unwrap is a failed test.

#[path = "stamps/damage.rs"]
mod damage;
#[path = "common/protobuf.rs"]
mod protobuf;
#[path = "stamps/refusals.rs"]
mod refusals;
#[path = "stamps/storage.rs"]
mod storage;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use onnx_unlearn::onnx::patch::{Patch, patch_bytes};
use onnx_unlearn::onnx::schema::*;
use onnx_unlearn::onnx::wire::{self, Problem, Storage};
use onnx_unlearn::provenance::digest::{Digest, DigestError, Refusal, digest, digest_file, tensor_digest};
use onnx_unlearn::provenance::stamp::{
    self, DIGEST_KEY, STAMP_KEY, Source, Stamp, StampError, StampInfo, Stamped, params_digest,
};
use onnx_unlearn::provenance::verify::{Answer, Outcome, Verdict, verify, verify_bytes};
use onnx_unlearn::tensor::{DType, Tensor};
use prost::Message;
use protobuf::field;
use rand::{RngExt, SeedableRng};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/stamps")
}

#[allow(clippy::unnecessary_wraps)] // The fields it fills are optional.
fn text(value: &str) -> Option<String> {
    Some(value.into())
}

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: text(key), value: text(value) }
}

fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: text(name),
        data_type: Some(data_type::FLOAT),
        dims: dims.to_vec(),
        raw_data: Some(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        ..TensorProto::default()
    }
}

fn node(op_type: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: text(op_type),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: outputs.iter().map(ToString::to_string).collect(),
        attribute,
        ..NodeProto::default()
    }
}

fn attribute(name: &str, r#type: i32) -> AttributeProto {
    AttributeProto { name: text(name), r#type: Some(r#type), ..AttributeProto::default() }
}

fn value(name: &str, dims: &[DimensionValue]) -> ValueInfoProto {
    let dim = dims.iter().map(|d| Dimension { value: Some(d.clone()), denotation: None }).collect();
    let shape = Some(TensorShapeProto { dim });
    let tensor = TypeProtoValue::Tensor(TypeTensor { elem_type: Some(1), shape });
    let r#type = Some(TypeProto { value: Some(tensor), denotation: None });
    ValueInfoProto { name: text(name), r#type, ..ValueInfoProto::default() }
}

/// Gemm with attributes, a typed bias, a Reshape with an int64 shape in a Constant node.
fn small() -> ModelProto {
    let n = DimensionValue::DimParam("N".into());
    let graph = GraphProto {
        node: vec![
            node(
                "Gemm",
                &["x", "W", "b"],
                &["h"],
                vec![
                    AttributeProto { f: Some(0.5), ..attribute("alpha", attribute_type::FLOAT) },
                    AttributeProto { i: Some(1), ..attribute("transB", attribute_type::INT) },
                ],
            ),
            node(
                "Constant",
                &[],
                &["shape"],
                vec![AttributeProto {
                    t: Some(TensorProto {
                        data_type: Some(data_type::INT64),
                        dims: vec![2],
                        int64_data: vec![-1, 3],
                        ..TensorProto::default()
                    }),
                    ..attribute("value", attribute_type::TENSOR)
                }],
            ),
            node("Reshape", &["h", "shape"], &["y"], vec![]),
        ],
        initializer: vec![
            floats("W", &[3, 2], &[1.0, -2.0, 3.5, 0.0, 5.0, -6.25]),
            TensorProto {
                name: text("b"),
                data_type: Some(data_type::FLOAT),
                dims: vec![3],
                float_data: vec![0.1, 0.2, 0.3],
                ..TensorProto::default()
            },
        ],
        input: vec![value("x", &[n.clone(), DimensionValue::DimValue(2)])],
        output: vec![value("y", &[n, DimensionValue::DimValue(3)])],
        ..GraphProto::default()
    };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        metadata_props: vec![entry("names", "a,b,c")],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

const NEW_W: [f32; 6] = [1.5, -2.5, 3.0, 0.25, 5.5, -6.0];

fn info() -> StampInfo {
    let params = params_digest(&serde_json::json!({"seed": 1})).unwrap();
    let forget = vec!["7".into(), "cat".into()];
    StampInfo { forget, forgotten_before: Vec::new(), output: None, method: "unsir".into(), params, request: None }
}

/// Source, output folder with a finished model and its report.
struct Run {
    folder: tempfile::TempDir,
    stamped: Stamped,
}

fn new(values: &[f32]) -> Tensor {
    Tensor::f32([values.len()], values.to_vec())
}

fn finish(source: &Path, out: &Path, name: &str, tensor: &Tensor) -> Result<Stamped, StampError> {
    let (bytes, folder) = (fs::read(source).unwrap(), source.parent().unwrap());
    let digests = digest(&bytes, folder).unwrap();
    let source = Source { bytes: &bytes, folder, digests: &digests };
    stamp::finish(&source, out, &BTreeMap::from([(name, tensor)]), info())
}

impl Run {
    fn new(model: &ModelProto, name: &str, tensor: &Tensor) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("out")).unwrap();
        fs::write(folder.path().join("source.onnx"), model.encode_to_vec()).unwrap();
        let (source, out) = (folder.path().join("source.onnx"), folder.path().join("out"));
        let stamped = finish(&source, &out, name, tensor).unwrap();
        let run = Self { folder, stamped };
        fs::write(run.model(), &run.stamped.model).unwrap();
        run.report(&run.stamped.changed.iter().map(String::as_str).collect::<Vec<_>>());
        run
    }

    fn small() -> Self {
        Self::new(&small(), "W", &new(&NEW_W))
    }

    fn model(&self) -> PathBuf {
        self.folder.path().join("out/model.onnx")
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("source.onnx")
    }

    fn report(&self, trained: &[&str]) {
        let digest = |name: &str| self.stamped.digests.tensors.iter().find(|t| t.key == name).map(|t| t.digest);
        let trained: Vec<_> =
            trained.iter().map(|name| serde_json::json!({"name": name, "digest": digest(name)})).collect();
        let report = serde_json::json!({"trained": trained, "more": 1});
        fs::write(self.folder.path().join("out/unlearn-report.json"), report.to_string()).unwrap();
    }

    /// The verdict on other bytes in the model's place, without a source.
    fn with(&self, bytes: &[u8]) -> Verdict {
        verify_bytes(bytes, &self.model(), None)
    }
}

fn outcome(verdict: &Verdict, name: &str) -> Outcome {
    verdict.checks.iter().find(|c| c.name == name).unwrap().outcome
}

fn detail<'v>(verdict: &'v Verdict, name: &str) -> &'v str {
    &verdict.checks.iter().find(|c| c.name == name).unwrap().detail
}

// ---- digest ----

#[test]
fn tensor_vectors() {
    let hex = |t: &TensorProto| tensor_digest(t, Path::new("")).unwrap().to_string();
    let pair = floats("any name", &[2], &[1.0, -0.0]);
    assert_eq!(hex(&pair), "sha256:afde8a2159d27db808402c4a520abbd08a77bee77037167dd1e866d53c13c7a9");
    let typed = TensorProto { raw_data: None, float_data: vec![1.0, -0.0], ..pair };
    assert_eq!(hex(&typed), "sha256:afde8a2159d27db808402c4a520abbd08a77bee77037167dd1e866d53c13c7a9");
    let strings = TensorProto {
        data_type: Some(data_type::STRING),
        dims: vec![2],
        string_data: vec![b"a".to_vec(), vec![]],
        ..TensorProto::default()
    };
    assert_eq!(hex(&strings), "sha256:d22d6dad0ff65c4b170f0b90f961c92bd71dbb7659ff027f9295caa80b239973");
}

#[test]
fn model_vector() {
    let digests = digest_file(&fixtures().join("matmul.onnx")).unwrap();
    assert_eq!(digests.weights.to_string(), "sha256:704f08f258166cdfe1ae95931709120832f342947dbc23e07f99ec65f0913f21");
    assert_eq!(digests.graph.to_string(), "sha256:5e0b901fde44ef492678f13b48fa8c45d1cc85341a428fa2417af763fc0d4aa8");
    assert_eq!(digests.model.to_string(), "sha256:7b00f13385285013f90b4da835e47a9c987336d99609f436186c55de29dc9a68");
}

#[test]
fn digests_agree_with_the_independent_implementation() {
    let golden: serde_json::Value = serde_json::from_slice(&fs::read(fixtures().join("golden.json")).unwrap()).unwrap();
    let golden = golden.as_object().unwrap();
    assert_eq!(golden.len(), 6);
    for (name, expected) in golden {
        let digests = digest_file(&fixtures().join(name)).unwrap();
        let found = serde_json::json!({
            "file": digests.file, "weights": digests.weights, "graph": digests.graph, "model": digests.model,
            "tensors": digests.tensors.len(),
        });
        assert_eq!(&found, expected, "{name}");
    }
}

#[test]
fn keys_of_nested_weights_say_where_they_are() {
    let keys = |name: &str| -> Vec<String> {
        digest_file(&fixtures().join(name)).unwrap().tensors.into_iter().map(|t| t.key).collect()
    };
    let nested = keys("nested.onnx");
    for key in ["W", "y:else_branch/W", "y:then_branch/t:then_branch/c", "m:bodies[1]/W"] {
        assert!(nested.iter().any(|k| k == key), "{key} in {nested:?}");
    }
    assert!(keys("functions.onnx").contains(&"local::Act()/two".to_string()));
}

#[test]
fn what_is_excluded_does_not_count_and_what_is_included_does() {
    let of = |m: &ModelProto| digest(&m.encode_to_vec(), Path::new("")).unwrap();
    let base = of(&small());
    let mut same = small();
    same.producer_name = text("other");
    same.doc_string = text("other");
    same.metadata_props = vec![entry("x", "y")];
    same.opset_import[0].domain = text("ai.onnx");
    same.opset_import.push(OperatorSetIdProto { domain: text("unused"), version: Some(1) });
    let graph = same.graph.as_mut().unwrap();
    graph.name = text("other");
    graph.node[0].name = text("other");
    graph.value_info = vec![value("h", &[])];
    graph.initializer.reverse();
    graph.initializer[1].float_data = vec![1.0, -2.0, 3.5, 0.0, 5.0, -6.25];
    graph.initializer[1].raw_data = None;
    let same = of(&same);
    assert_eq!((same.weights, same.graph, same.model), (base.weights, base.graph, base.model));
    assert_ne!(same.file, base.file);
    let differs = |change: &dyn Fn(&mut ModelProto), weights: bool, graph: bool| {
        let mut model = small();
        change(&mut model);
        let found = of(&model);
        assert_eq!((found.weights != base.weights, found.graph != base.graph), (weights, graph));
        assert_ne!(found.model, base.model);
    };
    differs(&|m| m.graph.as_mut().unwrap().initializer[0] = floats("W", &[2, 3], &[0.0; 6]), true, false);
    differs(&|m| m.graph.as_mut().unwrap().initializer[0].name = text("V"), true, false);
    differs(&|m| m.graph.as_mut().unwrap().node[0].attribute[0].f = Some(0.25), false, true);
    differs(&|m| m.graph.as_mut().unwrap().node[0].input.swap(1, 2), false, true);
    differs(&|m| m.graph.as_mut().unwrap().output[0].name = text("z"), false, true);
    differs(&|m| m.opset_import[0].version = Some(18), false, true);
}

// ---- stamp ----

#[test]
fn a_finished_model_carries_a_stamp_that_verifies() {
    let run = Run::small();
    let stamp = stamp::read(&run.stamped.model).unwrap().unwrap();
    assert_eq!(stamp, run.stamped.stamp);
    assert_eq!(run.stamped.changed, ["W"]);
    assert_eq!(run.stamped.digests, digest(&run.stamped.model, Path::new("")).unwrap());
    let verdict = verify(&run.model(), Some(&run.source()));
    assert_eq!((verdict.answer, verdict.reason), (Answer::Yes, "ok"), "{verdict:#?}");
    assert_eq!(detail(&verdict, "origin"), "integrity only, origin not authenticated");
    let unasked = ["origin", "origin.files", "claims", "claims.required", "policy", "rederive"];
    for check in &verdict.checks {
        let expected = if unasked.contains(&check.name) { Outcome::Skipped } else { Outcome::Pass };
        assert_eq!(check.outcome, expected, "{check:?}");
    }
    let json = serde_json::to_value(&verdict).unwrap();
    assert_eq!((&json["schema_version"], &json["answer"], &json["reason"]), (&1.into(), &"yes".into(), &"ok".into()));
    assert_eq!(json["checks"][1]["outcome"], "pass");
    let again = finish(&run.source(), run.folder.path(), "W", &new(&NEW_W)).unwrap();
    assert_eq!(again.model, run.stamped.model, "equal runs give equal bytes");
}

#[test]
fn a_stamp_of_the_independent_implementation_verifies() {
    let (model, source) = (fixtures().join("stamped-v1.onnx"), fixtures().join("matmul.onnx"));
    let verdict = verify(&model, Some(&source));
    assert_eq!((verdict.answer, verdict.reason), (Answer::Yes, "ok"), "{verdict:#?}");
    assert_eq!(outcome(&verdict, "lineage.source"), Outcome::Pass);
    let stamp = stamp::read(&fs::read(&model).unwrap()).unwrap().unwrap();
    assert_eq!(stamp.forget, ["7", "żółw"]);
    // The same stamp, written by us into the same weights, is the same two entries.
    let written: Vec<_> = wire::layout(&fs::read(&model).unwrap()).unwrap().metadata;
    let written: Vec<_> = written.into_iter().map(|m| (m.key, m.value)).collect();
    assert_eq!(stamp.to_metadata().unwrap(), written);
}

#[test]
fn the_stamp_has_the_documented_form() {
    let run = Run::small();
    let metadata = wire::layout(&run.stamped.model).unwrap().metadata;
    let keys: Vec<_> = metadata.iter().map(|m| m.key.as_str()).collect();
    assert_eq!(keys, ["names", DIGEST_KEY, STAMP_KEY]);
    assert_eq!(metadata[1].value, run.stamped.digests.model.to_string());
    let (d, s) = (&run.stamped.digests, &run.stamped.stamp.source);
    let params = params_digest(&serde_json::json!({"seed": 1})).unwrap();
    let rest = format!(
        concat!(
            r#"{{"content":"onnx-content-v1","forget":["7","cat"],"graph":"{}","method":"unsir","params":"{}","#,
            r#""report":"unlearn-report.json",SELF"source":{{"file":"{}","graph":"{}","weights":"{}"}},"#,
            r#""tool":"onnx-unlearn/{}","weights":"{}"}}"#
        ),
        d.graph,
        params,
        s.file,
        s.graph,
        s.weights,
        env!("CARGO_PKG_VERSION"),
        d.weights
    );
    let own = Digest::of(rest.replace("SELF", "").as_bytes());
    assert_eq!(metadata[2].value, rest.replace("SELF", &format!(r#""self":"{own}","#)));
    assert_eq!(params, Digest::of(br#"{"seed":1}"#));
}

#[test]
fn history_grows_only_from_a_stamp_of_the_source_itself() {
    let first = Run::small();
    let next = |bytes: &[u8]| {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("again.onnx");
        fs::write(&source, bytes).unwrap();
        finish(&source, folder.path(), "b", &new(&[1.0; 3])).unwrap()
    };
    let second = next(&first.stamped.model);
    assert_eq!(second.stamp.history, [first.stamped.stamp.source.weights]);
    assert_eq!(second.stamp.source.weights, first.stamped.digests.weights);
    let third = next(&next(&second.model).model);
    assert_eq!(third.stamp.history[..2], [first.stamped.stamp.source.weights, first.stamped.digests.weights]);
    assert_eq!(third.stamp.history.len(), 3);
    let again = StampInfo { forget: vec!["12".into()], forgotten_before: vec!["7".into(), "12".into()], ..info() };
    let again = Stamp::new(&first.stamped.digests, &first.stamped.digests, again, None);
    assert_eq!(again.forgotten(), ["7", "12"], "by number, each once");
    let stale = patched_keeping_metadata(&first.stamped.model);
    assert!(next(&stale).stamp.history.is_empty());
}

/// Other weights under the same metadata: what a converter that copies metadata leaves.
fn patched_keeping_metadata(model: &[u8]) -> Vec<u8> {
    let layout = wire::layout(model).unwrap();
    let span = layout.tensors.iter().find(|t| t.name == "W").unwrap();
    let Storage::Inline(ranges) = &span.storage else { panic!("inline") };
    let mut stale = model.to_vec();
    stale[ranges[0].start] ^= 1;
    stale
}

#[test]
fn stale_missing_and_forged_stamps() {
    let run = Run::small();
    let model = run.stamped.model.clone();
    let verdict = run.with(&patched_keeping_metadata(&model));
    assert_eq!((verdict.answer, verdict.reason), (Answer::No, "digest.weights"));
    assert!(detail(&verdict, "digest.weights").contains("tensor \"W\" is sha256:"), "{verdict:#?}");
    assert_eq!(outcome(&verdict, "digest.graph"), Outcome::Pass);
    let verdict = run.with(&small().encode_to_vec());
    assert_eq!((verdict.answer, verdict.reason), (Answer::No, "stamp.missing"));
    assert!(detail(&verdict, "stamp").contains("model.onnx"));
    for key in [STAMP_KEY, DIGEST_KEY, "names"] {
        let forged = [&model[..], &field(14, &entry(key, "forged").encode_to_vec())].concat();
        let verdict = run.with(&forged);
        assert_eq!((verdict.answer, verdict.reason), (Answer::Undecided, "model.duplicate_metadata_key"));
        assert!(detail(&verdict, "model").contains(key));
    }
    let mut graph = ModelProto::decode(&model[..]).unwrap();
    graph.graph.as_mut().unwrap().node[0].attribute[0].f = Some(2.0);
    let verdict = run.with(&graph.encode_to_vec());
    assert_eq!((verdict.answer, verdict.reason), (Answer::No, "digest.graph"));
}

/// The stamped model with another stamp value; `None` takes the digest entry away too.
fn restamped(run: &Run, stamp: &str, digest: Option<&str>) -> Vec<u8> {
    let mut model = ModelProto::decode(&run.stamped.model[..]).unwrap();
    model.metadata_props = vec![entry(STAMP_KEY, stamp)];
    model.metadata_props.extend(digest.map(|d| entry(DIGEST_KEY, d)));
    model.encode_to_vec()
}

fn with_self(mut value: serde_json::Value) -> String {
    value.as_object_mut().unwrap().remove("self");
    let own = params_digest(&value).unwrap();
    value["self"] = own.to_string().into();
    serde_json_canonicalizer::to_string(&value).unwrap()
}

#[test]
fn malformed_unsupported_and_inconsistent_stamps() {
    let run = Run::small();
    let digest = run.stamped.digests.model.to_string();
    let good = wire::layout(&run.stamped.model).unwrap().metadata[2].value.clone();
    let value: serde_json::Value = serde_json::from_str(&good).unwrap();
    let answer = |stamp: &str, digest: Option<&str>| {
        let verdict = run.with(&restamped(&run, stamp, digest));
        (verdict.answer, verdict.reason)
    };
    assert_eq!(answer(&good, Some(&digest)), (Answer::Yes, "ok"));
    assert_eq!(with_self(value.clone()), good);
    assert_eq!(answer(&good, None), (Answer::No, "stamp.inconsistent"));
    assert_eq!(answer(&good, Some(&run.stamped.digests.weights.to_string())), (Answer::No, "stamp.inconsistent"));
    assert_eq!(answer("{", Some(&digest)), (Answer::Undecided, "stamp.malformed"));
    assert_eq!(answer("[1]", Some(&digest)), (Answer::Undecided, "stamp.malformed"));
    assert_eq!(answer("", Some(&digest)), (Answer::Undecided, "stamp.malformed"));
    assert_eq!(answer(&good.replacen(',', ", ", 1), Some(&digest)), (Answer::Undecided, "stamp.malformed"));
    let mut other = value.clone();
    other["content"] = "onnx-content-v2".into();
    assert_eq!(answer(&with_self(other), Some(&digest)), (Answer::Undecided, "stamp.unsupported"));
    let mut missing = value.clone();
    missing.as_object_mut().unwrap().remove("source");
    assert_eq!(answer(&with_self(missing), Some(&digest)), (Answer::Undecided, "stamp.malformed"));
    let mut forget = value;
    forget["forget"] = serde_json::json!(["8"]);
    let unsigned = serde_json_canonicalizer::to_string(&forget).unwrap();
    assert_eq!(answer(&unsigned, Some(&digest)), (Answer::No, "stamp.inconsistent"));
    let mut extra = forget.clone();
    extra["extra"] = 1.into();
    assert_eq!(answer(&with_self(extra), Some(&digest)), (Answer::Yes, "ok"), "fields may be added");
    assert!(matches!(stamp::read(b"\xff"), Err(StampError::Wire(_))));
}
