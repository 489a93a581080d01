//! Which instruction forms the kernels of a test program are made of, noted in a file where an environment variable names one.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Mutex;

/// The variable.
pub(crate) const NOTES: &str = "CUEMU_TEST_FORMS";

static SEEN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

pub(crate) fn noting() -> bool {
    std::env::var_os(NOTES).is_some()
}

/// Notes the forms in a module, those that are new.
pub(crate) fn note(ptx: &str) {
    let Some(file) = std::env::var_os(NOTES) else { return };
    let mut seen = SEEN.lock().unwrap();
    let new: Vec<&str> = forms(ptx).into_iter().filter(|form| seen.insert(form)).collect();
    let mut file = std::fs::OpenOptions::new().append(true).open(file).unwrap();
    new.iter().for_each(|form| writeln!(file, "{form}").unwrap());
}

/// The opcode of a statement is its first word behind labels, guards and braces; registers are words anywhere.
fn forms(ptx: &str) -> BTreeSet<&'static str> {
    let separator = |c: char| c.is_whitespace() || "{}[],;()+|".contains(c);
    let opcodes = ptx.split([';', '{', '}', '\n']).filter_map(|statement| {
        let mut words = statement.split_whitespace().filter(|word| !word.starts_with('@') && !word.ends_with(':'));
        words.next()
    });
    let registers = ptx.split(separator).filter(|word| word.starts_with('%'));
    opcodes.chain(registers).filter_map(cuda_emulator::form_of).collect()
}
