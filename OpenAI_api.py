"""OpenAI-compatible server:  python OpenAI_api.py [--model PATH_OR_ID]; the same as  baichuan2 serve."""

import sys

try:
    from baichuan2.cli.main import main
except ImportError:
    sys.exit("error: baichuan2 is not installed: run  pip install -r requirements.txt")

sys.exit(main(["serve", *sys.argv[1:]]))
