//! What a run changed in a file.

use onnx_unlearn::onnx::{
    schema::ModelProto,
    wire::{Storage, layout},
};
use prost::Message;
use std::{collections::BTreeSet, fs, ops::Range, path::Path};

/// Walks both byte streams: nothing but the payloads of `trained` and this tool's metadata may differ.
#[track_caller]
pub fn only_weights_differ(source: &Path, result: &Path, trained: &BTreeSet<String>) {
    let before = fs::read(source).expect("readable");
    let after = fs::read(result).expect("readable");
    let places = layout(&before).expect("a model");
    assert!(!trained.is_empty());
    let mut inline: Vec<Range<usize>> = Vec::new();
    let mut outside: Vec<(String, Range<usize>)> = Vec::new();
    for tensor in places.tensors.iter().filter(|t| trained.contains(&t.name)) {
        match &tensor.storage {
            Storage::Inline(ranges) => inline.extend(ranges.iter().cloned()),
            Storage::External(entries) => {
                let entry = |key: &str| entries.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str());
                let number = |key: &str| entry(key).map_or(0, |v| v.parse::<usize>().expect("a number"));
                let offset = number("offset");
                outside.push((entry("location").expect("a location").into(), offset..offset + number("length")));
            }
            // Lengths follow the elements here, so that bytes do not stand where they stood.
            Storage::Varint(_) => return only_messages_differ(&before, &after, trained),
            Storage::Other => panic!("{} cannot have been trained", tensor.name),
        }
    }
    assert_eq!(inline.is_empty(), !outside.is_empty(), "weights lie in the file or beside it");
    let changed = differences(&before, &after[..before.len()], &inline);
    assert_eq!(changed > 0, !inline.is_empty());
    // What follows the source's bytes is this tool's metadata and nothing else.
    let new = layout(&after).expect("a model").metadata;
    let (old, own) = new.split_at(places.metadata.len());
    assert!(old.iter().zip(&places.metadata).all(|(a, b)| (&a.key, &a.value) == (&b.key, &b.value)));
    let keys: Vec<&str> = own.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["dev.onnx-unlearn.digest", "dev.onnx-unlearn.stamp.v1"]);
    assert_eq!((own[0].span.start, own[0].span.end), (before.len(), own[1].span.start));
    assert_eq!(own[1].span.end, after.len());

    for file in outside.iter().map(|(file, _)| file).collect::<BTreeSet<_>>() {
        let ranges: Vec<_> = outside.iter().filter(|(f, _)| f == file).map(|(_, r)| r.clone()).collect();
        let read = |model: &Path| fs::read(model.with_file_name(file)).expect("readable");
        assert!(differences(&read(source), &read(result), &ranges) > 0);
    }
}

/// Counts bytes that differ; fails on one outside `allowed`.
fn differences(before: &[u8], after: &[u8], allowed: &[Range<usize>]) -> usize {
    assert_eq!(before.len(), after.len());
    let different = (0..before.len()).filter(|&i| before[i] != after[i]);
    different.inspect(|i| assert!(allowed.iter().any(|r| r.contains(i)), "byte {i} is no weight and changed")).count()
}

/// The same message by message: the new elements in the source's tensors give the result.
fn only_messages_differ(before: &[u8], after: &[u8], trained: &BTreeSet<String>) {
    let decode = |bytes| ModelProto::decode(bytes).expect("a model");
    let (mut before, mut after) = (decode(before), decode(after));
    after.metadata_props.retain(|entry| !entry.key().starts_with("dev.onnx-unlearn."));
    let new = after.graph.as_ref().map_or(&[][..], |graph| &graph.initializer);
    let old = before.graph.iter_mut().flat_map(|graph| &mut graph.initializer);
    let mut changed = BTreeSet::new();
    for (old, new) in old.zip(new) {
        if old != new {
            changed.insert(old.name().to_owned());
            old.int32_data.clone_from(&new.int32_data);
            old.float_data.clone_from(&new.float_data);
            old.raw_data.clone_from(&new.raw_data);
        }
    }
    assert_eq!(&changed, trained, "what changed is what was trained");
    assert!(before == after, "something else than weights changed");
}
