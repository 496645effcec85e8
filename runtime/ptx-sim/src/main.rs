//! `ptx-sim`: runs a kernel of a PTX file without a GPU.
//!
//! Exit status: 0 done, 1 failed, 2 used wrongly. A fault's line begins `error: <fault name>`. Files are written when
//! the kernel has ended well, and each as a whole or not at all.

use clap::{Args, Parser, Subcommand};
use q35_ptx_sim::{Buffer, Counters, Launch, Memory, Module, Program};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Run PTX without a GPU, check what it does, and count it
#[derive(Parser)]
#[command(name = "ptx-sim", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(Run),
}

/// Run one kernel of a PTX file
#[derive(Args)]
struct Run {
    /// The PTX text
    file: PathBuf,
    /// The kernel
    #[arg(long)]
    entry: String,
    /// Blocks: X, X,Y or X,Y,Z
    #[arg(long, value_parser = extents)]
    grid: [u32; 3],
    /// Threads of a block: X, X,Y or X,Y,Z
    #[arg(long, value_parser = extents)]
    block: [u32; 3],
    /// Bytes of dynamic shared memory
    #[arg(long, default_value_t = 0)]
    shared: u64,
    /// Write what was counted to this JSON file
    #[arg(long, value_name = "OUT.json")]
    counters: Option<PathBuf>,
    /// Host threads; results and counters do not depend on them [default: one a core]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// The kernel's parameters in order: in=FILE (a buffer of the file's bytes), out=FILE:BYTES (a never-written
    /// buffer, saved when done), inout=FILE:OUTFILE, or a value as i32=, u32=, i64=, u64=, f32= or f64=
    #[arg(value_name = "ARG", value_parser = argument)]
    arguments: Vec<Argument>,
}

#[derive(Clone, Debug)]
enum Argument {
    In(PathBuf),
    Out(PathBuf, u64),
    InOut(PathBuf, PathBuf),
    Value(Vec<u8>),
}

fn extents(text: &str) -> Result<[u32; 3], String> {
    let mut out = [1; 3];
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() > 3 {
        return Err("expected X, X,Y or X,Y,Z".into());
    }
    for (extent, part) in out.iter_mut().zip(parts) {
        *extent = part
            .parse()
            .ok()
            .filter(|n| *n > 0)
            .ok_or("expected X, X,Y or X,Y,Z, each 1 or more")?;
    }
    Ok(out)
}

fn argument(text: &str) -> Result<Argument, String> {
    const KINDS: &str = "expected in=FILE, out=FILE:BYTES, inout=FILE:OUTFILE, or i32=, u32=, i64=, u64=, f32=, f64=";
    fn bytes<T: std::str::FromStr, const N: usize>(
        text: &str,
        to: fn(T) -> [u8; N],
    ) -> Result<Argument, String> {
        text.parse()
            .map(|v| Argument::Value(to(v).to_vec()))
            .map_err(|_| format!("`{text}` is no such value"))
    }
    let (kind, value) = text.split_once('=').ok_or(KINDS)?;
    match kind {
        "in" => Ok(Argument::In(value.into())),
        "out" => {
            let (file, bytes) = value.rsplit_once(':').ok_or("expected out=FILE:BYTES")?;
            let bytes = bytes.parse().map_err(|_| format!("`{bytes}` is no number of bytes"))?;
            Ok(Argument::Out(file.into(), bytes))
        }
        "inout" => {
            let (from, to) = value.rsplit_once(':').ok_or("expected inout=FILE:OUTFILE")?;
            Ok(Argument::InOut(from.into(), to.into()))
        }
        "i32" => bytes(value, i32::to_le_bytes),
        "u32" => bytes(value, u32::to_le_bytes),
        "i64" => bytes(value, i64::to_le_bytes),
        "u64" => bytes(value, u64::to_le_bytes),
        "f32" => bytes(value, f32::to_le_bytes),
        "f64" => bytes(value, f64::to_le_bytes),
        _ => Err(KINDS.into()),
    }
}

