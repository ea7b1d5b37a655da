"""How numbers are written in a report: three significant digits, SI prefixes, percentages with one decimal."""

from __future__ import annotations

import math

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")
NONE = "–"
"""What stands where a figure does not apply."""


def absent(value: float | None) -> bool:
    return value is None or math.isnan(value)


def signed(value: float, digits: int = 1) -> str:
    """With a true minus sign, and never minus zero."""
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def percent(fraction: float | None) -> str:
    """0.1234 → `12.3`; the unit stands in the column's title."""
    return NONE if fraction is None or math.isnan(fraction) else signed(100 * fraction)


def percent_range(low: float | None, high: float | None) -> str:
    """`[12.3, 45.6]`."""
    return NONE if absent(low) or absent(high) else f"[{percent(low)}, {percent(high)}]"


def three_digits(value: float) -> str:
    """Three significant digits, thousands separated: 1,230 · 12.3 · 0.0123."""
    value = float(f"{value:.3g}")  # first, so that 0.9996 is written as 1.00
    if not value:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def si(value: float | None, unit: str) -> str:
    """12,345,678,901 FLOP → `12.3 GFLOP`."""
    if value is None or math.isnan(value):
        return NONE
    power = min(len(PREFIXES) - 1, max(0, math.floor(math.log10(abs(value)) / 3))) if value else 0
    if power + 1 < len(PREFIXES) and float(f"{abs(value) / 1000**power:.3g}") >= 1000:  # 999.96 k is 1.00 M
        power += 1
    return f"{three_digits(value / 1000**power)} {PREFIXES[power]}{unit}"


def count(value: float | None) -> str:
    return NONE if value is None or math.isnan(value) else f"{int(value):,}"


def short(value: float | None) -> str:
    """Three significant digits, or a dash where there is no figure."""
    return NONE if value is None or math.isnan(value) else three_digits(value)


def p_value(p: float | None) -> str:
    if p is None or math.isnan(p):
        return NONE
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def plural(number: float, word: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{int(number):,} {word}{'' if int(number) == 1 else 's'}"
