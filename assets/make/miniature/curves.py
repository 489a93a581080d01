"""Gathers the training logs into one file:  python curves.py CKPT_DIR OUT.json   ({part: [rows]}; restarts show as smaller steps)"""
import json
import sys
from pathlib import Path


def main(ckpt, out):
    parts = {}
    for path in sorted(Path(ckpt).glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        parts[path.stem] = [{k: v for k, v in r.items() if k not in ("part", "wall_s")} for r in rows]
    body = ",\n".join(f' "{k}": [\n' + ",\n".join("  " + json.dumps(r) for r in rows) + "\n ]" for k, rows in parts.items())
    Path(out).write_text("{\n" + body + "\n}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
