"""What a person types besides the screen, the bench and the doctor: plain text, files, the demo, devices.  Step 12.

This room imports no Textual.  Begin with `plain`.
"""
