//! Types of other programs than llama.cpp: rows that those wrote, decoded, told apart and upgraded.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use regguf::{
    Existing,
    bytes::Input,
    change::{self, convert, upgrade},
    container::{self, OpenOptions},
    model::{Model, loader},
    quant::{
        QuantType, decode_rows,
        era::{self, Told},
        isa::Isa,
    },
};
use sha2::{Digest, Sha256};

/// Rows of a type, and the SHA-256 of what its program decodes them to.
#[derive(serde::Deserialize)]
struct Rows {
    row_len: usize,
    bytes: String,
    f32_sha256: String,
}

impl Rows {
    /// The bytes, from base64.
    fn bytes(&self) -> Vec<u8> {
        let digit = |c: u8| match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        let text: Vec<u8> = self.bytes.bytes().filter(|c| *c != b'=').collect();
        let (mut out, mut bits, mut word) = (Vec::new(), 0, 0u32);
        for c in text {
            (word, bits) = (word << 6 | u32::from(digit(c)), bits + 6);
            if bits >= 8 {
                bits -= 8;
                out.push((word >> bits) as u8);
            }
        }
        out
    }
}

fn golden() -> BTreeMap<String, Rows> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/blocks/forks.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn type_of(id: &str) -> QuantType {
    QuantType::all().find(|q| format!("{}-{}", q.name(), q.dialect()) == id).unwrap()
}

fn decoded(quant: QuantType, isa: Isa, bytes: &[u8], row_len: usize) -> Vec<f32> {
    let rows = bytes.len() / quant.row_bytes(row_len as u64).unwrap() as usize;
    let mut out = vec![f32::NAN; rows * row_len];
    decode_rows(quant, isa, bytes, row_len, &mut out);
    out
}

#[test]
fn rows_decode_as_their_programs_do() {
    for (id, rows) in golden() {
        let quant = type_of(&id);
        for isa in Isa::available() {
            let weights = decoded(quant, isa, &rows.bytes(), rows.row_len);
            let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
            let found: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(found, rows.f32_sha256, "{id} on {}", isa.name());
        }
    }
}

/// MXFP4's own golden blocks with their nibbles in the order of Ollama's first files.
#[test]
fn pairs_of_mxfp4_are_mxfp4() {
    let golden = |kind: &str| {
        let root = env!("CARGO_MANIFEST_DIR");
        fs::read(format!("{root}/golden/blocks/mxfp4-plain.{kind}")).unwrap()
    };
    let mut blocks = golden("bin");
    for block in blocks.as_chunks_mut::<17>().0 {
        let nibble = |e: usize| block[1 + e % 16] >> (4 * (e / 16)) & 15;
        let pairs: [u8; 16] = std::array::from_fn(|j| nibble(2 * j) | nibble(2 * j + 1) << 4);
        block[1..].copy_from_slice(&pairs);
    }
    let quant = QuantType::from_gguf(4).unwrap();
    let row_len = blocks.len() / 17 * 32;
    let found = decoded(quant, Isa::best(), &blocks, row_len);
    let bytes: Vec<u8> = found.iter().flat_map(|w| w.to_le_bytes()).collect();
    assert!(bytes == golden("f32"));
}

