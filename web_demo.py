"""Chat in the browser:  streamlit run web_demo.py [-- --model PATH_OR_ID]; the same as  baichuan2 web."""

import sys

try:
    from baichuan2.cli.commands.web import show
except ImportError:
    sys.exit("error: baichuan2 is not installed: run  pip install -r requirements.txt")

show(sys.argv[1:])
