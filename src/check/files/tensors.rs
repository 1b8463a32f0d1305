//! Digests per tensor: they stay the same when a file's metadata is edited.
//!
//! `TENSORSUMS` has a section per model and a line per tensor: digest, type, shape outermost first,
//! name. The digest is of the tensor's rows as the model gives them, joined and little-endian, so a
//! set of parts and the single file made from it have the same lines.
//!
//! ```text
//! %model: 7B/ggml-model-q4_0.gguf
//! 0f4e…  q4_0  4096x4096  blk.0.attn_q.weight
//! ```
//!
//! | code | what it means | how grave |
//! |---|---|---|
//! | `tensors-as-listed` | every tensor is as the list has it | note |
//! | `tensors-differ` | one differs, lacks or is new | failure |
//! | `stale-list` | one is not as a manifest has it, but the digest of the whole file is right | warning |

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use super::digest::{Algorithm, Digest, Hasher};
use super::download::Claim;
use super::sums::{escape, unescape};
use crate::bytes::replace::check_interrupt;
use crate::check::Finding;
use crate::error::{Error, Result};
use crate::model::{Model, Tensor};
use crate::size::counted;

/// The name of the list.
pub const TENSORSUMS: &str = "TENSORSUMS";

/// Bytes of rows that one thread holds at a time.
const PIECE_BYTES: u64 = 4 << 20;
/// Tensors named in a finding before the rest is only counted.
const NAMED: usize = 3;

/// The digest of one tensor, with what gives its bytes a meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorSum {
    /// SHA-256 of its rows.
    pub digest: Digest,
    /// Its type, as `q4_0/pairs-f32`.
    pub quant: String,
    /// Its shape, outermost dimension first.
    pub shape: String,
    /// Its name.
    pub name: String,
}

impl TensorSum {
    /// Digests one tensor; `progress` hears of its bytes as they are read.
    ///
    /// # Errors
    /// Where a file cannot be read or changes meanwhile.
    pub fn of(model: &Model, tensor: &Tensor, progress: &(dyn Fn(u64) + Sync)) -> Result<Self> {
        let digest = digest_of(model, &[tensor], Algorithm::Sha256, progress)?;
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        Ok(Self {
            digest,
            quant: tensor.quant.to_string(),
            shape: shape.join("x"),
            name: tensor.name.clone(),
        })
    }

    /// The entry as a line: `DIGEST  TYPE  SHAPE  NAME`.
    fn line(&self) -> String {
        let Self { digest, quant, shape, name } = self;
        format!("{}  {quant}  {shape}  {}\n", digest.hex, escape(name))
    }

    /// An entry from its line; none where it is no such line.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(4, "  ");
        Some(Self {
            digest: Digest::parse(fields.next()?).filter(|d| d.algorithm == Algorithm::Sha256)?,
            quant: fields.next()?.to_owned(),
            shape: fields.next()?.to_owned(),
            name: unescape(fields.next()?)?,
        })
    }
}

