//! Pickles read as data: a stack machine that copies values and never calls anything.
//!
//! A pickle is a program for a small stack machine. The pass here runs it without its dangerous half:
//! it keeps the *bytes* of each value and writes a second pickle, free of memo, globals and calls,
//! which `serde_pickle` then turns into values ([`super::Node`]). The first pass bounds depth, bytes,
//! values and steps, which `serde_pickle` alone does not, and knows where the pickle ends, which the
//! storages of torch's old layout depend on.
//!
//! | in the file | in the normalised pickle |
//! |---|---|
//! | a global `m n` of `globals::ALLOWED` | the text `m.n` |
//! | any other global | an error with its name and offset |
//! | a call `f(args)` | the tuple `(f, args)` |
//! | `collections.OrderedDict()`, `collections.defaultdict(…)` | an empty dict |
//! | a persistent id | the 1-tuple of it |
//! | state put on a module or a namespace (`BUILD`) | the pair of both |
//! | state put on any other object | left out |
//! | a value taken from the memo | its bytes again; lists and dicts are refused, for they could change |
//! | an integer beyond 64 bits | the text `int:` and its bytes in hex |
//!
//! What bounds it, for a pickle is a program and a short one may run long: 64 containers in each other, 2^23 opcodes,
//! 2^19 values, 32 MB of output and memo, and no more than 256 bytes of these for each byte that was read.

mod literals;

use std::collections::HashMap;

use super::{
    globals::{self, MODULES, NAMESPACE},
    node::Node,
};
use crate::{
    bytes::Source,
    error::{Error, Result},
};

/// Nesting of containers.
const DEPTH: u16 = 64;
/// Bytes ever written to the normalised pickle and the memo.
const WORK: usize = 32 << 20;
/// The same for each byte of the pickle read so far, beside [`FREE`]: a file of many small pickles
/// takes time by its length and not by their number.
const GROWTH: u64 = 256;
/// What a pickle of any length may write.
const FREE: u64 = 4096;
/// Values ever written, copies from the memo included.
const VALUES: usize = 1 << 19;
/// Opcodes.
const STEPS: u64 = 1 << 23;

/// A value on the stack: its bytes are `out[start..]` up to the next value's start.
#[derive(Clone, Copy)]
struct Item {
    /// Where its bytes begin in [`Machine::out`].
    start: usize,
    kind: Kind,
    /// Containers in each other, itself counted; 0 of what is none.
    depth: u16,
}

/// What a value is to those that come later.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A value that nothing later can change.
    Fixed,
    /// A list or dict, which later opcodes may fill.
    Open,
    /// The name of a global.
    Global,
}

/// What the memo holds: the bytes of a fixed value, or that there was an open one.
enum Memo {
    Fixed { bytes: Box<[u8]>, kind: Kind, depth: u16, values: usize },
    Open,
}

/// The state of the stack machine: what was read, what was written, and where each value on the stack begins in that.
struct Machine<'a> {
    source: &'a Source<'a>,
    start: u64,
    /// Offset of the next byte.
    at: u64,
    /// Where it must have ended.
    end: u64,
    /// Offset of the opcode being run, for errors.
    op_at: u64,
    /// The normalised pickle so far: bytes of all values on the stack, one behind the other, and marks between them.
    out: Vec<u8>,
    /// Values, the lowest first.
    stack: Vec<Item>,
    /// Of each open mark how many values were on the stack when it was put there.
    marks: Vec<usize>,
    /// Values that may be asked for again, by number.
    memo: HashMap<u64, Memo>,
    /// Bytes written and remembered so far, which [`WORK`] and [`GROWTH`] bound.
    work: usize,
    /// Values written so far, which [`VALUES`] bounds.
    values: usize,
}

