//! Rows of queries and keys that a converter left in an order that no program reads: each known fault is undone for a
//! trial, and a text tells which of the models makes most sense.
//!
//! Programs turn rows `2i` and `2i + 1` of a head together; Hugging Face keeps these half a head apart, and converters
//! bring them into pairs. A file in which that went wrong loads everywhere, and talks nonsense or only worse.
//!
//! ```text
//! fault        rows of a head of four, as Hugging Face counts them   undone by
//! none         0 2 1 3
//! halves       0 1 2 3                                               pairs from halves
//! twice        0 1 2 3 of pairs that were pairs before               halves from pairs
//! by N heads   as if all rows were N heads                           halves from pairs of these, pairs from halves
//! ```
//!
//! Whole rows are moved, so that quantized ones stay what they are, byte for byte. Of orders that cost about the same
//! none is called right, nor any of weights that know nothing. Orders are tried in all layers at once: of a single layer
//! of many a text of this length does not tell.

use super::prove::TEXT;
use crate::{
    bytes::Progress,
    error::{Error, Result},
    format::catalog,
    infer::{Perplexity, Session, Tokenizer, Want, Weights, perplexity::nats},
    model::{Model, Order, Sizes, Tensor, role::Role},
};

/// English that every model has read; behind the text of proofs, for it is short.
const MORE: &str = include_str!("../../../LICENSE");
/// Tokens that are read of it: few by all orders, and by those that are left as many as there are.
const ROUNDS: [usize; 2] = [64, 512];
/// Standard errors that the mean difference of two costs is from nothing, where it is no chance.
const CLEAR: f64 = 3.0;

/// How rows came to be where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slip {
    /// As they should.
    None,
    /// Never brought into pairs.
    Halves,
    /// Brought into pairs once more.
    Twice,
    /// Brought into pairs as if they were this number of heads.
    Heads(u64),
}

/// What went wrong with the rows of queries and with those of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fault {
    query: Slip,
    key: Slip,
}

/// What faults depend on: how many heads there are, and the rows of one.
#[derive(Clone, Copy, Debug)]
struct Heads {
    query: u64,
    key: u64,
    rows: u64,
}

/// A fault in the order of a model's rows, and what a text says of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Scrambled {
    /// Perplexity with rows as they are stored.
    pub stored: Perplexity,
    /// Perplexity with rows as they should be.
    pub right: Perplexity,
    fault: Fault,
    heads: Heads,
}

impl Slip {
    /// The orders that put `rows` rows of heads of `head` right; none where it cannot have happened to them.
    fn undone(self, rows: u64, head: u64) -> Option<Vec<Order>> {
        let turns = |n: &u64| *n > 0 && n.is_multiple_of(2) && rows.is_multiple_of(*n);
        let right = Some(head).filter(turns).map(|n| Order::PairsFromHalves { rows_per_head: n });
        Some(match self {
            Slip::None => Vec::new(),
            Slip::Halves => vec![right?],
            Slip::Twice => {
                vec![Order::HalvesFromPairs { rows_per_head: Some(head).filter(turns)? }]
            }
            Slip::Heads(heads) => {
                let taken = rows.checked_div(heads).filter(|n| n * heads == rows).filter(turns)?;
                vec![Order::HalvesFromPairs { rows_per_head: taken }, right?]
            }
        })
    }
}

impl Fault {
    /// What happened, as a sentence.
    fn words(self) -> String {
        let (whose, slip) = match (self.query, self.key) {
            (query, Slip::None) => ("queries", query),
            (Slip::None, key) => ("keys", key),
            (both, _) => ("queries and keys", both),
        };
        let how = match slip {
            Slip::None => "left as they were".to_owned(),
            Slip::Halves => "never brought into pairs".to_owned(),
            Slip::Twice => "brought into pairs twice".to_owned(),
            Slip::Heads(heads) => format!("brought into pairs as rows of {heads} heads"),
        };
        format!("rows of {whose} were {how}")
    }
}

