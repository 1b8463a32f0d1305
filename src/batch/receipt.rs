//! Receipts: what makes a rerun skip only what is proved whole.
//!
//! Beside every output of a batch stands `<output>.receipt.json`. It is written twice: before the work
//! begins, so that an output without the second is known to be ours and is made again, and after it,
//! with the output's digest. An output without any receipt is somebody else's and is left alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::shard::Shard;
use crate::bytes::replace::write_small;
use crate::change::Progress;
use crate::check::digest::{self, Algorithm, Outcome};
use crate::error::{Error, Result};

/// The ending of a receipt's name.
const ENDING: &str = ".receipt.json";
/// What stands between the name of an output and the number of its part.
const PART: &str = ".part-";
/// This program as receipts name it: another version may write other bytes.
pub const TOOL: &str = concat!("regguf ", env!("CARGO_PKG_VERSION"));

/// How far the work was when the receipt was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The output may be there in part, whole, or not at all.
    Started,
    /// The output is whole and was read back.
    Finished,
}

/// One file as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// Its name, relative to the folder that the batch was given.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written, in nanoseconds since 1970; saves reading an input that did not move.
    pub modified_ns: u64,
    /// SHA-256 of its bytes.
    pub sha256: String,
}

/// What was made from what, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The version of this structure.
    pub schema_version: u32,
    /// The program and its version.
    pub tool: String,
    /// How far it came.
    pub state: State,
    /// The task, as `quantize`.
    pub task: String,
    /// Everything that decides the output's bytes besides the inputs.
    pub options: Value,
    /// The inputs, with their digests.
    pub inputs: Vec<FileState>,
    /// The output, once finished.
    pub output: Option<FileState>,
}

/// What can be said of an output before working on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is there, whole, and made from these inputs with these options.
    Proved,
    /// It has to be made, and why.
    Due(String),
    /// A file of its name is there that no receipt claims.
    Foreign,
}

impl FileState {
    /// Reads a file and digests it.
    ///
    /// # Errors
    /// Where it cannot be read or changes meanwhile.
    pub fn read(path: &Path, name: &str, threads: usize, progress: &dyn Progress) -> Result<Self> {
        let (_, modified_ns) = stamp(path)?;
        match digest::file(path, &[Algorithm::Sha256], threads, &|n| progress.advance(n)) {
            Outcome::Read { size, digests } => {
                let sha256 = digests.into_values().map(|d| d.hex).collect();
                Ok(Self { name: name.to_owned(), size, modified_ns, sha256 })
            }
            Outcome::Failed(error) => Err(Error::io(path, "read", error)),
            Outcome::Changed => {
                let how = "its size or time moved".to_owned();
                Err(Error::Changed { path: path.to_owned(), how })
            }
        }
    }

    /// Whether a file has not been written to since.
    pub fn is_unmoved(&self, path: &Path) -> bool {
        stamp(path).is_ok_and(|now| now == (self.size, self.modified_ns))
    }

    /// Whether a file is still this one: by size and time, by digest where only the time moved.
    fn is_still(&self, path: &Path, threads: usize) -> bool {
        match stamp(path) {
            Ok(now) if now == (self.size, self.modified_ns) => true,
            Ok((size, _)) => size == self.size && self.has_digest_of(path, threads),
            Err(_) => false,
        }
    }

    /// Whether a file's bytes are these.
    pub fn has_digest_of(&self, path: &Path, threads: usize) -> bool {
        let same_size = fs::metadata(path).is_ok_and(|m| m.len() == self.size);
        same_size && Self::read(path, "", threads, &()).is_ok_and(|now| now.sha256 == self.sha256)
    }
}

fn stamp(path: &Path) -> Result<(u64, u64)> {
    let metadata = fs::metadata(path).map_err(|error| Error::io(path, "read", error))?;
    let since = metadata.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    Ok((metadata.len(), since.and_then(|d| u64::try_from(d.as_nanos()).ok()).unwrap_or(0)))
}

/// Where the receipt of an output stands.
pub fn path_of(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(ENDING);
    name.into()
}

/// What a receipt is of, by its name; any other file is its own subject.
pub fn subject(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(ENDING).map_or_else(|| path.to_owned(), |of| path.with_file_name(of))
}

/// Whether a file is a receipt by its name.
pub fn is_receipt(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(ENDING))
}

/// Where a part of an output stands until the parts are joined.
pub fn part_of(output: &Path, shard: Shard) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(format!("{PART}{}-of-{}", shard.index(), shard.count()));
    name.into()
}

/// The output that a file is a part of, by its name, and which part.
pub fn whole_of(part: &Path) -> Option<(PathBuf, Shard)> {
    let name = part.file_name()?.to_str()?;
    let (whole, shard) = name.rsplit_once(PART)?;
    let shard = shard.replacen("-of-", "/", 1).parse().ok()?;
    (!whole.is_empty()).then(|| (part.with_file_name(whole), shard))
}

