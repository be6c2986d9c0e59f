"""mmcv's operators on torchvision's kernels or in plain torch.

Every function has the name, the order of arguments and the output buffers of the function in
``mmcv._ext`` that it replaces. Half precision is computed in float32 and rounded once at the end.
"""
