//! Lists the tensors of any model file or checkpoint: `cargo run --example list -- FILE`.

fn main() -> regguf::error::Result<()> {
    for path in std::env::args().skip(1) {
        let model = regguf::open(&path)?;
        println!("{path}: {}, {} tensors", model.format, model.tensors.len());
        for tensor in &model.tensors {
            println!(
                "  {} {:?} {} {} bytes",
                tensor.name,
                tensor.shape,
                tensor.quant,
                tensor.bytes()
            );
        }
    }
    Ok(())
}
