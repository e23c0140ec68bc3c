"""The demo model: data, tokenizer, training, scoring."""
