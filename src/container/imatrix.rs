//! Importance matrices: how much each column of a weight matrix matters, measured on text.
//!
//! Two kinds of file hold them. The old one has no magic; all numbers are little-endian:
//!
//! ```text
//! i32 entries
//! entries × { i32 length, name, i32 calls, i32 values, f32 × values }   sums over calls
//! [ i32 chunks, i32 length, path of the text ]                          since April 2024
//! ```
//!
//! The new one is a GGUF file with two tensors a matrix, `NAME.in_sum2` and `NAME.counts`. Stacks of
//! experts have one run of columns an expert. What an encoder gets is sum / count, as
//! llama.cpp tools/quantize `load_imatrix` computes it.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use rayon::prelude::*;

use crate::{
    bytes::{Input, Source},
    container::{OpenOptions, TensorHead, detect::detect, keyed},
    error::{Error, Result},
    format::catalog,
    limits::Limits,
    model::{Array, Metadata, Model, Tensor, Texts, Value},
    quant::QuantType,
};

/// The imatrix data of a model's matrices.
#[derive(Clone, Debug, Default)]
pub struct Importance {
    /// The file, as it was named.
    pub file: String,
    /// The texts that it was measured on.
    pub datasets: Vec<String>,
    /// Pieces of text that it was measured on; 0 where the file does not say.
    pub chunks: u32,
    /// By the name of the tensor, one number a column, for stacks one run of columns an expert.
    entries: BTreeMap<String, Arc<[f32]>>,
}

const OLD: &str = "imatrix.dat";
/// Columns that one thread sums at a time.
const SHARE: usize = 256;

impl Importance {
    /// Reads a file of either kind.
    ///
    /// # Errors
    /// Where it cannot be read, breaks the rules of its format, holds nothing or an infinite number.
    pub fn read(path: &Path) -> Result<Importance> {
        Importance::of(&Input::open(path)?)
    }

    /// Reads an opened file of either kind.
    ///
    /// # Errors
    /// As [`Importance::read`].
    pub fn of(input: &Input) -> Result<Importance> {
        let mut magic = [0; 4];
        let keyed = input.len() > 4 && input.read_at(0, &mut magic).is_ok() && &magic == b"GGUF";
        let mut read = if keyed {
            let detected = detect(input, &OpenOptions::default())?;
            Importance::from_gguf(&detected.sure(input)?)?
        } else {
            Importance::from_dat(input)?
        };
        read.file = input.name();
        Ok(read)
    }

