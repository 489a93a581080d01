//! The parts between a prompt and the model, against transformers, open_clip and diffusers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use dreamid_engine::Error;
use dreamid_engine::pipeline::{Dialect, Schedule, Tokenizer, TokenizerFiles, encode_prompt};
use proptest::prelude::*;
use safetensors::SafeTensors;
use std::path::PathBuf;

fn fixture(path: &str) -> Vec<u8> {
    let full = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path);
    std::fs::read(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()))
}

fn tokenizer(dialect: Dialect) -> Tokenizer {
    let [vocab, merges, map, config] =
        ["vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"].map(|f| fixture(&format!("tiny-a/tokenizer/{f}")));
    let files = TokenizerFiles { vocab: &vocab, merges: &merges, special_tokens_map: Some(&map), config: Some(&config) };
    Tokenizer::new(files, dialect).unwrap()
}

#[test]
fn tokens_of_transformers() {
    let tokenizer = tokenizer(Dialect::Transformers);
    let golden: serde_json::Value = serde_json::from_slice(&fixture("tokens.json")).unwrap();
    let rows = golden["prompts"].as_array().unwrap();
    assert!(rows.len() >= 80);
    for row in rows {
        let prompt = row["prompt"].as_str().unwrap();
        let mut want: Vec<i32> = row["transformers"].as_array().unwrap().iter().map(|v| v.as_i64().unwrap() as i32).collect();
        want.resize(77, 0);
        assert_eq!(tokenizer.ids(prompt).unwrap(), want, "{prompt:?}");
    }
}

/// open_clip also runs ftfy; these prompts need repairs that are out of scope, and are known to differ.
const NEED_FTFY: [&str; 5] = ["４２ full width", "ﬁ ligature", "schÃ¶n", "\u{feff}bom", "control\u{7}bell"];
/// A named entity beyond the five of XML.
const OTHER_ENTITY: &str = "caf&eacute;";

#[test]
fn tokens_of_open_clip() {
    let tokenizer = tokenizer(Dialect::OpenClip);
    let golden: serde_json::Value = serde_json::from_slice(&fixture("tokens.json")).unwrap();
    for row in golden["prompts"].as_array().unwrap() {
        let prompt = row["prompt"].as_str().unwrap();
        let mut want: Vec<i32> = row["open_clip"].as_array().unwrap().iter().map(|v| v.as_i64().unwrap() as i32).collect();
        want.resize(77, 0);
        let same = tokenizer.ids(prompt).unwrap() == want;
        assert_eq!(
            same,
            !NEED_FTFY.contains(&prompt) && prompt != OTHER_ENTITY,
            "{prompt:?}: {:?} {want:?}",
            tokenizer.ids(prompt).unwrap()
        );
    }
}

#[test]
fn padding_is_id_0_and_so_is_an_exclamation_mark() {
    let ids = tokenizer(Dialect::Transformers).ids("").unwrap();
    assert_eq!((ids.len(), ids[0], ids[1]), (77, 812, 813));
    assert!(ids[2..].iter().all(|&id| id == 0));
    assert_eq!(tokenizer(Dialect::Transformers).ids("!").unwrap()[1], 0);
    assert_eq!(tokenizer(Dialect::OpenClip).ids("!").unwrap()[1], 256);
}

#[test]
fn a_folder_of_stable_diffusion_1_pads_with_the_end() {
    let [vocab, merges] = ["vocab.json", "merges.txt"].map(|f| fixture(&format!("tiny-a/tokenizer/{f}")));
    let map =
        br#"{"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}"#;
    for special_tokens_map in [Some(&map[..]), None] {
        let tokenizer =
            Tokenizer::new(TokenizerFiles { vocab: &vocab, merges: &merges, special_tokens_map, config: None }, Dialect::default())
                .unwrap();
        assert_eq!(tokenizer.pad(), 813);
        assert!(tokenizer.ids("a").unwrap()[2..].iter().all(|&id| id == 813));
        assert_ne!(tokenizer.ids("!").unwrap()[1], 0, "without a padding role `!` is a word");
    }
}

#[test]
fn broken_tokenizer_files_are_named() {
    let [vocab, merges] = ["vocab.json", "merges.txt"].map(|f| fixture(&format!("tiny-a/tokenizer/{f}")));
    let error = |vocab: &[u8], merges: &[u8]| {
        let files = TokenizerFiles { vocab, merges, ..TokenizerFiles::default() };
        Tokenizer::new(files, Dialect::default()).unwrap_err().to_string()
    };
    assert!(error(b"{", &merges).contains("vocab.json"));
    assert!(error(b"{\"a\": 1}", b"").contains("<|startoftext|>"));
    assert!(error(&vocab, b"#version: 0.2\na b c\n").contains("line 2"));
    assert!(error(&vocab, b"a zzzz\n").contains("merges.txt"));
    assert!(error(&vocab, b"\xff\xfe").contains("UTF-8"));
}

