//! What a caller can do about an error or a doubt, as data: steps in plain words, and for each what is set or
//! called. The words name no command line; the command adds its own flags and verbs to them.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    path::Path,
};

use serde::{Deserialize, Serialize};

/// Something that a caller may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(all(test, feature = "command"), derive(clap::ValueEnum))]
#[non_exhaustive]
pub enum Setting {
    /// The context length of a model.
    Context,
    /// The number of tokens that a run keeps.
    Window,
    /// The epsilon of its norms.
    Epsilon,
    /// The base of its rotary positions.
    RopeBase,
    /// The factor by which its positions are scaled.
    RopeScale,
    /// The tokenizer whose vocabulary counts.
    Vocabulary,
    /// The name of how text is cut before byte pairs are merged.
    PreTokenizer,
    /// That a vocabulary is fitted to the rows of the embedding.
    PadVocabulary,
    /// The model that an adapter belongs to.
    Base,
    /// The order of the rows of queries and keys in an adapter.
    Rows,
    /// The format by whose rules a file is read.
    Format,
    /// How the rows of an unversioned file are stored.
    Blocks,
    /// The form of blocks that share a type number.
    ReadAs,
    /// The number of parts of a file.
    Parts,
    /// The format that is written.
    Target,
    /// The type of the weights that are written.
    Type,
    /// The type of some tensors.
    TensorType,
    /// That weights may lose twice.
    AllowRequantize,
    /// Imatrix data.
    Imatrix,
    /// The type that stands in where imatrix data is missing.
    FallbackType,
    /// Tensors that imatrix data is not used for.
    ExcludeWeights,
    /// One type for all matrices.
    Pure,
    /// That nothing is rounded.
    Exact,
    /// That scales outside f16 become the nearest.
    ClampScales,
    /// That NaN and infinity are written.
    KeepNan,
    /// Tensors that are left out.
    Drop,
    /// Layers that are left out.
    PruneLayers,
    /// That rows of queries and keys in a wrong order are put right.
    RepairRows,
    /// A difference that is added to a model.
    Delta,
    /// What new rows of an embedding are made of.
    NewRows,
    /// That files may be replaced.
    Force,
    /// Where the output goes.
    Output,
    /// That a file is changed where it is.
    InPlace,
    /// That what readers refuse is written anyway.
    Anyway,
    /// The share of a machine in a batch, of the tensors of each model.
    Shard,
    /// That every weight is looked at.
    Deep,
    /// A text that a model reads.
    Text,
    /// That both files are run.
    Prove,
}

/// Something that a caller may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(all(test, feature = "command"), derive(clap::ValueEnum))]
#[non_exhaustive]
pub enum Call {
    /// What a file is and what is in it.
    Inspect,
    /// The tokens of a file.
    Tokens,
    /// The tensors of a file.
    Tensors,
    /// The keys of a file.
    Metadata,
    /// What a format is, or which there are.
    Explain,
    /// Whether a file is sound.
    Verify,
    /// How two models differ.
    Compare,
    /// Today's GGUF of an old file.
    Upgrade,
    /// Another format or type.
    Convert,
    /// Fewer bits a weight.
    Quantize,
    /// One file of shards or pieces.
    Join,
    /// Shards of one file.
    Split,
    /// A task for every model of a folder.
    Batch,
}

/// What makes a step possible: settings of the call that failed, or another call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Means {
    /// What is called; none where the same is called again.
    pub call: Option<Call>,
    /// What is set, with the value where one is meant.
    pub settings: Vec<(Setting, Option<String>)>,
    /// What it is called with: a file, or what stands for one.
    pub on: String,
}

/// One thing that helps.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// In words: "replace it".
    pub does: String,
    /// What it takes, any of these; none for what no setting and no call does.
    pub means: Vec<Means>,
}

/// Steps, any of which helps; none where nothing is known to help.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remedy(Vec<Step>);

