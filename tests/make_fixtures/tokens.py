#!/usr/bin/env python3
"""tokens.json: tricky prompts and their ids by transformers' CLIPTokenizer and by open_clip's SimpleTokenizer.

    python tokens.py --bpe bpe_simple_vocab_16e6.txt.gz --open-clip FOLDER_THAT_HOLDS_open_clip/

Both use tiny-a's vocabulary (300 merges); open_clip's ids for the full vocabulary are stored too. They differ where the two
libraries differ: a literal "!" (transformers takes it for the padding token, id 0), HTML entities and broken Unicode (only
open_clip repairs them), and the padding itself.
"""
import argparse
import gzip
import importlib.util
import sys
import tempfile
from pathlib import Path

import transformers

from common import FIXTURES, write_json
from tiny_pipelines import SPECS

PROMPTS = [
    "", " ", "a", "a photo of a cat", "A Photo Of A CAT", "a  photo\tof\na   cat ", "person", "astronaut riding a horse on mars",
    "S* as a firefighter, looking at the camera", "s* s* s*", "S*", "S *", "<id>", "sks person", "oil painting style, S* face",
    "it's", "don't they'll we've i'm you'd they're", "IT'S", "rock 'n' roll", "'s", "can''t", "’s curly apostrophe isn’t",
    "2.1", "1234567890", "3 cats and 12 dogs", "v2-1_512", "50% off", "1,000.50", "x86_64", "４２ full width", "½ ² ③",
    "hello!", "!", "!!!", "wow! really?! yes", "a!b", "...", "a,b;c:d", "(parentheses) [brackets] {braces}", "((very detailed:1.2))",
    "#hashtag @user $100 ^ & * ~ `", "back\\slash / slash | pipe", "\"double\" 'single' «guillemets» “curly”", "under_score", "--- — – -",
    "&amp;", "&lt;b&gt; bold &lt;/b&gt;", "&amp;amp; twice", "caf&eacute;", "AT&T",
    "café", "cafe\u0301", "ÀÉÎÕÜ", "ß ẞ", "İstanbul", "ΑΒΓ αβγς", "Привет, мир", "你好世界", "こんにちは", "한국어", "שלום", "مرحبا", "ไทย",
    "😀", "👩🏽‍🚒 firefighter", "🇫🇷", "a\u200bzero width", "non\u00a0breaking", "\u3000wide space", "soft\u00adhyphen", "ﬁ ligature",
    "schÃ¶n", "tab\there", "line\r\nbreak", "\ufeffbom", "control\x07bell",
    "<|startoftext|>", "<|endoftext|>", "a <|endoftext|> b", "<|STARTOFTEXT|>", "<|startoftext|>a<|endoftext|>",
    "supercalifragilisticexpialidocious", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "the the the the", "antidisestablishmentarianism's",
    "a very long prompt " * 20, "word " * 74 + "end", "word " * 75 + "end", "one, two; " * 30,
]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--bpe", required=True)
    ap.add_argument("--open-clip", required=True, help="the folder that contains the package open_clip")
    a = ap.parse_args()
    simple = load_simple_tokenizer(Path(a.open_clip) / "open_clip/tokenizer.py")
    hf = transformers.CLIPTokenizer.from_pretrained(FIXTURES / "tiny-a/tokenizer")
    tiny, full = simple(bpe_path=short_merges(a.bpe)), simple(bpe_path=a.bpe)
    rows = [{
        "prompt": p,
        "transformers": hf(p, truncation=True, max_length=77).input_ids,
        "open_clip": ids(tiny, p),
        "open_clip_full": ids(full, p),
    } for p in PROMPTS]
    write_json("tokens.json", {"context": 77, "pad_id": 0, "tokenizer": "tiny-a/tokenizer", "prompts": rows})
    same = sum(r["transformers"] == r["open_clip"] for r in rows)
    print(f"tokens.json: {len(rows)} prompts, {same} with the same ids in both libraries")
    for r in rows:
        if r["transformers"] != r["open_clip"]:
            print(f"  differ: {r['prompt']!r}: {r['transformers'][:12]} / {r['open_clip'][:12]}")


def ids(tokenizer, prompt):
    """Start, tokens, end; cut to 77 with the end kept; without padding."""
    tokens = [tokenizer.sot_token_id, *tokenizer.encode(prompt), tokenizer.eot_token_id]
    return tokens if len(tokens) <= 77 else [*tokens[:76], tokenizer.eot_token_id]


def short_merges(bpe):
    """The first 300 merges, in the original file's format."""
    lines = gzip.decompress(Path(bpe).read_bytes()).decode("utf-8").split("\n")[: 1 + SPECS["tiny-a"].merges]
    path = Path(tempfile.mkdtemp()) / "short.txt.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode("utf-8")))
    return str(path)


def load_simple_tokenizer(path):
    """open_clip's tokenizer module alone, without the package's heavier parts."""
    spec = importlib.util.spec_from_file_location("open_clip_tokenizer", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.SimpleTokenizer


if __name__ == "__main__":
    main()
