//! `regguf batch`: whole folders of models, resumable, split over machines.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::PoisonError;

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar};

use super::{
    Globals,
    common::OUTPUT,
    json::{self, VERSION},
    may_draw, print, print_folded,
    progress::{BYTES, style},
    text::{self, Column},
};
use crate::batch::events::{Event, Observer};
use crate::batch::run::{Limits, Summary, run as run_plan};
use crate::batch::shard::Shard;
use crate::batch::task::{Settings, Task};
use crate::batch::{Job, plan::BatchPlan};
use crate::bytes::{inputs, read_text, replace::write_small};
use crate::cli::advice;
use crate::error::{Error, Result, plain};
use crate::model::Stated;
use crate::remedy::{Call, Note};
use crate::size;

/// What the person typed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  regguf batch upgrade models/ --dry-run    what would be done, and be lost
  regguf batch verify ~/Downloads           whether every model is whole
  regguf batch quantize models/ --type q4_0,q8_0 -o quantized/ --min-free 20G
  regguf batch quantize models/ --type iq2_m --imatrix imatrix/
  regguf batch convert checkpoints/ --type f16,q4_k_m --plan night.json
  regguf batch run night.json --shard $SLURM_ARRAY_TASK_ID/16
  regguf batch merge adapters/ --base llama-7b.gguf --type q4_0 -o merged/

One huge model on four machines, then its parts put together:
  regguf batch quantize huge/ --type q4_k_m -o out/ --tensors --shard 0/4
  regguf batch join out/                    once 1/4, 2/4 and 3/4 are done too

Kill it at any moment and run it again: what is proved whole by its receipt (<output>.receipt.json) is \
skipped, everything else is done.")]
pub struct Args {
    /// upgrade, quantize, convert, merge, verify or join; or `run` with a plan that was saved
    #[arg(value_name = "TASK", value_parser = super::words::Words(super::words::tasks), hide_possible_values = true)]
    task: String,
    /// Folders to search for models, or model files; with `run` the plan
    #[arg(required = true, value_name = "DIR")]
    paths: Vec<PathBuf>,
    /// Quantization types, one output a model for each
    #[arg(long = "type", visible_alias = "types", value_name = "TYPE,TYPE", value_delimiter = ',', value_parser = super::words::Words(super::words::types), hide_possible_values = true)]
    types: Vec<String>,
    /// The container to write [default: gguf-v3]
    #[arg(long, value_name = "FORMAT", help_heading = OUTPUT, value_parser = super::words::Words(super::words::targets), hide_possible_values = true)]
    to: Option<String>,
    /// Mirror the tree below this folder [default: outputs beside their models]
    #[arg(short, long = "output", visible_alias = "out", value_name = "DIR", help_heading = OUTPUT)]
    out: Option<PathBuf>,
    /// How to name outputs: {stem}, {name} (GGUF's convention) and {type} are filled in
    #[arg(long, value_name = "TEMPLATE")]
    name: Option<String>,
    /// Quantize what is quantized already
    #[arg(long)]
    allow_requantize: bool,
    /// Write infinite and NaN weights as they are, instead of refusing
    #[arg(long)]
    keep_nan: bool,
    /// Importance matrices (quantize): a file for all models, a folder with one named after each, or a
    /// path with {stem}, the model's own name
    #[arg(long, value_name = "FILE|DIR")]
    imatrix: Option<PathBuf>,
    /// The type of tensors that there is no imatrix data for, where their own type needs it
    #[arg(long, value_name = "TYPE")]
    fallback_type: Option<String>,
    /// Decode every row (verify)
    #[arg(long)]
    deep: bool,
    /// Tell what happens as JSON lines on stdout
    #[arg(long, conflicts_with = "json")]
    events: bool,
    /// Do only part i of n, i from 0 to n-1; the split is the same on every machine
    #[arg(long, value_name = "i/n")]
    shard: Option<Shard>,
    /// With --shard: part i of every output, for a model too large for one machine; `join` puts the
    /// parts together
    #[arg(long, requires = "shard")]
    tensors: bool,
    /// Jobs side by side [default: 2, or as many as --memory holds]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Memory that may be used, as 512M or 8G
    #[arg(long, value_name = "SIZE", value_parser = size::read, default_value = "2G")]
    memory: u64,
    /// Disk space to leave free, as 10G
    #[arg(long, value_name = "SIZE", value_parser = size::read, default_value = "0")]
    min_free: u64,
    /// Go on after a failure, as verify always does; the exit status tells at the end
    #[arg(short, long)]
    keep_going: bool,
    #[command(flatten)]
    dry_run: super::common::DryRunArg,
    /// Save the plan to this file and do nothing
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    plan: Option<PathBuf>,
    #[command(flatten)]
    commit: super::common::CommitArgs,
    #[command(flatten)]
    stated: super::stated::StatedArgs,
    #[command(flatten)]
    json: super::common::JsonArg,
}

