//! PTX from anywhere: refused, or run to its end, its fault or its limit.

use q35_fuzz::{files, fuzz};
use q35_ptx_sim::{Launch, Memory, Module};

#[test]
fn ptx_is_refused_or_runs_to_an_end() {
    let seeds = files("runtime/ptx-sim/tests/kernels", ".ptx");
    fuzz("ptx", &seeds, |bytes| {
        let Ok(module) = Module::parse(&String::from_utf8_lossy(bytes)) else { return };
        let mut memory = Memory::new();
        let Ok(program) = module.load(&mut memory) else { return };
        let Ok(buffer) = memory.alloc(4096) else { return };
        memory.fill(buffer, 1, 4096).expect("a buffer");
        for entry in program.entries() {
            let Ok(parameters) = program.parameters(entry) else { continue };
            let mut params = vec![];
            for (offset, size) in parameters {
                params.resize(offset as usize, 0);
                let value = if size == 8 { buffer } else { 40 };
                params.extend(
                    value.to_le_bytes().into_iter().chain([0; 8]).cycle().take(size as usize),
                );
            }
            let launch =
                Launch { block: [64, 1, 1], params: &params, limit: 1 << 14, ..Launch::default() };
            let _ = program.launch(&memory, entry, &launch);
            let _ = program.launch(
                &memory,
                entry,
                &Launch { block: [128, 1, 1], dynamic_shared: 32768, ..launch },
            );
        }
    });
}
