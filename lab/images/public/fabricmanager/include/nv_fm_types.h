/* Stand-in of NVIDIA's nv_fm_types.h, for tests: it declares nothing. */
