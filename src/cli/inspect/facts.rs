//! What `inspect` found, as data and as text.
//!
//! One value with several faces: `Display` is the text for a terminal, `Serialize` the data of `--json`, and `markdown`
//! and `page` are made of it too, so no face can say what another does not know. Scripts rely on the names of fields.

use std::{fmt, path::Path};

use serde::Serialize;

use super::{
    adapter::Adapter,
    sizes::{self, Further, word},
    text::{self, counted},
};
use crate::{
    bytes::Input,
    change::{self, Target, choose::ftype::FileType},
    check::{
        Finding, Severity,
        models::{
            structure,
            vocabulary::{Health, health},
        },
    },
    checkpoint::Stored,
    cli::advice,
    container::{self, tail},
    error::{Error, Result, plain, unicode},
    format::{
        catalog,
        container::{Container, Skeleton},
        family::Family,
    },
    model::{
        Model, Tensor,
        loader::{self, Content},
        lora, spelling,
    },
    quant::QuantType,
    size,
};

/// The facts about one file; what each field means is on `src/cli/json.md`. Lists are empty and options none where the
/// file does not say.
///
/// | field | from |
/// |---|---|
/// | format, title, dates, source, `read_by`, traps | the format's description |
/// | family, sizes, `file_type`, header | header words or keys, under the names of the family |
/// | types, parameters | the tensors |
/// | vocabulary, findings | checks that need no weight |
/// | next | all of it: the one command to type, or why there is none |
#[derive(Debug, Default, Serialize)]
pub(super) struct Facts {
    pub file: String,
    pub format: String,
    pub title: String,
    pub bytes: u64,
    pub files: Vec<String>,
    pub written_from: String,
    pub written_to: Option<String>,
    pub source: String,
    pub read_by: Vec<(String, String)>,
    pub family: String,
    /// What raw weights are where they are not a plain model: an adapter, quantized for another program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The tensors of raw weights, which have no model.
    #[serde(skip)]
    pub raw: Vec<Stored>,
    /// What it holds that is no model.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub content: &'static str,
    pub file_type: Option<String>,
    pub parameters: u64,
    pub sizes: Vec<(&'static str, u64)>,
    pub further: Further,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Adapter>,
    /// The header as stored, where no family says what its words mean.
    pub header: Vec<(String, String)>,
    pub types: Vec<Share>,
    pub vocabulary: Option<Health>,
    pub findings: Vec<Finding>,
    pub traps: Vec<String>,
    pub next: String,
}

/// Tensors of one type.
#[derive(Debug, Serialize)]
pub(super) struct Share {
    #[serde(rename = "type")]
    pub name: String,
    pub dialect: &'static str,
    pub tensors: u64,
    pub bytes: u64,
}

impl Facts {
    /// The facts about a model.
    ///
    /// # Errors
    /// Where nothing describes the format that the model says it is in.
    pub fn of(path: &Path, model: &Model) -> Result<Facts> {
        let format = catalog::container(&model.format)
            .ok_or_else(|| Error::unsupported(format!("no format {:?}", model.format), ""))?;
        let content = Content::of(model);
        let (sizes, further) = sizes::of(model, content);
        let adapter = (content == Content::Adapter).then(|| Adapter::of(model));
        let (adapter, of) = adapter.map_or((None, String::new()), |(a, of)| (Some(a), of));
        let mut vocabulary = health(model);
        let findings = structure::meaning(model);
        // Notes of the structure say nothing that a person has to act on here; `verify` has them.
        let refused: Vec<Finding> =
            findings.into_iter().filter(|f| f.severity > Severity::Note).collect();
        // An adapter or a projector has no vocabulary, and misses none.
        if content.other().is_some() {
            vocabulary.findings.clear();
        }
        // The loader's demands say it in their way.
        let said = |f: &Finding| f.code == "vocabulary-embedding";
        vocabulary
            .findings
            .retain(|f| !(said(f) && refused.iter().any(|r| r.code == "vocabulary")));
        let notes = model.notes.iter().map(|note| Finding::note("reader", advice::note(note)));
        let mut facts = Facts {
            files: model.sources().into_iter().map(Input::name).collect(),
            bytes: model.sources().into_iter().map(Input::len).sum(),
            family: catalog::family(if adapter.is_some() { &of } else { &model.family })
                .map_or_else(
                    || model.metadata.str("general.architecture").unwrap_or_default(),
                    |f| &f.family.title,
                )
                .to_owned(),
            file_type: if adapter.is_some() { None } else { file_type(model) },
            parameters: model.tensors.iter().map(Tensor::elements).sum(),
            sizes,
            further,
            header: if adapter.is_some() { Vec::new() } else { unexplained(model) },
            adapter,
            types: shares(model),
            read_by: readers(format, model),
            findings: notes
                .chain(vocabulary.findings.iter().cloned())
                .chain(refused.iter().cloned())
                .collect(),
            vocabulary: Some(vocabulary),
            content: content.other().map_or("", |(what, _)| what),
            ..Facts::about(path, format)
        };
        advice::findings(&mut facts.findings);
        facts.next = next(path, format, model, &refused);
        Ok(facts)
    }