    /// Reads the old kind.
    fn from_dat(input: &Input) -> Result<Importance> {
        let source = Source::new(input, OLD);
        let limits = Limits::DEFAULT;
        let mut at = 0;
        let count = |at: &mut u64, field: &str, most: u64| -> Result<u64> {
            let value = source.i32_at(*at, field)?;
            *at += 4;
            match u64::try_from(value) {
                Ok(n) if n <= most => Ok(n),
                _ => Err(source.malformed(*at - 4, field, value, format!("0..={most}"))),
            }
        };
        let text = |at: &mut u64, field: &str| -> Result<String> {
            let len = count(at, &format!("{field}.length"), limits.string)?;
            let bytes = source.bytes_at(*at, len, limits.string, field)?;
            *at += len;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let mut all = Importance::default();
        let n = count(&mut at, "entries", limits.tensors)?;
        if n == 0 {
            return Err(source.malformed(0, "entries", 0, "at least one"));
        }
        for i in 0..n {
            let name = text(&mut at, &format!("entries[{i}].name"))?;
            let calls = source.i32_at(at, format!("entries[{i}].calls"))?;
            at += 4;
            let field = format!("entries[{i}].values");
            let len = 4 * count(&mut at, &field, limits.array)?;
            let bytes = source.bytes_at(at, len, len, &field)?;
            let sums = floats(&bytes);
            let divisor = if calls > 0 { calls as f32 } else { 1.0 };
            let values: Vec<f32> = sums.map(|sum| sum / divisor).collect();
            if let Some(bad) = values.iter().position(|v| !v.is_finite()) {
                let place = at + 4 * bad as u64;
                let field = format!("{field}[{bad}]");
                return Err(source.malformed(place, field, "NaN or infinity", "a finite number"));
            }
            at += len;
            all.entries.insert(name, values.into());
        }
        if source.left(at) > 0 {
            all.chunks = u32::try_from(source.i32_at(at, "chunks")?).unwrap_or(0);
            at += 4;
        }
        if source.left(at) > 0 {
            all.datasets.push(text(&mut at, "dataset")?);
        }
        Ok(all)
    }

    /// Takes them from an opened GGUF file.
    fn from_gguf(model: &Model) -> Result<Importance> {
        let file = model.files.first().map(Input::name).unwrap_or_default();
        let wrong = |what: String| {
            let next = "measure it again with llama-imatrix";
            Error::unsupported(format!("{file}: {what}"), next)
        };
        let mut all = Importance::default();
        let texts = model.metadata.get("imatrix.datasets").and_then(|v| v.as_array());
        let texts = texts.and_then(Array::texts).into_iter().flat_map(Texts::iter);
        all.datasets = texts.filter_map(|t| String::from_utf8(t.to_vec()).ok()).collect();
        let chunks = model.metadata.u64("imatrix.chunk_count");
        all.chunks = chunks.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        let by_name: HashMap<&str, &Tensor> =
            model.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        for sums in &model.tensors {
            let Some(name) = sums.name.strip_suffix(".in_sum2") else { continue };
            let counts = by_name.get(format!("{name}.counts").as_str());
            let counts = counts.ok_or_else(|| wrong(format!("{name} has sums and no counts")))?;
            let (sums, counts) = (numbers(model, sums)?, numbers(model, counts)?);
            let columns = sums.len() / counts.len().max(1);
            if columns == 0 || columns * counts.len() != sums.len() {
                let (s, c) = (sums.len(), counts.len());
                return Err(wrong(format!("{name} has {s} sums and {c} counts")));
            }
            // A matrix that no text reached tells nothing: all its columns count alike.
            let values = sums.chunks_exact(columns).zip(&counts).flat_map(|(sums, count)| {
                let count = count.round();
                sums.iter().map(move |sum| if count > 0.0 { sum / count } else { 1.0 })
            });
            let values: Vec<f32> = values.collect();
            if values.iter().any(|v| !v.is_finite()) {
                return Err(wrong(format!("{name} holds NaN or infinity")));
            }
            all.entries.insert(name.to_owned(), values.into());
        }
        if all.entries.is_empty() {
            return Err(wrong("holds no imatrix data (tensors called NAME.in_sum2)".into()));
        }
        Ok(all)
    }

    /// Keeps the entries whose name contains one of `include`, all where it is empty, and drops
    /// those whose name contains one of `exclude`.
    pub fn retain(&mut self, include: &[String], exclude: &[String]) {
        self.entries.retain(|name, _| {
            let in_any = |parts: &[String]| parts.iter().any(|p| name.contains(p.as_str()));
            (include.is_empty() || in_any(include)) && !in_any(exclude)
        });
    }

    /// Number of matrices.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What is known about the tensor of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<[f32]>> {
        self.entries.get(name)
    }
}

/// What was seen of a text so far, by GGUF tensor name: what an imatrix file is made from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    entries: BTreeMap<String, Seen>,
}

/// What one tensor was multiplied with.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    /// Sums of squares, column by column, expert after expert.
    sums: Vec<f32>,
    /// Vectors seen by each expert, or by the one matrix.
    counts: Vec<u32>,
}

impl Seen {
    /// Columns of the matrix.
    fn columns(&self) -> usize {
        self.sums.len() / self.counts.len().max(1)
    }
}

impl Measured {
    /// Adds the vectors `xs`, each of `cols` numbers, that one of the `experts` of a tensor was multiplied
    /// with.
    pub fn add(&mut self, name: &str, (expert, experts): (usize, usize), cols: usize, xs: &[f32]) {
        let entry = self.entries.entry(name.to_owned()).or_default();
        entry.counts.resize(experts, 0);
        entry.sums.resize(experts * cols, 0.0);
        let own = entry.sums.chunks_exact_mut(cols).zip(&mut entry.counts).nth(expert);
        let Some((sums, count)) = own else { return };
        *count += xs.chunks_exact(cols).map(|_| 1).sum::<u32>();
        // Columns are shared out, so that each is summed in the order of the text.
        sums.par_chunks_mut(SHARE).enumerate().for_each(|(share, sums)| {
            for x in xs.chunks_exact(cols) {
                for (sum, x) in sums.iter_mut().zip(x.iter().skip(share * SHARE)) {
                    *sum += x * x;
                }
            }
        });
    }

