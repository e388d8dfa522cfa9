"""Commands that only the project's developers run."""