#[test]
fn placeholder_takes_its_slots() {
    let tokenizer = tokenizer(Dialect::default());
    let plain = tokenizer.ids("as a chef").unwrap();
    let prompt = encode_prompt(&tokenizer, "S* as a chef", "S*", 2).unwrap();
    assert_eq!(prompt.slots, [[1, 2]]);
    assert_eq!(prompt.ids[3..77], plain[1..75], "the words around the placeholder are tokenized as if it were not there");
    assert_eq!(prompt.dropped, None);
    let twice = encode_prompt(&tokenizer, "S*, and S*'s dog", "S*", 3).unwrap();
    assert_eq!(twice.slots, [[1, 2, 3], [6, 7, 8]]);
    let none = encode_prompt(&tokenizer, "CLASS* and S*x, s*", "S*", 2).unwrap();
    assert!(!none.has_identity());
    assert_eq!(none.ids, tokenizer.ids("CLASS* and S*x, s*").unwrap());
    assert_eq!(encode_prompt(&tokenizer, "a photo of <me>.", "<me>", 2).unwrap().slots.len(), 1);
}

#[test]
fn long_prompts_lose_their_end_and_say_so() {
    let tokenizer = tokenizer(Dialect::default());
    let words = |n: usize| vec!["the"; n].join(" ");
    let exact = encode_prompt(&tokenizer, &format!("S* {}", words(73)), "S*", 2).unwrap();
    assert_eq!((exact.dropped, exact.ids[76]), (None, 813));
    let long = encode_prompt(&tokenizer, &format!("S* {} looking at supercalifragilistic", words(72)), "S*", 2).unwrap();
    assert_eq!(long.dropped.as_deref(), Some("looking at supercalifragilistic"));
    assert_eq!((long.ids.len(), long.ids[76]), (77, 813));
}

#[test]
fn a_placeholder_is_never_cut() {
    let tokenizer = tokenizer(Dialect::default());
    let words = |n: usize| vec!["the"; n].join(" ");
    assert!(encode_prompt(&tokenizer, &format!("{} S*", words(73)), "S*", 2).is_ok());
    for (before, message) in [(74, "leave out 1 word before"), (80, "leave out 7 words before")] {
        let error = encode_prompt(&tokenizer, &format!("{} S* and more", words(before)), "S*", 2).unwrap_err();
        assert!(matches!(&error, Error::Prompt(text) if text.contains(message)), "{error}");
    }
    let crowded = encode_prompt(&tokenizer, &vec!["S*"; 40].join(" "), "S*", 2).unwrap_err();
    assert!(crowded.to_string().contains("too often"), "{crowded}");
}

#[test]
fn schedule_of_diffusers() {
    let bytes = fixture("ddim.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let schedule = Schedule::from_json(&fixture("tiny-a/scheduler/scheduler_config.json"), "scheduler_config.json").unwrap();
    let floats = |name: &str| -> Vec<f32> {
        file.tensor(name).unwrap().data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let integers = |name: &str| -> Vec<usize> {
        file.tensor(name).unwrap().data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as usize).collect()
    };
    let worst =
        schedule.alphas_cumprod().iter().zip(floats("alphas_cumprod")).map(|(a, b)| (a / f64::from(b) - 1.0).abs()).fold(0.0, f64::max);
    assert!(worst < 2e-5, "alphas differ by {worst}");
    let mut counts = 0;
    for name in file.names().into_iter().filter(|n| n.starts_with("timesteps.")) {
        let count: usize = name["timesteps.".len()..].parse().unwrap();
        assert_eq!(schedule.steps(count).unwrap().timesteps, integers(name), "{count} steps");
        counts += 1;
    }
    assert!(counts >= 10);
    single_steps(&schedule, &integers("step.timesteps"), &floats("step.sample"), &floats("step.eps"), &floats("step.previous"));
}

fn single_steps(schedule: &Schedule, timesteps: &[usize], sample: &[f32], eps: &[f32], previous: &[f32]) {
    let steps = schedule.steps(30).unwrap();
    let each = sample.len() / timesteps.len();
    for (i, t) in timesteps.iter().enumerate() {
        let row = steps.timesteps.iter().position(|s| s == t).unwrap();
        let [a, b, c, d] = steps.coefficients[row];
        for j in i * each..(i + 1) * each {
            let got = c * (sample[j] - b * eps[j]) / a + d * eps[j];
            assert!((got - previous[j]).abs() < 3e-5 * previous[j].abs().max(1.0), "step at {t}: {got} {}", previous[j]);
        }
    }
}

fn part() -> impl Strategy<Value = String> {
    prop_oneof![Just("S*".to_owned()), Just(" ".to_owned()), Just("&amp;#39;\u{2019}".to_owned()), ".{0,40}"]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any text at all: no panic, the right length, and slots that are inside and free.
    #[test]
    fn any_text_is_a_prompt_or_an_error(parts in prop::collection::vec(part(), 0..12), words in 1usize..4) {
        for tokenizer in [tokenizer(Dialect::Transformers), tokenizer(Dialect::OpenClip)] {
            let text = parts.concat();
            match encode_prompt(&tokenizer, &text, "S*", words) {
                Ok(prompt) => {
                    prop_assert_eq!((prompt.ids.len(), prompt.ids[0]), (77, 812));
                    prop_assert!(prompt.slots.iter().flatten().all(|&s| (1..76).contains(&s) && prompt.ids[s] == 813));
                    prop_assert!(prompt.dropped.is_none_or(|d| text.contains(&d)));
                }
                Err(error) => prop_assert!(matches!(error, Error::Prompt(_)), "{}", error),
            }
        }
    }
}
