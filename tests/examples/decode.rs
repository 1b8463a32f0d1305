//! Prints a row of a tensor as numbers: `cargo run --example decode -- FILE TENSOR ROW`.

use regguf::error::{Error, Result};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [path, name, row] = words.as_slice() else {
        return Err(Error::usage("FILE TENSOR ROW".to_owned()));
    };
    let row: u64 = row.parse().map_err(|_| Error::usage(format!("{row}: no number of a row")))?;
    let model = regguf::open(path)?;
    let tensor = model.tensor(name).ok_or_else(|| {
        Error::unsupported(format!("no tensor {name}"), "the example `list` lists them")
    })?;
    for weight in model.decode(tensor, row..row.saturating_add(1))? {
        println!("{weight}");
    }
    Ok(())
}
