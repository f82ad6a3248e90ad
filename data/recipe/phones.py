"""One phone inventory for both synthesisers: ARPAbet with schwa, 40 labels and `pau`.

flite speaks this inventory already. espeak-ng's mnemonics are mapped onto it; one
that covers two phones becomes two labels that share its time in equal parts.
Accents without their own table lose distinctions (TRAP and BATH both become `ae`).
"""

# ruff: noqa: SIM905  (long word lists read better as text)
INVENTORY = tuple(
    """aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy
    p r s sh t th uh uw v w y z zh pau""".split()
)

RHOTIC = frozenset({"en-us", "en-gb-scotland"})
_R_IN_VOWEL = frozenset({"en-us"})  # elsewhere a sounded r is a phone of its own

_SAME = {
    "pau": "_ _: _! _|",
    "p": "p",
    "b": "b",
    "d": "d",
    "k": "k",
    "g": "g",
    "f": "f",
    "v": "v",
    "s": "s",
    "z": "z",
    "m": "m",
    "l": "l",
    "w": "w w#",
    "y": "j",
    "hh": "h",
    "ch": "tS",
    "jh": "dZ",
    "sh": "S",
    "zh": "Z",
    "th": "T",
    "dh": "D",
    "ng": "N",
    "n": "n n-",
    "r": "r r-",
    "t": "t t# t2 t[ ?",
    "iy": "i: i",
    "ih": "I I2 I#",
    "eh": "E",
    "ae": "a aa",
    "aa": "A: 0",
    "ao": "O: O2 O",
    "ah": "V",
    "uh": "U",
    "uw": "u: u",
    "ax": "@ @2 @5 @- a#",
    "er": "3:",
    "ay": "aI aI2",
    "aw": "aU",
    "ey": "eI",
    "ow": "oU",
    "oy": "OI",
}
_ONE = {mnemonic: phone for phone, many in _SAME.items() for mnemonic in many.split()}
_TWO = {"@L": ("ax", "l"), "i@": ("ih", "ax"), "aI@": ("ay", "ax")}
# Vowels before a written r: two phones where they include the r.
_BEFORE_R = {
    "A@": "aa",
    "O@": "ao",
    "o@": "ao",
    "e@": "eh",
    "i@3": "ih",
    "U@": "uh",
    "aI3": "ay",
    "VR": "ah",
    "IR": "ih",
}


def from_espeak(mnemonic: str, accent: str) -> tuple[str, ...]:
    """Return the labels of one espeak-ng phone; none for a diacritic, which joins its neighbour."""
    if mnemonic == ";":
        return ()
    if mnemonic == "3":
        return ("er",) if accent in RHOTIC else ("ax",)
    if mnemonic in _BEFORE_R:
        return (_BEFORE_R[mnemonic], "r") if accent in _R_IN_VOWEL else (_BEFORE_R[mnemonic],)
    if mnemonic in _TWO:
        return _TWO[mnemonic]
    if mnemonic not in _ONE:
        raise ValueError(f"espeak-ng phone {mnemonic!r} of accent {accent} has no label: add it to phones.py")
    return (_ONE[mnemonic],)
