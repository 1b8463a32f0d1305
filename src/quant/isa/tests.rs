use super::{points::Words, row::Bytes, *};

#[test]
fn every_set_rounds_a_product_and_a_sum_once() {
    // Every kind of exponent: sums that cancel, that vanish beside the product, that overflow.
    let mut state = 1u64;
    let mut number = |narrow: bool| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let bits = (state >> 32) as u32;
        let exponent = if narrow { 120 + (bits >> 23) % 16 } else { (bits >> 23) % 256 };
        f32::from_bits(bits & 0x807f_ffff | exponent << 23)
    };
    for i in 0..300_000 {
        let (w, x, sum) = (number(i % 2 == 0), number(i % 2 == 0), number(i % 3 == 0));
        let sum = if i % 5 == 0 { -(w * x) } else { sum };
        let expected = w.mul_add(x, sum);
        for isa in Isa::available() {
            let (one, mut many) = (isa.mul_add(w, x, sum), [sum; 16]);
            isa.add_product(&mut many, &[w; 16], &[x; 16]);
            for got in [one, many[0], many[15]] {
                let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
                assert!(same, "{w:e} * {x:e} + {sum:e}: {got:e}, {expected:e} on {}", isa.name());
            }
        }
    }
}

#[test]
fn every_set_takes_the_same_steps() {
    let byte = |i: usize| ((i * 2_654_435_761) >> 13) as u8;
    for round in 0..64 {
        let bytes: [u8; 16] = std::array::from_fn(|i| byte(64 * round + i));
        let levels: [i8; 16] = std::array::from_fn(|i| byte(64 * round + 16 + i) as i8);
        let words: [u64; 4] = std::array::from_fn(|i| {
            u64::from_le_bytes(std::array::from_fn(|j| byte(64 * round + 8 * i + j) & 63))
        });
        let scales = u128::from_le_bytes(bytes);
        let sums: [[f32; 16]; 4] = std::array::from_fn(|i| {
            std::array::from_fn(|l| {
                f32::from(byte(64 * i + l + round) as i8) * 1.1f32.powi(l as i32)
            })
        });
        let (d, m) = (f32::from(levels[0]) / 127.3, f32::from(levels[1]) * 3.7);
        let high = u32::from_le_bytes([bytes[3], bytes[5], bytes[7], bytes[9]]);
        for isa in Isa::available() {
            let bits = |all: [[f32; 16]; 2]| all.map(|all| all.map(f32::to_bits));
            let nibble = |i: usize| f32::from(bytes[i % 16] >> (i / 16 * 4) & 15);
            let expected = std::array::from_fn(|half| {
                std::array::from_fn(|i| ((nibble(16 * half + i) - 8.0) * d - m).to_bits())
            });
            assert_eq!(bits(isa.nibbles(&bytes, 8, d, m)), expected, "{}", isa.name());
            let expected = bytes.map(|byte| (f32::from(byte as i8) * d).to_bits());
            assert_eq!(isa.bytes(&bytes, d).map(f32::to_bits), expected, "{}", isa.name());
            let five = |i: usize| nibble(i) + (high >> i & 1) as f32 * 16.0;
            let expected = std::array::from_fn(|half| {
                std::array::from_fn(|i| ((five(16 * half + i) - 16.0) * d + m).to_bits())
            });
            assert_eq!(bits(isa.fives(&bytes, high, 16, d, m)), expected, "{}", isa.name());
            let named = isa.named(&bytes, &levels).array();
            let halved = isa.halved(&bytes).array();
            let row = Bytes::of(words);
            let [each, above] = [row.array(), isa.above(row).array()];
            let fifth = isa.fifth_bits(high).array();
            let doubled = isa.doubled(words[0]).to_le_bytes();
            let even_first = isa.even_first(scales).to_le_bytes();
            let signed = isa.signed(row, high, 64).array();
            let shifted = isa.bits(&each, 2, 7);
            let joined = isa.joined(row, shifted, 3).array();
            for i in 0..32 {
                let bit = (high >> i & 1) as u8;
                assert_eq!(f32::from(halved[i]), nibble(i), "{}", isa.name());
                assert_eq!(named[i] as i8, levels[nibble(i) as usize], "{}", isa.name());
                assert_eq!(fifth[i], bit << 4, "{}", isa.name());
                assert_eq!(above[i], each[i] ^ 128, "{}", isa.name());
                assert_eq!(doubled[i / 2], words[0].to_le_bytes()[i / 4], "{}", isa.name());
                let minus = if bit > 0 { each[i].wrapping_neg() } else { each[i] };
                assert_eq!(signed[i], minus.wrapping_add(64), "{}", isa.name());
                assert_eq!(shifted.array()[i], each[i] >> 2 & 7, "{}", isa.name());
                assert_eq!(joined[i], each[i] | (each[i] >> 2 & 7) << 3, "{}", isa.name());
                if i < 16 {
                    assert_eq!(even_first[i], bytes[i % 8 * 2 + i / 8], "{}", isa.name());
                }
            }
            let numbered = isa.numbered(isa.above(row), d);
            for (i, number) in numbered.as_flattened().iter().enumerate() {
                assert_eq!(*number, f32::from(above[i] as i8) * d, "{}", isa.name());
            }
            for pair in 0..8 {
                let scaled = isa.scaled(row, 32, scales, pair);
                for (i, scaled) in scaled.into_iter().enumerate() {
                    let w = i16::from(each[i]) - 32;
                    assert_eq!(scaled, w * i16::from(bytes[2 * pair + i / 16] as i8));
                }
            }
            for part in 0..4 {
                let products: [i32; 16] = std::array::from_fn(|l| i32::from(byte(l + part)) - 99);
                let mut added = [7; 16];
                isa.add_scaled(&mut added, &products, scales, part);
                for (l, added) in added.into_iter().enumerate() {
                    let scale = i32::from(bytes[4 * part + l / 4] as i8);
                    assert_eq!(added, 7 + products[l] * scale, "{}", isa.name());
                }
            }
            // The largest numbers that two products of which may be summed in 16 bits, and beyond.
            for (most, bias) in [(129, 0), (129, 16), (255, 128)] {
                let a: [u8; 64] = std::array::from_fn(|i| byte(round + 3 * i).min(most));
                let b: [i8; 64] = std::array::from_fn(|i| (byte(97 * round + i) as i8).max(-127));
                let sum = |l: usize, f: &dyn Fn(usize) -> i32| (4 * l..4 * l + 4).map(f).sum();
                let fours = std::array::from_fn(|l| sum(l, &|i| -i32::from(b[i]) * bias));
                let halves = [0, 1].map(|half| Bytes::from(a.as_chunks().0[half]));
                let sums = isa.quads(halves, &b, &fours, bias as u8, most);
                for (l, found) in sums.into_iter().enumerate() {
                    let wanted = sum(l, &|i| (i32::from(a[i]) - bias) * i32::from(b[i]));
                    assert_eq!(found, wanted, "{most} {bias} on {}", isa.name());
                }
            }
            let totals = isa.totals(&sums).map(f32::to_bits);
            assert_eq!(totals, sums.map(|sum| total(sum).to_bits()), "{}", isa.name());
        }
    }
}

