//! Writes calls of model-local functions, and branches that are always taken, out as plain nodes.
//!
//! All of it happens to the decoded copy that the graph is built from; the file's bytes keep their functions. Names of
//! the main graph stay. What stood in a body is renamed after the node that called it, so that every name is unique, in
//! graphs inside nodes too.

use super::{
    schema::{AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, ValueInfoProto},
    subgraph,
};
use prost::Message as _;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    rc::Rc,
};

/// Functions and graphs may lie this deep inside each other. A graph takes three messages of the hundred that protobuf
/// readers allow.
const MAX_DEPTH: usize = 32;

/// Nodes and bytes that may be written: a chain of functions that each call the next one twice is a small file and an
/// endless graph.
const MAX_NODES: usize = 200_000;
const MAX_BYTES: usize = 1 << 30;

/// Domain, name and overload of a function.
type Key = (String, String, String);

/// The functions of a model, and the names that are taken.
pub(super) struct Inliner {
    opset: i64,
    functions: BTreeMap<Key, Rc<FunctionProto>>,
    /// Functions of which there are two.
    twice: BTreeSet<Key>,
    values: Names,
    nodes: Names,
    enclosed: HashSet<String>,
    written: usize,
    bytes: usize,
}

/// What a branch becomes.
pub(super) struct Branch {
    pub initializers: Vec<TensorProto>,
    pub nodes: Vec<NodeProto>,
}

/// A body as it stands in the file.
struct Body<'b> {
    nodes: &'b [NodeProto],
    initializers: &'b [TensorProto],
    outputs: Vec<&'b str>,
}

/// What names mean inside a body.
#[derive(Clone)]
struct Scope<'a> {
    /// The node that is replaced: everything is named after it.
    prefix: &'a str,
    /// What the names of the body are called in the graph; empty for an input that is left out.
    values: HashMap<String, String>,
    /// Attributes of a function. `None` in a branch, which sees the names around it and has no attributes.
    attributes: Option<&'a BTreeMap<&'a str, &'a AttributeProto>>,
}

impl Scope<'_> {
    fn value(&self, name: &str) -> Result<String, String> {
        match (self.values.get(name), self.attributes) {
            (Some(value), _) => Ok(value.clone()),
            (None, _) if name.is_empty() => Ok(String::new()),
            (None, None) => Ok(name.to_owned()),
            (None, Some(_)) => {
                Err(format!("{name:?} is read in the function, but is neither its input nor written there"))
            }
        }
    }
}

/// The name of a node; nameless ones are called after their first output.
pub(super) fn name_of(n: &NodeProto) -> &str {
    let first = || n.output.iter().find(|o| !o.is_empty()).map_or(n.op_type(), String::as_str);
    if n.name().is_empty() { first() } else { n.name() }
}

