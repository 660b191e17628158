"""Convert what a user types (class names, numbers, ranges) to labels, and class names to titles and file names."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from models.errors import UserError, suggestion

NUMBER = re.compile(r"[0-9]{1,9}")
RANGE = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")
LISTED = 20  # Largest number of names in a message.
LONGEST_TITLE = 32  # Characters.
LONGEST_IN_FILE = 40  # Bytes.


def find_labels(words: Sequence[int | str], names: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return labels in the order of the words, and notes on numbers that are one class's name and another's label.

    words: an integer is a label. A string is read as a class name, else as a label such as "3", else as a range such as
    "0-4", which includes both ends. If all class names are numbers, a string is read only as a name: with the names
    5, 7 and 9, "1" is an error, not the class 7. names: the name of each label. Raises UserError for an unknown class.
    """
    labels, notes = [], []
    for word in words:
        for part in _parts(word, names):
            label = _find(part, word, names)
            labels.append(label)
            number = int(part) if isinstance(part, str) and NUMBER.fullmatch(part) else label
            if number != label and number < len(names):
                other = title_of(names, number)
                notes.append(f"{part} is read as the name of class number {label}; class number {number} is {other}")
    return labels, list(dict.fromkeys(notes))


def title_of(names: Sequence[str], label: int) -> str:
    """Return the name of a class on one line, shortened to LONGEST_TITLE characters."""
    name = " ".join("".join(letter if letter.isprintable() else " " for letter in names[label]).split())
    return name if len(name) <= LONGEST_TITLE else f"{name[: LONGEST_TITLE - 1]}…"


def change_title(*names: str) -> str:
    """Return a title for a class, or for a change of class: "Bag to Coat", "class 3 to 5"."""
    text = " to ".join(title_of(names, index) for index in range(len(names)))
    return f"class {text}" if text[:1].isdigit() else text


def numbered(names: Sequence[str], label: int) -> str:
    """Return the number and the name of a class, e.g. "8 Bag", or the number alone if the name is the same number."""
    return str(label) if names[label] == str(label) else f"{label} {title_of(names, label)}"


def shorten_names(names: Iterable[str], most: int = 10, longest: int = 40) -> str:
    """Return names as one short line: at most `most` names, each of at most `longest` characters."""
    names = list(names)
    shown = ", ".join(short_name(name, longest) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def short_name(name: str, longest: int = 80) -> str:
    """Return a name for a one-line message: short, and with escapes for characters that cannot be printed."""
    shown = name if name.isprintable() else repr(name)[1:-1]
    return shown if len(shown) <= longest else f"{shown[: longest - 3]}..."


def ending_of(names: Sequence[str], label: int) -> str:
    """Return the ending of an image's file name: "_label0_T-shirt-top", or "_label3" if class 3 is called "3".

    Letters of every alphabet, digits, "-" and "_" are kept, at most LONGEST_IN_FILE bytes of the name. Other characters
    become "-". Two names may become equal; the endings still differ by the label.
    """
    name = "" if label >= len(names) or names[label] == str(label) else unicodedata.normalize("NFC", names[label])
    kept = (letter if letter in "-_" or unicodedata.category(letter)[0] in "LMN" else "-" for letter in name)
    safe = re.sub("-+", "-", "".join(kept)).strip("-")
    short = safe.encode()[:LONGEST_IN_FILE].decode(errors="ignore").rstrip("-")
    return f"_label{label}_{short}" if short else f"_label{label}"


def _parts(word: int | str, names: Sequence[str]) -> Iterator[int | str]:
    """Yield the word or, if it is a range, each of its numbers. A huge range thus fails at its first missing class."""
    ends = RANGE.fullmatch(word) if isinstance(word, str) and word not in names else None
    if ends is None:
        yield word
        return
    first, last = int(ends[1]), int(ends[2])
    step = 1 if first <= last else -1
    yield from map(str, range(first, last + step, step))


def _find(part: int | str, word: int | str, names: Sequence[str]) -> int:
    if isinstance(part, str):
        same = [label for label, name in enumerate(names) if _plain(name) == _plain(part)]
        if len(same) > 1:
            numbers = " and ".join(map(str, same))
            raise UserError(f"`labels` {part}: the classes {numbers} have this name", "give the number")
        if same:
            return same[0]
        if NUMBER.fullmatch(part) and not _means_another(int(part), names):
            part = int(part)
    if isinstance(part, int) and 0 <= part < len(names):
        return part
    missing = "" if str(part) == str(word) else f"there is no class {part}, and "
    shown = title_of((str(word),), 0)
    titles = [title_of(names, label) for label in range(len(names))]
    choices = f"the model has the classes 0 to {len(names) - 1}"
    if any(name != str(label) for label, name in enumerate(names)):
        choices += f": {shorten_names(titles, LISTED)}"
    hint = "" if NUMBER.fullmatch(shown) else suggestion(_plain(shown), titles)
    raise UserError(f"`labels` {shown}: {missing}{choices}{hint}")


def _means_another(label: int, names: Sequence[str]) -> bool:
    """Return whether all names are numbers, and the class with this label has another number as its name."""
    return label < len(names) and all(map(NUMBER.fullmatch, names)) and int(names[label]) != label


def _plain(name: str) -> str:
    """Return a name in Unicode's normal form C, in which equal texts have equal characters."""
    return unicodedata.normalize("NFC", name)
