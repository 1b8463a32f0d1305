//! `regguf explain`: a format, drawn from its description.

use std::process::ExitCode;

use super::{
    Globals,
    json::{self, VERSION},
    print, text,
};
use crate::{
    error::{Error, Result},
    format::explain::{Section, about, catalogue, similar},
};

/// What the person typed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  regguf explain                  every format, with its dates
  regguf explain ggjt-v2-llama    a container: its bytes, sources and traps
  regguf explain q4_0             a type of blocks in all its storages
  regguf explain llama            a family: names of tensors here and there")]
pub struct Args {
    /// A container, a family, a block type or `type/dialect`; all of them if left out
    #[arg(value_name = "NAME", value_parser = super::words::Words(super::words::explained), hide_possible_values = true)]
    format: Option<String>,
    #[command(flatten)]
    json: super::common::JsonArg,
}

/// Prints the catalogue or one entry of it.
pub fn run(args: &Args, _: &Globals) -> Result<ExitCode> {
    let sections = match &args.format {
        None => catalogue(),
        Some(id) => about(id).ok_or_else(|| unknown(id))?,
    };
    if args.json.json {
        let about = args.format.as_deref();
        let report = serde_json::json!({
            "schema_version": VERSION, "about": about, "sections": sections,
        });
        return json::print(&report).map(|()| ExitCode::SUCCESS);
    }
    print(&lay_out(&sections))?;
    Ok(ExitCode::SUCCESS)
}

/// The error for a word that names nothing, with names that contain it.
fn unknown(id: &str) -> Error {
    let similar = similar(id).join(", ");
    let hint = if similar.is_empty() { "`regguf explain` lists all".to_owned() } else { similar };
    Error::usage(format!("no format {id:?}; there is: {hint}"))
}

/// Headings and tables; no cell is cut, for a table of bytes without a byte is none.
fn lay_out(sections: &[Section]) -> String {
    let mut out = String::new();
    for section in sections {
        if !out.is_empty() {
            out.push('\n');
        }
        if !section.title.is_empty() {
            out += &format!("{}\n", section.title);
        }
        out += &text::whole_table(&section.rows);
    }
    out
}
