//! The numbers of a model by symbol: stated, or following from others and from the shapes of tensors.
//!
//! ```text
//! n_ff = { key = "feed_forward_length", config = ["intermediate_size"], from = [{ rows = "gate" }, ..] }
//!
//! stated    a header word, a key of GGUF or a field of config.json: [`Facts`] knows which there are
//! from      rows or columns of a role's tensor; a sum, a product, a share of other symbols; a rule
//! ```

use std::collections::BTreeMap;

use super::{FeedForward, Model, Naming, Role, Value};
use crate::format::{
    arithmetic::Attention,
    catalog,
    family::{Family, Kind, Names, Origin, Size, Term},
};

/// The numbers of a model by the symbols of its family.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sizes(BTreeMap<&'static str, Known>);

/// A number and whence it comes.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    value: Value,
    stated: bool,
}

/// What is known of a model before its sizes are.
///
/// Three kinds of source answer it: a model file ([`Sizes::of`]), a `config.json` with the shapes beside it, and
/// numbers that somebody gives ([`Sizes::with`]).
pub trait Facts {
    /// What is stated for a symbol: by a header word, a key of GGUF or of `config.json`.
    fn stated(&self, symbol: &str, size: &Size) -> Option<Value>;
    /// The shape of a role's tensor, in the first layer where every layer has one.
    fn shape(&self, names: &'static Names) -> Option<Vec<u64>>;
    /// The number of layers that have tensors.
    fn layers(&self) -> Option<u64>;
    /// A header word.
    fn word(&self, name: &str) -> Option<u64>;
}

impl Sizes {
    /// The sizes of `model`; none where no family describes it.
    pub fn of(model: &Model) -> Sizes {
        catalog::family(&model.family)
            .map_or_else(Sizes::default, |family| Sizes::within(family, model))
    }

    /// What the layers of a model of these sizes feed forward through.
    pub fn feed_forward(&self) -> FeedForward {
        match self.get("n_expert") {
            None | Some(0) => FeedForward::Dense,
            Some(_) => FeedForward::Experts,
        }
    }

    /// The sizes of `model`, which is of `family`.
    pub fn within(family: &'static Family, model: &Model) -> Sizes {
        Sizes::from(family, &OfModel { family, model })
    }

    /// What follows from these, which are stated.
    pub fn with(family: &'static Family, stated: &[(&str, u64)]) -> Sizes {
        Sizes::from(family, &Given(stated))
    }

    /// The sizes that follow from `facts`.
    pub fn from(family: &'static Family, facts: &dyn Facts) -> Sizes {
        let search = Search { family, facts };
        let known = |symbol: &'static String| Some((symbol.as_str(), search.known(symbol)?));
        Sizes(family.sizes.keys().filter_map(known).collect())
    }

    /// A whole number.
    pub fn get(&self, symbol: &str) -> Option<u64> {
        self.value(symbol)?.as_u64()
    }

    /// A float.
    #[expect(clippy::cast_possible_truncation, reason = "rounded, as readers do")]
    pub fn f32(&self, symbol: &str) -> Option<f32> {
        self.value(symbol)?.as_f64().map(|v| v as f32)
    }

    /// True or false.
    pub fn flag(&self, symbol: &str) -> Option<bool> {
        self.value(symbol)?.as_bool()
    }

    /// A number of any kind.
    pub fn value(&self, symbol: &str) -> Option<&Value> {
        self.0.get(symbol).map(|known| &known.value)
    }

    /// Whether a number is stated, and does not only follow from others.
    pub fn is_stated(&self, symbol: &str) -> bool {
        self.0.get(symbol).is_some_and(|known| known.stated)
    }

    /// The number whose root scores are divided by, in families where it is not always the length of a head.
    pub fn score_divisor(&self, attention: &Attention) -> Option<u64> {
        let layers = u64::try_from(attention.scale_of_width?).ok();
        match self.get("n_layer") == layers {
            true => self.get("n_embd")?.checked_div(self.get("n_head")?),
            false => self.get("head"),
        }
    }