/// The empty name for `ai.onnx`, which has two.
pub(super) fn domain_of(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

fn describe((domain, name, overload): &Key) -> String {
    let dot = if domain.is_empty() { "" } else { "." };
    let overload = if overload.is_empty() { String::new() } else { format!(" (overload {overload:?})") };
    format!("{domain}{dot}{name}{overload}")
}

impl Inliner {
    /// Takes note of the functions and of every name in `graph`.
    pub fn new(functions: Vec<FunctionProto>, graph: &GraphProto, opset: i64) -> Self {
        let mut this = Self {
            opset,
            functions: BTreeMap::new(),
            twice: BTreeSet::new(),
            values: Names::default(),
            nodes: Names::default(),
            enclosed: HashSet::new(),
            written: 0,
            bytes: 0,
        };
        for f in functions {
            let key = (domain_of(f.domain()).to_owned(), f.name().to_owned(), f.overload().to_owned());
            if this.functions.insert(key.clone(), Rc::new(f)).is_some() {
                this.twice.insert(key);
            }
        }
        this.note_names(graph);
        this
    }

    fn note_names(&mut self, graph: &GraphProto) {
        self.values.taken.extend(graph.input.iter().chain(&graph.output).map(|v| v.name().to_owned()));
        self.values.taken.extend(graph.initializer.iter().map(|t| t.name().to_owned()));
        for n in &graph.node {
            self.nodes.taken.insert(name_of(n).to_owned());
            self.values.taken.extend(n.input.iter().chain(&n.output).cloned());
            subgraph::inside(n).for_each(|g| self.note_names(g));
        }
    }

    /// True when a Constant node that writes `name` came out of a function or a branch: the file has no tensor of that
    /// name in its main graph.
    pub fn is_enclosed(&self, name: &str) -> bool {
        self.enclosed.contains(name)
    }

    /// The nodes of the main graph without calls of functions, also inside their graphs; and the calls that are refused.
    pub fn flatten(&mut self, nodes: Vec<NodeProto>) -> (Vec<NodeProto>, Vec<String>) {
        let (mut flat, mut reasons) = (Vec::with_capacity(nodes.len()), Vec::new());
        for n in nodes {
            let label = format!("{:?} ({})", name_of(&n), describe(&key_of(&n)));
            if let Err(reason) = self.flat(n, &mut Vec::new(), &mut flat) {
                reasons.push(format!("node {label}: {reason}"));
            }
        }
        (flat, reasons)
    }

    /// `stack` holds the functions (`None` for graphs) that `n` lies in.
    fn flat(&mut self, mut n: NodeProto, stack: &mut Vec<Option<Key>>, out: &mut Vec<NodeProto>) -> Result<(), String> {
        if stack.len() > MAX_DEPTH {
            return Err(format!("functions and graphs are nested more than {MAX_DEPTH} deep"));
        }
        let key = key_of(&n);
        if self.functions.contains_key(&key) {
            if stack.iter().any(|k| k.as_ref() == Some(&key)) {
                let chain: Vec<String> = stack.iter().flatten().chain([&key]).map(describe).collect();
                return Err(format!("a function calls itself: {}", chain.join(" -> ")));
            }
            let body = self.call(&n, &key)?;
            stack.push(Some(key));
            for inner in body {
                self.flat(inner, stack, out)?;
            }
        } else if self.functions.keys().any(|(domain, name, _)| (domain, name) == (&key.0, &key.1)) {
            return Err(format!("the model has no function {}.{} of this overload", key.0, key.1));
        } else {
            stack.push(None);
            for g in n.attribute.iter_mut().flat_map(|a| a.g.as_deref_mut().into_iter().chain(&mut a.graphs)) {
                let mut flat = Vec::with_capacity(g.node.len());
                for inner in std::mem::take(&mut g.node) {
                    self.flat(inner, stack, &mut flat)?;
                }
                g.node = flat;
            }
            out.push(n);
        }
        stack.pop();
        Ok(())
    }

    /// The nodes of a function, as this node calls it.
    fn call(&mut self, n: &NodeProto, key: &Key) -> Result<Vec<NodeProto>, String> {
        let f = Rc::clone(&self.functions[key]);
        let called = describe(key);
        if self.twice.contains(key) {
            return Err(format!("the model defines function {called} twice"));
        }
        if matches!(key.0.as_str(), "" | "com.microsoft") {
            return Err(format!(
                "{called} is a function of the model in a domain of standard operators: readers disagree which counts"
            ));
        }
        let opset = self.opset;
        let import = f.opset_import.iter().find(|o| domain_of(o.domain()).is_empty() && o.version() != opset);
        if let Some(other) = import {
            return Err(format!(
                "function {called} is written in opset {} of ai.onnx and the model in opset {opset}; bring both to one \
                 opset (onnx.version_converter), or inline the function before (onnx.inliner)",
                other.version()
            ));
        }
        for (given, declared, what) in [(&n.input, &f.input, "inputs"), (&n.output, &f.output, "outputs")] {
            if given.len() > declared.len() {
                return Err(format!("{} {what} for function {called}, which has {}", given.len(), declared.len()));
            }
        }
        let attributes: BTreeMap<&str, &AttributeProto> =
            f.attribute_proto.iter().chain(&n.attribute).map(|a| (a.name(), a)).collect();
        let given = n.input.iter().cloned().chain(std::iter::repeat(String::new()));
        let scope = Scope {
            prefix: name_of(n),
            values: f.input.iter().cloned().zip(given).collect(),
            attributes: Some(&attributes),
        };
        let outputs = f.output.iter().map(String::as_str).collect();
        let body = Body { nodes: &f.node, initializers: &[], outputs };
        Ok(self.splice(&body, &n.output, scope).map_err(|e| format!("function {called}: {e}"))?.nodes)
    }

    /// One branch of an `If`, in its place.
    pub fn branch(&mut self, n: &NodeProto, then: bool) -> Result<Branch, String> {
        let attribute = if then { "then_branch" } else { "else_branch" };
        let graph = n.attribute.iter().find(|a| a.name() == attribute).and_then(|a| a.g.as_deref());
        let graph = graph.ok_or_else(|| format!("there is no {attribute}"))?;
        if !graph.input.is_empty() || !graph.sparse_initializer.is_empty() || graph.output.len() < n.output.len() {
            return Err(format!("{attribute} has inputs, sparse initializers or too few outputs"));
        }
        let scope = Scope { prefix: name_of(n), values: HashMap::new(), attributes: None };
        let outputs = graph.output.iter().map(ValueInfoProto::name).collect();
        let body = Body { nodes: &graph.node, initializers: &graph.initializer, outputs };
        self.splice(&body, &n.output, scope).map_err(|e| format!("{attribute}: {e}"))
    }

    /// The body with its outputs called `given`, what `scope` knows called as it says, and all the rest by new names.
    fn splice(&mut self, body: &Body<'_>, given: &[String], mut scope: Scope<'_>) -> Result<Branch, String> {
        let written = body.nodes.iter().flat_map(|n| &n.output).map(String::as_str);
        let names = body.initializers.iter().map(TensorProto::name).chain(written).filter(|name| !name.is_empty());
        let names: Vec<&str> = names.collect();
        let mut defined = HashSet::new();
        for &name in &names {
            if scope.values.contains_key(name) || !defined.insert(name) {
                return Err(format!("{name:?} is defined twice"));
            }
        }
        // An output that is an input, a value from outside, or an output a second time, has no node to be written by.
        let mut aliases = Vec::new();
        for (&inner, outer) in body.outputs.iter().zip(given).filter(|(_, outer)| !outer.is_empty()) {
            if defined.contains(inner) && !scope.values.contains_key(inner) {
                scope.values.insert(inner.to_owned(), outer.clone());
            } else {
                aliases.push((inner, outer));
            }
        }
        for name in names {
            if !scope.values.contains_key(name) {
                scope.values.insert(name.to_owned(), self.values.fresh(scope.prefix, name));
            }
        }
        let mut branch = Branch { initializers: Vec::new(), nodes: Vec::new() };
        for t in body.initializers {
            let name = scope.value(t.name())?;
            self.enclosed.insert(name.clone());
            branch.initializers.push(TensorProto { name: Some(name), ..t.clone() });
        }
        for n in body.nodes {
            let n = self.renamed(n, &scope)?;
            self.written += 1;
            self.bytes += n.encoded_len();
            if self.written > MAX_NODES || self.bytes > MAX_BYTES {
                return Err(format!("written out it is more than {MAX_NODES} nodes or {MAX_BYTES} bytes"));
            }
            if n.op_type() == "Constant" {
                self.enclosed.extend(n.output.iter().cloned());
            }
            branch.nodes.push(n);
        }
        for (inner, outer) in aliases {
            let source = scope.value(inner)?;
            if source.is_empty() {
                return Err(format!("output {inner:?} is an input that the call leaves out"));
            }
            branch.nodes.push(NodeProto {
                name: Some(self.nodes.fresh(scope.prefix, inner)),
                op_type: Some("Identity".into()),
                input: vec![source],
                output: vec![outer.clone()],
                ..NodeProto::default()
            });
        }
        Ok(branch)
    }

    fn renamed(&mut self, n: &NodeProto, scope: &Scope<'_>) -> Result<NodeProto, String> {
        let label = || format!("node {:?} ({})", name_of(n), describe(&key_of(n)));
        let values = |names: &[String]| names.iter().map(|v| scope.value(v)).collect::<Result<Vec<_>, _>>();
        let mut input = values(&n.input).map_err(|e| format!("{}: {e}", label()))?;
        input.truncate(input.iter().rposition(|i| !i.is_empty()).map_or(0, |last| last + 1));
        let mut attribute = Vec::with_capacity(n.attribute.len());
        for a in &n.attribute {
            attribute
                .extend(self.attribute(a, scope).map_err(|e| format!("{}: attribute {}: {e}", label(), a.name()))?);
        }
        Ok(NodeProto {
            name: Some(self.nodes.fresh(scope.prefix, name_of(n))),
            op_type: n.op_type.clone(),
            domain: n.domain.clone(),
            overload: n.overload.clone(),
            input,
            output: values(&n.output)?,
            attribute,
            ..NodeProto::default()
        })
    }

    /// The attribute with its reference resolved and the graphs in it renamed; `None` when the call does not give it.
    fn attribute(&mut self, a: &AttributeProto, scope: &Scope<'_>) -> Result<Option<AttributeProto>, String> {
        if a.ref_attr_name().is_empty() {
            let mut a = a.clone();
            if let Some(g) = &mut a.g {
                self.rename_graph(g, scope)?;
            }
            for g in &mut a.graphs {
                self.rename_graph(g, scope)?;
            }
            return Ok(Some(a));
        }
        let attributes = scope.attributes.ok_or("it refers to an attribute of a function, and stands in none")?;
        let Some(given) = attributes.get(a.ref_attr_name()) else { return Ok(None) };
        if given.g.is_some() || !given.graphs.is_empty() {
            return Err(format!("{} is a graph, which no function may take here", a.ref_attr_name()));
        }
        if a.r#type() != given.r#type() {
            return Err(format!(
                "{} has type {} of onnx.proto, the function needs {}",
                a.ref_attr_name(),
                given.r#type(),
                a.r#type()
            ));
        }
        Ok(Some(AttributeProto { name: a.name.clone(), ref_attr_name: None, ..(*given).clone() }))
    }

    /// Gives new names to all that the graph defines, and to what it reads from outside those of `scope`.
    fn rename_graph(&mut self, graph: &mut GraphProto, scope: &Scope<'_>) -> Result<(), String> {
        let mut inner = scope.clone();
        for name in subgraph::definitions(graph) {
            inner.values.insert(name.to_owned(), self.values.fresh(scope.prefix, name));
        }
        for t in &mut graph.initializer {
            t.name = Some(inner.value(t.name())?);
        }
        for v in graph.input.iter_mut().chain(&mut graph.output) {
            let name = inner.value(v.name())?;
            if name.is_empty() {
                return Err(format!("{:?} is an input that the call leaves out", v.name()));
            }
            v.name = Some(name);
        }
        // They speak of the old names, and nothing depends on them.
        graph.value_info.clear();
        graph.quantization_annotation.clear();
        graph.node = graph.node.iter().map(|n| self.renamed(n, &inner)).collect::<Result<_, _>>()?;
        Ok(())
    }
}

fn key_of(n: &NodeProto) -> Key {
    (domain_of(n.domain()).to_owned(), n.op_type().to_owned(), n.overload().to_owned())
}

/// Names that are taken.
#[derive(Default)]
struct Names {
    taken: HashSet<String>,
    /// How often a name was asked for when it was taken.
    repeats: HashMap<String, usize>,
}

impl Names {
    /// A name that is not taken yet.
    fn fresh(&mut self, prefix: &str, name: &str) -> String {
        let base = format!("{prefix}/{name}");
        let mut fresh = base.clone();
        while !self.taken.insert(fresh.clone()) {
            let n = self.repeats.entry(base.clone()).or_insert(1);
            *n += 1;
            fresh = format!("{base}_{n}");
        }
        fresh
    }
}
