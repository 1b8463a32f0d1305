//! `regguf man`: the manual page, of the whole command or of one verb.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory;

use super::{Cli, Globals, print_raw};
use crate::bytes::replace::write_small;
use crate::error::{Error, Result};

/// What the person typed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  regguf man upgrade | man -l -
  regguf man --dir ~/.local/share/man/man1        all of them, for `man regguf-upgrade`")]
pub struct Args {
    /// The page of this verb instead of the whole command's
    verb: Option<String>,
    /// Write every page into this folder
    #[arg(long, value_name = "DIR", conflicts_with = "verb")]
    dir: Option<PathBuf>,
}

/// Prints a page in roff, or writes all.
pub fn run(args: &Args, _: &Globals) -> Result<ExitCode> {
    let mut command = Cli::command();
    command.build();
    if let Some(dir) = &args.dir {
        std::fs::create_dir_all(dir).map_err(|error| Error::io(dir, "create", error))?;
        for command in std::iter::once(&command).chain(command.get_subcommands()) {
            let name = command.get_display_name().unwrap_or_else(|| command.get_name());
            write_small(&dir.join(format!("{name}.1")), &page(command)?, true)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(verb) = &args.verb {
        let found = command.find_subcommand(verb);
        let Some(found) = found else { return Err(Error::Usage(format!("no verb {verb:?}"))) };
        command = found.clone();
    }
    print_raw(&String::from_utf8_lossy(&page(&command)?))?;
    Ok(ExitCode::SUCCESS)
}

fn page(command: &clap::Command) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    let done = clap_mangen::Man::new(command.clone()).render(&mut page);
    done.map_err(|e| Error::io("<man page>", "render", e))?;
    Ok(page)
}
