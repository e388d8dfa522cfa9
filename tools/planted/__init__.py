"""Plants bugs in the sources, one at a time, and sees which test finds each."""
