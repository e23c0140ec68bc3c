"""Files to files: checkpoints written anew in another form, one layer in memory at a time."""
