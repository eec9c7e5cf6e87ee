"""Other methods, written from their definitions.

`protocol` says what each can do. They differ in how they code one matrix; `method` takes that to disk and back, with
norms and all else. What counts is the bytes of the folder.
"""
