"""The operations as NVIDIA Warp kernels, one file each; Warp is imported with the first of them."""
