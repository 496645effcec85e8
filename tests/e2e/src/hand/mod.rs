//! Kernels written by hand, and what every device that runs PTX must do with them.

use q35_artifact::{Kernel, Param};
use q35_device::{
    BoundArg, BoundLaunch, BoundTasks, BufferId, Device, DeviceError, EntryId, KernelCode,
    KernelId, Repeat, Span, Usage,
};
use q35_types::DType;

/// `out[i] = in[last - i] + 1`, 32 words a task.
pub const FLIP: &str = include_str!("flip.ptx");
/// `out[i] = table[1][i]`, 32 words a task.
const PICK: &str = include_str!("pick.ptx");
/// `out[i] = in[31 - i]`, through 64 KiB of shared memory.
pub const WIDE: &str = include_str!("wide.ptx");

/// Words of a task.
pub const WIDTH: usize = 32;

const USAGES: [Usage; 3] = [Usage::Resident, Usage::HostWrites, Usage::HostReads];

/// What is done with a device.
type Check = fn(&mut dyn Device);

/// Each with what it shows.
pub const CHECKS: [(&str, Check); 8] = [
    ("memory begins as zeros and keeps what is written", memory_keeps_what_is_written),
    ("each launch sees what those before it wrote", launches_see_each_other),
    ("launches that depend on no other may come in any order", what_depends_comes_in_order),
    ("tasks are repeated as often as memory says", tasks_are_repeated),
    ("a list is an array of addresses", a_list_is_addresses),
    ("shared memory above 48 KiB is given", shared_memory_is_given),
    ("what does not fit its kernel is refused before it runs", what_does_not_fit_is_refused),
    ("code that the device does not take is refused by name", wrong_code_is_refused),
];

pub fn kernel(name: &str, table: bool, shared_bytes: u32) -> Kernel {
    let param =
        |name: &str, write, table| Param { name: name.into(), dtype: DType::I32, write, table };
    let params = vec![param("out", true, false), param("in", false, table)];
    Kernel { name: name.into(), shared_bytes, params }
}

/// `flip`, `pick` and `wide`.
pub fn load(device: &mut dyn Device) -> [KernelId; 3] {
    let kernels = [("flip", false, 0), ("pick", true, 0), ("wide", false, 64 << 10)];
    let kernels = kernels.map(|(name, table, shared)| kernel(name, table, shared));
    let codes = [FLIP, PICK, WIDE].map(str::as_bytes);
    let both = kernels.iter().zip(codes).map(|(kernel, code)| KernelCode { kernel, code });
    let ids = device.load("sm_80", &both.collect::<Vec<_>>()).expect("good code");
    ids.try_into().expect("as many as were given")
}

pub fn alloc(device: &mut dyn Device, words: usize, usage: Usage) -> Span {
    let bytes = words as u64 * 4;
    Span::whole(device.alloc(bytes, usage).expect("there is memory"), bytes)
}

pub fn put(device: &mut dyn Device, span: Span, words: &[i32]) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let span = span.part(0, bytes.len() as u64);
    device.fill(span, &mut |to| to.copy_from_slice(&bytes)).expect("it is there");
}

pub fn words(device: &mut dyn Device, span: Span) -> Vec<i32> {
    let mut words = vec![];
    let word = |bytes: &[u8]| i32::from_le_bytes(bytes.try_into().expect("four bytes"));
    device.read(span, &mut |bytes| words.extend(bytes.chunks(4).map(word))).expect("it is there");
    words
}

fn launch(kernel: KernelId, each: u32, repeat: Repeat, args: Vec<BoundArg>) -> BoundLaunch {
    BoundLaunch { kernel, tasks: BoundTasks { each, repeat }, args }
}

/// `to = flip(from)`, once.
pub fn flip(kernel: KernelId, each: u32, to: Span, from: Span) -> BoundLaunch {
    launch(kernel, each, Repeat::Once, vec![BoundArg::Span(to), BoundArg::Span(from)])
}

/// What `flip` makes of words.
fn flipped(words: &[i32]) -> Vec<i32> {
    words.iter().rev().map(|word| word + 1).collect()
}

fn run(device: &mut dyn Device, launches: Vec<BoundLaunch>) -> EntryId {
    let entry = device.record(launches).expect("launches that fit");
    device.run(entry).expect("it runs");
    entry
}

