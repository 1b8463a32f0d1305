//! `regguf explain`: a format, drawn from its description.

use std::process::ExitCode;

use super::{Globals, print, text};
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
    format: Option<String>,
}

/// Prints the catalogue or one entry of it.
pub fn run(args: &Args, _: &Globals) -> Result<ExitCode> {
    let sections = match &args.format {
        None => catalogue(),
        Some(id) => about(id).ok_or_else(|| unknown(id))?,
    };
    print(&lay_out(&sections))?;
    Ok(ExitCode::SUCCESS)
}

fn unknown(id: &str) -> Error {
    let similar = similar(id).join(", ");
    let hint = if similar.is_empty() { "`regguf explain` lists all".to_owned() } else { similar };
    Error::Usage(format!("no format {id:?}; there is: {hint}"))
}

fn lay_out(sections: &[Section]) -> String {
    let mut out = String::new();
    for section in sections {
        if !out.is_empty() {
            out.push('\n');
        }
        if !section.title.is_empty() {
            out += &format!("{}\n", section.title);
        }
        for line in text::table(&section.rows).lines() {
            out += &format!("  {line}\n");
        }
    }
    out
}
