//! The program: what it takes, writes and says.

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::{env, fs};

const ADD: &str = ".version 8.0
.target sm_80
.address_size 64
.visible .entry add(.param .u64 x, .param .u64 y, .param .u64 out, .param .f32 factor, .param .u32 n)
{
    .reg .pred %p<2>; .reg .b32 %r<6>; .reg .b64 %rd<8>; .reg .f32 %f<6>;
    ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; ld.param.u64 %rd3, [out];
    ld.param.f32 %f4, [factor]; ld.param.u32 %r4, [n];
    mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x;
    mad.lo.s32 %r1, %r1, %r2, %r3;
    setp.ge.u32 %p1, %r1, %r4;
    @%p1 bra DONE;
    mul.wide.u32 %rd4, %r1, 4;
    add.s64 %rd5, %rd1, %rd4; ld.global.f32 %f1, [%rd5];
    add.s64 %rd6, %rd2, %rd4; ld.global.f32 %f2, [%rd6];
    fma.rn.f32 %f3, %f1, %f4, %f2;
    add.s64 %rd7, %rd3, %rd4; st.global.f32 [%rd7], %f3;
DONE:
    ret;
}
";

/// A folder of its own, gone when done.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("ptx-sim-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        let floats = |scale: f32| {
            (0..100).flat_map(|i| (i as f32 * scale).to_le_bytes()).collect::<Vec<u8>>()
        };
        fs::write(path.join("add.ptx"), ADD).expect("a file");
        fs::write(path.join("x"), floats(1.0)).expect("a file");
        fs::write(path.join("y"), floats(0.5)).expect("a file");
        Self(path)
    }

    fn run(&self, args: &str) -> Output {
        let program = env!("CARGO_BIN_EXE_ptx-sim");
        Command::new(program)
            .current_dir(&self.0)
            .args(args.split_whitespace())
            .output()
            .expect("it starts")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("the folder");
        let mut names: Vec<String> = entries
            .map(|e| e.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("the folder is there");
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_kernel_runs_on_files_and_is_counted() {
    let folder = Folder::new("runs");
    let args = "run add.ptx --entry add --grid 4 --block 32,1 --counters c.json --threads 2 in=x inout=y:y2 out=z:400 f32=2 u32=100";
    let output = folder.run(args);
    assert!(output.status.success(), "{}", said(&output));
    assert!(output.stdout.is_empty());
    let z = fs::read(folder.0.join("z")).expect("the result");
    let found: Vec<f32> =
        z.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four"))).collect();
    assert_eq!(found, (0..100).map(|i| 2.5 * i as f32).collect::<Vec<f32>>());
    assert_eq!(
        fs::read(folder.0.join("y2")).expect("a copy"),
        fs::read(folder.0.join("y")).expect("y")
    );

    let json: Value = serde_json::from_slice(&fs::read(folder.0.join("c.json")).expect("counters"))
        .expect("JSON");
    let counters = &json["add"];
    // Three whole warps and one of four lanes.
    assert_eq!(counters["instructions"], 4 * 20);
    assert_eq!(counters["global_load_requests"], 8);
    assert_eq!(counters["global_load_sectors"], 2 * 13);
    assert_eq!(counters["global_load_bytes"], 800);
    assert_eq!(counters["global_store_sectors"], 13);
    assert_eq!(counters["flops"], 200);
    assert_eq!(counters["barriers"], 0);
    assert_eq!(counters["buffers"].as_array().map(Vec::len), Some(3));
    assert_eq!(counters["buffers"][2]["argument"], 2);
    assert_eq!(counters["buffers"][2]["bytes"], 400);
}

#[test]
fn a_fault_is_named_first_and_leaves_no_file() {
    let folder = Folder::new("fault");
    let before = folder.names();
    let output = folder.run("run add.ptx --entry add --grid 4 --block 32 --counters c.json in=x in=y out=z:392 f32=2 u32=100");
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(
        said.starts_with(
            "error: out-of-bounds: kernel `add`, line 17, block (3, 0, 0), thread (2, 0, 0): "
        ),
        "{said}"
    );
    assert_eq!(folder.names(), before);
}

#[test]
fn what_cannot_be_written_leaves_no_file() {
    let folder = Folder::new("unwritable");
    let before = folder.names();
    let output = folder.run("run add.ptx --entry add --grid 4 --block 32 --counters no/c.json in=x in=y out=z:400 f32=2 u32=100");
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).starts_with("error: no/c.json: "), "{}", said(&output));
    assert_eq!(folder.names(), before);
}

#[test]
fn bad_input_is_one_line_that_says_where() {
    let folder = Folder::new("bad");
    fs::write(folder.0.join("bad.ptx"), ADD.replace("fma.rn.f32", "fmx.rn.f32")).expect("a file");
    fs::write(folder.0.join("half.ptx"), &ADD[..300]).expect("a file");
    let cases = [
        (
            "bad.ptx --entry add --grid 4 --block 32 in=x",
            "error: bad.ptx: kernel `add`, line 16: unknown instruction `fmx.rn.f32`\n",
        ),
        ("half.ptx --entry add --grid 4 --block 32 in=x", "error: half.ptx: line 7: "),
        ("none.ptx --entry add --grid 4 --block 32 in=x", "error: none.ptx: "),
        (
            "add.ptx --entry sub --grid 4 --block 32 in=x",
            "error: add.ptx: the module has no entry `sub`: it has add\n",
        ),
        (
            "add.ptx --entry add --grid 4 --block 32 in=x",
            "error: kernel `add` has 5 parameters, 1 are given\n",
        ),
        (
            "add.ptx --entry add --grid 4 --block 32 in=x in=y out=z:400 f64=2 u32=100",
            "error: parameter 3 of kernel `add` has 4 bytes, what is given has 8\n",
        ),
        (
            "add.ptx --entry add --grid 4 --block 2000 in=x in=y out=z:400 f32=2 u32=100",
            "error: add.ptx: kernel `add`: a block of 2000 x 1 x 1 threads",
        ),
    ];
    for (args, wanted) in cases {
        let output = folder.run(&format!("run {args}"));
        assert_eq!(output.status.code(), Some(1), "{args}");
        let said = said(&output);
        assert!(said.starts_with(wanted) && said.lines().count() == 1, "{args}: {said}");
    }
}

#[test]
fn wrong_use_is_status_two() {
    let folder = Folder::new("use");
    for args in [
        "",
        "run add.ptx",
        "run add.ptx --entry add --grid 0 --block 32",
        "run add.ptx --entry add --grid 1,2,3,4 --block 32",
        "run add.ptx --entry add --grid 1 --block 32 i32=x",
        "run add.ptx --entry add --grid 1 --block 32 out=z",
        "run add.ptx --entry add --grid 1 --block 32 both=z",
        "run add.ptx --entry add --grid 1 --block 32 --threads 0",
    ] {
        assert_eq!(folder.run(args).status.code(), Some(2), "{args}");
    }
}
