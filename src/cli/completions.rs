//! `regguf completions`: a completion script for a shell.

use std::process::ExitCode;

use clap_complete::Shell;

use super::print_raw;
use crate::error::Result;

/// What the person typed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  regguf completions bash > ~/.local/share/bash-completion/completions/regguf
  regguf completions zsh > ~/.zfunc/_regguf        with fpath+=~/.zfunc before compinit
  regguf completions fish > ~/.config/fish/completions/regguf.fish")]
pub struct Args {
    /// The shell that will read it
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
pub fn run(args: &Args, mut command: clap::Command) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "regguf", &mut script);
    print_raw(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
