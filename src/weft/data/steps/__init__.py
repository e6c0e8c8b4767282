"""The steps of the pipeline, each a function frame -> frame that adds reasons and never removes rows."""
