//! Models that cannot be trained: the message names file, node or tensor and what to do.

use crate::common::{
    model,
    models::{self, dense, product},
    program::{Forget, run},
    proto::*,
    temporary,
};
use onnx_unlearn::{
    graph::{Attr, Builder, Value},
    onnx::schema::*,
    tensor::{Data, Tensor},
};
use prost::Message;
use std::{fs, path::Path, sync::Arc};

/// Runs `forget` on the model and checks that it is refused with these words and without a trace.
#[track_caller]
fn refused(path: &Path, words: &[&str]) -> String {
    let forget = Forget::new(path);
    let ran = forget.run().fails(words);
    assert!(!forget.out().exists(), "nothing is left behind");
    ran.error().to_owned()
}

/// The same for a model built on the spot.
#[track_caller]
fn refused_build(build: impl FnOnce(&mut Builder, Value) -> Vec<Value>, words: &[&str]) -> String {
    let folder = temporary();
    let path = folder.path().join("built.onnx");
    models::write(&path, build, |_| {});
    refused(&path, words)
}

#[test]
fn a_file_that_is_not_there() {
    refused(Path::new("no/such/model.onnx"), &["cannot read no/such/model.onnx", "No such file"]);
    refused(Path::new("fixtures"), &["cannot read fixtures", "directory"]);
}

#[test]
fn a_file_that_is_no_model() {
    let folder = temporary();
    let path = folder.path().join("text.onnx");
    for text in ["This is a text about models.\n", "PK\u{3}\u{4}", "{\"json\": true}"] {
        fs::write(&path, text).expect("written");
        refused(&path, &["text.onnx is not an ONNX file, or is cut off or damaged"]);
    }
    fs::write(&path, b"").expect("written");
    refused(&path, &["text.onnx holds no graph: it is not an ONNX model"]);
}

#[test]
fn a_cut_model() {
    let folder = temporary();
    let path = folder.path().join("cut.onnx");
    let whole = fs::read(model("fashion-mnist")).expect("readable");
    for length in [10, 1000, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).expect("written");
        refused(&path, &["cut.onnx is not an ONNX file, or is cut off or damaged", "the data ends early"]);
    }
}

#[test]
fn external_data_that_is_missing_or_cut() {
    let folder = temporary();
    let path = folder.path().join("fashion-mnist-external.onnx");
    fs::copy(model("fashion-mnist-external"), &path).expect("copied");
    refused(&path, &["fashion-mnist-external.onnx: tensor \"", "fashion-mnist-external.data", "No such file"]);
    let data = fs::read(model("fashion-mnist-external").with_extension("data")).expect("readable");
    fs::write(path.with_extension("data"), &data[..data.len() / 2]).expect("written");
    refused(&path, &["tensor \"", "pass the end of external file", "fashion-mnist-external.data"]);
}

#[test]
fn external_data_called_like_a_file_of_the_result() {
    let folder = temporary();
    let (path, name) = (folder.path().join("source.onnx"), b"fashion-mnist-external.data");
    let original = fs::read(model("fashion-mnist-external")).expect("readable");
    let data = fs::read(model("fashion-mnist-external").with_extension("data")).expect("readable");
    // As long as the name it replaces.
    for own in ["././././unlearn-report.html", "././././unlearn-report.json", ".//./././././././model.onnx"] {
        assert_eq!(own.len(), name.len());
        let mut changed = original.clone();
        let at: Vec<usize> = (0..changed.len() - name.len()).filter(|&i| changed[i..].starts_with(name)).collect();
        for i in at {
            changed[i..i + name.len()].copy_from_slice(own.as_bytes());
        }
        fs::write(&path, changed).expect("written");
        fs::write(folder.path().join(own), &data).expect("written");
        refused(&path, &["the source keeps data in", "which is the name of a file of the result"]);
    }
}