fn memory_keeps_what_is_written(device: &mut dyn Device) {
    for usage in USAGES {
        for count in [1, 25, 250, 100_000] {
            let span = alloc(device, count, usage);
            assert!(words(device, span).iter().all(|&word| word == 0));
            let other = alloc(device, count, usage);
            put(device, span, &vec![-1; count]);
            assert!(words(device, other).iter().all(|&word| word == 0));
            put(device, span.part(count as u64 / 2 * 4, 4), &[7]);
            let found = words(device, span);
            assert!(
                found.iter().enumerate().all(|(i, &w)| w == if i == count / 2 { 7 } else { -1 })
            );
        }
        let span = alloc(device, 16, usage);
        let mut write = |part: Span, bytes: &[u8]| {
            device.fill(part, &mut |to| to.copy_from_slice(bytes)).expect("it is there");
        };
        write(span.part(3, 5), &[1, 2, 3, 4, 5]);
        write(span.part(9, 0), &[]);
        let mut found: Vec<u8> = vec![];
        device.read(span.part(2, 7), &mut |b| found.extend(b)).expect("it is there");
        assert_eq!(found, [0, 1, 2, 3, 4, 5, 0]);
    }
    let nothing = alloc(device, 0, Usage::Resident);
    assert!(words(device, nothing).is_empty());
}

fn launches_see_each_other(device: &mut dyn Device) {
    // More tasks than blocks, which read what others have written.
    const TASKS: usize = 1000;
    let [kernel, ..] = load(device);
    let [a, b] = [(); 2].map(|()| alloc(device, TASKS * WIDTH, Usage::Resident));
    let turns = [(b, a), (a, b), (b, a), (a, b), (b, a)];
    let launches = turns.map(|(to, from)| flip(kernel, TASKS as u32, to, from));
    let entry = device.record(launches.to_vec()).expect("launches that fit");
    let start: Vec<i32> = (0..(TASKS * WIDTH) as i32).collect();
    put(device, a, &start);
    // The second time begins with what the first has left, with no wait in between.
    device.run(entry).expect("it runs");
    device.run(entry).expect("it runs");
    let mut expected = [start, vec![]];
    for (index, _) in turns.iter().chain(&turns[..]).enumerate() {
        let from = index % turns.len() % 2;
        expected[1 - from] = flipped(&expected[from]);
    }
    assert_eq!([words(device, a), words(device, b)], expected);
}

fn what_depends_comes_in_order(device: &mut dyn Device) {
    let [kernel, ..] = load(device);
    let all = alloc(device, 6 * WIDTH, Usage::Resident);
    let part = |index: usize| all.part((index * WIDTH * 4) as u64, WIDTH as u64 * 4);
    // Read after write, write after read, write after write, and some that are independent.
    let moves = [(1, 0), (2, 0), (3, 1), (0, 2), (4, 3), (1, 5), (3, 5), (5, 4), (2, 1), (2, 3)];
    let start: Vec<Vec<i32>> =
        (0..6).map(|n| (0..WIDTH as i32).map(|i| n * 1000 + i).collect()).collect();
    put(device, all, &start.concat());
    let launches = moves.map(|(to, from)| flip(kernel, 1, part(to), part(from)));
    run(device, launches.to_vec());
    let mut expected = start;
    for (to, from) in moves {
        expected[to] = flipped(&expected[from]);
    }
    assert_eq!(words(device, all), expected.concat());
}

fn tasks_are_repeated(device: &mut dyn Device) {
    let [kernel, ..] = load(device);
    let step = alloc(device, 16, Usage::HostWrites);
    let [out, input, tail] = [(); 3].map(|()| alloc(device, 12 * WIDTH, Usage::HostReads));
    let [ones, made] = [(); 2].map(|()| alloc(device, WIDTH, Usage::Resident));
    put(device, ones, &[1; WIDTH]);
    let args = |to| vec![BoundArg::Span(to), BoundArg::Span(input)];
    let word = |span: Span, offset| Repeat::Word { buffer: span.buffer, offset };
    let entry = device
        .record(vec![
            // Twos, by the first of which a later launch is repeated.
            flip(kernel, 1, made, ones),
            launch(kernel, 3, word(step, 12), args(out)),
            launch(kernel, 3, word(made, 0), args(tail)),
            launch(kernel, 0, Repeat::Once, args(tail)),
        ])
        .expect("launches that fit");
    let done = |words: &[i32]| words.iter().filter(|&&word| word != 0).count() / WIDTH;
    for times in [4, 1, 0, -3, 2] {
        put(device, out, &[0; 12 * WIDTH]);
        put(device, tail, &[0; 12 * WIDTH]);
        put(device, step.part(12, 4), &[times]);
        device.run(entry).expect("it runs");
        assert_eq!(done(&words(device, out)), 3 * times.max(0) as usize);
        assert_eq!(done(&words(device, tail)), 6);
    }
}

