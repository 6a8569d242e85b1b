"""How fast documents are parsed and cut on one core, against the embedders' own rate.

python -m bench.parsing --data ../shared/data
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.results_file import write
from ragline.index.identity import embedder_input
from ragline.models.embedding import load_embedder, load_token_counter
from services.ingest.chunking import cut
from services.ingest.parsing import parse

_MARKDOWN = """# Handbook {n}

Working at a distance needs *clear* agreements, written down where everyone finds them.

## Leave

Everyone has {n} days of leave a year; see [the form](https://example.org/leave/{n}).

- ask a week before
- name your stand-in

```python
def days_left(taken: int) -> int:
    return {n} - taken
```

| month | days |
|-------|------|
| May   | {n}  |
"""


def _rate(texts: list[str], suffix: str, embedder: str) -> tuple[float, float, list[str]]:
    """MB/s and chunks/s of parsing and cutting, and the inputs that the embedder would read."""
    counter = load_token_counter(embedder)
    started, inputs = time.process_time(), []
    for number, text in enumerate(texts):
        parsed = parse(text, content_type=None, uri=f"{number}{suffix}", title=None)
        inputs += [embedder_input(c.heading_path, c.text) for c in cut(parsed, counter=counter, chunk_tokens=200)]
    seconds = time.process_time() - started
    return sum(len(text.encode()) for text in texts) / seconds / 1e6, len(inputs) / seconds, inputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of data sets")
    arguments = parser.parse_args()
    from bench.ingest import feed_lines

    peps = [line["content"] for line in feed_lines(arguments.data) if line.get("phase") == "initial"]
    markdown = ["\n".join(_MARKDOWN.format(n=n + k) for k in range(40)) for n in range(100)]
    measured: dict[str, Any] = {}
    for embedder in ("minilm", "wordllama"):
        rates = {}
        for name, texts, suffix in (("markdown", markdown, ".md"), ("restructuredtext", peps, ".rst")):
            megabytes_per_s, chunks_per_s, inputs = _rate(texts, suffix, embedder)
            rates[name] = {"mb_per_s": round(megabytes_per_s, 2), "chunks_per_s": round(chunks_per_s)}
        with tempfile.TemporaryDirectory() as folder:
            model = load_embedder(embedder, cache_dir=Path(folder))
            sample = inputs[:2000] if embedder == "wordllama" else inputs[:200]
            started = time.perf_counter()
            model.embed(sample)
            embedded_per_s = len(sample) / (time.perf_counter() - started)
        rates["embedder_chunks_per_s"] = round(embedded_per_s)
        rates["markdown_to_embedder"] = round(rates["markdown"]["chunks_per_s"] / embedded_per_s, 2)
        measured[embedder] = rates
    print(measured)
    print("written to", write("parsing", measured).name)


if __name__ == "__main__":
    main()
