//! Quantizations into containers from before GGUF: one type for all matrices, as their programs made them.
//!
//! Of a container's lists in `[tensors.kept]`: matrices in `f32` stay as they are, those in `float` are never in blocks,
//! those in `f16` never get smaller than F16.

use std::path::Path;

use super::{Options, output};
use crate::{
    change::{Act, Plan, choose::ftype::FileType, obstacles::Obstacles},
    error::{Error, Result},
    format::catalog,
    model::{Model, Naming, Role},
    quant::{QuantType, encode::encoder},
};

impl Options {
    /// A quantization as the program of an older container made it: every matrix in the same type.
    ///
    /// llama.cpp, before GGUF: `llama_model_quantize` takes every tensor of two dimensions whose name ends
    /// in `weight`.
    ///
    /// # Errors
    /// Where more is asked for than one type, the container has none of that name, or [`Obstacles::check`] finds any.
    pub(super) fn old_plan(
        &self,
        model: &Model,
        base: &Plan,
        input: &Path,
        file_type: FileType,
    ) -> Result<Plan> {
        // Shards, types by pattern, imatrix data and keys came with GGUF or after it: programs of older files know none.
        let beyond = self.keep_split
            || !self.prune.is_empty()
            || !self.tensor_types.is_empty()
            || !self.overrides.is_empty()
            || !self.importance.is_empty();
        if beyond || self.goal.is_some() {
            let what =
                "older containers are written with one type for all matrices and nothing else";
            return Err(Error::usage(format!("{}: {what}", base.target.id())));
        }
        let mut plan = base.clone();
        let mut obstacles = Obstacles::default();
        let to = base.target.types().into_iter().find(|q| q.name() == file_type.base);
        let to = to.ok_or_else(|| {
            let what = format!("{} holds no {}", base.target.title(), file_type.base);
            let all: Vec<_> = base.target.types().iter().map(|q| q.name()).collect();
            Error::unsupported(what, format!("it holds {}", all.join(", ")))
        })?;
        let encode = base.target.recipe(to, self.recipe.as_deref())?;
        let never = &base.target.container().tensors.kept;
        // GPT-2's names end in `w`; its quantizer lists those of the matrices.
        let family = catalog::family(&model.family).filter(|family| family.tokenizer.is_some());
        let is_matrix = |name: &str| {
            let role = family.and_then(|family| Role::of(family, Naming::Old, name));
            role.is_some_and(|role| !role.bias && role.names.shape.len() == 2)
        };
        for step in &mut plan.steps {
            let ends = |list: &[String]| list.iter().any(|end| step.name.ends_with(end.as_str()));
            let to = match ends(&never.f16) && to.layout().elements > 1 {
                true => QuantType::today("f16").unwrap_or(to),
                false => to,
            };
            let encode = if to.name() == "f16" { encoder("f16") } else { encode };
            let kept = file_type.copy
                || self.leave_output && step.name == "output.weight"
                || to.layout().elements > 1 && ends(&never.float)
                || ends(&never.f32);
            let named = step.name.ends_with("weight") || is_matrix(&step.name);
            if step.rows() > 1 && named && !kept && step.quant != to {
                let source = model.tensors.get(step.source).map_or(step.quant, |t| t.quant);
                obstacles.look_at(step, source, to.name(), encode.map(|e| (to, e)));
                let Some(encode) = encode else { continue };
                (step.quant, step.act) = (to, Act::recode(encode, None));
            }
        }
        obstacles.check(self.allow_requantize)?;
        plan.measure |= obstacles.requantizes();
        obstacles.note(&mut plan.notes);
        if !file_type.copy {
            plan.state_type(file_type.base, file_type.number);
        }
        plan.output = output(input, self, &plan, &file_type.name.to_lowercase());
        plan.lay_out()?;
        Ok(plan)
    }
}
