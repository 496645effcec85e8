//! Each fault, by kernels that have it, with its name and its place; and kernels beside them that do not.

mod common;

use common::{Bench, fault, module};
use q35_ptx_sim::{Error, Fault, FaultKind, Memory, Module};

const START: &str =
    "mov.u32 %r1, %tid.x; ld.param.u64 %rd1, [p]; mad.wide.u32 %rd2, %r1, 4, %rd1;\n";
const SHARED: &str =
    ".shared .align 16 .b32 s[256]; mov.u32 %r2, s; mad.lo.u32 %r3, %r1, 4, %r2;\n";

/// A kernel with a written buffer of 64 words as `p`, its body on line 7.
fn bench(body: &str) -> Bench {
    let mut bench = Bench::new(&module(".param .u64 p", &format!("{START}{SHARED}{body}")));
    bench.given(&[1u32; 64]);
    bench
}

fn faults(body: &str, threads: u32) -> Fault {
    fault(bench(body).try_launch("k", [1, 1, 1], [threads, 1, 1], 0, 1))
}

fn runs(body: &str, threads: u32) {
    let result = bench(body).try_launch("k", [1, 1, 1], [threads, 1, 1], 0, 1);
    assert!(result.is_ok(), "{body}: {}", result.expect_err("not right"));
}

fn kind(body: &str, threads: u32) -> FaultKind {
    faults(body, threads).kind
}

#[test]
fn out_of_bounds_is_told_with_its_place() {
    let body = "setp.lt.u32 %p1, %r1, 40;\n@%p1 bra D;\nld.global.u32 %r4, [%rd2+100];\nD:";
    let found = faults(body, 64);
    assert_eq!(
        (found.kind, found.line, found.block, found.thread),
        (FaultKind::OutOfBounds, 11, [0; 3], [40, 0, 0])
    );
    assert!(
        found.to_string().starts_with(
            "out-of-bounds: kernel `k`, line 11, block (0, 0, 0), thread (40, 0, 0): "
        )
    );
    assert!(found.message.contains("260 bytes into a buffer of 256"), "{}", found.message);
    assert_eq!(kind("st.shared.u32 [%r3+1000], %r1;", 32), FaultKind::OutOfBounds);
    assert_eq!(kind("mov.u64 %rd3, 0; ld.global.u32 %r4, [%rd3];", 1), FaultKind::OutOfBounds);
    assert_eq!(kind("ld.global.v4.u32 {%r4,%r5,%r6,%r7}, [%rd1+256];", 1), FaultKind::OutOfBounds);
    runs("ld.global.u32 %r4, [%rd2];", 64);
}

#[test]
fn the_first_byte_behind_a_buffer_is_out_of_bounds() {
    let mut bench =
        Bench::new(&module(".param .u64 p", "ld.param.u64 %rd1, [p]; ld.global.u8 %r4, [%rd1+7];"));
    let at = bench.given(&[0u8; 7]);
    let found = fault(bench.try_launch("k", [1, 1, 1], [1, 1, 1], 0, 1));
    assert_eq!(found.kind, FaultKind::OutOfBounds);
    bench.memory.free(at).expect("a buffer");
    let found = fault(bench.try_launch("k", [1, 1, 1], [1, 1, 1], 0, 1));
    assert!(found.message.contains("no buffer"), "{}", found.message);
}

#[test]
fn misaligned_is_told() {
    assert_eq!(kind("ld.global.u32 %r4, [%rd2+2];", 32), FaultKind::Misaligned);
    assert_eq!(kind("ld.global.v4.u32 {%r4,%r5,%r6,%r7}, [%rd1+8];", 1), FaultKind::Misaligned);
    assert_eq!(kind("st.shared.v2.u32 [%r2+4], {%r1,%r1};", 1), FaultKind::Misaligned);
}

