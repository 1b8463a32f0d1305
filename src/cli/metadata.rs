//! `regguf metadata`: the keys of a model listed and edited.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde::Serialize;

use super::{
    Globals,
    common::OUTPUT,
    json::{self, Shown, VERSION},
    print, print_folded,
    progress::Bar,
    remark, text,
    write::make_output_folder,
};
use crate::{
    bytes::{Input, journal, read_stdin, read_text},
    change::{
        self,
        edit::{self, Demands, Difference, Edit, Form, Token},
    },
    cli::advice,
    container,
    error::{Error, Result},
    model::{Model, Value, glob},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Edits, one after the other, as many as are wanted:
  get KEY                  print a value as it is
  set KEY VALUE            give a key a value
  remove KEY               take a key away
  rename KEY NAME          give a key another name
  copy-from OTHER KEY      take a key from another file

KEY may have * and ? in it, but for set and rename. A VALUE is read as the kind that the key has, \
or llama.cpp wants; for another key, name it: u32:5, str:TEXT, bool:true, [f32]:0.5,1, and with \
@FILE (@- for standard input) in place of :TEXT its text is read from there, one item a line.

Examples:
  regguf metadata model.gguf
  regguf metadata model.gguf get tokenizer.chat_template
  regguf metadata model.gguf --chat-template chatml.jinja
  regguf metadata model.gguf --special-token eos '<|im_end|>' --dry-run
  regguf metadata model.gguf set llama.context_length 8192 remove 'quantize.*'
  regguf metadata model.gguf set llama.rope.freq_base 1e6 --in-place
  regguf metadata model.gguf copy-from other.gguf 'tokenizer.*' -o mended.gguf")]
pub struct Args {
    /// The model file; of a set, its first file
    input: PathBuf,
    /// What to do; without any, the keys are listed
    #[arg(value_name = "EDIT", allow_negative_numbers = true)]
    words: Vec<String>,
    /// Set the chat template to the text of a file, or of the chat_template in a tokenizer_config.json
    #[arg(long, value_name = "FILE|-")]
    chat_template: Option<PathBuf>,
    /// Set the special token NAME (bos, eos, eot, padding, unknown …) to the one with this text; repeatable
    #[arg(long, num_args = 2, value_names = ["NAME", "TEXT"])]
    special_token: Vec<String>,
    /// Set a special token by its number; repeatable
    #[arg(long, num_args = 2, value_names = ["NAME", "ID"])]
    special_token_by_id: Vec<String>,
    /// Set tokenizer.ggml.pre, which says how text is cut before byte pairs are merged
    #[arg(long, value_name = "NAME")]
    pre_tokenizer: Option<String>,
    /// Where to write [default: NAME-edited.gguf beside the input]
    #[arg(short, long, value_name = "OUT", help_heading = OUTPUT)]
    output: Option<PathBuf>,
    /// Write into the file itself, where no tensor has to move: no byte of a tensor is touched. If the
    /// process is killed meanwhile, the next `regguf metadata FILE` completes it
    #[arg(long, help_heading = OUTPUT, conflicts_with_all = ["output", "no_sync"])]
    in_place: bool,
    #[command(flatten)]
    dry_run: super::common::DryRunArg,
    /// Write also what today's llama.cpp would refuse
    #[arg(long, help_heading = OUTPUT)]
    anyway: bool,
    #[command(flatten)]
    commit: super::common::CommitArgs,
    #[command(flatten)]
    open: super::open::OpenArgs,
    #[command(flatten)]
    json: super::common::JsonArg,
}

/// Runs it.
pub fn run(args: &Args, globals: &Globals) -> Result<ExitCode> {
    let words = Words::read(&args.words)?;
    if !args.dry_run.dry_run && journal::finish(&args.input)? {
        let shown = args.input.display();
        remark(globals, &format!("{shown}: completed an edit in place that was cut short"));
    }
    let model = container::open(&args.input, &args.open.options())?;
    let edits = args.edits(&words)?;
    match (edits.is_empty(), words.get.is_empty()) {
        (true, _) if args.in_place || args.output.is_some() => {
            Err(Error::usage("there is nothing to write: say what to edit".to_owned()))
        }
        (true, _) => list(args, &model, &words.get),
        (false, true) => change(args, globals, &model, &edits),
        (false, false) => {
            Err(Error::usage("get prints and changes nothing: give it alone".to_owned()))
        }
    }
}

/// The words behind the file, in the order in which they were typed: each edit sees what those before it made.
#[derive(Debug, Default)]
struct Words {
    /// Keys to print, with `*` and `?`.
    get: Vec<String>,
    edits: Vec<Word>,
}

/// An edit before anything is read for it.
#[derive(Debug)]
enum Word {
    Edit(Edit),
    Set(String, String),
    CopyFrom(PathBuf, String),
}

impl Words {
    /// Cuts the words into edits: a verb, and what it takes.
    ///
    /// # Errors
    /// Where a word is no verb, or what it takes is missing.
    ///
    /// ```text
    /// get KEY            set KEY VALUE          remove KEY
    /// rename KEY NAME    copy-from FILE KEYS
    /// ```
    ///
    fn read(words: &[String]) -> Result<Words> {
        let mut out = Words::default();
        let mut rest = words.iter();
        while let Some(verb) = rest.next() {
            let mut next = |what: &str| {
                rest.next().cloned().ok_or_else(|| Error::usage(format!("{verb}: name {what}")))
            };
            match verb.as_str() {
                "get" => out.get.push(next("a key")?),
                "set" => out.edits.push(Word::Set(next("a key")?, next("a value")?)),
                "remove" => out.edits.push(Word::Edit(Edit::Remove(next("a key")?))),
                "rename" => {
                    let (key, name) = (next("a key")?, next("its new name")?);
                    out.edits.push(Word::Edit(Edit::Rename { key, name }));
                }
                "copy-from" => {
                    let (file, keys) = (next("a file")?, next("a key, as 'tokenizer.*'")?);
                    out.edits.push(Word::CopyFrom(file.into(), keys));
                }
                other => {
                    let known = "get, set, remove, rename or copy-from";
                    return Err(Error::usage(format!("{other}: wanted {known}")));
                }
            }
        }
        Ok(out)
    }
}

impl Args {
    /// Every edit, those of flags last.
    ///
    /// # Errors
    /// Where a file cannot be read, or an id is no number. Whether the edits can be done is asked when they are
    /// planned.
    fn edits(&self, words: &Words) -> Result<Vec<Edit>> {
        let mut edits = Vec::new();
        for word in &words.edits {
            edits.push(match word {
                Word::Edit(edit) => edit.clone(),
                Word::Set(key, value) => set(key, value)?,
                Word::CopyFrom(file, keys) => {
                    let other = container::open(file, &self.open.options())?.metadata;
                    let (file, keys) = (file.display().to_string(), keys.clone());
                    Edit::CopyFrom { other, file, keys }
                }
            });
        }
        if let Some(path) = &self.chat_template {
            edits.push(given("tokenizer.chat_template", template(read(path)?)?));
        }
        if let Some(name) = &self.pre_tokenizer {
            edits.push(given("tokenizer.ggml.pre", name.clone()));
        }
        for pair in self.special_token.chunks_exact(2) {
            if let [name, text] = pair {
                edits.push(Edit::Special { name: name.clone(), token: Token::Text(text.clone()) });
            }
        }
        for pair in self.special_token_by_id.chunks_exact(2) {
            if let [name, id] = pair {
                let id = id.parse().map_err(|_| Error::usage(format!("{id}: wanted a number")))?;
                edits.push(Edit::Special { name: name.clone(), token: Token::Id(id) });
            }
        }
        Ok(edits)
    }
}

/// A key given this text.
fn given(key: &str, text: String) -> Edit {
    Edit::Set { key: key.to_owned(), form: Form::parse("str"), text }
}

/// `VALUE`, `FORM:VALUE` or `FORM@FILE`.
///
/// ```text
/// llama.rope.freq_base 1e6              the kind that the key has
/// my.key f32:1e6                        a kind that is said, where no file knows the key
/// tokenizer.ggml.tokens [str]@list.txt  the text of a file
/// general.url https://example.org       `https` is no kind: all of it is the value
/// ```
fn set(key: &str, value: &str) -> Result<Edit> {
    let key = key.to_owned();
    if let Some((form, rest)) = value.find([':', '@']).map(|at| value.split_at(at))
        && let Some(form) = Form::parse(form)
    {
        let text = match rest.strip_prefix('@') {
            Some(path) => read(Path::new(path))?,
            None => rest.trim_start_matches(':').to_owned(),
        };
        return Ok(Edit::Set { key, form: Some(form), text });
    }
    Ok(Edit::Set { key, form: None, text: value.to_owned() })
}

/// The text of a file, `-` for standard input.
fn read(path: &Path) -> Result<String> {
    if path == Path::new("-") { read_stdin() } else { read_text(path) }
}

/// A chat template, or the one in the text of a `tokenizer_config.json` or `chat_template.json`.
fn template(text: String) -> Result<String> {
    let Ok(config) = serde_json::from_str::<serde_json::Map<_, serde_json::Value>>(&text) else {
        return Ok(text);
    };
    match config.get("chat_template").and_then(serde_json::Value::as_str) {
        Some(template) => Ok(template.to_owned()),
        None => {
            let what = "--chat-template: the JSON has no text under chat_template";
            Err(Error::refused(what, "give the template itself, as a .jinja file has it"))
        }
    }
}

/// What `--json` prints of keys that are only listed.
#[derive(Serialize)]
struct Listed<'a> {
    schema_version: u32,
    file: String,
    format: &'a str,
    metadata: Keys<'a>,
}