/// Reads the pickle at `at`, which must end before `end`; returns its value and where it ended.
///
/// # Errors
/// [`Error::Malformed`] naming the opcode's offset; a global beyond `globals::ALLOWED` is named.
pub fn read(source: &Source, at: u64, end: u64) -> Result<(Node, u64)> {
    let mut machine = Machine {
        source,
        start: at,
        at,
        end,
        op_at: at,
        out: vec![0x80, 2],
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        work: 0,
        values: 0,
    };
    for _ in 0..STEPS {
        if machine.step()? {
            machine.out.push(b'.');
            let node = serde_pickle::from_slice(&machine.out, serde_pickle::DeOptions::new())
                .map_err(|e| source.malformed(at, "pickle", e, "a pickle of plain data"))?;
            return Ok((node, machine.at));
        }
    }
    Err(source.malformed(at, "pickle", "more", format!("at most {STEPS} opcodes")))
}

impl Machine<'_> {
    /// Runs one opcode; true at the end of the pickle.
    fn step(&mut self) -> Result<bool> {
        self.op_at = self.at;
        let op = self.byte()?;
        // Names are those of Python's pickletools.
        //
        //     PROTO FRAME STOP       0x80 0x95 .      MARK POP_MARK POP      ( 1 0
        //     constants              N 0x88 0x89      empty containers       ) ] }
        //     TUPLE1 to 3, TUPLE     0x85 to 0x87 t   LIST DICT              l d
        //     APPEND SETITEM         a s              APPENDS SETITEMS       e u
        //     GLOBAL STACK_GLOBAL    c 0x93           PUT, MEMOIZE; GET      q r p 0x94; h j g
        //     BINPERSID              Q                REDUCE NEWOBJ BUILD    R 0x81 b
        //     integers               K M J 0x8a 0x8b I L      floats         G F
        //     texts and bytes        X 0x8c 0x8d T U B C 0x8e
        match op {
            0x80 => {
                let version = self.byte()?;
                if version > 5 {
                    return Err(self.bad(format!("protocol {version}"), "protocol 0 to 5"));
                }
            }
            0x95 => {
                self.le(8)?;
            }
            b'.' => {
                if self.stack.len() != 1 || !self.marks.is_empty() {
                    let found = format!("{} values at the end", self.stack.len());
                    return Err(self.bad(found, "one value"));
                }
                return Ok(true);
            }
            b'(' => {
                self.marks.push(self.stack.len());
                self.emit(b"(")?;
            }
            b'1' => {
                let (from, _) = self.since_mark()?;
                self.cut(from)?;
                self.out.pop();
            }
            b'0' => {
                let last = self.reach(1)?;
                self.cut(last)?;
            }
            b'N' | 0x88 | 0x89 => self.push(&[op], Kind::Fixed, 0)?,
            b')' => self.push(b")", Kind::Fixed, 1)?,
            b']' | b'}' => self.push(&[op], Kind::Open, 1)?,
            b'K' | b'M' | b'J' | 0x8a | 0x8b | b'I' | b'L' => self.integer(op)?,
            b'G' | b'F' => self.float(op)?,
            b'X' | 0x8c | 0x8d | b'T' | b'U' | b'B' | b'C' | 0x8e => self.text(op)?,
            0x85..=0x87 => {
                let from = self.reach(usize::from(op - 0x84))?;
                self.close(from, &[op], Kind::Fixed)?;
            }
            b't' => {
                let (from, _) = self.since_mark()?;
                if from == self.stack.len() {
                    self.out.pop();
                    self.push(b")", Kind::Fixed, 1)?;
                } else {
                    // `(` was written when the mark came: with items behind it, it is this value's first byte.
                    // The mark before the items belongs to the tuple.
                    self.close(from, b"t", Kind::Fixed)?;
                    self.own_mark();
                }
            }
            b'l' | b'd' => {
                let (from, n) = self.since_mark()?;
                if op == b'd' && n % 2 != 0 {
                    return Err(self.bad("a key without a value", "keys and values in pairs"));
                }
                if n == 0 {
                    self.out.pop();
                    self.push(if op == b'l' { b"]" } else { b"}" }, Kind::Open, 1)?;
                } else {
                    self.close(from, &[op], Kind::Open)?;
                    self.own_mark();
                }
            }
            b'a' | b's' => {
                let container = self.reach(if op == b'a' { 2 } else { 3 })?;
                self.fill(container + 1, op)?;
            }
            b'e' | b'u' => {
                let (from, n) = self.since_mark()?;
                if op == b'u' && n % 2 != 0 {
                    return Err(self.bad("a key without a value", "keys and values in pairs"));
                }
                if from <= self.floor() {
                    return Err(self.bad("an empty stack", "a container"));
                }
                self.fill(from, op)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(&module, &name)?;
            }
            0x93 => {
                let name = self.pop_text()?;
                let module = self.pop_text()?;
                self.global(&module, &name)?;
            }
            b'q' => {
                let id = self.byte()?.into();
                self.put(id)?;
            }
            b'r' => {
                let id = self.le(4)?;
                self.put(id)?;
            }
            b'p' => {
                let id = self.line_number()?;
                self.put(id)?;
            }
            0x94 => self.put(self.memo.len() as u64)?,
            b'h' => {
                let id = self.byte()?.into();
                self.get(id)?;
            }
            b'j' => {
                let id = self.le(4)?;
                self.get(id)?;
            }
            b'g' => {
                let id = self.line_number()?;
                self.get(id)?;
            }
            b'Q' => {
                let from = self.reach(1)?;
                self.close(from, &[0x85], Kind::Fixed)?;
            }
            b'R' | 0x81 => self.call()?,
            b'b' => self.build()?,
            _ => {
                let found = format!("opcode {op:#04x}");
                return Err(self.bad(found, "an opcode that a checkpoint of tensors needs"));
            }
        }
        Ok(false)
    }

    /// An error at the opcode that is being run.
    fn bad(&self, found: impl Into<String>, wanted: &str) -> Error {
        self.source.malformed(self.op_at, "pickle opcode", found.into(), wanted)
    }

    /// Checks that the pickle has `len` bytes more.
    fn need(&self, len: u64) -> Result<()> {
        if self.end.saturating_sub(self.at) < len {
            let left = self.end.saturating_sub(self.at);
            return Err(self.bad(format!("{left} bytes to its end"), "a whole pickle"));
        }
        Ok(())
    }

    /// The next byte.
    fn byte(&mut self) -> Result<u8> {
        self.need(1)?;
        let byte = self.source.u8_at(self.at, "pickle")?;
        self.at += 1;
        Ok(byte)
    }

    /// The next `len` bytes.
    fn take(&mut self, len: u64) -> Result<Vec<u8>> {
        self.need(len)?;
        let bytes = self.source.bytes_at(self.at, len, WORK as u64, "pickle string")?;
        self.at += len;
        Ok(bytes)
    }

    /// A little-endian number of `len` bytes, at most 8.
    fn le(&mut self, len: u64) -> Result<u64> {
        Ok(self.take(len)?.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    /// Text up to the next line feed.
    fn line(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => break,
                _ if bytes.len() == 255 => return Err(self.bad("a longer line", "255 bytes")),
                byte => bytes.push(byte),
            }
        }
        String::from_utf8(bytes).map_err(|_| self.bad("bytes that are not text", "UTF-8"))
    }

    /// A number in text up to the next line feed, as protocol 0 writes it; Python 2 put an L behind long ones.
    fn line_number<T: std::str::FromStr>(&mut self) -> Result<T> {
        let line = self.line()?;
        line.trim_end_matches('L').parse().map_err(|_| self.bad(format!("{line:?}"), "a number"))
    }

    /// The stack below which no opcode may reach: the last mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    /// The index of the `n`th item from the top.
    fn reach(&self, n: usize) -> Result<usize> {
        let index = self.stack.len().checked_sub(n).filter(|i| *i >= self.floor());
        index.ok_or_else(|| self.bad("an empty stack", "a value"))
    }

    /// Takes the last mark off: the index of the first item after it, and how many there are.
    fn since_mark(&mut self) -> Result<(usize, usize)> {
        let from = self.marks.pop().ok_or_else(|| self.bad("no mark", "a mark"))?;
        Ok((from, self.stack.len() - from))
    }

    /// Appends bytes to the normalised pickle.
    fn emit(&mut self, bytes: &[u8]) -> Result<()> {
        self.spend(bytes.len(), 1)?;
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// Counts work against the bounds.
    fn spend(&mut self, bytes: usize, values: usize) -> Result<()> {
        self.work = self.work.saturating_add(bytes);
        self.values = self.values.saturating_add(values);
        // 4 KB and 256 bytes for each one read: what grows faster is no checkpoint's.
        let most = self.at.saturating_sub(self.start).saturating_mul(GROWTH).saturating_add(FREE);
        let most = WORK.min(usize::try_from(most).unwrap_or(WORK));
        if self.work > most || self.values > VALUES {
            let found = format!("{} bytes and {} values", self.work, self.values);
            return Err(self.bad(found, &format!("at most {most} and {VALUES}")));
        }
        Ok(())
    }

    /// Puts a value on the stack.
    fn push(&mut self, bytes: &[u8], kind: Kind, depth: u16) -> Result<()> {
        let start = self.out.len();
        self.emit(bytes)?;
        self.stack.push(Item { start, kind, depth });
        Ok(())
    }

    /// Forgets the items from index `from` on, and their bytes.
    fn cut(&mut self, from: usize) -> Result<()> {
        if from < self.floor() {
            return Err(self.bad("an empty stack", "a value"));
        }
        if let Some(first) = self.stack.get(from) {
            self.out.truncate(first.start);
            self.stack.truncate(from);
        }
        Ok(())
    }

    /// Replaces the items from `from` on by one container, which `op` closes.
    fn close(&mut self, from: usize, op: &[u8], kind: Kind) -> Result<()> {
        let items = self.stack.get(from..).unwrap_or_default();
        // As deep as its deepest item, and itself.
        let depth = 1 + items.iter().map(|i| i.depth).max().unwrap_or(0);
        let start = items.first().map_or(self.out.len(), |i| i.start);
        self.check_depth(depth)?;
        self.emit(op)?;
        self.stack.truncate(from);
        self.stack.push(Item { start, kind, depth });
        Ok(())
    }

    /// Makes the mark that is before the last item its first byte.
    fn own_mark(&mut self) {
        if let Some(item) = self.stack.last_mut() {
            item.start = item.start.saturating_sub(1);
        }
    }

    /// Puts the items from `from` on into the container below them.
    fn fill(&mut self, from: usize, op: u8) -> Result<()> {
        let depth = 1 + self.stack.iter().skip(from).map(|i| i.depth).max().unwrap_or(0);
        self.check_depth(depth)?;
        let at = from.checked_sub(1);
        let list = matches!(op, b'a' | b'e');
        let Some(container) = at.and_then(|i| self.stack.get_mut(i)) else {
            return Err(self.bad("an empty stack", "a container"));
        };
        if container.kind != Kind::Open {
            return Err(
                self.bad("items for something else", if list { "a list" } else { "a dict" })
            );
        }
        // Its bytes are before those of the items, so nothing is moved: the opcode behind them fills it.
        container.depth = container.depth.max(depth);
        self.stack.truncate(from);
        self.emit(&[op])
    }

    /// Refuses what is nested too deep: `serde_pickle` goes down by recursion.
    fn check_depth(&self, depth: u16) -> Result<()> {
        if depth > DEPTH {
            return Err(self.bad(format!("{depth} containers in one another"), "at most 64"));
        }
        Ok(())
    }

    /// Takes the last item off, which must be text.
    fn pop_text(&mut self) -> Result<String> {
        let text = self.stack.last().and_then(|item| match self.out.get(item.start..)? {
            [b'X', _, _, _, _, text @ ..] => String::from_utf8(text.to_vec()).ok(),
            _ => None,
        });
        let text = text.ok_or_else(|| self.bad("something else", "the name of a global"))?;
        let last = self.reach(1)?;
        self.cut(last)?;
        Ok(text)
    }

    /// A global: the name of an allowed one, as text; every other ends the reading.
    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        let full = format!("{module}.{name}");
        if globals::is_allowed(&full) {
            return self.push_text(&full, Kind::Global);
        }
        if globals::is_harmful(module) {
            let bad = self.bad(
                format!("the global {full:?}"),
                "names of tensors only: this pickle would run code, and nothing of it was run",
            );
            let next =
                "do not load it in Python: get the weights as safetensors or from who trained them";
            return Err(bad.advising(next));
        }
        let name = self.source.input().name();
        Err(Error::unsupported(
            format!("{name}: saved as objects of a program ({full}), not as a state_dict"),
            "save its tensors where that program is: torch.save(model.state_dict(), \"model.pth\")",
        ))
    }

    /// A call becomes the pair of callable and arguments.
    fn call(&mut self) -> Result<()> {
        let from = self.reach(2)?;
        let (Some(callable), Some(args)) = (self.stack.get(from), self.stack.get(from + 1)) else {
            return Err(self.bad("an empty stack", "a call"));
        };
        if callable.kind != Kind::Global {
            return Err(self.bad("a call of something else", "a call of a named global"));
        }
        let name = self.out.get(callable.start + 5..args.start).unwrap_or_default();
        let empty = self.out.get(args.start..) == Some(b")");
        if name == b"collections.OrderedDict" && empty || name == b"collections.defaultdict" {
            self.cut(from)?;
            return self.push(b"}", Kind::Open, 1);
        }
        self.close(from, &[0x86], Kind::Fixed)
    }

    /// The state of a module or namespace stays beside it, as a pair; any other is left out.
    fn build(&mut self) -> Result<()> {
        let object = self.reach(2)?;
        let from = self.stack.get(object).map_or(0, |item| item.start);
        let stated = match self.out.get(from..).unwrap_or_default() {
            [b'X', _, _, _, _, name @ ..] => {
                name.starts_with(MODULES.as_bytes()) || name.starts_with(NAMESPACE.as_bytes())
            }
            _ => false,
        };
        if stated { self.close(object, &[0x86], Kind::Fixed) } else { self.cut(object + 1) }
    }

    /// Keeps the last value in the memo.
    fn put(&mut self, id: u64) -> Result<()> {
        let last = self.reach(1)?;
        let Some(&Item { start, kind, depth }) = self.stack.get(last) else { return Ok(()) };
        let memo = if kind == Kind::Open {
            self.spend(0, 1)?;
            Memo::Open
        } else {
            let bytes: Box<[u8]> = self.out.get(start..).unwrap_or_default().into();
            // Every value takes at least one byte, so this bounds what a copy makes.
            let values = bytes.len();
            self.spend(bytes.len(), 1)?;
            Memo::Fixed { bytes, kind, depth, values }
        };
        self.memo.insert(id, memo);
        Ok(())
    }

    /// Puts a value from the memo on the stack once more.
    fn get(&mut self, id: u64) -> Result<()> {
        match self.memo.remove(&id) {
            Some(Memo::Fixed { bytes, kind, depth, values }) => {
                // A short value, as a name, counts as one; a copied tree by its size.
                self.spend(0, if depth == 0 { 1 } else { values })?;
                self.push(&bytes, kind, depth)?;
                self.memo.insert(id, Memo::Fixed { bytes, kind, depth, values });
                Ok(())
            }
            Some(Memo::Open) => Err(self.bad(
                format!("the list or dict {id} in a second place"),
                "containers in one place only: shared ones may be endless",
            )),
            None => Err(self.bad(format!("memo {id}, which is empty"), "a value put there before")),
        }
    }
}
