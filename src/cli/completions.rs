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
  regguf completions zsh > ~/.zfunc/_regguf     fpath+=~/.zfunc before compinit
  regguf completions fish > ~/.config/fish/completions/regguf.fish")]
pub struct Args {
    /// The shell that will read it
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
pub fn run(args: &Args, command: clap::Command) -> Result<ExitCode> {
    print_raw(&script(args.shell, command))?;
    Ok(ExitCode::SUCCESS)
}

fn script(shell: Shell, mut command: clap::Command) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "regguf", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn shells_complete_formats_types_and_tasks() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell, crate::cli::Cli::command());
            for word in ["ggjt-v1-llama", "gguf-v3", "safetensors", "q4_k_m", "iq2_xxs", "merge"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