    /// The symbols that are known.
    pub fn symbols(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }

    /// States a number; what follows from it does not change.
    pub fn set(&mut self, symbol: &'static str, value: impl Into<Value>) {
        self.0.insert(symbol, Known { value: value.into(), stated: true });
    }
}

/// What a model file says.
struct OfModel<'a> {
    family: &'static Family,
    model: &'a Model,
}

impl Facts for OfModel<'_> {
    fn stated(&self, _: &str, size: &Size) -> Option<Value> {
        if let Some(word) = size.word.iter().find_map(|word| self.model.header(word)) {
            return of_word(size.kind, word);
        }
        let value = self.model.metadata.get(&size.gguf_key(self.family.architecture())?)?;
        of_kind(size.kind, value)
    }

    fn shape(&self, names: &'static Names) -> Option<Vec<u64>> {
        let role = Role::first(names);
        let tensor = Naming::ALL.into_iter().find_map(|naming| role.tensor(self.model, naming));
        tensor.map(|tensor| tensor.shape.clone())
    }

    fn layers(&self) -> Option<u64> {
        let layer = |name: &str| Role::find(self.family, name)?.1.layer;
        self.model.tensors.iter().filter_map(|t| layer(&t.name)).max()?.checked_add(1)
    }

    fn word(&self, name: &str) -> Option<u64> {
        self.model.header(name)?.try_into().ok()
    }
}

/// Whether a number is zero, or a flag false.
fn is_none(value: &Value) -> bool {
    value.as_f64() == Some(0.0) || value.as_bool() == Some(false)
}

/// Numbers that somebody states.
struct Given<'a>(&'a [(&'a str, u64)]);

impl Facts for Given<'_> {
    fn stated(&self, symbol: &str, _: &Size) -> Option<Value> {
        self.0.iter().find(|(known, _)| *known == symbol).map(|(_, value)| Value::U64(*value))
    }

    fn shape(&self, _: &'static Names) -> Option<Vec<u64>> {
        None
    }

    fn layers(&self) -> Option<u64> {
        None
    }

    fn word(&self, _: &str) -> Option<u64> {
        None
    }
}

/// A header word as what it means; a float is there as its bits.
fn of_word(kind: Kind, word: i64) -> Option<Value> {
    match kind {
        Kind::Whole => u64::try_from(word).ok().map(Value::U64),
        Kind::Float => u32::try_from(word).ok().map(|bits| Value::F32(f32::from_bits(bits))),
        Kind::Flag => Some(Value::Bool(word != 0)),
    }
}

/// A number as a header word: of a float its bits; none where it does not fit.
pub(crate) fn as_word(value: &Value) -> Option<i64> {
    match value {
        Value::F32(number) => Some(number.to_bits().into()),
        Value::Bool(flag) => Some((*flag).into()),
        whole => whole.as_u64()?.try_into().ok(),
    }
}

/// A key's value as what it means; none where it is something else.
#[expect(clippy::cast_possible_truncation, reason = "rounded, as readers do")]
pub(crate) fn of_kind(kind: Kind, value: &Value) -> Option<Value> {
    match kind {
        Kind::Whole => value.as_u64().map(Value::U64),
        Kind::Float => value.as_f64().map(|v| Value::F32(v as f32)),
        Kind::Flag => value.as_bool().map(Value::Bool),
    }
}

/// One search for the numbers of a model:
///
/// ```text
/// known(symbol)      measured:  what follows from shapes, else what is stated
///                    others:    what is stated, else what follows
/// follow(origin)     from shapes, or from known(..) of other symbols, and so on down
/// ```
///
/// Of several origins the first counts that gives a number. A step that does not fit (a division by zero, a sum
/// beyond 64 bits, a tensor that is not there) gives none, and the next origin is tried.
struct Search<'a> {
    family: &'static Family,
    facts: &'a dyn Facts,
}