/// Keys with the kinds of their values.
struct Keys<'a>(Vec<(&'a str, &'a Value)>);

/// A value and its kind: a JSON number alone does not tell u32 from i64.
#[derive(Serialize)]
struct Typed<'a> {
    #[serde(rename = "type")]
    kind: String,
    value: Shown<'a>,
}

impl Serialize for Keys<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(key, value)| (key, typed(value))))
    }
}

/// A value with its kind, as `--json` has it.
fn typed(value: &Value) -> Typed<'_> {
    // `[u32]` for an array of these.
    let kind = match value {
        Value::Array(items) => format!("[{}]", items.kind().name()),
        value => value.kind().name().to_owned(),
    };
    Typed { kind, value: Shown(value) }
}

/// Prints all keys, or those that were asked for.
///
/// One key alone is printed as it is, for other programs; several are a table, whose values are cut to the line.
fn list(args: &Args, model: &Model, wanted: &[String]) -> Result<ExitCode> {
    let metadata = &model.metadata;
    for glob in wanted {
        if !metadata.iter().any(|(key, _)| glob::matches(glob, key)) {
            let next = "without `get` all are listed";
            return Err(Error::refused(format!("{glob}: the file has no such key"), next));
        }
    }
    let asked = |key: &str| wanted.is_empty() || wanted.iter().any(|glob| glob::matches(glob, key));
    let keys: Vec<(&str, &Value)> = metadata.iter().filter(|(key, _)| asked(key)).collect();
    if args.json.json {
        let file = crate::error::unicode(&args.input);
        let metadata = Keys(keys);
        json::print(&Listed { schema_version: VERSION, file, format: &model.format, metadata })?;
        return Ok(ExitCode::SUCCESS);
    }
    match keys.as_slice() {
        [(_, value)] if !wanted.is_empty() => print(&raw(value))?,
        keys => {
            let row = |(key, value): &(&str, &Value)| vec![(*key).to_owned(), edit::line(value)];
            print(&text::table_of(&keys.iter().map(row).collect::<Vec<_>>(), &text::KEYS))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A value as other programs take it: text as it is, a list one item a line.
fn raw(value: &Value) -> String {
    match value {
        Value::String(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            // A chat template ends as it is stored: one line end is added only where there is none.
            if text.ends_with('\n') { text.into_owned() } else { format!("{text}\n") }
        }
        Value::Array(items) => items.iter().map(|item| raw(&item)).collect(),
        value => format!("{value}\n"),
    }
}

/// What `--json` prints of an edit.
#[derive(Serialize)]
struct Edited<'a> {
    schema_version: u32,
    inputs: Vec<String>,
    outputs: Vec<String>,
    in_place: bool,
    written: bool,
    differences: Vec<Differs<'a>>,
    notes: &'a [String],
}

/// A key before and after; none where it was not there, or is no more.
#[derive(Serialize)]
struct Differs<'a> {
    key: &'a str,
    before: Option<Typed<'a>>,
    after: Option<Typed<'a>>,
}

impl Differs<'_> {
    fn of(d: &Difference) -> Differs<'_> {
        let (before, after) = (d.before.as_ref().map(typed), d.after.as_ref().map(typed));
        Differs { key: &d.key, before, after }
    }
}

