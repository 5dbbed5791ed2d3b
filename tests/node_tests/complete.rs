//! The lists of this test against the archive and the operators that have rules.

use crate::{
    FAMILIES,
    archive::index,
    left_out::{CASES, NO_RULE, VERSIONS},
};
use onnx_unlearn::ops::{self, Flow};
use std::collections::BTreeSet;

/// Number of cases in the archive.
const TOTAL: usize = 1793;

/// Operators with a rule that the standard does not have: ONNX Runtime writes them into `ai.onnx` all the same.
const NOT_STANDARD: &[&str] = &["SimplifiedLayerNormalization"];

#[test]
fn every_rule_is_in_the_archive() {
    let has_rule = |name: &str| {
        ops::records()
            .filter(|op| op.domain.is_empty() && op.name == name)
            .any(|op| op.inputs.iter().any(|flow| matches!(flow, Flow::Vjp(_))))
    };
    let names: BTreeSet<&str> =
        ops::records().filter(|op| op.domain.is_empty() && has_rule(op.name)).map(|op| op.name).collect();
    let missing: Vec<&&str> =
        names.iter().filter(|name| !index().versions.contains_key(**name) && !NOT_STANDARD.contains(name)).collect();
    assert!(missing.is_empty(), "operators with a rule that fixtures/make_node_tests.py has not seen: {missing:?}");
    let listed: Vec<&&str> = NO_RULE.iter().filter(|name| has_rule(name)).collect();
    assert!(listed.is_empty(), "operators that are listed without a rule and have one: {listed:?}");
}

#[test]
fn every_operator_of_the_archive_is_in_one_family() {
    let all: Vec<&str> = FAMILIES.iter().flat_map(|family| family.iter().copied()).collect();
    let set: BTreeSet<&str> = all.iter().copied().collect();
    assert_eq!(all.len(), set.len(), "an operator stands in two families");
    assert_eq!(set, index().versions.keys().map(String::as_str).collect());
    assert!(index().cases.iter().all(|case| index().versions[&case.operator].contains(&case.since)));
}

#[test]
fn no_case_is_lost_and_none_is_left_out_twice() {
    assert_eq!(index().cases.len(), TOTAL);
    for left in CASES {
        let found = index().cases.iter().filter(|case| left.covers(case)).count();
        assert_eq!(found, left.count, "cases called {:?}", left.cases);
    }
    for case in &index().cases {
        let by: Vec<&str> = CASES.iter().filter(|left| left.covers(case)).map(|left| left.cases).collect();
        assert!(by.len() < 2, "{} is left out by {by:?}", case.name);
        assert!(
            by.is_empty() || !NO_RULE.contains(&case.operator.as_str()),
            "{} is left out with its operator already",
            case.name
        );
    }
    for unshown in VERSIONS {
        let versions = &index().versions[unshown.operator];
        assert!(unshown.since.iter().all(|v| versions.contains(v)), "versions of {}", unshown.operator);
    }
}
