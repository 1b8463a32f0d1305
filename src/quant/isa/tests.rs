use super::*;

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
            let named = isa.named(&bytes, &levels).map(u128::to_le_bytes);
            for (i, named) in named.as_flattened().iter().enumerate() {
                assert_eq!(*named as i8, levels[nibble(i) as usize], "{}", isa.name());
            }
            for pair in 0..8 {
                let scaled = isa.scaled(words, 32, scales, pair);
                for (i, scaled) in scaled.into_iter().enumerate() {
                    let w = i16::from(words[i / 8].to_le_bytes()[i % 8]) - 32;
                    assert_eq!(scaled, w * i16::from(bytes[2 * pair + i / 16] as i8));
                }
            }
            let fifth = isa.fifth_bits(high);
            let doubled = isa.doubled(words[0]).to_le_bytes();
            for i in 0..32 {
                let bit = (high >> i & 1) as u8;
                assert_eq!(fifth[i / 8].to_le_bytes()[i % 8], bit << 4, "{}", isa.name());
                assert_eq!(doubled[i / 2], words[0].to_le_bytes()[i / 4], "{}", isa.name());
            }
            // The largest numbers that two products of which may be summed in 16 bits, and beyond.
            for (most, bias) in [(129, 0), (129, 16), (255, 128)] {
                let a: [u8; 64] = std::array::from_fn(|i| byte(round + 3 * i).min(most));
                let b: [i8; 64] = std::array::from_fn(|i| (byte(97 * round + i) as i8).max(-127));
                let sum = |l: usize, f: &dyn Fn(usize) -> i32| (4 * l..4 * l + 4).map(f).sum();
                let fours = std::array::from_fn(|l| sum(l, &|i| -i32::from(b[i]) * bias));
                let sums = isa.quads(&a, &b, &fours, bias as u8, most);
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

/// In halves, as `infer::dot` has it.
fn total(lanes: [f32; 16]) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|l| lanes[l] + lanes[l + 8]);
    let four: [f32; 4] = std::array::from_fn(|l| eight[l] + eight[l + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}
