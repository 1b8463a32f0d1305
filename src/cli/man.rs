//! `regguf man`: the manual page, of the whole command or of one verb.

use crate::bytes::replace::Existing;
use std::path::PathBuf;
use std::process::ExitCode;

use super::print_raw;
use crate::bytes::replace::write_small;
use crate::error::{Error, Result};

/// What the person typed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  regguf man upgrade | man -l -
  regguf man --dir ~/.local/share/man/man1     for `man regguf-upgrade`")]
pub struct Args {
    /// The page of this verb instead of the whole command's
    verb: Option<String>,
    /// Write every page into this folder
    #[arg(long, value_name = "DIR", conflicts_with = "verb")]
    dir: Option<PathBuf>,
}

/// What every page ends with.
const ENDS: &str = r#".SH "EXIT STATUS"
.TP
.B 0
Done.
.TP
.B 1
Done, and something was found: a damaged file, models that differ, a failure in a batch.
.TP
.B 2
The words of the call do not fit together.
.TP
.B 3
A file is malformed or of no known format.
.TP
.B 4
Refused: it would lose or overwrite something, or is not supported.
.TP
.B 5
Reading or writing failed.
.TP
.B 130
Interrupted (Ctrl-C); no partial file is left.
.SH FILES
.TP
.I .regguf-*.partial
An output that is not whole yet, in the folder where it will be; what a killed run left is removed by the next one.
.TP
.I NAME.receipt.json
What a batch made of which model, with digests; by it the next batch skips what is whole.
.TP
.I .NAME.lock
An output that a batch is writing.
.TP
.I checklist.chk, SHA256SUMS, TENSORSUMS
Lists of digests that
.B regguf verify
reads, and writes with
.BR --write .
.SH ENVIRONMENT
.TP
.B REGGUF_THREADS
The number of threads, as
.BR --threads .
.TP
.B NO_COLOR
Where set and not empty, nothing is coloured.
"#;

/// Prints a page in roff, or writes all.
pub fn run(args: &Args, mut command: clap::Command) -> Result<ExitCode> {
    command.build();
    if let Some(dir) = &args.dir {
        std::fs::create_dir_all(dir).map_err(|error| Error::io(dir, "create", error))?;
        for command in std::iter::once(&command).chain(command.get_subcommands()) {
            let name = command.get_display_name().unwrap_or_else(|| command.get_name());
            write_small(&dir.join(format!("{name}.1")), &page(command)?, Existing::Replace)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(verb) = &args.verb {
        let found = command.find_subcommand(verb);
        let Some(found) = found else { return Err(Error::usage(format!("no verb {verb:?}"))) };
        command = found.clone();
    }
    print_raw(&String::from_utf8_lossy(&page(&command)?))?;
    Ok(ExitCode::SUCCESS)
}

/// The page of one verb, or of the whole command, in roff: what its arguments say, then [`ENDS`].
fn page(command: &clap::Command) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    let done = clap_mangen::Man::new(command.clone()).render(&mut page);
    done.map_err(|e| Error::io("<man page>", "render", e))?;
    page.extend_from_slice(ENDS.as_bytes());
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_page_says_what_an_exit_status_means() {
        let mut command = crate::cli::Cli::command();
        command.build();
        for command in std::iter::once(&command).chain(command.get_subcommands()) {
            let page = String::from_utf8(page(command).unwrap()).unwrap();
            for heading in ["NAME", "SYNOPSIS", "EXIT STATUS", "FILES", "ENVIRONMENT"] {
                assert!(page.contains(heading), "{}: {heading}", command.get_name());
            }
        }
    }
}
