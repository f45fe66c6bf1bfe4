//! The files of the repository, read once per rule.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// One text file, by its path from the root.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) executable: bool,
}

impl File {
    /// The folder that names the crate: `proxy`, `extracted/kit`.
    pub(crate) fn crate_name(&self) -> &str {
        let mut cuts = self.path.match_indices('/').map(|(at, _)| at);
        let first = cuts.next().unwrap_or(0);
        match &self.path[..first] {
            "extracted" => &self.path[..cuts.next().unwrap_or(first)],
            name => name,
        }
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// A file that holds nothing but tests.
    pub(crate) fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Repository {
    pub(crate) files: Vec<File>,
    /// Every path, of any kind, folders included.
    pub(crate) paths: BTreeSet<String>,
}

impl Repository {
    /// The repository that this test belongs to.
    pub(crate) fn here() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut here = Self::default();
        here.walk(&root, "");
        assert!(
            here.file("Cargo.toml").is_some(),
            "this is not the root of the repository"
        );
        here
    }

    pub(crate) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|f| f.path == path)
    }

    pub(crate) fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|f| f.is_rust())
    }

    /// The manifests of the members, with the folder of each.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = (&str, &File)> {
        self.files
            .iter()
            .filter_map(|f| Some((f.path.strip_suffix("/Cargo.toml")?, f)))
    }

    fn walk(&mut self, folder: &Path, prefix: &str) {
        for entry in listing(folder) {
            let name = entry.file_name().to_string_lossy().into_owned();
            // Build output, and what a demo leaves behind.
            if matches!(name.as_str(), ".git" | "target") || name.starts_with("outgrow-demo") {
                continue;
            }
            let path = format!("{prefix}{name}");
            self.paths.insert(path.clone());
            if entry.path().is_dir() {
                self.walk(&entry.path(), &format!("{path}/"));
            } else if let Ok(text) = fs::read_to_string(entry.path()) {
                let executable = is_executable(&entry);
                self.files.push(File {
                    path,
                    text,
                    executable,
                });
            }
        }
    }

    /// A repository of these files only, for the tests of the rules.
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let mut made = Self::default();
        for (path, text) in files {
            made.paths.insert((*path).to_owned());
            made.files.push(File {
                path: (*path).to_owned(),
                text: (*text).to_owned(),
                executable: false,
            });
        }
        made
    }
}

fn listing(folder: &Path) -> Vec<fs::DirEntry> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect);
    entries.unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
}

fn is_executable(entry: &fs::DirEntry) -> bool {
    entry
        .metadata()
        .is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0)
}