fn a_list_is_addresses(device: &mut dyn Device) {
    let [_, pick, _] = load(device);
    let experts = [11, 22, 33].map(|value| {
        let expert = alloc(device, 5 * WIDTH, Usage::Resident);
        put(device, expert, &[value; 5 * WIDTH]);
        expert
    });
    let [first, second] = [(); 2].map(|()| alloc(device, 5 * WIDTH, Usage::HostReads));
    let picked = |out, order: [usize; 3]| {
        let table = BoundArg::Table(order.map(|at| experts[at]).to_vec());
        launch(pick, 5, Repeat::Once, vec![BoundArg::Span(out), table])
    };
    run(device, vec![picked(first, [0, 1, 2]), picked(second, [1, 2, 0])]);
    assert_eq!(words(device, first), [22; 5 * WIDTH]);
    assert_eq!(words(device, second), [33; 5 * WIDTH]);
}

fn shared_memory_is_given(device: &mut dyn Device) {
    let [.., wide] = load(device);
    let [to, from] = [(); 2].map(|()| alloc(device, WIDTH, Usage::Resident));
    let start: Vec<i32> = (100..100 + WIDTH as i32).collect();
    put(device, from, &start);
    run(device, vec![flip(wide, 1, to, from)]);
    assert!(words(device, to).iter().rev().eq(&start));
}

fn what_does_not_fit_is_refused(device: &mut dyn Device) {
    let [flip, pick, _] = load(device);
    let span = alloc(device, 32, Usage::Resident);
    let one = BoundArg::Span;
    let list = |span| BoundArg::Table(vec![span]);
    let mut refusal = |kernel, repeat, args| {
        device
            .record(vec![launch(kernel, 1, repeat, args)])
            .expect_err("it does not fit")
            .to_string()
    };
    let once = Repeat::Once;
    assert_eq!(refusal(flip, once, vec![one(span)]), "`flip` was given 1 arguments, expected 2");
    assert_eq!(
        refusal(pick, once, vec![one(span), one(span)]),
        "parameter `in` of `pick` was given one buffer, expected a list of buffers"
    );
    assert_eq!(
        refusal(flip, once, vec![list(span), one(span)]),
        "parameter `out` of `flip` was given a list of buffers, expected one buffer"
    );
    assert_eq!(
        refusal(flip, once, vec![one(span.part(32, 8)), one(span)]),
        "parameter `out` of `flip` was given an address that is no multiple of 64"
    );
    assert_eq!(
        refusal(flip, once, vec![one(span.part(64, 65)), one(span)]),
        "bytes 64..129 of a buffer of 128 bytes were asked for"
    );
    let word = |offset| Repeat::Word { buffer: span.buffer, offset };
    assert!(refusal(flip, word(2), vec![one(span), one(span)]).contains("no multiple of 4"));
    assert!(refusal(flip, word(128), vec![one(span), one(span)]).contains("128..132"));
    assert!(refusal(KernelId(99), once, vec![]).contains("kernel 99"));

    let beyond = Span { bytes: 129, ..span };
    let stranger = Span { buffer: BufferId(9999), ..span };
    for wrong in [beyond, stranger, span.part(u64::MAX, 2)] {
        assert!(device.fill(wrong, &mut |_| panic!("it is not there")).is_err());
        assert!(device.read(wrong, &mut |_| panic!("it is not there")).is_err());
    }
    assert!(matches!(device.run(EntryId(9999)), Err(DeviceError::Handle { .. })));
    let most = device.limits().max_buffer;
    for usage in USAGES {
        let refused = device.alloc(most + 1, usage);
        assert!(matches!(refused, Err(DeviceError::TooLarge { max, .. }) if max == most));
    }
}

fn wrong_code_is_refused(device: &mut dyn Device) {
    let (flip, other) = (kernel("flip", false, 0), kernel("other", false, 0));
    let mut refusal = |variant: &str, kernel: &Kernel, code: &[u8]| {
        let loaded = device.load(variant, &[KernelCode { kernel, code }]);
        loaded.expect_err("it is wrong").to_string()
    };
    let said = "the code of `flip` cannot be loaded: ";
    assert_eq!(refusal("sm_80", &flip, b"MZ"), format!("{said}it is not PTX"));
    let bare = FLIP.replace(".reqntid 32, 1, 1", "");
    assert_eq!(
        refusal("sm_80", &flip, bare.as_bytes()),
        format!("{said}it does not say `.reqntid`")
    );
    // The line of what is not known.
    let strange = FLIP.replace("max.s32", "best.s32");
    let refused = refusal("sm_80", &flip, strange.as_bytes());
    assert!(refused.starts_with(said) && refused.contains("line 24"), "{refused}");
    let refused = refusal("sm_80", &other, FLIP.as_bytes());
    assert!(refused.starts_with("the code of `other` cannot be loaded: "), "{refused}");
    let refused = refusal("avx2", &flip, FLIP.as_bytes());
    assert!(refused.starts_with("the artifact has the variants `avx2` of `ptx`"), "{refused}");
}
