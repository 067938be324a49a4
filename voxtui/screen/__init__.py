"""The screen: a Textual application and its widgets.  Step 12, the last of a word's path.

This is the only package that imports Textual.  Begin with `app`; the keys are the table in `widgets.commands`, and
`widgets/` has one file for each region.
"""
