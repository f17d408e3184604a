"""The block copy beside plain copies: `python tests/bench/copy.py [--json FILE] [--rounds N]`.

What is measured is in block_copy.py. A script's folder comes first where Python looks for modules, so
every benchmark here that imports the standard module `copy`, directly or not, finds this file; then
it steps aside for the one that was meant.
"""

import importlib.util
import sys
import sysconfig
from pathlib import Path


def _step_aside() -> None:
    """Put the standard module in this one's place; the import under way returns that."""
    path = Path(sysconfig.get_path("stdlib"), "copy.py")
    spec = importlib.util.spec_from_file_location("copy", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["copy"] = module
    spec.loader.exec_module(module)


if __name__ == "copy":
    _step_aside()
elif __name__ == "__main__":
    from block_copy import main

    main()
