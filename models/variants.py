"""Variants, one module each, found by name: networks, conditionings, spaces, autoencoders and data sets.

A room is a package of variants. A module is a variant if it defines a subclass of the room's base class with the
module's name (unet.py: `class UNet(Network)`). Other modules are helpers. Listing the names imports no module.
"""

import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from models.errors import UserError, suggestion
from models.ranges import check_ranges

CLASS_LINE = re.compile(r"^class (\w+)\(([^)]*)\)", re.MULTILINE)


@dataclass(frozen=True)
class Room:
    """A package whose modules may be variants. word: noun for a variant in messages.

    base: name of the variants' base class. option: option that chooses a variant. It is also the prefix of the
    variant's options, as in "network.width".
    """

    package: str
    base: str
    word: str
    option: str

    def names(self) -> list[str]:
        """Return the names of the variants, in alphabetical order."""
        return sorted({path.stem for path in self._files() if self._class_in(path) is not None})

    def source(self, name: str) -> Path:
        """Return the file of a variant. Raises UserError, with the closest name, if no variant has that name."""
        for path in self._files():
            if path.stem == name and self._class_in(path) is not None:
                return path
        names = self.names()
        raise UserError(f"no {self.word} is called {name!r}: choose from {', '.join(names)}{suggestion(name, names)}")

    def find(self, name: str) -> type[Any]:
        """Import a variant's class. Raises UserError, with the closest name, if no variant has that name."""
        variant = self._class_in(self.source(name))
        assert variant is not None
        return getattr(importlib.import_module(f"{self.package}.{name}"), variant)

    def build(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Construct a variant. Raises UserError for an unknown name, and for unknown options or values out of range."""
        variant = self.find(name)
        hints = get_type_hints(variant.__init__, include_extras=True)
        for option in options:
            if option not in hints:
                raise UserError(f"the {self.word} {name} has no option {option!r} in this version of the project")
        check_ranges(options, hints, prefix=f"{self.option}.")
        return variant(*arguments, **options)

    def _files(self) -> Iterator[Path]:
        for folder in self._folders():
            yield from sorted(Path(folder).glob("[a-z]*.py"))

    def _folders(self) -> list[str]:
        if self.package in sys.modules:
            return list(sys.modules[self.package].__path__)
        top, *below = self.package.split(".")
        return [str(Path(folder, *below)) for folder in package_folders(top)]

    def _class_in(self, path: Path) -> str | None:
        """Return the name of the variant's class in a file; None if the file is a helper."""
        for name, bases in CLASS_LINE.findall(path.read_text(encoding="utf-8")):
            if name.lower() == path.stem.replace("_", "") and self.base in re.split(r"[\s,]+", bases):
                return str(name)
        return None


def package_folders(name: str) -> Iterable[str]:
    """Return the folders of a package, without importing it: `data` imports numpy, which takes time."""
    if name in sys.modules:
        return sys.modules[name].__path__
    spec = importlib.util.find_spec(name)
    return spec.submodule_search_locations or () if spec is not None else ()


NETWORKS = Room("models.networks", "Network", "network", "network")
CONDITIONINGS = Room("models.networks.conditioning", "Conditioning", "conditioning", "network.conditioning")
SPACES = Room("models.spaces", "Space", "space", "space")
AUTOENCODERS = Room("models.autoencoders", "AutoencoderNetwork", "autoencoder network", "network")
DATA_SETS = Room("data", "DataSet", "data set", "dataset")