#[test]
fn uninitialised_global_memory_is_told_to_the_byte() {
    let mut bench = Bench::new(&module(
        ".param .u64 p",
        "ld.param.u64 %rd1, [p]; mov.u16 %h1, 3; st.global.u16 [%rd1+2], %h1; ld.global.u16 %h2, [%rd1+2];\nld.global.u32 %r1, [%rd1];",
    ));
    bench.room::<u32>(4);
    let found = fault(bench.try_launch("k", [1, 1, 1], [1, 1, 1], 0, 1));
    assert_eq!((found.kind, found.line), (FaultKind::Uninitialised, 8));
}

#[test]
fn uninitialised_shared_memory_is_told() {
    let found = faults("ld.shared.u32 %r4, [%r3];\nbar.sync 0;", 64);
    assert_eq!((found.kind, found.line, found.thread), (FaultKind::Uninitialised, 9, [0, 0, 0]));
    assert_eq!(kind("atom.shared.add.u32 %r4, [%r3], 1;", 32), FaultKind::Uninitialised);
    runs("st.shared.u32 [%r3], %r1; ld.shared.u32 %r4, [%r3];", 64);
}

#[test]
fn what_the_last_block_left_is_uninitialised() {
    let body = "mov.u32 %r9, %ctaid.x; setp.eq.u32 %p1, %r9, 0; @%p1 st.shared.u32 [%r3], %r1; ld.shared.u32 %r4, [%r3];";
    let found = fault(bench(body).try_launch("k", [2, 1, 1], [32, 1, 1], 0, 1));
    assert_eq!((found.kind, found.block), (FaultKind::Uninitialised, [1, 0, 0]));
}

#[test]
fn a_missing_barrier_is_a_race() {
    // Each thread reads what its neighbour of another warp has written, or will write.
    let exchange = |between: &str| {
        format!(
            "st.shared.u32 [%r3], %r1; {between} xor.b32 %r4, %r3, 128;\nld.shared.u32 %r5, [%r4];"
        )
    };
    let found = faults(&exchange(""), 64);
    assert_eq!(found.kind, FaultKind::Race, "{found}");
    runs(&exchange("bar.sync 0;"), 64);
    assert_eq!(kind(&exchange("bar.warp.sync -1;"), 64), FaultKind::Race);
    // Write after read.
    let again = "st.shared.u32 [%r3], %r1; bar.sync 0; xor.b32 %r4, %r3, 128; ld.shared.u32 %r5, [%r4]; BAR st.shared.u32 [%r3], %r5;";
    assert_eq!(kind(&again.replace("BAR", ""), 64), FaultKind::Race);
    runs(&again.replace("BAR", "bar.sync 0;"), 64);
    // Two writers.
    assert_eq!(kind("st.shared.u32 [%r2], %r1;", 32), FaultKind::Race);
    assert_eq!(kind("and.b32 %r4, %r3, 127; st.shared.u32 [%r4], %r1;", 64), FaultKind::Race);
}

#[test]
fn lanes_of_a_warp_race_until_they_meet() {
    let exchange = |between: &str| {
        format!(
            "st.shared.u32 [%r3], %r1; {between} xor.b32 %r4, %r3, 4; ld.shared.u32 %r5, [%r4];"
        )
    };
    assert_eq!(kind(&exchange(""), 32), FaultKind::Race);
    runs(&exchange("bar.warp.sync -1;"), 32);
    runs(&exchange("vote.sync.any.pred %p1, %p2, -1;"), 32);
    // All read one place, meet, and one of them writes it.
    runs(
        "setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [%r2], %r1; bar.warp.sync -1; ld.shared.u32 %r4, [%r2]; bar.warp.sync -1; @%p1 st.shared.u32 [%r2], 7;",
        32,
    );
}

