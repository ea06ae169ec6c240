"""Models and data sets of the Hugging Face hub: is the token let in, which commit, the files."""
