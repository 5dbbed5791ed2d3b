use crate::{
    harness::{any, case},
    norm::refusal,
};
use onnx_unlearn::{
    autodiff,
    graph::{Attr, Attrs, Builder, Node},
    tensor::{DType, Tensor},
};
use std::collections::{BTreeSet, HashMap};

/// Every operand of every equation, at the given shapes.
fn check(equation: &'static str, shapes: &[&[usize]]) {
    check_at(18, equation, shapes);
}

fn check_at(opset: i64, equation: &'static str, shapes: &[&[usize]]) {
    let node = case("Einsum").opset(opset).attr("equation", equation);
    shapes.iter().fold(node, |node, shape| node.grad(any(shape))).check();
}

#[test]
fn einsum() {
    for opset in [12, 13, 18, 22, 23] {
        check_at(opset, "ij,jk->ik", &[&[2, 3], &[3, 4]]);
        check_at(opset, "...ij,...jk", &[&[2, 2, 3], &[2, 3, 2]]);
    }
    check(" b h i d , b h j d -> b h i j ", &[&[2, 2, 3, 2], &[2, 2, 2, 2]]);
    check("bij,bjk->bki", &[&[2, 3, 2], &[2, 2, 3]]);
    check("i,j->ji", &[&[2], &[3]]);
    check("i,i->", &[&[3], &[3]]);
    check("ij,ij->ij", &[&[2, 3], &[2, 3]]);
    check("aB,Bc->cBa", &[&[2, 3], &[3, 2]]);
    // One operand: moved, as it is, and summed axes.
    check("ij->ji", &[&[2, 3]]);
    check("ij->ij", &[&[2, 3]]);
    check("ijk->j", &[&[2, 3, 2]]);
    check("ij->", &[&[2, 3]]);
    check("->", &[&[]]);
    // A label that only one operand has and the output has not.
    check("ij,jk->i", &[&[2, 3], &[3, 4]]);
    check("ij,kl->ik", &[&[2, 3], &[3, 2]]);
    check("ij,k->", &[&[2, 3], &[2]]);
    // Scalars.
    check("ij,->ij", &[&[2, 3], &[]]);
    check(",i,->i", &[&[], &[3], &[]]);
    check(",->", &[&[], &[]]);
    // Several operands.
    check("ab,bc,cd->ad", &[&[2, 3], &[3, 2], &[2, 4]]);
    check("ab,bc,cd,de->ae", &[&[2, 3], &[3, 2], &[2, 3], &[3, 2]]);
    check("abc,abc,abc->a", &[&[2, 3, 2], &[2, 3, 2], &[2, 3, 2]]);
    check("i,ij,jk,k->", &[&[2], &[2, 3], &[3, 2], &[2]]);
    check("bi,oij,bj->bo", &[&[2, 3], &[2, 3, 2], &[2, 2]]);
}

#[test]
fn einsum_without_output() {
    check("ij,jk", &[&[2, 3], &[3, 4]]);
    check("cb,ba", &[&[2, 3], &[3, 4]]);
    check("ji", &[&[2, 3]]);
    check("ij,ij", &[&[2, 3], &[2, 3]]);
    check("ii", &[&[3, 3]]);
    check("j...i", &[&[2, 4, 3]]);
    check("b...,bc", &[&[2, 3], &[2, 2]]);
}

#[test]
fn einsum_with_ellipsis() {
    check("...ij,...jk->...ik", &[&[2, 2, 3, 2], &[2, 2, 2, 2]]);
    check("...ij,jk->...ik", &[&[2, 2, 3, 2], &[2, 2]]);
    check("i...,i->...", &[&[2, 3, 2], &[2]]);
    check("i...j,j->i...", &[&[2, 3, 2, 2], &[2]]);
    check("a...,...b->ab...", &[&[2, 3], &[3, 4]]);
    check("...,...->...", &[&[2, 3], &[2, 3]]);
    // No axis under it.
    check("...ij->...ji", &[&[2, 3]]);
    // Repeated where one operand has length 1.
    check("...ij,...jk->...ik", &[&[1, 2, 3, 2], &[2, 1, 2, 2]]);
    check("...i,...i->...", &[&[2, 1, 3], &[1, 2, 3]]);
}