#[test]
fn what_is_no_race_is_not_told() {
    // The same value, atomics among themselves, halves of one word.
    runs("mov.u32 %r4, 5; st.shared.u32 [%r2], %r4;", 64);
    runs(
        "setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [%r2], 0; bar.sync 0; red.shared.add.u32 [%r2], %r1;",
        64,
    );
    runs(
        "mad.lo.u32 %r4, %r1, 2, %r2; cvt.u16.u32 %h1, %r1; st.shared.u16 [%r4], %h1; ld.shared.u16 %h2, [%r4];",
        64,
    );
    runs(
        "ld.volatile.global.u32 %r4, [%rd1]; st.volatile.shared.u32 [%r3], %r1; xor.b32 %r4, %r3, 4; ld.volatile.shared.u32 %r5, [%r4];",
        32,
    );
}

#[test]
fn barriers_of_some_warps_order_those_and_no_others() {
    // Warps 0 and 1 meet at barrier 1; warp 2 does not.
    let body = |reader: u32| {
        format!(
            "shr.u32 %r9, %r1, 5; setp.eq.u32 %p1, %r9, 2; setp.eq.u32 %p2, %r9, 0; setp.eq.u32 %p3, %r9, {reader};
             @%p2 st.shared.u32 [%r3], %r1; @%p1 bra A; bar.sync 1, 64; A: and.b32 %r4, %r1, 31; mad.lo.u32 %r4, %r4, 4, %r2;
             @%p3 ld.shared.u32 %r5, [%r4];"
        )
    };
    runs(&body(1), 96);
    assert_eq!(kind(&body(2), 96), FaultKind::Race);
}

#[test]
fn a_producer_arrives_and_its_consumer_waits() {
    let body =
        "setp.ge.u32 %p1, %r1, 32; @%p1 bra C; st.shared.u32 [%r3], %r1; bar.arrive 1, 64; ret;
        C: bar.sync 1, 64; ld.shared.u32 %r5, [%r3+-128];";
    runs(body, 64);
}

#[test]
fn a_barrier_that_some_never_reach_is_told() {
    let found = faults("setp.lt.u32 %p1, %r1, 32;\n@%p1 bra D;\nbar.sync 0;\nD:", 64);
    assert_eq!((found.kind, found.line, found.thread), (FaultKind::Barrier, 11, [32, 0, 0]));
    assert!(found.message.contains("32 of 64"), "{}", found.message);
    assert_eq!(kind("setp.lt.u32 %p1, %r1, 7; @%p1 bra D; bar.sync 0; D:", 32), FaultKind::Barrier);
    assert_eq!(
        kind("setp.lt.u32 %p1, %r1, 7; @%p1 bra D; bar.sync 0; bra E; D: bar.sync 0; E:", 32),
        FaultKind::Barrier
    );
    assert_eq!(kind("bar.sync 0, 128;", 64), FaultKind::Barrier);
    runs("bar.sync 0; bar.sync 3;", 50);
}

#[test]
fn a_shuffle_that_some_lanes_never_reach_is_told() {
    let found = faults(
        "setp.lt.u32 %p1, %r1, 8;\n@%p1 bra D;\nshfl.sync.bfly.b32 %r4, %r1, 1, 31, -1;\nD: bar.sync 0;",
        32,
    );
    assert_eq!((found.kind, found.line), (FaultKind::DivergentShuffle, 11));
    // Lanes that have exited are not waited for, but nothing can be read from them.
    let exit = "setp.lt.u32 %p1, %r1, 8; @%p1 exit;";
    assert_eq!(
        kind(&format!("{exit} shfl.sync.bfly.b32 %r4, %r1, 16, 31, -1;"), 32),
        FaultKind::DivergentShuffle
    );
    runs(&format!("{exit} shfl.sync.bfly.b32 %r4, %r1, 1, 31, -1;"), 32);
    // A lane that does not name itself.
    assert_eq!(kind("vote.sync.any.pred %p1, %p2, 1;", 32), FaultKind::DivergentShuffle);
    // Lanes that come by different ways and meet there.
    runs(
        "setp.lt.u32 %p1, %r1, 8; @%p1 bra A; add.u32 %r5, %r1, 1; A: shfl.sync.bfly.b32 %r4, %r1, 16, 31, -1;",
        32,
    );
    runs(
        "setp.lt.u32 %p1, %r1, 8; @%p1 bra A; bar.warp.sync -1; bra B; A: bar.warp.sync -1; B:",
        32,
    );
}

