"""Which row of the state is whose: the keys of an entity, found one by one or many at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import cast

import numpy as np
import numpy.typing as npt

NONE = -1
DIGITS = 6  # of the integers that are also found by index: at most 4 MB of it an entity


class RowIndex(dict[str, int]):
    """The row of each key of an entity; small integers, as most ids are, are also found by index.

    Args:
        pairs: key and row of those known already.
    """

    def __init__(self, pairs: Iterable[tuple[str, int]] = ()) -> None:
        super().__init__()
        self._direct = np.full(1024, NONE, np.int32)
        for key, row in pairs:
            self[key] = row

    def __setitem__(self, key: str, row: int) -> None:
        super().__setitem__(key, row)
        if (number := _number(key)) != NONE:
            if number >= len(self._direct):
                larger = np.full(min(1 << number.bit_length(), 10**DIGITS), NONE, np.int32)
                larger[: len(self._direct)] = self._direct
                self._direct = larger
            self._direct[number] = row

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        if (number := _number(key)) != NONE:
            self._direct[number] = NONE

    def of(self, keys: Sequence[str | int]) -> npt.NDArray[np.int64]:
        """RowIndex of many keys, int64 [n]; -1 where there is none. 5 and "5" are the same key."""
        kinds = set(map(type, keys))
        if kinds == {int}:
            try:
                numbers = np.array(keys, np.int64)
            except OverflowError:
                numbers = np.full(1, NONE)
            if numbers.min() >= 0 and numbers.max() < len(self._direct):
                return self._direct[numbers].astype(np.int64)
        texts = cast("Sequence[str]", keys) if kinds <= {str} else map(str, keys)
        return np.fromiter(map(self.get, texts, repeat(NONE)), np.int64, len(keys))


def _number(key: str) -> int:
    """The integer that a key is the canonical text of, where it is one found by index; else -1."""
    if len(key) > DIGITS or not key.isascii() or not key.isdigit() or (key[0] == "0" and key != "0"):
        return NONE
    return int(key)