    /// The facts about a file whose format is only recognised.
    pub fn recognised(path: &Path, format: &'static Container) -> Result<Facts> {
        let bytes = size(path)?;
        let files = vec![unicode(path)];
        let next = "nothing: it is known, and regguf does not convert it".to_owned();
        Ok(Facts { bytes, files, next, ..Facts::about(path, format) })
    }

    /// The facts about a file that could not be read: in a folder it is a line among others, with the reason as what
    /// comes next.
    ///
    /// ```text
    /// old.bin    4.2 GB    damaged    tensors[37].n_dims at 0x1a3f20: …
    /// ```
    pub fn broken(path: &Path, error: &Error) -> Result<Facts> {
        let message = advice::error(error);
        let name = unicode(path);
        let what = message.strip_prefix(&format!("{name}: ")).unwrap_or(&message).to_owned();
        let findings = vec![Finding::failure("unreadable", what.clone())];
        let format = match error {
            Error::Unknown { .. } => "unknown",
            Error::Unsupported { .. } | Error::Foreign { .. } => "known",
            Error::Io { .. } => "unreadable",
            _ => "damaged",
        };
        Ok(Facts {
            file: name,
            format: format.to_owned(),
            bytes: size(path).unwrap_or(0),
            findings,
            next: what,
            ..Facts::default()
        })
    }

    /// What the description of a format says of every file of it.
    pub fn about(path: &Path, format: &'static Container) -> Facts {
        let lived = &format.format.lived;
        Facts {
            file: unicode(path),
            format: format.id().to_owned(),
            title: format.format.title.clone(),
            written_from: lived.from.clone(),
            written_to: lived.to.clone(),
            source: format.format.source.clone(),
            read_by: readers(format, &Model::default()),
            traps: format.traps.clone(),
            ..Facts::default()
        }
    }