#[test]
fn copies_arrive_when_they_are_waited_for() {
    let copy = "cp.async.ca.shared.global [%r3], [%rd2], 4; cp.async.commit_group;";
    assert_eq!(kind(&format!("{copy} ld.shared.u32 %r4, [%r3];"), 32), FaultKind::Uninitialised);
    assert_eq!(
        kind(&format!("{copy} cp.async.wait_group 1; ld.shared.u32 %r4, [%r3];"), 32),
        FaultKind::Uninitialised
    );
    assert_eq!(
        kind(&format!("st.shared.u32 [%r3], %r1; {copy} ld.shared.u32 %r4, [%r3];"), 32),
        FaultKind::Race
    );
    runs(&format!("{copy} cp.async.wait_group 0; ld.shared.u32 %r4, [%r3];"), 32);
    runs(
        "cp.async.ca.shared.global [%r3], [%rd2], 4; cp.async.wait_all; ld.shared.u32 %r4, [%r3];",
        32,
    );
    // A neighbour's copy needs a barrier too.
    let other = |between: &str| {
        format!(
            "{copy} cp.async.wait_group 0; {between} xor.b32 %r4, %r3, 128; ld.shared.u32 %r5, [%r4];"
        )
    };
    assert_eq!(kind(&other(""), 64), FaultKind::Race);
    runs(&other("bar.sync 0;"), 64);
    assert_eq!(kind("cp.async.cg.shared.global [%r2], [%rd1+8], 16;", 1), FaultKind::Misaligned);
}

#[test]
fn a_trap_and_a_wait_without_end_are_told() {
    assert_eq!(kind("trap;", 1), FaultKind::Trap);
    assert_eq!(
        kind("L: ld.volatile.global.u32 %r4, [%rd1]; setp.eq.u32 %p1, %r4, 1; @%p1 bra L;", 32),
        FaultKind::Hang
    );
    assert_eq!(kind("L: bra L;", 32), FaultKind::Hang);
}

#[test]
fn a_lock_among_lanes_of_one_warp_is_released() {
    let body = "L: atom.global.cas.b32 %r4, [%rd1], 1, 2; setp.ne.u32 %p1, %r4, 1; @%p1 bra L;
        ld.global.u32 %r5, [%rd1+4]; add.u32 %r5, %r5, 1; st.global.u32 [%rd1+4], %r5; atom.global.exch.b32 %r6, [%rd1], 1;";
    let bench = bench(body);
    bench.launch("k", [2, 1, 1], [64, 1, 1], 0);
    let at = u64::from_le_bytes(bench.params[..8].try_into().expect("an address"));
    assert_eq!(bench.read::<u32>(at, 2), [1, 129]);
}

#[test]
fn a_block_that_polls_two_places_lets_the_others_go_on() {
    // Block 0 waits for the last one, which stores to the second place.
    let body = "mov.u32 %r9, %ctaid.x; setp.ne.u32 %p1, %r9, 0; @%p1 bra OTHER;
        L: ld.volatile.global.u32 %r4, [%rd1]; ld.volatile.global.u32 %r5, [%rd1+4]; add.u32 %r6, %r4, %r5;
        setp.eq.u32 %p2, %r6, 2; @%p2 bra L; st.global.u32 [%rd1+8], %r6; ret;
        OTHER: setp.ne.u32 %p1, %r9, 3; @%p1 ret; st.volatile.global.u32 [%rd1+4], 7;";
    let bench = bench(body);
    bench.launch("k", [4, 1, 1], [1, 1, 1], 0);
    let at = u64::from_le_bytes(bench.params[..8].try_into().expect("an address"));
    assert_eq!(bench.read::<u32>(at, 3), [1, 7, 8]);
}

