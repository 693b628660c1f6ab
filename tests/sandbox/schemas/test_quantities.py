import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftjob_sandbox.apimachinery import quantity


@pytest.mark.parametrize(
    ("given_as", "canonical"),
    [
        ("1", "1"),
        (2, "2"),
        (0.5, "500m"),
        ("0.5", "500m"),
        ("1000m", "1"),
        ("1500m", "1500m"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("1000", "1k"),
        ("1001", "1001"),
        ("100Ki", "100Ki"),
        ("0.1Gi", "107374182400m"),
        ("1e3", "1e3"),
        ("12e6", "12e6"),
        ("1E", "1E"),
        ("0", "0"),
        ("0Gi", "0"),
        ("-1Gi", "-1Gi"),
        ("+5", "5"),
        (".5", "500m"),
        ("0.0000000001", "1n"),
        ("512", "512"),
        ("1536", "1536"),
        ("512Ki", "512Ki"),
    ],
)
def test_canonical_form(given_as: object, canonical: str) -> None:
    assert quantity.canonical(given_as) == canonical


@pytest.mark.parametrize("text", ["", "Gi", "1.5.5", "1 Gi", "one"])
def test_what_is_no_quantity_is_told_by_the_pattern(text: str) -> None:
    with pytest.raises(ValueError, match="quantities must match the regular expression"):
        quantity.canonical(text)


@pytest.mark.parametrize("text", ["1mi", "1Kii", "1KM"])
def test_an_unknown_suffix_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="unable to parse quantity's suffix"):
        quantity.canonical(text)


@given(
    number=st.integers(-(10**12), 10**12),
    suffix=st.sampled_from(["", "m", "k", "M", "G", "Ki", "Mi", "Gi", "e3"]),
)
def test_the_canonical_form_is_stable_and_keeps_the_value(number: int, suffix: str) -> None:
    canonical = quantity.canonical(f"{number}{suffix}")
    assert quantity.canonical(canonical) == canonical
    assert quantity.parse(canonical).value == quantity.parse(f"{number}{suffix}").value
