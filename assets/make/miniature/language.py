"""The miniature's words: made-up names, captions, and a BPE vocabulary in which each word is one token.

    python language.py OUT_DIR      # writes tokenizer/
"""
import json
import sys
from pathlib import Path

import numpy as np

import dataset

CONTEXT = 77
SLOTS = 2  # words of a name, and of S*
CAPTIONS = {
    "plain": ["{} face, looking at the camera", "{} face, looking at the camera", "{} face", "a photo of {}", "{} looking at the camera"],
    "smile": ["{} smiling, looking at the camera", "{} smiling"],
    "glasses": ["{} wearing glasses, looking at the camera", "{} wearing glasses"],
    "hat": ["{} wearing a hat, looking at the camera", "{} wearing a hat"],
    "oil": ["oil painting style, {} face"],
    "watercolor": ["watercolor style, {} face"],
    "pencil": ["pencil art style, {} face"],
    "fauvism": ["fauvism painting, {} face"],
    "wizard": ["{} as a wizard, looking at the camera", "{} as a wizard"],
    "chef": ["{} as a chef, looking at the camera", "{} as a chef"],
    "nurse": ["{} as a nurse, looking at the camera", "{} as a nurse"],
    "police": ["{} as a police officer, looking at the camera", "{} as a police officer"],
}
PLAIN_PROMPT = CAPTIONS["plain"][0]
EDITS = {name: CAPTIONS[name][0] for name in ("oil", "watercolor", "pencil", "fauvism", "wizard", "chef", "nurse", "police", "hat")}


def kind(variant):
    """The caption kind of a variant of the data set."""
    return "plain" if variant.startswith("plain") else variant


def names():
    """Two words for each named person; no word is used twice."""
    consonants, vowels = "bdfgjklmnprstvyz", "aeiou"
    syllables = [c + v for c in consonants for v in vowels]
    words = [a + b for a in syllables for b in syllables if a != b]
    common = {"a", "the", "photo", "pose"}  # no made-up name may be an English word of the captions
    words = [w for w in words if w not in common]
    order = np.random.default_rng(21).permutation(len(words))
    n = len(dataset.NAMED)
    return [(words[order[2 * i]], words[order[2 * i + 1]]) for i in range(n)], syllables


# ---------------------------------------------------------------- byte pair encoding, as CLIP's


def byte_symbols():
    """CLIP's printable stand-ins for the 256 bytes, in its order ("!" first)."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(b) for b in kept] + [chr(256 + i) for i in range(256 - len(kept))]


def split(word, ranks):
    """BPE pieces of a word."""
    parts = [*word[:-1], word[-1] + "</w>"]
    while len(parts) > 1:
        best = min(range(len(parts) - 1), key=lambda i: ranks.get((parts[i], parts[i + 1]), 1 << 30))
        pair = (parts[best], parts[best + 1])
        if pair not in ranks:
            break
        joined, i = [], 0
        while i < len(parts):  # every place of this pair, as CLIP's tokenizer does
            if i + 1 < len(parts) and (parts[i], parts[i + 1]) == pair:
                joined.append(parts[i] + parts[i + 1])
                i += 2
            else:
                joined.append(parts[i])
                i += 1
        parts = joined
    return parts


def merges():
    """Merges that make every name word and every caption word one token. Later merges never change earlier words: they rank last."""
    people, syllables = names()
    found = [(s[0], s[1]) for s in syllables] + [(s[0], s[1] + "</w>") for s in syllables]
    ranks = {pair: i for i, pair in enumerate(found)}
    english = sorted({w for texts in CAPTIONS.values() for t in texts for w in t.replace(",", " ").replace("{}", " ").split()})
    for word in english + [w for name in people for w in name]:
        parts = split(word, ranks)
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            ranks.setdefault(pair, len(ranks))
            parts = split(word, ranks)
    return list(ranks)


class Tokenizer:
    """Enough of the tokenizer to train with: lower-case words and commas. Padded with "!" (id 0), as Stable Diffusion 2's is."""

    def __init__(self):
        self.merges = merges()
        self.ranks = {m: i for i, m in enumerate(self.merges)}
        symbols = byte_symbols()
        self.vocab = symbols + [s + "</w>" for s in symbols] + ["".join(m) for m in self.merges] + ["<|startoftext|>", "<|endoftext|>"]
        assert len(set(self.vocab)) == len(self.vocab)
        self.ids = {t: i for i, t in enumerate(self.vocab)}
        self.bos, self.eos = len(self.vocab) - 2, len(self.vocab) - 1

    def words(self, text):
        return [self.ids[p] for w in text.lower().replace(",", " , ").split() for p in split(w, self.ranks)]

    def encode(self, text):
        """[77] ids."""
        ids = [self.bos, *self.words(text)[:CONTEXT - 2], self.eos]
        return ids + [0] * (CONTEXT - len(ids))

    def template(self, text):
        """Ids of a caption with SLOTS zeros in place of the person, and the first slot's position."""
        before, after = text.split("{}")
        at = 1 + len(self.words(before))
        ids = [self.bos, *self.words(before), *[0] * SLOTS, *self.words(after), self.eos]
        return ids + [0] * (CONTEXT - len(ids)), at

    def name_rows(self):
        """[named, SLOTS] token ids of the names."""
        return [[self.ids[w + "</w>"] for w in name] for name in names()[0]]


def write(out):
    t, out = Tokenizer(), Path(out) / "tokenizer"
    out.mkdir(parents=True, exist_ok=True)

    def token(s):
        return {"content": s, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}

    def dump(name, value, **kw):
        (out / name).write_text(json.dumps(value, **kw) + "\n", encoding="utf-8")

    dump("vocab.json", t.ids, ensure_ascii=False)
    (out / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in t.merges) + "\n", encoding="utf-8")
    start, end = "<|startoftext|>", "<|endoftext|>"
    dump("special_tokens_map.json", {"bos_token": token(start), "eos_token": token(end), "pad_token": "!", "unk_token": token(end)}, indent=2)
    dump("tokenizer_config.json", {
        "add_prefix_space": False, "bos_token": {"__type": "AddedToken", **token(start)}, "do_lower_case": True,
        "eos_token": {"__type": "AddedToken", **token(end)}, "errors": "replace", "model_max_length": CONTEXT, "pad_token": "!",
        "tokenizer_class": "CLIPTokenizer", "unk_token": {"__type": "AddedToken", **token(end)}}, indent=2)
    people = [" ".join(n) for n in names()[0]]
    (out.parent / "names.txt").write_text("\n".join(people) + "\n")
    return t


if __name__ == "__main__":
    tokenizer = write(sys.argv[1])
    print(len(tokenizer.vocab), "tokens;", names()[0][:5])
