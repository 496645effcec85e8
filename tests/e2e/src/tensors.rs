//! Safetensors files taken apart and put together differently.

use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;

/// A file's tensors, in the order of their data.
#[derive(Debug, Clone)]
pub struct Tensors(pub Vec<Tensor>);

#[derive(Debug, Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

impl Tensors {
    pub fn read(path: &Path) -> Tensors {
        let (header, data) = split(path);
        let mut found: Vec<(usize, Tensor)> = header
            .into_iter()
            .filter(|(name, _)| name != "__metadata__")
            .map(|(name, info)| {
                let number = |v: &Value| v.as_u64().expect("a number") as usize;
                let [begin, end] = [0, 1].map(|n| number(&info["data_offsets"][n]));
                let shape = info["shape"].as_array().expect("a list").iter().map(number).collect();
                let dtype = info["dtype"].as_str().expect("a name").into();
                (begin, Tensor { name, dtype, shape, data: data[begin..end].into() })
            })
            .collect();
        found.sort_by_key(|(begin, _)| *begin);
        Tensors(found.into_iter().map(|(_, tensor)| tensor).collect())
    }

    pub fn write(&self, path: &Path) {
        let mut header = Map::new();
        let mut data = vec![];
        for t in &self.0 {
            let begin = data.len();
            data.extend(&t.data);
            let offsets = [begin, data.len()];
            let info = json!({ "dtype": t.dtype, "shape": t.shape, "data_offsets": offsets });
            header.insert(t.name.clone(), info);
        }
        join(path, Value::Object(header).to_string().as_bytes(), &data);
    }

    /// The tensor whose name ends so.
    pub fn find(&mut self, end: &str) -> &mut Tensor {
        self.0.iter_mut().find(|t| t.name.ends_with(end)).expect(end)
    }

    pub fn remove(&mut self, name: &str) {
        self.0.retain(|t| t.name != name);
    }
}

/// Change a file's header and leave its data as it is.
pub fn edit_header(path: &Path, edit: impl FnOnce(&mut Map<String, Value>)) {
    let (mut header, data) = split(path);
    edit(&mut header);
    join(path, Value::Object(header).to_string().as_bytes(), &data);
}

fn split(path: &Path) -> (Map<String, Value>, Vec<u8>) {
    let bytes = fs::read(path).expect("a safetensors file");
    let (length, rest) = bytes.split_first_chunk().expect("a length");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    (serde_json::from_slice(header).expect("a header"), data.into())
}

fn join(path: &Path, header: &[u8], data: &[u8]) {
    let padding = header.len().next_multiple_of(8) - header.len();
    let length = (header.len() + padding) as u64;
    let parts = [&length.to_le_bytes(), header, &b"        "[..padding], data];
    fs::write(path, parts.concat()).expect("a temporary file");
}
