//! Compiled kernels on disk. A cache that is broken or cannot be written costs time, never a result.

use super::nvrtc::{Code, Nvrtc, Source};
use crate::device::Arch;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::{fs, io};

/// A folder of compiled kernels, by the hash of everything that they depend on.
pub(super) struct Cache {
    folder: Option<PathBuf>,
    warned: AtomicBool,
}

/// Length of the hash at the start of each file.
const HASH: usize = 32;

impl Cache {
    /// In `folder`, which is made when needed; with none, nothing is kept.
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, warned: AtomicBool::new(false) }
    }

    /// What was kept under `key`, if it is whole.
    pub(super) fn get(&self, key: &str) -> Option<Vec<u8>> {
        let path = self.folder.as_ref()?.join(key);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => return self.warn(&path, &format!("cannot be read: {e}")),
        };
        match bytes.split_at_checked(HASH) {
            Some((hash, code)) if Sha256::digest(code).as_slice() == hash => Some(code.to_vec()),
            _ => self.warn(&path, "is damaged; the kernel is compiled again"),
        }
    }

    /// Keeps `code` under `key`: written under another name first, so that nobody ever reads half of it.
    pub(super) fn put(&self, key: &str, code: &[u8]) {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let Some(folder) = &self.folder else { return };
        let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
        let part = folder.join(format!(".{key}.{}.{unique}", std::process::id()));
        let whole: Vec<u8> = Sha256::digest(code).iter().chain(code).copied().collect();
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(&part, whole)).and_then(|()| fs::rename(&part, folder.join(key)));
        if let Err(e) = written {
            let _ = fs::remove_file(&part); // there may be none
            self.warn::<()>(folder, &format!("cannot be written to: {e}; kernels are compiled at every start"));
        }
    }

    /// Says it once: a whole folder tends to be broken in one way.
    fn warn<T>(&self, path: &Path, what: &str) -> Option<T> {
        if !self.warned.swap(true, Ordering::Relaxed) {
            log::warn!("kernel cache: {} {what}", path.display());
        }
        None
    }
}

/// Name of the file that holds `source` compiled for a target.
pub(super) fn key(source: &Source, nvrtc: &Nvrtc, arch: Arch, code: Code) -> String {
    let mut hash = Sha256::new();
    // lengths keep neighbours apart
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    source.texts().for_each(|(name, text)| [name, text].into_iter().for_each(&mut add));
    source.options(arch, code).iter().for_each(|option| add(option));
    add(&format!("{:?}", nvrtc.version()));
    let hex: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    let ending = if code == Code::Cubin { "cubin" } else { "ptx" };
    format!("{}-{}.{ending}", source.stem, &hex[..40])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_and_damage_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(Some(dir.path().join("a/b")));
        assert_eq!(cache.get("k.ptx"), None);
        cache.put("k.ptx", b"code");
        assert_eq!(cache.get("k.ptx").as_deref(), Some(&b"code"[..]));
        let path = dir.path().join("a/b/k.ptx");
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(cache.get("k.ptx"), None);
        fs::write(&path, b"short").unwrap();
        assert_eq!(cache.get("k.ptx"), None);
        cache.put("k.ptx", b"again");
        assert_eq!(cache.get("k.ptx").as_deref(), Some(&b"again"[..]));
        assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 1, "no part is left behind");
    }

    #[test]
    fn a_folder_that_cannot_be_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), b"").unwrap();
        let cache = Cache::new(Some(dir.path().join("file")));
        cache.put("k", b"code");
        assert_eq!(cache.get("k"), None);
        let none = Cache::new(None);
        none.put("k", b"code");
        assert_eq!(none.get("k"), None);
    }
}