/// Does the edits and says what differs.
///
/// The same edits twice are one edit: where nothing differs nothing is written, unless an output is named.
fn change(args: &Args, globals: &Globals, model: &Model, edits: &[Edit]) -> Result<ExitCode> {
    let demands = if args.anyway { Demands::Waived } else { Demands::Met };
    let (plans, changed) = edit::plans(model, edits, args.output.as_deref(), demands)?;
    let outputs: Vec<String> = match args.in_place {
        true => model.files.first().iter().map(|file| file.name()).collect(),
        false => plans.iter().map(|plan| plan.output.display().to_string()).collect(),
    };
    let mut refused = Vec::new();
    // A file that was asked for by name is written, whatever is in it.
    let idle = changed.is_empty() && args.output.is_none();
    let said = match (args.dry_run.dry_run, args.in_place) {
        _ if idle => "nothing differs, nothing was written".to_owned(),
        // In place only bytes of keys change, so the whole patch is small and known beforehand.
        (dry, true) => {
            let patch = edit::Patch::new(model, &plans)?;
            let (verb, bytes) =
                if dry { ("would write", patch.len()) } else { ("wrote", patch.write()?) };
            format!("{verb} {bytes} bytes into {}; no tensor is touched", outputs.join(", "))
        }
        (true, false) => format!("would write {}", outputs.join(", ")),
        (false, false) => {
            let _made = make_output_folder(args.output.as_deref(), 1)?;
            let bar = Bar::new(globals, plans.iter().map(|plan| plan.layout.total).sum());
            let outcomes = change::carry(model, &plans, args.commit.commit(), &bar)?;
            refused.extend(outcomes.into_iter().flat_map(|outcome| outcome.refused));
            format!("wrote {}", outputs.join(", "))
        }
    };
    let written = !args.dry_run.dry_run && !idle;
    let notes = model.notes.iter().map(advice::note).chain(refused).collect::<Vec<_>>();
    if args.json.json {
        json::print(&Edited {
            schema_version: VERSION,
            inputs: model.files.iter().map(Input::name).collect(),
            outputs,
            in_place: args.in_place,
            written,
            differences: changed.iter().map(Differs::of).collect(),
            notes: &notes,
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&shown(&changed))?;
    notes.iter().for_each(|note| remark(globals, &format!("note: {note}")));
    print_folded(&format!("{said}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// What differs, as `diff` shows it.
///
/// ```text
/// - tokenizer.ggml.scores  f32[512] 0, 0, 0, …
/// + tokenizer.ggml.scores  f32[512] 0, 0, 0, …
///   (item 259 is the first that differs)
/// ```
fn shown(changed: &[Difference]) -> String {
    let mut out = String::new();
    for Difference { key, before, after } in changed {
        for (sign, value) in [('-', before), ('+', after)] {
            if let Some(value) = value {
                out += &format!("{sign} {key}  {}\n", crate::error::plain(&edit::line(value)));
            }
        }
        let items = |value: &Option<Value>| value.as_ref()?.as_array().cloned();
        if let Some((a, b)) = items(before).zip(items(after)) {
            let first = a.iter().zip(b.iter()).position(|(a, b)| a != b);
            let first = first.unwrap_or(a.len().min(b.len()));
            out += &format!("  (item {first} is the first that differs)\n");
        }
    }
    out
}
