//! `regguf man`: the manual page, of the whole command or of one verb.

use std::process::ExitCode;

use clap::CommandFactory;

use super::{Cli, Globals, print_raw};
use crate::error::{Error, Result};

/// What the person typed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The page of this verb instead of the whole command's
    verb: Option<String>,
}

/// Prints the page in roff.
pub fn run(args: &Args, _: &Globals) -> Result<ExitCode> {
    let mut command = Cli::command();
    command.build();
    if let Some(verb) = &args.verb {
        let found = command.find_subcommand(verb);
        let Some(found) = found else { return Err(Error::Usage(format!("no verb {verb:?}"))) };
        command = found.clone();
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(|e| Error::io("<man page>", "render", e))?;
    print_raw(&String::from_utf8_lossy(&page))?;
    Ok(ExitCode::SUCCESS)
}
