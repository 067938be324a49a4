"""What both Voxtrals need of a GPU: operations with their kernels, keys and values, captured graphs, sampling.  Step 8.

Imports torch; knows neither model.  Begin with `ops`: it defines what `triton_ops` computes quickly.
"""
