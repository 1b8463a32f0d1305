//! A LoRA adapter: for each matrix that it changes two small ones, whose product is added.
//!
//! ```text
//! W' = W + scale * (alpha / r) * B A        W [out, in]   A [r, in]   B [out, r]
//! ```
//!
//! In GGUF the tensor NAME has `NAME.lora_a` and `NAME.lora_b`; of a token embedding both are stored turned
//! round, `lora_a` [tokens, r] and `lora_b` [width, r]. As in llama.cpp an alpha of zero means none: the product
//! is added as it is.

use std::collections::BTreeMap;

use super::{Model, Naming, Role, Tensor, loader::Content};
use crate::{
    bytes::Input,
    error::{Error, Malformed, Result},
    format::{catalog, family::Family},
    remedy::{Call, Remedy},
};

/// An adapter whose pairs are whole and fit each other. No weights are held.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Adapter {
    /// The file that it was read from.
    pub name: String,
    /// The architecture of its model; empty where it names none.
    pub architecture: String,
    /// What its products are multiplied with, once divided by their rank.
    pub alpha: f32,
    /// A pair for each matrix that it changes, in file order.
    pub pairs: Vec<Pair>,
    /// The files that the tensors of the pairs lie in.
    pub files: Vec<Input>,
}

/// Two matrices whose product is added to a third.
///
/// A vector `x` meets `a` first, so that r numbers are all that is computed from it: `b (a x)`. The full product is
/// only made where weights are merged.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pair {
    /// The GGUF name of the tensor that is changed.
    pub target: String,
    /// The one that vectors meet first: [r, in].
    pub a: Tensor,
    /// The one that they meet then: [out, r].
    pub b: Tensor,
}

impl Pair {
    /// The rank of the product.
    pub fn rank(&self) -> u64 {
        self.a.shape.first().copied().unwrap_or(0)
    }

    /// The shape of the product, outermost dimension first.
    pub fn shape(&self) -> [u64; 2] {
        [self.b.shape.first(), self.a.shape.last()].map(|n| n.copied().unwrap_or(0))
    }
}

impl Adapter {
    /// The pairs of `model`, a LoRA adapter in GGUF's terms.
    ///
    /// # Errors
    /// Where it is something else, a tensor lacks its other half or is none, two do not fit each other, or
    /// alpha is no number.
    pub fn of(model: &Model) -> Result<Adapter> {
        let name = model.files.first().map(Input::name).unwrap_or_default();
        let metadata = &model.metadata;
        let kind = metadata.str("adapter.type").unwrap_or("lora");
        if Content::of(model) != Content::Adapter || kind != "lora" {
            let what = match Content::of(model).other() {
                Some((what, _)) if kind == "lora" => format!("{name}: holds {what}"),
                _ => format!("{name}: is no LoRA adapter"),
            };
            return Err(Error::unsupported(what, "only a LoRA adapter is added to a model"));
        }
        if model.tensors.iter().any(|t| t.name.ends_with(".loraA")) {
            let what = format!("{name}: is a LoRA adapter of before GGUF");
            return Err(Error::unsupported(what, Call::Upgrade.to("make a GGUF adapter of it")));
        }
        if metadata.get("adapter.alora.invocation_tokens").is_some() {
            let what = format!("{name}: holds only after its invocation tokens (activated LoRA)");
            return Err(Error::unsupported(what, "llama.cpp takes it beside its model (--lora)"));
        }
        let alpha = metadata.f32("adapter.lora.alpha").unwrap_or(0.0);
        let broken = |field: &str, at: u64, found: String, wanted: &str| {
            malformed(model, field, at, found, wanted)
        };
        if !alpha.is_finite() {
            return Err(broken("adapter.lora.alpha", 0, alpha.to_string(), "a finite number"));
        }
        let mut pairs = Vec::new();
        for (target, halves) in halves(model)? {
            let (a, b) = match halves {
                [Some(a), Some(b)] => (a, b),
                [Some(half), None] | [None, Some(half)] => {
                    let at = half.pieces.first().map_or(0, |p| p.at);
                    return Err(broken(
                        &half.name,
                        at,
                        "it alone".to_owned(),
                        "its other half too",
                    ));
                }
                [None, None] => continue,
            };
            pairs.push(pair(model, target, a, b)?);
        }
        if pairs.is_empty() {
            return Err(broken("tensors", 0, "none".to_owned(), "a pair of lora_a and lora_b"));
        }
        let architecture = metadata.str("general.architecture").unwrap_or_default().to_owned();
        Ok(Adapter { name, architecture, alpha, pairs, files: model.files.clone() })
    }

