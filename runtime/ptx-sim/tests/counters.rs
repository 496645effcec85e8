//! Counters against values counted by hand.

mod common;

use common::{Bench, module};
use q35_ptx_sim::Counters;

/// One block over two buffers of 4096 words, addresses of lane i at 4·i in %rd2 and %rd3, shared ones in %r3.
fn count(body: &str, grid: u32, block: u32) -> Counters {
    let start = ".shared .align 16 .b32 s[4096]; mov.u32 %r1, %tid.x; ld.param.u64 %rd1, [p]; mad.wide.u32 %rd2, %r1, 4, %rd1;
        ld.param.u64 %rd4, [q]; mad.wide.u32 %rd3, %r1, 4, %rd4; mov.u32 %r2, s; mad.lo.u32 %r3, %r1, 4, %r2;\n";
    let mut bench = Bench::new(&module(".param .u64 p, .param .u64 q", &format!("{start}{body}")));
    bench.given(&[1u32; 4096]);
    bench.room::<u32>(4096);
    bench.launch("k", [grid, 1, 1], [block, 1, 1], 0)
}

/// Instructions of the start and the `ret`.
const AROUND: u64 = 8;

#[test]
fn sectors_of_a_row_a_stride_and_one_word() {
    let sectors = |body: &str| {
        let found = count(body, 1, 32).global_load;
        assert_eq!(found.requests, 1);
        (found.sectors, found.bytes)
    };
    assert_eq!(sectors("ld.global.u32 %r4, [%rd2];"), (4, 128));
    assert_eq!(sectors("ld.global.u32 %r4, [%rd2+4];"), (5, 128), "off by a word");
    assert_eq!(
        sectors("mad.wide.u32 %rd5, %r1, 32, %rd1; ld.global.u32 %r4, [%rd5];"),
        (32, 128),
        "a sector a lane"
    );
    assert_eq!(sectors("mad.wide.u32 %rd5, %r1, 8, %rd1; ld.global.u32 %r4, [%rd5];"), (8, 128));
    assert_eq!(sectors("ld.global.u32 %r4, [%rd1];"), (1, 128), "one word for all");
    assert_eq!(
        sectors(
            "xor.b32 %r5, %r1, 21; mad.wide.u32 %rd5, %r5, 4, %rd1; ld.global.u32 %r4, [%rd5];"
        ),
        (4, 128),
        "turned around"
    );
    assert_eq!(
        sectors("mad.wide.u32 %rd5, %r1, 16, %rd1; ld.global.nc.v4.u32 {%r4,%r5,%r6,%r7}, [%rd5];"),
        (16, 512)
    );
    assert_eq!(
        sectors("setp.lt.u32 %p1, %r1, 3; @%p1 ld.global.u32 %r4, [%rd2];"),
        (1, 12),
        "three lanes"
    );
    assert_eq!(sectors("mad.wide.u32 %rd5, %r1, 2, %rd1; ld.global.u16 %h4, [%rd5];"), (2, 64));
    assert_eq!(
        sectors("cp.async.ca.shared.global [%r3], [%rd2], 4; cp.async.wait_all;"),
        (4, 128),
        "copies are loads"
    );
}

#[test]
fn a_load_that_no_lane_makes_is_no_request_but_an_instruction() {
    let found = count("setp.lt.u32 %p1, %r1, 0; @%p1 ld.global.u32 %r4, [%rd2];", 1, 32);
    assert_eq!(found.global_load.requests, 0);
    assert_eq!(found.instructions, AROUND + 2);
}

#[test]
fn each_buffer_has_its_own_traffic() {
    let found = count(
        "ld.global.u32 %r4, [%rd2]; ld.global.u32 %r5, [%rd2+4]; st.global.u32 [%rd3], %r4; red.global.add.u32 [%rd2], 1;",
        2,
        64,
    );
    let [p, q] = &found.buffers[..] else { panic!("two buffers") };
    assert_eq!((p.size, q.size), (16384, 16384));
    assert_eq!(
        (p.loads.requests, p.loads.sectors, p.loads.bytes),
        (2 * 4, 4 * (4 + 5), 2 * 4 * 128)
    );
    assert_eq!((p.stores.requests, p.atomics.requests, p.atomics.bytes), (0, 4, 4 * 128));
    assert_eq!((q.stores.requests, q.stores.sectors, q.stores.bytes), (4, 16, 512));
    assert_eq!(found.global_store, q.stores);
    assert_eq!(found.global_load, p.loads);
    let json = found.to_json();
    assert_eq!(json["global_load_sectors"], 36);
    assert_eq!(json["buffers"][0]["requests"], 8 + 4, "loads, stores and atomics");
    assert_eq!(json["buffers"][1]["bytes"], 512);
}

#[test]
fn passes_of_shared_memory() {
    let passes = |body: &str| {
        let found = count(&format!("mov.u32 %r9, 0; {body}"), 1, 32);
        assert_eq!(found.shared_requests, 1);
        found.shared_conflicts
    };
    assert_eq!(passes("st.shared.u32 [%r3], %r1;"), 0);
    assert_eq!(passes("st.shared.u32 [%r2], %r9;"), 0, "one word");
    for (stride, extra) in [(2, 1), (3, 0), (4, 3), (8, 7), (32, 31), (33, 0), (64, 31)] {
        let body = format!("mad.lo.u32 %r4, %r1, {}, %r2; st.shared.u32 [%r4], %r1;", 4 * stride);
        assert_eq!(passes(&body), extra, "stride {stride}");
    }
    assert_eq!(
        passes("mad.lo.u32 %r4, %r1, 16, %r2; st.shared.v4.u32 [%r4], {%r1,%r1,%r1,%r1};"),
        0,
        "by quarters"
    );
    assert_eq!(
        passes("mad.lo.u32 %r4, %r1, 8, %r2; st.shared.v2.u32 [%r4], {%r1,%r1};"),
        0,
        "by halves"
    );
    assert_eq!(
        passes("mad.lo.u32 %r4, %r1, 32, %r2; st.shared.v4.u32 [%r4], {%r1,%r1,%r1,%r1};"),
        4,
        "each quarter twice"
    );
    assert_eq!(
        passes("mad.lo.u32 %r4, %r1, 2, %r2; cvt.u16.u32 %h1, %r1; st.shared.u16 [%r4], %h1;"),
        0,
        "two lanes a word"
    );
}

