"""The invented facts that the examples of fine-tuning teach the demo model, and the questions that measure it."""