    /// What the product of `pair` is multiplied with, where a person asks for the adapter `times` over.
    ///
    /// ```text
    /// scale = times * alpha / r        times, where alpha is 0
    /// ```
    #[expect(clippy::cast_possible_truncation, reason = "rounded once, as readers do")]
    pub fn scale(&self, pair: &Pair, times: f32) -> f32 {
        let share = match self.alpha {
            0.0 => 1.0,
            alpha => f64::from(alpha) / pair.rank() as f64,
        };
        (f64::from(times) * share) as f32
    }

    /// The index of the tensor in `base` that each pair is added to.
    ///
    /// # Errors
    /// [`Error::Refused`] where `base` has no such tensor or one of another shape, with both shapes.
    /// Names of the base may be of any naming: they are compared under GGUF's.
    ///
    pub fn fits(&self, base: &Model) -> Result<Vec<usize>> {
        let refused = |what: String| {
            let what = format!("{}: {what}", self.name);
            Error::refused(what, "give the model that the adapter was trained on")
        };
        let architecture = base.metadata.str("general.architecture").unwrap_or(&base.family);
        if ![architecture, ""].contains(&self.architecture.as_str()) {
            let own = &self.architecture;
            return Err(refused(format!(
                "is for the architecture {own}, the model is {architecture}"
            )));
        }
        let names = names(base);
        let mut places = Vec::with_capacity(self.pairs.len());
        for pair in &self.pairs {
            let (target, shape) = (&pair.target, pair.shape());
            let Some(&place) = names.get(target) else {
                return Err(refused(format!("{target} {shape:?}: the model has no such tensor")));
            };
            let tensor = base.tensors.get(place);
            let found = tensor.map(|t| t.shape.as_slice()).unwrap_or_default();
            // The pair of a norm makes a matrix of one row.
            if found != shape && !(shape[0] == 1 && found == &shape[1..]) {
                return Err(refused(format!(
                    "{target} is {shape:?}, in the model it is {found:?}"
                )));
            }
            places.push(place);
        }
        Ok(places)
    }
}

/// Where each tensor of `base` is, by its GGUF name.
///
/// Without those of Hugging Face whose rows would have to be put in order first: an adapter is in GGUF's.
pub(super) fn names(base: &Model) -> BTreeMap<String, usize> {
    let family: Option<&'static Family> = catalog::family(&base.family);
    let name = |tensor: &Tensor| match family.and_then(|f| Role::find(f, &tensor.name)) {
        // Rows of such names are in another order.
        Some((Naming::Hf, role)) if role.names.rotary => None,
        Some((_, role)) => role.name(Naming::Gguf),
        None => Some(tensor.name.clone()),
    };
    (0..).zip(&base.tensors).filter_map(|(place, tensor)| Some((name(tensor)?, place))).collect()
}

/// The tensors `lora_a` and `lora_b` of a target.
type Halves<'m> = [Option<&'m Tensor>; 2];

/// The halves of each target, in file order.
///
/// # Errors
/// Where a tensor is no half of a pair, or is there twice.
fn halves(model: &Model) -> Result<Vec<(String, Halves<'_>)>> {
    let mut all: Vec<(String, Halves)> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for tensor in &model.tensors {
        let at = tensor.pieces.first().map_or(0, |p| p.at);
        let ends = [".lora_a", ".lora_b"];
        let half = ends.iter().zip([0, 1]).find_map(|(end, half)| {
            Some((tensor.name.strip_suffix(end).filter(|target| !target.contains(".lora"))?, half))
        });
        let Some((target, half)) = half else {
            let file = model.files.first().map(Input::name).unwrap_or_default();
            let name = &tensor.name;
            let what = format!("{file}: {name}: is a whole tensor beside the pairs of an adapter");
            return Err(Error::unsupported(what, "not yet: adapters that replace tensors"));
        };
        // The halves of a pair may stand anywhere in the file, A or B first.
        let place = *places.entry(target).or_insert_with(|| {
            all.push((target.to_owned(), [None, None]));
            all.len() - 1
        });
        let slot = all.get_mut(place).and_then(|(_, halves)| halves.get_mut(half));
        if slot.is_some_and(|slot| slot.replace(tensor).is_some()) {
            return Err(malformed(model, &tensor.name, at, "it twice".to_owned(), "it once"));
        }
    }
    Ok(all)
}

