//! Receipts: what makes a rerun skip only what is proved whole.
//!
//! Beside every output of a batch is `<output>.receipt.json`. It is written before the work begins;
//! again with the digest of the output, before that gets its name; and when all is done. A batch owns a
//! file that has the digest of its receipt, and that was made of the same model as now: any other is
//! somebody else's, whatever the receipt beside it says, and is left alone.

use crate::bytes::replace::Existing;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::shard::Shard;
use crate::bytes::{open_regular, replace::write_small};
use crate::change::Progress;
use crate::check::files::digest::{self, Algorithm, Outcome};
use crate::error::{Error, Result};

/// The ending of a receipt's name.
const ENDING: &str = ".receipt.json";
/// No receipt is larger.
const MOST: u64 = 1 << 20;
/// What is between the name of an output and the number of its part.
const PART: &str = ".part-";
/// This program as receipts name it: another version may write other bytes.
pub const TOOL: &str = concat!("regguf ", env!("CARGO_PKG_VERSION"));

/// How far the work was when the receipt was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum State {
    /// The output may have its name already, or not.
    Started,
    /// The output is whole, was read back and has its name.
    Finished,
}

/// One file as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
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
#[non_exhaustive]
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
    /// The model that it was made of, by its full path.
    #[serde(default)]
    pub source: Option<String>,
    /// The inputs, with their digests.
    pub inputs: Vec<FileState>,
    /// The output, once it is whole.
    pub output: Option<FileState>,
    /// While the work goes on: the output of before, which this one replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<FileState>,
}

/// What is to be made: everything that decides whether an output is there already.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Work<'a> {
    /// The task, as `quantize`.
    pub task: &'a str,
    /// Everything that decides the output's bytes besides the inputs.
    pub options: Value,
    /// The model, by its full path.
    pub source: String,
    /// The inputs: names and paths.
    pub inputs: &'a [(String, PathBuf)],
    /// Threads for reading files to digest them.
    pub threads: usize,
}

