//! Which models of a batch one machine of several takes.
//!
//! The largest model goes to the machine that has least so far (longest processing time first). Only
//! names and sizes decide, so every machine that sees the same tree comes to the same split, without
//! talking to the others.

use std::{cmp::Reverse, collections::BinaryHeap, fmt, str::FromStr};

use crate::error::Error;

/// One of `count` machines, numbered from 0 as array jobs and indexed jobs number theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shard {
    index: usize,
    count: usize,
}

impl fmt::Display for Shard {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || {
            let what = format!("share {text}: wanted i/n with i from 0 to n-1, as 0/4");
            Error::usage(what)
        };
        let (index, count) = text.split_once('/').ok_or_else(wrong)?;
        let index = index.trim().parse().map_err(|_| wrong())?;
        let count = count.trim().parse().map_err(|_| wrong())?;
        if index < count { Ok(Self { index, count }) } else { Err(wrong()) }
    }
}

impl Shard {
    /// Which of the machines this is.
    pub fn index(self) -> usize {
        self.index
    }

    /// How many machines there are.
    pub fn count(self) -> usize {
        self.count
    }

    /// All of as many machines.
    pub fn all(count: usize) -> impl Iterator<Item = Shard> {
        (0..count).map(move |index| Shard { index, count })
    }

    /// For every item, given by name and size, whether it falls to this machine.
    ///
    /// ```text
    /// sizes 8 7 6 5 4, two machines      8: first (8)   7: second (7)   6: second (13)   5: first (13)   4: first (17)
    /// ```
    ///
    /// The most loaded machine has at most a third more than in the best split (Graham, 1969). Of equal sizes the name
    /// decides, so the order of a folder's listing does not matter; no table of machines is kept, so their number may
    /// be any.
    pub fn takes(self, items: &[(&str, u64)]) -> Vec<bool> {
        let mut order: Vec<(usize, &str, u64)> =
            items.iter().enumerate().map(|(i, &(name, size))| (i, name, size)).collect();
        order.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| a.1.cmp(b.1)));
        // Machines that have something already, the lightest first; those from `idle` on have nothing.
        let mut loads = BinaryHeap::new();
        let mut idle = 0;
        let mut takes = vec![false; items.len()];
        for (i, _, size) in order {
            let (load, machine) = if idle < self.count {
                idle += 1;
                (0, idle - 1)
            } else {
                let Some(Reverse(lightest)) = loads.pop() else { break };
                lightest
            };
            // A model of no bytes still costs a start.
            loads.push(Reverse((size.max(1).saturating_add(load), machine)));
            if let Some(take) = takes.get_mut(i) {
                *take = machine == self.index;
            }
        }
        takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_falls_to_exactly_one_machine() {
        let names: Vec<String> = (0..57).map(|i| format!("m{i}")).collect();
        let items: Vec<(&str, u64)> =
            names.iter().zip(0u64..).map(|(n, i)| (n.as_str(), i * i % 31)).collect();
        for count in 1..9 {
            let mut taken = vec![0; items.len()];
            for index in 0..count {
                let takes = Shard { index, count }.takes(&items);
                taken.iter_mut().zip(takes).for_each(|(n, take)| *n += u32::from(take));
            }
            assert!(taken.iter().all(|n| *n == 1), "{count}");
        }
    }

    #[test]
    fn the_order_of_the_listing_does_not_matter() {
        let items = [("a", 5), ("b", 5), ("c", 9), ("d", 1)];
        let mut reversed = items;
        reversed.reverse();
        for index in 0..2 {
            let shard = Shard { index, count: 2 };
            let mut takes = shard.takes(&reversed);
            takes.reverse();
            assert_eq!(shard.takes(&items), takes);
        }
    }

    #[test]
    fn machines_without_number_cost_nothing() {
        let count = 100_000_000_000;
        let shard = |index| Shard { index, count }.takes(&[("a", 5), ("b", 6)]);
        assert_eq!(shard(0), [false, true]);
        assert_eq!(shard(1), [true, false]);
        assert_eq!(shard(count - 1), [false, false]);
    }

    #[test]
    fn loads_are_even() {
        let items = [("a", 8), ("b", 7), ("c", 6), ("d", 5), ("e", 4)];
        let load = |index| -> u64 {
            let takes = Shard { index, count: 2 }.takes(&items);
            items.iter().zip(takes).filter(|(_, take)| *take).map(|((_, size), _)| size).sum()
        };
        assert_eq!((load(0), load(1)), (17, 13));
    }

    #[test]
    fn words_are_checked() {
        assert_eq!("1/4".parse::<Shard>().ok(), Some(Shard { index: 1, count: 4 }));
        for wrong in ["4/4", "1", "a/b", "-1/2", "0/0", ""] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
