"""The architecture as transformers-native classes: configuration, model, positions, head and tokenizer."""
