//! Tables of `kernels` that are made by tests and kept under version control.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Fails unless `kernels/<file>` holds a title and these rows, in whatever order, and gives its text. With the variable `update` in the
/// environment it is written anew first.
pub(crate) fn compare_with_table(file: &str, title: &str, rows: &str, update: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels").join(file);
    let text = format!("{title}\n{rows}");
    if std::env::var_os(update).is_some() {
        fs::write(&path, &text).unwrap();
    }
    let table = fs::read_to_string(&path).unwrap();
    let (known, new): (BTreeSet<&str>, BTreeSet<&str>) = (table.lines().collect(), text.lines().collect());
    let changed: Vec<&&str> = new.difference(&known).chain(known.difference(&new)).collect();
    let (count, some) = (changed.len(), &changed[..changed.len().min(40)]);
    assert!(changed.is_empty(), "kernels/{file} differs in {count} rows (the same test with {update}=1 writes it anew):\n{some:#?}");
    table
}
