use super::*;
use crate::usage::sample;
use q35_kernel::Kernel;
use q35_target::{Caps, LowerError, Variant};

/// Files are code with the kernel's name in front.
struct Fake(&'static [Variant]);

const CAPS: Caps = Caps::CPU;
const PLAIN: Variant = Variant { name: "plain", extension: "o", caps: CAPS };
const WIDE: Variant = Variant { name: "wide", extension: "o", caps: CAPS };

impl Target for Fake {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn variants(&self) -> &'static [Variant] {
        self.0
    }

    fn lower(&self, _: &Variant, _: &Kernel) -> Result<Vec<u8>, LowerError> {
        unreachable!("code in an artifact has been lowered")
    }

    fn file(&self, variant: &Variant, kernel: &str, code: &[u8]) -> Vec<u8> {
        [kernel.as_bytes(), b" for ", variant.name.as_bytes(), b": ", code].concat()
    }

    fn listing(&self, _: &Variant, _: &Kernel) -> Result<String, LowerError> {
        unreachable!("code in an artifact has been lowered")
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("q35c-extract-{name}-{}", std::process::id());
        Folder(std::env::temp_dir().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Not every test makes it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn every_kernel_of_every_variant_is_a_file() {
    let folder = Folder::new("all");
    let inner = folder.0.join("made/too");
    let targets: [&dyn Target; 1] = [&Fake(&[PLAIN, WIDE])];
    let paths = extract(&sample::artifact(), &inner, &targets).expect("writable");
    assert_eq!(paths.len(), 12);
    let found = fs::read_dir(&inner).expect("made").count();
    assert_eq!(found, 12);
    let text = fs::read_to_string(inner.join("attend.wide.o")).expect("there");
    assert_eq!(text, "attend for wide: attend");
    extract(&sample::artifact(), &inner, &targets).expect("again, over what is there");
}

#[test]
fn code_of_unknown_kind_is_refused_before_anything_is_written() {
    let folder = Folder::new("unknown");
    let said = |targets: &[&dyn Target]| {
        extract(&sample::artifact(), &folder.0, targets).expect_err("unknown").to_string()
    };
    assert_eq!(said(&[]), "artifact has code for `cpu`, which this q35c does not know");
    assert_eq!(
        said(&[&Fake(&[PLAIN])]),
        "artifact has code of `cpu` for `wide`, which this q35c does not know"
    );
    assert!(!folder.0.exists());
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error() {
    let folder = Folder::new("file");
    fs::write(&folder.0, "").expect("writable");
    let targets: [&dyn Target; 1] = [&Fake(&[PLAIN, WIDE])];
    let said = extract(&sample::artifact(), &folder.0, &targets).expect_err("a file").to_string();
    assert!(said.starts_with(&format!("cannot write `{}`: ", folder.0.display())), "{said}");
    fs::remove_file(&folder.0).expect("ours");
}
