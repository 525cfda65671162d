"""Sets of digests, and which rows are old."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from speech_qc.archive import digests
from speech_qc.archive.digests import DigestSet, as_pairs, digest, superseded


def test_a_set_knows_what_was_added(monkeypatch) -> None:
    monkeypatch.setattr(digests, "RECENT", 10)
    keys, found = [digest(number) for number in range(1000)], DigestSet()
    assert [found.add(key) for key in keys] == [True] * 1000
    assert not any(found.add(key) for key in keys)
    assert len(found) == 1000
    assert not any(digest(-number) in found for number in range(1, 1000))


def test_a_set_compares_all_bytes() -> None:
    found = DigestSet()
    for tail in range(5):
        found.add(bytes(8) + tail.to_bytes(8, "little"))
    found._merge()
    assert bytes(8) + (4).to_bytes(8, "little") in found
    assert bytes(8) + (5).to_bytes(8, "little") not in found
    assert (5).to_bytes(8, "little") + bytes(8) not in found


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=30))
def test_a_row_is_old_if_its_item_has_a_newer_one(rows: list[tuple[int, int]]) -> None:
    keys = as_pairs(digest(item) for item, _ in rows)
    found = superseded(keys, np.asarray([time for _, time in rows], np.int64))
    newest = {item: max(time for other, time in rows if other == item) for item, _ in rows}
    assert found.tolist() == [time < newest[item] for item, time in rows]
