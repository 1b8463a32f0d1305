//! The `regguf` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    regguf::cli::main()
}
