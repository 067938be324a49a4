"""The screen: a Textual application and its widgets.  Step 12, the last of a word's path.

This is the only room that imports Textual.  Begin with `app`, where keys are bound; `widgets/` has one file for each
region.
"""
