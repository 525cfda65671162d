"""The buffer of recent samples, compared with a plain array of all samples."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from speech_qc.audio.buffer import SPARE_SHARE, SampleBuffer

actions = st.lists(
    st.tuples(st.sampled_from(["append", "release"]), st.integers(0, 300))
    | st.tuples(st.just("append"), st.just(5000)),
    max_size=40,
)


def count_up(start: int, count: int) -> NDArray[np.float32]:
    return np.arange(start, start + count, dtype=np.float32)


@settings(max_examples=200)
@given(actions=actions)
def test_every_sample_that_was_not_released_is_where_it_was_put(actions: list[tuple[str, int]]) -> None:
    buffer, end, start = SampleBuffer(), 0, 0
    for action, count in actions:
        if action == "append":
            buffer.append(count_up(end, count))
            end += count
        else:
            start = min(start + count, end)
            buffer.release(start)
        assert (buffer.start, buffer.end) == (start, end)
        np.testing.assert_array_equal(buffer.view(start, end), count_up(start, end - start))
        middle = (start + end) // 2
        np.testing.assert_array_equal(buffer.view(middle, middle + 50), count_up(middle, min(50, end - middle)))


def test_what_is_appended_is_a_copy() -> None:
    buffer, samples = SampleBuffer(), count_up(0, 10)
    buffer.append(samples)
    samples[:] = -1.0
    np.testing.assert_array_equal(buffer.view(0, 10), count_up(0, 10))


def test_release_never_goes_back_nor_beyond_the_end() -> None:
    buffer = SampleBuffer()
    buffer.append(count_up(0, 10))
    buffer.release(8)
    buffer.release(3)
    assert buffer.start == 8
    buffer.release(99)
    assert (buffer.start, buffer.end) == (10, 10)
    buffer.append(count_up(10, 5))
    np.testing.assert_array_equal(buffer.view(10, 15), count_up(10, 5))


def test_memory_follows_what_is_kept_not_what_came() -> None:
    buffer, end = SampleBuffer(), 0
    for _ in range(2000):
        buffer.append(count_up(end, 1600))
        end += 1600
        buffer.release(end - 400)
    assert len(buffer._data) <= (1600 + 400) * (1 + 1 / SPARE_SHARE)


def test_memory_of_a_burst_is_given_back() -> None:
    buffer = SampleBuffer()
    buffer.append(count_up(0, 100_000))
    buffer.release(99_900)
    for turn in range(300):
        buffer.append(count_up(100_000 + 100 * turn, 100))
    assert len(buffer._data) < 60_000, "given back when the room of the burst was used up"
    np.testing.assert_array_equal(buffer.view(99_900, 130_000), count_up(99_900, 30_100))