/// Rows of the originals of other programs' types in a file: they are named, decode to what the original says,
/// and an upgrade gives them a type of llama.cpp's, exactly where one holds them.
#[test]
fn types_of_other_programs_are_decoded_and_upgraded() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.gguf"), folder.path().join("out.gguf"));
    let weights = |model: &Model| {
        let tensor = model.tensor("t").unwrap();
        let (mut bytes, n) = (vec![0; tensor.bytes() as usize], tensor.elements() as usize);
        model.read_rows(tensor, 0, tensor.rows(), &mut bytes).unwrap();
        let mut found = vec![0.0; n];
        decode_rows(tensor.quant, Isa::best(), &bytes, n / tensor.rows() as usize, &mut found);
        found
    };
    let mut exact = Vec::new();
    let root = env!("CARGO_MANIFEST_DIR");
    let rows = golden();
    // One scale for a whole tensor is in a test of its own; of the first MXFP4 and of PrismML's no rows are stored.
    let types = QuantType::all().filter(|q| q.program().is_some() && q.stored_id().is_some());
    for quant in types.filter(|q| q.name() != "mxfp4_pairs" && q.dialect() != "prism") {
        let id = format!("{}-{}", quant.name(), quant.dialect());
        let (bytes, row_len) = match rows.get(&id) {
            Some(rows) => (rows.bytes(), rows.row_len),
            None => {
                let bytes = fs::read(format!("{root}/golden/blocks/{id}.bin")).unwrap();
                let layout = quant.layout();
                let row_len = bytes.len() / layout.bytes / 2 * layout.elements;
                (bytes, row_len)
            }
        };
        let wanted = decoded(quant, Isa::best(), &bytes, row_len);
        let shape = [row_len as u64, (wanted.len() / row_len) as u64];
        let mut file = of_type(quant.stored_id().unwrap(), &shape, bytes.len());
        let at = file.len() - 32 - bytes.len().next_multiple_of(32);
        file[at..at + bytes.len()].copy_from_slice(&bytes);
        fs::write(&input, file).unwrap();
        let read_as = OpenOptions { read_as: vec![quant], ..OpenOptions::default() };
        let model = container::open(&input, &read_as).unwrap();
        assert_eq!((model.tensors[0].quant, model.tails.len()), (quant, 0));
        let breach = loader::breaches(&model).into_iter().find(|b| b.code == "foreign-type");
        assert!(breach.unwrap().what.contains(quant.program().unwrap()), "{quant}");
        assert!(weights(&model) == wanted, "{quant}");
        let options = upgrade::Options { output: Some(output.clone()), ..Default::default() };
        let (model, plan) = upgrade::plan(model, &options).unwrap();
        if plan.steps[0].loss() == change::Loss::Exact {
            exact.push(id.clone());
        }
        change::carry(&model, &[plan], Existing::Replace, &()).unwrap();
        // The words of an upgrade are none of a conversion's.
        let types = vec!["f32".to_owned()];
        let folder = folder.path().to_owned();
        let asked = convert::Options { types, folder, ..Default::default() };
        let (_, plans) = convert::plan(model.clone(), &asked).unwrap();
        let words = plans[0].notes.to_string();
        assert!(!words.contains("has no place"), "{quant}: {words}");
        let copy = upgrade::Options { as_stored: true, ..Default::default() };
        let (_, plan) = upgrade::plan(model, &copy).unwrap();
        assert!(matches!(plan.steps[0].act, change::Act::Copy), "{quant}");
        let upgraded = container::open(&output, &OpenOptions::default()).unwrap();
        assert!(upgraded.tensors.iter().all(|t| t.quant.is_today()), "{quant}");
        let found = weights(&upgraded);
        if exact.last() == Some(&id) {
            assert!(found == wanted, "{quant}");
        }
        let square =
            |all: &mut dyn Iterator<Item = f32>| all.map(|x| f64::from(x).powi(2)).sum::<f64>();
        let off = square(&mut found.iter().zip(&wanted).map(|(a, b)| a - b));
        let share = (off / square(&mut wanted.iter().copied())).sqrt();
        assert!(share < 0.1, "{quant}: {share}");
    }
    let names = exact.iter().map(|id| id.trim_end_matches("-ik")).collect::<Vec<_>>().join(" ");
    assert_eq!(
        names,
        "bf16_r16 iq1_bn iq1_bn-v1 iq1_s_r4 iq2_bn-v1 iq2_k iq2_k_r4 iq2_ks iq2_s_r4 iq2_tn iq2_xs_r4 iq2_xxs_r4 iq3_s_r4 iq3_xxs_r4 iq4_nl_r4 iq4_xs_r4 iq4_xs_r8 mxfp4_r8 q2_k_r4 q3_k_r4 q4_0_r4 q4_0_r8 q4_k_r4 q5_0_r4 q5_k_r4 q6_0 q6_0_r4 q6_k_r4 q8_0_r4 q8_0_r8 q8_k_r16 q8_k_r8"
    );
}

/// The scale of a whole tensor, which is behind its rows.
#[test]
fn one_scale_for_a_tensor_is_read_before_each_row() {
    one_scale("i2_s-bitnet", &OpenOptions::default());
    // Nothing in a file tells it from the first.
    let read_as = vec![type_of("i2_s-arm")];
    one_scale("i2_s-arm", &OpenOptions { read_as, ..OpenOptions::default() });
}