/// Plans, and unless told otherwise runs.
///
/// ```text
/// plan        made, or read from a file
/// --plan      saved, and nothing done
/// --dry-run   printed, exit code 1 where a job cannot be done
/// else        printed on stderr, worked through, summed up on stdout
/// ```
///
/// Which jobs a shard takes is told from the whole plan, so every machine makes the same one and none is told of
/// another.
pub fn run(args: &Args, globals: &Globals) -> Result<ExitCode> {
    let mut plan = make_plan(args)?;
    advice::word(plan.jobs.iter_mut().flat_map(|job| job.problem.iter_mut().chain(&mut job.skip)));
    // Also those that are opened later, or by other machines.
    plan.jobs.iter().flat_map(|job| &job.model.files).for_each(|file| inputs::note(file));
    let items: Vec<(&str, u64)> =
        plan.jobs.iter().map(|job| (job.model.name.as_str(), job.model.bytes)).collect();
    let part = args.shard.filter(|_| args.tensors);
    let takes = match args.shard {
        Some(shard) if part.is_none() => shard.takes(&items),
        _ => vec![true; items.len()],
    };
    if let Some(path) = &args.plan {
        write_small(path, saved(&plan)?.as_bytes(), args.commit.commit())?;
    }
    if args.dry_run.dry_run || args.plan.is_some() {
        match args.json.json {
            true => json::print(&plan)?,
            false => print(&table(&plan, &takes, true))?,
        }
        let bad = plan.jobs.iter().zip(&takes).any(|(job, take)| *take && job.problem.is_some());
        return Ok(ExitCode::from(u8::from(bad)));
    }
    if plan.jobs.is_empty() {
        let what = format!("nothing to {} here", plan.task.name());
        let next = match plan.task {
            Task::Join => "name the folder in which --tensors --shard i/n wrote parts of outputs",
            _ => "name a folder that holds models",
        };
        return Err(Error::unsupported(what, next));
    }
    let limits = Limits {
        jobs: args.jobs.map_or(2, usize::from),
        memory: args.memory,
        min_free: args.min_free,
        // Nothing is written by a check, so there is nothing to stop for.
        keep_going: args.keep_going || plan.task == Task::Verify,
        commit: args.commit.commit(),
        threads: globals.threads(),
    };
    let people = !args.events && !args.json.json;
    if people && !globals.quiet {
        eprint!("{}", table(&plan, &takes, false));
    }
    let telling = Telling::new(&plan, args.events, people && !globals.quiet, may_draw(globals));
    let mut summary = run_plan(&plan, &takes, part, limits, &telling);
    telling.over();
    advice::word(summary.failures.iter_mut().map(|(_, why)| why));
    if args.json.json {
        json::print(&Summed { schema_version: VERSION, summary: &summary })?;
    } else if people {
        // Where both streams are one terminal, what failed was said when it did.
        let told = !globals.quiet && std::io::stdout().is_terminal();
        print_folded(&closing(&summary, told))?;
    }
    if summary.interrupted {
        return Err(Error::Interrupted);
    }
    let failed = !summary.failures.is_empty() || summary.left > 0;
    Ok(ExitCode::from(u8::from(failed)))
}

