//! Digest, stamp and verify: published vectors, an independent implementation, every refusal, every flipped bit.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use onnx_unlearn::onnx::patch::{Patch, patch_bytes};
use onnx_unlearn::onnx::schema::*;
use onnx_unlearn::onnx::wire::{self, Problem, Storage};
use onnx_unlearn::provenance::digest::{Digest, DigestError, Refusal, digest, digest_file, tensor_digest};
use onnx_unlearn::provenance::stamp::{self, DIGEST_KEY, STAMP_KEY, StampError, StampInfo, Stamped, params_digest};
use onnx_unlearn::provenance::verify::{Answer, Outcome, Verdict, verify, verify_bytes};
use prost::Message;
use rand::{RngExt, SeedableRng};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/stamps")
}

fn text(value: &str) -> Option<String> {
    Some(value.into())
}

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: text(key), value: text(value) }
}

fn field(number: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(u64::from(number << 3 | 2), &mut out);
    prost::encoding::encode_varint(payload.len() as u64, &mut out);
    out.extend_from_slice(payload);
    out
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
    StampInfo { forget: vec!["7".into(), "cat".into()], method: "unsir".into(), params }
}

/// Source, output folder with a finished model and its report.
struct Run {
    folder: tempfile::TempDir,
    stamped: Stamped,
}

impl Run {
    fn new(model: &ModelProto, tensors: &[(&str, &[f32])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("out")).unwrap();
        fs::write(folder.path().join("source.onnx"), model.encode_to_vec()).unwrap();
        let tensors: BTreeMap<&str, &[f32]> = tensors.iter().copied().collect();
        let (source, out) = (folder.path().join("source.onnx"), folder.path().join("out"));
        let stamped = stamp::finish(&source, &out, &tensors, info()).unwrap();
        let run = Self { folder, stamped };
        fs::write(run.model(), &run.stamped.model).unwrap();
        run.report(&run.stamped.changed.iter().map(String::as_str).collect::<Vec<_>>());
        run
    }

