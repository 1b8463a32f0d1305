//! `regguf verify`: is my download good?

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::bytes::replace::check_interrupt;
use crate::change::adapter;
use crate::check::files::digest::Digest;
use crate::check::files::{Checked, Options, Status, Verification, verify};
use crate::check::files::{lists, sums};
use crate::check::{Finding, Severity};
use crate::error::{Error, Result};

use super::{
    Globals, advice,
    common::existing,
    escaped, json, may_draw, print, print_raw,
    progress::Bar,
    text::{counted, folded, folded_for, has_colour, red},
};

/// What the person typed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  regguf verify models/                     everything below a folder
  regguf verify models/7B/checklist.chk     as md5sum -c, with why a file fails
  regguf verify model.gguf --sha256 6a03…   against a digest from a web page
  cat sums | regguf verify -c -             a list from elsewhere
  regguf verify ~/.cache/huggingface/hub    every cached file by its own name
  regguf verify --deep model.gguf           every weight: NaN, infinity, zeros
  regguf verify --write models/7B           makes SHA256SUMS and checklist.chk")]
pub struct Args {
    /// Lists, files or folders
    #[arg(required_unless_present = "lists", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// A list under whatever name; `-` reads one from standard input
    #[arg(short = 'c', long = "check", value_name = "LIST")]
    lists: Vec<PathBuf>,
    /// The digest that the file should have: MD5, SHA-1, SHA-256 or SHA-512 by its length
    #[arg(long = "digest", visible_aliases = ["sha256", "md5", "sha1", "sha512"], value_name = "HEX")]
    digests: Vec<String>,
    /// Decode every row and look at the numbers: NaN, infinity, absurd scales, rows of zeros
    #[arg(long)]
    deep: bool,
    /// Of LoRA adapters: the model that they belong to, whose matrices theirs must fit
    #[arg(long, value_name = "MODEL")]
    base: Option<PathBuf>,
    /// Write SHA256SUMS, checklist.chk and TENSORSUMS for the folder PATH instead of verifying
    #[arg(long, conflicts_with_all = ["deep", "ignore_missing", "status", "strict", "warn"])]
    write: bool,
    /// Replace lists that exist (with --write)
    #[arg(long, requires = "write")]
    force: bool,
    /// Do not fail for files that a list names and that are not there
    #[arg(long)]
    ignore_missing: bool,
    /// Print nothing; the exit status tells
    #[arg(long)]
    status: bool,
    /// Fail for lines of a list that are in no known form
    #[arg(long)]
    strict: bool,
    /// Name the lines of a list that are in no known form
    #[arg(short, long)]
    warn: bool,
    #[command(flatten)]
    json: super::common::JsonArg,
}

/// Verifies, or writes lists; `--quiet` leaves out the lines of files that are OK.
pub fn run(args: &Args, globals: &Globals) -> Result<ExitCode> {
    let bar = Bar::only(may_draw(globals) && !args.status && !args.json.json, 0);
    let threads = globals.threads();
    let options = Options { threads, ..Options::default() };
    if args.write {
        let done = write_lists(args, &options, bar);
        check_interrupt()?;
        return done;
    }
    let base = |path| adapter::base(path, &options.limits);
    let options = Options {
        lists: args.lists.clone(),
        digests: digests(args)?,
        ignore_missing: args.ignore_missing,
        deep: args.deep,
        base: args.base.as_deref().map(base).transpose()?,
        ..options
    };
    let mut result = verify(&args.paths, &options, &bar);
    advice::findings(result.files.iter_mut().flat_map(|file| &mut file.findings));
    drop(bar);
    check_interrupt()?;
    let malformed = result.lists.iter().any(|list| !list.malformed_lines.is_empty());
    // As md5sum does: lines of a list that are none are a failure with --strict only.
    let good = result.is_good() && !(args.strict && malformed);
    if args.json.json {
        json::print(&result)?;
    } else if !args.status {
        print_raw(&painted(&folded(&escaped(&text(&result, globals.quiet)))))?;
        let said = escaped(&summary(&result, args, globals.quiet));
        // Verdicts go to standard output, what is wrong with lists and the counts to standard error, as md5sum has
        // it.
        eprint!("{}", folded_for(&io::stderr(), &said));
    }
    Ok(ExitCode::from(u8::from(!good)))
}

/// The digests that were typed, which must be of one file.
///
/// `sha256:` in front is taken off, as Docker, Ollama and Hugging Face write it.
fn digests(args: &Args) -> Result<Vec<Digest>> {
    let one = args.paths.iter().filter(|path| !path.is_dir()).count();
    if !args.digests.is_empty() && (args.paths.len(), one) != (1, 1) {
        return Err(Error::usage("a digest is of one file: name that file alone".to_owned()));
    }
    let read = |text: &String| {
        let hex = text.trim();
        let hex = hex.split_once(':').map_or(hex, |(_, hex)| hex);
        Digest::parse(hex).ok_or_else(|| {
            let n = hex.len();
            Error::usage(format!("{text}: no digest: {n} characters, not 32, 40, 64 or 128 of hex"))
        })
    };
    args.digests.iter().map(read).collect()
}

