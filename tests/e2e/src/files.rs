//! Golden files: generated code and what it does, reviewed as a diff like any other change.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// A folder of golden files. `GOLDEN=update cargo test` rewrites it.
pub struct Files {
    folder: PathBuf,
    update: bool,
    seen: BTreeSet<String>,
    wrong: Vec<String>,
}

impl Files {
    /// `golden/<name>`.
    pub fn open(name: &str) -> Files {
        let folder = crate::golden::folder().join(name);
        let update = std::env::var_os("GOLDEN").is_some_and(|v| v == "update");
        if update {
            std::fs::create_dir_all(&folder).expect("a folder for golden files");
        }
        Files { folder, update, seen: BTreeSet::new(), wrong: vec![] }
    }

    /// The file holds this text.
    pub fn check(&mut self, name: &str, text: &str) {
        self.check_by(name, text, |_, _| String::new());
    }

    /// The file holds this text, or `explain` says how what it holds differs from that.
    pub fn check_by(&mut self, name: &str, text: &str, explain: impl Fn(&str, &str) -> String) {
        self.seen.insert(name.into());
        let path = self.folder.join(name);
        if self.update {
            std::fs::write(&path, text).expect("a golden file is written");
            return;
        }
        let old = std::fs::read_to_string(&path).ok();
        if old.as_deref() != Some(text) {
            self.wrong.push(format!("{name}{}", explain(&old.unwrap_or_default(), text)));
        }
    }

    /// Every file is right, and none is left that nothing makes any more.
    pub fn finish(mut self) {
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if self.seen.contains(&name) {
                continue;
            }
            if self.update {
                std::fs::remove_file(&path).expect("a stale golden file is removed");
            } else {
                self.wrong.push(format!("{name} (nothing makes it)"));
            }
        }
        let folder = self.folder.display();
        assert!(
            self.wrong.is_empty(),
            "{folder}: {} differ; see them with GOLDEN=update and git diff: {}",
            self.wrong.len(),
            self.wrong.join(", ")
        );
    }
}
