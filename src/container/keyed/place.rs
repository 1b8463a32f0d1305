//! Where the tensors of a GGUF lie: types and sizes against the places that the infos give.
//!
//! ```text
//! header, infos | padding | tensor | padding | tensor | padding | …      offsets count from the first tensor's place
//! ```
//!
//! An info states type, sizes and place. The first two say how many bytes a tensor should have; the next place, or the
//! end of the file, how many it can have: its room. Where the two disagree something is wrong, and where a type's number
//! had several meanings, that one is right whose sizes fill the rooms.

use super::{Info, Walk};
use crate::{
    error::Result,
    model::{Model, Tail, Tensor},
    quant::{
        QuantType,
        era::{self, Told},
    },
    remedy::{Fault, Note, Notes, Remedy, Setting},
    size::counted,
};

/// Bytes of a tensor that are looked at to tell its type.
const MOST: u64 = 16 << 20;

/// What a type's number may be.
const KNOWN: &str = "the number of a type";
/// What to do about a number that is none of them.
const UNKNOWN_TYPE: &str =
    "another program or a newer llama.cpp may write it; ask whoever made the file";

impl Walk<'_> {
    /// Infos with rows as many times longer as a float has bytes, where only so the data fills the file
    /// without gaps.
    ///
    /// `convert_llama_ggml_to_gguf.py` of 2024 and 2025 divides them by the bytes of a number; the data, which is
    /// whole, is as many times longer than the shapes say.
    pub(super) fn widened(&self, infos: &[Info], align: u64) -> Option<Vec<Info>> {
        let floats =
            infos.iter().all(|i| self.quant(i.id).is_some_and(|q| q.layout().elements == 1));
        // Only where the shapes as stated do not fill the file: else they are right, whatever else may fit.
        if infos.is_empty() || !floats || self.fill(infos, align).is_some() {
            return None;
        }
        // A float32 of rows four times as long fills the room: bytes had been counted.
        let widen = |info: &Info| {
            let mut shape = info.shape.clone();
            let last = shape.last_mut()?;
            *last = last.checked_mul(self.quant(info.id)?.layout().bytes as u64)?;
            Some(Info { shape, name: info.name.clone(), ..*info })
        };
        let wide: Vec<Info> = infos.iter().map(widen).collect::<Option<_>>()?;
        self.fill(&wide, align).map(|()| wide)
    }

    /// Whether tensors of these shapes follow each other without gaps up to the end of the file.
    ///
    /// Nothing but its truth is asked: padding counts, also behind the last.
    fn fill(&self, infos: &[Info], align: u64) -> Option<()> {
        let mut next = 0u64;
        for info in infos {
            let whole =
                Tensor::whole(String::new(), info.shape.clone(), self.quant(info.id)?, 0, 0)?;
            // Offsets are relative, so this needs no place of the data.
            (info.offset == next).then_some(())?;
            next = next.checked_add(whole.bytes())?.checked_next_multiple_of(align)?;
        }
        let data = self.at.next_multiple_of(align);
        (data.checked_add(next)? == self.source.len()).then_some(())
    }

    /// Turns infos into tensors; returns whether they fill the data section without gaps, in
    /// order, to the end of the file.
    ///
    /// # Errors
    /// At the info that is wrong: an unknown type, a place that is not aligned, rows that are no whole blocks, a
    /// tensor that reaches into another or beyond the end.
    pub(super) fn place(&self, infos: Vec<Info>, align: u64, model: &mut Model) -> Result<bool> {
        // A file of metadata alone ends behind it, without padding.
        let data = if infos.is_empty() { self.at } else { self.at.next_multiple_of(align) };
        let (types, told) = self.types(&infos, data, align);
        model.notes.extend(told);
        // next is where a writer without gaps puts the tensor.
        let (mut in_order, mut next) = (true, data);
        let mut ends = Vec::new();
        for (index, (info, (quant, room))) in infos.into_iter().zip(types).enumerate() {
            let [sizes_at, type_at, offset_at] = info.fields;
            let wrong = |at: u64, what: &str, found: String, wanted: String| {
                let field = format!("tensors[{index}] ({}).{what}", info.name);
                Err(self.source.malformed(at, field, found, wanted))
            };
            let Some(quant) = quant else {
                let field = format!("tensors[{index}] ({}).type", info.name);
                let error = self.source.malformed(type_at, field, info.id, KNOWN);
                return Err(error.advising(UNKNOWN_TYPE));
            };
            let place = data.checked_add(info.offset).filter(|_| info.offset % align == 0);
            let Some(place) = place else {
                let wanted = format!("a multiple of {align} below 2^64");
                return wrong(offset_at, "offset", info.offset.to_string(), wanted);
            };
            // A type of another program, whose blocks are not described: bytes to be copied, sized by their room.
            if quant.stranger().is_some() {
                let scalar = info.scalar;
                let tensor = Tensor { scalar, ..opaque(info, quant, place, room, align) };
                in_order &= place == next;
                let end = place.saturating_add(tensor.bytes());
                next = end.checked_next_multiple_of(align).unwrap_or(u64::MAX);
                ends.push((place, end, index));
                model.tensors.push(tensor);
                continue;
            }
            let row_len = info.shape.last().copied().unwrap_or(0);
            if quant.row_bytes(row_len).is_none() {
                let wanted = format!("a multiple of {} for {quant}", quant.layout().elements);
                return wrong(sizes_at, "ne[0]", row_len.to_string(), wanted);
            }
            let whole = Tensor::whole(info.name.clone(), info.shape.clone(), quant, 0, place);
            let Some(mut tensor) = whole else {
                let wanted = "an end of its data below 2^64".to_owned();
                return wrong(sizes_at, "ne", format!("{:?}", info.shape), wanted);
            };
            if !tensor.rows().is_multiple_of(quant.row_group() as u64) {
                let wanted = format!("a multiple of {} for {quant}", quant.row_group());
                return wrong(sizes_at, "ne[1]", tensor.rows().to_string(), wanted);
            }
            tensor.scalar = info.scalar;
            // Blocks are stored so too, not only the header.
            tensor.big_endian = self.format.detect.big_endian;
            // Scales in front of a row: no program is known that wrote them in this order of bytes.
            if tensor.big_endian && quant.layout().front > 0 {
                let wanted = format!("a little-endian file, for {quant}");
                return wrong(type_at, "type", "one in a big-endian file".to_owned(), wanted);
            }
            in_order &= place == next;
            next = (place + tensor.bytes()).checked_next_multiple_of(align).unwrap_or(u64::MAX);
            ends.push((place, place + tensor.bytes(), index));
            model.tensors.push(tensor);
        }
        let end = self.check_ends(&mut ends, model)?.unwrap_or(data);
        model.tails.extend(self.tail(end, align)?);
        if !in_order {
            model.notes.push(Note::of(
                Fault::Form,
                "tensor data has gaps or another order than the infos: today's llama.cpp refuses such a file",
            ));
        }
        Ok(in_order && model.tails.is_empty())
    }

    /// What follows the data that ends at `end`, but for the padding of its last tensor.
    ///
    /// ```text
    /// … last tensor | zeros to the alignment | what follows          from here on it is none of the model's
    /// … last tensor | anything else                                  from the end of the data on
    /// ```
    fn tail(&self, end: u64, align: u64) -> Result<Option<Tail>> {
        let (len, padded) = (self.source.len(), end.next_multiple_of(align));
        if len <= padded {
            return Ok(None);
        }
        // Zeros up to the alignment are padding; anything else is what follows.
        let padding = self.source.bytes_at(end, padded - end, align, "padding")?;
        let at = if padding.iter().all(|byte| *byte == 0) { padded } else { end };
        Ok(Some(Tail { file: 0, at, bytes: len - at }))
    }

    /// Checks that no tensor reaches into another or beyond the end; returns where the last one ends.
    fn check_ends(&self, ends: &mut [(u64, u64, usize)], model: &Model) -> Result<Option<u64>> {
        // By place: each must begin where the one before has ended, or later.
        ends.sort_unstable();
        let name = |index: usize| model.tensors.get(index).map_or("", |t| t.name.as_str());
        for pair in ends.windows(2) {
            if let [(_, end, first), (at, _, second)] = *pair
                && at < end
            {
                let field = format!("tensors[{second}] ({}).offset", name(second));
                let wanted = format!("the end of {} at {end:#x} or later", name(first));
                return Err(self.source.malformed(at, field, format!("{at:#x}"), wanted));
            }
        }
        if let Some((at, end, index)) = ends.last().copied()
            && end > self.source.len()
        {
            let len = self.source.len();
            let whole = ends.iter().filter(|(_, end, _)| *end > len).count();
            let field = format!("tensors[{index}] ({}).data", name(index));
            let found = format!("the end of the file at {len:#x}");
            let wanted = format!("the end of the data at {end:#x}");
            let error = self.source.malformed(at, field, found, wanted);
            let next = format!(
                "the file is {} short ({} cut or missing): download or copy it again",
                counted(end - len, "byte", "bytes"),
                counted(whole, "tensor is", "tensors are")
            );
            return Err(error.advising(next));
        }
        Ok(ends.last().map(|(_, end, _)| *end))
    }

    /// The type of every tensor, and the bytes from its place to the next tensor's or the end.
    ///
    /// Where llama.cpp and another program, or two others, took one number, the type is the one whose
    /// sizes fit all tensors of that number.
    ///
    /// ```text
    /// infos, by place     a 0x0    b 0x400    c 0x1000      end of the file 0x1800
    /// rooms               0x400    0xc00      0x800
    /// ```
    fn types(
        &self,
        infos: &[Info],
        data: u64,
        align: u64,
    ) -> (Vec<(Option<QuantType>, u64)>, Notes) {
        let mut places: Vec<u64> = infos.iter().map(|i| data.saturating_add(i.offset)).collect();
        places.sort_unstable();
        // The last one's room ends with the file.
        places.push(self.source.len());
        let room = |info: &Info| {
            let at = data.saturating_add(info.offset);
            // The first place beyond its own.
            let next = places.partition_point(|place| *place <= at);
            places.get(next).map_or(0, |next| next - at)
        };
        let rooms: Vec<u64> = infos.iter().map(room).collect();
        // All tensors of a number are of one type, so that each number is decided once.
        let mut known: std::collections::HashMap<u32, Option<QuantType>> = Default::default();
        let mut notes = Notes::default();
        let mut quant = |id: u32| {
            *known.entry(id).or_insert_with(|| {
                let of = infos.iter().zip(&rooms).filter(|(info, _)| info.id == id);
                let of: Vec<(&Info, u64)> = of.map(|(info, room)| (info, *room)).collect();
                self.type_of(id, &of, (data, align), &mut notes)
            })
        };
        let types = infos.iter().zip(&rooms).map(|(info, room)| (quant(info.id), *room)).collect();
        (types, notes)
    }

    /// The type that the number `id` means, for tensors that have so much room each.
    fn type_of(
        &self,
        id: u32,
        tensors: &[(&Info, u64)],
        (data, align): (u64, u64),
        notes: &mut Notes,
    ) -> Option<QuantType> {
        // Candidates, in this order:
        //     those whose size is exactly the room of all     (several: the bytes decide, see `era`)
        //     types of other programs that are not decoded, exactly
        //     one that is no larger than the room, or whose last tensor is cut by the end of the file
        //     any of the other programs', then those of unknown size
        let own = self.quant(id);
        // A tensor that ends with the file may have lost its end: too little room then says nothing of its type.
        let to_end = |info: &Info, room: u64| {
            data.saturating_add(info.offset).saturating_add(room) == self.source.len()
        };
        let all =
            |fits: &dyn Fn(&Info, u64) -> bool| tensors.iter().all(|(i, room)| fits(i, *room));
        let fits = |quant: QuantType| {
            all(&|i, room| whole(quant, i).is_some_and(|size| size <= room || to_end(i, room)))
        };
        let exact = |quant: &QuantType| {
            let size = |i: &Info| match quant.stranger() {
                Some(_) => size(*quant, i),
                None => whole(*quant, i),
            };
            all(&|i, room| size(i).is_some_and(|size| fills(size, room, align)))
        };
        // Big-endian files are llama.cpp's own.
        let known = || {
            let once = QuantType::once(id).filter(|_| !self.format.detect.big_endian);
            own.into_iter().chain(once)
        };
        let sized: Vec<QuantType> = match known().filter(exact).collect::<Vec<_>>() {
            none if none.is_empty() => match self.foreign(id, &exact) {
                Some(other) => return Some(other),
                None => known().find(|q| fits(*q)).into_iter().collect(),
            },
            exact => exact,
        };
        match *sized.as_slice() {
            [only] => {
                let caveat = &only.block().caveat;
                if !caveat.is_empty() {
                    let (name, lived) = (only.name(), &only.block().lived.from);
                    notes.push(format!("its {name} are of the form of {lived}: {caveat}"));
                }
                return Some(only);
            }
            [first, ..] => return Some(self.era(first, &sized, tensors, data, notes)),
            [] => {}
        }
        let mended = |quant: &QuantType| quant.stranger().is_some_and(|f| !f.broken.is_empty());
        let others = || QuantType::foreign(id);
        let any = || if own.is_none() { others().next() } else { others().find(mended) };
        // Of some the size is not known.
        let nameless = || others().find(|quant| quant.layout().bytes == 1);
        any().or_else(nameless).or(own)
    }

    /// The type of another program with this number that fits: the one that a person asks for, else the first.
    /// Several programs took the same number for types of their own.
    fn foreign(&self, id: u32, fits: &dyn Fn(&QuantType) -> bool) -> Option<QuantType> {
        let rows = |q: &QuantType| q.stranger().and_then(|f| f.rows.parse().ok());
        let asked =
            |q: &QuantType| [Some(*q), rows(q)].iter().flatten().any(|q| self.read_as.contains(q));
        let all: Vec<QuantType> = QuantType::foreign(id).filter(fits).collect();
        all.iter().copied().find(asked).or_else(|| all.first().copied())
    }

    /// Which of types with the same sizes the bytes bear out; the first where they do not tell.
    ///
    /// IQ1_S had three payloads and IQ3_S two, each under one number and of one size; the weights of some rows tell
    /// which it is, or nothing does.
    fn era(
        &self,
        first: QuantType,
        types: &[QuantType],
        tensors: &[(&Info, u64)],
        data: u64,
        notes: &mut Notes,
    ) -> QuantType {
        if let Some(asked) = types.iter().find(|q| self.read_as.contains(q)) {
            return *asked;
        }
        // Some rows of some tensors, spread over all.
        let step = tensors.len().div_ceil(era::TENSORS).max(1);
        let mut samples = Vec::new();
        for (info, _) in tensors.iter().step_by(step) {
            let row_len = info.shape.last().copied().unwrap_or(0);
            let rows = era::ROWS * first.row_bytes(row_len).unwrap_or(0);
            let len = rows.min(whole(first, info).unwrap_or(0));
            let bytes = self.source.bytes_at(data.saturating_add(info.offset), len, MOST, "data");
            if let (Ok(bytes), Ok(row_len)) = (bytes, usize::try_from(row_len)) {
                samples.push((row_len, bytes));
            }
        }
        match era::tell(types, &samples) {
            Told::As(quant) if quant == first => first,
            Told::As(quant) => {
                let lived = &quant.block().lived;
                let until = lived.to.as_deref().unwrap_or_default();
                let text = format!(
                    "its {} are of the form of {} to {until}, as the weights say: a program of another time \
                     reads garbage",
                    quant.name(),
                    lived.from
                );
                notes.push(Note::of(Fault::Weights, text));
                quant
            }
            Told::Either => {
                let forms = types.iter().filter(|q| **q != first);
                let forms =
                    forms.map(|q| Setting::ReadAs.of(format!("{}/{}", q.name(), q.dialect())));
                notes.push(Note::new(
                    format!(
                        "its {first} may be of an older form with the same number and size, and the weights do not \
                         tell: read as the newest"
                    ),
                    Remedy::any("read it otherwise", forms),
                ));
                first
            }
            Told::Unasked => first,
        }
    }
}

