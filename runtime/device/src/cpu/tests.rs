//! Launches of hand-written code: what reaches it, and what does not get that far.

use super::*;
use crate::{BoundArg, BoundTasks, Repeat};
use q35_artifact::{Kernel, Param};
use q35_types::DType;

fn param(name: &str, write: bool, table: bool) -> Param {
    Param { name: name.into(), dtype: DType::I32, write, table }
}

fn kernel(params: Vec<Param>) -> Kernel {
    Kernel { name: "k".into(), shared_bytes: 4096, params }
}

/// A CPU with one kernel loaded, and 64 bytes of memory.
fn with_kernel(params: Vec<Param>, code: &[u8]) -> (Cpu, KernelId, Span) {
    let mut cpu = Cpu::open(Some(2)).unwrap();
    let kernel = kernel(params);
    let variant = cpu.variants()[0];
    let loaded = cpu.load(variant, &[KernelCode { kernel: &kernel, code }]).unwrap();
    let buffer = cpu.alloc(64, Usage::Resident).unwrap();
    (cpu, loaded[0], Span::whole(buffer, 64))
}

fn launch(kernel: KernelId, repeat: Repeat, args: Vec<BoundArg>) -> BoundLaunch {
    BoundLaunch { kernel, tasks: BoundTasks { each: 3, repeat }, args }
}

fn words(cpu: &mut Cpu, span: Span) -> Vec<i32> {
    let mut words = Vec::new();
    let word = |b: &[u8]| i32::from_le_bytes(b.try_into().unwrap());
    cpu.read(span, &mut |bytes| words.extend(bytes.chunks(4).map(word))).unwrap();
    words
}

#[cfg(target_arch = "x86_64")]
mod running {
    use super::*;

    /// `lock add [*buffers[0]], end - begin`: counts tasks.
    const COUNT: [u8; 13] = [
        0x48, 0x8b, 0x07, // mov rax, [rdi]
        0x48, 0x29, 0xd1, // sub rcx, rdx
        0xf0, 0x48, 0x01, 0x08, // lock add [rax], rcx
        0xc3, // ret
        0x90, 0x90,
    ];
    /// `*buffers[0] = *buffers[1][1]`: copies a word of the second buffer of a list.
    const COPY: [u8; 15] = [
        0x48, 0x8b, 0x07, // mov rax, [rdi]
        0x48, 0x8b, 0x4f, 0x08, // mov rcx, [rdi + 8]
        0x48, 0x8b, 0x49, 0x08, // mov rcx, [rcx + 8]
        0x8b, 0x09, // mov ecx, [rcx]
        0x89, 0x08, // mov [rax], ecx
    ];

    #[test]
    fn tasks_are_each_times_the_word_when_the_launch_begins() {
        let (mut cpu, kernel, span) = with_kernel(vec![param("out", true, false)], &COUNT);
        let word = |at: u64| Repeat::Word { buffer: span.buffer, offset: at };
        let into = |at: u64| vec![BoundArg::Span(span.part(at, 8))];
        // The first counts 3 into word 2; the second 3 times that into word 4; the last none.
        let launches = vec![
            launch(kernel, Repeat::Once, into(8)),
            launch(kernel, word(8), into(16)),
            launch(kernel, word(60), into(24)),
        ];
        let entry = cpu.record(launches).unwrap();
        for run in 1..=3 {
            cpu.fill(span, &mut |bytes| {
                bytes.fill(0);
                bytes[60..].copy_from_slice(&(-5i32).to_le_bytes());
            })
            .unwrap();
            cpu.run(entry).unwrap();
            assert_eq!(words(&mut cpu, span)[2..8], [3, 0, 9, 0, 0, 0], "run {run}");
        }
    }

    #[test]
    fn a_list_is_an_array_of_addresses() {
        let params = vec![param("out", true, false), param("experts", false, true)];
        let code = [COPY.as_slice(), &[0xc3]].concat();
        let (mut cpu, kernel, span) = with_kernel(params, &code);
        cpu.fill(span.part(0, 12), &mut |b| {
            b.copy_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0])
        })
        .unwrap();
        let table = BoundArg::Table(vec![span.part(0, 4), span.part(8, 4)]);
        let args = vec![BoundArg::Span(span.part(32, 4)), table];
        let entry = cpu.record(vec![launch(kernel, Repeat::Once, args)]).unwrap();
        cpu.run(entry).unwrap();
        assert_eq!(words(&mut cpu, span)[8], 3);
    }
}

#[test]
fn what_does_not_fit_the_kernel_is_refused_before_it_runs() {
    let params = vec![param("out", true, false), param("experts", false, true)];
    let (mut cpu, kernel, span) = with_kernel(params, &[0xc3]);
    let one = |span| BoundArg::Span(span);
    let list = |span| BoundArg::Table(vec![span]);
    let mut refusal = |args: Vec<BoundArg>| {
        cpu.record(vec![launch(kernel, Repeat::Once, args)]).unwrap_err().to_string()
    };
    assert_eq!(refusal(vec![one(span)]), "`k` was given 1 arguments, expected 2");
    assert_eq!(
        refusal(vec![one(span), one(span)]),
        "parameter `experts` of `k` was given one buffer, expected a list of buffers"
    );
    assert_eq!(
        refusal(vec![list(span), list(span)]),
        "parameter `out` of `k` was given a list of buffers, expected one buffer"
    );
    assert_eq!(
        refusal(vec![one(span.part(2, 8)), list(span)]),
        "parameter `out` of `k` was given an address that is no multiple of 4"
    );
    assert_eq!(
        refusal(vec![one(span), list(span.part(64, 4))]),
        "bytes 64..68 of a buffer of 64 bytes were asked for"
    );
    let stranger = launch(KernelId(9), Repeat::Once, vec![]);
    assert!(matches!(cpu.record(vec![stranger]), Err(DeviceError::Handle { .. })));
    assert!(matches!(cpu.run(EntryId(0)), Err(DeviceError::Handle { .. })));
}

#[test]
fn a_kernel_may_read_a_mapped_file_but_not_write_it() {
    let path = std::env::temp_dir().join(format!("q35-bound-{}", std::process::id()));
    std::fs::write(&path, [0; 64]).unwrap();
    let file = Arc::new(Mapped::open(&path).unwrap());
    let (mut cpu, writes, _) = with_kernel(vec![param("w", true, false)], &[0xc3]);
    let reads = kernel(vec![param("w", false, false)]);
    let variant = cpu.variants()[0];
    let reads = cpu.load(variant, &[KernelCode { kernel: &reads, code: &[0xc3] }]).unwrap()[0];
    let span = Span::whole(cpu.adopt(&file, 0..64, 4).unwrap().unwrap(), 64);
    let args = || vec![BoundArg::Span(span)];
    let refused = cpu.record(vec![launch(writes, Repeat::Once, args())]);
    assert!(matches!(refused, Err(DeviceError::ReadOnly)));
    assert!(cpu.record(vec![launch(reads, Repeat::Once, args())]).is_ok());
    assert!(matches!(cpu.fill(span, &mut |_| ()), Err(DeviceError::ReadOnly)));
    std::fs::remove_file(&path).unwrap();
}
