//! A hash that tells weights apart without reading all of a large file.

use super::{Source, Weights};
use sha2::{Digest, Sha256};

/// Bytes of a sample.
const BLOCK: usize = 1 << 20;
/// Samples of a file; smaller files are hashed whole.
const BLOCKS: usize = 64;

impl Weights {
    /// SHA-256, in hexadecimal, of each file's size and contents; of files beyond 64 MiB only 64 samples of 1 MiB count, the first
    /// (names and shapes) and the last among them. Random weights are named by their seed instead.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for part in &self.parts {
            match &part.store.source {
                Source::Random { seed } => hash.update(format!("random {seed}")),
                Source::Files(files) => files.iter().for_each(|f| sample(f.bytes.get(), &mut hash)),
            }
        }
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

fn sample(bytes: &[u8], hash: &mut Sha256) {
    hash.update((bytes.len() as u64).to_le_bytes());
    if bytes.len() <= BLOCK * BLOCKS {
        return hash.update(bytes);
    }
    let last = bytes.len() - BLOCK;
    for i in 0..BLOCKS {
        let start = (last as u128 * i as u128 / (BLOCKS - 1) as u128) as usize;
        hash.update(&bytes[start..start + BLOCK]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_small_file_counts_and_the_ends_of_a_large_one() {
        let of = |bytes: &[u8]| {
            let mut hash = Sha256::new();
            sample(bytes, &mut hash);
            hash.finalize()
        };
        let mut small = vec![7u8; 1000];
        let before = of(&small);
        small[500] = 8;
        assert_ne!(before, of(&small));
        let mut large = vec![1u8; BLOCK * BLOCKS + 5];
        let before = of(&large);
        *large.last_mut().unwrap() = 2;
        assert_ne!(before, of(&large));
        assert_ne!(before, of(&vec![1u8; BLOCK * BLOCKS + 6]));
        assert_ne!(Weights::random(1).fingerprint(), Weights::random(2).fingerprint());
    }
}