/// The plan of what was typed.
fn make_plan(args: &Args) -> Result<BatchPlan> {
    if args.task == "run" {
        return read_plan(args);
    }
    let task = Task::from_str(&args.task, false).map_err(|_| {
        let tasks: Vec<&str> = Task::value_variants().iter().map(|task| task.name()).collect();
        Error::usage(format!("{}: the tasks are {}, run", args.task, tasks.join(", ")))
    })?;
    let settings = Settings {
        types: args.types.clone(),
        to: args.to.clone(),
        out: args.out.clone(),
        name: args.name.clone(),
        allow_requantize: args.allow_requantize,
        keep_nan: args.keep_nan,
        deep: args.deep,
        imatrix: args.imatrix.clone(),
        fallback_type: args.fallback_type.clone(),
        stated: args.stated.stated(),
        ..Settings::default()
    };
    BatchPlan::make(task, settings, &args.paths)
}

/// The plan that was saved, unchanged: what could change it is refused, for then it would be another plan.
fn read_plan(args: &Args) -> Result<BatchPlan> {
    let [path] = args.paths.as_slice() else {
        return Err(Error::usage("run takes one plan".to_owned()));
    };
    let states = args.stated.stated() != Stated::default();
    if states
        || !args.types.is_empty()
        || args.to.is_some()
        || args.out.is_some()
        || args.plan.is_some()
    {
        let what = "a saved plan is run unchanged: leave out --types, --to, --out and --plan";
        return Err(Error::usage(what.to_owned()));
    }
    let plan: BatchPlan =
        serde_json::from_str(&read_text(path)?).map_err(|error| Error::Unknown {
            file: path.display().to_string(),
            looks: format!("is no plan of a batch: {error}"),
            next: Call::Batch.on("TASK DIR --plan FILE").to("make one"),
        })?;
    if plan.schema_version != 1 {
        let what = format!("{}: a plan of version {}", path.display(), plan.schema_version);
        return Err(Error::unsupported(what, "plan the batch again"));
    }
    Ok(plan)
}

/// A plan as the JSON that `batch run` takes.
fn saved(plan: &BatchPlan) -> Result<String> {
    let text = serde_json::to_string_pretty(plan);
    text.map(|t| t + "\n").map_err(|e| Error::io("the plan", "write", e.into()))
}

/// Which model, and what is in its way, stay longest.
const COLUMNS: [Column; 6] = [
    Column::names(20, 9),
    Column::names(6, 2),
    Column::names(16, 5),
    Column::figures(7),
    Column::figures(1),
    Column::words(14, 8),
];

