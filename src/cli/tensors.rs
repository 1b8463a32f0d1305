//! `regguf tensors`: what the weights of tensors are like, and the weights themselves.

use std::{ops::Range, path::PathBuf, process::ExitCode};

use serde::Serialize;

use super::{
    Globals,
    json::{self, VERSION},
    open::input,
    print, print_folded,
    progress::Bar,
    text::{self, Column},
};
use crate::{
    change::npy,
    check::models::statistics::Statistics,
    error::{Error, Result},
    model::{Model, Stated, Tensor, glob, weights},
    size,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  regguf tensors model.gguf
  regguf tensors model.gguf 'blk.*.attn_q.weight' --json
  regguf tensors model.gguf output.weight --rows 0..2
  regguf tensors model.gguf token_embd.weight --npy embedding.npy
  regguf tensors model.gguf 'blk.0.*' --npz block-0.npz

Weights are decoded to f32. Outliers lie further from the mean than six standard deviations; the \
bars count the weights between the least and the greatest.")]
pub struct Args {
    /// The model file, of a set its first file, or the folder of a checkpoint
    input: PathBuf,
    /// Names of tensors, with * and ? [default: all]
    #[arg(value_name = "GLOB")]
    names: Vec<String>,
    /// Print the weights of these rows: 5, or 0..3 for the first three
    #[arg(long, value_name = "ROWS", value_parser = rows)]
    rows: Option<Range<u64>>,
    /// Write the one tensor that is named, decoded, as NumPy's .npy
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rows", "npz"])]
    npy: Option<PathBuf>,
    /// Write the tensors, decoded, as NumPy's .npz
    #[arg(long, value_name = "FILE", conflicts_with = "rows")]
    npz: Option<PathBuf>,
    #[command(flatten)]
    commit: super::common::CommitArgs,
    #[command(flatten)]
    open: super::open::OpenArgs,
    #[command(flatten)]
    json: super::common::JsonArg,
}

/// `5` or `0..3`.
fn rows(text: &str) -> Result<Range<u64>, String> {
    let number =
        |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?}: wanted 5 or 0..3"));
    match text.split_once("..") {
        Some((first, end)) => Ok(number(first)?..number(end)?),
        None => number(text).map(|row| row..row.saturating_add(1)),
    }
}

