//! Sums that a file carries of its own stretches, compared with what is read of them.
//!
//! Rows are read in any order and by several threads. A CRC-32 can be put together from those of
//! neighbouring pieces, so each stretch keeps the sums of what was read of it, joined where they meet;
//! when a stretch has been read whole, its sum is compared. What was read in too many pieces, or in
//! part, is read again by [`Input::check_read`](super::Input::check_read).

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use crc32fast::Hasher;

/// A stretch of a file whose CRC-32 the file states.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Sum {
    /// What errors call it.
    pub name: String,
    /// Where it begins.
    pub at: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Its CRC-32 as the file states it.
    pub crc: u32,
}

/// Pieces of one stretch that are kept before it is left for later.
const MOST_PIECES: usize = 1 << 10;

/// The stretches of one file, in its order, and what has been read of each.
#[derive(Debug)]
pub(super) struct Sums(Vec<(Sum, Mutex<Progress>)>);

/// What has been read of a stretch.
///
/// ```text
/// stretch   |-------------------------------|
/// pieces      [a..b)        [c..d)              each with the CRC-32 of its bytes
/// read            [b......c)                    joins all three: crc(ab), crc(bc), crc(cd) -> crc(ad)
/// ```
#[derive(Debug, Default)]
struct Progress {
    /// From -> (to, sum) of what has been read.
    pieces: BTreeMap<u64, (u64, Hasher)>,
    /// It has been compared, or is left for later.
    state: State,
}

/// What is known of a stretch's sum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum State {
    #[default]
    Reading,
    Later,
    Compared,
}

impl Sums {
    pub(super) fn new(mut stretches: Vec<Sum>) -> Sums {
        stretches.sort_by_key(|sum| sum.at);
        Sums(stretches.into_iter().map(|sum| (sum, Mutex::default())).collect())
    }

    /// Takes in `bytes`, which were read at `at`: the first stretch whose sum is another, with the sum.
    pub(super) fn read(&self, at: u64, bytes: &[u8]) -> Option<(&Sum, u32)> {
        let end = at + bytes.len() as u64;
        let first = self.0.partition_point(|(sum, _)| sum.at + sum.len <= at);
        let touched = self.0.iter().skip(first).take_while(|(sum, _)| sum.at < end);
        let mut wrong = None;
        for (sum, progress) in touched {
            let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
            if progress.state != State::Reading {
                continue;
            }
            progress.add(sum.at.max(at), (sum.at + sum.len).min(end), at, bytes);
            let whole = match progress.pieces.first_key_value() {
                Some((from, (to, hasher))) if *from == sum.at && *to == sum.at + sum.len => {
                    Some(hasher.clone().finalize())
                }
                _ => None,
            };
            if let Some(found) = whole {
                (progress.state, progress.pieces) = (State::Compared, BTreeMap::new());
                if found != sum.crc {
                    wrong = wrong.or(Some((sum, found)));
                }
            }
        }
        wrong
    }

    /// The stretches that have not been compared.
    pub(super) fn left(&self) -> impl Iterator<Item = &Sum> {
        let left = |(sum, progress): &'_ &(Sum, Mutex<Progress>)| {
            let progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
            sum.len > 0 && progress.state != State::Compared
        };
        self.0.iter().filter(left).map(|(sum, _)| sum)
    }

    /// Forgets what was read of the stretch at `at`, to read it from its beginning.
    pub(super) fn restart(&self, at: u64) {
        for (_, progress) in self.0.iter().filter(|(sum, _)| sum.at == at) {
            *progress.lock().unwrap_or_else(PoisonError::into_inner) = Progress::default();
        }
    }
}

impl Progress {
    /// Takes in what is new of `from..to`; `bytes` begin at `at`.
    fn add(&mut self, from: u64, to: u64, at: u64, bytes: &[u8]) {
        let mut next = from;
        while next < to {
            // Over what is there already, then up to the piece after the gap.
            let before = self.pieces.range(..=next).next_back().map(|(_, (end, _))| *end);
            if let Some(end) = before.filter(|end| *end > next) {
                next = end;
                continue;
            }
            let stop = self.pieces.range(next..).next().map_or(to, |(start, _)| to.min(*start));
            let index = |n: u64| usize::try_from(n - at).unwrap_or(usize::MAX);
            let mut hasher = Hasher::new();
            hasher.update(bytes.get(index(next)..index(stop)).unwrap_or_default());
            self.pieces.insert(next, (stop, hasher));
            self.join(next);
            next = stop;
        }
        if self.pieces.len() > MOST_PIECES {
            (self.state, self.pieces) = (State::Later, BTreeMap::new());
        }
    }

    /// Joins the piece at `from` with those that it touches.
    fn join(&mut self, from: u64) {
        let Some((mut to, mut hasher)) = self.pieces.remove(&from) else { return };
        let mut from = from;
        if let Some((end, after)) = self.pieces.remove(&to) {
            hasher.combine(&after);
            to = end;
        }
        let before = self.pieces.range(..from).next_back().map(|(start, (end, _))| (*start, *end));
        if let Some((start, _)) = before.filter(|(_, end)| *end == from)
            && let Some((_, mut before)) = self.pieces.remove(&start)
        {
            before.combine(&hasher);
            (from, hasher) = (start, before);
        }
        self.pieces.insert(from, (to, hasher));
    }
}
