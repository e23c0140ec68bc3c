"""A checkpoint in another layout, and what lies in it:  python examples/convert.py [PATH_OR_ID [WAY [TARGET]]]"""

import sys
import tempfile
from pathlib import Path

from baichuan2 import ConvertSettings, convert_checkpoint

source, way, target = [*sys.argv[1:], None, None, None][:3]

with tempfile.TemporaryDirectory() as scratch:
    result = convert_checkpoint(
        ConvertSettings(
            way=way or "to-llama",  # to-gguf, to-baichuan1 and others: baichuan2 convert --help
            source=source or "demo",
            target=target or str(Path(scratch, "demo-llama")),  # must not exist: nothing is ever overwritten
        )
    )
    print(f"{result.num_tensors} tensors, {result.num_bytes / 1e6:.1f} MB, {result.seconds:.1f} s")
    for path in sorted(result.path.iterdir()) if result.path.is_dir() else [result.path]:
        print(f"{path.stat().st_size:>12,}  {path.name}")