#[test]
fn the_fault_of_the_lowest_block_is_told_on_any_number_of_threads() {
    // Enough to do for several threads.
    let body = "mov.u32 %r9, %ctaid.x; mov.u32 %r8, 0;
        L: add.u32 %r8, %r8, 1; setp.lt.u32 %p2, %r8, 1000; @%p2 bra L;
        setp.lt.u32 %p1, %r9, 5; @%p1 ret; st.global.u32 [%rd1+256], %r9;";
    for threads in [1, 2, 3, 8] {
        let found = fault(bench(body).try_launch("k", [64, 1, 1], [32, 1, 1], 0, threads));
        assert_eq!(found.block, [5, 0, 0]);
    }
}

fn refused(text: &str) -> String {
    let mut memory = Memory::new();
    let program = match Module::parse(text).and_then(|m| m.load(&mut memory)) {
        Ok(program) => program,
        Err(error) => return error.to_string(),
    };
    match program.parameters("k") {
        Err(error @ (Error::Unsupported { .. } | Error::Launch(_))) => error.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn what_is_not_known_is_refused_by_name_and_line() {
    let k = |body: &str| refused(&module(".param .u64 p", body));
    assert_eq!(
        k("\nfrobnicate.b32 %r1, %r2;"),
        "kernel `k`, line 8: unknown instruction `frobnicate.b32`"
    );
    assert_eq!(
        k("add.weird.s32 %r1, %r2, %r3;"),
        "kernel `k`, line 7: `.weird` is not known in `add.weird.s32`"
    );
    assert_eq!(k("add.s32 %r1, %r2;"), "kernel `k`, line 7: `add.s32` has 2 operands, expected 3");
    assert_eq!(k("add.s32 %r1, %r2, %q3;"), "kernel `k`, line 7: unknown name `%q3`");
    assert_eq!(
        k("add.s32 %r1, %rd2, %r3;"),
        "kernel `k`, line 7: `%rd2` is no register of 32 bits"
    );
    assert_eq!(k("bra NOWHERE;"), "kernel `k`, line 7: unknown label `NOWHERE`");
    assert_eq!(
        k("call.uni vprintf;"),
        "kernel `k`, line 7: `vprintf` is not in this module, so it cannot be called"
    );
    assert_eq!(
        k("tcgen05.alloc [%r1], 4;"),
        "kernel `k`, line 7: unknown instruction `tcgen05.alloc`"
    );
    let recursive = ".version 8.0\n.target sm_80\n.address_size 64\n.func f() {\ncall f;\n}\n.entry k() { call f; }";
    assert_eq!(refused(recursive), "kernel `k`, line 5: `f` calls itself");
    assert_eq!(
        refused(".version 8.0\n.target sm_80\n.entry k(\n;"),
        "line 4: expected a parameter, found `;`"
    );
    assert_eq!(refused("hello"), "line 1: unknown directive `hello`");
    assert_eq!(
        refused(".version 8.0\n.target sm_80\n.entry j() {}"),
        "the module has no entry `k`: it has j"
    );
}

#[test]
fn launches_that_do_not_fit_are_refused() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.entry k(.param .u64 p)\n.reqntid 64\n{ ret; }";
    let mut bench = Bench::new(text);
    let error = |bench: &Bench, block| {
        bench.try_launch("k", [1, 1, 1], block, 0, 1).expect_err("it does not fit").to_string()
    };
    assert_eq!(
        error(&bench, [32, 1, 1]),
        "kernel `k`: a block of 32 x 1 x 1 threads, where .reqntid wants 64 x 1 x 1"
    );
    assert_eq!(error(&bench, [64, 1, 1]), "kernel `k`: 0 bytes of parameters, expected 8");
    bench.value(0u64);
    bench.launch("k", [1, 1, 1], [64, 1, 1], 0);
    let error = bench.try_launch("k", [1, 1, 1], [64, 1, 1], 300 << 10, 1).expect_err("too much");
    assert!(error.to_string().contains("bytes of shared memory"), "{error}");
}
