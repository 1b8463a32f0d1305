//! Numbers beside matrices, where a matrix becomes another type.
//!
//! llama.cpp multiplies with `NAME.scale` in every layer, whatever the type of `NAME.weight`. It looks for `output.scale`
//! beside NVFP4 alone and refuses a file where one is left over: there the weights take it in.

use super::plan::{Act, Plan};
use crate::{error::Result, model::Model};

/// Has the weights of the output take in the number beside them, where they are no NVFP4 any more.
///
/// # Errors
/// Where the number cannot be read.
pub(super) fn take_in(model: &Model, plan: &mut Plan) -> Result<()> {
    let Some(scale) = model.tensor("output.scale") else { return Ok(()) };
    let output = plan.steps.iter_mut().find(|step| step.name == "output.weight");
    let Some(output) = output.filter(|step| step.quant.name() != "nvfp4") else { return Ok(()) };
    let Act::Recode { times, .. } = &mut output.act else { return Ok(()) };
    *times *= model.decode(scale, 0..1)?.first().copied().unwrap_or(1.0);
    plan.steps.retain(|s| !["output.scale", "output.input_scale"].contains(&s.name.as_str()));
    plan.notes.push(
        "output.weight takes in output.scale: llama.cpp multiplies with that beside NVFP4 alone"
            .to_owned(),
    );
    Ok(())
}