#[test]
fn external_data_outside_the_folder() {
    let bytes = fs::read(model("fashion-mnist-external")).expect("readable");
    let folder = temporary();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).expect("a folder");
    let path = inner.join("model.onnx");
    let data = fs::read(model("fashion-mnist-external").with_extension("data")).expect("readable");
    // Names of the same length, so that the bytes around them stay right.
    let name = b"fashion-mnist-external.data";
    for outside in ["../hion-mnist-external.data", "/ashion-mnist-external.data", "inner/../../-external.data\0"] {
        let outside = &outside.as_bytes()[..name.len().min(outside.len())];
        let mut changed = bytes.clone();
        let mut at = 0;
        while let Some(found) = changed[at..].windows(name.len()).position(|w| w == name) {
            changed[at + found..at + found + outside.len()].copy_from_slice(outside);
            at += found + name.len();
        }
        fs::write(&path, changed).expect("written");
        fs::write(folder.path().join("hion-mnist-external.data"), &data).expect("written");
        refused(&path, &["model.onnx: tensor \"", "leaves the model's folder", "relative path without `..`"]);
    }
    #[cfg(unix)]
    {
        fs::write(&path, &bytes).expect("written");
        let link = inner.join("fashion-mnist-external.data");
        std::os::unix::fs::symlink(folder.path().join("hion-mnist-external.data"), &link).expect("linked");
        refused(&path, &["tensor \"", "is or lies behind a symbolic link"]);
    }
}

#[test]
fn no_classifier_head() {
    let argmax = |b: &mut Builder, x: Value| {
        let scores = dense(b, &x, 10);
        vec![b.op("ArgMax", &[&scores], &[("axis", Attr::Int(1)), ("keepdims", Attr::Int(0))], &[1])]
    };
    refused_build(argmax, &["no classifier head", "\"ArgMax\" ends in ArgMax", "one score per class"]);
    let loss = |b: &mut Builder, x: Value| {
        let scores = dense(b, &x, 10);
        let labels = b.constant(Tensor::ints(&[3]));
        vec![b.op("SoftmaxCrossEntropyLoss", &[&scores, &labels], &[], &[])]
    };
    let said =
        "is the loss of a training graph (SoftmaxCrossEntropyLoss, node \"SoftmaxCrossEntropyLoss\"); name the output";
    refused_build(loss, &["no classifier head", said, "with --output NAME"]);
    let rank_four = |b: &mut Builder, x: Value| {
        let scores = dense(b, &x, 12);
        let shape = b.constant(Tensor::ints(&[-1, 3, 2, 2]));
        vec![b.op("Reshape", &[&scores, &shape], &[], &[1, 3, 2, 2])]
    };
    refused_build(rank_four, &["no classifier head", "shape [2, 3, 2, 2]", "[batch, classes]"]);
    let said = "no classifier head: \"MatMul\" has shape [2, 0], which holds no scores";
    refused_build(|b, x| vec![dense(b, &x, 0)], &["built.onnx", said]);
}

/// Three groups of four scores are no twelve classes, whatever their shape in the end.
#[test]
fn a_softmax_over_other_groups_than_the_classes() {
    let build = |b: &mut Builder, x: Value| {
        let scores = dense(b, &x, 12);
        let shape = b.constant(Tensor::ints(&[-1, 3, 4]));
        let groups = b.op("Reshape", &[&scores, &shape], &[], &[1, 3, 4]);
        let each = b.op("Softmax", &[&groups], &[("axis", Attr::Int(-1))], &[1, 3, 4]);
        vec![b.op("Flatten", &[&each], &[], &[1, 12])]
    };
    let said = "node \"Softmax\" (Softmax) is taken over axis -1 of shape [2, 3, 4], but \"Flatten_2\" of shape [2, 12] is read \
                as 12 classes a prediction; export the model with a single softmax over all classes";
    refused_build(build, &["built.onnx: no classifier head", said]);
}