/// Writes a list for each folder, and none where a file in it is damaged.
fn write_lists(args: &Args, options: &Options, bar: Bar) -> Result<ExitCode> {
    let (mut out, mut written) = (String::new(), Vec::new());
    for folder in &args.paths {
        if !folder.is_dir() {
            return Err(Error::usage(format!("{}: --write needs a folder", folder.display())));
        }
        // A list of damaged files would say that they are right.
        let damaged = lists::damaged(folder, &options.limits)?;
        if !damaged.is_empty() {
            let told = |(path, finding): &(PathBuf, Finding)| {
                format!("{}: FAILED\n  {finding}\n", shown(&path.display().to_string()))
            };
            print(&damaged.iter().map(told).collect::<String>())?;
            eprintln!("regguf: no list was written for {}", folder.display());
            return Ok(ExitCode::from(1));
        }
        for list in lists::write(folder, options, existing(args.force), &bar)? {
            out.push_str(&format!("{}\n", list.display()));
            written.push(list.display().to_string());
        }
    }
    drop(bar);
    if args.json.json {
        let report = serde_json::json!({ "schema_version": json::VERSION, "written": written });
        return json::print(&report).map(|()| ExitCode::SUCCESS);
    }
    print(&out)?;
    Ok(ExitCode::SUCCESS)
}

/// The lines for standard output: `name: OK` as `md5sum -c` prints them, the reasons indented.
///
/// ```text
/// models/7B.gguf: OK
///   a model of 291 tensors …
/// models/13B.gguf: FAILED
///   truncated: …
/// ```
fn text(result: &Verification, quiet: bool) -> String {
    let mut out = String::new();
    for file in &result.files {
        let verdict = match file.status {
            Status::Ok => "OK",
            Status::Failed => "FAILED",
            Status::Unreadable => "FAILED open or read",
            // Missing and ignored, as was asked for.
            Status::Missing => continue,
        };
        let quiet = quiet && file.status == Status::Ok;
        if !quiet {
            out.push_str(&format!("{}: {verdict}\n", shown(&file.name)));
        }
        let said = file.findings.iter().filter(|f| !quiet || f.severity > Severity::Note);
        for finding in said {
            out.push_str(&format!("  {finding}\n"));
        }
    }
    out
}

/// The lines with what failed in red, where that can be shown.
fn painted(text: &str) -> String {
    let stdout = io::stdout();
    if !has_colour(&stdout) {
        return text.to_owned();
    }
    let line = |line: &str| match line.split_once(": FAILED") {
        Some((name, rest)) if !line.starts_with(' ') => {
            format!("{name}: {}{rest}", red(&stdout, "FAILED"))
        }
        _ => line.to_owned(),
    };
    text.split_inclusive('\n').map(line).collect()
}

/// A name with line ends escaped, marked by a backslash in front as GNU does.
fn shown(name: &str) -> String {
    if name.contains(['\n', '\r']) { format!("\\{}", sums::escape(name)) } else { name.to_owned() }
}

/// The lines for standard error: what is wrong with lists, and the counts.
///
/// The words are those of `md5sum -c` where it has them: scripts look for "WARNING" and "improperly formatted".
fn summary(result: &Verification, args: &Args, quiet: bool) -> String {
    let mut out = String::new();
    let mut say = |line: String| out.push_str(&format!("regguf: {line}\n"));
    for list in &result.lists {
        let path = list.path.display();
        if let Some(problem) = &list.problem {
            say(format!("{path}: {problem}"));
        }
        if args.warn {
            for line in &list.malformed_lines {
                say(format!("{path}: {line}: improperly formatted checksum line"));
            }
        }
        if !list.malformed_lines.is_empty() {
            let n = counted(list.malformed_lines.len(), "line is", "lines are");
            say(format!("WARNING: {path}: {n} improperly formatted"));
        }
    }
    let unreadable = result.count(Status::Unreadable);
    if unreadable > 0 {
        say(format!("WARNING: {} could not be read", counted(unreadable, "file", "files")));
    }
    let failed = result.count(Status::Failed);
    if failed > 0 {
        say(format!(
            "WARNING: {} should be",
            counted(failed, "file is not what it", "files are not what they")
        ));
    }
    let good = result.count(Status::Ok);
    if good == 0 && failed + unreadable == 0 {
        let missing = result.count(Status::Missing);
        let why = if missing > 0 {
            "no file was verified"
        } else {
            "no model, no list: nothing to verify"
        };
        say(why.to_owned());
    } else if !quiet {
        let confirmed = |f: &&Checked| f.status == Status::Ok && f.confirmed;
        let confirmed = result.files.iter().filter(confirmed).count();
        say(format!("{good} OK ({confirmed} by digest), {} not", failed + unreadable));
    }
    out
}
