"""What a person types besides the screen, the bench and the doctor: plain text, files, the demo, devices.

Imports no Textual.  Begin with `plain`.
"""
