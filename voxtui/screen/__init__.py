"""The screen: a Textual application and its widgets.  The last step of a word.

The only room that imports Textual.  Begin with `app`, where keys are bound; `widgets/` has one file for each region.
"""
