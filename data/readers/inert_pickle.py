"""Reader of CIFAR-10's batches, which are pickles, with an unpickler that cannot run code."""

import io
import pickle
from typing import Any, ClassVar

import numpy as np

from models.errors import UserError

# Exceptions that a damaged or hostile stream can raise in the unpickler or in the substitute classes below.
_REFUSED = (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError)
_REFUSED += (OverflowError, MemoryError, UnicodeError, RecursionError, ImportError)


def read_batch(contents: bytes, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 (N, 3072) and labels (N,) of one batch. Raises UserError naming `source`."""
    try:
        batch = _InertUnpickler(io.BytesIO(contents), encoding="latin1").load()
        images = batch["data"].array()
        labels = np.array(batch["labels"])
    except _REFUSED as error:
        raise UserError(f"{source} is not a CIFAR-10 batch ({error})", "delete or replace it") from None
    if images.ndim != 2 or images.shape[1] != 3072 or labels.ndim != 1 or labels.dtype.kind != "i":
        shapes = f"shapes {images.shape}, {labels.shape}"
        raise UserError(f"{source} is not a CIFAR-10 batch ({shapes})", "delete or replace it")
    return images, labels


class _DType:
    def __init__(self, code: Any = None, *flags: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        pass  # byte order and alignment, which do not matter for single bytes


class _Array:
    """Substitute for numpy.ndarray and for the function that makes an empty array."""

    def __init__(self, *empty: Any) -> None:
        self._state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._state = state

    def array(self) -> np.ndarray:
        _version, shape, dtype, column_major, values = self._state
        if dtype.code != "u1" or column_major or not isinstance(values, str | bytes):
            raise ValueError("its values are not uint8 in row order")
        stored = values.encode("latin1") if isinstance(values, str) else values
        return np.frombuffer(stored, np.uint8).reshape(shape)


# torchvision.datasets.CIFAR10 uses pickle.load, which runs any code that a file names. Numpy's arrays need three
# names. This unpickler replaces these names with the classes above, and refuses every other name. So a file can run
# neither other code nor numpy's own __setstate__.
class _InertUnpickler(pickle.Unpickler):
    _stand_ins: ClassVar = {
        ("numpy", "dtype"): _DType,
        ("numpy", "ndarray"): _Array,
        ("numpy.core.multiarray", "_reconstruct"): _Array,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._stand_ins:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which images do not need")
        return self._stand_ins[module, name]
