//! Where pictures go: what `--out PATH` means.

use super::{Image, Parameters, contact_sheet, write_png};
use crate::files::prepare_folder;
use crate::{Error, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Name of pictures in a folder.
const STEM: &str = "dreamid";

/// Names for one or several pictures.
///
/// `PATH.png` (or `PATH`) for one picture; `PATH-1.png`, `PATH-2.png`, ... and `PATH-sheet.png` for several. A folder, or a path that ends
/// in a separator, stands for `dreamid` inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    folder: PathBuf,
    stem: OsString,
}

impl Destination {
    /// The destination that `path` stands for. Files end in `.png`: anything else is refused.
    pub fn new(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let is_folder = path.is_dir() || path.as_os_str().to_string_lossy().ends_with(std::path::is_separator);
        if is_folder {
            return Ok(Self { folder: path.to_path_buf(), stem: STEM.into() });
        }
        let Some(name) = path.file_name() else { return Err(Error::file(path, "is not the name of a file or folder")) };
        let stem = match path.extension().map(|e| e.to_string_lossy().to_lowercase()) {
            Some(e) if e == "png" => path.file_stem().unwrap_or(name),
            Some(e) if ["jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff"].contains(&e.as_str()) => {
                return Err(Error::file(path, "pictures are written as PNG: give a name that ends in .png"));
            }
            _ => name,
        };
        Ok(Self { folder: path.parent().unwrap_or(Path::new("")).to_path_buf(), stem: stem.to_owned() })
    }

    /// Makes the folder and finds out whether it can be written to, before anything is computed.
    pub fn prepare(&self) -> Result<()> {
        prepare_folder(&self.folder)
    }

    /// Writes the pictures and, for several, the contact sheet; gives all paths written.
    pub fn write(&self, pictures: &[Image], parameters: &[Parameters]) -> Result<Vec<PathBuf>> {
        let mut paths = self.pictures(pictures.len());
        for (i, (path, picture)) in paths.iter().zip(pictures).enumerate() {
            write_png(path, picture, parameters.get(i))?;
        }
        paths.extend(self.write_sheet(pictures, parameters)?);
        Ok(paths)
    }

    /// Writes the contact sheet of several pictures; gives its path.
    pub fn write_sheet(&self, pictures: &[Image], parameters: &[Parameters]) -> Result<Option<PathBuf>> {
        if pictures.len() < 2 {
            return Ok(None);
        }
        let sheet = self.named("-sheet");
        write_png(&sheet, &contact_sheet(pictures)?, parameters.first())?;
        Ok(Some(sheet))
    }

    /// Paths of `count` pictures.
    pub fn pictures(&self, count: usize) -> Vec<PathBuf> {
        match count {
            1 => vec![self.named("")],
            _ => (1..=count).map(|i| self.named(&format!("-{i}"))).collect(),
        }
    }

    fn named(&self, suffix: &str) -> PathBuf {
        let mut name = self.stem.clone();
        name.push(suffix);
        name.push(".png");
        self.folder.join(name)
    }
}

/// Makes the folder of a file that is to be written, and finds out whether it can be written to, before anything is computed.
pub fn prepare_file(path: impl AsRef<Path>) -> Result<()> {
    prepare_folder(path.as_ref().parent().unwrap_or(Path::new("")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let paths = |path: &str, count| Destination::new(path).unwrap().pictures(count);
        assert_eq!(paths("a/b.png", 1), [PathBuf::from("a/b.png")]);
        assert_eq!(paths("a/b.PNG", 1), [PathBuf::from("a/b.png")]);
        assert_eq!(paths("b", 1), [PathBuf::from("b.png")]);
        assert_eq!(paths("b.v2", 2), [PathBuf::from("b.v2-1.png"), PathBuf::from("b.v2-2.png")]);
        assert_eq!(paths("out/", 1), [PathBuf::from("out/dreamid.png")]);
        assert_eq!(paths(".", 2)[1], PathBuf::from("./dreamid-2.png"));
        assert!(Destination::new("b.jpg").unwrap_err().to_string().contains(".png"));
        assert!(Destination::new("..").is_ok_and(|d| d.folder == Path::new("..")));
    }

    #[test]
    fn several_pictures_get_a_sheet() {
        let folder = tempfile::tempdir().unwrap();
        let picture = Image::from_pixels(2, 2, vec![9; 12]).unwrap();
        let destination = Destination::new(folder.path().join("new/p.png")).unwrap();
        destination.prepare().unwrap();
        let written = destination.write(&[picture.clone(), picture.clone()], &[]).unwrap();
        let names: Vec<_> = written.iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect();
        assert_eq!(names, ["p-1.png", "p-2.png", "p-sheet.png"]);
        assert!(written.iter().all(|p| p.is_file()));
        assert_eq!(destination.write(&[picture], &[]).unwrap().len(), 1);
    }
}
