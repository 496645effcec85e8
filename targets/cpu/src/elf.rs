//! Code as an ELF object file, for `objdump -d` and linkers.
//!
//! ```text
//! header │ .text │ .symtab │ .strtab │ .shstrtab │ section headers
//! ```

const SHT_PROGBITS: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_STRTAB: u32 = 3;
const SHF_ALLOC_EXECINSTR: u64 = 2 | 4;
/// `STB_GLOBAL`, `STT_FUNC`.
const GLOBAL_FUNCTION: u8 = (1 << 4) | 2;
const HEADER: u64 = 64;

/// A relocatable ELF64 object, little-endian, that holds the function `name`.
pub fn object(machine: u16, name: &str, code: &[u8]) -> Vec<u8> {
    let names = "\0.text\0.symtab\0.strtab\0.shstrtab\0";
    let name_of =
        |section: &str| names.find(&format!("\0{section}\0")).expect("a section") as u32 + 1;
    let strings = format!("\0{name}\0");
    let mut symbols = vec![0; 24];
    symbols.extend(1u32.to_le_bytes());
    symbols.extend([GLOBAL_FUNCTION, 0]);
    symbols.extend(1u16.to_le_bytes());
    symbols.extend(0u64.to_le_bytes());
    symbols.extend((code.len() as u64).to_le_bytes());

    let mut body = Vec::new();
    let mut headers = vec![0; 64];
    let mut section = |name: &str,
                       kind: u32,
                       flags: u64,
                       bytes: &[u8],
                       link: u32,
                       info: u32,
                       align: u64,
                       entry: u64| {
        body.resize(body.len().next_multiple_of(align as usize), 0);
        headers.extend([name_of(name), kind].into_iter().flat_map(u32::to_le_bytes));
        let offset = HEADER + body.len() as u64;
        headers
            .extend([flags, 0, offset, bytes.len() as u64].into_iter().flat_map(u64::to_le_bytes));
        headers.extend([link, info].into_iter().flat_map(u32::to_le_bytes));
        headers.extend([align, entry].into_iter().flat_map(u64::to_le_bytes));
        body.extend(bytes);
    };
    section(".text", SHT_PROGBITS, SHF_ALLOC_EXECINSTR, code, 0, 0, 64, 0);
    section(".symtab", SHT_SYMTAB, 0, &symbols, 3, 1, 8, 24);
    section(".strtab", SHT_STRTAB, 0, strings.as_bytes(), 0, 0, 1, 0);
    section(".shstrtab", SHT_STRTAB, 0, names.as_bytes(), 0, 0, 1, 0);
    body.resize(body.len().next_multiple_of(8), 0);

    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([1, machine].into_iter().flat_map(u16::to_le_bytes));
    file.extend(1u32.to_le_bytes());
    file.extend([0, 0, HEADER + body.len() as u64].into_iter().flat_map(u64::to_le_bytes));
    file.extend(0u32.to_le_bytes());
    file.extend([HEADER as u16, 0, 0, 64, 5, 4].into_iter().flat_map(u16::to_le_bytes));
    file.extend(body);
    file.extend(headers);
    file
}
