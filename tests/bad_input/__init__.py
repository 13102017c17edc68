"""Bad input, through the commands as a user meets them: a table of malformed files and options, a test a row.

Every row is either *handled*, as a user would expect, or *refused* with exit status 2 in one line that names the file,
the item and the remedy, before anything is written. The tables are in the modules, by what is malformed: annotations,
images, detections, checkpoints, configurations. `outcome.py` runs a command and holds it to that; `test_readers.py`
feeds each reader of files structures drawn at random, and `python -m tests.fuzz_readers` does so for as long as wanted.
"""