#[test]
fn several_outputs_need_a_choice() {
    let folder = temporary();
    let path = folder.path().join("two.onnx");
    let two = |b: &mut Builder, x: Value| {
        let scores = dense(b, &x, 10);
        let doubled = b.op("Add", &[&scores, &scores], &[], &[1, 10]);
        vec![scores, doubled]
    };
    models::write(&path, two, |_| {});
    refused(&path, &["several outputs (MatMul, Add); say which one holds the class scores with --output NAME"]);
    let wrong = Forget::new(&path).set("--output", "Sum").run();
    wrong.fails(&["--output Sum: the model has no such output; it has MatMul, Add"]);
    let right = Forget::new(&path).set("--output", "Add").flag("--keep-failed");
    right.run().says(&["the loss is computed on Add"]);
    assert_eq!(right.report()["head"]["output"], "Add");
}

#[test]
fn random_numbers_in_a_model() {
    let build = |b: &mut Builder, x: Value| {
        let noise = b.op("RandomNormalLike", &[&x], &[], &[1, 1, 28, 28]);
        let noisy = b.op("Add", &[&x, &noise], &[], &[1, 1, 28, 28]);
        vec![dense(b, &noisy, 10)]
    };
    refused_build(
        build,
        &["in node \"RandomNormalLike\" (RandomNormalLike): it draws random numbers", "inference mode"],
    );
}

#[test]
fn every_operator_without_a_rule_is_listed() {
    let build = |b: &mut Builder, x: Value| {
        let bent = b.op("DeformConv", &[&x], &[], &[1, 1, 28, 28]);
        let scores = dense(b, &bent, 10);
        vec![b.op("RoiAlign", &[&scores], &[], &[1, 10])]
    };
    let error = refused_build(build, &["built.onnx: cannot be trained: 2 node(s) cannot be differentiated"]);
    for node in ["DeformConv", "RoiAlign"] {
        let line = error.lines().find(|line| line.contains(node)).unwrap_or_else(|| panic!("{node} in {error}"));
        assert!(line.contains("no gradient rule for this operator"), "{line}");
    }
}

#[test]
fn an_input_that_is_rounded_away() {
    let build = |b: &mut Builder, x: Value| {
        let whole = b.op("Round", &[&x], &[], &[1, 1, 28, 28]);
        vec![dense(b, &whole, 10)]
    };
    let why = "noise cannot be learned: every path from input \"input\" to the class scores passes \"Round\" (Round), \
               whose derivative is zero wherever it exists";
    refused_build(build, &["built.onnx", why]);
    let build = |b: &mut Builder, x: Value| {
        let zero = b.constant(Tensor::scalar(0.0));
        let mask = b.op("Greater", &[&x, &zero], &[], &[1, 1, 28, 28]);
        let mask = b.op("Cast", &[&mask], &[("to", Attr::Int(1))], &[1, 1, 28, 28]);
        vec![dense(b, &mask, 10)]
    };
    refused_build(build, &["noise cannot be learned", "passes a comparison or an index"]);
}

#[test]
fn weights_in_integers() {
    let way_out = "unlearn the float model it was made from and quantise the result, or use the QDQ form";
    let u8s = |b: &mut Builder, name: &str, shape: &[usize]| {
        let data = Data::U8(vec![130; shape.iter().product()]);
        b.named_constant(name, Arc::new(Tensor::new(shape.to_vec(), data)))
    };
    // As quantize_dynamic writes it.
    let dynamic = |b: &mut Builder, x: Value| {
        let flat = b.op("Flatten", &[&x], &[], &[1, 784]);
        let q = b.raw("", "DynamicQuantizeLinear", &[flat.name()], &[], &[vec![1, 784], vec![], vec![]]);
        let (w, zero) = (u8s(b, "w", &[784, 10]), u8s(b, "w_zero", &[]));
        let sums = b.op("MatMulInteger", &[&q[0], &w, &q[2], &zero], &[], &[1, 10]);
        let sums = b.op("Cast", &[&sums], &[("to", Attr::Int(1))], &[1, 10]);
        vec![b.op("Mul", &[&sums, &q[1]], &[], &[1, 10])]
    };
    refused_build(dynamic, &["is quantised (DynamicQuantizeLinear, MatMulInteger)", way_out]);
    // As quantize_static writes the QOperator form.
    let operators = |b: &mut Builder, x: Value| {
        let (scale, zero) = (b.constant(Tensor::scalar(0.02)), u8s(b, "zero", &[]));
        let q = b.op("QuantizeLinear", &[&x, &scale, &zero], &[], &[1, 1, 28, 28]);
        let w = u8s(b, "w", &[10, 1, 28, 28]);
        let y = b.op("QLinearConv", &[&q, &scale, &zero, &w, &scale, &zero, &scale, &zero], &[], &[1, 10, 1, 1]);
        vec![b.op("DequantizeLinear", &[&y, &scale, &zero], &[], &[1, 10, 1, 1])]
    };
    refused_build(operators, &["is quantised (QLinearConv)", "none reaches input \"input\"", way_out]);
}