impl Search<'_> {
    /// What is stated of a symbol, or follows; a zero counts as not stated where it can mean nothing.
    fn known(&self, symbol: &str) -> Option<Known> {
        let size = self.family.sizes.get(symbol)?;
        let follows = || size.from.iter().find_map(|origin| self.follow(origin));
        if size.measured
            && let Some(value) = follows()
        {
            return Some(Known { value, stated: false });
        }
        let stated = self.facts.stated(symbol, size);
        let stated = stated.filter(|value| !size.nonzero || !is_none(value));
        Some(match stated {
            Some(value) => Known { value, stated: true },
            None => Known { value: follows()?, stated: false },
        })
    }

    /// What is stated for a symbol.
    fn stated(&self, symbol: &str) -> Option<Value> {
        self.facts.stated(symbol, self.family.sizes.get(symbol)?)
    }

    /// A stated number as the decimal that a person wrote: 1.4, not the float nearest to it.
    fn decimal(&self, symbol: &str) -> Option<f64> {
        self.stated(symbol)?.to_string().parse().ok()
    }

    /// A whole number that is stated or follows.
    fn number(&self, symbol: &str) -> Option<u64> {
        self.known(symbol)?.value.as_u64()
    }

    /// A number as it is written in a description, or that of a symbol.
    fn term(&self, term: &Term) -> Option<u64> {
        match term {
            Term::Number(number) => Some(*number),
            Term::Symbol(symbol) => self.number(symbol),
        }
    }

    /// The shape of a role's tensor.
    fn shape(&self, role: &str) -> Option<Vec<u64>> {
        self.facts.shape(self.family.roles.get(role)?)
    }

    /// What follows from one origin.
    ///
    /// ```text
    /// { rows = "gate" }                     shape [11008, 4096] of the gate      11008
    /// { quotient = ["n_embd", "n_head"] }   4096 / 32                            128
    /// ```
    fn follow(&self, origin: &Origin) -> Option<Value> {
        let number = match origin {
            Origin::Rows(role) => self.shape(role)?.first().copied(),
            Origin::Columns(role) => self.shape(role)?.last().copied(),
            Origin::RowsPer(role, symbol) => {
                self.shape(role)?.first()?.checked_div(self.number(symbol)?)
            }
            Origin::Layers => self.facts.layers(),
            Origin::Product(terms) => {
                terms.iter().try_fold(1u64, |all, term| all.checked_mul(self.term(term)?))
            }
            Origin::Sum(terms) => {
                terms.iter().try_fold(0u64, |all, term| all.checked_add(self.term(term)?))
            }
            Origin::Less(a, b) => self.term(a)?.checked_sub(self.term(b)?),
            Origin::Quotient(a, b) => self.term(a)?.checked_div(self.term(b)?),
            Origin::Fraction(a, b) => {
                let fraction = self.term(a)? as f64 / self.term(b)? as f64;
                return of_kind(Kind::Float, &Value::F64(fraction))
                    .filter(|_| fraction.is_finite());
            }
            Origin::OverRoot(a, b) => {
                let over = self.decimal(a)? / (self.number(b)? as f64).sqrt();
                return of_kind(Kind::Float, &Value::F64(over)).filter(|_| over.is_finite());
            }
            Origin::TimesRoot(a, b) => {
                let Value::F32(wanted) = self.stated(a)? else { return None };
                let root = (self.number(b)? as f64).sqrt();
                // The shortest decimal whose quotient rounds to what is stated: that is what a person wrote.
                let near = f64::from(wanted) * root;
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "rounded, as the converter does"
                )]
                let fits = |number: &f64| (number / root) as f32 == wanted;
                let decimals = (0..9).map(|n| format!("{near:.n$}").parse().unwrap_or(near));
                let shortest = decimals.filter(|number| number.is_finite()).find(fits);
                return of_kind(Kind::Float, &Value::F64(shortest?));
            }
            Origin::Over(a, b) => {
                let over = self.term(a)? as f64 / self.stated(b)?.as_f64()?;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a whole number above 0; out of range, the nearest is taken"
                )]
                Some(over.round() as u64).filter(|whole| *whole > 0)
            }
            Origin::Share(share, whole) => {
                // As the decimal that a person wrote: 0.4 of 80 is 32.
                let share = self.known(share)?.value.to_string().parse::<f64>().ok()?;
                let part = share * self.number(whole)? as f64;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "rounded down, as transformers does; out of range, the nearest is taken"
                )]
                Some(part as u64).filter(|part| *part > 0)
            }
            Origin::Ratio(part, whole) => {
                let part = self.facts.stated(part, self.family.sizes.get(part)?)?.as_f64()?;
                let ratio = part / self.number(whole)? as f64;
                return of_kind(Kind::Float, &Value::F64(ratio)).filter(|_| ratio.is_finite());
            }
            Origin::Same(symbol) => return Some(self.known(symbol)?.value),
            Origin::Differ(a, b) => {
                return Some(Value::Bool(self.known(a)?.value != self.known(b)?.value));
            }
            Origin::With(role, with, without) => {
                Some(if self.shape(role).is_some() { *with } else { *without })
            }
            Origin::Rule(name) => RULES.iter().find(|(known, _)| known == name)?.1(self),
        };
        number.map(Value::U64)
    }
}