impl Receipt {
    /// The receipt of work that begins now.
    pub fn start(task: &str, options: Value, inputs: Vec<FileState>) -> Self {
        let (tool, task) = (TOOL.to_owned(), task.to_owned());
        Self { schema_version: 1, tool, state: State::Started, task, options, inputs, output: None }
    }

    /// Reads the receipt of an output; `None` where there is none that can be read.
    pub fn of(output: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path_of(output)).ok()?).ok()
    }

    /// Whether this and the other are of the same work: by one version, from the same bytes under the
    /// same names, with the same options.
    pub fn makes_the_same(&self, other: &Self) -> bool {
        let content = |receipt: &Self| -> Vec<(String, u64, String)> {
            let of = |i: &FileState| (i.name.clone(), i.size, i.sha256.clone());
            receipt.inputs.iter().map(of).collect()
        };
        let how = |receipt: &Self| (receipt.tool.clone(), receipt.task.clone());
        how(self) == how(other) && self.options == other.options && content(self) == content(other)
    }

    /// Writes it beside the output.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, output: &Path) -> Result<()> {
        let path = path_of(output);
        let text = serde_json::to_string_pretty(self);
        let text = text.map_err(|error| Error::io(&path, "write", error.into()))? + "\n";
        write_small(&path, text.as_bytes(), true)
    }

    /// Completes it with the finished output, read back.
    ///
    /// # Errors
    /// Where the output cannot be read or the receipt not written.
    pub fn finish(
        mut self,
        output: &Path,
        name: &str,
        threads: usize,
        progress: &dyn Progress,
    ) -> Result<FileState> {
        let state = FileState::read(output, name, threads, progress)?;
        self.output = Some(state.clone());
        self.state = State::Finished;
        self.write(output)?;
        Ok(state)
    }
}

/// What can be said of `output`, to be made from `inputs` (name and path) by `task` with `options`.
pub fn standing(
    output: &Path,
    task: &str,
    options: &Value,
    inputs: &[(String, PathBuf)],
    threads: usize,
) -> Standing {
    let there = output.symlink_metadata().is_ok();
    let due = |why: &str| Standing::Due(why.to_owned());
    let Some(receipt) = Receipt::of(output) else {
        return if there { Standing::Foreign } else { due("not made yet") };
    };
    let Some(made) = receipt.output.filter(|_| receipt.state == State::Finished) else {
        return due("was interrupted");
    };
    if receipt.tool != TOOL {
        return Standing::Due(format!("was made by {}", receipt.tool));
    }
    if receipt.task != task || receipt.options != *options {
        return due("was made with other options");
    }
    let same_names = receipt.inputs.iter().map(|i| &i.name).eq(inputs.iter().map(|(n, _)| n));
    let mut pairs = receipt.inputs.iter().zip(inputs);
    if !same_names || !pairs.all(|(was, (_, path))| was.is_still(path, threads)) {
        return due("the input has changed");
    }
    if !there {
        return due("the output is gone");
    }
    if !made.has_digest_of(output, threads) {
        return due("the output has changed");
    }
    Standing::Proved
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn standing_of(output: &Path, options: &Value, input: &Path) -> Standing {
        standing(output, "upgrade", options, &[("in".into(), input.to_owned())], 1)
    }

    #[test]
    fn only_what_is_proved_is_skipped() {
        let folder = tempfile::tempdir().expect("a folder");
        let (input, output) = (folder.path().join("in"), folder.path().join("out"));
        fs::write(&input, "input").expect("writable");
        let options = json!({"to": "gguf-v3"});
        let due = |why: &str| Standing::Due(why.to_owned());
        assert_eq!(standing_of(&output, &options, &input), due("not made yet"));
        fs::write(&output, "output").expect("writable");
        assert_eq!(standing_of(&output, &options, &input), Standing::Foreign);

        let state = FileState::read(&input, "in", 1, &()).expect("readable");
        let receipt = Receipt::start("upgrade", options.clone(), vec![state]);
        receipt.write(&output).expect("writable");
        assert_eq!(standing_of(&output, &options, &input), due("was interrupted"));
        receipt.finish(&output, "out", 1, &()).expect("writable");
        assert_eq!(standing_of(&output, &options, &input), Standing::Proved);
        assert_eq!(
            standing_of(&output, &json!({"to": "ggjt-v3"}), &input),
            due("was made with other options")
        );

        // The same bytes written again are the same input; other bytes are not.
        fs::write(&input, "input").expect("writable");
        assert_eq!(standing_of(&output, &options, &input), Standing::Proved);
        fs::write(&input, "INPUT").expect("writable");
        assert_eq!(standing_of(&output, &options, &input), due("the input has changed"));
        fs::write(&input, "input").expect("writable");
        fs::write(&output, "outpux").expect("writable");
        assert_eq!(standing_of(&output, &options, &input), due("the output has changed"));
        fs::remove_file(&output).expect("removable");
        assert_eq!(standing_of(&output, &options, &input), due("the output is gone"));
    }
}
