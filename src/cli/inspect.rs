//! `regguf inspect`: what a file is, what is in it, what to do next. Reads headers only.
//!
//! Every file is told by itself, and one that cannot be told does not keep the next from being told. The exit code is
//! that of the first failure. With one file alone the error is the command's own.

mod adapter;
mod data;
mod facts;
mod markdown;
mod page;
mod raw;
mod sizes;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{
    Globals, json,
    open::{OpenArgs, input},
    print, print_folded,
    progress::Bar,
    remark,
    text::{self, Column},
};
use crate::{
    bytes::replace::{check_target, write_small},
    check::{
        files::search::{self, Looks},
        models::statistics::Statistics,
    },
    checkpoint,
    cli::advice,
    container::{self, Detected, OpenOptions, Verdict},
    error::{Error, Result},
    format::container::Skeleton,
    limits::Limits,
    model::{Model, Sizes, Tensor},
    size,
};
use data::{Data, ListArgs};
use facts::Facts;

/// What the person typed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  regguf inspect ggml-model-q4_0.bin           what it is, and what comes next
  regguf inspect models/                       a line for each model of a folder
  regguf inspect --tensors --json model.gguf   everything, as data
  regguf inspect model.gguf --html model.html  a page of types and histograms
  regguf inspect -v model.bin                  why this format and no other")]
pub struct Args {
    /// Model files or folders
    #[arg(required = true, value_name = "FILE")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    lists: ListArgs,
    /// Print it as Markdown, for the card of a model
    #[arg(long, conflicts_with_all = ["json", "tensors", "vocab", "metadata"])]
    markdown: bool,
    /// Read every weight and draw one self-contained page: layers as rows, kinds of tensors as columns
    #[arg(long, value_name = "PAGE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    force: super::common::ForceArg,
    #[command(flatten)]
    hints: OpenArgs,
    #[command(flatten)]
    json: super::common::JsonArg,
}

/// Prints what every file is; the exit code is that of the first file that could not be told.
///
/// # Errors
/// Of the one file that is named; of several each is told with its own, and the exit code is that of the first.
pub fn run(args: &Args, globals: &Globals) -> Result<ExitCode> {
    let mut failed = None;
    let paths: Vec<PathBuf> = args.paths.iter().map(|path| input(path, globals)).collect();
    if let Some(page) = &args.html {
        draw(&paths, page, args, globals)?;
    }
    if args.json.json {
        match paths.as_slice() {
            // One file is one object; several, or a folder, are a list, even of one.
            [path] if !holds_files(path)? => {
                print_data(path, args, &mut failed, &mut |d| json::print(d))?;
            }
            paths => {
                let mut list = json::List::new();
                for path in paths {
                    print_data(path, args, &mut failed, &mut |data| list.item(data))?;
                }
                list.end()?;
            }
        }
        return Ok(failed.map_or(ExitCode::SUCCESS, ExitCode::from));
    }
    for path in &paths {
        if holds_files(path)? {
            print(&lines(path, &folder(path, args)?))?;
            continue;
        }
        match inspect(path, args) {
            Ok((facts, _)) if args.markdown => print(&markdown::card(&facts))?,
            Ok((facts, model)) => {
                let mut out = facts.to_string();
                if globals.verbose > 0 {
                    out += &model.as_ref().map(doubts).unwrap_or_default();
                    out += &tried(path, args)?;
                }
                print_folded(&out)?;
                if let Some(model) = &model {
                    print(&metadata(model, args))?;
                    tensors(&model.tensors, row, args)?;
                    vocabulary(model, args)?;
                } else {
                    tensors(&facts.raw, raw::row, args)?;
                }
            }
            Err(error) if paths.len() == 1 => {
                if globals.verbose > 0 {
                    print(&tried(path, args)?)?;
                }
                return Err(args.hints.told(path, error));
            }
            Err(error) => {
                print_folded(&format!("error: {}\n", advice::error(&error)))?;
                failed.get_or_insert(error.exit_code());
            }
        }
    }
    Ok(failed.map_or(ExitCode::SUCCESS, ExitCode::from))
}

/// Draws the page of the one model that is named.
fn draw(paths: &[PathBuf], page: &Path, args: &Args, globals: &Globals) -> Result<()> {
    let [path] = paths else {
        return Err(Error::usage("--html draws one model: name one"));
    };
    if holds_files(path)? {
        let what = format!("{}: --html draws one model, this is a folder", path.display());
        return Err(Error::usage(format!("{what}: name a file")));
    }
    let (facts, model) = inspect(path, args)?;
    check_target(page, args.force.existing(), &[])?;
    let Some(model) = model.map(|model| model.readable()) else {
        let what = format!("{}: {} is not read whole", path.display(), facts.title);
        return Err(Error::refused(what, "inspect it without --html"));
    };
    let tensors: Vec<&Tensor> = model.tensors.iter().collect();
    let found = Statistics::of_all(&model, &tensors, &Bar::new(globals, 0))?;
    write_small(page, page::page(&facts, &model, &found).as_bytes(), args.force.existing())?;
    remark(globals, &format!("wrote {}", page.display()));
    Ok(())
}

