"""Answers from a GGUF file, through llama.cpp in the engine process.  Step 8.

Must not import its siblings.  Begin with `engine`; `library` is the only module that touches llama.cpp.
"""