fn main() -> ExitCode {
    let Command::Run(args) = Cli::parse().command;
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// A buffer among the arguments.
struct Given {
    argument: usize,
    address: u64,
    bytes: u64,
    save: Option<PathBuf>,
}

fn run(args: &Run) -> Result<(), String> {
    let name = args.file.display();
    let text = read(&args.file)?;
    let text = String::from_utf8(text).map_err(|_| format!("{name} is no text"))?;
    let mut memory = Memory::new();
    let in_file = |e: q35_ptx_sim::Error| format!("{name}: {e}");
    let program =
        Module::parse(&text).and_then(|module| module.load(&mut memory)).map_err(in_file)?;
    let (params, given) = parameters(args, &program, &mut memory)?;
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let launch = Launch {
        grid: args.grid,
        block: args.block,
        dynamic_shared: args.shared,
        params: &params,
        threads: args.threads.map_or_else(cores, usize::from),
        ..Launch::default()
    };
    let counters = program.launch(&memory, &args.entry, &launch).map_err(|e| match e {
        // The fault's name comes first.
        q35_ptx_sim::Error::Fault(fault) => fault.to_string(),
        other => in_file(other),
    })?;
    let mut files = vec![];
    for buffer in &given {
        if let Some(path) = &buffer.save {
            let mut bytes = vec![0; buffer.bytes as usize];
            memory.read(buffer.address, &mut bytes).map_err(|e| e.to_string())?;
            files.push((path.as_path(), bytes));
        }
    }
    if let Some(path) = &args.counters {
        let mut text = report(&args.entry, &counters, &given).to_string();
        text.push('\n');
        files.push((path.as_path(), text.into_bytes()));
    }
    write_all(&files)
}

fn parameters(
    args: &Run,
    program: &Program,
    memory: &mut Memory,
) -> Result<(Vec<u8>, Vec<Given>), String> {
    let name = args.file.display();
    let wanted = program.parameters(&args.entry).map_err(|e| format!("{name}: {e}"))?;
    if wanted.len() != args.arguments.len() {
        let given = args.arguments.len();
        return Err(format!(
            "kernel `{}` has {} parameters, {given} are given",
            args.entry,
            wanted.len()
        ));
    }
    let mut params = vec![];
    let mut given = vec![];
    for (i, (&(offset, size), argument)) in wanted.iter().zip(&args.arguments).enumerate() {
        let mut buffer =
            |contents: Option<&[u8]>, bytes: u64, save: Option<&Path>| -> Result<Vec<u8>, String> {
                let address = memory.alloc(bytes).map_err(|e| e.to_string())?;
                if let Some(contents) = contents {
                    memory.write(address, contents).map_err(|e| e.to_string())?;
                }
                given.push(Given { argument: i, address, bytes, save: save.map(Path::to_owned) });
                Ok(address.to_le_bytes().to_vec())
            };
        let value = match argument {
            Argument::Value(value) => value.clone(),
            Argument::Out(path, bytes) => buffer(None, *bytes, Some(path))?,
            Argument::In(path) => {
                let contents = read(path)?;
                buffer(Some(&contents), contents.len() as u64, None)?
            }
            Argument::InOut(path, to) => {
                let contents = read(path)?;
                buffer(Some(&contents), contents.len() as u64, Some(to))?
            }
        };
        if value.len() as u64 != size {
            let have = value.len();
            return Err(format!(
                "parameter {i} of kernel `{}` has {size} bytes, what is given has {have}",
                args.entry
            ));
        }
        params.resize(offset as usize, 0);
        params.extend(value);
    }
    Ok((params, given))
}

/// One member for the entry; its buffers are the arguments in order, then what else was touched.
fn report(entry: &str, counters: &Counters, given: &[Given]) -> Value {
    let mut out = counters.to_json();
    let of_arguments = given.iter().map(|g| {
        let untouched = || Buffer { address: g.address, size: g.bytes, ..Buffer::default() };
        let found = counters.buffers.iter().find(|b| b.address == g.address);
        let mut value = found.cloned().unwrap_or_else(untouched).to_json();
        value["argument"] = json!(g.argument);
        value
    });
    let others = counters.buffers.iter().filter(|b| given.iter().all(|g| g.address != b.address));
    out["buffers"] = of_arguments.chain(others.map(Buffer::to_json)).collect();
    Value::Object(Map::from_iter([(entry.to_owned(), out)]))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// All files or none: written beside their places first, then moved there.
fn write_all(files: &[(&Path, Vec<u8>)]) -> Result<(), String> {
    let beside = |path: &Path| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        PathBuf::from(name)
    };
    let clean = |done: &[(&Path, Vec<u8>)]| {
        for (path, _) in done {
            // Gone already is as good.
            let _ = fs::remove_file(beside(path));
        }
    };
    for (i, (path, bytes)) in files.iter().enumerate() {
        if let Err(error) = fs::write(beside(path), bytes) {
            clean(&files[..=i]);
            return Err(format!("{}: {error}", path.display()));
        }
    }
    for (path, _) in files {
        if let Err(error) = fs::rename(beside(path), path) {
            clean(files);
            return Err(format!("{}: {error}", path.display()));
        }
    }
    Ok(())
}