/// Prints a file, or every model of a folder, as data.
fn print_data(
    path: &Path,
    args: &Args,
    failed: &mut Option<u8>,
    out: &mut dyn FnMut(&Data) -> Result<()>,
) -> Result<()> {
    if holds_files(path)? {
        let found = folder(path, args)?;
        return found.iter().try_for_each(|(_, facts)| out(&Data::new(facts, None, &args.lists)));
    }
    match inspect(path, args) {
        Ok((facts, model)) => out(&Data::new(&facts, model.as_ref(), &args.lists)),
        Err(error) => {
            failed.get_or_insert(error.exit_code());
            out(&Data::failed(path, &args.hints.told(path, error)))
        }
    }
}

/// Whether a path is a folder of files, each told by itself; that of an adapter is one thing.
fn holds_files(path: &Path) -> Result<bool> {
    Ok(path.is_dir() && !checkpoint::adapter::is_adapter(path, &Limits::DEFAULT)?)
}

/// The facts about one file, and its model where it holds one.
///
/// ```text
/// an adapter of PEFT       its settings and its pairs
/// a model                  opened, its headers read
/// raw weights              their directory: what tensors there are, without a model
/// recognised only          what its description says
/// ```
fn inspect(path: &Path, args: &Args) -> Result<(Facts, Option<Model>)> {
    let options = args.hints.options();
    if options.format.is_none() && checkpoint::adapter::is_adapter(path, &Limits::DEFAULT)? {
        return adapter(path);
    }
    match container::open(path, &options) {
        Ok(model) => Ok((Facts::of(path, &model)?, Some(model))),
        // A format that is only recognised is a result here, not an error.
        Err(error @ (Error::Unsupported { .. } | Error::Foreign { .. })) => {
            match detected(path, &options)?.verdict {
                Verdict::Sure(format) if format.format.skeleton == Skeleton::Checkpoint => {
                    Ok((raw::facts(path, format)?, None))
                }
                Verdict::Sure(format) => Ok((Facts::recognised(path, format)?, None)),
                _ => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// The facts about an adapter as PEFT publishes it; as about raw weights where it cannot be read.
fn adapter(path: &Path) -> Result<(Facts, Option<Model>)> {
    match checkpoint::adapter::open(path, &Limits::DEFAULT) {
        Ok(model) => Ok((Facts::of(path, &model)?, Some(model))),
        // Ctrl-C is no reason to try the next thing.
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(error) => {
            let weights = checkpoint::adapter::weights_of(path)?;
            match detected(&weights, &OpenOptions::default())?.verdict {
                Verdict::Sure(format) => Ok((raw::facts(&weights, format)?, None)),
                _ => Err(error),
            }
        }
    }
}

/// What a file is by its bytes, with every format that was tried.
fn detected(path: &Path, options: &OpenOptions) -> Result<Detected> {
    container::detect(&crate::bytes::Input::open(path)?, options)
}

/// Why the file is this format and no other.
///
/// ```text
/// ggjt-v1-llama    fits
/// ggml-gptj        no: magic at 0x0: found 74 6a 67 67, wanted 6c 6d 67 67
/// ```
fn tried(path: &Path, args: &Args) -> Result<String> {
    let mut rows = Vec::new();
    for tried in detected(path, &args.hints.options())?.tried {
        let answer = match tried.refused {
            None => "fits".to_owned(),
            Some(Error::Malformed(m)) => {
                format!("no: {} at {:#x}: found {}, wanted {}", m.field, m.at, m.found, m.wanted)
            }
            Some(other) => format!("no: {other}"),
        };
        rows.push(vec![format!("  {}", tried.format.id()), answer]);
    }
    Ok(format!("tried\n{}", text::table(&rows)))
}

/// What no file can tell and nobody should be bothered with unasked.
/// Each is a bug of some weeks, and most files are of other weeks.
fn doubts(model: &Model) -> String {
    let mut out = String::new();
    let has = |name: &str| model.tensors.iter().any(|t| t.quant.name() == name);
    let mut doubt = |text: &str| out += &format!("  doubt       {text}\n");
    if model.format == "gguf-v3" && has("iq1_s") {
        doubt(
            "IQ1_S had other payloads until 11 March 2024 under the same number: if the file is that old, \
             add --format gguf-v3-iq1_s-v1 or -v2",
        );
    }
    if model.format == "gguf-v3" && has("iq3_s") {
        doubt(
            "IQ3_S had a top level 3 % higher until 2 March 2024: if the file is that old, add --format \
             gguf-v3-iq3_s-v1",
        );
    }
    let sizes = Sizes::of(model);
    let (heads, kv) = (sizes.get("n_head"), sizes.get("n_head_kv"));
    let grouped = kv.filter(|kv| Some(*kv) != heads).zip(heads);
    let scrambled = grouped.is_some_and(|(kv, n)| n.checked_div(kv) != Some(kv));
    if scrambled && matches!(model.format.as_str(), "gguf-v1" | "gguf-v2") {
        doubt(
            "converters scrambled key matrices of such heads from 27 July to 28 September 2023 where they \
             read Hugging Face checkpoints",
        );
    }
    out
}

/// Every model below a folder, in the order of names; files that are no models are passed over.
///
/// A set of shards or parts is one line, that of its first file. A file that cannot be read is a line, too.
fn folder(path: &Path, args: &Args) -> Result<Vec<(PathBuf, Facts)>> {
    let mut out = Vec::new();
    let (files, unlisted) = search::files(path);
    for (path, error) in unlisted {
        let facts = Facts::broken(&path, &error)?;
        out.push((path, facts));
    }
    for file in files {
        crate::bytes::replace::check_interrupt()?;
        let looks = search::look(&file);
        if matches!(looks, None | Some(Looks::Unfinished)) || container::is_later_part(&file) {
            continue;
        }
        let facts = match inspect(&file, args) {
            Ok((facts, _)) => facts,
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => Facts::broken(&file, &error)?,
        };
        out.push((file, facts));
    }
    Ok(out)
}

/// One line per model of a folder.
fn lines(folder: &Path, found: &[(PathBuf, Facts)]) -> String {
    if found.is_empty() {
        return format!("{}: no models\n", folder.display());
    }
    let mut rows = Vec::new();
    for (path, facts) in found {
        let name = path.strip_prefix(folder).unwrap_or(path).display().to_string();
        rows.push(vec![
            name,
            size::text(facts.bytes),
            facts.format.clone(),
            facts.types(),
            facts.next.clone(),
        ]);
    }
    text::table_of(&rows, &MODELS)
}

/// Which model, how large, in which format and of which types, and what to do next.
const MODELS: [Column; 5] = [
    Column::names(20, 9),
    Column::figures(5),
    Column::words(7, 6),
    Column::words(6, 4),
    Column::words(12, 8),
];

/// Header words of old files before keys; nothing where it was not asked for.
fn metadata(model: &Model, args: &Args) -> String {
    if !args.lists.metadata {
        return String::new();
    }
    let words = model.header.iter().map(|(k, v)| vec![format!("  {k}"), v.to_string()]);
    let keys = model.metadata.iter().map(|(k, v)| vec![format!("  {k}"), v.to_string()]);
    let rows: Vec<_> = words.chain(keys).collect();
    format!("metadata\n{}", text::table_of(&rows, &text::KEYS))
}

/// Tensors of which a table is made at once: their lines would take more memory than they do.
const ROWS: usize = 4096;

/// Prints a line for each tensor.
fn tensors<T>(all: &[T], row: impl Fn(&T) -> Vec<String>, args: &Args) -> Result<()> {
    if !args.lists.tensors || all.is_empty() {
        return Ok(());
    }
    print("tensors\n")?;
    let mut parts = all.chunks(ROWS);
    parts.try_for_each(|part| {
        let rows: Vec<_> = part.iter().map(&row).collect();
        print(&text::table_of(&rows, &COLUMNS))
    })
}

/// Which tensor, of what shape and type, how large and where.
const COLUMNS: [Column; 5] = [
    Column::names(20, 9),
    Column::words(8, 7),
    Column::words(6, 8),
    Column::figures(5),
    Column::figures(1),
];

/// The place is that of the first piece: of a sharded tensor it is in the first of its files.
fn row(tensor: &Tensor) -> Vec<String> {
    let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
    let place = tensor.pieces.first().map_or(0, |p| p.at);
    let (shape, bytes) = (shape.join(" × "), size::text(tensor.bytes()));
    vec![
        format!("  {}", tensor.name),
        shape,
        tensor.quant.to_string(),
        bytes,
        format!("{place:#x}"),
    ]
}

/// Prints the vocabulary, part by part: millions of tokens are more than should be in memory as text.
fn vocabulary(model: &Model, args: &Args) -> Result<()> {
    if !args.lists.vocab {
        return Ok(());
    }
    let mut out = "vocabulary\n".to_owned();
    for (id, token) in model.vocab.tokens.iter().enumerate() {
        let text = String::from_utf8_lossy(token);
        let score = model.vocab.scores.get(id).map(f32::to_string).unwrap_or_default();
        let _ = writeln!(out, "  {id:6}  {text:?}  {score}");
        if out.len() > 1 << 16 {
            print(&out)?;
            out.clear();
        }
    }
    print(&out)
}
