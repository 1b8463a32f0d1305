//! Which type each tensor of an image or video model becomes: `formats/mixture` as a function of names and shapes.
//!
//! | what decides, first to last | |
//! |---|---|
//! | `kept` of the architecture, and what is no matrix | stays as it is |
//! | a pattern that a person gives | that type |
//! | one type for all, or floats | the base type |
//! | `ends`: the first and last layers of an image model | the type that they name |
//! | the role, of which the first few may be favoured | the type of that role |
//! | rows that are no whole blocks | F16, told as such |

use super::mix::{self, Choice, Rules, Shape, TypeName, Weight, block_len, is_quantized, matches};
use crate::{
    error::{Error, Result},
    format::{
        catalog,
        mixture::{Kept, Mixture},
    },
    model::glob,
    quant::QuantType,
};

/// Whether a name is one of these, which may have stars.
fn any(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| glob::matches(pattern, name))
}

/// Whether a tensor is quantized at all, of whatever model.
pub fn may_quantize(shape: &Shape, tensor: &Weight, wanted: &Rules) -> bool {
    let kept = |kept: &Kept| any(&kept.kept, tensor.name) || tensor.shape.len() != 2;
    let kept = catalog::mixture(&shape.architecture).is_some_and(|(_, own)| kept(own));
    mix::may_quantize(shape, tensor, wanted) && !kept
}

/// Whether an outermost dimension of 1 is written, which ggml does not count.
pub fn has_outermost(architecture: &str, name: &str) -> bool {
    catalog::mixture(architecture).is_some_and(|(_, own)| any(&own.outermost, name))
}

/// A type for every tensor of any model, in the order given: by [`mix::choose`] where no other rules are for it.
///
/// # Errors
/// Those of [`mix::choose`]; where the program refuses the file type, or its readers know no such names.
pub fn choose(shape: &Shape, tensors: &[Weight], wanted: &Rules) -> Result<Vec<Choice>> {
    match catalog::mixture(&shape.architecture) {
        Some((mixture, own)) => of_image(mixture, own, shape, tensors, wanted),
        None => mix::choose(shape, tensors, wanted),
    }
}

/// The types of an image or video model's tensors, by the rules of the program that reads them.
fn of_image(
    mixture: &Mixture,
    own: &Kept,
    shape: &Shape,
    tensors: &[Weight],
    rules: &Rules,
) -> Result<Vec<Choice>> {
    let file = rules.file_type.rule_name();
    let architecture = &shape.architecture;
    if let Some(strange) = tensors.iter().find(|t| any(&mixture.strange, t.name)) {
        let what = format!("{}: readers of {architecture} files know no such name", strange.name);
        return Err(Error::refused(what, "convert the checkpoint of the model's own authors"));
    }
    if mixture.refused.iter().any(|refused| refused == file) {
        let what = format!("{file}: is not made of image models ({architecture})");
        return Err(Error::refused(what, "Q2_K to Q6_K, Q4_0 to Q8_0 and floats are"));
    }
    // How many tensors of each role came before: some rules are for the first few.
    let mut seen = vec![0; mixture.roles.len()];
    let mut choose = |t: &Weight| {
        let mut choice = Choice { becomes: t.present, instead_of: None, needs_importance: false };
        if !may_quantize(shape, t, rules) {
            return choice;
        }
        let base = rules.file_type.base;
        let named = rules.overrides.iter().find(|(p, _)| matches(p, t.name)).map(|(_, q)| *q);
        let role = mixture.roles.iter().position(|role| any(&role.patterns, t.name));
        let favoured =
            role.and_then(|at| mixture.roles.get(at)).zip(role.and_then(|at| seen.get_mut(at)));
        let favoured = favoured.and_then(|(role, seen)| {
            let first = role.first.get(file).filter(|first| *seen < first.count);
            *seen += 1;
            first.map(|first| &first.becomes).or_else(|| role.becomes.get(file))
        });
        let end = own.ends.as_ref().filter(|ends| any(&ends.patterns, t.name));
        let favoured = end.and_then(|ends| ends.becomes.get(file)).or(favoured);
        let favoured = favoured.and_then(|name| QuantType::today(name)).map(QuantType::name);
        // A person's word first, then one type for all, then what the mixture favours, then the type of the file.
        let wanted = match named {
            Some(named) => named,
            None if rules.pure || !is_quantized(base) => base,
            None => favoured.unwrap_or(base),
        };
        let row = t.shape.last().copied().unwrap_or(1);
        let fits = row.is_multiple_of(block_len(wanted));
        let becomes: TypeName = if fits { wanted } else { "f16" };
        (choice.becomes, choice.instead_of) = (becomes, (!fits).then_some(wanted));
        choice
    };
    Ok(tensors.iter().map(&mut choose).collect())
}
