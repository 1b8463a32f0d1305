//! Whether a model's parts fit together: extents in its files, shapes by role, layers, vocabulary.
//!
//! | code | what it means | how grave |
//! |---|---|---|
//! | `duplicate` | two tensors of one name | failure |
//! | `truncated` | a tensor ends beyond its file | failure |
//! | `overlap` | a tensor begins before the one before it ends | failure |
//! | `shared` | two tensors are the same stretch | note |
//! | `hole` | bytes between tensors that belong to none, more than alignment explains | note |
//! | `foreign-size`, `broken-original` | a foreign type takes other bytes than its shape says | warning, failure |
//! | `torn-rows` | a program packed blocks across rows that it reads row by row | warning |
//! | `unsure-order` | blocks that programs order in two ways, which no file tells | note |
//! | `foreign-types` | tensors of other programs' types | note |
//! | `turned` | weights that only the program undoes which turned them | warning |
//! | `no-tensors`, `no-role` | nothing to look at; names that the family does not know | note |
//! | `vocabulary` | tokens, scores, special ids or rows do not fit each other | failure or warning |
//!
//! The codes of what llama.cpp's loader demands are in `model::loader`.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::Finding;
use crate::format::{catalog, foreign::Foreign};
use crate::model::{Model, Piece, Role, Sizes, Tensor, loader, loader::Content, role::expert_of};
use crate::size::counted;

/// Padding between tensors up to this is alignment; more is a hole.
const MOST_PADDING: u64 = 4096;
/// Names listed before the rest is only counted.
const NAMED: usize = 3;

/// Everything that does not fit in a model.
///
/// In the order in which one fault explains the next: names, then places, then what the tensors mean together.
pub fn check(model: &Model) -> Vec<Finding> {
    let mut findings = duplicates(model);
    findings.extend(extents(model));
    findings.extend(meaning(model));
    findings
}

/// What does not fit whatever its bytes lie in: roles and shapes, layers, the vocabulary.
pub fn meaning(model: &Model) -> Vec<Finding> {
    let mut findings = roles(model);
    findings.extend(demands(model));
    findings.extend(foreign(model));
    findings.extend(vocabulary(model));
    let turned = model.check_unturned().err();
    findings.extend(turned.map(|error| Finding::warning("turned", &error)));
    findings
}

/// What the loader of today's llama.cpp demands of a GGUF and does not find.
fn demands(model: &Model) -> Vec<Finding> {
    loader::breaches(model).into_iter().map(finding).collect()
}

/// What llama.cpp's loader refuses, as a finding: a failure only where the file contradicts itself.
fn finding(breach: loader::Breach) -> Finding {
    let finding = if breach.damage {
        Finding::failure(breach.code, breach.what)
    } else {
        Finding::warning(breach.code, format!("{}: today's llama.cpp refuses it", breach.what))
    };
    finding.about(breach.about)
}

/// Tensors of other programs' types, and whether their sizes are those that the types have.
///
/// One finding for each type, not for each tensor: a model of such a type has hundreds.
///
/// | the type | its size | said |
/// |---|---|---|
/// | decoded here | - | `foreign-types`: upgrade gives it a type of llama.cpp's |
/// | named only | as its shape says | `foreign-types`: not damaged as far as can be told |
/// | named only | another | `foreign-size`, a warning |
/// | named only, and its program wrote broken files | another | `broken-original`, a failure |
fn foreign(model: &Model) -> Vec<Finding> {
    let mut out: Vec<Finding> = Vec::new();
    let mut counts: BTreeMap<String, (usize, &Foreign)> = BTreeMap::new();
    let mut decoded: BTreeMap<String, (usize, &str)> = BTreeMap::new();
    for tensor in &model.tensors {
        let Some(foreign) = tensor.quant.stranger() else { continue };
        if let Some(readable) = tensor.with_scale() {
            let from = readable.quant.block().lived.from.as_str();
            decoded.entry(tensor.quant.to_string()).or_insert((0, from)).0 += 1;
            continue;
        }
        counts.entry(tensor.quant.to_string()).or_insert((0, foreign)).0 += 1;
        if let Some(torn) = tensor.torn()
            && !out.iter().any(|f| f.code == "torn-rows")
        {
            let columns = tensor.row_len();
            let what = format!("{}, in rows of {columns}: {torn}", tensor.quant);
            out.push(Finding::warning("torn-rows", what).about(&tensor.name));
        }
        let Some(wanted) = tensor.misfit() else { continue };
        let found = tensor.bytes();
        let what = format!("takes {found} bytes, {} takes {wanted}", tensor.quant);
        let finding = if foreign.broken.is_empty() {
            Finding::warning("foreign-size", what)
        } else {
            Finding::failure("broken-original", format!("{what}: {}", foreign.broken))
        };
        if !out.iter().any(|f| f.code == finding.code) {
            out.push(finding.about(&tensor.name));
        }
    }
    for quant in model.tensors.iter().map(|t| t.quant).filter(|q| q.stranger().is_none()) {
        if quant.program().is_some() {
            let from = quant.block().lived.from.as_str();
            decoded.entry(quant.to_string()).or_insert((0, from)).0 += 1;
        }
    }
    for (name, (n, from)) in decoded {
        let message = format!(
            "{} {name} (from {from} on): upgrade gives them types of llama.cpp's",
            counted(n, "tensor is", "tensors are")
        );
        out.push(Finding::note("foreign-types", message));
    }
    out.extend(model.unsure().map(|unsure| Finding::note("unsure-order", unsure)));
    let broken = out.iter().any(|f| f.severity == crate::check::Severity::Failure);
    for (name, (n, foreign)) in counts {
        let dates = &foreign.dates;
        let judged = if broken { "" } else { "; not damaged as far as can be told" };
        let message = format!(
            "{} {name} ({dates}), named and copied here, not decoded{judged}",
            counted(n, "tensor is", "tensors are")
        );
        out.push(Finding::note("foreign-types", message));
    }
    out
}

