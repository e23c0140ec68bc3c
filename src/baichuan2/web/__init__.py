"""The chat page in the browser, on Streamlit."""
