//! What was seen of a text: what an imatrix file holds.
//!
//! Two kinds of file hold it. The old one has no magic; all numbers are little-endian:
//!
//! ```text
//! i32 entries
//! entries × { i32 length, name, i32 calls, i32 values, f32 × values }   sums over calls
//! [ i32 chunks, i32 length, path of the text ]                          since April 2024
//! ```
//!
//! A call is a chunk of the text, whose squares were averaged. The new one is a GGUF file with two tensors a
//! matrix, `NAME.in_sum2` and `NAME.counts`: sums of squares, and of how many vectors. Stacks of experts have one
//! run of columns an expert. Between the two, a call counts as many vectors as a chunk has tokens.
//!
//! What it is for: the columns of a matrix that meet large numbers matter more, for an error there is multiplied with
//! them. `sums / counts` is the mean square of each column, by which a quantizer weighs its errors.
//!
//! ```text
//! x [columns], a vector that the matrix is multiplied with       sums[c] += x[c]²    counts += 1
//! experts: only the one that the token was sent to               sums [experts][columns], counts [experts]
//! ```

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;

use crate::{
    bytes::{Input, Source},
    container::{OpenOptions, TensorHead, detect::detect, keyed},
    error::{Error, Result},
    format::catalog,
    limits::Limits,
    model::{Array, Metadata, Model, Tensor, Texts, Value},
    quant::QuantType,
    size::counted,
};

const OLD: &str = "imatrix.dat";
/// Columns that one thread sums at a time.
const SHARE: usize = 256;

/// What was seen of texts, by GGUF tensor name.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Measured {
    /// The texts, as their paths were written.
    pub datasets: Vec<Vec<u8>>,
    /// Chunks of text that were read; 0 where the file does not say.
    pub chunks: u32,
    /// Tokens of a chunk. An old file does not say: it counts calls.
    pub chunk_size: Option<u32>,
    entries: BTreeMap<String, Seen>,
}

/// What one tensor was multiplied with.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    /// Sums of squares, column by column, expert after expert.
    pub sums: Vec<f32>,
    /// Vectors seen by each expert, or by the one matrix; calls in an old file.
    pub counts: Vec<i64>,
    /// Its place in the file, which does not sort them always.
    place: usize,
}

impl Seen {
    /// Columns that one count is for.
    pub fn columns(&self) -> usize {
        self.sums.len() / self.counts.len().max(1)
    }

    /// The sums and the count of each expert.
    pub fn runs(&self) -> impl Iterator<Item = (&[f32], i64)> {
        self.sums.chunks_exact(self.columns().max(1)).zip(self.counts.iter().copied())
    }

    /// As many counts as `n`, where one counts for all.
    fn spread(&mut self, n: usize) {
        if let [one] = self.counts[..] {
            self.counts.resize(n, one);
        }
    }

    /// Adds sums and counts of another, number by number.
    fn add(&mut self, other: &Seen) {
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, more)| *sum += more);
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
    }
}

impl Measured {
    /// Reads a file of either kind.
    ///
    /// # Errors
    /// Where it cannot be read, breaks the rules of its format, holds nothing or an infinite number.
    pub fn of(input: &Input, limits: &Limits) -> Result<Measured> {
        let mut magic = [0; 4];
        match input.len() > 4 && input.read_at(0, &mut magic).is_ok() && &magic == b"GGUF" {
            true => {
                let options = OpenOptions { limits: *limits, ..OpenOptions::default() };
                Measured::from_gguf(&detect(input, &options)?.sure(input)?, limits)
            }
            false => Measured::from_dat(input, limits),
        }
    }

