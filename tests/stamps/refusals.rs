//! Every rule under which a model has no digest.

use super::*;

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
    let raw = |t, dims: &[i64], bytes: &[u8]| TensorProto { raw_data: Some(bytes.to_vec().into()), ..typed(t, dims) };
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
    assert!(wire::decode(&*model(&field(4, b""))).is_ok());
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
