"""JSON's decoder for rows: a number that cannot be had makes a bad row, and not a broken file."""

import json
import math
from typing import Any

from belle_jax.data.fields import BadRow


class RowDecoder(json.JSONDecoder):
    """Reads on behind a number that Python or JSON does not have, and then says so."""

    def __init__(self) -> None:
        self._refused = ''
        super().__init__(parse_int=self._int, parse_float=self._float, parse_constant=self._refuse)

    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
        self._refused = ''
        return super().raw_decode(s, idx)

    def checked(self, value: Any) -> Any:
        """The value that was decoded last, or a BadRow."""
        if self._refused:
            return BadRow('broken JSON', f'broken JSON ({self._refused}).')
        return value

    def _int(self, digits: str) -> int:
        try:
            return int(digits)
        except ValueError:
            return self._refuse(f'{digits:.9}…, of {len(digits):,} digits,')

    def _float(self, digits: str) -> float:
        number = float(digits)
        return number if math.isfinite(number) else self._refuse(f'{digits:.20}')

    def _refuse(self, number: str) -> int:
        self._refused = f'{number} is no number that can be read'
        return 0