fn one_scale(id: &str, how: &OpenOptions) {
    let rows = golden();
    let rows = &rows[id];
    let (stored, len) = (rows.bytes(), 4 + rows.row_len / 4);
    let mut bytes: Vec<u8> = stored.chunks(len).flat_map(|row| row[4..].to_vec()).collect();
    let n = stored.len() / len;
    bytes.extend(&stored[..4]);
    bytes.extend([0xa5; 28]);
    let mut file = of_type(36, &[rows.row_len as u64, n as u64], bytes.len());
    let at = file.len() - 32 - bytes.len().next_multiple_of(32);
    file[at..at + bytes.len()].copy_from_slice(&bytes);
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.gguf"), folder.path().join("out.gguf"));
    fs::write(&input, &file).unwrap();
    let model = container::open(&input, how).unwrap();
    let wanted = decoded(type_of(id), Isa::best(), &stored, rows.row_len);
    let options = upgrade::Options { output: Some(output.clone()), ..Default::default() };
    let (model, plan) = upgrade::plan(model, &options).unwrap();
    change::carry(&model, &[plan], Existing::Replace, &()).unwrap();
    let upgraded = container::open(&output, &OpenOptions::default()).unwrap();
    let tensor = upgraded.tensor("t").unwrap();
    assert_eq!(tensor.quant.name(), "tq2_0");
    let mut raw = vec![0; tensor.bytes() as usize];
    upgraded.read_rows(tensor, 0, tensor.rows(), &mut raw).unwrap();
    let found = decoded(tensor.quant, Isa::best(), &raw, rows.row_len);
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() / 2048.0;
    assert!(found.iter().zip(&wanted).all(near));
    // As it is stored it stays a stream with its scale behind.
    let copy = upgrade::Options { as_stored: true, ..options };
    let model = container::open(&input, how).unwrap();
    let (model, plan) = upgrade::plan(model, &copy).unwrap();
    change::carry(&model, &[plan], Existing::Replace, &()).unwrap();
    let copied = fs::read(&output).unwrap();
    assert!(copied.windows(bytes.len()).any(|window| window == bytes));
}

/// Types of one number and one size: the right generator's levels were chosen, those of the wrong one are any.
#[test]
fn generators_of_trellis_types_are_told_by_their_levels() {
    let today = |x: u32| x.wrapping_mul(0xcbac_1fed);
    let level = |x: u32| {
        (x & 0x3f3f_3f3f).to_le_bytes().into_iter().map(i32::from).sum::<i32>() as f32 - 126.0
    };
    let first = |x: u32| x.wrapping_mul(89_226_354).wrapping_add(64_248_484);
    let half = |bits: u32| half::f16::from_bits(bits as u16).to_f32();
    let level_then = |x: u32| {
        let halves = (x & 0x8fff_8fff) ^ 0x3b60_3b60;
        half(halves) + half(halves >> 16)
    };
    let mut state = 7u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    };
    for (name, block_bytes) in [("iq2_kt", 68), ("iq3_kt", 100)] {
        let types: Vec<QuantType> =
            ["v2", "v1"].map(|dialect| QuantType::find(name, dialect).unwrap()).to_vec();
        // An encoder leaves out what overshoots.
        let mut chosen = |then: bool| -> u16 {
            let largest = |index: u32| {
                let mut x = index + 4096;
                let mut levels = (0..8).map(|_| {
                    x = if then { first(x) } else { today(x) };
                    if then { level_then(x).abs() * 31.75 } else { level(x).abs() }
                });
                levels.by_ref().fold(0f32, f32::max)
            };
            let all: [u32; 4] = std::array::from_fn(|_| random());
            all.into_iter().min_by(|a, b| largest(*a).total_cmp(&largest(*b))).unwrap() as u16
        };
        for then in [false, true] {
            let rows: Vec<u8> = (0..256)
                .flat_map(|_| {
                    let mut row = vec![0x3c; 4 + block_bytes];
                    for word in row[8..72].as_chunks_mut::<2>().0 {
                        *word = chosen(then).to_le_bytes();
                    }
                    row
                })
                .collect();
            let wanted = types[usize::from(then)];
            assert_eq!(era::tell(&types, &[(256, rows)]), Told::As(wanted), "{name}");
        }
    }
}

/// Rows that are by four, beside the reading by eight.
#[test]
fn groups_of_four_rows_are_told_from_groups_of_eight() {
    let rows = golden();
    for [four, eight] in
        [["q4_0_r4", "q4_0_r8"], ["q8_0_r4", "q8_0_r8"], ["iq4_xs_r4", "iq4_xs_r8"]]
    {
        let types = [eight, four].map(|name| QuantType::find(name, "ik").unwrap());
        let rows = &rows[&format!("{four}-ik")];
        let sample = (rows.row_len, rows.bytes().repeat(8));
        assert_eq!(era::tell(&types, &[sample]), Told::As(types[1]), "{four}");
    }
}

