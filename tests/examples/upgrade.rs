//! Upgrades a model file to today's GGUF: `cargo run --example upgrade -- FILE OUT`.

use regguf::{
    Job, Proof, Writing,
    bytes::Progress,
    change::{report::Detail, upgrade::Options},
    error::{Error, Result},
};

/// Tells how far it is, each mebibyte.
struct Dots;

impl Progress for Dots {
    fn advance(&self, bytes: u64) {
        eprint!("{}", ".".repeat(usize::try_from(bytes >> 20).unwrap_or(0)));
    }
}

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let (Some(path), Some(output)) = (words.next(), words.next()) else {
        return Err(Error::usage("FILE OUT".to_owned()));
    };
    let model = regguf::open(path)?;
    let options = Options { output: Some(output.into()), ..Options::default() };
    let job = Job::upgrade(&model, &options)?;
    for assumed in job.plans().iter().flat_map(|plan| &plan.assumed) {
        println!("assumed: {} = {}", assumed.key, assumed.value);
    }
    let how = Writing { proof: Proof::Text, progress: Some(&Dots), ..Writing::default() };
    for report in job.write(&how)? {
        println!("{}", report.text(Detail::Kinds, None));
    }
    Ok(())
}