#[test]
fn einsum_with_lengths_of_one() {
    check("ij,ij->ij", &[&[2, 1], &[2, 3]]);
    check("ij,ij->ij", &[&[1, 3], &[2, 1]]);
    check("ij,jk->ik", &[&[2, 1], &[3, 2]]);
    check("ij,jk->ik", &[&[2, 3], &[1, 2]]);
    check("ij,ij->", &[&[1, 1], &[2, 3]]);
    check("ij,ij,ij->j", &[&[2, 1], &[1, 3], &[2, 3]]);
    check("ij,jk->ik", &[&[1, 1], &[1, 1]]);
}

#[test]
fn einsum_on_diagonals() {
    check("ii->i", &[&[3, 3]]);
    check("ii->", &[&[3, 3]]);
    check("iii->i", &[&[3, 3, 3]]);
    check("iij->ij", &[&[3, 3, 2]]);
    check("iji,j->i", &[&[2, 3, 2], &[3]]);
    check("ii,i->i", &[&[3, 3], &[3]]);
    check("ij,jj->i", &[&[2, 3], &[3, 3]]);
    check("iij,jkk->ik", &[&[2, 2, 3], &[3, 2, 2]]);
    check("ijij->j", &[&[2, 3, 2, 3]]);
    check("...ii->...i", &[&[2, 3, 3]]);
    // Repeated and summed, while the output knows the label from another operand only.
    check("ii,j->j", &[&[3, 3], &[2]]);
}

#[test]
fn equations_that_are_refused() {
    let why = |equation: &str, shapes: &[&[usize]], y: &[usize]| {
        refusal("Einsum", Attrs::from([("equation".to_owned(), Attr::Str(equation.into()))]), shapes, &[y], 0)
    };
    let m: &[usize] = &[2, 2];
    for (equation, expected) in [
        ("ij,jk->ik", "1 operands"),
        ("i1->i", "terms of letters with an ellipsis at most"),
        ("i..j->ij", "terms of letters with an ellipsis at most"),
        ("i->i", "as many labels as axes in every operand"),
        ("ijk->ij", "as many labels as axes in every operand"),
        ("ij->ik", "an output of 2 axes that operands have"),
        ("ij->i", "an output of 2 axes that operands have"),
    ] {
        let said = why(equation, &[m], m);
        assert!(said.contains(&format!("equation: expected {expected}, got {equation:?}")), "{said}");
    }
    let letters: String = ('a'..='z').chain('A'..='Z').collect();
    let said = why(&format!("...,{letters}->..."), &[m, &[1; 52]], m);
    assert!(said.contains("no more than 52 labels"), "{said}");
    let said = why(&format!("aa,{letters}->bc"), &[m, &[1; 52]], m);
    assert!(said.contains("letters to spare for repeated labels"), "{said}");
}

/// The runtime multiplies from left to right, so a chain must not begin with an outer product.
#[test]
fn chains_are_multiplied_along_the_chain() {
    let mut b = Builder::new(18);
    let node = Node {
        name: "chain".into(),
        op: "Einsum".into(),
        domain: String::new(),
        inputs: ["x0", "x1", "x2"].map(String::from).to_vec(),
        outputs: vec!["y".into()],
        attrs: Attrs::from([("equation".to_owned(), "ab,bc,cd->ad".into())]),
    };
    for (name, shape) in node.inputs.iter().zip([[20, 30], [30, 40], [40, 50]]) {
        b.input(name, DType::F32, &shape);
    }
    b.forward(node.clone(), &[vec![20, 50]]);
    let y = b.value("y").expect("the output").clone();
    let seed = b.constant(Tensor::zeros([20, 50]));
    let wanted = BTreeSet::from(["x0".to_owned()]);
    let found =
        autodiff::backward(&mut b, &[node], &HashMap::new(), &[(y, seed)], &wanted, DType::F32).expect("a rule");
    b.output(&found["x0"]);
    let text = b.finish().to_string();
    assert!(text.contains("ad,cd,bc->ab"), "{text}");
}
