//! Hand-written kernels on whatever Vulkan device is here.
//!
//! Without one, tests say so and pass, unless `Q35_REQUIRE` names `vulkan`. The kernels are in
//! `tests/`, as assembly for people and as words.

use super::*;
use crate::{BoundArg, BoundTasks, Repeat};
use q35_artifact::{Kernel, Param};
use q35_types::DType;

/// `out[i] = in[last - i] + 1`, 32 words a task.
pub const FLIP: &str = include_str!("tests/flip.hex");
/// `out[i] = table[1][i]`, 32 words a task.
pub const PICK: &str = include_str!("tests/pick.hex");

/// Words of a task.
const WIDTH: usize = 32;

/// The bytes of words in hexadecimal.
pub fn code(hex: &str) -> Vec<u8> {
    let word = |word| u32::from_str_radix(word, 16).expect("a word");
    hex.split_whitespace().flat_map(|text| word(text).to_le_bytes()).collect()
}

/// The device for tests: the best there is. None if there is none, which is said aloud.
fn open(options: Options) -> Option<Vulkan> {
    match Vulkan::open(Choice::Best, options) {
        Ok(device) => Some(device),
        Err(error) => skip(&error.to_string()),
    }
}

fn skip<T>(why: &str) -> Option<T> {
    let required = std::env::var("Q35_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name == "vulkan"), "Vulkan is required, but: {why}");
    eprintln!("SKIPPED: {why}");
    None
}

/// Both ways to reach memory.
fn ways() -> [Options; 2] {
    [false, true].map(|copy_always| Options { copy_always, ..Options::default() })
}

fn kernel(name: &str, table: bool) -> Kernel {
    let param =
        |name: &str, write, table| Param { name: name.into(), dtype: DType::I32, write, table };
    let params = vec![param("out", true, false), param("in", false, table)];
    Kernel { name: name.into(), shared_bytes: 0, params }
}

/// `flip` and `pick`.
fn load(device: &mut Vulkan) -> [KernelId; 2] {
    let (flip, pick) = (kernel("flip", false), kernel("pick", true));
    let (flip_code, pick_code) = (code(FLIP), code(PICK));
    let kernels = [
        KernelCode { kernel: &flip, code: &flip_code },
        KernelCode { kernel: &pick, code: &pick_code },
    ];
    let variant = *device.variants().last().expect("there is always one");
    device.load(variant, &kernels).unwrap().try_into().unwrap()
}

fn alloc(device: &mut Vulkan, bytes: u64, usage: Usage) -> Span {
    Span::whole(device.alloc(bytes, usage).unwrap(), bytes)
}

fn put(device: &mut Vulkan, span: Span, words: &[i32]) {
    let span = span.part(0, words.len() as u64 * 4);
    let mut called = 0;
    let mut write = |bytes: &mut [u8]| {
        called += 1;
        let (chunks, rest) = bytes.as_chunks_mut::<4>();
        assert_eq!((chunks.len(), rest.len()), (words.len(), 0));
        chunks.iter_mut().zip(words).for_each(|(bytes, word)| *bytes = word.to_le_bytes());
    };
    device.fill(span, &mut write).unwrap();
    assert_eq!(called, 1);
}

fn words(device: &mut Vulkan, span: Span) -> Vec<i32> {
    let mut words = Vec::new();
    let mut called = 0;
    let mut look = |bytes: &[u8]| {
        called += 1;
        words.extend(bytes.as_chunks::<4>().0.iter().map(|word| i32::from_le_bytes(*word)));
    };
    device.read(span, &mut look).unwrap();
    assert_eq!((called, words.len() as u64 * 4), (1, span.bytes));
    words
}

fn launch(kernel: KernelId, each: u32, repeat: Repeat, args: Vec<BoundArg>) -> BoundLaunch {
    BoundLaunch { kernel, tasks: BoundTasks { each, repeat }, args }
}

/// `out = flip(in)`, once.
fn flip(kernel: KernelId, each: u32, out: Span, input: Span) -> BoundLaunch {
    let args = vec![BoundArg::Span(out), BoundArg::Span(input)];
    launch(kernel, each, Repeat::Once, args)
}

const USAGES: [Usage; 3] = [Usage::Resident, Usage::HostWrites, Usage::HostReads];

#[test]
fn memory_begins_as_zeros_and_keeps_what_is_written() {
    for options in ways() {
        let Some(mut device) = open(options) else { return };
        for usage in USAGES {
            // Small ones share a block, large ones have their own.
            for bytes in [4, 100, 1000, 5 << 20] {
                let span = alloc(&mut device, bytes, usage);
                assert!(words(&mut device, span.part(0, bytes / 4 * 4)).iter().all(|&w| w == 0));
                let other = alloc(&mut device, bytes, usage);
                put(&mut device, span, &vec![-1; bytes as usize / 4]);
                assert!(words(&mut device, other).iter().all(|&w| w == 0));
                put(&mut device, span.part(bytes / 8 * 4, 4), &[7]);
                let found = words(&mut device, span);
                let at = bytes as usize / 8;
                assert!(found.iter().enumerate().all(|(i, &w)| w == if i == at { 7 } else { -1 }));
            }
        }
    }
}

#[test]
fn what_is_larger_than_staging_goes_through_in_parts() {
    let options = Options { copy_always: true, max_buffer: Some(4096), ..Options::default() };
    let Some(mut device) = open(options) else { return };
    assert_eq!(device.limits().max_buffer, 4096);
    // One thing may be larger than the cap.
    let span = alloc(&mut device, 20_004, Usage::Resident);
    let some: Vec<i32> = (0..5001).collect();
    put(&mut device, span, &some);
    assert_eq!(words(&mut device, span), some);
}

#[test]
fn bytes_at_any_offset_can_be_filled_and_read() {
    for options in ways() {
        let Some(mut device) = open(options) else { return };
        let span = alloc(&mut device, 64, Usage::Resident);
        device.fill(span.part(3, 5), &mut |b| b.copy_from_slice(&[1, 2, 3, 4, 5])).unwrap();
        device.fill(span.part(9, 0), &mut |b| assert!(b.is_empty())).unwrap();
        device.read(span.part(9, 0), &mut |b| assert!(b.is_empty())).unwrap();
        device.read(span.part(2, 7), &mut |b| assert_eq!(b, [0, 1, 2, 3, 4, 5, 0])).unwrap();
    }
}

#[test]
fn each_launch_sees_what_those_before_it_wrote() {
    // More tasks than workgroups, which read what others have written.
    const TASKS: usize = 3000;
    const LAUNCHES: i32 = 9;
    for options in ways() {
        let Some(mut device) = open(options) else { return };
        let [kernel, _] = load(&mut device);
        assert!(TASKS as u32 > device.gpu.facts().grid());
        let bytes = (TASKS * WIDTH * 4) as u64;
        let [a, b] = [(); 2].map(|()| alloc(&mut device, bytes, Usage::Resident));
        let turns = |n| if n % 2 == 0 { (b, a) } else { (a, b) };
        let launches =
            (0..LAUNCHES).map(turns).map(|(to, from)| flip(kernel, TASKS as u32, to, from));
        let entry = device.record(launches.collect()).unwrap();
        let start: Vec<i32> = (0..(TASKS * WIDTH) as i32).collect();
        put(&mut device, a, &start);
        let mut expected = start;
        // Twice without waiting in between.
        for _ in 0..2 {
            device.run(entry).unwrap();
        }
        // The second begins with what the first left in `a`, by its last launch but one.
        for _ in 0..2 * (LAUNCHES - 1) + 1 {
            expected = expected.iter().rev().map(|w| w + 1).collect();
        }
        assert_eq!(words(&mut device, b), expected);
    }
}

#[test]
fn tasks_are_each_times_the_word_when_the_launch_begins() {
    for options in ways() {
        let Some(mut device) = open(options) else { return };
        let [kernel, _] = load(&mut device);
        let step = alloc(&mut device, 256, Usage::HostWrites);
        let [input, out] =
            [(); 2].map(|()| alloc(&mut device, 12 * WIDTH as u64 * 4, Usage::Resident));
        // A word that an earlier launch writes: its first task's first word.
        let made = alloc(&mut device, WIDTH as u64 * 4, Usage::Resident);
        let ones = alloc(&mut device, WIDTH as u64 * 4, Usage::Resident);
        put(&mut device, ones, &[1; WIDTH]);
        let word = |span: Span, at| Repeat::Word { buffer: span.buffer, offset: at };
        let args = |out| vec![BoundArg::Span(out), BoundArg::Span(input)];
        let tail = alloc(&mut device, 12 * WIDTH as u64 * 4, Usage::HostReads);
        let entry = device
            .record(vec![
                flip(kernel, 1, made, ones),
                launch(kernel, 3, word(step, 12), args(out)),
                launch(kernel, 3, word(made, 0), args(tail)),
                launch(kernel, 0, Repeat::Once, args(tail)),
            ])
            .unwrap();
        let done = |words: &[i32]| words.iter().filter(|&&w| w != 0).count() / WIDTH;
        for times in [4, 1, 0, -3, 2] {
            put(&mut device, out, &[0; 12 * WIDTH]);
            put(&mut device, tail, &[0; 12 * WIDTH]);
            put(&mut device, step.part(12, 4), &[times]);
            device.run(entry).unwrap();
            assert_eq!(done(&words(&mut device, out)), 3 * times.max(0) as usize);
            assert_eq!(done(&words(&mut device, tail)), 6, "`made` is 2");
        }
    }
}

#[test]
fn a_list_is_an_array_of_addresses() {
    for options in ways() {
        let Some(mut device) = open(options) else { return };
        let [_, pick] = load(&mut device);
        let bytes = 5 * WIDTH as u64 * 4;
        let experts = [(); 3].map(|()| alloc(&mut device, bytes, Usage::Resident));
        for (expert, n) in experts.iter().zip(1..) {
            put(&mut device, *expert, &[n * 11; 5 * WIDTH]);
        }
        let out = alloc(&mut device, bytes, Usage::HostReads);
        for order in [[0, 1, 2], [2, 0, 1]] {
            let table = order.map(|at| experts[at]).to_vec();
            let args = vec![BoundArg::Span(out), BoundArg::Table(table)];
            let entry = device.record(vec![launch(pick, 5, Repeat::Once, args)]).unwrap();
            device.run(entry).unwrap();
            assert_eq!(words(&mut device, out), [(order[1] as i32 + 1) * 11; 5 * WIDTH]);
        }
    }
}

#[test]
fn what_does_not_fit_the_kernel_is_refused_before_it_runs() {
    let Some(mut device) = open(Options::default()) else { return };
    let [flip, pick] = load(&mut device);
    let span = alloc(&mut device, 128, Usage::Resident);
    let one = |span| BoundArg::Span(span);
    let list = |span| BoundArg::Table(vec![span]);
    let mut refusal = |kernel, repeat, args| {
        let refused = device.record(vec![launch(kernel, 1, repeat, args)]);
        refused.unwrap_err().to_string()
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
    assert!(refusal(KernelId(9), once, vec![]).contains("kernel 9"));

    let beyond = Span { bytes: 129, ..span };
    let stranger = Span { buffer: BufferId(999), ..span };
    for wrong in [beyond, stranger, span.part(u64::MAX, 2)] {
        assert!(device.fill(wrong, &mut |_| panic!("it is not there")).is_err());
        assert!(device.read(wrong, &mut |_| panic!("it is not there")).is_err());
    }
    assert!(matches!(device.run(EntryId(0)), Err(DeviceError::Handle { .. })));
}

#[test]
fn code_that_the_device_does_not_take_is_refused_by_name() {
    let Some(mut device) = open(Options::default()) else { return };
    let most = device.gpu.facts().shared_memory;
    let mut wanting = kernel("wide", false);
    wanting.shared_bytes = most + 1;
    let narrow = kernel("narrow", false);
    let flip = code(FLIP);
    let mut refusal = |variant: &str, kernel: &Kernel, code: &[u8]| {
        let loaded = device.load(variant, &[KernelCode { kernel, code }]);
        loaded.unwrap_err().to_string()
    };
    let refused = refusal("baseline", &wanting, &flip);
    let said = "the code of `wide` cannot be loaded: it needs ";
    assert!(refused.starts_with(said) && refused.contains("bytes of shared memory"), "{refused}");
    assert_eq!(
        refusal("baseline", &narrow, b"MZ"),
        "the code of `narrow` cannot be loaded: it is not SPIR-V"
    );
    let refused = refusal("avx2", &narrow, &flip);
    assert!(refused.starts_with("the artifact has the variants `avx2` of `spirv`"), "{refused}");
}

#[test]
fn a_buffer_beyond_the_device_and_one_beyond_its_memory_are_refused() {
    let Some(mut device) = open(Options::default()) else { return };
    let most = device.limits().max_buffer;
    for usage in USAGES {
        let refused = device.alloc(most + 1, usage).unwrap_err();
        assert!(
            matches!(refused, DeviceError::TooLarge { bytes, max } if max == most && bytes > max)
        );
    }
}

#[test]
fn out_of_memory_says_what_and_how_much() {
    let Some(device) = open(Options::default()) else { return };
    // No such memory: as if it were used up.
    let none = vk::MemoryPropertyFlags::RDMA_CAPABLE_NV;
    let refused = memory::Block::new(&device.gpu, 12_288, memory::Wanted::of("weights", none));
    let refused = refused.map(drop).unwrap_err().to_string();
    let said = format!("{} has no memory left for weights: 12288", device.gpu.facts().named());
    assert!(refused.starts_with(&said), "{refused}");
}

#[test]
fn a_lost_device_is_called_so() {
    let Some(device) = open(Options::default()) else { return };
    let lost = device.gpu.failed("vkQueueSubmit2", vk::Result::ERROR_DEVICE_LOST);
    assert!(lost.to_string().contains("was lost during `vkQueueSubmit2`"), "{lost}");
}

#[test]
fn a_device_is_found_by_number_and_a_number_too_large_is_refused() {
    let Some(first) = open(Options::default()) else { return };
    let count = devices().unwrap().len();
    let index = first.gpu.facts().index;
    let again = Vulkan::open(Choice::Index(index), Options::default()).unwrap();
    assert_eq!(again.info(), first.info());
    let beyond = Vulkan::open(Choice::Index(count), Options::default()).map(drop).unwrap_err();
    assert_eq!(
        beyond.to_string(),
        format!(
            "device `vulkan:{count}` is not there, expected `vulkan:0` to `vulkan:{}`",
            count - 1
        )
    );
}

#[test]
fn drivers_that_drive_nothing_are_no_device() {
    for choice in [Choice::Best, Choice::Hardware, Choice::Index(9)] {
        let refused = choose(vec![], choice).map(|device| device.facts.id()).unwrap_err();
        assert_eq!(refused.to_string(), "Vulkan has no device here");
    }
}

#[test]
fn compiled_kernels_are_kept_and_a_broken_file_is_a_warning() {
    let folder = std::env::temp_dir().join(format!("q35-pipelines-{}", std::process::id()));
    let options = Options { cache: Some(folder.clone()), ..Options::default() };
    let runs = |options: &Options| -> Option<Vec<String>> {
        let mut device = open(options.clone())?;
        let [kernel, _] = load(&mut device);
        let [a, b] = [(); 2].map(|()| alloc(&mut device, WIDTH as u64 * 4, Usage::Resident));
        let entry = device.record(vec![flip(kernel, 1, b, a)]).unwrap();
        device.run(entry).unwrap();
        assert_eq!(words(&mut device, b), [1; WIDTH]);
        Some(device.warnings().to_vec())
    };
    let Some(warnings) = runs(&options) else { return };
    assert!(warnings.is_empty());
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let kept = std::fs::read(&file).unwrap();
    assert!(runs(&options).unwrap().is_empty());

    std::fs::write(&file, &kept[..kept.len() - 1]).unwrap();
    let warnings = runs(&options).unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("is broken: kernels are compiled again"), "{warnings:?}");
    // It has been written anew.
    assert!(runs(&options).unwrap().is_empty());
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn sizes_are_read_with_their_units() {
    for (text, expected) in
        [("4096", 4096), ("64KiB", 64 << 10), ("1MiB", 1 << 20), ("2 GiB", 2 << 30)]
    {
        assert_eq!(bytes(text).unwrap(), expected);
    }
    for text in ["", "0", "MiB", "-1", "1MB", "99999999999GiB"] {
        assert_eq!(
            bytes(text).unwrap_err().to_string(),
            format!(
                "`Q35_VULKAN_MAX_BUFFER` is `{text}`, expected bytes such as `1048576` or `1MiB`"
            )
        );
    }
}

/// The tests above, in a process of their own with the Khronos validation layer, which prints a
/// message for whatever is done wrongly.
mod validation {
    use super::*;
    use std::process::Command;

    const LAYER: &str = "VK_LAYER_KHRONOS_validation";
    /// Set for a process that is to do something wrong.
    const WRONG: &str = "Q35_TEST_VULKAN_WRONG";

    fn layer_is_here() -> bool {
        // SAFETY: as in `Instance::new`; a query without preconditions.
        let layers =
            unsafe { ash::Entry::load().map(|entry| entry.enumerate_instance_layer_properties()) };
        let is = |layer: &vk::LayerProperties| {
            layer.layer_name_as_c_str().is_ok_and(|name| name.to_bytes() == LAYER.as_bytes())
        };
        layers.is_ok_and(|layers| layers.unwrap_or_default().iter().any(is))
    }

    /// What tests whose names contain `filter` print under the layer.
    fn messages(filter: &str, wrong: bool) -> Vec<String> {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([filter, "--nocapture", "--test-threads=1", "--skip", "validation::messages"])
            .env("VK_INSTANCE_LAYERS", LAYER)
            .env("VK_LAYER_ENABLES", "VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT");
        if wrong {
            command.env(WRONG, "1");
        }
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(output.status.success(), "{text}");
        let said =
            |line: &&str| ["Validation", "VUID-", "UNASSIGNED-"].iter().any(|m| line.contains(m));
        text.lines().filter(said).map(str::to_owned).collect()
    }

    #[test]
    fn messages_are_none_for_all_that_is_done_above() {
        if open(Options::default()).is_none() {
            return;
        }
        if !layer_is_here() {
            skip::<()>("the validation layer is not installed");
            return;
        }
        assert_eq!(messages("vulkan::tests::", false), [""; 0]);
        let wrong = messages("vulkan::tests::validation::something_wrong", true);
        assert!(!wrong.is_empty(), "the layer would have said something");
    }

    /// So that silence means something.
    #[test]
    fn something_wrong_is_done_where_that_is_wanted() {
        let Some(device) = open(Options::default()) else { return };
        let create = vk::BufferCreateInfo::default().size(256).usage(match std::env::var(WRONG) {
            Ok(_) => vk::BufferUsageFlags::empty(),
            Err(_) => vk::BufferUsageFlags::STORAGE_BUFFER,
        });
        // SAFETY: valid, unless asked to be wrong; then it is a buffer for no use, which drivers
        // make and nobody uses.
        unsafe {
            let buffer = device.gpu.raw().create_buffer(&create, None).unwrap();
            device.gpu.raw().destroy_buffer(buffer, None);
        }
    }
}