#[test]
fn a_file_laid_out_for_one_processor() {
    let build = |b: &mut Builder, x: Value| {
        let y = b.raw("com.microsoft.nchwc", "ReorderOutput", &[x.name()], &[], &[vec![1, 1, 28, 28]]).remove(0);
        vec![dense(b, &y, 10)]
    };
    refused_build(build, &["com.microsoft.nchwc.ReorderOutput", "use the file it was made from"]);
}

#[test]
fn control_flow_that_a_gradient_has_to_pass() {
    let folder = temporary();
    let path = folder.path().join("flow.onnx");
    let body = body("t", data_type::FLOAT, vec![node("Sin", &["t"], &["u"])], "u");
    let branch = |op: &str, out: &str| inner(vec![node(op, &["s"], &[out])], &[out]);
    let named = |name: &str, node: NodeProto| NodeProto { name: Some(name.into()), ..node };
    let nodes = vec![
        node("MatMul", &["x", "w"], &["m"]),
        named("turns", node("Loop", &["n", "", "m"], &["s"])).with(graph("body", body)),
        node("ReduceSum", &["s"], &["sum"]).with(int("keepdims", 0)),
        node("Greater", &["sum", "limit"], &["c"]),
        named("chooses", node("If", &["c"], &["y"]))
            .with(graph("then_branch", branch("Neg", "a")))
            .with(graph("else_branch", branch("Exp", "b"))),
    ];
    let numbers = vec![integers("n", &[], &[2]), floats("limit", &[], &[0.0]), floats("w", &[3, 2], &[0.5; 6])];
    let model = ModelProto {
        opset_import: vec![import("", OPSET)],
        graph: Some(GraphProto {
            initializer: numbers,
            input: vec![shaped("x", data_type::FLOAT, Some(&[-1, 3]))],
            ..inner(nodes, &["y"])
        }),
        ..ModelProto::default()
    };
    fs::write(&path, model.encode_to_vec()).expect("written");
    let error = refused(&path, &["flow.onnx: cannot be trained: 2 node(s) cannot be differentiated"]);
    for node in ["in node \"turns\" (Loop): ", "in node \"chooses\" (If): "] {
        let line = error.lines().find(|line| line.contains(node)).unwrap_or_else(|| panic!("{node} in {error}"));
        assert!(line.contains("control flow; take it out of the file before: export the model without it"), "{line}");
    }
}

#[test]
fn a_declared_batch_is_measured_in_batches_of_its_size() {
    let folder = temporary();
    let path = folder.path().join("four.onnx");
    let declare = |graph: &mut onnx_unlearn::graph::Graph| {
        graph.inputs[0].dims = Some(vec![Some(4), Some(1), Some(28), Some(28)]);
    };
    models::write(&path, |b, x| vec![dense(b, &x, 10)], declare);
    let forget = Forget::new(&path);
    let ran = forget.run().exits(0);
    assert!(ran.stdout.contains("4 of 4 predictions equal"), "{}", ran.stdout);
    assert_eq!(forget.report()["measured"]["before"]["classes"][0]["total"], 10);
}

