"""Chunks fit the embedder's window, hold all of the text in order, and move only where the text changed."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragline.index.identity import embedder_input
from ragline.models.embedding import TokenCounter
from ragline.models.tokens import token_counter
from services.ingest.chunking import Chunk, cut
from services.ingest.packing import pack
from services.ingest.parsing import Block, ParsedDocument, parse


class FourCharacterTokens:
    """A token is at most four characters of a word; two special tokens frame a text."""

    _TOKEN = re.compile(r"\S{1,4}")

    def __init__(self, window_tokens: int = 256) -> None:
        self.window_tokens = window_tokens

    def count(self, text: str) -> int:
        return 2 + len(self._TOKEN.findall(text))

    def offsets(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in self._TOKEN.finditer(text)]


class ByteTokens:
    """A token is a byte, white space included, and a text costs more than its parts."""

    window_tokens = 200

    def count(self, text: str) -> int:
        size = len(text.encode())
        return 1 + size + size // 50

    def offsets(self, text: str) -> list[tuple[int, int]]:
        return [(index, index + 1) for index, character in enumerate(text) for _ in character.encode()]


COUNTER = FourCharacterTokens()
WORDS = [f"{random.Random(number).getrandbits(20):x}" for number in range(2000)]


def document(*blocks: Block, title: str = "Title") -> ParsedDocument:
    return ParsedDocument(title, None, blocks, ())


def paragraph(text: str, *path: str) -> Block:
    return Block("paragraph", text, path, None, None)


def prose(source: random.Random, words: int) -> str:
    """Sentences of made-up words, none alike."""
    return " ".join(source.choice(WORDS) + ("." if source.random() < 0.08 else "") for _ in range(words))


def section(seed: int, paragraphs: int = 40, most_words: int = 60) -> list[str]:
    source = random.Random(seed)
    return [prose(source, source.randint(5, most_words)) for _ in range(paragraphs)]


def contents(chunks: tuple[Chunk, ...]) -> set[tuple[tuple[str, ...], str]]:
    return {(chunk.heading_path, chunk.text) for chunk in chunks}


def tokens_read(chunk: Chunk, counter: TokenCounter) -> int:
    return counter.count(embedder_input(chunk.heading_path, chunk.text))


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=3000)
LONG_WORD = st.builds(lambda piece, times: piece * times, st.text(min_size=1, max_size=9), st.integers(1, 2000))
PROSE = st.builds(lambda seed, words: prose(random.Random(seed), words), st.integers(0, 999), st.integers(1, 600))
BLOCKS = st.lists(
    st.builds(
        Block,
        st.sampled_from(["paragraph", "list", "code", "table", "quote"]),
        (ANY_TEXT | LONG_WORD | PROSE).filter(lambda text: bool(text.strip())),
        st.lists(st.sampled_from(["A", "B", "A heading of several words", "long " * 80]), max_size=4).map(tuple),
        st.none() | st.integers(1, 99),
        st.none(),
    ),
    max_size=8,
)


@given(blocks=BLOCKS, counter=st.sampled_from([COUNTER, FourCharacterTokens(64), ByteTokens()]))
@settings(max_examples=150, deadline=None)
def test_no_chunk_exceeds_the_window_or_is_empty_and_all_text_is_there_in_order(
    blocks: list[Block], counter: TokenCounter
) -> None:
    chunks = cut(document(*blocks), counter=counter)
    assert all(tokens_read(chunk, counter) <= counter.window_tokens for chunk in chunks)
    assert all(chunk.text.strip() for chunk in chunks)
    assert "".join("".join(chunk.text.split()) for chunk in chunks) == "".join(
        "".join(block.text.split()) for block in blocks
    )
    assert chunks == cut(document(*blocks), counter=counter)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_words_are_kept_whole(seed: int) -> None:
    paragraphs = section(seed, paragraphs=6, most_words=900)
    chunks = cut(document(*map(paragraph, paragraphs)), counter=COUNTER)
    assert [word for chunk in chunks for word in chunk.text.split()] == " ".join(paragraphs).split()


def test_a_line_of_100_kilobytes_is_cut_within_the_window() -> None:
    line = " ".join(random.Random(5).choices(WORDS, k=17_000))
    assert len(line) > 95_000
    chunks = cut(document(paragraph(line)), counter=COUNTER)
    assert all(tokens_read(chunk, COUNTER) <= COUNTER.window_tokens for chunk in chunks)
    assert [word for chunk in chunks for word in chunk.text.split()] == line.split()


def test_a_word_without_end_is_bounded_though_a_tokenizer_calls_it_one_token() -> None:
    class OneTokenAWord(FourCharacterTokens):
        _TOKEN = re.compile(r"\S+")

    chunks = cut(document(paragraph("x" * 100_000)), counter=OneTokenAWord())
    assert "".join(chunk.text for chunk in chunks) == "x" * 100_000
    assert max(len(chunk.text) for chunk in chunks) <= 2000


# Locality


@given(seed=st.integers(0, 10_000), inserted=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_a_section_inserted_on_top_leaves_every_other_chunk_as_it_was(seed: int, inserted: int) -> None:
    blocks = [paragraph(text, f"Section {number // 9}") for number, text in enumerate(section(seed))]
    before = cut(document(*blocks), counter=COUNTER)
    news = paragraph(prose(random.Random(-seed), inserted), "News")
    after = cut(document(news, *blocks), counter=COUNTER)
    assert after[-len(before) :] == before


@given(seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_a_paragraph_inserted_on_top_of_a_long_section_changes_only_the_chunks_next_to_it(seed: int) -> None:
    paragraphs = section(seed)
    before = cut(document(*map(paragraph, paragraphs)), counter=COUNTER)
    after = cut(document(*map(paragraph, ["A new paragraph on top.", *paragraphs])), counter=COUNTER)
    assert len(contents(after) - contents(before)) <= MOST_CHANGED
    assert after[-len(before) // 2 :] == before[-len(before) // 2 :]


@given(seed=st.integers(0, 10_000), place=st.floats(0, 0.999), words=st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_an_edit_in_a_long_section_changes_only_a_few_chunks(seed: int, place: float, words: int) -> None:
    paragraphs = section(seed)
    before = cut(document(*map(paragraph, paragraphs)), counter=COUNTER)
    edited = list(paragraphs)
    index = int(place * len(edited))
    edited[index] = f"Edited: {edited[index]} {prose(random.Random(~seed), words)}"
    after = cut(document(*map(paragraph, edited)), counter=COUNTER)
    assert contents(after) != contents(before)
    assert len(contents(after) - contents(before)) <= MOST_CHANGED


@given(seed=st.integers(0, 10_000), place=st.floats(0, 0.999))
@settings(max_examples=40, deadline=None)
def test_an_edit_in_one_endless_paragraph_changes_only_a_few_chunks(seed: int, place: float) -> None:
    words = prose(random.Random(seed), 6000).split()
    before = cut(document(paragraph(" ".join(words))), counter=COUNTER)
    words.insert(int(place * len(words)), "inserted words here")
    after = cut(document(paragraph(" ".join(words))), counter=COUNTER)
    assert len(contents(after) - contents(before)) <= MOST_CHANGED


MOST_CHANGED = 7
"""Measured: one or two on average, seldom more than four; a greedy packing changes all that follow."""


# Shape


def test_sections_are_never_joined_and_paths_begin_with_the_title() -> None:
    chunks = cut(document(paragraph("one"), paragraph("two", "A"), paragraph("three", "A", "B")), counter=COUNTER)
    assert [(chunk.heading_path, chunk.text) for chunk in chunks] == [
        (("Title",), "one"),
        (("Title", "A"), "two"),
        (("Title", "A", "B"), "three"),
    ]


def test_small_blocks_of_a_section_are_packed_together_and_items_stay_close() -> None:
    item = Block("list", "- item", (), 3, None)
    chunks = cut(document(Block("paragraph", "Intro:", (), 1, 7), item, item), counter=COUNTER)
    assert chunks == (Chunk("Intro:\n\n- item\n- item", ("Title",), 7, 1),)


def test_long_sections_are_cut_near_the_size_aimed_at() -> None:
    blocks = [paragraph(text) for text in section(1, paragraphs=200)]
    for chunk_tokens in (60, 120, 200):
        sizes = [
            COUNTER.count(chunk.text) - 2
            for chunk in cut(document(*blocks), counter=COUNTER, chunk_tokens=chunk_tokens)
        ]
        assert max(sizes) <= chunk_tokens * 1.2
        assert 0.65 * chunk_tokens <= sum(sizes) / len(sizes) <= 1.1 * chunk_tokens


def test_code_and_tables_stay_whole_where_they_fit_and_are_cut_between_lines_where_not() -> None:
    code = "\n".join(f"    line {number}" for number in range(20))
    long_code = "\n".join(f"def f{number}():\n    return {number}\n" for number in range(100)).rstrip()
    source = random.Random(2)
    chunks = cut(
        document(
            paragraph(prose(source, 60)),
            Block("code", code, (), 9, None),
            paragraph(prose(source, 60)),
            Block("code", long_code, ("Long",), 40, None),
        ),
        counter=COUNTER,
    )
    assert any(code in chunk.text for chunk in chunks)
    cut_code = [chunk for chunk in chunks if chunk.heading_path == ("Title", "Long")]
    assert len(cut_code) > 1
    assert all(chunk.text.startswith("def ") and chunk.line == 40 for chunk in cut_code)
    assert "\n".join(line for chunk in cut_code for line in chunk.text.split("\n") if line) == "\n".join(
        line for line in long_code.split("\n") if line
    )


def test_long_paragraphs_are_cut_between_sentences() -> None:
    sentences = [f"{prose(random.Random(number), 12).replace('.', '').capitalize()}." for number in range(40)]
    chunks = cut(document(paragraph(" ".join(sentences))), counter=COUNTER)
    assert len(chunks) > 1
    assert all(chunk.text.endswith(".") for chunk in chunks)


def test_chinese_is_cut_between_sentences() -> None:
    sentence = "机器学习是人工智能的一个分支，它使计算机能够从数据中学习。"  # noqa: RUF001
    text = "".join(sentence.replace("分支", f"分支{number}") for number in range(100))
    chunks = cut(document(paragraph(text)), counter=COUNTER)
    assert len(chunks) > 1
    assert all(chunk.text.endswith("。") for chunk in chunks)


def test_an_introduction_stays_with_what_it_introduces() -> None:
    source = random.Random(3)
    for _ in range(20):
        before, code = prose(source, 50), "\n".join(prose(source, 4) for _ in range(10))
        blocks = (
            paragraph(before),
            paragraph("As in this example:"),
            Block("code", code, (), None, None),
            paragraph(before),
        )
        holding = [chunk for chunk in cut(document(*blocks), counter=COUNTER) if "As in this" in chunk.text]
        assert code.split("\n")[0] in holding[0].text


def test_an_overlong_heading_path_keeps_title_and_last_headings_within_a_quarter_of_the_window() -> None:
    path = [f"heading {number} of some length indeed" for number in range(20)]
    (chunk,) = cut(document(paragraph("text", *path)), counter=COUNTER)
    assert chunk.heading_path[0] == "Title"
    assert chunk.heading_path[1:] == tuple(path[-len(chunk.heading_path[1:]) :])
    assert len(chunk.heading_path) > 2
    assert COUNTER.count(embedder_input(chunk.heading_path, "")) <= COUNTER.window_tokens // 4


def test_an_overlong_title_and_heading_are_shortened() -> None:
    (chunk,) = cut(document(paragraph("text", "h " * 500), title="t" * 5000), counter=COUNTER)
    assert [name[0] + name[-1] for name in chunk.heading_path] == ["t…", "h…"]
    assert COUNTER.count(embedder_input(chunk.heading_path, "")) <= COUNTER.window_tokens // 4


def test_a_document_without_blocks_has_no_chunks() -> None:
    assert cut(document(), counter=COUNTER) == ()


@given(
    sizes=st.lists(st.integers(1, 120), max_size=200),
    ranks=st.lists(st.integers(0, 5), min_size=200, max_size=200),
)
def test_packing_keeps_order_and_bounds_whatever_the_ranks(sizes: list[int], ranks: list[int]) -> None:
    runs = pack(sizes, ranks, least=40, most=100)
    assert [unit for first, end in runs for unit in range(first, end)] == list(range(len(sizes)))
    assert all(end - first == 1 or sum(sizes[first:end]) <= 100 for first, end in runs)


def test_packing_many_equal_boundaries_takes_no_longer_than_others() -> None:
    runs = pack([1] * 300_000, [0] * 300_000, least=80, most=200)
    assert {end - first for first, end in runs[:-1]} == {80}


# The real tokenizer


def test_real_documents_fit_the_window_of_minilm() -> None:
    counter = token_counter("minilm")
    source = random.Random(4)
    lines = [f"`{word}`: {prose(source, 9)}" for word in source.choices(WORDS, k=60)]
    text = (
        "# A guide\n\n## Prose\n\n"
        + "\n\n".join(section(7))
        + "\n\n## Code\n\n```\n"
        + "\n".join(lines)
        + "\n```\n\n## Table\n\n| a | b |\n|---|---|\n"
        + "\n".join(f"| {line} | ünïcode 世界 {number} |" for number, line in enumerate(lines))
        + "\n\n## Noise\n\n"
        + "世界人权宣言" * 300
        + "\n\n"
        + "x" * 9000
        + " "
        + "+/=" * 500
        + " 👩‍💻" * 300
    )
    chunks = cut(parse(text, content_type="text/markdown", uri="guide.md", title=None), counter=counter)
    assert len(chunks) > 30
    assert max(tokens_read(chunk, counter) for chunk in chunks) <= counter.window_tokens
    prose_sizes = [counter.count(chunk.text) for chunk in chunks if chunk.heading_path[1] == "Prose"]
    assert 120 <= sum(prose_sizes) / len(prose_sizes) <= 240


@pytest.mark.parametrize("model", ["minilm", "wordllama"])
@given(text=ANY_TEXT | LONG_WORD)
@settings(max_examples=40, deadline=None)
def test_any_text_fits_the_window_of_each_embedder(model: str, text: str) -> None:
    counter = token_counter(model)
    blocks = [paragraph(text, "Heading")] if text.strip() else []
    for chunk in cut(document(*blocks), counter=counter):
        assert tokens_read(chunk, counter) <= counter.window_tokens