/// The bytes of a tensor in a type whose blocks are described.
fn whole(quant: QuantType, info: &Info) -> Option<u64> {
    let tensor = Tensor::whole(String::new(), info.shape.clone(), quant, 0, 0)?;
    tensor.rows().is_multiple_of(quant.row_group() as u64).then(|| tensor.bytes())
}

/// The bytes that another program's type takes.
fn size(quant: QuantType, info: &Info) -> Option<u64> {
    let rows = info.shape.iter().rev().skip(1).try_fold(1u64, |n, d| n.checked_mul(*d))?;
    quant.stranger()?.size(rows, *info.shape.last()?)
}

/// Whether N bytes, padded or not, leave nothing of the room.
fn fills(size: u64, room: u64, align: u64) -> bool {
    size == room || size.checked_next_multiple_of(align) == Some(room)
}

/// A tensor of another program's type: of the size that it should have, else of the room that it has.
///
/// Nothing decodes it, so its bytes are all that matters: a file of it can be verified, split and joined.
fn opaque(info: Info, quant: QuantType, place: u64, room: u64, align: u64) -> Tensor {
    let bytes = size(quant, &info).filter(|size| fills(*size, room, align)).unwrap_or(room);
    Tensor::opaque(info.name, info.shape, quant, (0, place), bytes)
}