#[test]
fn a_frozen_batch_is_explained() {
    // The batch is 1 by a Reshape inside.
    let reshape = |b: &mut Builder, x: Value| {
        let shape = b.constant(Tensor::ints(&[1, 784]));
        let flat = b.op("Reshape", &[&x, &shape], &[], &[1, 784]);
        vec![product(b, &flat, 10)]
    };
    refused_build(reshape, &["built.onnx", "export it with a dynamic batch axis"]);
    // The batch is averaged away.
    let mean = |b: &mut Builder, x: Value| {
        let scores = dense(b, &x, 10);
        vec![b.op("ReduceMean", &[&scores], &[("axes", Attr::Ints(vec![0])), ("keepdims", Attr::Int(1))], &[1, 10])]
    };
    let error = refused_build(mean, &["built.onnx", "the batch size is frozen into the graph", "dynamic batch axis"]);
    assert!(error.contains("[1, 10] instead of ["), "{error}");
}

#[test]
fn nothing_to_train() {
    let build = |b: &mut Builder, x: Value| {
        let shape = b.constant(Tensor::ints(&[-1, 784]));
        vec![b.op("Reshape", &[&x, &shape], &[], &[1, 784])]
    };
    refused_build(build, &["built.onnx: no weights to train: the model stores no float tensors"]);
}

#[test]
fn inputs_that_cannot_be_fed() {
    let folder = temporary();
    let path = folder.path().join("inputs.onnx");
    let two = |b: &mut Builder, x: Value| {
        let other = b.input("mask", onnx_unlearn::tensor::DType::F32, &[1, 1, 28, 28]);
        let masked = b.op("Mul", &[&x, &other], &[], &[1, 1, 28, 28]);
        vec![dense(b, &masked, 10)]
    };
    models::write(&path, two, |_| {});
    refused(&path, &["depend on several inputs (input, mask); say which one holds the samples with --input NAME"]);
    let unknown = Forget::new(&path).set("--input", "picture");
    unknown.run().fails(&["depend on no input \"picture\"; they depend on input, mask"]);
    let absent = Forget::new(&path).set("--input", "input");
    absent.run().fails(&["--retain", "holds no array `mask`, only `x`, `y`"]);
    let wordy = Forget::new(&path).set("--input", "input").set("--constant", "mask=all");
    wordy.run().fails(&["--constant mask=all: expected NAME=VALUE"]);
}

#[test]
fn the_source_is_never_overwritten() {
    let folder = temporary();
    let path = folder.path().join("model.onnx");
    fs::copy(model("fashion-mnist"), &path).expect("copied");
    let before = fs::read(&path).expect("readable");
    let run = |force: bool| {
        let forget = Forget::new(&path).set("--out", folder.path());
        if force { forget.flag("--force").run() } else { forget.run() }
    };
    run(false).fails(&["model.onnx exists; choose another --out folder"]);
    run(true).fails(&["--out", "the result would replace the input", "model.onnx"]);
    assert!(fs::read(&path).expect("readable") == before);
}

#[test]
fn a_result_that_tract_cannot_check_is_a_no() {
    // tract has no LpPool; ONNX Runtime does.
    let folder = temporary();
    let path = folder.path().join("pooled.onnx");
    let pooled = |b: &mut Builder, x: Value| {
        let attrs = [("kernel_shape", Attr::Ints(vec![4, 4])), ("strides", Attr::Ints(vec![4, 4]))];
        let small = b.op("LpPool", &[&x], &attrs, &[1, 1, 7, 7]);
        let flat = b.op("Flatten", &[&small], &[], &[1, 49]);
        vec![product(b, &flat, 10)]
    };
    models::write(&path, pooled, |_| {});
    // Gates that let everything pass: only the check decides.
    let free = || Forget::new(&path).set("--max-forget-accuracy", "1").set("--max-retain-drop", "1");
    let refused = free();
    let ran = refused.run().exits(1);
    for line in [
        "check        not checked   not checked: tract cannot load the model: ",
        "LpPool",
        "verdict      not assessed\n",
        "(--allow-unchecked writes it all the same)",
    ] {
        assert!(ran.stdout.contains(line), "{line:?} is missing in\n{}", ran.stdout);
    }
    assert!(!refused.out().exists());
    let allowed = free().flag("--allow-unchecked");
    allowed.run().exits(0);
    assert_eq!(allowed.report()["check"]["outcome"], "not_checked");
    run(["verify".as_ref(), allowed.result().as_os_str()]).exits(0);
}
