"""The readers of files, one format a file, each a function (stream, config) -> parts."""