/// The plan for people: what, from, to, size, time, risk. Why something cannot be done is told below where the
/// `whole` is wanted, else where it fails.
///
/// ```text
/// MODEL        FROM           TO           SIZE    TIME  RISK
/// a/7b.bin     ggjt-v1-llama  7b.gguf      3.8 GB  12 s  226 tensors rounded
/// upgrade: 1 model, 3.8 GB to write, about 12 s
/// ```
fn table(plan: &BatchPlan, takes: &[bool], whole: bool) -> String {
    let mut rows =
        vec![["MODEL", "FROM", "TO", "SIZE", "TIME", "RISK"].map(str::to_owned).to_vec()];
    let (mut seconds, mut bytes, mut reasons) = (0.0, 0, String::new());
    for (job, _) in plan.jobs.iter().zip(takes).filter(|(_, take)| **take) {
        let why_not = job.problem.as_ref().or(job.skip.as_ref());
        let name =
            |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let to: Vec<String> = job.outputs.iter().map(|output| name(&output.path)).collect();
        let size: u64 = job.outputs.iter().map(|output| output.bytes).sum();
        rows.push(vec![
            job.model.name.clone(),
            job.from.clone(),
            if why_not.is_some() { "-".to_owned() } else { to.join(", ") },
            size::text(if size == 0 { job.model.bytes } else { size }),
            format!("{:.0} s", job.seconds.ceil()),
            match &job.problem {
                Some(_) => "cannot be done".to_owned(),
                None => job.skip.as_ref().map_or_else(|| job.risk.clone(), |why| alone(job, why)),
            },
        ]);
        if let Some(problem) = job.problem.as_ref().filter(|_| whole) {
            let problem = alone(job, problem);
            reasons += &format!("cannot be done: {}: {problem}\n", plain(&job.model.name));
        }
        seconds += job.seconds;
        bytes += size;
    }
    let models = rows.len() - 1;
    if models == 0 {
        rows.clear();
    }
    let head = format!("{}: {}", plan.task.name(), text::counted(models, "model", "models"));
    let tail = if bytes > 0 {
        format!("{head}, {} to write, about {:.0} s\n", size::text(bytes), seconds.ceil())
    } else {
        format!("{head}, about {:.0} s\n", seconds.ceil())
    };
    // Of what is only read there is nothing to say under FROM and TO.
    for column in 1..COLUMNS.len() {
        if rows.iter().skip(1).all(|row| row.get(column).is_none_or(String::is_empty)) {
            rows.iter_mut().take(1).filter_map(|row| row.get_mut(column)).for_each(String::clear);
        }
    }
    text::table_of(&rows, &COLUMNS) + &text::folded(&reasons) + &tail
}

/// What is in the way of a job, without the file that it begins with: the model was named before.
fn alone(job: &Job, why: &Note) -> String {
    let why = advice::note(why);
    let file = job.model.files.first().map(|file| format!("{}: ", file.display()));
    file.and_then(|file| why.strip_prefix(&file).map(str::to_owned)).unwrap_or(why)
}

/// The last words for people; what failed, where that was not `told` before.
fn closing(summary: &Summary, told: bool) -> String {
    let mut out = String::new();
    for (name, error) in summary.failures.iter().filter(|_| !told) {
        out += &format!("failed: {}: {error}\n", plain(name));
    }
    let Summary { finished, skipped, failures, left, seconds, .. } = summary;
    out += &format!("{finished} done, {skipped} skipped, {} failed", failures.len());
    if *left > 0 {
        out += &format!(", {left} not begun (add --keep-going)");
    }
    out + &format!(", in {seconds:.1} s\n")
}

/// The summary as JSON.
#[derive(serde::Serialize)]
struct Summed<'a> {
    schema_version: u32,
    #[serde(flatten)]
    summary: &'a Summary,
}

/// An event as a line of JSON.
#[derive(serde::Serialize)]
struct Told<'a> {
    schema_version: u32,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

/// Tells events: as JSON lines, or as lines and bars for people.
///
/// Lines stay when bars go: what was done, skipped, or failed is still there in the morning.
struct Telling<'a> {
    plan: &'a BatchPlan,
    events: bool,
    lines: bool,
    bars: Option<Mutex<Bars>>,
}

/// One bar over all jobs, and one for each that runs.
struct Bars {
    all: MultiProgress,
    overall: ProgressBar,
    /// Bytes of the inputs of jobs that are over.
    ended: u64,
    jobs: Vec<(usize, ProgressBar)>,
}

impl<'a> Telling<'a> {
    fn new(plan: &'a BatchPlan, events: bool, lines: bool, draw: bool) -> Self {
        let bars = (lines && draw).then(|| {
            let all = MultiProgress::new();
            let overall = all.add(ProgressBar::no_length());
            overall.set_style(style(BYTES));
            Mutex::new(Bars { all, overall, ended: 0, jobs: Vec::new() })
        });
        Self { plan, events, lines, bars }
    }

    /// What people call the model of a job.
    fn name(&self, job: usize) -> String {
        let name = self.plan.jobs.get(job).map_or("?", |job| job.model.name.as_str());
        text::short_name(&std::io::stderr(), name)
    }

