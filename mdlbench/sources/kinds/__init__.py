"""The kinds of sources that a suite may ask for: one module each, found by the kind's name.

The module `NAME` holds the class `NameConfig`, a `SourceConfig`. It imports no torch: listing and
validating read suites, too. What computes is named there, and imported when a source is opened.
"""
