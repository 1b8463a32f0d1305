//! `regguf imatrix`: which columns of each matrix matter, for `quantize --imatrix`; files of that put together,
//! converted and looked into.

use std::{path::PathBuf, process::ExitCode};

use super::{
    Globals,
    common::OUTPUT,
    json::{self, VERSION},
    print,
    progress::Tokens,
    remark,
    runner::{HintArgs, WindowArgs, with_threads},
    text::{self, Column},
};
use crate::{
    bytes::{
        Input,
        replace::{check_interrupt, check_target, write_small},
    },
    container::imatrix::{Importance, Measured, statistics},
    error::{Error, Result},
    infer::{Session, Want, perplexity::windows},
    limits::Limits,
};

/// What the person typed.
#[derive(Debug, clap::Args)]
#[command(mut_arg("model", |arg| arg.required_unless_present("in_file")))]
#[command(mut_arg("file", |arg| arg.required(false).required_unless_present("in_file")))]
#[command(after_help = "\
Examples:
  regguf imatrix model-f16.gguf -f calibration.txt
  regguf imatrix -m model.gguf -f calibration.txt --chunks 100 -o imatrix.dat
  regguf imatrix --in-file imatrix.dat -o imatrix.gguf    to the other format
  regguf imatrix --in-file english.gguf,code.gguf -o both.gguf
  regguf imatrix --in-file imatrix.gguf --show-statistics    what matters most
  regguf quantize --imatrix imatrix.gguf model-f16.gguf IQ3_XXS")]
pub struct Args {
    #[command(flatten)]
    windows: WindowArgs,
    /// Put together what these files hold, instead of reading a text; repeatable
    #[arg(long, value_name = "FILE,FILE", value_delimiter = ',', conflicts_with_all = ["model", "file"])]
    in_file: Vec<PathBuf>,
    /// Print which tensors and layers matter most, and write nothing
    #[arg(long, requires = "in_file", conflicts_with = "output")]
    show_statistics: bool,
    /// Where to write: `.dat` in the format of 2024, anything else as GGUF
    #[arg(short, long, value_name = "OUT", default_value = "imatrix.gguf", help_heading = OUTPUT)]
    output: PathBuf,
    /// The format, whatever the name of the file
    #[arg(long, value_name = "gguf|dat", value_parser = ["gguf", "dat"], hide_possible_values = true, help_heading = OUTPUT)]
    output_format: Option<String>,
    #[command(flatten)]
    force: super::common::ForceArg,
    #[command(flatten)]
    hints: HintArgs,
    #[command(flatten)]
    json: super::common::JsonArg,
    #[command(flatten)]
    t: super::common::ThreadsArg,
}

/// Reads files, or the text window by window, and writes what was seen.
pub fn run(args: &Args, globals: &Globals) -> Result<ExitCode> {
    if args.in_file.is_empty() {
        return with_threads(args.t.t, || collect(args, globals));
    }
    // All are read before one is merged: an error in the last ends it before anything is written.
    let mut inputs = Vec::new();
    for path in &args.in_file {
        let input = Input::open(path)?;
        let measured = Measured::of(&input, &Limits::DEFAULT)?;
        inputs.push((input, measured));
    }
    // `.dat` files do not say how many tokens a chunk had: what is asked for, else what another file says, else the
    // usual.
    let stated = inputs.iter().find_map(|(_, measured)| measured.chunk_size.filter(|n| *n > 0));
    let chunk_size = args.windows.context.or(stated).unwrap_or_else(|| args.windows.context());
    let (files, mut all): (Vec<Input>, Vec<Measured>) = inputs.into_iter().unzip();
    let mut joined = all.remove(0);
    for (other, file) in all.into_iter().zip(files.iter().skip(1)) {
        joined.merge(other, &file.name(), chunk_size)?;
    }
    if args.show_statistics {
        return show(args, &joined);
    }
    let files: Vec<&Input> = files.iter().collect();
    check_target(&args.output, args.force.existing(), &files)?;
    write(args, globals, joined, chunk_size)
}

/// Measures a model over a text, window by window; every window begins anew, with the token before a text where there
/// is one.
///
/// ```text
/// text -> tokens -> windows of -c tokens -> as many side by side as there is room for -> sums of squares
/// ```
fn collect(args: &Args, globals: &Globals) -> Result<ExitCode> {
    let (loaded, tokens) = args.windows.open(&args.hints, globals)?;
    check_target(&args.output, args.force.existing(), &[])?;
    let context = args.windows.window();
    let bos = loaded.tokenizer.leading_bos();
    let windows: Vec<_> = windows(&tokens, context, bos).take(args.windows.most()).collect();
    if windows.is_empty() {
        return Err(Error::usage(format!(
            "the text has {} tokens, fewer than one window of {context}: give a longer text or a \
             smaller -c",
            tokens.len()
        )));
    }
    let mut measured = Measured::default();
    measured.datasets = vec![args.windows.text()?.as_os_str().as_encoded_bytes().to_vec()];
    measured.chunks = u32::try_from(windows.len()).unwrap_or(u32::MAX);
    measured.chunk_size = Some(args.windows.context());
    let mut session =
        Session::tapped(&loaded.weights, context, &mut measured).side_by_side(context);
    let bar = Tokens::new(globals, windows.len().saturating_mul(context));
    for windows in windows.chunks(session.texts()) {
        check_interrupt()?;
        session.truncate(0);
        let texts: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
        session.read_each(&texts, Want::Last, |_, _, _| {})?;
        bar.advance(windows.len() * context);
    }
    // The session borrows what it measured into.
    drop((session, bar));
    write(args, globals, measured, args.windows.context())
}