impl Heads {
    /// Those of a model whose rows converters bring into pairs.
    fn of(model: &Model) -> Option<Heads> {
        let turned =
            |id| catalog::family(&model.family)?.roles.get(id).filter(|names| names.rotary);
        let (Some(_), Some(_)) = (turned("query"), turned("key")) else { return None };
        let sizes = Sizes::of(model);
        let [query, key, rows] = ["n_head", "n_head_kv", "head"].map(|symbol| sizes.get(symbol));
        Some(Heads { query: query?, key: key?, rows: rows? })
    }

    /// The faults that one slip of a converter makes, once where several move the same rows.
    fn faults(self) -> Vec<Fault> {
        let Heads { query: heads, key, rows } = self;
        // What convert.py did in August 2023 (`change::prepare`): the queries of a key were taken for the keys.
        let shared = heads.checked_div(key).unwrap_or(0);
        let moved = |slip: Slip, heads: u64| -> Option<Vec<u64>> {
            let orders = slip.undone(heads * rows, rows)?;
            let source =
                |row| orders.iter().rev().fold(row, |row, order: &Order| order.source(row));
            Some((0..heads * rows).map(source).collect())
        };
        let mut seen = vec![(moved(Slip::None, heads), moved(Slip::None, key))];
        let mut new = |fault: &Fault| {
            let rows = (moved(fault.query, heads), moved(fault.key, key));
            let new = rows.0.is_some() && rows.1.is_some() && !seen.contains(&rows);
            seen.push(rows);
            new
        };
        let all = [
            (Slip::Halves, Slip::Halves),
            (Slip::Halves, Slip::None),
            (Slip::None, Slip::Halves),
            (Slip::Twice, Slip::Twice),
            (Slip::Twice, Slip::None),
            (Slip::None, Slip::Twice),
            (Slip::None, Slip::Heads(heads)),
            (Slip::None, Slip::Heads(shared)),
            (Slip::Heads(key), Slip::None),
        ];
        all.map(|(query, key)| Fault { query, key }).into_iter().filter(|f| new(f)).collect()
    }

    /// Puts rows right that have this fault.
    fn undo(self, model: &mut Model, fault: Fault) -> Result<()> {
        let family = catalog::family(&model.family);
        for tensor in &mut model.tensors {
            let role = family.and_then(|family| Role::find(family, &tensor.name));
            let slip = match role.map(|(_, role)| role.id) {
                Some("query") => fault.query,
                Some("key") => fault.key,
                _ => Slip::None,
            };
            let orders = slip.undone(tensor.shape.first().copied().unwrap_or(0), self.rows);
            let Some(orders) = orders.filter(|orders| orders.is_empty() || is_by_rows(tensor))
            else {
                let what = format!("{}: its rows cannot be moved", tensor.name);
                return Err(Error::unsupported(what, "convert it to another type first"));
            };
            tensor.orders.extend(orders);
        }
        Ok(())
    }
}

/// Whether each row of a matrix is coded by itself.
fn is_by_rows(tensor: &Tensor) -> bool {
    tensor.shape.len() == 2
        && tensor.fold == 1
        && tensor.span.is_none()
        && tensor.quant.row_group() == 1
}

/// Rows put right as for a fault, or left as they are, and what each token of a text costs then, in nats.
struct Trial {
    fault: Option<Fault>,
    costs: Vec<f64>,
}

impl Scrambled {
    /// The fault that `model` has, found by running it over a text in every order that a fault explains.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where converters leave rows of its family alone, or it cannot be run;
    /// [`Error::Refused`] where rows are in order, or the text does not tell which order is right.
    pub fn find(model: &Model, progress: &dyn Progress) -> Result<Scrambled> {
        let Some(heads) = Heads::of(model) else {
            let what =
                "rows of queries and keys: converters leave those of this family as they are";
            return Err(Error::unsupported(what, "there is nothing to put right"));
        };
        let tokenizer = Tokenizer::of(model)?;
        let text = tokenizer.read(&tokenizer.sample(&format!("{TEXT}\n\n{MORE}")))?;
        let mut left: Vec<Option<Fault>> = heads.faults().into_iter().map(Some).collect();
        let mut trials = Vec::new();
        for most in ROUNDS {
            let tokens = text.get(..most).unwrap_or(&text);
            // As stored is always told beside what is better.
            left.push(None);
            progress.total(left.len() as u64 * model.data_bytes());
            trials = left
                .drain(..)
                .map(|fault| Trial::of(model, heads, fault, tokens, progress))
                .collect::<Result<_>>()?;
            trials.sort_by(|a: &Trial, b| a.mean().total_cmp(&b.mean()));
            let close = close(&trials);
            if close.is_empty() {
                break;
            }
            let best = trials.first().into_iter();
            left = best.chain(close).filter_map(|trial| trial.fault).map(Some).collect();
        }
        verdict(&trials, heads, tokenizer.len())
    }