#[test]
fn every_set_finds_the_same_points() {
    let number = |i: usize| ((i * 2_654_435_761) >> 11) as u16;
    let book: [u16; 1024] = std::array::from_fn(|i| number(i + 7));
    for round in 0..64 {
        let numbers: [u16; 32] = std::array::from_fn(|i| number(64 * round + i));
        let bytes: [u8; 64] = std::array::from_fn(|i| number(97 * round + i) as u8);
        let low: &[u8; 32] = bytes.first_chunk().unwrap();
        let (words, row) = (Words::from(numbers), Bytes::from(*low));
        let eight = u128::from_le_bytes(*bytes.first_chunk().unwrap());
        let bits = u32::from_le_bytes(*bytes.first_chunk().unwrap());
        for isa in Isa::available() {
            let name = isa.name();
            let places = isa.places(low, words).array();
            let fields = isa.fields(eight, 3, 7).array();
            let (ones, shifted) = (isa.ones(bits).array(), isa.shifted(words, 9).array());
            let codes = isa.codes(words, &book);
            let few = isa.codes(words, book.first_chunk::<256>().unwrap()).array();
            let zeros = isa.where_zero(Words::from(fields), 0x0202).array();
            let (sevens, parted) = (isa.sevens(row).fours(), isa.parted(&bytes));
            let evened = isa.evened(isa.bits(low, 0, 127)).array();
            let leveled = isa.leveled(isa.bits(low, 0, 15), &LEVELS).array();
            let plus = isa.plus(isa.bits(low, 0, 127), isa.bits(low, 1, 127)).array();
            for i in 0..32 {
                let code = book[usize::from(numbers[i]) % 1024];
                assert_eq!(places[i], numbers[i] << 8 | u16::from(low[i]), "{name}");
                assert_eq!(fields[i], (eight >> (16 * (i / 4) + 3 * (i % 4))) as u16 & 7, "{name}");
                assert_eq!(ones[i], (bits >> i & 1) as u16, "{name}");
                assert_eq!(shifted[i], (numbers[i] >> 9) as u8, "{name}");
                assert_eq!(codes.array()[i], code, "{name}");
                assert_eq!(few[i], book[usize::from(numbers[i]) % 256], "{name}");
                assert_eq!(zeros[i], if fields[i] == 0 { 0x0202 } else { 0 }, "{name}");
                let even = low[i] & 127;
                assert_eq!(evened[i], even | (even.count_ones() as u8 & 1) << 7, "{name}");
                assert_eq!(leveled[i] as i8, LEVELS[usize::from(low[i] & 15)], "{name}");
                assert_eq!(plus[i], even + (low[i] >> 1), "{name}");
            }
            for i in 0..8 {
                let word = row.fours()[i];
                assert_eq!(
                    sevens[i].to_le_bytes(),
                    [0, 7, 14, 21].map(|s| (word >> s & 127) as u8)
                );
                for half in 0..2 {
                    let four = bytes[8 * i + 4 * half..].first_chunk().unwrap();
                    assert_eq!(parted[half].fours()[i].to_le_bytes(), *four, "{name}");
                }
                let fourfold = isa.fourfold(words, i).array();
                for (j, byte) in fourfold.into_iter().enumerate() {
                    assert_eq!(byte, numbers[4 * i + j / 8].to_le_bytes()[j % 2], "{name}");
                }
            }
            for part in 0..4 {
                let (eights, fours) =
                    (isa.digits::<8>(codes, part), isa.digits::<4>(codes, part % 2));
                for i in 0..64 {
                    let eight = codes.array()[8 * part + i / 8] >> (2 * (i % 8)) & 3;
                    assert_eq!(u16::from(eights[i / 32].array()[i % 32]), eight, "{name}");
                    let four = codes.array()[16 * (part % 2) + i / 4] >> (3 * (i % 4)) & 7;
                    assert_eq!(u16::from(fours[i / 32].array()[i % 32]), four, "{name}");
                }
            }
        }
    }
}

/// Any sixteen.
const LEVELS: [i8; 16] = [3, -7, 12, 0, 127, -128, 5, 9, -1, 44, 60, -60, 31, 2, 1, 8];

/// In halves, as `infer::dot` has it.
fn total(lanes: [f32; 16]) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|l| lanes[l] + lanes[l + 8]);
    let four: [f32; 4] = std::array::from_fn(|l| eight[l] + eight[l + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}