    /// How many matrices were seen.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none was seen.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The bytes of a `.dat` file about `windows` windows of `context` tokens of the text `dataset`.
    ///
    /// # Errors
    /// Where there is more of something than the format counts.
    pub fn to_dat(&self, dataset: &str, windows: u32, context: u32) -> Result<Vec<u8>> {
        let word = |n: usize| {
            let beyond = |_| Error::unsupported(format!("{OLD}: cannot count {n}"), "write GGUF");
            u32::try_from(n).map_err(beyond).map(u32::to_le_bytes)
        };
        let mut out = word(self.entries.len())?.to_vec();
        for (name, seen) in &self.entries {
            out.extend(word(name.len())?);
            out.extend(name.as_bytes());
            let most = seen.counts.iter().copied().max().unwrap_or(0);
            let calls = most.div_ceil(context.max(1));
            out.extend(calls.to_le_bytes());
            out.extend(word(seen.sums.len())?);
            for (sums, count) in seen.sums.chunks_exact(seen.columns().max(1)).zip(&seen.counts) {
                for sum in sums {
                    // An expert that was never asked counts every column alike.
                    let mean = if *count == 0 { 1.0 } else { sum / *count as f32 };
                    out.extend((mean * calls as f32).to_le_bytes());
                }
            }
        }
        out.extend(windows.to_le_bytes());
        out.extend(word(dataset.len())?);
        out.extend(dataset.as_bytes());
        Ok(out)
    }

    /// The bytes of a GGUF file of the same.
    ///
    /// # Errors
    /// Where a name does not fit the format.
    pub fn to_gguf(&self, dataset: &str, windows: u32, context: u32) -> Result<Vec<u8>> {
        let missing = || Error::unsupported("the description of gguf-v3 is missing", "");
        let format = catalog::container("gguf-v3").ok_or_else(missing)?;
        let quant = QuantType::today("f32").ok_or_else(missing)?;
        let mut metadata = Metadata::new();
        metadata.set("general.type", "imatrix");
        metadata.set("imatrix.datasets", Value::strings([dataset]));
        metadata.set("imatrix.chunk_count", windows);
        metadata.set("imatrix.chunk_size", context);
        let mut heads = Vec::new();
        let mut data: Vec<Vec<u8>> = Vec::new();
        for (name, seen) in &self.entries {
            let experts = seen.counts.len();
            let counts: Vec<f32> = seen.counts.iter().map(|count| *count as f32).collect();
            let parts = [("in_sum2", seen.columns() as u64, &seen.sums), ("counts", 1, &counts)];
            for (kind, cols, numbers) in parts {
                heads.push(TensorHead {
                    name: format!("{name}.{kind}"),
                    shape: vec![experts as u64, cols],
                    quant,
                    bytes: numbers.len() as u64 * 4,
                });
                data.push(numbers.iter().flat_map(|v| v.to_le_bytes()).collect());
            }
        }
        let layout = keyed::layout(format, &[], &metadata, &heads)?;
        let large = || Error::unsupported("the imatrix data is larger than memory", "");
        let size = |bytes: u64| usize::try_from(bytes).map_err(|_| large());
        let mut out = vec![0; size(layout.total)?];
        let parts = layout.chunks.iter().map(|(at, bytes)| (*at, bytes));
        for (at, bytes) in parts.chain(layout.data.iter().copied().zip(&data)) {
            let at = size(at)?;
            out.get_mut(at..at + bytes.len()).ok_or_else(large)?.copy_from_slice(bytes);
        }
        Ok(out)
    }
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))
}

