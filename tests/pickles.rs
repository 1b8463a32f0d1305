//! Pickles and archives made to harm: each is refused in one line, in little memory.

use std::fs;

use regguf::checkpoint::{self, Options};
use zip::CompressionMethod::{Deflated, Stored};

#[path = "checkpoint/torch.rs"]
mod torch;

use torch::View;

/// What opening a file with these bytes says; it must be one line.
fn refusal(what: &str, file: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("consolidated.00.pth");
    fs::write(&path, file).unwrap();
    let Err(error) = checkpoint::open(&path, &Options::default()) else {
        panic!("{what}: was opened");
    };
    let error = error.to_string();
    assert!(!error.contains('\n'), "{what}: {error}");
    error
}

fn archive(pickle: &[u8]) -> Vec<u8> {
    torch::archive(pickle, &[("0", &[0; 64])], Stored)
}

fn good() -> Vec<u8> {
    let view = View::whole("tok_embeddings.weight", "FloatStorage", "0", &[4, 4]);
    archive(&torch::state_dict(&[view], false))
}

/// All places of `pattern` in `bytes`.
fn places(bytes: &[u8], pattern: &[u8]) -> Vec<usize> {
    let fits = |i: &usize| bytes[*i..].starts_with(pattern);
    (0..bytes.len()).filter(fits).collect()
}

#[test]
fn hostile_files_are_refused() {
    let begin = |file: &[u8]| places(file, b"\x80\x02")[0];
    for (module, name) in
        [("posix", "system"), ("os", "system"), ("__builtin__", "eval"), ("builtins", "exec")]
    {
        let global = format!("c{module}\n{name}\n(");
        let pickle = [b"\x80\x02", global.as_bytes(), &torch::text("echo harm"), b"tR."].concat();
        let file = archive(&pickle);
        let error = refusal(name, &file);
        let at = begin(&file) + 2;
        assert!(error.contains(&format!("{module}.{name}")), "{error}");
        assert!(error.contains(&format!("at {at:#x}")), "{error}: not at {at:#x}");
    }
    let error = refusal("a list in itself", &archive(b"\x80\x02]q\x00h\x00a."));
    assert!(error.contains("second place"), "{error}");

    let mut laughs = [b"\x80\x02", torch::text("ha").as_slice(), b"q\0"].concat();
    (0..40u8).for_each(|i| laughs.extend([b'h', i, b'h', i, 0x86, b'q', i + 1]));
    laughs.push(b'.');
    let error = refusal("values doubled forty times", &archive(&laughs));
    assert!(error.contains("at most"), "{error}");

    let mut deep = b"\x80\x02N".to_vec();
    deep.resize(deep.len() + 200_000, 0x85);
    deep.push(b'.');
    let error = refusal("200 000 nested tuples", &archive(&deep));
    assert!(error.contains("in one another"), "{error}");

    let mut marks = b"\x80\x02".to_vec();
    marks.resize(9 << 20, b'(');
    refusal("nine million marks", &archive(&marks));

    let mut memo = [b"\x80\x02", torch::text(&"x".repeat(1 << 20)).as_slice()].concat();
    (0..=255u8).for_each(|i| memo.extend([b'q', i]));
    let error = refusal("a long text remembered 256 times", &archive(&memo));
    assert!(error.contains("at most"), "{error}");

    let error = refusal("an integer of a gigabyte", &archive(b"\x80\x02\x8b\0\0\0\x40."));
    assert!(error.contains("1073741824"), "{error}");
    refusal("a string of four gigabytes", &archive(b"\x80\x02X\xff\xff\xff\xff."));
    refusal("an empty stack", &archive(b"\x80\x02R."));
    refusal("a dict with a key alone", &archive(b"\x80\x02}(NuX."));
    refusal("a persistent id of old", &archive(b"\x80\x02Px\n."));
    refusal("no tensors", &archive(b"\x80\x02}."));
    refusal("two values", &archive(b"\x80\x02NN."));

    for (shape, stride, offset, elements) in [
        (vec![4, 4], vec![4, 1], 0, 17),
        (vec![4, 4], vec![4, 1], 0, 15),
        (vec![4, 4], vec![4, 1], 1, 16),
        (vec![4, 5], vec![4, 1], 0, 16),
        (vec![0x7fff_ffff, 0x7fff_ffff], vec![0x7fff_ffff, 0x7fff_ffff], 0, 16),
        (vec![0x7fff_ffff, 4], vec![0, 1], 0, 16),
        (vec![4, 4], vec![4], 0, 16),
        (vec![0, 4], vec![4, 1], 0, 16),
    ] {
        let mut view = View::whole("tok_embeddings.weight", "FloatStorage", "0", &[4, 4]);
        (view.shape, view.stride, view.offset, view.elements) = (shape, stride, offset, elements);
        refusal("a view beyond its storage", &archive(&torch::state_dict(&[view], false)));
    }

    let good = good();
    for len in 0..good.len() {
        refusal(&format!("cut to {len} bytes"), &good[..len]);
    }

    let views = [
        View::whole("a", "FloatStorage", "0", &[4, 4]),
        View::whole("b", "FloatStorage", "1", &[4, 4]),
    ];
    let pickle = torch::state_dict(&views, false);
    let two = torch::archive(&pickle, &[("0", &[1; 64]), ("1", &[2; 64])], Stored);
    let mut doubled = two.clone();
    for at in places(&two, b"a/data/1") {
        doubled[at + 7] = b'0';
    }
    let error = refusal("two entries of one name", &doubled);
    assert!(error.contains("one name"), "{error}");
    let mut overlapping = two.clone();
    let headers = places(&two, b"PK\x01\x02");
    let (first, last) = (headers[1], headers[2]);
    overlapping.copy_within(first + 42..first + 46, last + 42);
    let error = refusal("two entries in one place", &overlapping);
    assert!(error.contains("overlap"), "{error}");
    for name in ["../evil.pth", "/etc/evil", "a/../../evil", "..\\evil"] {
        let evil = format!("{name:_<12}");
        let file = torch::archive(&pickle, &[("0", &[1; 64]), (&evil, &[2; 64])], Stored);
        let mut renamed = file.clone();
        // `a/data/NAME` becomes a name that leaves the archive, of the same length.
        for at in places(&file, format!("a/data/{evil}").as_bytes()) {
            let padded = format!("{name:_<19}");
            renamed[at..at + 19].copy_from_slice(padded.as_bytes());
        }
        let error = refusal(name, &renamed);
        assert!(error.contains("inside the archive"), "{name}: {error}");
    }

    if let Ok(status) = fs::read_to_string("/proc/self/status") {
        let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
        let peak: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(peak < 256 << 10, "peak memory {peak} kB");
    }
    // Last, for it is in memory while it is made.
    let bomb = torch::archive(&vec![b'N'; 200 << 20], &[], Deflated);
    let error = refusal("a pickle of 200 MB packed in little", &bomb);
    assert!(error.contains("at most"), "{error}");
}
