//! Leaves blocks out of a plan: their tensors, their items in arrays, their share of counts.
//!
//! ```text
//! blocks 0 1 2 3 4, without 1 and 3     blk.0 blk.2 blk.4  ->  blk.0 blk.1 blk.2     block_count 3
//! ```
//!
//! Imatrix data still go by the old names, which is why these are returned.

use std::collections::BTreeSet;

use super::{Plan, choose::mix};
use crate::{
    error::{Error, Result},
    format::catalog,
    model::{Array, Metadata, Value},
};

/// Leaves out the blocks in `prune` and closes the gaps in the numbers of the others. Returns the
/// names that the remaining steps had, and the number of blocks that are left.
///
/// # Errors
/// [`Error::Refused`] where a block is not there, or none would be left.
pub(super) fn prune(plan: &mut Plan, prune: &BTreeSet<u64>) -> Result<(Vec<String>, Option<u32>)> {
    let steps = &mut plan.steps;
    let present: BTreeSet<u64> = steps.iter().filter_map(|s| mix::block_of(&s.name)).collect();
    check(&present, prune)?;
    let left: Vec<u64> = present.difference(prune).copied().collect();
    steps.retain(|s| mix::block_of(&s.name).is_none_or(|n| !prune.contains(&n)));
    let originals = steps.iter().map(|s| s.name.clone()).collect();
    if prune.is_empty() {
        return Ok((originals, None));
    }
    for step in steps {
        let Some(n) = mix::block_of(&step.name) else { continue };
        // Its number is how many of those that are left come before it.
        let now = left.partition_point(|m| *m < n);
        step.name = step.name.replacen(&format!("blk.{n}."), &format!("blk.{now}."), 1);
    }
    counts(&mut plan.metadata, prune);
    Ok((originals, u32::try_from(left.len()).ok()))
}

/// Refuses blocks that are not there, and leaving out all.
fn check(present: &BTreeSet<u64>, prune: &BTreeSet<u64>) -> Result<()> {
    let last = present.last().copied().unwrap_or(0);
    if let Some(absent) = prune.difference(present).next() {
        let what = format!("there is no layer {absent} to leave out");
        return Err(Error::refused(what, format!("the layers are 0 to {last}")));
    }
    if !prune.is_empty() && prune.len() == present.len() {
        let what = "no layer would be left";
        return Err(Error::refused(what, format!("leave one of the layers 0 to {last}")));
    }
    Ok(())
}

/// Takes the items of the blocks in `prune` out of the arrays of one item a block, and lowers the counts of
/// the first and the last blocks by those that go.
pub(super) fn counts(metadata: &mut Metadata, prune: &BTreeSet<u64>) {
    let architecture = metadata.str("general.architecture").unwrap_or_default().to_owned();
    let word = |name: &str| format!("{architecture}.{name}");
    let blocks = metadata.u64(&word("block_count")).unwrap_or(0);
    for key in catalog::loader().per_block.iter().map(|key| word(key)) {
        let Some(items) = metadata.get(&key).and_then(Value::as_array) else { continue };
        // An array that did not fit before is left to whoever mends it.
        if items.len() as u64 != blocks {
            continue;
        }
        let stays = (0..).zip(items.iter()).filter(|(n, _)| !prune.contains(n));
        let left = Array::of(items.kind(), stays.map(|(_, item)| item));
        metadata.set(key, left);
    }
    let mut lower = |name: &str, gone: &dyn Fn(u64, u64) -> bool| {
        let Some(count) = metadata.u64(&word(name)) else { return };
        let gone = prune.iter().filter(|n| gone(**n, count)).count() as u64;
        if gone > 0
            && let Ok(count) = u32::try_from(count.saturating_sub(gone))
        {
            metadata.set(word(name), count);
        }
    };
    lower("nextn_predict_layers", &|n, count| n >= blocks.saturating_sub(count));
    lower("leading_dense_block_count", &|n, count| n < count);
}