/// A rule and its name in descriptions.
type Rule = (&'static str, fn(&Search) -> Option<u64>);

/// What some numbers follow from that no description can say.
const RULES: [Rule; 3] = [
    ("eight-thirds-rounded-up", feed_forward),
    ("multiple-rounded-up-to", feed_forward_multiple),
    ("joined-key-heads", joined_key_heads),
];

/// The key heads in a matrix that holds queries, keys and values.
/// Falcon 7B: 4672 rows of heads of 64 are 73: 71 queries, one key, one value.
fn joined_key_heads(search: &Search) -> Option<u64> {
    // rows / head = queries + keys + values, and as many keys as values.
    let head = search.number("head").filter(|head| *head > 0)?;
    let heads = search.shape("query_key_value")?.first()?.checked_div(head)?;
    heads.checked_sub(search.number("n_head")?).map(|rest| rest / 2).filter(|heads| *heads > 0)
}

/// Meta's rule: two thirds of four times the width, rounded up to a multiple of `n_mult`.
///
/// `ceil((8 * width / 3) / multiple) * multiple`, the division by 3 cut to a whole number; none beyond 64 bits.
fn rounded_up(width: u64, multiple: u64) -> Option<u64> {
    (width.checked_mul(8)? / 3).checked_next_multiple_of(multiple)
}

/// The feed-forward width by Meta's rule, for files without tensors.
fn feed_forward(search: &Search) -> Option<u64> {
    let multiple = search.facts.word("n_mult").filter(|multiple| *multiple > 0)?;
    rounded_up(search.number("n_embd")?, multiple)
}

/// `n_mult`, from which old loaders compute the feed-forward width; 256 is LLaMA's own.
///
/// Several multiples may give one width: the header's own is tried first, then 256, then the largest.
///
/// ```text
/// width 4096, n_ff 11008     8 · 4096 / 3 = 10922, up to a multiple of 256     11008
/// ```
fn feed_forward_multiple(search: &Search) -> Option<u64> {
    let (width, n_ff) = (search.number("n_embd")?, search.number("n_ff")?);
    let likely = search.facts.word("n_mult").into_iter().chain([256]);
    let fits = |multiple: &u64| *multiple > 0 && rounded_up(width, *multiple) == Some(n_ff);
    likely.chain((1..8192).rev()).find(fits)
}

impl Role {
    /// Its expected shape, outermost dimension first; none where a symbol is not known.
    pub fn shape(&self, sizes: &Sizes) -> Option<Vec<u64>> {
        let dimensions = if self.bias { 1 } else { self.names.shape.len() };
        self.names.shape.iter().take(dimensions).map(|name| sizes.get(name)).collect()
    }
}
