"""What a ModelScope studio or a Hugging Face Space runs:  streamlit run app.py; the model: BAICHUAN2_MODEL."""

import sys

from baichuan2.cli.commands.web import show

show(sys.argv[1:])
