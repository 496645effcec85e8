//! `q35c compile --cubin`: machine code beside the text of kernels in PTX, and devices that do not take it.

use q35_artifact::Artifact;
use q35_e2e::golden::checkpoint;
use q35_e2e::libcuda::stand_in;
use q35_e2e::program::{outcome, ptxas, q35, q35c};
use q35_e2e::scratch::Scratch;
use std::path::{Path, PathBuf};
use std::process::Command;

const MODEL: &str = "dense-text-f32";

fn compile(out: &Path, options: &[&str]) -> Command {
    let mut command = q35c();
    command.arg("compile").arg(checkpoint(MODEL).join("config.json")).arg("-o").arg(out);
    command.args(["--max-batch=2", "--max-chunk=64"]).args(options);
    command
}

fn compiled(scratch: &Scratch, name: &str, options: &[&str]) -> PathBuf {
    let out = scratch.join(name);
    outcome(&mut compile(&out, options)).text();
    out
}

/// Code of every kernel for the one architecture.
fn code(artifact: &Path) -> Vec<Vec<u8>> {
    let artifact = Artifact::read_file(artifact).expect("an artifact");
    let section = artifact.target("ptx").expect("it was asked for");
    section.variants[0].kernels.iter().map(|(_, code)| code.clone()).collect()
}

#[test]
fn machine_code_follows_the_text_and_devices_that_cannot_run_it_take_the_text() {
    let Some(ptxas) = ptxas() else { return };
    let scratch = Scratch::new();
    let assembler = format!("--ptxas={}", ptxas.display());
    let options = ["--target=cpu,ptx:sm_80", "--cubin", &assembler];
    let with = compiled(&scratch, "with.bin", &options);
    let again = compiled(&scratch, "again.bin", &options);
    let without = compiled(&scratch, "without.bin", &options[..1]);
    let bytes = |file: &Path| std::fs::read(file).expect("an artifact");
    assert!(bytes(&with) == bytes(&again), "the same bytes each time");
    for (with, text) in code(&with).iter().zip(code(&without)) {
        let rest = with.strip_prefix(text.as_slice()).expect("the text comes first");
        assert!(rest.starts_with(b"\0\x7fELF"), "{}", String::from_utf8_lossy(&text));
    }

    // The stand-in for the driver runs no machine code, nor does the simulator.
    let logits = |artifact: &Path, device: &str| {
        let out = scratch.join("logits.safetensors");
        let mut command = q35();
        command.arg("logits").arg(artifact).arg("--weights").arg(checkpoint(MODEL));
        command.args(["--tokens", "1,2", "--device", device]).arg("-o").arg(&out);
        outcome(stand_in(&mut command, "")).text();
        bytes(&out)
    };
    let expected = logits(&without, "cuda");
    assert!(logits(&with, "cuda") == expected && logits(&with, "ptx-sim") == expected);

    // What is extracted is what an assembler reads; what is explained is the text.
    let folder = scratch.join("code");
    outcome(q35c().arg("inspect").arg(&with).arg("--extract").arg(&folder)).text();
    for entry in std::fs::read_dir(folder).expect("the folder was made") {
        let path = entry.expect("an entry").path();
        let is_text = path.extension().is_some_and(|e| e == "ptx");
        assert!(!is_text || !bytes(&path).contains(&0), "{}", path.display());
    }
    let explain = |artifact: &Path| {
        let options = ["--target=ptx", "--gpu=A100", &assembler];
        outcome(q35c().arg("explain").arg(artifact).args(options)).text()
    };
    assert_eq!(explain(&with), explain(&without));
}

#[test]
fn machine_code_that_cannot_be_had_is_refused_and_nothing_is_written() {
    let refused = |options: &[&str], says: &[&str]| {
        let scratch = Scratch::new();
        let mut command = compile(&scratch.join("out"), options);
        outcome(command.env("PATH", "")).refused(says);
        assert!(scratch.names().is_empty(), "{says:?}");
    };
    let ptx = "--target=ptx:sm_90";
    refused(&[ptx, "--cubin"], &["`--cubin` needs `ptxas`: there is no `ptxas` in the path"]);
    refused(&[ptx, "--cubin", "--ptxas=/none/ptxas"], &["cannot run `/none/ptxas`"]);
    refused(&["--cubin"], &["`--cubin` is for code in PTX", "expected `--target ptx`"]);
    // One that runs, and assembles nothing.
    let scratch = Scratch::new();
    let fake = scratch
        .file("ptxas", "#!/bin/sh\n[ $1 = --version ] || { echo no such arch >&2; exit 1; }\n");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&fake, PermissionsExt::from_mode(0o755)).expect("it is ours");
    let option = format!("--ptxas={}", fake.display());
    refused(&[ptx, "--cubin", &option], &["refuses the code for `sm_90`: no such arch"]);
}