/// Ollama's first gpt-oss files have two neighbours in a byte, where llama.cpp has weights 16 apart.
#[test]
fn mxfp4_of_ollama_becomes_llama_cpp_s() {
    let mut file = of_type(4, &[64, 2], 68);
    let at = file.len() - 32 - 96;
    for (i, byte) in file[at..at + 68].iter_mut().enumerate() {
        *byte = if i % 17 == 0 { 120 + (i / 17) as u8 } else { (i * 37 + 11) as u8 };
    }
    let codes = [0., 1., 2., 3., 4., 6., 8., 12., 0., -1., -2., -3., -4., -6., -8., -12.];
    let wanted: Vec<f32> = file[at..at + 68]
        .chunks(17)
        .flat_map(|block| {
            let scale = (f32::from(block[0]) - 128.0).exp2();
            let pair = |byte: &u8| [byte & 15, byte >> 4].map(|n| scale * codes[usize::from(n)]);
            block[1..].iter().flat_map(pair).collect::<Vec<f32>>()
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.gguf"), folder.path().join("out.gguf"));
    fs::write(&input, file).unwrap();
    let model = container::open(&input, &OpenOptions::default()).unwrap();
    let options = upgrade::Options { output: Some(output.clone()), ..Default::default() };
    let (model, plan) = upgrade::plan(model, &options).unwrap();
    assert!(plan.steps.iter().all(|step| step.loss() == change::Loss::Exact));
    change::carry(&model, &[plan], Existing::Keep, &()).unwrap();
    // A copy stays a copy.
    let copy = upgrade::Options { as_stored: true, ..Default::default() };
    let (_, plan) = upgrade::plan(model, &copy).unwrap();
    assert!(plan.steps.iter().all(|step| matches!(step.act, change::Act::Copy)));
    let model = container::open(&output, &OpenOptions::default()).unwrap();
    let tensor = model.tensor("t").unwrap();
    assert_eq!(tensor.quant, QuantType::today("mxfp4").unwrap());
    let (mut bytes, mut found) = (vec![0; 68], vec![0.0; 128]);
    model.read_rows(tensor, 0, 2, &mut bytes).unwrap();
    decode_rows(tensor.quant, Isa::best(), &bytes, 64, &mut found);
    assert_eq!(found, wanted);
}

/// No file of the fork was at hand: blocks and weights are written by hand, by the formulas of its readers.
#[test]
fn types_of_prism_become_llama_cpp_s() {
    // Two bits each, the lowest first: 0, 1, 2, 3 are -1, 0, 1, 2 times the scale of 2.
    let pairs = [&[0, 0x40][..], &[0xe4; 31], &[0x1b]].concat();
    let mut of_pairs = [-2.0, 0.0, 2.0, 4.0].repeat(31);
    of_pairs.extend([4.0, 2.0, 0.0, -2.0]);
    // 128 is the digit 1 over and over, 184 the digits 2, 0, 1, 1, 0: a half, its negative, and zeros.
    let mut trits = [128; 28];
    [0, 23, 25].iter().for_each(|byte| trits[*byte] = 184);
    trits[26..].copy_from_slice(&[0, 0x38]);
    let mut of_trits = [0.0; 128];
    [0, 87, 121].iter().for_each(|first| of_trits[*first] = 0.5);
    [16, 64, 95, 119, 123].iter().for_each(|digit| of_trits[*digit] = -0.5);
    let bits = [0, 0x42, 0b101, 0, 0, 0x80];
    let mut of_bits = [-3.0; 32];
    [0, 2, 31].iter().for_each(|e| of_bits[*e] = 3.0);
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.gguf"), folder.path().join("out.gguf"));
    for (id, name, block, weights, becomes) in [
        (40, "q1_0", &bits[..], &of_bits[..], "q4_0"),
        (42, "q2_0", &pairs, &of_pairs, "q2_0"),
        (142, "pq2_0", &pairs, &of_pairs, "q2_0"),
        (143, "ptq1_0", &trits, &of_trits, "q2_0"),
    ] {
        let data = block.repeat(32);
        let mut file = of_type(id, &[weights.len() as u64, 32], data.len());
        let at = file.len() - 32 - data.len().next_multiple_of(32);
        file[at..at + data.len()].copy_from_slice(&data);
        fs::write(&input, &file).unwrap();
        let model = container::open(&input, &OpenOptions::default()).unwrap();
        assert_eq!(model.tensors[0].quant, QuantType::find(name, "prism").unwrap());
        for isa in Isa::available() {
            assert_eq!(decoded(model.tensors[0].quant, isa, block, weights.len()), weights, "{id}");
        }
        let options = upgrade::Options { output: Some(output.clone()), ..Default::default() };
        let (model, plan) = upgrade::plan(model, &options).unwrap();
        assert_eq!(plan.steps[0].loss(), change::Loss::Exact);
        change::carry(&model, &[plan], Existing::Replace, &()).unwrap();
        let made = container::open(&output, &OpenOptions::default()).unwrap();
        let tensor = made.tensor("t").unwrap();
        assert_eq!(tensor.quant, QuantType::today(becomes).unwrap());
        let mut bytes = vec![0; tensor.bytes() as usize];
        made.read_rows(tensor, 0, 32, &mut bytes).unwrap();
        assert_eq!(decoded(tensor.quant, Isa::best(), &bytes, weights.len()), weights.repeat(32));

        // One key, a number, says that the weights are turned; padding is the less by as much as it is over 32 bytes.
        let key = b"prism.hadamard.version";
        let entry = [&22u64.to_le_bytes()[..], key, &[4, 0, 0, 0, 1, 0, 0, 0]].concat();
        file[16] = 1;
        file.splice(24..24, entry.iter().copied());
        file.drain(at + 32..at + entry.len());
        fs::write(&input, &file).unwrap();
        let model = container::open(&input, &OpenOptions::default()).unwrap();
        assert_eq!((model.tensors[0].quant.dialect(), model.tails.len()), ("prism", 0), "{id}");
        let error = upgrade::plan(model.clone(), &options).unwrap_err().to_string();
        assert!(
            error.contains("(prism.hadamard.version), which only the fork of PrismML"),
            "{error}"
        );
        let copy = upgrade::Options { as_stored: true, ..options };
        let (_, plan) = upgrade::plan(model, &copy).unwrap();
        assert!(matches!(plan.steps[0].act, change::Act::Copy));
        let mut command = Command::new(env!("CARGO_BIN_EXE_regguf"));
        let inspected = command.arg("inspect").arg(&input).output().unwrap().stdout;
        assert!(String::from_utf8_lossy(&inspected).contains("nothing: its weights are turned"));
    }
}

/// What BitNet's own program reads of rows that are no whole blocks is not what it stored: nothing decodes them.
#[test]
fn torn_rows_of_i2_s_are_spoken_of_and_not_decoded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("torn.gguf");
    fs::write(&path, of_type(36, &[192, 4], 192 * 4 / 4 + 32)).unwrap();
    let model = container::open(&path, &OpenOptions::default()).unwrap();
    assert!(!model.tensors[0].is_decodable() && model.unsure().is_none());
    assert!(model.tensors[0].torn().unwrap().contains("across rows"));
    // Whole blocks are read, though nothing tells whose.
    fs::write(&path, of_type(36, &[256, 4], 256 * 4 / 4 + 32)).unwrap();
    let model = container::open(&path, &OpenOptions::default()).unwrap();
    assert!(model.tensors[0].torn().is_none() && model.tensors[0].is_decodable());
    assert!(model.unsure().unwrap().contains("builds for Arm"));
    let options = upgrade::Options { output: Some(folder.path().join("o")), ..Default::default() };
    let (_, plan) = upgrade::plan(model, &options).unwrap();
    assert!(plan.notes.iter().any(|note| note.contains("builds for Arm")));
}

#[test]
fn types_of_other_programs_are_named_sized_and_kept() {
    for (id, name, sizes, bytes, decoded) in [
        (144, "iq4_ks of ik_llama.cpp", &[256u64, 2][..], 280usize, true),
        (202, "q4_0_r8 of ik_llama.cpp", &[64, 8], 288, true),
        (36, "i2_s of BitNet (bitnet.cpp)", &[128, 4], 160, true),
        (4, "mxfp4_pairs of Ollama (gpt-oss, MXFP4 in OpenAI's order)", &[64, 2], 68, true),
        (38, "tl1 of BitNet (bitnet.cpp)", &[128, 4], 160, false),
        (39, "tl2 of BitNet (bitnet.cpp)", &[128, 4], 96, false),
        (143, "iq1_tn of ik_llama.cpp", &[512, 16], 1728, false),
        (143, "ptq1_0 of the fork of PrismML", &[512, 16], 1792, true),
        (142, "iq2_tn of ik_llama.cpp", &[256, 16], 1056, true),
        (142, "pq2_0 of the fork of PrismML", &[256, 16], 1088, true),
        (42, "q2_0/prism of the fork of PrismML", &[256, 16], 1088, true),
        (40, "q1_0/prism of the fork of PrismML", &[256, 16], 768, true),
        (105, "number 105 of ROCmFP", &[64, 2], 77, false),
    ] {
        let file = of_type(id, sizes, bytes);
        let input = Input::memory("fork.gguf", file);
        let model = container::open_alone(&input, &OpenOptions::default()).unwrap();
        let fork = &model.tensors[0];
        assert_eq!(fork.quant.to_string(), name);
        assert!(
            (bytes as u64..bytes as u64 + 32).contains(&fork.bytes()),
            "{name}: {}",
            fork.bytes()
        );
        assert_eq!((fork.misfit(), model.tails.len()), (None, 0), "{name}");
        assert_eq!(fork.is_decodable(), decoded, "{name}");
        assert_eq!(model.readable().check_decodable().is_ok(), decoded, "{name}");
        let findings = regguf::check::models::structure::check(&model);
        let failed = |f: &&regguf::check::Finding| f.severity == regguf::check::Severity::Failure;
        assert_eq!(findings.iter().find(failed), None, "{name}");
    }
    // What a quantizer with several threads made of it.
    let input = Input::memory("fork.gguf", of_type(36, &[128, 4], 256));
    let model = container::open_alone(&input, &OpenOptions::default()).unwrap();
    assert_eq!(model.tensors[0].misfit(), Some(160));
    let findings = regguf::check::models::structure::check(&model);
    assert!(findings.iter().any(|f| f.code == "broken-original"), "{findings:?}");
}

/// A file of every type that GGUF has had, and of other programs' types: whatever looks into the rows of a
/// file must know groups of rows and what it cannot decode.
#[test]
fn a_file_of_any_type_opens_and_is_carried_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let own = QuantType::all().filter(|q| q.gguf_id().is_some());
    let foreign = [36, 37, 105].into_iter().flat_map(QuantType::foreign);
    for quant in own.chain(foreign) {
        let (row, rows) = (quant.layout().elements as u64 * 2, quant.row_group() as u64 * 8);
        let bytes = match quant.stranger() {
            Some(foreign) => foreign.size(rows, row),
            None => quant.row_bytes(row).map(|n| n * rows),
        };
        let bytes = bytes.unwrap_or(512) as usize;
        let id = quant.stranger().map_or_else(|| quant.gguf_id().unwrap(), |f| f.id);
        fs::write(&path, of_type(id, &[row, rows], bytes)).unwrap();
        let options = OpenOptions { read_as: vec![quant], ..OpenOptions::default() };
        let model = container::open(&path, &options);
        let model = model.unwrap_or_else(|e| panic!("{quant}: {e}"));
        assert_eq!(model.tensors[0].quant, quant);
        let types = vec!["f32".to_owned()];
        let wanted = convert::Options { types, allow_requantize: true, ..Default::default() };
        let planned = convert::plan(model.clone(), &wanted).map(|_| ());
        match quant.stranger() {
            // Rows of this length do not fill blocks of I2_S.
            Some(_) => assert_eq!(planned.unwrap_err().exit_code(), 4, "{quant}"),
            None => planned.unwrap_or_else(|e| panic!("{quant}: {e}")),
        }
        let upgraded = upgrade::plan(model, &upgrade::Options::default());
        upgraded.unwrap_or_else(|e| panic!("{quant}: {e}"));
    }
}

/// A GGUF with a tensor of the type `id` that takes N bytes, and a float after it.
fn of_type(id: u32, sizes: &[u64], bytes: usize) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    let room = bytes.next_multiple_of(32) as u64;
    for (name, sizes, id, offset) in [("t", sizes, id, 0), ("u", &[8][..], 0, room)] {
        out.extend(1u64.to_le_bytes());
        out.extend(name.as_bytes());
        out.extend((sizes.len() as u32).to_le_bytes());
        sizes.iter().for_each(|n| out.extend(n.to_le_bytes()));
        out.extend(id.to_le_bytes());
        out.extend(offset.to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(32) + room as usize + 32, 7);
    out
}
