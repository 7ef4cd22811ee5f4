"""Import of torchaudio with any build of torch.

torchaudio's wheels link CUDA libraries, so that with a CPU-only torch ``import torchaudio`` raises OSError, although
ShrinkML uses only functions in pure Python. In this case `import_torchaudio` installs a stub for the compiled extension
and imports torchaudio again. If the plain import works, nothing is changed.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__all__ = ["import_torchaudio"]

_EXTENSION = "torchaudio._extension"


def import_torchaudio() -> ModuleType:
    """Import and return torchaudio.

    Raises:
        ImportError: torchaudio is not installed, or cannot be imported even without its compiled extension.
    """
    try:
        return importlib.import_module("torchaudio")
    except OSError as error:
        if "Could not load this library" not in str(error) and "cannot open shared object" not in str(error):
            raise
    # The failed import leaves half-initialised submodules behind.
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        del sys.modules[name]
    sys.modules[_EXTENSION] = _extension_stub()
    return importlib.import_module("torchaudio")


def _extension_stub() -> ModuleType:
    module = ModuleType(_EXTENSION, "Stands for torchaudio's compiled extension, which this torch cannot load.")
    stub: Any = module
    stub._IS_TORCHAUDIO_EXT_AVAILABLE = False
    stub._check_cuda_version = lambda: None

    def fail_if_no_align(function: Any) -> Any:
        def unavailable(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError(f"torchaudio's {function.__name__} needs its compiled extension")

        return unavailable

    stub.fail_if_no_align = fail_if_no_align
    return module