impl Setting {
    /// This setting at a value.
    pub fn of(self, value: impl Into<String>) -> Means {
        Means { settings: vec![(self, Some(value.into()))], ..Means::default() }
    }

    /// The remedy that sets it.
    pub fn to(self, does: impl Into<String>) -> Remedy {
        Means::from(self).to(does)
    }
}

/// Its name, as `rope-base`.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, c) in format!("{self:?}").chars().enumerate() {
            let dash = if n > 0 && c.is_uppercase() { "-" } else { "" };
            write!(f, "{dash}{}", c.to_lowercase())?;
        }
        Ok(())
    }
}

impl Call {
    /// This call with a file, or what stands for one.
    pub fn on(self, what: impl Into<String>) -> Means {
        Means { call: Some(self), on: what.into(), ..Means::default() }
    }

    /// The remedy that calls it.
    pub fn to(self, does: impl Into<String>) -> Remedy {
        Means::from(self).to(does)
    }
}

impl Means {
    /// The same with more settings.
    #[must_use]
    pub fn with(mut self, more: impl Into<Means>) -> Means {
        self.settings.append(&mut more.into().settings);
        self
    }

    /// The remedy that takes this.
    pub fn to(self, does: impl Into<String>) -> Remedy {
        Remedy(vec![Step { does: does.into(), means: vec![self] }])
    }
}

impl From<Setting> for Means {
    fn from(setting: Setting) -> Means {
        Means { settings: vec![(setting, None)], ..Means::default() }
    }
}

impl From<Call> for Means {
    fn from(call: Call) -> Means {
        call.on("")
    }
}

impl Remedy {
    /// One step that any of `means` makes possible.
    pub fn any(does: impl Into<String>, means: impl IntoIterator<Item = Means>) -> Remedy {
        Remedy(vec![Step { does: does.into(), means: means.into_iter().collect() }])
    }

    /// This, or another.
    #[must_use]
    pub fn or(mut self, other: impl Into<Remedy>) -> Remedy {
        self.0.append(&mut other.into().0);
        self
    }

    /// The steps, any of which helps.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Whether nothing is known to help.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The steps in words, with what `name` says of the means of each.
    pub fn told(&self, name: impl Fn(&Means) -> String) -> String {
        let step = |step: &Step| {
            let means: Vec<String> =
                step.means.iter().map(&name).filter(|m| !m.is_empty()).collect();
            match means.is_empty() {
                true => step.does.clone(),
                false => format!("{} with {}", step.does, means.join(" or ")),
            }
        };
        self.0.iter().map(step).collect::<Vec<_>>().join(", or ")
    }
}

/// A step in words alone.
impl From<String> for Remedy {
    fn from(does: String) -> Remedy {
        let step = Step { does, means: Vec::new() };
        Remedy(Some(step).into_iter().filter(|step| !step.does.is_empty()).collect())
    }
}

impl From<&str> for Remedy {
    fn from(does: &str) -> Remedy {
        does.to_owned().into()
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told(|_| String::new()))
    }
}

/// A fault of a file that an upgrade mends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Of its form: no written file has it, whatever writes it.
    Form,
    /// Of its weights: it is gone where tensors are written anew.
    Weights,
}

impl Fault {
    /// How a note of it ends, of the file that has it and of a new one that has not.
    fn words(self, gone: bool) -> &'static str {
        match (self, gone) {
            (Fault::Form, false) => "an upgrade mends it",
            (Fault::Form, true) => "the new one is mended",
            (Fault::Weights, false) => "and an upgrade mends them",
            (Fault::Weights, true) => "and they are put right in the new one",
        }
    }
}

/// Something that was noticed, with what can be done about it. As text, in JSON too, it is both in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
#[non_exhaustive]
pub struct Note {
    /// What was noticed.
    pub text: String,
    /// The fault that it tells of, where an upgrade mends that.
    pub fault: Option<Fault>,
    /// What can be done about it.
    pub remedy: Remedy,
}

