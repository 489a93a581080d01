//! Files that appear whole or not at all.

use crate::{Error, Result};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Writes a file under another name beside it, then renames it: nobody ever sees half of it, and a failure leaves nothing behind.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let part = part_name(path)?;
    let written = std::fs::File::create(&part)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&part, path));
    written.map_err(|e| {
        // that the rest cannot be removed either adds nothing to the error
        let _ = std::fs::remove_file(&part);
        explain(path, e)
    })
}

/// Makes sure that files can be written in a folder, which is made if it is missing: found out before minutes are spent on their contents.
pub(crate) fn prepare_folder(folder: &Path) -> Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    std::fs::create_dir_all(folder).map_err(|e| explain(folder, e))?;
    let probe = part_name(&folder.join("probe"))?;
    let probed = std::fs::File::create(&probe).and_then(|_| std::fs::remove_file(&probe));
    probed.map_err(|e| explain(folder, e))
}

fn explain(path: &Path, e: std::io::Error) -> Error {
    let advice = match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; the disk is full: free some space or write elsewhere",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "; choose a folder that you may write to",
        ErrorKind::NotFound => "; its folder does not exist",
        ErrorKind::IsADirectory => "; a folder has that name",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => "; a file stands where a folder is needed",
        _ => "",
    };
    Error::File { path: path.to_path_buf(), what: format!("cannot write: {e}{advice}"), source: Some(e) }
}

/// A name beside `path`, so that renaming stays on one file system.
fn part_name(path: &Path) -> Result<PathBuf> {
    let Some(name) = path.file_name() else { return Err(Error::file(path, "is not the name of a file")) };
    let mut name = name.to_owned();
    name.push(format!(".{}.part", std::process::id()));
    Ok(path.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_leave_nothing_behind_and_say_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("taken");
        std::fs::create_dir(&target).unwrap();
        let error = write_atomic(&target, b"x").unwrap_err().to_string();
        assert!(error.contains("a folder has that name"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = write_atomic(&folder.path().join("none/x.png"), b"x").unwrap_err().to_string();
        assert!(error.contains("folder does not exist"), "{error}");
        assert!(write_atomic(Path::new(".."), b"x").is_err());
    }

    #[test]
    fn a_folder_is_made_and_probed() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b");
        prepare_folder(&deep).unwrap();
        assert_eq!(std::fs::read_dir(&deep).unwrap().count(), 0);
        let file = folder.path().join("file");
        write_atomic(&file, b"x").unwrap();
        let error = prepare_folder(&file.join("below")).unwrap_err().to_string();
        assert!(error.contains("a file stands where a folder is needed"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named() {
        // every write to /dev/full fails as on a full disk
        let error = std::fs::OpenOptions::new().write(true).open("/dev/full").and_then(|mut f| f.write_all(b"x")).unwrap_err();
        assert!(explain(Path::new("p.png"), error).to_string().contains("disk is full"));
    }
}
