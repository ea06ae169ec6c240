"""Google Cloud through the gcloud command line: what is there, what to make, and how to undo it."""