/// The most that a rank can be: beyond, the pair would be larger than what it is added to in any model.
pub const MOST_RANK: u64 = 1 << 16;

/// The pair of A, [r, in], and B, [out, r]. For embeddings the two change places, and B is turned.
///
/// ```text
/// lora_a [r, in]        lora_b [out, r]          any matrix
/// lora_a [tokens, r]    lora_b [width, r]        an embedding: a = lora_b turned [r, width], b = lora_a
/// ```
///
/// # Errors
/// Where they are no two matrices of plain numbers with one rank.
fn pair(model: &Model, target: String, a: &Tensor, b: &Tensor) -> Result<Pair> {
    a.check_decodable()?;
    b.check_decodable()?;
    let turned = target == "token_embd.weight";
    let (mut a, mut b) = (a.clone(), b.clone());
    let at = a.pieces.first().map_or(0, |p| p.at);
    let (lora_a, lora_b) = (a.shape.clone(), b.shape.clone());
    let broken = |wanted: &str| {
        let found = format!("lora_a {lora_a:?} and lora_b {lora_b:?}");
        malformed(model, &target, at, found, wanted)
    };
    if turned {
        (a, b) = (b.transposed().ok_or_else(|| broken("plain numbers of two dimensions"))?, a);
    }
    let ([rank, _], [_, other]) = (a.shape.as_slice(), b.shape.as_slice()) else {
        return Err(broken("two matrices"));
    };
    if rank != other
        || *rank == 0
        || *rank > MOST_RANK
        || a.shape.contains(&0)
        || b.shape.contains(&0)
    {
        return Err(broken(&format!("one rank of both, 1..={MOST_RANK}")));
    }
    if a.fold > 1 || b.fold > 1 {
        return Err(broken("rows coded one by one"));
    }
    Ok(Pair { target, a, b })
}

