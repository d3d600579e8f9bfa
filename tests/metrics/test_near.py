"""Near-duplicates against a comparison of all pairs."""

import random

import pytest

from seqgen.metrics.near import jaccard, near_duplicates, pairs_of


def brute(lines: list[str], threshold: float, others: list[str]) -> list[int | None]:
    """What the definition says: each line beside all others, and beside all earlier lines that repeat none."""
    sets = [pairs_of(line.split()) for line in lines]
    known = [(-1 - n, pairs_of(line.split())) for n, line in enumerate(others)]
    found: list[int | None] = []
    for i, own in enumerate(sets):
        near = [n for n, one in known if jaccard(own, one) >= threshold - 1e-9]
        found.append(near[0] if near else None)
        if not near:
            known.append((i, own))
    return found


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_index_finds_what_all_pairs_find(threshold: float, seed: int) -> None:
    drawn = random.Random(seed)
    made = [" ".join(drawn.choices("abcdef", k=drawn.randint(0, 7))) for _ in range(160)]
    assert near_duplicates(made[40:], threshold, others=made[:40]) == brute(made[40:], threshold, made[:40])


def test_one_word_of_six_leaves_five_of_nine_pairs() -> None:
    # 7 pairs each with the ends; a word in the middle changes 2 of them: 5 shared of 9
    assert jaccard(pairs_of(["a", "b", "c", "d", "e", "f"]), pairs_of(["a", "b", "x", "d", "e", "f"])) == pytest.approx(
        5 / 9
    )
    assert near_duplicates(["a b c d e f", "a b x d e f"], 0.55) == [None, 0]
    assert near_duplicates(["a b c d e f", "a b x d e f"], 0.56) == [None, None]


def test_a_threshold_is_above_0_and_at_most_1() -> None:
    for wrong in (0.0, 1.5):
        with pytest.raises(ValueError, match=rf"^threshold must be above 0 and at most 1, got {wrong:g}$"):
            near_duplicates(["a"], wrong)
