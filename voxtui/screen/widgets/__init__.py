"""The regions of the screen, one file each, named as users call them.  Step 12."""