    /// A line for people, above the bars.
    fn say(&self, line: &str) {
        let line = text::folded_for(&std::io::stderr(), &plain(line));
        match &self.bars {
            Some(bars) => {
                let bars = bars.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = bars.all.println(line);
            }
            None if self.lines => eprintln!("{line}"),
            None => {}
        }
    }

    /// Moves the bars; nothing where there are none.
    fn draw(&self, event: &Event) {
        let Some(bars) = &self.bars else { return };
        let mut bars = bars.lock().unwrap_or_else(PoisonError::into_inner);
        let input = |job: usize| self.plan.jobs.get(job).map_or(0, |job| job.model.bytes);
        match event {
            Event::Planned { bytes, .. } => bars.overall.set_length(*bytes),
            Event::Started { job, input, .. } => {
                let bar = bars.all.add(ProgressBar::no_length());
                bar.set_style(style("  {percent:>3}% {wide_msg}"));
                bar.set_message(plain(input));
                bars.jobs.push((*job, bar));
            }
            Event::Progress { job, done, total } => {
                if let Some((_, bar)) = bars.jobs.iter().find(|(n, _)| n == job) {
                    bar.set_length(*total);
                    bar.set_position(*done);
                }
            }
            Event::Finished { job, .. }
            | Event::Skipped { job, .. }
            | Event::Failed { job, .. } => {
                bars.ended += input(*job);
                if let Some(at) = bars.jobs.iter().position(|(n, _)| n == job) {
                    let (_, bar) = bars.jobs.remove(at);
                    bar.finish_and_clear();
                }
            }
            Event::Waiting { .. } | Event::Ended { .. } => {}
        }
        // Overall counts what is read; a job that is half written is taken to be half read.
        let read = |(job, bar): &(usize, ProgressBar)| {
            let total = bar.length().unwrap_or(0).max(1);
            let read = u128::from(input(*job)) * u128::from(bar.position()) / u128::from(total);
            u64::try_from(read).unwrap_or(u64::MAX)
        };
        let now = bars.ended + bars.jobs.iter().map(read).sum::<u64>();
        bars.overall.set_position(now);
    }

    /// Takes the bars away.
    fn over(&self) {
        if let Some(bars) = &self.bars {
            bars.lock().unwrap_or_else(PoisonError::into_inner).overall.finish_and_clear();
        }
    }
}

impl Observer for Telling<'_> {
    fn hear(&self, event: &Event) {
        if self.events {
            let mut event = event.clone();
            if let Event::Failed { error, .. } = &mut event {
                advice::word([error]);
            }
            // Nobody may be listening any more; the batch goes on.
            if let Ok(line) =
                serde_json::to_string(&Told { schema_version: VERSION, event: &event })
            {
                let mut out = std::io::stdout().lock();
                let _ = writeln!(out, "{line}").and_then(|()| out.flush());
            }
            return;
        }
        self.draw(event);
        match event {
            Event::Finished { job, outputs, seconds } => {
                let bytes: u64 = outputs.iter().map(|made| made.bytes).sum();
                let made = if bytes > 0 { size::text(bytes) } else { "good".to_owned() };
                self.say(&format!("done: {}: {made} in {seconds:.1} s", self.name(*job)));
                for (made, note) in outputs.iter().flat_map(|m| m.notes.iter().map(move |n| (m, n)))
                {
                    self.say(&format!("note: {}: {note}", made.path));
                }
            }
            Event::Skipped { job, why } => {
                self.say(&format!("skipped: {}: {}", self.name(*job), advice::note(why)));
            }
            Event::Waiting { job, output } => {
                let name = self.name(*job);
                self.say(&format!(
                    "waiting: {name}: another batch writes {output}; looked at again at the end"
                ));
            }
            Event::Failed { job, error } => {
                let why =
                    self.plan.jobs.get(*job).map_or_else(String::new, |job| alone(job, error));
                self.say(&format!("failed: {}: {why}", self.name(*job)));
            }
            _ => {}
        }
    }
}
