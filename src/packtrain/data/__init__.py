"""From files and hub data sets to packed batches: rows, conversations, tokens and masks, bins."""
