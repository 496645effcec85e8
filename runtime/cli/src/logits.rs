//! `q35 logits`

use crate::failure::Failure;
use crate::loading::{self, Machine, Weights};
use crate::output::Output;
use q35_types::step::PAGE;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Instant;

/// Write the logits of token sequences to a safetensors file
///
/// The file has a tensor `logits`, F32 [T, vocab], with one row for each position. Further
/// sequences run in the same batch and are written as `logits.1`, `logits.2`, and so on. The
/// logits are raw: rows of the vocabulary that are padding are not masked.
///
/// The code in an artifact is code: it runs with all your rights. Use only artifacts that you made
/// or trust.
#[derive(clap::Args)]
pub struct Logits {
    /// What `q35c compile` wrote
    artifact: PathBuf,
    /// The checkpoint's folder
    #[arg(long, value_name = "DIR")]
    weights: PathBuf,
    /// Ids of a sequence, such as 1,2,3; once for each sequence
    #[arg(long, value_name = "IDS", required = true, value_parser = ids)]
    tokens: Vec<Ids>,
    /// The file to write
    #[arg(short, long, value_name = "OUT.safetensors")]
    output: PathBuf,
    /// Feed each sequence so many tokens at a time; 1 goes through decode [default: as many as fit
    /// into a step]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunk: Option<u32>,
    #[command(flatten)]
    machine: Machine,
}

/// Ids of one sequence. A type of its own, as a plain list would be all values of the option.
#[derive(Debug, Clone, PartialEq)]
struct Ids(Vec<u32>);

/// `1,2,3`. An empty list is well formed: what is wrong with it is not its form.
fn ids(text: &str) -> Result<Ids, String> {
    if text.trim().is_empty() {
        return Ok(Ids(Vec::new()));
    }
    let id = |part: &str| {
        let id = part.trim().parse();
        id.map_err(|_| format!("`{part}` is not a token id, expected numbers such as 1,2,3"))
    };
    text.split(',').map(id).collect::<Result<_, _>>().map(Ids)
}

pub fn run(args: &Logits, verbose: u8) -> Result<(), Failure> {
    // Found out before minutes of loading.
    let artifact = loading::artifact(&args.artifact)?;
    let mut output = Output::create(&args.output)?;
    let prompts: Vec<&[u32]> = args.tokens.iter().map(|ids| ids.0.as_slice()).collect();
    let tokens = prompts.iter().map(|p| p.len().next_multiple_of(PAGE as usize) as u64);
    let kv_tokens = tokens.sum::<u64>().max(PAGE.into());
    let weights = Weights::Checkpoint(&args.weights);
    let mut model = loading::load(&artifact, weights, &args.machine, Some(kv_tokens), verbose)?;
    if verbose > 1 {
        prompts.iter().for_each(|ids| eprintln!("tokens: {}", loading::listed(ids)));
    }

    let start = Instant::now();
    let vocab = model.facts().vocab;
    let lengths: Vec<usize> = prompts.iter().map(|p| p.len()).collect();
    let layout = Layout::new(&lengths, vocab);
    output.write_at(0, &layout.header)?;
    let mut bytes = Vec::with_capacity(layout.row as usize);
    let mut written = Ok(());
    model.all_logits(&prompts, args.chunk.map(|n| n as usize), |prompt, position, row| {
        bytes.clear();
        bytes.extend(row.iter().flat_map(|logit| logit.to_le_bytes()));
        if written.is_ok() {
            written = output.write_at(layout.place(prompt, position), &bytes);
        }
    })?;
    written?;
    output.commit()?;
    if verbose > 0 {
        let tokens: usize = lengths.iter().sum();
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("wrote `{}`: {tokens} rows of {vocab}, {seconds:.2} s", args.output.display());
    }
    Ok(())
}

/// Where rows lie in the file.
struct Layout {
    header: Vec<u8>,
    /// First byte of each tensor.
    tensors: Vec<u64>,
    /// Bytes of a row.
    row: u64,
}

impl Layout {
    /// Of tensors with so many rows of `vocab` floats.
    fn new(lengths: &[usize], vocab: u32) -> Self {
        let row = u64::from(vocab) * size_of::<f32>() as u64;
        let mut entries = Map::new();
        let mut tensors = Vec::new();
        let mut end = 0;
        for (n, &length) in lengths.iter().enumerate() {
            let name = match n {
                0 => "logits".into(),
                n => format!("logits.{n}"),
            };
            let begin = end;
            end += length as u64 * row;
            tensors.push(begin);
            let entry = json!({
                "dtype": "F32", "shape": [length, vocab], "data_offsets": [begin, end],
            });
            entries.insert(name, entry);
        }
        let mut json = Value::Object(entries).to_string();
        // Data begins at a multiple of eight, after eight bytes of length.
        json += &" ".repeat(json.len().next_multiple_of(8) - json.len());
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.extend(json.bytes());
        for begin in &mut tensors {
            *begin += header.len() as u64;
        }
        Self { header, tensors, row }
    }

    fn place(&self, tensor: usize, row: u32) -> u64 {
        self.tensors[tensor] + u64::from(row) * self.row
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::{Dtype, SafeTensors};

    #[test]
    fn ids_are_numbers_with_commas() {
        assert_eq!(ids("1, 2,3"), Ok(Ids(vec![1, 2, 3])));
        assert_eq!(ids("4294967295"), Ok(Ids(vec![u32::MAX])));
        assert_eq!(ids(" "), Ok(Ids(vec![])));
        for (text, part) in [("1,,2", ""), ("1,x", "x"), ("-1", "-1"), ("4294967296", "4294967296")]
        {
            let expected = format!("`{part}` is not a token id, expected numbers such as 1,2,3");
            assert_eq!(ids(text), Err(expected));
        }
    }

    #[test]
    fn rows_written_in_any_order_make_a_file_that_safetensors_reads() {
        let lengths = [2, 1, 3];
        let layout = Layout::new(&lengths, 3);
        let mut file = layout.header.clone();
        file.resize(file.len() + 6 * 3 * 4, 0);
        for (tensor, row) in [(2, 2), (0, 1), (1, 0), (2, 0), (0, 0), (2, 1)] {
            let logit = (10 * tensor as u32 + row) as f32;
            let place = layout.place(tensor, row) as usize;
            file[place..place + 12].copy_from_slice(&[logit.to_le_bytes(); 3].concat());
        }
        let read = SafeTensors::deserialize(&file).unwrap();
        assert_eq!(read.len(), 3);
        for (n, name) in ["logits", "logits.1", "logits.2"].into_iter().enumerate() {
            let tensor = read.tensor(name).unwrap();
            assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::F32, &[lengths[n], 3][..]));
            for (row, bytes) in tensor.data().chunks(12).enumerate() {
                let logit = (10 * n + row) as f32;
                assert_eq!(bytes, [logit.to_le_bytes(); 3].concat());
            }
        }
    }
}
