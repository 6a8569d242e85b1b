"""Scores, flags and the verdict on whole answers."""

from __future__ import annotations

import pytest

from services.eval.citations import cited_numbers
from services.eval.evidence import Evidence
from services.eval.groundedness import Groundedness
from services.eval.scoring import AnswerToScore, Judgement, Scorer, Thresholds

QUESTION = "How many spaces does Python use per indentation level?"
EVIDENCE = (
    Evidence(1, "Python code uses four spaces per indentation level.", ("PEP 8", "Indentation")),
    Evidence(2, "All lines are limited to a maximum of 79 characters.", ("PEP 8", "Line length")),
)
SCORER = Scorer(Groundedness.load())


def judge(
    answer: str,
    *,
    question: str = QUESTION,
    refused: bool = False,
    evidence: tuple[Evidence, ...] = EVIDENCE,
    scorer: Scorer = SCORER,
) -> Judgement:
    return scorer.judge(AnswerToScore(question, answer, refused, evidence, cited_numbers(answer)))


def value(judgement: Judgement, name: str) -> float | None:
    return next(score.value for score in judgement.scores if score.name == name)


def reason(judgement: Judgement, name: str) -> str:
    return next(score.reason for score in judgement.scores if score.name == name)


def test_a_cited_quotation_is_good() -> None:
    judgement = judge("Python code uses four spaces per indentation level. [1]")
    assert (judgement.verdict, judgement.flags) == ("good", ())
    assert value(judgement, "citation_validity") == 1.0
    assert value(judgement, "groundedness") == 1.0
    assert value(judgement, "question_relevance") == 1.0
    assert value(judgement, "refusal") is None


def test_an_invention_is_ungrounded_and_bad() -> None:
    judgement = judge("Guido demands seventeen tabs since 1969. [1]")
    assert judgement.verdict == "bad"
    assert {"ungrounded", "unsupported_claim"} <= set(judgement.flags)


def test_one_wrong_claim_among_right_ones_is_named_and_makes_the_answer_doubtful() -> None:
    answer = "Python code uses four spaces per indentation level [1]. Guido demanded 17 tabs in 1969 [2]."
    judgement = judge(answer)
    assert (judgement.verdict, judgement.flags) == ("doubtful", ("unsupported_claim",))
    assert "Guido demanded 17 tabs in 1969." in reason(judgement, "groundedness")
    assert "the evidence lacks: 17, 1969" in reason(judgement, "groundedness")


def test_an_answer_without_citations_is_bad_even_when_it_is_true() -> None:
    judgement = judge("Python code uses four spaces per indentation level.")
    assert (judgement.verdict, judgement.flags) == ("bad", ("no_citation",))
    assert value(judgement, "citation_validity") == 0.0
    assert value(judgement, "groundedness") == 1.0


def test_citations_of_evidence_that_was_not_given_are_counted_and_named() -> None:
    judgement = judge("Python code uses four spaces per indentation level [1][1][1][7].")
    assert value(judgement, "citation_validity") == 0.75
    assert "[7]" in reason(judgement, "citation_validity")
    assert (judgement.verdict, judgement.flags) == ("doubtful", ("invalid_citation",))


def test_claims_are_held_against_what_is_cited() -> None:
    assert "ungrounded" in judge("Python code uses four spaces per indentation level. [2]").flags


def test_evidence_whose_text_is_gone_can_still_be_cited() -> None:
    judgement = judge("Four spaces. [1]", evidence=(Evidence(1, ""),))
    assert value(judgement, "citation_validity") == 1.0
    assert "ungrounded" in judgement.flags


def test_a_refusal_without_evidence_is_good_and_other_scores_do_not_apply() -> None:
    judgement = judge("Not found in the documents.", refused=True, evidence=())
    assert (judgement.verdict, judgement.flags) == ("good", ())
    assert value(judgement, "refusal") == 1.0
    for name in ("citation_validity", "groundedness", "question_relevance"):
        assert value(judgement, name) is None


def test_refusing_what_the_evidence_says_is_doubtful() -> None:
    judgement = judge("Not found in the documents.", refused=True)
    assert (judgement.verdict, judgement.flags) == ("doubtful", ("doubtful_refusal",))
    assert "[1]" in reason(judgement, "refusal")


def test_refusing_what_the_evidence_does_not_say_is_good() -> None:
    judgement = judge("Not found.", refused=True, question="What is the capital of France?")
    assert (judgement.verdict, value(judgement, "refusal")) == ("good", 1.0)


def test_an_answer_to_another_question_is_off_topic() -> None:
    judgement = judge(
        "Python code uses four spaces per indentation level. [1]", question="Who founded the Roman empire?"
    )
    assert (judgement.verdict, judgement.flags) == ("doubtful", ("off_topic",))
    assert "Roman" in reason(judgement, "question_relevance")


def test_an_empty_answer_has_no_groundedness_and_is_bad() -> None:
    judgement = judge("")
    assert value(judgement, "groundedness") is None
    assert (judgement.verdict, judgement.flags[0]) == ("bad", "no_citation")


def test_thresholds_decide_what_is_flagged() -> None:
    lenient = Scorer(Groundedness.load(), Thresholds(ungrounded_below=0.0, unsupported_below=0.0))
    assert judge("Guido demands seventeen tabs per indentation level. [1]", scorer=lenient).flags == ()


def test_every_score_names_its_method_and_says_why() -> None:
    for score in judge("Python code uses four spaces per indentation level. [1]").scores:
        assert score.method
        assert score.version
        assert score.reason


@pytest.mark.parametrize("length", [10, 5000])
def test_reasons_stay_short(length: int) -> None:
    assert len(reason(judge("Cheese " * length + "[1]"), "groundedness")) < 500