/// All numbers of an F32 tensor.
fn numbers(model: &Model, tensor: &Tensor) -> Result<Vec<f32>> {
    let limit = Limits::DEFAULT.array;
    if tensor.quant.name() != "f32" || tensor.elements() > limit {
        let what = format!("{}: {} numbers of {}", tensor.name, tensor.elements(), tensor.quant);
        return Err(Error::unsupported(
            what,
            format!("imatrix data is f32, at most {limit} numbers"),
        ));
    }
    let mut bytes = vec![0; usize::try_from(tensor.bytes()).unwrap_or(0)];
    model.read_rows(tensor, 0, tensor.rows(), &mut bytes)?;
    Ok(floats(&bytes).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of an old file with these entries: name, calls, sums.
    fn dat(entries: &[(&str, i32, &[f32])]) -> Vec<u8> {
        let int = |n: usize| (n as i32).to_le_bytes();
        let mut out = int(entries.len()).to_vec();
        for (name, calls, sums) in entries {
            out.extend(int(name.len()));
            out.extend(name.as_bytes());
            out.extend(calls.to_le_bytes());
            out.extend(int(sums.len()));
            sums.iter().for_each(|s| out.extend(s.to_le_bytes()));
        }
        out
    }

    fn read(bytes: Vec<u8>) -> Result<Importance> {
        Importance::from_dat(&Input::memory("i.dat", bytes))
    }

    #[test]
    fn an_old_file_with_and_without_its_trailer() {
        let mut bytes = dat(&[("a.weight", 4, &[2.0, 6.0]), ("b.weight", 0, &[3.0])]);
        let all = read(bytes.clone()).unwrap();
        assert_eq!(all.get("a.weight").map(|v| v.to_vec()), Some(vec![0.5, 1.5]));
        assert_eq!(all.get("b.weight").map(|v| v.to_vec()), Some(vec![3.0]));
        assert_eq!((all.len(), all.chunks), (2, 0));
        bytes.extend(7i32.to_le_bytes());
        bytes.extend(5i32.to_le_bytes());
        bytes.extend(b"a.txt");
        let all = read(bytes).unwrap();
        assert_eq!((all.chunks, all.datasets), (7, vec!["a.txt".to_owned()]));
    }

    #[test]
    fn a_damaged_file_says_where() {
        let whole = dat(&[("a.weight", 4, &[2.0, 6.0])]);
        for cut in 1..whole.len() {
            assert!(read(whole[..cut].to_vec()).is_err(), "{cut}");
        }
        let told = |bytes| read(bytes).unwrap_err().to_string();
        assert!(told(dat(&[])).contains("entries at 0x0"));
        assert!(told(dat(&[("a", 1, &[1.0, f32::NAN])])).contains("entries[0].values[1] at 0x15"));
        assert!(told(vec![0xff; 64]).contains("found -1"));
    }

    #[test]
    fn names_are_included_and_excluded_by_their_parts() {
        let all = dat(&[("blk.0.up", 1, &[1.0]), ("blk.1.up", 1, &[1.0]), ("out", 1, &[1.0])]);
        let kept = |include: &[&str], exclude: &[&str]| {
            let own = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
            let mut all = read(all.clone()).unwrap();
            all.retain(&own(include), &own(exclude));
            all.entries.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(kept(&["up"], &[]), ["blk.0.up", "blk.1.up"]);
        assert_eq!(kept(&[], &["blk.1", "out"]), ["blk.0.up"]);
        assert_eq!(kept(&[], &[]).len(), 3);
    }

    #[test]
    fn sums_and_counts_of_a_stack_of_experts() {
        let numbers: [f32; 8] = [2.0, 4.0, 9.0, 9.0, 6.0, 3.0, 2.0, 0.0];
        let bytes = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        let f32 = QuantType::today("f32").unwrap();
        let tensor = |name: &str, shape: &[u64], at| {
            Tensor::whole(name.into(), shape.to_vec(), f32, 0, at).unwrap()
        };
        let mut metadata = Metadata::new();
        metadata.set("imatrix.datasets", Value::strings(["a.txt"]));
        metadata.set("imatrix.chunk_count", 9);
        let mut model = Model {
            format: "gguf-v3".into(),
            files: vec![Input::memory("i.gguf", bytes)],
            metadata,
            tensors: vec![tensor("w.in_sum2", &[3, 2], 0), tensor("w.counts", &[3, 1], 20)],
            ..Model::default()
        };
        let all = Importance::from_gguf(&model).unwrap();
        assert_eq!(
            all.get("w").map(|v| v.to_vec()),
            Some(vec![2.0 / 3.0, 4.0 / 3.0, 4.5, 4.5, 1.0, 1.0])
        );
        assert_eq!((all.chunks, all.datasets), (9, vec!["a.txt".to_owned()]));
        model.tensors.pop();
        assert!(Importance::from_gguf(&model).is_err());
    }
}
