"""What Streamlit runs for every user and at every click; `launch.py` starts it."""

from baichuan2.web.launch import page_settings
from baichuan2.web.page import show_page

show_page(page_settings())