#[test]
fn matrix_loads_conflict_by_their_rows() {
    let conflicts = |row: u32| {
        let fill = "mov.u32 %r9, 0; mov.u32 %r5, %r3; L: st.shared.u32 [%r5], %r9; add.u32 %r5, %r5, 128; add.u32 %r6, %r2, 16384;
            setp.lt.u32 %p1, %r5, %r6; @%p1 bra L; bar.sync 0;";
        let load = format!(
            "mad.lo.u32 %r4, %r1, {row}, %r2; ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r10,%r11,%r12,%r13}}, [%r4];"
        );
        count(&format!("{fill}{load}"), 1, 32).shared_conflicts
    };
    assert_eq!(conflicts(16), 0);
    assert_eq!(conflicts(80), 0);
    assert_eq!(conflicts(128), 4 * 7, "eight rows in the same banks, four times");
    assert_eq!(conflicts(64), 4 * 3);
}

#[test]
fn operations_of_lanes_and_barriers_of_blocks() {
    let body = "mov.f32 %f1, 0f3F800000; add.f32 %f2, %f1, %f1; fma.rn.f32 %f2, %f2, %f1, %f1; setp.lt.u32 %p1, %r1, 5;
        @%p1 mul.f32 %f3, %f1, %f1; max.f32 %f3, %f1, %f2; fma.rn.f64 %fd1, %fd2, %fd3, %fd4; mov.b32 %r4, 0; fma.rn.bf16x2 %r4, %r4, %r4, %r4;
        bar.sync 0; bar.sync 0;";
    let found = count(body, 3, 64);
    assert_eq!(found.flops, 3 * (64 * (1 + 2 + 2 + 4) + 5));
    assert_eq!(found.barriers, 3 * 2);
    assert_eq!(found.instructions, 3 * 2 * (AROUND + 11));
    assert_eq!(found.kinds["bar.sync"], 3 * 2 * 2);
    assert_eq!(found.kinds["fma"], 3 * 2 * 3);
    assert_eq!(found.kinds.values().sum::<u64>(), found.instructions);
}

#[test]
fn counters_do_not_depend_on_the_number_of_threads() {
    let body = "mov.u32 %r4, %ctaid.x; mov.u32 %r5, 0;
        L: add.u32 %r5, %r5, 1; ld.global.u32 %r6, [%rd2]; red.global.add.u32 [%rd2+4096], %r6; st.shared.u32 [%r3], %r5; bar.sync 0;
        setp.lt.u32 %p1, %r5, %r4; @%p1 bra L;";
    let text = module(
        ".param .u64 p, .param .u64 q",
        &format!(
            ".shared .align 16 .b32 s[64]; mov.u32 %r1, %tid.x; ld.param.u64 %rd1, [p]; mad.wide.u32 %rd2, %r1, 4, %rd1;
             mov.u32 %r2, s; mad.lo.u32 %r3, %r1, 4, %r2;\n{body}"
        ),
    );
    let results: Vec<(Counters, Vec<u32>)> = [1, 2, 5]
        .into_iter()
        .map(|threads| {
            let mut bench = Bench::new(&text);
            let p = bench.given(&[3u32; 2048]);
            bench.value(0u64);
            let found = bench.try_launch("k", [80, 1, 1], [64, 1, 1], 0, threads).expect("it runs");
            (found, bench.read(p, 2048))
        })
        .collect();
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
    // Blocks 0 and 1 go round once, block b goes round b times.
    assert_eq!(results[0].1[1024], 3 + 3 * (1 + (1..80).sum::<u32>()));
}

#[test]
fn registers_hold_nothing_of_earlier_blocks_and_launches() {
    let body = "ld.param.u64 %rd1, [p]; mov.u32 %r1, %ctaid.x; mad.wide.u32 %rd2, %r1, 4, %rd1;
        setp.ne.u32 %p1, %r1, 0; @%p1 bra L; mov.u32 %r9, 7; L: add.u32 %r9, %r9, 1; st.global.u32 [%rd2], %r9;";
    let mut bench = Bench::new(&module(".param .u64 p", body));
    let p = bench.room::<u32>(3);
    for _ in 0..2 {
        bench.try_launch("k", [3, 1, 1], [1, 1, 1], 0, 1).expect("it runs");
        assert_eq!(bench.read::<u32>(p, 3), [8, 1, 1]);
    }
}

#[test]
fn launches_add_up() {
    let one = count("ld.global.u32 %r4, [%rd2];", 1, 32);
    let mut two = one.clone();
    two.add(&one);
    assert_eq!(two.global_load.sectors, 8);
    assert_eq!(two.instructions, 2 * one.instructions);
    assert_eq!(two.buffers[0].loads.bytes, 256);
    assert_eq!(two.buffers.len(), 1);
}
