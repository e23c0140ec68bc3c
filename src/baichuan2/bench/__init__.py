"""What a model costs and what it is worth: quality beside another model, and measured memory."""
