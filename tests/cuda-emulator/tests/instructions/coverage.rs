//! No form without a test: the forms that the parser accepts, less those that the kernels of these tests are made of, are none.

use crate::common::forms_seen;
use std::collections::BTreeSet;
use std::process::Command;

/// Runs all other tests of this program once more, in a process that notes the forms it meets.
#[test]
fn every_form_has_a_row() {
    if forms_seen::noting() {
        return;
    }
    let notes = tempfile::NamedTempFile::new().unwrap();
    let mut tests = Command::new(std::env::current_exe().unwrap());
    let output = tests.env(forms_seen::NOTES, notes.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let text = std::fs::read_to_string(notes.path()).unwrap();
    let seen: BTreeSet<&str> = text.lines().collect();
    let missing: Vec<&String> = cuda_emulator::forms().iter().filter(|form| !seen.contains(form.as_str())).collect();
    assert!(missing.is_empty(), "{} of {} forms have no test: {missing:?}", missing.len(), cuda_emulator::forms().len());
}