    /// The types in one line, most bytes first.
    pub fn types(&self) -> String {
        let names: Vec<String> = self.types.iter().map(|share| share.name.clone()).collect();
        names.join(", ")
    }
}

/// The size on the disk: what could not be read has no model that would know it.
fn size(path: &Path) -> Result<u64> {
    Ok(path.metadata().map_err(|e| Error::io(path, "read", e))?.len())
}

/// The header words of a file of a family that is not described; a float as the number it is.
fn unexplained(model: &Model) -> Vec<(String, String)> {
    if catalog::family(&model.family).is_some_and(|family| !family.family.gguf.is_empty()) {
        return Vec::new();
    }
    let text = |name: &str, value: i64| {
        model.metadata.f32(name).map_or_else(|| value.to_string(), |float| float.to_string())
    };
    model.header.iter().map(|(name, value)| (name.clone(), text(name, *value))).collect()
}

/// The file type that the file states, by name; else the one of its largest matrices.
///
/// ```text
/// 1  a container that numbers types by itself     its name for it
/// 2  ftype of the header, general.file_type       llama.cpp's name of that number
/// 3  neither                                      the usual name for the type that holds most bytes
/// ```
///
/// A number whose meaning changed is called by what the tensors show: 33 was Q4_0_4_4, 4 a mixture of March 2023.
fn file_type(model: &Model) -> Option<String> {
    let own = catalog::container(&model.format).and_then(|c| c.stated_type(&model.header));
    if let Some(own) = own {
        return Some(own.to_uppercase());
    }
    // From 10 on the ggml repository numbers file types otherwise than llama.cpp.
    let theirs = |n: &u64| model.header("quant_version").is_some() && *n >= 10;
    let number = word(model, "ftype")
        .filter(|n| !theirs(n))
        .or_else(|| model.metadata.u64("general.file_type"));
    let shares = shares(model);
    let most = || shares.iter().max_by_key(|share| share.bytes);
    let guessed = || {
        most().map(|share| FileType::usual(share.name.split('/').next().unwrap_or_default()).into())
    };
    let number = number.or_else(guessed)?;
    // Numbers that had another or no name later.
    let past = [
        (4, "Q4_1 with F16 embedding and output"),
        (5, "Q4_2"),
        (6, "Q4_3"),
        (33, "Q4_0_4_4"),
        (34, "Q4_0_4_8"),
        (35, "Q4_0_8_8"),
    ];
    let named = |q: QuantType| q.block().file_type.is_some_and(|n| u64::from(n) == number);
    let read = |t: &Tensor| t.with_scale().map_or(t.quant, |readable| readable.quant);
    if let Some(share) = model.tensors.iter().map(read).find(|q| named(*q)) {
        return Some(share.to_string());
    }
    let past = past.iter().find(|(id, _)| *id == number).map(|(_, name)| (*name).to_owned());
    // Aliases are before the name that they mean.
    let now = || FileType::all().filter(|t| !t.copy && u64::from(t.number) == number).last();
    past.or_else(|| now().map(|t| t.name.to_owned())).or_else(|| Some(format!("number {number}")))
}

/// Which builds read the format, then what of the model came later or went earlier than it did.
///
/// A GGUF of v3 is read by every build since October 2023, and one with IQ4_NL by those since February 2024 only: the
/// second is said as a part of the first.
fn readers(format: &Container, model: &Model) -> Vec<(String, String)> {
    let mut out: Vec<_> =
        format.readers.iter().map(|r| (r.builds.clone(), r.what.clone())).collect();
    if format.format.skeleton != Skeleton::Keyed {
        return out;
    }
    let mut add = |builds: String, what: String| {
        let line = (builds, what);
        if !out.contains(&line) {
            out.push(line);
        }
    };
    // Types of other programs have no builds of llama.cpp that read them.
    let own = model.tensors.iter().map(|t| t.quant).filter(|q| q.program().is_none());
    for quant in own {
        let lived = &quant.block().lived;
        let name = format!("{} among them", quant.name());
        match &lived.to {
            // A type that was taken out again.
            Some(to) if quant.gguf_id().is_some() => {
                add(format!("of those, builds of {} to {to}", lived.from), name);
            }
            // A type that came after the container: dates are texts in the order of the calendar.
            None if lived.from > format.format.lived.from => {
                add(format!("of those, builds from {} on", lived.from), name);
            }
            _ => {}
        }
    }
    if change::has_single_experts(model) {
        add("of those, none of today's".to_owned(), "experts one by one".to_owned());
    }
    out
}

/// The types of a model with their tensors and bytes, the largest share first.
fn shares(model: &Model) -> Vec<Share> {
    let mut out: Vec<Share> = Vec::new();
    for tensor in &model.tensors {
        let name = tensor.quant.to_string();
        match out.iter_mut().find(|share| share.name == name) {
            Some(share) => {
                share.tensors += 1;
                share.bytes += tensor.bytes();
            }
            None => {
                let (dialect, bytes) = (tensor.quant.dialect(), tensor.bytes());
                out.push(Share { name, dialect, tensors: 1, bytes });
            }
        }
    }
    out.sort_by_key(|share| std::cmp::Reverse(share.bytes));
    out
}

/// The command to type next; what today's llama.cpp makes of the file, as far as it was looked at.
///
/// The line can be copied into a shell: names are quoted where they need it.
fn next(path: &Path, format: &'static Container, model: &Model, refused: &[Finding]) -> String {
    if let Err(error) = model.check_unturned() {
        return format!("nothing: {error}");
    }
    // Asked from what forbids most to what is open: turned weights, another program's types, bytes behind the data, a
    // foreign adapter; then by format.
    let today = model.tensors.iter().all(|t| t.quant.is_today() && t.fold == 1);
    let broken = container::upgrade_mends(model)
        || change::mends(model)
        || spelling::lost_merges(&model.vocab).is_some();
    let word = shell_word(&unicode(path));
    let foreign = Family::of(model).is_err();
    let closed = |t: &&Tensor| t.quant.stranger().is_some() && !t.is_decodable();
    if let Some(tensor) = model.tensors.iter().find(closed)
        && let Some(foreign) = tensor.quant.stranger()
    {
        return match tensor.misfit().is_some() && !foreign.broken.is_empty() {
            true => format!("nothing: {}", foreign.broken),
            false => match tensor.torn() {
                Some(torn) => format!("nothing: {torn}"),
                None => format!("nothing: only {} reads {}", foreign.program, foreign.name),
            },
        };
    }
    // What follows the data of an older file an upgrade leaves behind.
    if today
        && format.format.skeleton == Skeleton::Keyed
        && let Ok(Some(mend)) = tail::next(model)
    {
        return mend;
    }
    if lora::is_foreign(model) {
        let (adapter, _) = Adapter::of(model);
        return match adapter.fault {
            Some(fault) => format!("nothing: {fault}"),
            None if adapter.wants_base => format!("regguf upgrade {word} --base MODEL"),
            None => format!("regguf upgrade {word}"),
        };
    }
    if let Some(unknown) = change::vision::unknown(model) {
        return format!("nothing: {}", advice::error(&unknown));
    }
    match format.id() {
        _ if is_present(format, model) => {
            let reader = format.format.source.split([' ', ',']).next().unwrap_or_default();
            format!("nothing to do: it is the present layout of {reader}")
        }
        _ if change::vision::is_joined(model) => {
            format!("regguf upgrade {word} --mmproj mmproj.gguf")
        }
        _ if foreign => "nothing: it is known, and regguf does not convert it".to_owned(),
        // Version 3 with present types needs nothing, unless an upgrade mends its keys.
        "gguf-v3" if today && !broken => of_today(model, refused),
        "gguf-v2" if today && !broken => {
            format!("{} (regguf upgrade {word} makes it v3)", of_today(model, refused))
        }
        _ => format!("regguf upgrade {word}"),
    }
}

/// Whether a model that GGUF has no name for is in its container as that is written today.
fn is_present(format: &'static Container, model: &Model) -> bool {
    let target = Target::of(None, model).is_ok_and(|t| !t.is_keyed() && t.id() == format.id());
    let newest = |name: &str, version| model.header(name) == Some(version);
    let plain = model.tensors.iter().all(|t| t.quant.layout().elements == 1);
    target && (plain || format.newest().is_none_or(|(name, version)| newest(name, version)))
}

/// What is to be done with a GGUF of today's form: nothing, and why.
fn of_today(model: &Model, refused: &[Finding]) -> String {
    let content = Content::of(model);
    if content == Content::Adapter
        && let Some(fault) = Adapter::of(model).0.fault
    {
        return format!("nothing: {fault}");
    }
    if let Some((_, taken)) = content.other() {
        return format!("nothing to do: {taken}");
    }
    if let Some(first) = refused.first() {
        let more = match refused.len() {
            1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        // The sentence around it says so already.
        let said = first.message.trim_end_matches(": today's llama.cpp refuses it");
        let about =
            if first.about.is_empty() { String::new() } else { format!("{} ", first.about) };
        return format!("today's llama.cpp refuses it: {about}{said}{more}");
    }
    match loader::doubt(model) {
        None => "nothing to do: today's llama.cpp reads it".to_owned(),
        Some(doubt) => format!("structure read; {doubt}"),
    }
}

/// `word` as a shell takes it.
pub(super) fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", plain(&self.file))?;
        // Names of 12 characters, then the value; control characters of a file never reach the terminal (`plain`).
        let mut line = |name: &str, value: &str| writeln!(f, "  {name:<12}{}", plain(value));
        line("format", &format!("{} [{}]", self.title, self.format))?;
        let until = self.written_to.as_ref().map_or("on".to_owned(), |to| format!("to {to}"));
        line("written", &format!("{} {until}: {}", self.written_from, self.source))?;
        for (i, (builds, what)) in self.read_by.iter().enumerate() {
            line(if i == 0 { "read by" } else { "" }, &format!("{builds}: {what}"))?;
        }
        if self.files.len() > 1 {
            line("files", &format!("{} as one model", self.files.len()))?;
        }
        let sizes: Vec<String> = self.sizes.iter().map(|(n, v)| format!("{n} {v}")).collect();
        let of = if self.family.is_empty() { "" } else { &format!(" for {}", self.family) };
        let sizes = self.adapter.as_ref().map_or_else(|| sizes.join(", "), Adapter::scale);
        let behind = if sizes.is_empty() { "" } else { &format!(": {sizes}") };
        if !self.content.is_empty() {
            line("holds", &format!("{}{of}{behind}", self.content))?;
        } else if !self.family.is_empty() {
            line("model", &format!("{}: {sizes}", self.family))?;
        }
        for (name, value) in self.further.lines() {
            line(name, &value)?;
        }
        for (name, value) in self.adapter.iter().flat_map(Adapter::lines) {
            line(name, &value)?;
        }
        if !self.header.is_empty() {
            let words: Vec<String> = self.header.iter().map(|(n, v)| format!("{n} {v}")).collect();
            line("header", &words.join(", "))?;
        }
        if !self.types.is_empty() {
            let (parameters, bytes) = (text::count(self.parameters), size::text(self.bytes));
            let tensors: u64 = self.types.iter().map(|share| share.tensors).sum();
            line(
                "parameters",
                &format!("{parameters} in {}, {bytes}", counted(tensors, "tensor", "tensors")),
            )?;
        }
        if let Some(kind) = &self.kind {
            line("kind", kind)?;
        }
        if let Some(file_type) = &self.file_type {
            line("file type", file_type)?;
        }
        for (i, share) in self.types.iter().enumerate() {
            let (tensors, bytes) = (share.tensors, size::text(share.bytes));
            let value =
                format!("{}: {}, {bytes}", share.name, counted(tensors, "tensor", "tensors"));
            line(if i == 0 { "types" } else { "" }, &value)?;
        }
        if let Some(health) = &self.vocabulary
            && health.tokens > 0
        {
            let scores = if health.scores { "scores" } else { "no scores" };
            let (n, bytes, merges) = (health.tokens, health.bytes, health.merges);
            let merges = if merges > 0 { format!(", {merges} merges") } else { String::new() };
            line("vocabulary", &format!("{n} tokens, {scores}, {bytes} byte tokens{merges}"))?;
        }
        for finding in &self.findings {
            line("note", &finding.to_string())?;
        }
        line("next", &self.next)
    }
}
