"""A CUDA device that is not there, to test the CUDA path of a machine without one: see `device.py`."""
