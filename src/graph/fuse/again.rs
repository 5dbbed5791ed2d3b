//! Has chains of the backward half compute again what the forward half would have to write down and keep for them.
//!
//! A derivative is often made of what the forward chain has at hand (the slope of an activation from its argument). Written
//! down there, it is an array that is written, kept and read. Computed again from what is there in any case, it is none of
//! these.

use super::super::{Graph, Node, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Operators that are computed again for one chain at most.
const STEPS: usize = 16;

/// Rewrites the graph so that chains compute again what costs less that way. Gives the values that are computed again: where
/// they read what a forward chain writes down, they do not belong to that chain.
pub fn compute(graph: &mut Graph, values: &mut HashMap<String, Value>) -> HashSet<String> {
    let groups = super::groups(graph, values, &HashSet::new());
    let mut group_of: Vec<Option<usize>> = vec![None; graph.nodes.len()];
    for (g, members) in groups.iter().enumerate() {
        for i in members {
            group_of[*i] = Some(g);
        }
    }
    let plan = Plan { graph, values, producers: graph.producers(), readers: super::readers(graph), group_of };
    let mut copies: Vec<(usize, BTreeSet<usize>)> = Vec::new();
    for (r, members) in groups.iter().enumerate().filter(|(_, m)| !m.is_empty()) {
        for g in plan.sources(members).into_iter().filter(|g| *g != r) {
            copies.extend(plan.cheaper_again(r, members, g).map(|cone| (r, cone)));
        }
    }
    let mut again: HashSet<String> = HashSet::new();
    for (r, cone) in copies {
        let members = &groups[r];
        let last = graph.nodes[members[members.len() - 1]].outputs[0].clone();
        let mut names: HashMap<String, String> = HashMap::new();
        for i in cone {
            let mut node = graph.nodes[i].clone();
            let (old, new) = (node.outputs[0].clone(), format!("{last}/again/{}", node.outputs[0]));
            values.insert(new.clone(), values[&old].like(&new));
            rename(&mut node, &names);
            (node.name, node.outputs[0]) = (new.clone(), new.clone());
            again.insert(new.clone());
            names.insert(old, new);
            graph.nodes.push(node);
        }
        for i in members {
            rename(&mut graph.nodes[*i], &names);
        }
    }
    graph.sort();
    graph.prune();
    again
}

fn rename(node: &mut Node, names: &HashMap<String, String>) {
    for input in &mut node.inputs {
        if let Some(name) = names.get(input.as_str()) {
            input.clone_from(name);
        }
    }
}

struct Plan<'g> {
    graph: &'g Graph,
    values: &'g HashMap<String, Value>,
    producers: BTreeMap<&'g str, usize>,
    readers: HashMap<&'g str, Vec<usize>>,
    group_of: Vec<Option<usize>>,
}

impl<'g> Plan<'g> {
    /// The groups that others read from.
    fn sources(&self, members: &[usize]) -> BTreeSet<usize> {
        let read = members.iter().flat_map(|i| self.graph.nodes[*i].reads());
        read.filter_map(|name| self.group_of[*self.producers.get(name)?]).collect()
    }

    fn group(&self, reader: usize) -> Option<usize> {
        self.group_of.get(reader).copied().flatten()
    }

    /// What group `r` should compute again of group `g`, as nodes of `g` in order; `None` where that saves nothing: at least
    /// as many arrays have to be written no more as are kept for it instead, and then `r` reads no more than before.
    fn cheaper_again(&self, r: usize, members: &[usize], g: usize) -> Option<BTreeSet<usize>> {
        let reads: BTreeSet<&str> = members.iter().flat_map(|i| self.graph.nodes[*i].reads()).collect();
        let shape = self.values[&self.graph.nodes[members[0]].outputs[0]].shape();
        let whole = |name: &str| self.values.get(name).is_some_and(|v| v.len() * 2 > shape.iter().product());
        let from_g = |name: &str| self.producers.get(name).is_some_and(|p| self.group_of[*p] == Some(g));
        // What is written down in any case: something that is no chain reads it.
        let kept = |name: &str| self.readers[name].iter().any(|i| self.group(*i).is_none());
        let wanted: Vec<&str> = reads.iter().copied().filter(|name| from_g(name) && !kept(name)).collect();
        if wanted.is_empty() || wanted.iter().any(|name| self.values[*name].shape() != shape) {
            return None;
        }
        let (mut cone, mut sources) = (BTreeSet::new(), BTreeSet::new());
        let mut stack: Vec<&'g str> = wanted.clone();
        while let Some(name) = stack.pop() {
            if !from_g(name) || kept(name) {
                sources.insert(name);
            } else if cone.insert(self.producers[name]) {
                stack.extend(self.graph.nodes[self.producers[name]].reads());
            }
        }
        let dropped = wanted.iter().filter(|name| {
            self.readers[**name].iter().all(|i| self.group(*i).is_some_and(|reader| reader == r || reader == g))
        });
        let dropped = dropped.count();
        let new = sources.iter().filter(|name| whole(name) && !reads.contains(*name)).count();
        (cone.len() <= STEPS && new <= dropped).then_some(cone)
    }
}