/// Names that two tensors bear.
fn duplicates(model: &Model) -> Vec<Finding> {
    let mut seen = BTreeSet::new();
    let twice = model.tensors.iter().filter(|t| !seen.insert(t.name.as_str()));
    twice
        .map(|t| Finding::failure("duplicate", "is there twice in the file").about(&t.name))
        .collect()
}

/// Where a tensor begins and ends in one file.
/// Both in bytes from the beginning of the file; the second is behind its last byte.
struct Extent<'a> {
    from: u64,
    to: u64,
    tensor: &'a Tensor,
}

/// Tensors beyond the end of their file, over each other, or far apart.
///
/// ```text
/// file      | header | a      | b      ....  | c      |
/// to        a.to = b.from            > 4096 bytes: a hole       c.to beyond the end: truncated
/// ```
pub(in crate::check) fn extents(model: &Model) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut files: BTreeMap<usize, Vec<Extent>> = BTreeMap::new();
    for tensor in &model.tensors {
        for piece in &tensor.pieces {
            // The end of the last row, not rows times stride: behind the last row of a view there may be nothing.
            let rows = piece.rows.saturating_sub(1).saturating_mul(piece.row_stride);
            let to = piece.at.saturating_add(rows).saturating_add(piece.row_bytes);
            let to = if piece.rows == 0 { piece.at } else { to };
            files.entry(piece.file).or_default().push(Extent { from: piece.at, to, tensor });
        }
    }
    for (file, mut extents) in files {
        let Some(input) = model.files.get(file) else { continue };
        extents.sort_by_key(|e| (e.from, e.to));
        let end = extents.iter().map(|e| e.to).max().unwrap_or(0);
        if let Some(first) = extents.iter().find(|e| e.to > input.len()) {
            let message = format!(
                "truncated: the tensors need {end} bytes, {} has {}: {} bytes are missing from {} on",
                input.name(),
                input.len(),
                end - input.len(),
                first.tensor.name
            );
            findings.push(Finding::failure("truncated", message));
        }
        // Strided pieces share their stretch with others by design, and shared tensors are no fault.
        let dense = extents.iter().filter(|e| e.tensor.pieces.iter().all(Piece::is_dense));
        let mut before: Option<&Extent> = None;
        let mut unused = 0;
        for extent in dense {
            if let Some(before) = before.filter(|b| b.to > extent.from) {
                let same = before.from == extent.from && before.to == extent.to;
                let message = format!(
                    "its bytes {:#x}..{:#x} lie over {}",
                    extent.from, extent.to, before.tensor.name
                );
                let overlap = if same {
                    Finding::note("shared", message)
                } else {
                    Finding::failure("overlap", message)
                };
                findings.push(overlap.about(&extent.tensor.name));
            } else if let Some(b) = before.filter(|b| extent.from - b.to > MOST_PADDING) {
                unused += extent.from - b.to;
            }
            // What reaches furthest is compared with the next: a small tensor inside a large one must not hide it.
            if before.is_none_or(|b| extent.to >= b.to) {
                before = Some(extent);
            }
        }
        if unused > 0 {
            let message = format!("{unused} unused bytes are between tensors of {}", input.name());
            findings.push(Finding::note("hole", message));
        }
    }
    findings
}

