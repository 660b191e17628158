"""The tests, which mirror the layout of what they test. A package, so that they can share modules."""
