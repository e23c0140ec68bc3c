"""`python -m baichuan2` is the `baichuan2` command."""

import sys

from baichuan2.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