/// Digests the data of some tensors one after another, as they are stored.
fn digest_of(
    model: &Model,
    tensors: &[&Tensor],
    algorithm: Algorithm,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Digest> {
    let mut hasher = Hasher::new(algorithm, tensors.iter().map(|tensor| tensor.bytes()).sum());
    let mut buffer = Vec::new();
    for tensor in tensors {
        let row = tensor.row_bytes().max(1);
        let group = tensor.quant.row_group().max(1) as u64;
        let piece = (PIECE_BYTES / row).max(1).next_multiple_of(group);
        let mut first = 0;
        while first < tensor.rows() {
            check_interrupt()?;
            let n = piece.min(tensor.rows() - first);
            let size = usize::try_from(n.saturating_mul(row)).map_err(|_| {
                Error::unsupported(format!("{}: a row is too long", tensor.name), "")
            })?;
            buffer.resize(size, 0);
            model.read_rows(tensor, first, n, &mut buffer)?;
            hasher.update(&buffer);
            progress(size as u64);
            first += n;
        }
    }
    Ok(hasher.finish())
}

/// The digest of one tensor's data, or of all tensors' in the order of the file, as llama-gguf-hash
/// makes it.
///
/// # Errors
/// Where there is no such tensor, where a file cannot be read or changes meanwhile.
pub(super) fn digest(model: &Model, name: Option<&str>, algorithm: Algorithm) -> Result<Digest> {
    let wanted = |tensor: &&Tensor| name.is_none_or(|name| tensor.name == name);
    let tensors: Vec<&Tensor> = model.tensors.iter().filter(wanted).collect();
    if tensors.is_empty() {
        return Err(Error::unsupported(name.unwrap_or("no tensors"), ""));
    }
    digest_of(model, &tensors, algorithm, &|_| ())
}

/// Compares tensors with digests that a manifest gives of each. Where the whole file is as claimed, it is
/// the manifest that is wrong.
pub(super) fn compare_claims(
    model: Option<&Model>,
    claims: &[(String, Claim)],
    confirmed: bool,
) -> Vec<Finding> {
    let Some(model) = model else { return Vec::new() };
    let wrong = |(name, claim): &&(String, Claim)| {
        digest(model, Some(name), claim.digest.algorithm).ok().as_ref() != Some(&claim.digest)
    };
    let differ: Vec<&(String, Claim)> = claims.iter().filter(wrong).collect();
    let Some((name, claim)) = differ.first() else {
        let message = format!("{} tensors are as a manifest gives them", claims.len());
        let told = !claims.is_empty();
        return told.then(|| Finding::note("tensors-as-listed", message)).into_iter().collect();
    };
    let more = if differ.len() > 1 {
        format!(", and {}", counted(differ.len() - 1, "more tensor", "more tensors"))
    } else {
        String::new()
    };
    let message = format!("{name} is not what {} gives{more}", claim.by);
    vec![if confirmed {
        let message = format!("{message}; the digest of the whole is right, so the list is wrong");
        Finding::warning("stale-list", message)
    } else {
        Finding::failure("tensors-differ", message)
    }]
}

/// Digests every tensor of a model, several at a time.
///
/// # Errors
/// Where a file cannot be read or changes meanwhile.
pub fn sums(model: &Model, progress: &(dyn Fn(u64) + Sync)) -> Result<Vec<TensorSum>> {
    let sums: Result<Vec<_>> =
        model.tensors.par_iter().map(|tensor| TensorSum::of(model, tensor, progress)).collect();
    model.files.iter().try_for_each(crate::bytes::Input::check_unchanged)?;
    sums
}

/// A list of tensor digests: per model, by its name relative to the list.
pub type TensorList = BTreeMap<String, Vec<TensorSum>>;

/// The list as text.
pub fn to_text(list: &TensorList) -> String {
    let mut out = String::new();
    for (model, sums) in list {
        out.push_str(&format!("%model: {}\n", escape(model)));
        out.extend(sums.iter().map(TensorSum::line));
    }
    out
}

/// Reads a list; the number of the first line that is none is the error.
pub fn parse(text: &str) -> Result<TensorList, usize> {
    let mut list = TensorList::new();
    let mut model = None;
    for (number, line) in (1usize..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        if let Some(name) = line.strip_prefix("%model: ") {
            let name = unescape(name).ok_or(number)?;
            list.entry(name.clone()).or_default();
            model = Some(name);
            continue;
        }
        let sum = TensorSum::parse(line).ok_or(number)?;
        let sums = model.as_ref().and_then(|name| list.get_mut(name)).ok_or(number)?;
        sums.push(sum);
    }
    Ok(list)
}

/// Reads the list beside a model and finds what it says of it.
pub fn listed(model: &Path) -> Option<Vec<TensorSum>> {
    let real = std::path::absolute(model).ok()?;
    // The folder of the model and three above it: a list names models by their way down from its own folder.
    real.ancestors().skip(1).take(4).find_map(|folder| {
        let text = std::fs::read_to_string(folder.join(TENSORSUMS)).ok()?;
        let name = real.strip_prefix(folder).ok()?.to_str()?;
        parse(&text).ok()?.remove(&name.replace(std::path::MAIN_SEPARATOR, "/"))
    })
}

/// Compares the tensors of a model with what a list says.
pub fn compare(found: &[TensorSum], listed: &[TensorSum]) -> Finding {
    let by_name = |sums: &[TensorSum]| -> BTreeMap<String, TensorSum> {
        sums.iter().map(|sum| (sum.name.clone(), sum.clone())).collect()
    };
    let (found, listed) = (by_name(found), by_name(listed));
    let missing: Vec<&str> =
        listed.keys().filter(|n| !found.contains_key(*n)).map(String::as_str).collect();
    let added: Vec<&str> =
        found.keys().filter(|n| !listed.contains_key(*n)).map(String::as_str).collect();
    let differs =
        |(name, sum): (&'_ String, &TensorSum)| listed.get(name).is_some_and(|l| l != sum);
    let changed: Vec<&str> =
        found.iter().filter(|(n, s)| differs((n, s))).map(|(n, _)| n.as_str()).collect();
    let mut parts = Vec::new();
    for (names, what) in [(&changed, "differ"), (&missing, "are missing"), (&added, "are new")] {
        if !names.is_empty() {
            let shown = names.get(..NAMED).unwrap_or(names).join(", ");
            let more = if names.len() > NAMED { ", …" } else { "" };
            parts.push(format!("{} {what} ({shown}{more})", names.len()));
        }
    }
    if parts.is_empty() {
        let message = format!("all {} tensors are as {TENSORSUMS} lists them", found.len());
        return Finding::note("tensors-as-listed", message);
    }
    let message = format!("of {} tensors in {TENSORSUMS}, {}", listed.len(), parts.join(", "));
    Finding::failure("tensors-differ", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(name: &str, digit: &str) -> TensorSum {
        TensorSum {
            digest: Digest::parse(&digit.repeat(64)).expect("a digest"),
            quant: "q4_0/pairs-f32".into(),
            shape: "4096x32".into(),
            name: name.into(),
        }
    }

    #[test]
    fn a_list_reads_as_it_was_written() {
        let sums = vec![sum("a b", "0"), sum("line\nend", "1")];
        let list = TensorList::from([("7B/x.gguf".into(), sums), ("y".into(), vec![])]);
        assert_eq!(parse(&to_text(&list)), Ok(list));
        assert_eq!(parse("0000  q4_0\n"), Err(1));
        assert_eq!(parse(&sum("no model", "0").line()), Err(1));
    }

    #[test]
    fn differences_are_named() {
        let listed = [sum("a", "0"), sum("b", "0"), sum("c", "0")];
        assert_eq!(compare(&listed, &listed).code, "tensors-as-listed");
        let found = [sum("a", "0"), sum("b", "1"), sum("d", "0")];
        assert_eq!(
            compare(&found, &listed).message.text,
            "of 3 tensors in TENSORSUMS, 1 differ (b), 1 are missing (c), 1 are new (d)"
        );
    }
}
