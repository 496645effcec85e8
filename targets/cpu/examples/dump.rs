use q35_kernel::*; use q35_target::Target; use q35_types::DType;
fn main() {
    for rows in [1i32, 2, 8, 64] { for v in q35_target_cpu::Cpu.variants() { 
        let k = KernelBuilder::new("mv", 1, v.caps.fma, v.caps.panel_dot);
        let x = k.input("x", DType::F32); let w = k.input("w", DType::Bf16); let out = k.output("out", DType::F32);
        let t = k.task();
        k.panel_dot(PanelArgs { x: k.at(x, 0), x_row: k.i(4096), x_k: k.i(1), w: k.at(w, t * (4096*16)), w_panel: k.i(4096*16), out: k.at(out, t * 16), out_row: k.i(4096), rows: k.i(rows), panels: k.i(1), k: k.i(4096), accumulate: false });
        let kernel = k.finish();
        let t0 = std::time::Instant::now();
        let code = q35_target_cpu::Cpu.lower(v, &kernel).unwrap();
        eprintln!("{} {:?} {} bytes", v.name, t0.elapsed(), code.len());
        std::fs::write(format!("/tmp/mv.{}.{rows}.o", v.name), q35_target_cpu::Cpu.file(v, "mv", &code)).unwrap();
        std::fs::write(format!("/tmp/mv.{}.{rows}.bin", v.name), &code).unwrap();
    } }
}