/// An error that says where in the first file of `model` something else was found than wanted.
fn malformed(model: &Model, field: &str, at: u64, found: String, wanted: &str) -> Error {
    Error::Malformed(Box::new(Malformed {
        file: model.files.first().map(Input::name).unwrap_or_default(),
        format: model.format.clone(),
        field: field.to_owned(),
        at,
        found,
        wanted: wanted.to_owned(),
        next: Remedy::default(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Value, quant::QuantType};

    /// An adapter of these tensors.
    fn adapter(tensors: &[(&str, &[u64])]) -> Model {
        let f32 = QuantType::today("f32").unwrap();
        let tensor = |(name, shape): &(&str, &[u64])| {
            Tensor::whole((*name).to_owned(), shape.to_vec(), f32, 0, 0).unwrap()
        };
        let mut model = Model { format: "gguf-v3".to_owned(), ..Model::default() };
        model.files.push(Input::memory("x", vec![0; 4096]));
        model.tensors = tensors.iter().map(tensor).collect();
        model.metadata.set("general.type", Value::String(b"adapter".to_vec()));
        model.metadata.set("adapter.lora.alpha", Value::F32(16.0));
        model
    }

    const PAIR: [(&str, &[u64]); 2] = [("x.weight.lora_a", &[4, 8]), ("x.weight.lora_b", &[6, 4])];

    fn said(model: &Model) -> String {
        Adapter::of(model).unwrap_err().to_string()
    }

    #[test]
    fn a_pair_is_found_and_scaled() {
        let found = Adapter::of(&adapter(&PAIR)).unwrap();
        let pair = &found.pairs[0];
        assert_eq!((pair.target.as_str(), pair.rank(), pair.shape()), ("x.weight", 4, [6, 8]));
        assert_eq!(found.scale(pair, 0.5), 2.0);
        let mut without = adapter(&PAIR);
        without.metadata.remove("adapter.lora.alpha");
        assert_eq!(found.scale(pair, 0.5), 2.0);
        let without = Adapter::of(&without).unwrap();
        assert_eq!(without.scale(&without.pairs[0], 0.5), 0.5);
    }

    #[test]
    fn what_does_not_fit_itself_is_refused() {
        assert!(said(&adapter(&PAIR[..1])).contains("x.weight.lora_a at 0x0: found it alone"));
        assert!(said(&adapter(&PAIR[1..])).contains("x.weight.lora_b at 0x0: found it alone"));
        let twice = [PAIR[0], PAIR[1], PAIR[0]];
        assert!(said(&adapter(&twice)).contains("found it twice"));
        let ranks: [[(&str, &[u64]); 2]; 3] = [
            [PAIR[0], ("x.weight.lora_b", &[6, 3])],
            [("x.weight.lora_a", &[0, 8]), ("x.weight.lora_b", &[6, 0])],
            [("x.weight.lora_a", &[1_000_000_000, 8]), ("x.weight.lora_b", &[6, 1_000_000_000])],
        ];
        for pair in ranks {
            let said = said(&adapter(&pair));
            assert!(said.contains("x.weight at") && said.contains("one rank of both"), "{said}");
        }
        let odd = [PAIR[0], PAIR[1], ("norm.weight", &[8])];
        assert!(said(&adapter(&odd)).contains("norm.weight: is a whole tensor"));
        let circle = [("x.lora_a.lora_a", &[4, 8][..]), ("x.lora_a.lora_b", &[6, 4])];
        assert!(said(&adapter(&circle)).contains("is a whole tensor"));
        for alpha in [f32::NAN, f32::INFINITY] {
            let mut model = adapter(&PAIR);
            model.metadata.set("adapter.lora.alpha", Value::F32(alpha));
            assert!(said(&model).contains("adapter.lora.alpha"));
        }
        let mut vector = adapter(&PAIR);
        vector.metadata.set("adapter.type", Value::String(b"control_vector".to_vec()));
        assert!(said(&vector).contains("is no LoRA adapter"));
        assert!(said(&Model::default()).contains("only a LoRA adapter"));
    }

    #[test]
    fn a_base_has_the_tensors_in_their_shapes() {
        let found = Adapter::of(&adapter(&PAIR)).unwrap();
        let base =
            |tensors: &[(&str, &[u64])]| Model { metadata: Default::default(), ..adapter(tensors) };
        let fitting = base(&[("y.weight", &[6, 8]), ("x.weight", &[6, 8])]);
        assert_eq!(found.fits(&fitting).unwrap(), [1]);
        let said = |base: &Model| found.fits(base).unwrap_err().to_string();
        assert!(
            said(&base(&[("x.weight", &[8, 6])]))
                .contains("x.weight is [6, 8], in the model it is [8, 6]")
        );
        assert!(
            said(&base(&[("y.weight", &[6, 8])]))
                .contains("x.weight [6, 8]: the model has no such")
        );
    }

    #[test]
    fn the_pair_of_an_embedding_is_turned() {
        let pair: [(&str, &[u64]); 2] =
            [("token_embd.weight.lora_a", &[9, 2]), ("token_embd.weight.lora_b", &[4, 2])];
        let mut model = adapter(&pair);
        let numbers = (0u8..8).flat_map(|n| f32::from(n).to_le_bytes());
        model.files = vec![Input::memory("x", numbers.collect())];
        let found = Adapter::of(&model).unwrap();
        let pair = &found.pairs[0];
        assert_eq!((pair.shape(), pair.rank()), ([9, 4], 2));
        let mut rows = Vec::new();
        super::super::weights::each(&model, &pair.a, 0..2, &mut |_, row| {
            rows.extend_from_slice(row);
            Ok(())
        })
        .unwrap();
        assert_eq!(rows, [0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]);
    }
}
