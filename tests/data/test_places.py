"""Places are held in a few bytes each, and come back letter by letter."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from packtrain.data.places import Places

PLACES = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.builds("{}:{}".format, st.sampled_from(["a.jsonl", "b 7"]), st.integers(0, 2**70)),
        st.sampled_from(["t:007", "t:0", "t:", "7", "-7", "row ٣", "t:7\n", "", "\n7", "t.parquet:row 12"]),
    ),
    max_size=30,
)


@given(PLACES, st.data())
def test_they_come_back_as_they_were(places: list[str], data: st.DataObject) -> None:
    held = Places.of(places)
    assert list(held) == places
    assert len(held) == len(places)
    indices = data.draw(st.lists(st.integers(0, len(places) - 1), max_size=9)) if places else []
    taken = held.take(np.array(indices, dtype=np.int64))
    assert list(taken) == [places[index] for index in indices]
    assert list(Places.joined([taken, held])) == [*taken, *places]
    assert held[1:4] == places[1:4]


def test_a_million_take_a_few_bytes_each_and_few_beginnings() -> None:
    held = Places.joined(
        [Places.of(f"t.jsonl:{n}" for n in range(part, part + 1000)) for part in range(1, 9001, 1000)]
    )
    assert held.beginnings == ("t.jsonl:",)
    assert held.which.nbytes + held.numbers.nbytes == 12 * 9000
    assert held[8999] == "t.jsonl:9000"
