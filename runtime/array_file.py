"""Arrays from `.npy` files, which may come from anywhere: no pickle, and an error that names the file."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.runtime.errors import BadFile
from edge.runtime.fields import reason

_MAGIC = b"\x93NUMPY"


def read_array(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The array in a `.npy` file.

    Raises:
        BadFile: no such file, not a `.npy` file, damaged, or one that holds Python objects.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise BadFile(f"{name}: not a NumPy array file (numpy.save writes one)")
            file.seek(0)
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except BadFile:
        raise
    except FileNotFoundError:
        raise BadFile(f"{name}: no such file") from None
    except MemoryError:
        raise BadFile(f"{name}: its header asks for more memory than there is") from None
    except OSError as error:
        raise BadFile(f"{name}: cannot be read: {reason(error)}") from None
    # The header is Python source: on a damaged one NumPy's reader raises whatever its parsers raise.
    except Exception as error:
        if "allow_pickle" in str(error):
            raise BadFile(f"{name}: holds Python objects, which are not read: save an array of numbers") from None
        raise BadFile(f"{name}: a damaged NumPy array file: {reason(error)}") from None
    return array