impl Note {
    /// A note with a remedy.
    pub fn new(text: impl Into<String>, remedy: impl Into<Remedy>) -> Note {
        Note { text: text.into(), fault: None, remedy: remedy.into() }
    }

    /// A note of a fault.
    pub fn of(fault: Fault, text: impl Into<String>) -> Note {
        Note { fault: Some(fault), ..Note::from(text.into()) }
    }

    /// What it says of a new file, which has the fault no more.
    #[must_use]
    pub fn mended(self) -> Note {
        let text = self.worded(true);
        Note { text, fault: None, ..self }
    }

    fn worded(&self, gone: bool) -> String {
        self.fault
            .map_or_else(|| self.text.clone(), |f| format!("{}, {}", self.text, f.words(gone)))
    }

    /// The note where it is clear which file it is about: without the file's name.
    #[must_use]
    pub fn within(mut self, file: &Path) -> Note {
        let name = format!("{}: ", file.display());
        self.text = self.text.strip_prefix(&name).map(str::to_owned).unwrap_or(self.text);
        self
    }

    /// The note in words, with what `name` says of means.
    pub fn told(&self, name: impl Fn(&Means) -> String) -> String {
        match self.remedy.is_empty() {
            true => self.worded(false),
            false => format!("{}; {}", self.worded(false), self.remedy.told(name)),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told(|_| String::new()))
    }
}

/// What was noticed, without what can be done about it.
impl Deref for Note {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl From<String> for Note {
    fn from(text: String) -> Note {
        Note { text, ..Note::default() }
    }
}

impl From<&str> for Note {
    fn from(text: &str) -> Note {
        text.to_owned().into()
    }
}

impl From<Note> for String {
    fn from(note: Note) -> String {
        note.to_string()
    }
}

/// What was noticed, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Notes(Vec<Note>);

impl Notes {
    /// Adds one.
    pub fn push(&mut self, note: impl Into<Note>) {
        self.0.push(note.into());
    }

    /// Moves all of `other` behind these.
    pub fn append(&mut self, other: &mut Notes) {
        self.0.append(&mut other.0);
    }
}

/// One a line.
impl fmt::Display for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

impl Deref for Notes {
    type Target = [Note];

    fn deref(&self) -> &[Note] {
        &self.0
    }
}

impl DerefMut for Notes {
    fn deref_mut(&mut self) -> &mut [Note] {
        &mut self.0
    }
}

impl<N: Into<Note>> Extend<N> for Notes {
    fn extend<I: IntoIterator<Item = N>>(&mut self, notes: I) {
        self.0.extend(notes.into_iter().map(Into::into));
    }
}

impl<N: Into<Note>> FromIterator<N> for Notes {
    fn from_iter<I: IntoIterator<Item = N>>(notes: I) -> Notes {
        Notes(notes.into_iter().map(Into::into).collect())
    }
}

impl IntoIterator for Notes {
    type Item = Note;
    type IntoIter = std::vec::IntoIter<Note>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Notes {
    type Item = &'a Note;
    type IntoIter = std::slice::Iter<'a, Note>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_hold_no_means_unless_they_are_named() {
        let remedy = Setting::Force.to("replace it").or(Setting::Output.to("name another output"));
        assert_eq!(remedy.to_string(), "replace it, or name another output");
        let named = remedy.told(|means| format!("{:?}", means.settings[0].0));
        assert_eq!(named, "replace it with Force, or name another output with Output");
        assert!(Remedy::from("").is_empty());
    }

    #[test]
    fn a_note_is_one_text_to_serde() {
        let note = Note::new("the type is not sure", Setting::ReadAs.of("q4_0/pairs").to("say it"));
        let json = serde_json::to_string(&note).unwrap();
        assert_eq!(json, "\"the type is not sure; say it\"");
        assert_eq!(serde_json::from_str::<Note>(&json).unwrap().to_string(), note.to_string());
    }
}
