from __future__ import annotations

import pytest

from generator_svc.chunks import ChunkBuffer


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def chunks_of(pieces: list[str], *, step_s: float, flush_ms: float = 30, flush_tokens: int = 16) -> list[str]:
    clock = Clock()
    buffer = ChunkBuffer(flush_ms=flush_ms, flush_tokens=flush_tokens, clock=clock)
    found = []
    for piece in pieces:
        clock.now_s += step_s
        found.append(buffer.add(piece))
    return [text for text in [*found, buffer.rest()] if text]


@pytest.mark.parametrize("step_s", [0.0, 0.004, 0.011, 1.0])
@pytest.mark.parametrize("flush_tokens", [1, 3, 64])
def test_chunks_joined_are_the_pieces_joined(step_s: float, flush_tokens: int) -> None:
    pieces = [f"w{i} " for i in range(20)]
    assert "".join(chunks_of(pieces, step_s=step_s, flush_tokens=flush_tokens)) == "".join(pieces)


def test_the_first_piece_does_not_wait() -> None:
    assert chunks_of(["a", "b", "c"], step_s=0.0) == ["a", "bc"]


def test_a_slow_model_sends_every_piece_at_once() -> None:
    assert chunks_of(["a", "b", "c"], step_s=0.05) == ["a", "b", "c"]


def test_pieces_within_the_flush_time_share_a_chunk() -> None:
    assert chunks_of(["a", "b", "c", "d", "e"], step_s=0.011, flush_ms=30) == ["a", "bcd", "e"]


def test_a_chunk_holds_no_more_tokens_than_allowed() -> None:
    assert chunks_of(list("abcdefg"), step_s=0.0, flush_tokens=3) == ["a", "bcd", "efg"]


def test_empty_pieces_make_no_chunk() -> None:
    assert chunks_of(["", "", "a", ""], step_s=0.05) == ["a"]
