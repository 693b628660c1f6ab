"""Resource quantities: reading, canonical form and comparison, as apimachinery's resource.Quantity."""

import re
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Final, NamedTuple

_SYNTAX: Final = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?([eEinumkKMGTP]*[-+]?[0-9]*)")
_SYNTAX_ERROR: Final = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
_BINARY: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_NANO: Final = Decimal("1e-9")


class Quantity(NamedTuple):
    """A number and how it is written: binary (Ki, Mi), decimal SI (m, k) or decimal exponent (e3)."""

    value: Decimal
    form: str

    def __str__(self) -> str:
        """Canonical form: the largest suffix that leaves no fraction."""
        if self.form == "binary" and abs(self.value) >= 1024 and self.value == self.value.to_integral_value():
            return self._binary()
        if self.value == 0:
            return "0"
        exponent = max((e for e in _DECIMAL.values() if _whole(self.value.scaleb(-e))), default=-9)
        mantissa = f"{self.value.scaleb(-exponent).to_integral_value():f}"
        if self.form == "exponent":
            return mantissa if exponent == 0 else f"{mantissa}e{exponent}"
        return mantissa + next(suffix for suffix, power in _DECIMAL.items() if power == exponent)

    def _binary(self) -> str:
        number = int(self.value)
        for suffix, bits in reversed(_BINARY.items()):
            if number % (1 << bits) == 0:
                return f"{number >> bits}{suffix}"
        return str(number)


def _whole(number: Decimal) -> bool:
    return number == number.to_integral_value()


@lru_cache(maxsize=4096)
def parse(text: str) -> Quantity:
    """Read `2`, `500m`, `1.5Gi`, `1e3`. Raises ValueError: with the sentence of the API server."""
    found = _SYNTAX.fullmatch(text)
    if not text:
        raise ValueError(_SYNTAX_ERROR)
    if not found or not (found[2] or found[3]):
        raise ValueError(_SYNTAX_ERROR)
    sign, whole, fraction, suffix = found[1], found[2] or "0", found[3] or "0", found[4]
    number = Decimal(f"{sign}{whole}.{fraction}")
    if suffix in _BINARY:
        return Quantity(_rounded(number * (1 << _BINARY[suffix])), "binary")
    if suffix in _DECIMAL:
        return Quantity(_rounded(number.scaleb(_DECIMAL[suffix])), "decimal")
    if exponent := re.fullmatch(r"[eE]([-+]?[0-9]+)", suffix):
        return Quantity(_rounded(number.scaleb(int(exponent[1]))), "exponent")
    raise ValueError("unable to parse quantity's suffix")


def _rounded(number: Decimal) -> Decimal:
    """Nothing below a nano unit; rounded away from zero."""
    quotient = number / _NANO
    whole = abs(quotient).to_integral_value(ROUND_CEILING)
    return (whole if quotient >= 0 else -whole) * _NANO if not _whole(quotient) else number


def canonical(value: object) -> str:
    """Canonical text of a quantity given as text or number. Raises ValueError: for what is no quantity."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(_SYNTAX_ERROR)  # noqa: TRY004 -- one kind of error for every bad quantity
    return str(parse(value if isinstance(value, str) else str(value)))