/// What can be said of an output before working on it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// It is there, whole, and made from these inputs with these options.
    Proved,
    /// It has to be made, and why; what it replaces, if that is a batch's own.
    Due(String, Option<FileState>),
    /// A file is there that is not this batch's own, and why.
    Foreign(String),
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
    pub(super) fn is_still(&self, path: &Path, threads: usize) -> bool {
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

/// Size of a file and when it was last changed, in nanoseconds since 1970.
fn stamp(path: &Path) -> Result<(u64, u64)> {
    let metadata = fs::metadata(path).map_err(|error| Error::io(path, "read", error))?;
    let since = metadata.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    Ok((metadata.len(), since.and_then(|d| u64::try_from(d.as_nanos()).ok()).unwrap_or(0)))
}

/// Where the receipt of an output is.
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

/// Where a part of an output is until the parts are joined.
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
    /// The receipt of work that begins now, on inputs that were read.
    pub fn start(work: &Work, inputs: Vec<FileState>, replaces: Option<FileState>) -> Self {
        Self {
            schema_version: 1,
            tool: TOOL.to_owned(),
            state: State::Started,
            task: work.task.to_owned(),
            options: work.options.clone(),
            source: Some(work.source.clone()),
            inputs,
            output: None,
            replaces,
        }
    }

    /// Reads the receipt of an output; `None` where there is none that can be read.
    pub fn of(output: &Path) -> Option<Self> {
        let mut text = Vec::new();
        open_regular(&path_of(output)).ok()?.take(MOST).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// What it says of the file that is there: its bytes are those of the output, or of the one before;
    /// none where they are neither.
    pub(super) fn owned(&self, output: &Path, threads: usize) -> Option<(&FileState, bool)> {
        let new = self.output.as_ref().map(|made| (made, true));
        let old = self.replaces.as_ref().map(|made| (made, false));
        new.into_iter().chain(old).find(|(made, _)| made.has_digest_of(output, threads))
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
        write_small(&path, text.as_bytes(), Existing::Replace)
    }

    /// Reads back an output that is whole and is at `place` still, and says so beside `output`: from
    /// then on the file is owned, whenever it gets its name.
    ///
    /// # Errors
    /// Where it cannot be read or the receipt not written.
    pub fn seal(
        &mut self,
        place: &Path,
        output: &Path,
        name: &str,
        threads: usize,
        progress: &dyn Progress,
    ) -> Result<()> {
        self.output = Some(FileState::read(place, name, threads, progress)?);
        self.write(output)
    }

    /// Completes it: the output has its name. Returns what was made.
    ///
    /// # Errors
    /// Where the output is not the one that was read back, or the receipt cannot be written.
    pub fn finish(mut self, output: &Path) -> Result<FileState> {
        let (size, modified_ns) = stamp(output)?;
        let Some(made) = self.output.clone().filter(|made| made.size == size) else {
            let how = "it is not the file that was read back".to_owned();
            return Err(Error::Changed { path: output.to_owned(), how });
        };
        // Some file systems set the time once more when all is on disk.
        let made = FileState { modified_ns, ..made };
        (self.state, self.replaces, self.output) = (State::Finished, None, Some(made.clone()));
        self.write(output)?;
        Ok(made)
    }
}

/// What can be said of `output` before `work` on it. Work that was interrupted when all was done but the
/// last receipt is completed.
///
/// # Errors
/// Where that receipt cannot be written.
pub fn standing(output: &Path, work: &Work) -> Result<Standing> {
    let there = output.symlink_metadata().is_ok();
    let due = |why: &str| Ok(Standing::Due(why.to_owned(), None));
    let foreign = |why: String| Ok(Standing::Foreign(why));
    let Some(receipt) = Receipt::of(output) else {
        let path = path_of(output);
        return match (there, path.symlink_metadata().is_ok()) {
            (true, _) => foreign("exists already and no receipt says that a batch made it".into()),
            (false, true) => foreign(format!("{} is there and no receipt", path.display())),
            (false, false) => due("not made yet"),
        };
    };
    let why = receipt.why_due(work);
    if !there {
        let gone =
            if receipt.state == State::Started { "was interrupted" } else { "the output is gone" };
        return due(why.as_deref().unwrap_or(gone));
    }
    let Some((made, is_new)) = receipt.owned(output, work.threads) else {
        return foreign(match receipt.output.is_some() {
            true => "exists already and was changed since a batch made it".into(),
            false => "exists already, and the batch that began here had not made it".into(),
        });
    };
    let same_source = receipt.source.as_deref() == Some(&work.source);
    match why {
        None if is_new => {
            if receipt.state == State::Started {
                receipt.finish(output)?;
            }
            Ok(Standing::Proved)
        }
        None => Ok(Standing::Due("was interrupted".to_owned(), Some(made.clone()))),
        Some(why) if same_source => Ok(Standing::Due(why, Some(made.clone()))),
        Some(_) => {
            let from = receipt.source.as_deref().unwrap_or("something else");
            foreign(format!("exists already and was made from {from}"))
        }
    }
}

impl Receipt {
    /// Why the work of this receipt is not the one to be done; none where it is.
    fn why_due(&self, work: &Work) -> Option<String> {
        if self.tool != TOOL {
            return Some(format!("was made by {}", self.tool));
        }
        if self.task != work.task || self.options != work.options {
            return Some("was made with other options".to_owned());
        }
        let same_names = self.inputs.iter().map(|i| &i.name).eq(work.inputs.iter().map(|(n, _)| n));
        let mut pairs = self.inputs.iter().zip(work.inputs);
        let same = same_names && pairs.all(|(was, (_, path))| was.is_still(path, work.threads));
        (!same).then(|| "the input has changed".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn work<'a>(options: &Value, inputs: &'a [(String, PathBuf)], source: &str) -> Work<'a> {
        let (options, source) = (options.clone(), source.to_owned());
        Work { task: "upgrade", options, source, inputs, threads: 1 }
    }

    /// Makes an output as a batch does.
    fn make(work: &Work, output: &Path, bytes: &str) {
        let states = work.inputs.iter().map(|(name, path)| FileState::read(path, name, 1, &()));
        let states = states.collect::<Result<Vec<_>>>().expect("readable");
        let mut receipt = Receipt::start(work, states, None);
        receipt.write(output).expect("writable");
        let partial = output.with_extension("partial");
        fs::write(&partial, bytes).expect("writable");
        receipt.seal(&partial, output, "out", 1, &()).expect("writable");
        fs::rename(&partial, output).expect("movable");
        receipt.finish(output).expect("writable");
    }

    #[test]
    fn only_what_is_proved_is_skipped_and_only_what_is_owned_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let (input, output) = (folder.path().join("in"), folder.path().join("out"));
        fs::write(&input, "input").expect("writable");
        let options = json!({"to": "gguf-v3"});
        let inputs = [("in".to_owned(), input.clone())];
        let ours = work(&options, &inputs, "/a/in");
        let found = |work: &Work| match standing(&output, work).expect("writable") {
            Standing::Proved => "proved".to_owned(),
            Standing::Due(why, Some(_)) => format!("owned: {why}"),
            Standing::Due(why, None) => why,
            Standing::Foreign(why) => format!("foreign: {why}"),
        };
        assert_eq!(found(&ours), "not made yet");
        fs::write(&output, "mine").expect("writable");
        assert!(found(&ours).starts_with("foreign: exists already and no receipt"));
        let state = || FileState::read(&input, "in", 1, &()).expect("readable");
        Receipt::start(&ours, vec![state()], None).write(&output).expect("writable");
        assert!(found(&ours).starts_with("foreign: exists already, and the batch that began"));
        fs::remove_file(&output).expect("removable");
        assert_eq!(found(&ours), "was interrupted");

        make(&ours, &output, "output");
        assert_eq!(found(&ours), "proved");
        let other = json!({"to": "ggjt-v3"});
        assert_eq!(found(&work(&other, &inputs, "/a/in")), "owned: was made with other options");
        let elsewhere = found(&work(&other, &inputs, "/b/in"));
        assert_eq!(elsewhere, "foreign: exists already and was made from /a/in");
        assert_eq!(found(&work(&options, &inputs, "/moved/in")), "proved", "the same bytes");

        // The same bytes written again are the same input; other bytes are not.
        fs::write(&input, "input").expect("writable");
        assert_eq!(found(&ours), "proved");
        fs::write(&input, "INPUT").expect("writable");
        assert_eq!(found(&ours), "owned: the input has changed");
        fs::write(&input, "input").expect("writable");

        // Killed before the last receipt, and while an output of its own was being replaced.
        let mut receipt = Receipt::of(&output).expect("a receipt");
        receipt.state = State::Started;
        receipt.write(&output).expect("writable");
        assert_eq!(found(&ours), "proved");
        assert_eq!(Receipt::of(&output).expect("a receipt").state, State::Finished);
        (receipt.replaces, receipt.output) = (receipt.output.take(), None);
        receipt.write(&output).expect("writable");
        assert_eq!(found(&ours), "owned: was interrupted");

        make(&ours, &output, "output");
        fs::write(&output, "outpux").expect("writable");
        assert!(found(&ours).starts_with("foreign: exists already and was changed"));
        fs::remove_file(&output).expect("removable");
        assert_eq!(found(&ours), "the output is gone");
        fs::write(path_of(&output), "my notes").expect("writable");
        assert!(found(&ours).ends_with("is there and no receipt"));
    }
}