/// Runs it.
pub fn run(args: &Args, globals: &Globals) -> Result<ExitCode> {
    let model = args.open.open_any(&input(&args.input, globals), &Stated::default())?.readable();
    let tensors = chosen(&model, &args.names)?;
    let bar = || Bar::new(globals, npy::bytes(&tensors));
    match (&args.npy, &args.npz, &args.rows) {
        (Some(path), ..) => {
            let [tensor] = tensors.as_slice() else {
                let what = format!("--npy takes one tensor, {} are named", tensors.len());
                return Err(Error::usage(format!("{what}: --npz takes them all")));
            };
            npy::one(&model, tensor, path, args.commit.commit(), &bar())?;
        }
        (_, Some(path), _) => npy::all(&model, &tensors, path, args.commit.commit(), &bar())?,
        (_, _, Some(rows)) => return print_rows(args, &model, &tensors, rows),
        _ => return print_statistics(args, &model, &tensors, globals),
    }
    let path = args.npy.as_ref().or(args.npz.as_ref()).map(|path| path.display().to_string());
    let path = path.unwrap_or_default();
    match args.json.json {
        true => json::print(&serde_json::json!({
            "schema_version": VERSION, "output": path, "tensors": tensors.len(),
        }))?,
        false => {
            let count = text::counted(tensors.len(), "tensor", "tensors");
            let bytes = size::text(npy::bytes(&tensors));
            print_folded(&format!("wrote {path}: {count}, {bytes} of f32\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The tensors that were asked for, in the order of the file.
fn chosen<'a>(model: &'a Model, names: &[String]) -> Result<Vec<&'a Tensor>> {
    let is = |name: &String, tensor: &Tensor| glob::matches(name, &tensor.name);
    if let Some(none) = names.iter().find(|name| !model.tensors.iter().any(|t| is(name, t))) {
        let next = "`regguf tensors FILE` lists all";
        return Err(Error::refused(format!("{none}: the file has no such tensor"), next));
    }
    let asked = |t: &&Tensor| names.is_empty() || names.iter().any(|name| is(name, t));
    Ok(model.tensors.iter().filter(asked).collect())
}

#[derive(Serialize)]
struct Told<'a> {
    name: &'a str,
    shape: &'a [u64],
    #[serde(rename = "type")]
    quant: &'static str,
    bytes: u64,
    /// None where the type is not decoded here.
    statistics: Option<Statistics>,
}

/// Prints a line for each tensor, or all of them as data; weights are read twice (range first, then histogram).
fn print_statistics(
    args: &Args,
    model: &Model,
    tensors: &[&Tensor],
    globals: &Globals,
) -> Result<ExitCode> {
    let found = Statistics::of_all(model, tensors, &Bar::new(globals, 0))?;
    let told: Vec<Told> = tensors
        .iter()
        .zip(found)
        .map(|(t, statistics)| Told {
            name: &t.name,
            shape: &t.shape,
            quant: t.quant.name(),
            bytes: t.bytes(),
            statistics,
        })
        .collect();
    if args.json.json {
        let file = crate::error::unicode(&args.input);
        json::print(&serde_json::json!({
            "schema_version": VERSION, "file": file, "tensors": told,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let heads = ["tensor", "type", "shape", "bits", "min", "max", "mean", "deviation", "", ""];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(told.iter().map(row));
    print(&text::table_of(&rows, &COLUMNS))?;
    Ok(ExitCode::SUCCESS)
}

/// The name, the range and what is odd stay longest.
const COLUMNS: [Column; 10] = [
    Column::names(17, 9),
    Column::words(4, 4),
    Column::words(9, 3),
    Column::figures(1),
    Column::figures(6),
    Column::figures(7),
    Column::figures(2),
    Column::figures(2),
    Column::words(16, 5),
    Column::words(8, 8),
];

/// A line of the table.
fn row(told: &Told) -> Vec<String> {
    let shape = told.shape.iter().map(u64::to_string).collect::<Vec<_>>().join("x");
    let mut row = vec![told.name.to_owned(), told.quant.to_owned(), shape];
    // As many cells as other rows, so that columns stay where they are.
    let Some(s) = &told.statistics else {
        row.resize(COLUMNS.len() - 1, String::new());
        row.push("not decoded here".to_owned());
        return row;
    };
    row.push(format!("{:.2}", s.bits));
    row.extend([s.min, s.max, s.mean, s.deviation].map(|x| format!("{x:.4e}")));
    row.push(s.drawn(16));
    row.push(s.oddities().join(", "));
    row
}

/// Prints rows as numbers, the shortest decimals that read back as the same f32.
///
/// ```text
/// blk.0.attn_q.weight 5: 0.0123 -0.5 …
/// ```
fn print_rows(
    args: &Args,
    model: &Model,
    tensors: &[&Tensor],
    rows: &Range<u64>,
) -> Result<ExitCode> {
    let mut all = Vec::new();
    for tensor in tensors {
        let row_len = usize::try_from(tensor.row_len()).unwrap_or(usize::MAX).max(1);
        weights::each(model, tensor, rows.clone(), &mut |first, weights| {
            for (row, weights) in (first..).zip(weights.chunks(row_len)) {
                let text: Vec<String> = weights.iter().map(f32::to_string).collect();
                match args.json.json {
                    // What is no number has no form in JSON, and stays as text.
                    true => all.push(serde_json::json!({
                        "name": tensor.name, "row": row, "weights": text.iter()
                            .map(|t| t.parse().ok().filter(|x: &f64| x.is_finite())
                                .map_or(serde_json::json!(t), |x| serde_json::json!(x)))
                            .collect::<Vec<_>>(),
                    })),
                    false => print(&format!("{} {row}: {}\n", tensor.name, text.join(" ")))?,
                }
            }
            Ok(())
        })?;
    }
    if args.json.json {
        json::print(&serde_json::json!({ "schema_version": VERSION, "rows": all }))?;
    }
    Ok(ExitCode::SUCCESS)
}