    /// Reads the old kind, field by field as the module has it; what is behind the entries, only newer programs wrote.
    fn from_dat(input: &Input, limits: &Limits) -> Result<Measured> {
        let source = Source::new(input, OLD);
        let mut at = 0;
        let count = |at: &mut u64, field: &str, most: u64| -> Result<u64> {
            let value = source.i32_at(*at, field)?;
            *at += 4;
            match u64::try_from(value) {
                Ok(n) if n <= most => Ok(n),
                _ => Err(source.malformed(*at - 4, field, value, format!("0..={most}"))),
            }
        };
        let text = |at: &mut u64, field: &str| -> Result<Vec<u8>> {
            let len = count(at, &format!("{field}.length"), limits.string)?;
            let bytes = source.bytes_at(*at, len, limits.string, field)?;
            *at += len;
            Ok(bytes.to_vec())
        };
        let mut all = Measured::default();
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
            let sums: Vec<f32> = floats(&bytes).collect();
            // One such sum would make every weight of its column count for nothing, or alone.
            if let Some(bad) = sums.iter().position(|sum| !sum.is_finite()) {
                let place = at + 4 * bad as u64;
                let field = format!("{field}[{bad}]");
                return Err(source.malformed(place, field, "NaN or infinity", "a finite number"));
            }
            at += len;
            let seen = Seen { sums, counts: vec![calls.into()], place: all.len() };
            all.entries.insert(String::from_utf8_lossy(&name).into_owned(), seen);
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

    /// Takes it from an opened GGUF file.
    fn from_gguf(model: &Model, limits: &Limits) -> Result<Measured> {
        let file = model.files.first().map(Input::name).unwrap_or_default();
        let wrong = |what: String| {
            let next = "measure it again with llama-imatrix";
            Error::unsupported(format!("{file}: {what}"), next)
        };
        let texts = model.metadata.get("imatrix.datasets").and_then(|v| v.as_array());
        let texts = texts.and_then(Array::texts).into_iter().flat_map(Texts::iter);
        let number =
            |key: &str| model.metadata.u64(key).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        let mut all = Measured {
            datasets: texts.map(<[u8]>::to_vec).collect(),
            chunks: number("imatrix.chunk_count"),
            chunk_size: Some(number("imatrix.chunk_size")),
            entries: BTreeMap::new(),
        };
        let by_name: HashMap<&str, &Tensor> =
            model.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        for sums in &model.tensors {
            // NAME.in_sum2 [experts][columns] and NAME.counts [experts][1].
            let Some(name) = sums.name.strip_suffix(".in_sum2") else { continue };
            let counts = by_name.get(format!("{name}.counts").as_str());
            let counts = counts.ok_or_else(|| wrong(format!("{name} has sums and no counts")))?;
            let (sums, counts) = (numbers(model, sums, limits)?, numbers(model, counts, limits)?);
            if !sums.iter().chain(&counts).all(|n| n.is_finite()) {
                return Err(wrong(format!("{name} holds NaN or infinity")));
            }
            #[expect(clippy::cast_possible_truncation, reason = "counts are whole numbers")]
            let counts = counts.iter().map(|count| count.round() as i64).collect();
            let seen = Seen { sums, counts, place: all.len() };
            if seen.columns() == 0 || seen.columns() * seen.counts.len() != seen.sums.len() {
                let (s, c) = (seen.sums.len(), seen.counts.len());
                return Err(wrong(format!("{name} has {s} sums and {c} counts")));
            }
            all.entries.insert(name.to_owned(), seen);
        }
        if all.is_empty() {
            return Err(wrong("holds no imatrix data (tensors called NAME.in_sum2)".into()));
        }
        Ok(all)
    }

    /// Adds the vectors `xs`, each of `cols` numbers, that one of the `experts` of a tensor was multiplied
    /// with.
    ///
    /// `xs` is `[vectors][cols]`. The order of the sums does not depend on how many threads there are, so the same text
    /// gives the same file.
    pub fn add(&mut self, name: &str, (expert, experts): (usize, usize), cols: usize, xs: &[f32]) {
        let entry = self.entries.entry(name.to_owned()).or_default();
        entry.counts.resize(experts, 0);
        entry.sums.resize(experts * cols, 0.0);
        // Of experts only the one that the token was sent to.
        let own = entry.sums.chunks_exact_mut(cols).zip(&mut entry.counts).nth(expert);
        let Some((sums, count)) = own else { return };
        *count += xs.chunks_exact(cols).map(|_| 1).sum::<i64>();
        // Columns are shared out, so that each is summed in the order of the text.
        sums.par_chunks_mut(SHARE).enumerate().for_each(|(share, sums)| {
            for x in xs.chunks_exact(cols) {
                for (sum, x) in sums.iter_mut().zip(x.iter().skip(share * SHARE)) {
                    *sum += x * x;
                }
            }
        });
    }

    /// Adds what another `file` holds of the same model. Calls count for chunks of `chunk_size` tokens, and so do
    /// the chunks of both together, for the two may have been made with others.
    ///
    /// # Errors
    /// Where it is about matrices of another shape.
    ///
    /// ```text
    /// old file    values = mean squares × calls       × chunk size     sums of squares
    ///             calls                               × chunk size     vectors
    /// ```
    ///
    pub fn merge(&mut self, mut other: Measured, file: &str, chunk_size: u32) -> Result<()> {
        self.count_vectors(chunk_size);
        other.count_vectors(chunk_size);
        for (name, mut seen) in other.entries {
            let Some(own) = self.entries.get_mut(&name) else {
                self.entries.insert(name, seen);
                continue;
            };
            // An old file has one count for all experts, a new one a count for each.
            own.spread(seen.counts.len());
            seen.spread(own.counts.len());
            if own.sums.len() != seen.sums.len() || own.counts.len() != seen.counts.len() {
                let (first, second) = (own.sums.len(), seen.sums.len());
                let what =
                    format!("{file}: {second} sums for {name}, {first} in the file before it");
                return Err(Error::unsupported(what, "files of one model are put together"));
            }
            own.add(&seen);
        }
        // As llama-imatrix writes them: by name.
        self.entries.values_mut().for_each(|seen| seen.place = 0);
        let counts = self.entries.values().flat_map(|seen| &seen.counts);
        let chunks = counts.max().map_or(0, |most| most / i64::from(chunk_size.max(1)));
        self.chunks = u32::try_from(chunks).unwrap_or(u32::MAX);
        self.chunk_size = Some(chunk_size);
        self.datasets.extend(other.datasets);
        Ok(())
    }

    /// Counts vectors where calls were counted.
    fn count_vectors(&mut self, chunk_size: u32) {
        if self.chunk_size.is_none() {
            for seen in self.entries.values_mut() {
                // A call was a chunk, and what is stored the mean of a token's squares times the calls.
                seen.sums.iter_mut().for_each(|sum| *sum *= chunk_size as f32);
                seen.counts.iter_mut().for_each(|count| *count *= i64::from(chunk_size));
            }
            self.chunk_size = Some(chunk_size);
        }
    }

    /// How many matrices were seen.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none was seen.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All by name.
    pub(super) fn entries(&self) -> &BTreeMap<String, Seen> {
        &self.entries
    }

    /// The mean of each column's squares. A matrix that no text reached tells nothing: all its columns count
    /// alike; an old file may have means in place of sums, with no call.
    pub(super) fn means(&self) -> impl Iterator<Item = (&str, Vec<f32>)> {
        let calls = self.chunk_size.is_none();
        let mean = move |sum: f32, count: i64| match count > 0 {
            true => sum / count as f32,
            false if calls => sum,
            false => 1.0,
        };
        self.entries.iter().map(move |(name, seen)| {
            let means = seen.runs().flat_map(|(sums, n)| sums.iter().map(move |sum| mean(*sum, n)));
            (name.as_str(), means.collect())
        })
    }

    /// The entries in the order of the file that they were read from.
    fn in_order(&self) -> Vec<(&String, &Seen)> {
        let mut all: Vec<_> = self.entries.iter().collect();
        all.sort_by_key(|(_, seen)| seen.place);
        all
    }

    /// What a `.dat` file cannot hold of this.
    /// Sentences without a verb, to be listed behind one.
    pub fn lost_in_dat(&self) -> Vec<String> {
        let mut lost = Vec::new();
        let uneven = |seen: &&Seen| seen.counts.windows(2).any(|pair| pair.first() != pair.last());
        let uneven = self.entries.values().filter(uneven).count();
        if uneven > 0 {
            lost.push(format!(
                "the experts' own counts of {}",
                counted(uneven, "matrix", "matrices")
            ));
        }
        if let Some(more @ 1..) = self.datasets.len().checked_sub(1) {
            lost.push(format!("the names of {}", counted(more, "text", "texts")));
        }
        if let Some(size) = self.chunk_size {
            lost.push(format!("that a chunk has {size} tokens"));
        }
        lost
    }

    /// The bytes of a `.dat` file.
    ///
    /// # Errors
    /// Where there is more of something than the format counts.
    ///
    /// A file that came from `.dat` and went through GGUF with whole chunks is the same byte for byte.
    pub fn to_dat(&self) -> Result<Vec<u8>> {
        let beyond =
            |_| Error::unsupported(format!("{OLD}: more than the format counts"), "write GGUF");
        let word = |n: usize| i32::try_from(n).map(i32::to_le_bytes).map_err(beyond);
        let mut out = word(self.len())?.to_vec();
        let chunk = self.chunk_size.map_or(1, |size| i64::from(size.max(1)));
        for (name, seen) in self.in_order() {
            out.extend(word(name.len())?);
            out.extend(name.as_bytes());
            let most = seen.counts.iter().copied().max().unwrap_or(0);
            // Rounded up: a part of a chunk was a call too.
            let calls = most.div_euclid(chunk) + i64::from(most % chunk > 0);
            out.extend(i32::try_from(calls).map_err(beyond)?.to_le_bytes());
            out.extend(word(seen.sums.len())?);
            for (sums, count) in seen.runs() {
                for sum in sums {
                    let value = match count {
                        // Whole chunks: what came from a `.dat` file is the same again.
                        _ if count == calls * chunk => sum / chunk as f32,
                        // An expert that was never asked counts every column alike.
                        0 => calls as f32,
                        _ => sum / count as f32 * calls as f32,
                    };
                    out.extend(value.to_le_bytes());
                }
            }
        }
        if self.chunks > 0 || !self.datasets.is_empty() {
            out.extend(self.chunks.to_le_bytes());
            let dataset = self.datasets.last().map_or(&[][..], Vec::as_slice);
            out.extend(word(dataset.len())?);
            out.extend(dataset);
        }
        Ok(out)
    }

    /// The bytes of a GGUF file; calls count for chunks of `chunk_size` tokens.
    ///
    /// # Errors
    /// Where a name does not fit the format.
    pub fn to_gguf(mut self, chunk_size: u32) -> Result<Vec<u8>> {
        self.count_vectors(chunk_size);
        let missing = || Error::unsupported("the description of gguf-v3 is missing", "");
        let format = catalog::container("gguf-v3").ok_or_else(missing)?;
        let quant = QuantType::today("f32").ok_or_else(missing)?;
        let mut metadata = Metadata::new();
        metadata.set("general.type", "imatrix");
        metadata.set("imatrix.datasets", Value::strings(&self.datasets));
        metadata.set("imatrix.chunk_count", self.chunks);
        metadata.set("imatrix.chunk_size", self.chunk_size.unwrap_or(chunk_size));
        let mut heads = Vec::new();
        let mut data: Vec<Vec<u8>> = Vec::new();
        for (name, seen) in self.in_order() {
            let experts = seen.counts.len();
            let counts: Vec<f32> = seen.counts.iter().map(|count| *count as f32).collect();
            let parts = [("in_sum2", seen.columns() as u64, &seen.sums), ("counts", 1, &counts)];
            for (kind, cols, numbers) in parts {
                heads.push(TensorHead {
                    name: format!("{name}.{kind}"),
                    // As ggml counts dimensions: an outermost 1 is none.
                    shape: if experts == 1 { vec![cols] } else { vec![experts as u64, cols] },
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

/// Little-endian float32.
fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))
}

/// All numbers of an F32 tensor.
fn numbers(model: &Model, tensor: &Tensor, limits: &Limits) -> Result<Vec<f32>> {
    let limit = limits.array;
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

    fn read(bytes: Vec<u8>) -> Result<Measured> {
        Measured::from_dat(&Input::memory("i.dat", bytes), &Limits::DEFAULT)
    }

    fn means(all: &Measured, name: &str) -> Option<Vec<f32>> {
        all.means().find(|(own, _)| *own == name).map(|(_, means)| means)
    }

    #[test]
    fn an_old_file_with_and_without_its_trailer() {
        let mut bytes = dat(&[("a.weight", 4, &[2.0, 6.0]), ("b.weight", 0, &[3.0])]);
        let all = read(bytes.clone()).unwrap();
        assert_eq!(means(&all, "a.weight"), Some(vec![0.5, 1.5]));
        assert_eq!(means(&all, "b.weight"), Some(vec![3.0]));
        assert_eq!((all.len(), all.chunks), (2, 0));
        bytes.extend(7i32.to_le_bytes());
        bytes.extend(5i32.to_le_bytes());
        bytes.extend(b"a.txt");
        let all = read(bytes).unwrap();
        assert_eq!((all.chunks, all.datasets), (7, vec![b"a.txt".to_vec()]));
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
        let all = Measured::from_gguf(&model, &Limits::DEFAULT).unwrap();
        assert_eq!(means(&all, "w"), Some(vec![2.0 / 3.0, 4.0 / 3.0, 4.5, 4.5, 1.0, 1.0]));
        assert_eq!((all.chunks, all.datasets), (9, vec![b"a.txt".to_vec()]));
        model.tensors.pop();
        assert!(Measured::from_gguf(&model, &Limits::DEFAULT).is_err());
    }
}
