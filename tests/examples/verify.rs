//! Says whether downloads are good: `cargo run --example verify -- PATH …`. What is wrong is data: a code to act
//! on and a sentence to show.

use std::{path::PathBuf, process::ExitCode};

use regguf::check::files::Options;

fn main() -> ExitCode {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let result = regguf::verify(&paths, &Options { threads: 2, ..Options::default() });
    for file in &result.files {
        println!("{}: {:?}", file.name, file.status);
        for finding in &file.findings {
            println!("  {:?} {}: {finding}", finding.severity, finding.code);
        }
    }
    ExitCode::from(u8::from(!result.is_good()))
}