    /// Puts the rows of `model` right: of the one that was asked about, under whatever names.
    ///
    /// # Errors
    /// Where rows are coded so that none can be moved by itself.
    pub fn undo(&self, model: &mut Model) -> Result<()> {
        self.heads.undo(model, self.fault)
    }

    /// What was found, and what showed it.
    pub fn told(&self) -> String {
        let (stored, right) = (self.stored.value, self.right.value);
        let fault = self.fault.words();
        format!("evidence: perplexity {stored:.3} as stored, {right:.3} put right: {fault}")
    }
}

/// Those behind the first that do not cost clearly more.
fn close(trials: &[Trial]) -> Vec<&Trial> {
    let Some((best, rest)) = trials.split_first() else { return Vec::new() };
    rest.iter().filter(|other| !best.is_clearly_below(other)).collect()
}

/// What the trials show, the best of them first.
fn verdict(trials: &[Trial], heads: Heads, vocab: usize) -> Result<Scrambled> {
    let best = trials.first();
    let stored = trials.iter().find(|trial| trial.fault.is_none());
    let (Some(best), Some(stored)) = (best, stored) else {
        return Err(Error::unsupported("no order of rows was tried", ""));
    };
    let perplexity = |trial: &Trial| Perplexity::of(&trial.costs);
    let (right, as_stored) = (perplexity(best), perplexity(stored));
    // What a model that knows nothing guesses among.
    let knows = right.value + CLEAR * right.error < vocab as f64;
    if knows && close(trials).is_empty() {
        if let Some(fault) = best.fault {
            return Ok(Scrambled { stored: as_stored, right, fault, heads });
        }
        let what = format!(
            "rows of queries and keys are in order: perplexity {:.3} as stored, more in every other order",
            as_stored.value
        );
        return Err(Error::refused(what, "leave them as they are"));
    }
    let other = trials.iter().find_map(|trial| Some((perplexity(trial), trial.fault?)));
    let other = other.map(|(found, fault)| format!(", {:.3} if {}", found.value, fault.words()));
    let what = format!(
        "cannot tell whether rows of queries and keys are in order: perplexity {:.3} as stored{}",
        as_stored.value,
        other.unwrap_or_default()
    );
    Err(Error::refused(what, "leave them as they are, or convert the original checkpoint again"))
}

impl Trial {
    /// Runs `model` with rows put right as for `fault`.
    fn of(
        model: &Model,
        heads: Heads,
        fault: Option<Fault>,
        tokens: &[u32],
        progress: &dyn Progress,
    ) -> Result<Trial> {
        let mut model = model.clone();
        fault.map_or(Ok(()), |fault| heads.undo(&mut model, fault))?;
        let weights = Weights::new(&model)?;
        let mut costs = Vec::new();
        let mut session = Session::new(&weights, tokens.len()).heard(progress);
        session.read(tokens, Want::All, |at, logits| {
            costs.extend(tokens.get(at + 1).map(|next| nats(logits, *next)));
        })?;
        Ok(Trial { fault, costs })
    }

    /// What a token costs.
    fn mean(&self) -> f64 {
        mean(&self.costs)
    }

    /// Whether tokens cost less than in `other` beyond chance: of the differences token by token, the mean is more than
    /// some of its standard errors.
    fn is_clearly_below(&self, other: &Trial) -> bool {
        let more: Vec<f64> = other.costs.iter().zip(&self.costs).map(|(a, b)| a - b).collect();
        let (n, mean) = (more.len() as f64, mean(&more));
        let variance = more.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0);
        mean > CLEAR * (variance / n).sqrt()
    }
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}
