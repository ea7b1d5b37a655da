"""The text of an arithmetic proof: its tokens, its writer, its strict reader, and the rules that choose a."""

from __future__ import annotations

import re
from functools import cache
from math import isqrt
from typing import NamedTuple

from tasks.base import Array

VOCABULARY = ("", *"0123456789", "[LEMMA]", "*", "=", "+", "[END]", "-")
TOKEN = {symbol: token for token, symbol in enumerate(VOCABULARY)}
ZERO, NINE, END = TOKEN["0"], TOKEN["9"], TOKEN["[END]"]
PLUS, MINUS = TOKEN["+"], TOKEN["-"]

MARKS = ("[LEMMA]", "*", "=", "[LEMMA]", "+", "=", "[END]")
"""The proof without its numbers; number i stands between marks i and i + 1: a, b, I, I, c, T. + may be -, too."""

MAX_DIGITS = 9
"""A longer number is refused unread, so that a·b stays below 10^18 and int64 never wraps."""


class Reading(NamedTuple):
    """What a batch of answers says: grammatical [B] bool, six numbers [B] int64 and sign [B] (1 or −1), of use only
    where grammatical."""

    grammatical: Array
    a: Array
    b: Array
    product: Array
    product_again: Array
    c: Array
    total: Array
    sign: Array


def write(target: int, a: int, sign: int) -> str:
    """The one proof of target = a·b ± c with this a."""
    b, c = rest(target, a, sign)
    return f"[LEMMA] {a} * {b} = {a * b} [LEMMA] {a * b} {'+' if sign > 0 else '-'} {c} = {target} [END]"


def rest(target: int, a: int, sign: int) -> tuple[int, int]:
    """(b, c) with target = a·b + sign·c and 1 ≤ c ≤ a: there is exactly one."""
    b = (target - 1) // a if sign > 0 else target // a + 1
    return b, sign * (target - a * b)


def largest_a(target: int, sign: int) -> int:
    """Every a from 2 up to this one gives a proof, since b is then at least 2."""
    return (target - 1) // 2 if sign > 0 else target


def canonical_a(target: int, rule: str) -> int:
    """The a of a rule, for a target ≥ 10 (see the top of arithmetic_proofs.py)."""
    if rule == "square":
        return isqrt(target - 1)
    if rule == "prime":
        return next(a for a in range(isqrt(target - 1), 1, -1) if _is_prime(a))
    if rule == "short":
        return 5 - int(str(target)[0]) % 2
    assert rule == "first-hit"
    return next(a for c in range(1, target) for a in range(2, (target - c) // 2 + 1) if (target - c) % a == 0)


@cache
def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, isqrt(n) + 1))


def longest(smallest: int, largest: int, signs: tuple[int, ...], rule: str | None) -> int:
    """Tokens of the longest proof of a range of targets: by a rule's a exactly; by any a (None), an upper bound.

    Any a, T of n digits: 7 marks, T, two products and the numbers a, b, c. With +, a·b < T, so a and b have at most
    n + 1 digits together and c no more than a: 5n + 8. With −, a·b ≤ 2T: 5n + 11.
    """
    if rule is None:
        return 5 * len(str(largest)) + (11 if -1 in signs else 8)
    return _longest_by_rule(smallest, largest, signs, rule)


@cache
def _longest_by_rule(smallest: int, largest: int, signs: tuple[int, ...], rule: str) -> int:
    return max(
        len(tokenise(write(t, canonical_a(t, rule), sign))) for t in range(smallest, largest + 1) for sign in signs
    )


def tokenise(text: str) -> list[int]:
    """Token ids of a proof text; digits are single tokens, blanks separate and stand for nothing."""
    return [TOKEN[symbol] for symbol in re.findall(r"\[\w+\]|\S", text)]


def read(token: Array, start: Array | None = None) -> Reading:
    """Parse answers [B, A] of any integer type, as NumPy or torch: no loop over rows, only what both libraries have.

    start [B]: where the answer begins; what stands before is not looked at. Sums and counts of booleans are int64 in
    both libraries, and they widen whatever they meet: no byte ever overflows.
    """
    inside = token == token
    if start is not None:
        inside = inside.cumsum(-1) > start[:, None]
    digit = (token >= ZERO) & (token <= NINE) & inside
    mark = ~digit & inside
    field = mark.cumsum(-1)  # [B, A] marks so far: number i stands where it is i, and the fill where it is ≥ 7
    last = len(MARKS)
    legal = ~inside | (digit & (field >= 1) & (field < last)) | (mark & (field > last) & (token == END))
    minus = mark & (field == MARKS.index("+") + 1) & (token == MINUS)
    for i, symbol in enumerate(MARKS, start=1):
        legal = legal | (mark & (field == i) & (token == TOKEN[symbol]))
    grammatical = (legal | minus).all(-1) & (field[:, -1] >= last)
    seen = digit.cumsum(-1)
    numbers = []
    for i in range(1, last):
        here = digit & (field == i)
        length = here.sum(-1)
        fits = length <= MAX_DIGITS
        digits_after = (digit & (field <= i)).sum(-1)[:, None] - seen  # of this number, to the right of each digit
        power = 10 ** (digits_after * here * fits[:, None])  # int64
        number = ((token - ZERO) * here * power).sum(-1)
        # n digits without a leading zero are at least 10^(n−1); no digit at all fails too, as 0 < 10^0
        grammatical = grammatical & fits & (10 * number >= 10 ** (length * fits))
        numbers.append(number)
    a, b, product, product_again, c, total = numbers
    return Reading(grammatical, a, b, product, product_again, c, total, 1 - 2 * minus.sum(-1))
