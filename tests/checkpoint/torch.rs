//! A small writer of torch's files, for checkpoints that no published program would write.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{Cursor, Write};

use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// A tensor to be written: a view of a storage.
#[derive(Clone)]
pub struct View {
    pub name: String,
    pub class: &'static str,
    pub key: String,
    pub elements: usize,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub stride: Vec<usize>,
}

impl View {
    /// A tensor that fills its storage row by row.
    pub fn whole(name: &str, class: &'static str, key: &str, shape: &[usize]) -> View {
        let stride = match shape {
            [_, columns] => vec![*columns, 1],
            _ => vec![1],
        };
        let elements = shape.iter().product();
        let (name, key, shape) = (name.into(), key.into(), shape.to_vec());
        View { name, class, key, elements, offset: 0, shape, stride }
    }
}

pub fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

pub fn int(value: usize) -> Vec<u8> {
    [b"J", &(value as u32).to_le_bytes()[..]].concat()
}

fn tuple(items: &[usize]) -> Vec<u8> {
    let items: Vec<u8> = items.iter().flat_map(|v| int(*v)).collect();
    [b"(", items.as_slice(), b"t"].concat()
}

/// The opcodes of one tensor; `legacy` adds the sixth item of the persistent id.
pub fn tensor(view: &View, legacy: bool) -> Vec<u8> {
    [
        &b"ctorch._utils\n_rebuild_tensor_v2\n(("[..],
        &text("storage"),
        format!("ctorch\n{}\n", view.class).as_bytes(),
        &text(&view.key),
        &text("cpu"),
        &int(view.elements),
        if legacy { b"NtQ" } else { b"tQ" },
        &int(view.offset),
        &tuple(&view.shape),
        &tuple(&view.stride),
        b"\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}

/// The pickle of an ordered dict of tensors, with the `_metadata` that modules put on it.
pub fn state_dict(views: &[View], legacy: bool) -> Vec<u8> {
    let mut out = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    for view in views {
        out.extend(text(&view.name));
        out.extend(tensor(view, legacy));
    }
    out.extend(b"u}");
    out.extend(text("_metadata"));
    out.extend(b"}sb.");
    out
}

/// A zip archive of a pickle and storages.
pub fn archive(pickle: &[u8], storages: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    let mut put = |name: String, bytes: &[u8]| {
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    };
    put("a/data.pkl".into(), pickle);
    for (key, bytes) in storages {
        put(format!("a/data/{key}"), bytes);
    }
    zip.finish().unwrap().into_inner()
}

/// A file in the layout of torch before 1.6.
pub fn legacy(views: &[View], storages: &[(&str, &[u8])], width: usize) -> Vec<u8> {
    let mut out = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.".to_vec();
    out.extend(b"\x80\x02}");
    out.extend(text("little_endian"));
    out.extend(b"\x88s.");
    out.extend(state_dict(views, true));
    out.extend(b"\x80\x02](");
    storages.iter().for_each(|(key, _)| out.extend(text(key)));
    out.extend(b"e.");
    for (_, bytes) in storages {
        out.extend((bytes.len() as u64 / width as u64).to_le_bytes());
        out.extend(*bytes);
    }
    out
}

/// A file in the first layout, a tar archive.
pub fn tar(views: &[View], storages: &[(&str, &[u8])], width: usize) -> Vec<u8> {
    let mut stored = b"\x80\x02".to_vec();
    stored.extend(int(storages.len()));
    stored.push(b'.');
    for (key, bytes) in storages {
        stored.extend(b"\x80\x02");
        stored.extend(text(key));
        stored.extend(text("cpu"));
        stored.extend(format!("ctorch\n{}\n", views[0].class).as_bytes());
        stored.extend(b"\x87.");
        stored.extend((bytes.len() as u64 / width as u64).to_le_bytes());
        stored.extend(*bytes);
    }
    stored.extend(b"\x80\x02].");
    let mut tensors = [b"\x80\x02", int(views.len()).as_slice(), b"."].concat();
    let mut object = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    for (id, view) in views.iter().enumerate() {
        tensors.extend(b"\x80\x02");
        tensors.extend(int(id));
        tensors.extend(text(&view.key));
        tensors.extend(b"ctorch\nFloatTensor\n\x87.");
        tensors.extend((view.shape.len() as u64).to_le_bytes());
        let numbers = view.shape.iter().chain(&view.stride).chain([&view.offset]);
        numbers.for_each(|n| tensors.extend((*n as u64).to_le_bytes()));
        object.extend(text(&view.name));
        object.extend(int(id));
        object.push(b'Q');
    }
    object.extend(b"u.");
    let mut out = Vec::new();
    let system = [b"\x80\x02}", text("little_endian").as_slice(), b"\x88s."].concat();
    for (name, bytes) in
        [("sys_info", system), ("storages", stored), ("tensors", tensors), ("pickle", object)]
    {
        let mut header = [0u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
        header[257..262].copy_from_slice(b"ustar");
        out.extend(header);
        out.extend(&bytes);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}