/// Tensors that the family has no role for, that have another shape than their role, that lack.
fn roles(model: &Model) -> Vec<Finding> {
    let Some(family) = catalog::family(&model.family) else { return Vec::new() };
    if model.tensors.is_empty() {
        return vec![Finding::note("no-tensors", "holds no weights, only what describes them")];
    }
    let mut findings = Vec::new();
    // Of a GGUF the loader's demands say it.
    if !model.format.starts_with("gguf") {
        findings.extend(loader::tensors(model).into_iter().map(finding));
    }
    let ignored =
        |name: &&str| !family.family.ignored.iter().any(|end| name.contains(end.as_str()));
    // An adapter has two halves of each matrix.
    let is_adapter = Content::of(model) == Content::Adapter;
    let whole = |name: &str| match name.rsplit_once(".lora_") {
        Some((target, _)) if is_adapter => target.to_owned(),
        _ => expert_of(name).map_or(name.to_owned(), |(stacked, _)| stacked),
    };
    let known = |name: &str| Role::find(family, &whole(name));
    let names = model.tensors.iter().map(|tensor| tensor.name.as_str());
    let unknown: Vec<&str> = names.filter(|name| known(name).is_none()).filter(ignored).collect();
    if !unknown.is_empty() {
        let shown = unknown.get(..NAMED).unwrap_or(&unknown).join(", ");
        let more = if unknown.len() > NAMED { ", …" } else { "" };
        let tensors = counted(unknown.len(), "tensor has", "tensors have");
        let message = format!("{tensors} no role in {}: {shown}{more}", model.family);
        findings.push(Finding::note("no-role", message));
    }
    findings
}

/// The vocabulary against the rows of the embedding, and against itself.
///
/// Of a GGUF `model::loader` says it; here are the containers before, and what is true of any.
///
/// ```text
/// more tokens than rows     failure      such an id would be looked up behind the matrix
/// more rows than tokens     warning      padding; a failure where the header of an old file gives another number
/// ```
fn vocabulary(model: &Model) -> Vec<Finding> {
    let vocab = &model.vocab;
    let mut findings = Vec::new();
    if vocab.is_empty() {
        return findings;
    }
    let tokens = vocab.len() as u64;
    // Of a GGUF the loader's demands say it.
    let keyed = model.format.starts_with("gguf");
    let rows = Sizes::of(model).get("n_vocab").filter(|_| !keyed);
    // Whisper's programs invent the texts of tokens that have no record.
    let invents = catalog::container(&model.format)
        .and_then(|container| container.vocab.as_ref())
        .is_some_and(|shape| shape.stored.is_some());
    if let Some(rows) = rows.filter(|rows| *rows < tokens || *rows > tokens && !invents) {
        let message = format!("{tokens} tokens, but the embedding has {rows} rows");
        // The last record of GPT4All's files is not there; others hold as many as the header says.
        let known = model.header("n_vocab").is_some_and(|n| u64::try_from(n) == Ok(rows));
        // Tokens without a row would be looked up behind the matrix; rows without one are padding, unless the header
        // of an old file says otherwise.
        let finding = if tokens > rows || !model.header.is_empty() && !known {
            Finding::failure("vocabulary", message)
        } else {
            Finding::warning("vocabulary", message)
        };
        findings.push(finding);
    }
    for (what, n) in [("scores", vocab.scores.len()), ("token types", vocab.kinds.len())] {
        if n != 0 && n != vocab.len() {
            let message = format!("{} tokens, but {n} {what}", vocab.len());
            findings.push(Finding::failure("vocabulary", message));
        }
    }
    let special = [
        ("bos", vocab.bos),
        ("eos", vocab.eos),
        ("unknown", vocab.unknown),
        ("padding", vocab.padding),
    ];
    for (what, id) in special {
        // Some converters wrote -1 for "none", which reads as the largest number.
        if let Some(id) = id.filter(|id| *id != u32::MAX && u64::from(*id) >= tokens) {
            let message = format!("the {what} token is number {id} of {tokens}");
            findings.push(Finding::failure("vocabulary", message));
        }
    }
    findings
}