    fn small() -> Self {
        Self::new(&small(), &[("W", &NEW_W)])
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

fn refusal(change: impl FnOnce(&mut ModelProto)) -> Refusal {
    let mut model = small();
    change(&mut model);
    match digest(&model.encode_to_vec(), Path::new("")) {
        Err(DigestError::Refused { problem, .. }) => problem,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn tensor_refusal(tensor: TensorProto) -> Refusal {
    refusal(|m| m.graph.as_mut().unwrap().initializer.push(TensorProto { name: text("t"), ..tensor }))
}

fn attribute_refusal(attributes: Vec<AttributeProto>) -> Refusal {
    refusal(|m| m.graph.as_mut().unwrap().node[2].attribute = attributes)
}

macro_rules! assert_refused {
    ($found:expr, $pattern:pat) => {
        let found = $found;
        assert!(matches!(found, $pattern), "expected {}, got {found:?}", stringify!($pattern));
    };
}

fn typed(data_type: i32, dims: &[i64]) -> TensorProto {
    TensorProto { data_type: Some(data_type), dims: dims.to_vec(), ..TensorProto::default() }
}

#[test]
fn refused_tensors() {
    let raw = |t, dims: &[i64], bytes: &[u8]| TensorProto { raw_data: Some(bytes.to_vec()), ..typed(t, dims) };
    assert_refused!(tensor_refusal(typed(0, &[1])), Refusal::DataType(0));
    assert_refused!(tensor_refusal(typed(29, &[1])), Refusal::DataType(29));
    assert_refused!(tensor_refusal(typed(-1, &[1])), Refusal::DataType(-1));
    assert_refused!(tensor_refusal(typed(1, &[2, -1])), Refusal::NegativeDim(-1));
    assert_refused!(tensor_refusal(typed(1, &[1 << 40, 1 << 40])), Refusal::SizeOverflow(_));
    assert_refused!(tensor_refusal(typed(1, &[1 << 60])), Refusal::SizeOverflow(_));
    assert_refused!(tensor_refusal(typed(1, &[2])), Refusal::NoStorage(2));
    assert_refused!(tensor_refusal(raw(1, &[0], &[0; 4])), Refusal::Length { held: 4, expected: 0 });
    assert_refused!(tensor_refusal(raw(1, &[2], &[0; 7])), Refusal::Length { held: 7, expected: 8 });
    assert_refused!(tensor_refusal(raw(22, &[3], &[0; 1])), Refusal::Length { held: 1, expected: 2 });
    assert_refused!(tensor_refusal(raw(9, &[2], &[1, 2])), Refusal::Bool(2));
    assert_refused!(tensor_refusal(raw(8, &[1], b"a")), Refusal::WrongField { field: "raw_data", data_type: 8 });
    let both = TensorProto { float_data: vec![1.0], ..raw(1, &[1], &[0; 4]) };
    assert_refused!(tensor_refusal(both), Refusal::TwoStorages("raw_data", "float_data"));
    let wrong = TensorProto { float_data: vec![1.0], ..typed(6, &[1]) };
    assert_refused!(tensor_refusal(wrong), Refusal::WrongField { field: "float_data", data_type: 6 });
    let short = TensorProto { float_data: vec![1.0], ..typed(1, &[2]) };
    assert_refused!(tensor_refusal(short), Refusal::Length { held: 4, expected: 8 });
    let strings = TensorProto { string_data: vec![vec![]], ..typed(8, &[2]) };
    assert_refused!(tensor_refusal(strings), Refusal::Count { held: 1, expected: 2 });
    let ints = |t, dims: &[i64], values: &[i32]| TensorProto { int32_data: values.to_vec(), ..typed(t, dims) };
    assert_refused!(tensor_refusal(ints(3, &[1], &[256])), Refusal::EntryRange { value: 256, data_type: 3 });
    assert_refused!(tensor_refusal(ints(2, &[1], &[-129])), Refusal::EntryRange { .. });
    assert_refused!(tensor_refusal(ints(27, &[1], &[64])), Refusal::EntryRange { .. });
    assert_refused!(tensor_refusal(ints(21, &[1], &[256])), Refusal::EntryRange { .. });
    assert_refused!(tensor_refusal(ints(9, &[1], &[2])), Refusal::Bool(2));
    // Three and four 6-bit elements both take three bytes: the number of entries tells them apart.
    assert_refused!(tensor_refusal(ints(27, &[3], &[1; 4])), Refusal::Count { held: 4, expected: 3 });
    let unsigned = TensorProto { uint64_data: vec![1 << 32], ..typed(12, &[1]) };
    assert_refused!(tensor_refusal(unsigned), Refusal::EntryRange { .. });
    let segment = TensorProto { segment: Some(Segment::default()), ..raw(1, &[1], &[0; 4]) };
    assert_refused!(tensor_refusal(segment), Refusal::Segment);
    let external = TensorProto { data_location: Some(1), ..typed(1, &[1]) };
    assert_refused!(tensor_refusal(external), Refusal::NoExternalEntries);
    let unused = TensorProto { external_data: vec![entry("location", "w")], ..raw(1, &[1], &[0; 4]) };
    assert_refused!(tensor_refusal(unused), Refusal::UnusedExternalEntries);
    let location = TensorProto { data_location: Some(2), ..raw(1, &[1], &[0; 4]) };
    assert_refused!(tensor_refusal(location), Refusal::DataLocation(2));
    let sparse = SparseTensorProto { values: Some(raw(1, &[1], &[0; 4])), ..SparseTensorProto::default() };
    assert_refused!(
        refusal(|m| m.graph.as_mut().unwrap().sparse_initializer = vec![sparse]),
        Refusal::Missing("indices")
    );
    assert_refused!(
        refusal(|m| m.graph.as_mut().unwrap().sparse_initializer = vec![SparseTensorProto::default()]),
        Refusal::Missing("values")
    );
}

#[test]
fn refused_attributes() {
    assert_refused!(attribute_refusal(vec![attribute("a", 0)]), Refusal::NoAttributeType);
    assert_refused!(attribute_refusal(vec![attribute("a", 15)]), Refusal::AttributeType(15));
    let two = AttributeProto { f: Some(0.0), i: Some(1), ..attribute("a", attribute_type::INT) };
    assert_refused!(attribute_refusal(vec![two]), Refusal::AttributeField { declared: 2, field: "f" });
    let int = || AttributeProto { i: Some(1), ..attribute("a", attribute_type::INT) };
    assert_refused!(attribute_refusal(vec![int(), int()]), Refusal::AttributeTwice(_));
    let reference = AttributeProto { ref_attr_name: text("r"), ..int() };
    assert_refused!(attribute_refusal(vec![reference]), Refusal::AttributeField { field: "i", .. });
    for (kind, name) in [(4, "t"), (5, "g"), (11, "sparse_tensor"), (13, "tp")] {
        let found = attribute_refusal(vec![attribute("a", kind)]);
        assert!(matches!(found, Refusal::Missing(field) if field == name), "{found:?}");
    }
    let graph =
        || AttributeProto { g: Some(Box::new(GraphProto::default())), ..attribute("body", attribute_type::GRAPH) };
    let unnamed = refusal(|m| m.graph.as_mut().unwrap().node.push(node("If", &["x"], &[""], vec![graph()])));
    assert_refused!(unnamed, Refusal::NoNamedOutput);
    let function = |f: FunctionProto| refusal(|m| m.functions = vec![f]);
    let default = FunctionProto { name: text("f"), attribute_proto: vec![graph()], ..FunctionProto::default() };
    assert_refused!(function(default), Refusal::GraphDefault(_));
    let twice = FunctionProto { name: text("f"), attribute_proto: vec![int(), int()], ..FunctionProto::default() };
    assert_refused!(function(twice), Refusal::AttributeTwice(_));
}

#[test]
fn refused_graphs() {
    assert_refused!(refusal(|m| m.graph = None), Refusal::NoGraph);
    assert_refused!(refusal(|m| m.training_info = vec![TrainingInfoProto::default()]), Refusal::TrainingInfo);
    assert_refused!(
        refusal(|m| m.configuration = vec![DeviceConfigurationProto::default()]),
        Refusal::DeviceConfiguration
    );
    for index in [0, 1] {
        let devices = vec![NodeDeviceConfigurationProto::default()];
        let found = refusal(|m| m.graph.as_mut().unwrap().node[index].device_configurations = devices);
        assert_refused!(found, Refusal::DeviceConfiguration);
    }
    let twice = |change: &dyn Fn(&mut GraphProto)| refusal(|m| change(m.graph.as_mut().unwrap()));
    assert_refused!(twice(&|g| g.initializer.push(g.initializer[0].clone())), Refusal::DefinedTwice(_));
    assert_refused!(twice(&|g| g.input.push(g.input[0].clone())), Refusal::DefinedTwice(_));
    assert_refused!(twice(&|g| g.node[2].output = vec!["h".into()]), Refusal::DefinedTwice(_));
    assert_refused!(twice(&|g| g.node[2].output = vec!["W".into()]), Refusal::DefinedTwice(_));
    assert_refused!(twice(&|g| g.node[1].output = vec!["x".into()]), Refusal::DefinedTwice(_));
    assert_refused!(twice(&|g| g.node[2].domain = text("other")), Refusal::NoImport(_));
    let versions = refusal(|m| {
        m.opset_import.push(OperatorSetIdProto { domain: text("ai.onnx"), version: Some(18) });
    });
    assert_refused!(versions, Refusal::TwoVersions(_));
    let f = FunctionProto { name: text("f"), domain: text("d"), ..FunctionProto::default() };
    assert_refused!(refusal(|m| m.functions = vec![f.clone(), f]), Refusal::FunctionTwice(_));
    let mut input = small();
    input.graph.as_mut().unwrap().input.push(value("W", &[]));
    assert!(digest(&input.encode_to_vec(), Path::new("")).is_ok(), "an initializer may also be an input");
    assert!(matches!(refusal_place(), place if place == "graph.initializer[2] \"t\""));
}

fn refusal_place() -> String {
    let mut model = small();
    model.graph.as_mut().unwrap().initializer.push(TensorProto { name: text("t"), ..typed(0, &[]) });
    match digest(&model.encode_to_vec(), Path::new("")) {
        Err(DigestError::Refused { place, .. }) => place,
        other => panic!("{other:?}"),
    }
}

// ---- wire rules ----

fn wire_error(bytes: &[u8]) -> (String, Problem) {
    let error = wire::decode(bytes).unwrap_err();
    assert!(error.to_string().starts_with(&format!("{} (byte {}): ", error.path, error.offset)));
    (error.path, error.problem)
}

/// A model whose one node is these bytes.
fn with_node(node: &[u8]) -> Vec<u8> {
    field(7, &field(1, node))
}

#[test]
fn refused_bytes() {
    let model = small().encode_to_vec();
    let plus = |more: &[u8]| wire_error(&[&model[..], more].concat());
    assert_eq!(plus(&field(99, b"")), ("model".into(), Problem::UnknownField { message: "ModelProto", number: 99 }));
    let unknown = wire_error(&with_node(&[field(4, b"Relu"), field(5, &field(16, b""))].concat()));
    assert_eq!(unknown.0, "graph.node[0].attribute[0]");
    assert_eq!(unknown.1, Problem::UnknownField { message: "AttributeProto", number: 16 });
    let external = field(7, &field(5, &field(13, &field(3, b""))));
    assert_eq!(wire_error(&external).0, "graph.initializer[0].external_data[0]");
    assert!(wire::validate(&field(14, &[field(1, b"key"), field(9, b"free")].concat())).is_ok());
    assert_eq!(plus(&[8, 1]), ("ir_version".into(), Problem::Twice));
    assert_eq!(plus(&field(7, b"")), ("graph".into(), Problem::Twice));
    assert_eq!(plus(&field(14, &[field(1, b"k"), field(1, b"l")].concat())).1, Problem::Twice);
    let dim = [vec![8, 1], field(2, b"N")].concat();
    let dim = field(7, &field(11, &field(2, &field(1, &field(2, &field(1, &dim))))));
    assert_eq!(
        wire_error(&dim),
        ("graph.input[0].type.tensor_type.shape.dim[0].dim_param".into(), Problem::OneOf("dim_value", "dim_param"))
    );
    assert_eq!(plus(&[15 << 3 | 3, 0]).1, Problem::Group(15));
    assert_eq!(wire_error(&[1 << 3 | 4]).1, Problem::Group(1));
    // Even where unknown fields are free, a group is not.
    assert_eq!(wire_error(&field(14, &[9 << 3 | 3])).1, Problem::Group(9));
    assert_eq!(wire_error(&with_node(&field(1, &[0xff]))), ("graph.node[0].input[0]".into(), Problem::Utf8));
    assert_eq!(wire_error(&[0]).1, Problem::Tag(0));
    assert_eq!(wire_error(&[1 << 3 | 6]).1, Problem::Tag(14));
    assert_eq!(wire_error(&[1 << 3 | 7]).1, Problem::Tag(15));
    assert_eq!(wire_error(&field(1, b"x")).1, Problem::WireType(2));
    assert_eq!(wire_error(&[8, 0x80]).1, Problem::Truncated);
    assert_eq!(wire_error(&[7 << 3 | 2, 5, 0]).1, Problem::Truncated);
    assert_eq!(wire_error(&[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2]).1, Problem::Varint);
    assert_eq!(wire_error(&[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]).1, Problem::Varint);
    let tensor = |bytes: &[u8]| wire_error(&field(7, &field(5, bytes)));
    assert_eq!(
        tensor(&[16, 0x81, 0x80, 0x80, 0x80, 0x10]),
        ("graph.initializer[0].data_type".into(), Problem::Int32((1 << 32) + 1))
    );
    assert_eq!(tensor(&field(4, &[0; 7])).1, Problem::Packed(7));
    assert_eq!(tensor(&field(10, &[0; 12])).1, Problem::Packed(12));
    assert_eq!(tensor(&field(7, &[1, 0x80])).1, Problem::Truncated);
}

#[test]
fn nesting_stops_at_a_hundred_messages() {
    let model = |innermost: &[u8]| {
        let mut sequence = innermost.to_vec();
        for _ in 0..48 {
            // TypeProto.sequence_type and its elem_type.
            sequence = field(4, &field(1, &sequence));
        }
        field(7, &field(11, &field(2, &sequence)))
    };
    // model 0, graph 1, input 2, type 3, 48 pairs: the innermost type lies at 99, a sequence in it at 100.
    assert!(wire::decode(&model(&field(4, b""))).is_ok());
    assert_eq!(wire_error(&model(&field(4, &field(1, b"")))).1, Problem::Depth);
}

#[test]
fn duplicate_metadata_keys_are_refused_in_every_list() {
    let twice = || [entry("k", "1").encode_to_vec(), entry("k", "2").encode_to_vec()];
    let list = |number: u32| twice().map(|e| field(number, &e)).concat();
    let places = [
        (list(14), "metadata_props[1]"),
        (field(7, &list(16)), "graph.metadata_props[1]"),
        (with_node(&list(9)), "graph.node[0].metadata_props[1]"),
        (field(7, &field(5, &list(16))), "graph.initializer[0].metadata_props[1]"),
        (field(7, &field(11, &list(4))), "graph.input[0].metadata_props[1]"),
        (field(25, &list(14)), "functions[0].metadata_props[1]"),
    ];
    for (bytes, place) in places {
        assert_eq!(wire_error(&bytes), (place.into(), Problem::DuplicateKey("k".into())));
    }
    let keyless = [field(14, &field(2, b"1")), field(14, b"")].concat();
    assert_eq!(wire_error(&keyless).1, Problem::DuplicateKey(String::new()));
}

#[test]
fn damaged_files_are_answered_not_crashed_on() {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let probe = |bytes: &[u8]| {
        let folder = fixtures();
        let decoded = digest(bytes, &folder);
        let stamp = stamp::read(bytes);
        let patched = patch_bytes(bytes, &Patch { tensors: BTreeMap::from([("W", &NEW_W[..])]), metadata: vec![] });
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
    for check in verdict.checks.iter().filter(|c| c.name != "origin") {
        assert_eq!(check.outcome, Outcome::Pass, "{check:?}");
    }
    let json = serde_json::to_value(&verdict).unwrap();
    assert_eq!((&json["schema_version"], &json["answer"], &json["reason"]), (&1.into(), &"yes".into(), &"ok".into()));
    assert_eq!(json["checks"][1]["outcome"], "pass");
    let again = stamp::finish(&run.source(), run.folder.path(), &BTreeMap::from([("W", &NEW_W[..])]), info()).unwrap();
    assert_eq!(again.model, run.stamped.model, "equal runs give equal bytes");
}

#[test]
fn the_stamp_has_the_documented_form() {
    let run = Run::small();
    let metadata = wire::layout(&run.stamped.model).unwrap().metadata;
    let keys: Vec<_> = metadata.iter().map(|m| m.key.as_str()).collect();
    assert_eq!(keys, ["names", DIGEST_KEY, STAMP_KEY]);
    assert_eq!(metadata[1].value, run.stamped.digests.model.to_string());
    let (d, s) = (&run.stamped.digests, &run.stamped.source);
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
        stamp::finish(&source, folder.path(), &BTreeMap::from([("b", &[1.0f32; 3][..])]), info()).unwrap()
    };
    let second = next(&first.stamped.model);
    assert_eq!(second.stamp.history, [first.stamped.source.weights]);
    assert_eq!(second.stamp.source.weights, first.stamped.digests.weights);
    let third = next(&next(&second.model).model);
    assert_eq!(third.stamp.history[..2], [first.stamped.source.weights, first.stamped.digests.weights]);
    assert_eq!(third.stamp.history.len(), 3);
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

// ---- lineage ----

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
    let shared = stamp::finish(&source, &out, &BTreeMap::from([("a", &[1.0f32; 4][..])]), info()).unwrap_err();
    assert!(shared.to_string().contains("shares bytes"), "{shared}");
    let mut model = ModelProto::decode(&fs::read(&source).unwrap()[..]).unwrap();
    model.graph.as_mut().unwrap().initializer.pop();
    fs::write(&source, model.encode_to_vec()).unwrap();
    let stamped = stamp::finish(&source, &out, &BTreeMap::from([("a", &[1.0f32; 4][..])]), info()).unwrap();
    assert_eq!(stamped.changed, ["a"]);
    fs::write(out.join("m.onnx"), &stamped.model).unwrap();
    let verdict = verify(&out.join("m.onnx"), Some(&source));
    assert_eq!(verdict.answer, Answer::Yes, "{verdict:#?}");
    let mut data = fs::read(out.join("external.data")).unwrap();
    data[10] ^= 1;
    fs::write(out.join("external.data"), data).unwrap();
    assert_eq!(verify(&out.join("m.onnx"), None).reason, "digest.weights");
}