/// Writes the file and says what it holds, and what its format does not.
///
/// The bytes are read again as `quantize` will read them before the file gets its name.
fn write(args: &Args, globals: &Globals, measured: Measured, chunk_size: u32) -> Result<ExitCode> {
    // The format that was asked for, else the ending of the name.
    let is_dat = match &args.output_format {
        Some(format) => format == "dat",
        None => args.output.extension().is_some_and(|ending| ending == "dat"),
    };
    let (matrices, chunks) = (measured.len(), measured.chunks);
    let tokens = measured.chunk_size.map(|size| u64::from(chunks) * u64::from(size));
    let mut notes = Vec::new();
    let bytes = if is_dat {
        let lost = measured.lost_in_dat();
        if !lost.is_empty() && !args.in_file.is_empty() {
            notes.push(format!("a .dat file does not hold {}", lost.join(", nor ")));
        }
        measured.to_dat()?
    } else {
        if measured.chunk_size.is_none() && args.windows.context.is_none() {
            notes.push(format!("the .dat file does not say of how many tokens a chunk was: {chunk_size} are assumed (-c)"));
        }
        measured.to_gguf(chunk_size)?
    };
    // As quantize will read it.
    Importance::of(&Input::memory(&args.output, bytes.clone()), &Limits::DEFAULT)?;
    write_small(&args.output, &bytes, args.force.existing())?;
    let output = args.output.display();
    if args.json.json {
        let report = serde_json::json!({
            "schema_version": VERSION, "output": output.to_string(), "matrices": matrices,
            "windows": chunks, "tokens": tokens, "notes": notes,
        });
        return json::print(&report).map(|()| ExitCode::SUCCESS);
    }
    notes.iter().for_each(|note| remark(globals, &format!("note: {note}")));
    let windows = text::counted(chunks, "window", "windows");
    remark(globals, &format!("{output}: {matrices} matrices over {windows}"));
    Ok(ExitCode::SUCCESS)
}

/// The tables of llama-imatrix: tensors, and layers.
///
/// | column | what it says of the squares that a matrix met |
/// |---|---|
/// | sum, min, max, mean, deviation | of the columns' mean squares |
/// | active | columns whose mean square is above 1e-5 |
/// | entropy, of max | how evenly they are spread; 100 % is all alike |
/// | ZD | columns more than one deviation above the mean |
/// | cosine | how like the same matrix of the layer before |
fn show(args: &Args, measured: &Measured) -> Result<ExitCode> {
    let tensors = measured.statistics();
    let layers = statistics::of_layers(&tensors);
    if args.json.json {
        let report = serde_json::json!({
            "schema_version": VERSION, "matrices": measured.len(), "tensors": tensors, "layers": layers,
        });
        return json::print(&report).map(|()| ExitCode::SUCCESS);
    }
    let cells = |heads: &[&str]| heads.iter().map(|head| (*head).to_owned()).collect::<Vec<_>>();
    let none = || "-".to_owned();
    let mut rows = vec![cells(&[
        "layer",
        "tensor",
        "sum",
        "min",
        "max",
        "mean",
        "deviation",
        "active",
        "columns",
        "entropy",
        "of max",
        "ZD",
        "cosine",
    ])];
    rows.extend(tensors.iter().map(|one| {
        vec![
            one.layer().map_or_else(none, |layer| layer.to_string()),
            one.kind().to_owned(),
            format!("{:.2}", one.sum),
            format!("{:.4}", one.min),
            format!("{:.4}", one.max),
            format!("{:.2}", one.mean),
            format!("{:.2}", one.deviation),
            percent(one.active),
            one.columns.to_string(),
            format!("{:.4}", one.entropy),
            percent(one.entropy_share),
            percent(one.zd),
            one.cosine.map_or_else(none, |cosine| format!("{cosine:.4}")),
        ]
    }));
    print(&text::table_of(&rows, &COLUMNS))?;
    let mut rows = vec![cells(&["layer", "sum", "ZD", "cosine"])];
    rows.extend(layers.iter().map(|one| {
        // The first layer has none before it.
        let cosine = if one.cosine == 0.0 { none() } else { format!("{:.4}", one.cosine) };
        vec![one.layer.to_string(), format!("{:.2}", one.sum), percent(one.zd), cosine]
    }));
    let columns = [Column::figures(0); 4];
    print(&format!("\n{}", text::table_of(&rows, &columns)))?;
    Ok(ExitCode::SUCCESS)
}

/// What tells a layer from another stays longest.
const COLUMNS: [Column; 13] = [
    Column::figures(11),
    Column::names(11, 12),
    Column::figures(10),
    Column::figures(2),
    Column::figures(3),
    Column::figures(7),
    Column::figures(4),
    Column::figures(1),
    Column::figures(0),
    Column::figures(5),
    Column::figures(6),
    Column::figures(9),
    Column::figures(8),
];

/// A share of 1 as a table shows it.
fn percent(part: f64) -> String {
    format!("{:.2}%", 100.0 * part)
}
